//! What this process holds from start to end: the cache directory, and the mountpoint with its barrier.
//!
//! Two mounters on one cache directory lose writes, so two locks guard it. `tenant-init.lock` is ours. `mounter.lock`
//! is handed to each rclone as its standard input: the lock lives exactly as long as that process, also when we are
//! killed and it is not. So a start can tell a living tenant-init (give up) from an orphaned rclone (end it; its unsent
//! writes are on disk).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::barrier::Barrier;
use super::command::RunFiles;
use super::discard::discard;
use super::error::MountError;
use super::mountinfo;
use super::pending;
use super::probe::Kind;
use super::prober::Prober;
use super::unmount::{self, Cleared, Extent};
use crate::config::Mount;

/// How long an orphaned rclone gets after TERM, and again after KILL.
const ORPHAN_LIMIT: Duration = Duration::from_secs(3);

/// Time between two looks at a lock.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The cache directory and the mountpoint, held by this process.
#[derive(Debug)]
pub struct Claim {
    pub(super) path: PathBuf,
    pub(super) cache_dir: PathBuf,
    pub(super) prober: Arc<Prober>,
    pub(super) barrier: Arc<Barrier>,
    cleared: Cleared,
    _lock: File,
}

impl Claim {
    /// Takes both: makes and locks the cache directory, ends an orphaned mounter, clears stale mounts, checks that the
    /// mountpoint is empty and raises the barrier on it. Undone by [`Claim::release`].
    ///
    /// # Errors
    /// See [`MountError`]; nothing is left behind.
    pub async fn take(mount: &Mount, prober: Arc<Prober>) -> Result<Claim, MountError> {
        let (cache_dir, lock) = lock_cache(&mount.cache_dir)?;
        let path = mountpoint(&mount.path)?;
        if !is_free(&mounter_lock_path(&cache_dir), &cache_dir)? {
            end_orphan(&cache_dir, &path, &prober).await?;
        }
        let extent = Extent {
            keep_barrier: false,
            patience: Duration::ZERO,
        };
        let cleared = unmount::clear(&path, &prober, extent).await?;
        if !cleared.found.is_empty() {
            tracing::warn!(path = %path.display(), found = cleared.found.join(", "), "removed mounts an earlier life left");
        }
        check_space(&cache_dir, mount.cache_min_free_bytes)?;
        check_empty(&path)?;
        let barrier = Arc::new(Barrier::raise(&path)?);
        Ok(Claim {
            path,
            cache_dir,
            prober,
            barrier,
            cleared,
            _lock: lock,
        })
    }

    /// The mountpoint as the mount table names it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cache directory, absolute.
    #[must_use]
    pub fn cache_dir(&self) -> &Path {
        &self.cache_dir
    }

    /// What an earlier life had left on the mountpoint.
    #[must_use]
    pub fn cleared(&self) -> &Cleared {
        &self.cleared
    }

    /// Takes whatever is still mounted off the path, the barrier too, and gives the cache directory back.
    ///
    /// # Errors
    /// When a mount would not go.
    pub async fn release(self) -> Result<Cleared, MountError> {
        let extent = Extent {
            keep_barrier: false,
            patience: Duration::from_secs(1),
        };
        let cleared = unmount::clear(&self.path, &self.prober, extent).await?;
        self.barrier.open()?;
        Ok(cleared)
    }

    /// The lock for the next rclone. Waits a moment for the one before it to be gone entirely.
    pub(super) async fn mounter_lock(&self) -> Result<File, MountError> {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            if let Some(file) = try_lock(&mounter_lock_path(&self.cache_dir), &self.cache_dir)? {
                return Ok(file);
            }
            if Instant::now() >= deadline {
                return Err(locked(&self.cache_dir, "the mounter before this one"));
            }
            sleep(LOCK_PAUSE).await;
        }
    }

    /// Leaves the mounter's pid for the next life. Best effort: without it an orphan is only reported.
    pub(super) fn record_mounter(&self, pid: u32) {
        if let Err(error) = fs::write(pid_path(&self.cache_dir), pid.to_string()) {
            tracing::warn!(%error, "the mounter's pid cannot be recorded");
        }
    }
}

fn mounter_lock_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("mounter.lock")
}

fn pid_path(cache_dir: &Path) -> PathBuf {
    cache_dir.join("mounter.pid")
}

fn locked(cache_dir: &Path, holder: &str) -> MountError {
    MountError::CacheLocked {
        path: cache_dir.to_owned(),
        holder: holder.to_owned(),
    }
}

/// Makes the cache directory (0700: it holds the tenant's files) and takes our lock on it.
fn lock_cache(wanted: &Path) -> Result<(PathBuf, File), MountError> {
    let failed = |source: io::Error| MountError::Cache {
        path: wanted.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(wanted)
        .map_err(failed)?;
    let cache_dir = wanted.canonicalize().map_err(failed)?;
    match try_lock(&cache_dir.join("tenant-init.lock"), &cache_dir)? {
        Some(file) => Ok((cache_dir, file)),
        None => Err(locked(&cache_dir, "another tenant-init")),
    }
}

/// Does a living tenant-init use `cache_dir`? (This one too, while it has the claim.)
#[must_use]
pub fn is_in_use(cache_dir: &Path) -> bool {
    matches!(try_lock(&cache_dir.join("tenant-init.lock"), cache_dir), Ok(None))
}

/// Opens and locks; `None` when somebody else has the lock.
fn try_lock(path: &Path, cache_dir: &Path) -> Result<Option<File>, MountError> {
    let failed = |source: io::Error| MountError::Cache {
        path: cache_dir.to_owned(),
        source,
    };
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn is_free(path: &Path, cache_dir: &Path) -> Result<bool, MountError> {
    Ok(try_lock(path, cache_dir)?.is_some())
}

/// What a life before this one left running or mounted is ended and taken away, the barrier too. Its app must be gone.
/// `clear` and what it does not hold on to afterwards: a [`Claim`] can be taken then.
///
/// # Errors
/// See [`MountError`].
pub async fn clear_leftovers(mount: &Mount, prober: &Prober) -> Result<Cleared, MountError> {
    let (cache_dir, _lock) = soon(|| lock_cache(&mount.cache_dir)).await?;
    let path = mountinfo::resolve(&mount.path).map_err(|source| MountError::Path {
        path: mount.path.clone(),
        source,
    })?;
    if !is_free(&mounter_lock_path(&cache_dir), &cache_dir)? {
        end_orphan(&cache_dir, &path, prober).await?;
    }
    let run = RunFiles::below(&mount.run_dir)?;
    for file in [&run.config, &run.socket] {
        // Usually there, and replaced by the next life if it cannot be removed now.
        let _ = fs::remove_file(file);
    }
    let extent = Extent {
        keep_barrier: false,
        patience: Duration::ZERO,
    };
    let cleared = unmount::clear(&path, prober, extent).await?;
    if mount.is_read_only() && mount.has_own_cache() {
        discard(&cache_dir, None).await?;
    }
    Ok(cleared)
}

/// A lock that a process holds which is just going away.
async fn soon<T>(mut take: impl FnMut() -> Result<T, MountError>) -> Result<T, MountError> {
    let deadline = Instant::now() + Duration::from_secs(1);
    loop {
        match take() {
            Err(MountError::CacheLocked { .. }) if Instant::now() < deadline => sleep(LOCK_PAUSE).await,
            done => return done,
        }
    }
}

/// The rclone of a life before this one: the one whose pid it left, else one that is found by its arguments.
fn find_mounter(cache_dir: &Path) -> Option<i32> {
    let recorded = fs::read_to_string(pid_path(cache_dir))
        .ok()
        .and_then(|text| text.trim().parse::<i32>().ok())
        .filter(|&pid| is_mounter(pid, cache_dir));
    recorded.or_else(|| {
        // Killed between the start of rclone and the note of its pid.
        let processes = fs::read_dir("/proc").ok()?;
        processes
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|&pid| is_mounter(pid, cache_dir))
    })
}

/// Ends the rclone of a life before this one, after flushing what the kernel still holds for it.
async fn end_orphan(cache_dir: &Path, path: &Path, prober: &Prober) -> Result<(), MountError> {
    let found = || {
        find_mounter(cache_dir).ok_or_else(|| locked(cache_dir, "an rclone of an earlier life that cannot be found"))
    };
    let pid = soon(found).await?;
    tracing::warn!(
        pid,
        "an rclone of an earlier life still runs: ending it; its unsent files stay in the cache"
    );
    // An NFS mount leads to the guard of that life, which has ended with it: nothing can be flushed.
    let alive = |found: &[mountinfo::Entry]| {
        let served =
            |entry: &mountinfo::Entry| entry.kind() == mountinfo::Kind::Tenant && entry.fstype == "fuse.rclone";
        found.iter().any(served)
    };
    if mountinfo::at(path).is_ok_and(|found| alive(&found)) {
        // Its mount may be dead or stuck: then there is nothing to flush.
        drop(prober.run(Kind::Sync, path, ORPHAN_LIMIT).await);
    }
    let extent = Extent {
        keep_barrier: true,
        patience: Duration::ZERO,
    };
    unmount::clear(path, prober, extent).await?;
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // It may have ended by itself: a FUSE mounter does when its mount goes.
        let _ = kill(Pid::from_raw(pid), signal);
        let deadline = Instant::now() + ORPHAN_LIMIT;
        while Instant::now() < deadline {
            if is_free(&mounter_lock_path(cache_dir), cache_dir)? {
                return Ok(());
            }
            sleep(LOCK_PAUSE).await;
        }
    }
    Err(locked(cache_dir, &format!("process {pid}, which does not end")))
}

/// Is this process an rclone on this cache? Pids are reused, so its arguments must say so.
pub fn is_mounter(pid: i32, cache_dir: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = arguments.split(|&byte| byte == 0).collect();
    words
        .windows(2)
        .any(|pair| pair == [b"--cache-dir".as_slice(), cache_dir.as_os_str().as_bytes()])
}

/// The mountpoint, made if need be, as the mount table names it.
fn mountpoint(wanted: &Path) -> Result<PathBuf, MountError> {
    let failed = |source: io::Error| MountError::Path {
        path: wanted.to_owned(),
        source,
    };
    if let Some(parent) = wanted.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    let path = mountinfo::resolve(wanted).map_err(failed)?;
    // Asking a mounted directory whether it is there could hang; the mount table says it is.
    if mountinfo::at(&path).map_err(failed)?.is_empty() {
        match fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
    }
    Ok(path)
}

/// Nothing is mounted on `path` now. Whatever is in it would be hidden.
fn check_empty(path: &Path) -> Result<(), MountError> {
    let failed = |source: io::Error| MountError::Path {
        path: path.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)?.take(4) {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    if names.is_empty() {
        return Ok(());
    }
    let more = if names.len() > 3 { ", …" } else { "" };
    names.truncate(3);
    Err(MountError::NotEmpty {
        path: path.to_owned(),
        entries: format!("{}{more}", names.join(", ")),
    })
}

/// Room for new writes, counting what rclone may evict. Unsent files of an earlier life are a reason to start anyway:
/// uploading them is what frees their room.
fn check_space(cache_dir: &Path, wanted: u64) -> Result<(), MountError> {
    let failed = |source: io::Error| MountError::Cache {
        path: cache_dir.to_owned(),
        source,
    };
    let disk = nix::sys::statvfs::statvfs(cache_dir).map_err(|errno| failed(errno.into()))?;
    let free = disk.blocks_available() * disk.fragment_size();
    if free >= wanted {
        return Ok(());
    }
    let available = free.saturating_add(pending::cached_bytes(cache_dir));
    if available >= wanted {
        tracing::warn!(
            free,
            wanted,
            "the cache's disk is nearly full: old files are evicted from the cache"
        );
        return Ok(());
    }
    Err(MountError::DiskFull {
        path: cache_dir.to_owned(),
        available,
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_directory_that_cannot_be_made_is_a_configuration_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = lock_cache(&file.join("cache")).unwrap_err();
        assert_eq!(error.exit().code(), 78);
        assert!(error.to_string().contains("mount.cache_dir"), "{error}");
    }

    #[test]
    fn the_cache_belongs_to_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (cache_dir, held) = lock_cache(&dir.path().join("cache")).unwrap();
        assert!(is_in_use(&cache_dir));
        let error = lock_cache(&cache_dir).unwrap_err();
        assert!(
            error.exit().code() == 71 && error.to_string().contains("another tenant-init"),
            "{error}"
        );
        drop(held);
        assert!(!is_in_use(&cache_dir) && !is_in_use(&dir.path().join("absent")));
        assert!(lock_cache(&cache_dir).is_ok());
    }

    #[test]
    fn too_little_room_is_told_with_numbers() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_space(dir.path(), 1).is_ok());
        let error = check_space(dir.path(), u64::MAX).unwrap_err();
        assert!(
            error.exit().code() == 71 && error.to_string().contains("bytes free"),
            "{error}"
        );
    }

    #[test]
    fn a_directory_with_files_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check_empty(dir.path()).is_ok());
        for name in ["a.md", "b.md", "c.md", "d.md"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let words = check_empty(dir.path()).unwrap_err().to_string();
        assert!(words.contains(".md, …"), "{words}");
    }

    #[test]
    fn only_an_rclone_on_this_cache_is_taken_for_our_orphan() {
        let this = i32::try_from(std::process::id()).unwrap();
        assert!(!is_mounter(this, Path::new("/cache")));
        assert!(!is_mounter(i32::MAX, Path::new("/cache")));
    }
}
