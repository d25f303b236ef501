//! Nobody can write into the bare directory under a mount, root included.
//!
//! When the mount goes away (a dead mounter, a detach), a program that goes on writing would fill a local directory: its
//! writes would be acknowledged, hidden by the next mount and stored nowhere. With CAP_SYS_ADMIN a tiny read-only tmpfs
//! lies under the mount, so that such a write gets EROFS. Without it the directory loses its write permission while the
//! mount is up (fusermount3 demands it before), through a descriptor opened beforehand: its path leads to the mount.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, fchmod};

use super::error::MountError;
use super::mountinfo::BARRIER_SOURCE;

/// Keeps one directory unwritable below its mount.
#[derive(Debug)]
pub(super) struct Barrier {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// A read-only file system is mounted on the path.
    ReadOnly,
    /// The directory itself, and the permissions it had.
    Permissions(File, Mode),
}

impl Barrier {
    /// Raises the barrier on an empty directory that nothing is mounted on.
    pub(super) fn raise(path: &Path) -> Result<Barrier, MountError> {
        let failed = |source: std::io::Error| MountError::Barrier {
            path: path.to_owned(),
            source,
        };
        let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let kind = match mount(
            Some(BARRIER_SOURCE),
            path,
            Some("tmpfs"),
            flags,
            Some("size=4k,nr_inodes=2,mode=0555"),
        ) {
            Ok(()) => Kind::ReadOnly,
            Err(Errno::EPERM) => {
                let directory = File::open(path).map_err(failed)?;
                // A life that was killed has left it without write permission.
                let mode = Mode::from_bits_truncate(directory.metadata().map_err(failed)?.mode()) | Mode::S_IRWXU;
                Kind::Permissions(directory, mode)
            }
            Err(errno) => return Err(failed(errno.into())),
        };
        Ok(Barrier {
            path: path.to_owned(),
            kind,
        })
    }

    /// Before a mount: lets fusermount3 in.
    pub(super) fn open(&self) -> Result<(), MountError> {
        match &self.kind {
            Kind::ReadOnly => Ok(()),
            Kind::Permissions(directory, mode) => self.set(directory, *mode),
        }
    }

    /// After a mount: nobody writes below it.
    pub(super) fn close(&self) -> Result<(), MountError> {
        match &self.kind {
            Kind::ReadOnly => Ok(()),
            Kind::Permissions(directory, _) => self.set(directory, Mode::S_IRUSR | Mode::S_IXUSR),
        }
    }

    fn set(&self, directory: &File, mode: Mode) -> Result<(), MountError> {
        fchmod(directory, mode).map_err(|errno| MountError::Barrier {
            path: self.path.clone(),
            source: errno.into(),
        })
    }
}
