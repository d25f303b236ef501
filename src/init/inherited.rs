//! What the process was started with: signal dispositions and which of the standard descriptors were closed.
//!
//! Rust's runtime changes both before `main`: it ignores SIGPIPE, installs handlers for SIGSEGV and SIGBUS and opens
//! `/dev/null` for a closed stdin, stdout or stderr. A payload that inherited those would behave differently than without
//! us (`yes | head` would print "Broken pipe"), so they are read earlier, by a function in `.init_array`, which the C
//! library runs before the runtime starts. Only ignored or default has to be known: execve(2) resets handlers.
//!
//! Everything goes through raw system calls, because the C library hides signals 32 and 33 (its own use of them) from
//! sigaction(3); `posix_spawn` even leaves them ignored in the child.
#![allow(unsafe_code)]

use std::ptr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The last signal number on Linux (signal(7)).
pub(super) const LAST_SIGNAL: i32 = 64;

/// Bytes in the kernel's signal set.
pub(super) const SIGSET_BYTES: usize = 8;

/// Bit `n - 1` is set when signal `n` was ignored at our start.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// Bit `n` is set when descriptor `n` (0, 1 or 2) was closed at our start.
static CLOSED: AtomicU8 = AtomicU8::new(0);

#[used]
// SAFETY: an `.init_array` entry is a pointer to a function that takes C arguments and may ignore them; `capture` makes
// system calls and stores to atomics only, so it needs nothing of the runtime that is not set up yet.
#[unsafe(link_section = ".init_array")]
static CAPTURE: extern "C" fn() = capture;

extern "C" fn capture() {
    let mut ignored = 0;
    for signal in 1..=LAST_SIGNAL {
        if disposition(signal) == libc::SIG_IGN {
            ignored |= bit(signal);
        }
    }
    IGNORED.store(ignored, Ordering::Relaxed);
    let mut closed = 0;
    for fd in 0..3 {
        // SAFETY: fcntl(F_GETFD) only reads the descriptor table.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
            closed |= 1 << fd;
        }
    }
    CLOSED.store(closed, Ordering::Relaxed);
}

/// The set that holds only `signal`, as the kernel writes it.
pub(super) const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The kernel's `struct sigaction`. The order of the fields after the first two differs between architectures, which
/// does not matter here: only the handler is read, and the rest is written as zero.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelAction {
    handler: libc::sighandler_t,
    rest: [u64; 4],
}

fn disposition(signal: i32) -> libc::sighandler_t {
    let mut action = KernelAction {
        handler: libc::SIG_DFL,
        rest: [0; 4],
    };
    // SAFETY: the kernel writes one `struct sigaction` (at most 32 bytes) into `action`, which has 40.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            ptr::null::<KernelAction>(),
            &raw mut action,
            SIGSET_BYTES,
        )
    };
    action.handler
}

fn set(signal: i32, handler: libc::sighandler_t) {
    let action = KernelAction { handler, rest: [0; 4] };
    // SAFETY: the kernel reads one `struct sigaction` from `action`; ignored and default need no restorer. For SIGKILL and
    // SIGSTOP it answers EINVAL and changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            &raw const action,
            ptr::null::<KernelAction>(),
            SIGSET_BYTES,
        )
    };
}

/// Sets one signal to its default action.
pub(super) fn set_default(signal: i32) {
    set(signal, libc::SIG_DFL);
}

/// Sets every signal to its default action.
pub(super) fn set_all_default() {
    for signal in 1..=LAST_SIGNAL {
        set(signal, libc::SIG_DFL);
    }
}

/// Was SIGHUP ignored at our start, as `nohup` does it?
#[must_use]
pub fn ignores_hangups() -> bool {
    Inherited::captured().ignored & bit(libc::SIGHUP) != 0
}

/// What a child must get back to be started as we were.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inherited {
    ignored: u64,
    closed: u8,
}

impl Inherited {
    /// What was read before the runtime started.
    pub(super) fn captured() -> Self {
        Self {
            ignored: IGNORED.load(Ordering::Relaxed),
            closed: CLOSED.load(Ordering::Relaxed),
        }
    }

    /// The same, but with the signals of `mask` ignored as well.
    pub(super) fn ignoring(self, mask: u64) -> Self {
        Self {
            ignored: self.ignored | mask,
            ..self
        }
    }

    /// Puts dispositions and closed standard descriptors back. Async-signal-safe: for the child between clone and exec.
    pub(super) fn restore(self) {
        for signal in 1..=LAST_SIGNAL {
            set(
                signal,
                if self.ignored & bit(signal) == 0 {
                    libc::SIG_DFL
                } else {
                    libc::SIG_IGN
                },
            );
        }
        for fd in 0..3 {
            if self.closed & (1 << fd) != 0 {
                // SAFETY: this process is about to exec and owns no Rust object that holds the descriptor.
                unsafe { libc::close(fd) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispositions_of_all_signals_can_be_read_and_set_even_those_the_c_library_hides() {
        for signal in [32, 33, 64] {
            set(signal, libc::SIG_IGN);
            assert_eq!(disposition(signal), libc::SIG_IGN);
            set_default(signal);
            assert_eq!(disposition(signal), libc::SIG_DFL);
        }
    }

    #[test]
    fn the_runtime_ignores_sigpipe_but_it_was_not_inherited_that_way() {
        assert_eq!(disposition(libc::SIGPIPE), libc::SIG_IGN);
        assert_eq!(Inherited::captured().ignored & bit(libc::SIGPIPE), 0);
    }
}
