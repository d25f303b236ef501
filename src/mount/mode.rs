//! Read-only and writable again, while the mount is in use.
//!
//! On NFS the guard refuses what modifies, at once. On FUSE rclone cannot be told; the kernel can: a bind remount changes
//! the flags of this one mount and never asks rclone (mount(2), "Remounting an existing mount"). It is refused with EBUSY
//! while a file is open for writing, and needs CAP_SYS_ADMIN.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::guard::ReadOnlyReason;
use super::mountinfo;
use super::probe::{Failure, Kind};
use super::prober::ProbeError;
use super::session::Session;

/// A remount takes microseconds.
const LIMIT: Duration = Duration::from_secs(5);

impl Session {
    /// Refuses whatever changes the mount from now on, or no longer. Doing it twice is fine.
    ///
    /// # Errors
    /// On FUSE, in words: a file is open for writing, or we may not remount.
    pub async fn set_read_only(&self, read_only: bool) -> Result<(), String> {
        if let Some(guard) = self.guard() {
            guard.set_read_only(read_only.then_some(ReadOnlyReason::CacheFull));
            return Ok(());
        }
        let kind = if read_only { Kind::ReadOnly } else { Kind::Writable };
        match self.0.prober.run(kind, &self.0.path, LIMIT).await {
            Ok(_) => Ok(()),
            Err(ProbeError::Failed { errno: Some(errno), .. }) if errno == Errno::EBUSY as i32 => {
                Err("a file is open for writing (EBUSY)".to_owned())
            }
            Err(ProbeError::Failed { errno: Some(errno), .. }) if errno == Errno::EPERM as i32 => {
                Err("this needs CAP_SYS_ADMIN (EPERM)".to_owned())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Runs in a probe process.
pub(super) fn remount(path: &Path, read_only: bool) -> Result<(), Failure> {
    let entries = mountinfo::at(path).map_err(|error| Failure::io("mountinfo", &error))?;
    let Some(top) = entries.last().filter(|top| top.kind() == mountinfo::Kind::Tenant) else {
        return Err(Failure::system("mountinfo", Errno::ENOENT));
    };
    let mut flags = flags(&top.options) | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(None::<&str>, path, None::<&str>, flags, None::<&str>).map_err(|errno| Failure::system("remount", errno))
}

/// A bind remount sets all flags of the mount anew, so those that it has must be said again.
fn flags(options: &str) -> MsFlags {
    let known = [
        ("nosuid", MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC),
        ("noatime", MsFlags::MS_NOATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME),
        ("relatime", MsFlags::MS_RELATIME),
    ];
    let mut flags = MsFlags::empty();
    for option in options.split(',') {
        if let Some((_, flag)) = known.iter().find(|(name, _)| *name == option) {
            flags |= *flag;
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remount_keeps_the_flags_of_the_mount() {
        let all = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RELATIME;
        assert_eq!(flags("rw,nosuid,nodev,relatime"), all);
        assert_eq!(flags("ro"), MsFlags::empty());
    }

    #[test]
    fn what_is_no_mount_of_ours_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let failure = remount(dir.path(), true).unwrap_err();
        assert_eq!((failure.step, failure.errno), ("mountinfo", Some(Errno::ENOENT)));
    }
}
