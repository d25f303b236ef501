//! Mountpoint and directories: can they be made and written, are they on the right kind of disk, is there room?
//!
//! Nothing is created to find out: the nearest directory that exists is asked with faccessat(2). The mountpoint is looked
//! up in the mount table first and not touched when something is mounted there: a mount whose server is gone holds
//! whoever looks at it.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::statfs::{
    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType, NFS_SUPER_MAGIC, PROC_SUPER_MAGIC, SYSFS_MAGIC,
    TMPFS_MAGIC, statfs,
};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, faccessat};

use super::{Finding, local};
use crate::app::command;
use crate::config::Config;
use crate::exit::Exit;
use crate::mount::mountinfo::{self, Kind};

const MOUNTPOINT: &str = "mountpoint";
const CACHE: &str = "cache directory";
const SPACE: &str = "cache space";
const RUN: &str = "run directory";
const APP: &str = "app directory";

/// Mountpoint, cache, its space, run directory and app directory, in this order. `tenant_runs`: a tenant-init answers
/// on our health port, so a mount of ours is a living one.
pub(super) async fn check(config: &Config, tenant_runs: bool) -> Vec<Finding> {
    let mount = config.mount.clone();
    let shown = |path: &Path| path.display().to_string();
    let basic_memory = command::is_basic_memory(config);
    let (path, cache, space_of) = (mount.path.clone(), mount.cache_dir.clone(), mount.cache_dir.clone());
    let (on, run) = (mount.path.clone(), mount.run_dir.clone());
    let (app, app_on) = (config.app.config_dir.clone(), mount.path.clone());
    let (mountpoint, cache, space, run, app) = tokio::join!(
        local(MOUNTPOINT, shown(&mount.path), move || mountpoint(&path, tenant_runs)),
        local(CACHE, shown(&mount.cache_dir), move || cache_dir(&cache, &on)),
        local(SPACE, shown(&mount.cache_dir), move || space(
            &space_of,
            mount.cache_min_free_bytes
        )),
        local(RUN, shown(&mount.run_dir), move || run_dir(&run)),
        local(APP, shown(&config.app.config_dir), move || match basic_memory {
            true => app_dir(&app, &app_on),
            false => Finding::skipped(APP, "only basic-memory has one"),
        }),
    );
    vec![mountpoint, cache, space, run, app]
}

fn mountpoint(path: &Path, tenant_runs: bool) -> Finding {
    let shown = path.display();
    let mounts = match mountinfo::resolve(path).and_then(|path| mountinfo::at(&path)) {
        Ok(mounts) => mounts,
        // A parent is missing, so nothing can be mounted there.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let advice = "set mount.path to a directory that can be made or mounted on";
            return Finding::failed(
                MOUNTPOINT,
                Exit::Config,
                format!("{shown} cannot be looked up: {error}"),
                advice,
            );
        }
    };
    if let Some(foreign) = mounts.iter().find(|entry| entry.kind() == Kind::Foreign) {
        return Finding::failed(
            MOUNTPOINT,
            Exit::Machine,
            format!(
                "{shown} is busy: {} from {} is mounted there",
                foreign.fstype, foreign.source
            ),
            "unmount it, or set another mount.path",
        );
    }
    match (mounts.is_empty(), tenant_runs) {
        (true, _) => bare_mountpoint(path),
        (false, true) => Finding::ok(
            MOUNTPOINT,
            format!("{shown}, mounted by the tenant-init that runs here"),
        ),
        (false, false) => Finding::ok(
            MOUNTPOINT,
            format!("{shown}, with a mount of an earlier life that a start clears"),
        ),
    }
}

fn bare_mountpoint(path: &Path) -> Finding {
    let shown = path.display();
    let names = match std::fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .take(4)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let advice = "set mount.path to a directory, or remove what is in its place";
            return Finding::failed(
                MOUNTPOINT,
                Exit::Config,
                format!("{shown} cannot be used: {error}"),
                advice,
            );
        }
    };
    if !names.is_empty() {
        return Finding::failed(
            MOUNTPOINT,
            Exit::Machine,
            format!(
                "{shown} is not empty ({}…): the mount would hide these files, and nothing stores them",
                names.join(", ")
            ),
            "move them away (into the bucket, if they belong to the tenant), or set another mount.path",
        );
    }
    // Mounting on a directory writes nothing into it: it may lie on a read-only root.
    if path.is_dir() {
        return Finding::ok(MOUNTPOINT, format!("{shown}, empty"));
    }
    match writable(path) {
        Ok(Place::Exists) => Finding::ok(MOUNTPOINT, format!("{shown}, empty")),
        Ok(Place::Below(parent)) => Finding::ok(MOUNTPOINT, format!("{shown}, to be made in {}", parent.display())),
        Err(why) => {
            let advice = "set mount.path to a directory that can be made or mounted on";
            Finding::failed(
                MOUNTPOINT,
                Exit::Config,
                format!("{shown} cannot be made: {why}"),
                advice,
            )
        }
    }
}

fn cache_dir(path: &Path, mount: &Path) -> Finding {
    const ADVICE: &str = "set mount.cache_dir to a directory on a local disk that tenant-init may write to";
    let shown = path.display();
    if path.starts_with(mount) {
        let detail = format!(
            "{shown} lies on the mount {}: the cache would cache itself",
            mount.display()
        );
        return Finding::failed(CACHE, Exit::Config, detail, ADVICE);
    }
    let (place, kind) = match writable(path).and_then(|place| Ok((place, filesystem(path)?))) {
        Ok(found) => found,
        Err(why) => return Finding::failed(CACHE, Exit::Config, format!("{shown} cannot be used: {why}"), ADVICE),
    };
    match kind {
        Disk::Local => Finding::ok(CACHE, place.describe(path)),
        Disk::Memory => Finding::warning(
            CACHE,
            format!(
                "{shown} is in memory (tmpfs): writes that are not uploaded yet are lost with this machine's memory"
            ),
            "put mount.cache_dir on a disk",
        ),
        Disk::Network => Finding::warning(
            CACHE,
            format!("{shown} is on a network file system: a cut network then stops reads of the cache too"),
            ADVICE,
        ),
    }
}

/// rclone drops uploaded files from its cache to keep the disk free, so what is in the cache counts as room.
fn space(path: &Path, wanted: u64) -> Finding {
    let shown = path.display();
    let ancestor = nearest(path);
    let disk = match statvfs(&ancestor) {
        Ok(disk) => disk,
        Err(error) => return Finding::skipped(SPACE, format!("{} cannot be asked: {error}", ancestor.display())),
    };
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    const ADVICE: &str = "free some space, use a larger disk, or lower mount.cache_min_free_bytes";
    if disk.files() > 0 && disk.files_available() == 0 {
        let detail = format!("the disk under {shown} has no free inodes: no new file can be made");
        return Finding::failed(
            SPACE,
            Exit::Machine,
            detail,
            "remove files that are not needed, or use another disk",
        );
    }
    if free >= wanted {
        return Finding::ok(SPACE, format!("{} free under {shown}", bytes(free)));
    }
    let cached = used(path);
    let detail = format!(
        "the disk under {shown} is full: {} free, {} wanted",
        bytes(free),
        bytes(wanted)
    );
    if free.saturating_add(cached) < wanted {
        Finding::failed(SPACE, Exit::Machine, detail, ADVICE)
    } else {
        Finding::warning(
            SPACE,
            format!("{detail}; {} of the cache may be dropped for it", bytes(cached)),
            ADVICE,
        )
    }
}

fn run_dir(path: &Path) -> Finding {
    let shown = path.display();
    match writable(path).and_then(|place| Ok((place, filesystem(path)?))) {
        Err(why) => Finding::failed(
            RUN,
            Exit::Config,
            format!("{shown} cannot be used: {why}"),
            "set mount.run_dir to a directory that tenant-init may write to, best on tmpfs",
        ),
        Ok((place, Disk::Memory)) => Finding::ok(RUN, format!("{}, in memory", place.describe(path))),
        Ok((_, Disk::Local | Disk::Network)) => Finding::warning(
            RUN,
            format!("{shown} is on a disk: rclone's configuration with the tenant's key is written there"),
            "put mount.run_dir on a tmpfs (docker run --tmpfs /run), so that the key never reaches a disk",
        ),
    }
}

fn app_dir(path: &Path, mount: &Path) -> Finding {
    const ADVICE: &str = "set app.config_dir to a directory on a local disk that tenant-init may write to";
    let shown = path.display();
    if path.starts_with(mount) {
        let detail = format!(
            "{shown} lies on the mount {}: SQLite does not work over a network",
            mount.display()
        );
        return Finding::failed(APP, Exit::Config, detail, ADVICE);
    }
    match writable(path) {
        Ok(place) => Finding::ok(APP, place.describe(path)),
        Err(why) => Finding::failed(APP, Exit::Config, format!("{shown} cannot be used: {why}"), ADVICE),
    }
}

/// Where a directory is, or would be.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Exists,
    Below(PathBuf),
}

impl Place {
    fn describe(&self, path: &Path) -> String {
        match self {
            Place::Exists => path.display().to_string(),
            Place::Below(parent) => format!("{}, to be made in {}", path.display(), parent.display()),
        }
    }
}

/// Can we write into this directory, or make it? Asks for the effective user, as the later calls will be judged.
fn writable(path: &Path) -> Result<Place, String> {
    let ancestor = nearest(path);
    let shown = ancestor.display();
    match std::fs::metadata(&ancestor) {
        Ok(meta) if !meta.is_dir() => return Err(format!("{shown} is not a directory")),
        Ok(_) => {}
        Err(error) => return Err(format!("{shown}: {error}")),
    }
    // Root may write anywhere by its capabilities, only not into file systems that hold no files.
    let kind = statfs(&ancestor)
        .map_err(|error| format!("{shown}: {error}"))?
        .filesystem_type();
    if [PROC_SUPER_MAGIC, SYSFS_MAGIC, CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC].contains(&kind) {
        return Err(format!("{shown} belongs to the kernel and holds no files"));
    }
    faccessat(
        nix::fcntl::AT_FDCWD,
        &ancestor,
        AccessFlags::W_OK | AccessFlags::X_OK,
        AtFlags::AT_EACCESS,
    )
    .map_err(|error| format!("no right to write in {shown}: {}", error.desc()))?;
    Ok(if ancestor == path {
        Place::Exists
    } else {
        Place::Below(ancestor)
    })
}

/// The path itself, or the nearest directory above it that exists.
fn nearest(path: &Path) -> PathBuf {
    path.ancestors()
        .find(|path| std::fs::symlink_metadata(path).is_ok())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disk {
    Local,
    Memory,
    Network,
}

fn filesystem(path: &Path) -> Result<Disk, String> {
    let ancestor = nearest(path);
    let kind = statfs(&ancestor)
        .map_err(|error| format!("{}: {error}", ancestor.display()))?
        .filesystem_type();
    const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
    Ok(match kind {
        TMPFS_MAGIC | RAMFS_MAGIC => Disk::Memory,
        NFS_SUPER_MAGIC | FUSE_SUPER_MAGIC => Disk::Network,
        _ => Disk::Local,
    })
}

/// Bytes on disk of all files below, as far as the first 100,000 of them go.
fn used(path: &Path) -> u64 {
    let mut total: u64 = 0;
    let mut open = vec![path.to_owned()];
    let mut left = 100_000;
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten().take(left) {
            left -= 1;
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                // stat(2) counts blocks of 512 bytes.
                Ok(meta) => total = total.saturating_add(meta.blocks().saturating_mul(512)),
                Err(_) => {}
            }
        }
    }
    total
}

/// `12.3 GiB`.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} bytes")
    } else {
        format!("{value:.1} {}", UNITS.get(unit).unwrap_or(&""))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_directory_is_asked_for_without_being_made() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        assert_eq!(writable(dir.path()).unwrap(), Place::Exists);
        assert_eq!(writable(&deep).unwrap(), Place::Below(dir.path().to_owned()));
        assert!(!dir.path().join("a").exists());
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_78_and_says_why() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, words) in [
            (file.join("cache"), "is not a directory"),
            (PathBuf::from("/proc/cache"), "belongs to the kernel"),
            (PathBuf::from("/sys/fs/cache/deep"), "belongs to the kernel"),
        ] {
            let finding = cache_dir(&path, Path::new("/data"));
            assert_eq!(finding.outcome, Outcome::Failed(Exit::Config), "{finding:?}");
            assert!(finding.detail.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn nothing_of_ours_may_lie_on_the_mount() {
        let mount = Path::new("/data");
        for finding in [
            cache_dir(Path::new("/data/cache"), mount),
            app_dir(Path::new("/data/.app"), mount),
        ] {
            assert_eq!(finding.outcome, Outcome::Failed(Exit::Config), "{finding:?}");
        }
        assert_ne!(
            cache_dir(Path::new("/data-cache"), mount).outcome,
            Outcome::Failed(Exit::Config)
        );
    }

    #[test]
    fn a_mountpoint_is_empty_absent_or_a_failure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        assert_eq!(mountpoint(&path, false).outcome, Outcome::Ok);
        std::fs::create_dir(&path).unwrap();
        assert_eq!(mountpoint(&path, false).outcome, Outcome::Ok);
        std::fs::write(path.join("note.md"), "").unwrap();
        let full = mountpoint(&path, false);
        assert_eq!(full.outcome, Outcome::Failed(Exit::Machine));
        assert!(full.detail.contains("note.md"), "{full:?}");
        let file = mountpoint(&path.join("note.md"), false);
        assert_eq!(file.outcome, Outcome::Failed(Exit::Config), "{file:?}");
        let busy = mountpoint(Path::new("/proc"), false);
        assert_eq!(busy.outcome, Outcome::Failed(Exit::Machine));
        assert!(busy.detail.contains("proc from proc is mounted there"), "{busy:?}");
    }

    #[test]
    fn room_in_the_cache_counts_as_room() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(space(dir.path(), 1).outcome, Outcome::Ok);
        assert_eq!(space(&dir.path().join("not/made"), 1).outcome, Outcome::Ok);
        assert_eq!(space(dir.path(), u64::MAX).outcome, Outcome::Failed(Exit::Machine));
        std::fs::create_dir(dir.path().join("vfs")).unwrap();
        std::fs::write(dir.path().join("vfs/file"), vec![1; 64 * 1024]).unwrap();
        assert!(used(dir.path()) >= 64 * 1024);
    }

    #[test]
    fn sizes_are_told_in_the_unit_that_fits() {
        assert_eq!(bytes(0), "0 bytes");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(10 << 30), "10.0 GiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
