//! How many orphans the guardian reaped, shared with the supervisor for its metrics.
//!
//! One page of shared memory (memfd_create(2)): the guardian adds to a number in it, which costs no system call and cannot block,
//! and the supervisor reads it whenever it is asked. The descriptor's number travels in [`FD_VAR`]; the supervisor
//! maps it, then closes it and drops the variable, first thing in `main`, so that neither reaches its own children.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Environment variable that tells the supervisor the descriptor.
pub(super) const FD_VAR: &str = "TENANT_INIT_GUARDIAN_FD";

/// Size of the shared file. It is also how the reader tells it from a descriptor that is something else by mistake.
const PAGE: usize = 4096;

/// Marks the page as ours: "tenant-i", then the layout's version in the next word.
const MAGIC: u64 = u64::from_be_bytes(*b"tenant-i");

#[repr(C)]
struct Page {
    magic: AtomicU64,
    orphans: AtomicU64,
}

/// The guardian's end.
pub(super) struct Counter {
    page: &'static Page,
    fd: OwnedFd,
}

impl Counter {
    /// A new counter at zero; `None` where shared memory is not to be had, then there is no metric.
    pub(super) fn create() -> Option<Self> {
        // Without MFD_CLOEXEC: the supervisor must inherit it. MFD_NOEXEC_SEAL is required by hardened kernels, unknown to old ones.
        let noexec = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
        let fd = memfd_create("tenant-init-guardian", noexec)
            .or_else(|_| memfd_create("tenant-init-guardian", MFdFlags::empty()))
            .ok()?;
        ftruncate(&fd, PAGE as i64).ok()?;
        let page = map(&fd, libc::PROT_READ | libc::PROT_WRITE)?;
        page.magic.store(MAGIC, Ordering::Relaxed);
        Some(Self { page, fd })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Closes the descriptor; the page stays mapped.
    pub(super) fn shared(self) -> Shared {
        Shared { page: self.page }
    }
}

/// The guardian's end once the supervisor has been started.
pub(super) struct Shared {
    page: &'static Page,
}

impl Shared {
    /// One more orphan.
    pub(super) fn increment(&self) {
        self.page.orphans.fetch_add(1, Ordering::Relaxed);
    }
}

fn map(fd: &OwnedFd, protection: libc::c_int) -> Option<&'static Page> {
    // SAFETY: a new mapping at an address the kernel picks; it replaces nothing.
    let address = unsafe { libc::mmap(ptr::null_mut(), PAGE, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
    // SAFETY: the mapping is page-aligned, a page long, zeroed or written by `Counter`, and never unmapped. All access is atomic.
    (address != libc::MAP_FAILED).then(|| unsafe { &*address.cast::<Page>() })
}

static READER: OnceLock<&'static Page> = OnceLock::new();

/// Takes over the guardian's counter. Call while the process has one thread, before anything reads the environment.
pub(super) fn adopt() {
    let Some(number) = std::env::var(FD_VAR)
        .ok()
        .and_then(|text| text.parse::<RawFd>().ok())
        .filter(|fd| *fd > 2)
    else {
        return;
    };
    // SAFETY: first thing in `main`, so there is no other thread that could read the environment.
    unsafe { std::env::remove_var(FD_VAR) };
    // SAFETY: fcntl(F_GETFD) only reads the descriptor table.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } == -1 {
        return;
    }
    // SAFETY: the descriptor is open, was inherited from the guardian for this use only, and nothing else owns it yet.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    if fstat(&fd).is_ok_and(|stat| stat.st_size == PAGE as i64)
        && let Some(page) = map(&fd, libc::PROT_READ)
        && page.magic.load(Ordering::Relaxed) == MAGIC
    {
        // Only the first call can set it, and there is one call.
        let _ = READER.set(page);
    }
}

/// How many processes the guardian has reaped that were not its own child: orphans of the whole tree, since start.
/// `None` when there is no guardian (`supervise` started by hand) or it could not share memory.
#[must_use]
pub fn orphans_reaped() -> Option<u64> {
    READER.get().map(|page| page.orphans.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guardian_adds_the_supervisor_reads() {
        let counter = Counter::create().unwrap();
        let reader = map(&counter.fd, libc::PROT_READ).unwrap();
        let writer = counter.shared();
        writer.increment();
        writer.increment();
        assert_eq!(reader.orphans.load(Ordering::Relaxed), 2);
        assert_eq!(reader.magic.load(Ordering::Relaxed), MAGIC);
    }
}
