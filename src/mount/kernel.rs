//! Which driver this machine can mount with: ask the kernel, decide by a pure function, and say why in one sentence.
//!
//! NFS needs a client in the kernel, `mount.nfs` and CAP_SYS_ADMIN in the first user namespace (NFS has no FS_USERNS_MOUNT).
//! FUSE needs /dev/fuse and either CAP_SYS_ADMIN or a set-uid `fusermount3` that could get it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::error::MountError;
use crate::config::DriverChoice;
use crate::core::event::Driver;

/// What this machine offers for mounting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// /proc/filesystems lists `nfs`.
    pub nfs: bool,
    /// `mount.nfs` is installed.
    pub mount_nfs: bool,
    /// /dev/fuse opens for reading and writing.
    pub dev_fuse: bool,
    /// `fusermount3` (or `fusermount`) is installed.
    pub fusermount: bool,
    /// It is set-uid root.
    pub fusermount_setuid: bool,
    /// CAP_SYS_ADMIN is in our effective set.
    pub admin: bool,
    /// CAP_SYS_ADMIN is in our bounding set: a set-uid program may still get it.
    pub admin_bounding: bool,
    /// We are in the first user namespace.
    pub first_user_namespace: bool,
}

/// Number of CAP_SYS_ADMIN (linux/capability.h).
const CAP_SYS_ADMIN: u32 = 21;

impl Kernel {
    /// Asks this machine. Tries to load the NFS client's modules when it is absent and we may; takes a few milliseconds.
    #[must_use]
    pub fn read() -> Kernel {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let admin = has_capability(&status, "CapEff", CAP_SYS_ADMIN);
        let mut nfs = lists_nfs(&fs::read_to_string("/proc/filesystems").unwrap_or_default());
        if !nfs && admin {
            // A kernel with modules loads `nfs` only when somebody asks. Without modprobe or module this fails at once.
            let mut modprobe = Command::new("modprobe");
            modprobe
                .args(["-q", "nfsv3"])
                // Our environment holds the tenant's keys.
                .env_clear()
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            nfs = modprobe.status().is_ok_and(|status| status.success())
                && lists_nfs(&fs::read_to_string("/proc/filesystems").unwrap_or_default());
        }
        let fusermount = find("fusermount3").or_else(|| find("fusermount"));
        let setuid = |path: &PathBuf| fs::metadata(path).is_ok_and(|meta| meta.permissions().mode() & 0o4000 != 0);
        Kernel {
            nfs,
            mount_nfs: find("mount.nfs").is_some(),
            dev_fuse: fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
            fusermount_setuid: fusermount.as_ref().is_some_and(setuid),
            fusermount: fusermount.is_some(),
            admin,
            admin_bounding: has_capability(&status, "CapBnd", CAP_SYS_ADMIN),
            first_user_namespace: is_first_user_namespace(
                &fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
            ),
        }
    }

    /// Why NFS cannot work here, or `None` when it can.
    fn without_nfs(&self) -> Option<&'static str> {
        if !self.admin {
            Some("NFS needs CAP_SYS_ADMIN")
        } else if !self.first_user_namespace {
            Some("NFS cannot be mounted inside a user namespace")
        } else if !self.nfs {
            Some("the kernel has no NFS client")
        } else if !self.mount_nfs {
            Some("mount.nfs is not installed (package nfs-common)")
        } else {
            None
        }
    }

    /// Why FUSE cannot work here, or `None` when it can.
    fn without_fuse(&self) -> Option<&'static str> {
        if !self.fusermount {
            Some("fusermount3 is not installed (package fuse3)")
        } else if !self.dev_fuse {
            Some("/dev/fuse cannot be opened")
        } else if !(self.admin || self.fusermount_setuid && self.admin_bounding) {
            Some("FUSE needs CAP_SYS_ADMIN or a set-uid fusermount3")
        } else {
            None
        }
    }
}

/// Picks the driver and says why in one sentence. Pure. `local`: on somebody's computer the other users are other people, and whoever
/// can reach rclone's NFS port there can read everything; with FUSE the kernel lets nobody else in.
///
/// # Errors
/// When the driver asked for, or any at all, cannot work on this machine; the message names what is missing.
pub fn choose(choice: DriverChoice, kernel: &Kernel, local: bool) -> Result<(Driver, String), MountError> {
    let missing = |driver: Driver, why: &str| MountError::DriverMissing {
        driver: driver.name(),
        why: why.to_owned(),
    };
    match (choice, kernel.without_nfs(), kernel.without_fuse()) {
        (DriverChoice::Auto, _, None) if local => Ok((Driver::Fuse, "fuse, because no other user gets in".to_owned())),
        (DriverChoice::Auto, None, Some(fuse)) if local => Ok((Driver::Nfs, format!("nfs, because {fuse}"))),
        (DriverChoice::Auto, None, _) => Ok((Driver::Nfs, "nfs, because the kernel has an NFS client".to_owned())),
        (DriverChoice::Auto, Some(nfs), None) => Ok((Driver::Fuse, format!("fuse, because {nfs}"))),
        (DriverChoice::Auto, Some(nfs), Some(fuse)) => Err(MountError::NoDriver {
            nfs: nfs.to_owned(),
            fuse: fuse.to_owned(),
        }),
        (DriverChoice::Nfs, None, _) => Ok((Driver::Nfs, "nfs, as configured".to_owned())),
        (DriverChoice::Nfs, Some(why), _) => Err(missing(Driver::Nfs, why)),
        (DriverChoice::Fuse, _, None) => Ok((Driver::Fuse, "fuse, as configured".to_owned())),
        (DriverChoice::Fuse, _, Some(why)) => Err(missing(Driver::Fuse, why)),
    }
}

/// Looks a program up in PATH and in the system directories that `mount(8)` uses whatever PATH says.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let executable =
        |file: &PathBuf| fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&path)
        .chain(system.iter().map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(Path::new(program)))
        .find(executable)
}

fn lists_nfs(filesystems: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some("nfs"))
}

fn has_capability(status: &str, set: &str, number: u32) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix(set)?.strip_prefix(':'))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits & (1 << number) != 0)
}

/// The first namespace maps all of the 32-bit user ids to themselves (user_namespaces(7)).
fn is_first_user_namespace(uid_map: &str) -> bool {
    let mut fields = uid_map.split_whitespace();
    [fields.next(), fields.next(), fields.next()] == [Some("0"), Some("0"), Some("4294967295")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(choice: DriverChoice, kernel: &Kernel) -> Result<(Driver, String), MountError> {
        super::choose(choice, kernel, false)
    }

    const EVERYTHING: Kernel = Kernel {
        nfs: true,
        mount_nfs: true,
        dev_fuse: true,
        fusermount: true,
        fusermount_setuid: true,
        admin: true,
        admin_bounding: true,
        first_user_namespace: true,
    };

    #[test]
    fn auto_prefers_nfs_and_says_why_it_took_fuse() {
        assert_eq!(choose(DriverChoice::Auto, &EVERYTHING).unwrap().0, Driver::Nfs);
        let (driver, why) = choose(
            DriverChoice::Auto,
            &Kernel {
                nfs: false,
                ..EVERYTHING
            },
        )
        .unwrap();
        assert_eq!(
            (driver, why.as_str()),
            (Driver::Fuse, "fuse, because the kernel has no NFS client")
        );
        let (driver, why) = choose(
            DriverChoice::Auto,
            &Kernel {
                mount_nfs: false,
                ..EVERYTHING
            },
        )
        .unwrap();
        assert!(driver == Driver::Fuse && why.contains("nfs-common"), "{why}");
        let in_namespace = Kernel {
            first_user_namespace: false,
            ..EVERYTHING
        };
        assert_eq!(choose(DriverChoice::Auto, &in_namespace).unwrap().0, Driver::Fuse);
    }

    #[test]
    fn a_local_mount_prefers_fuse() {
        let pick = |kernel: &Kernel| super::choose(DriverChoice::Auto, kernel, true);
        assert_eq!(pick(&EVERYTHING).unwrap().0, Driver::Fuse);
        let without_fuse = Kernel {
            dev_fuse: false,
            ..EVERYTHING
        };
        let (driver, why) = pick(&without_fuse).unwrap();
        assert_eq!(
            (driver, why.as_str()),
            (Driver::Nfs, "nfs, because /dev/fuse cannot be opened")
        );
        let nothing = Kernel {
            nfs: false,
            ..without_fuse
        };
        assert_eq!(pick(&nothing).unwrap_err().exit().code(), 71);
        assert_eq!(
            super::choose(DriverChoice::Nfs, &EVERYTHING, true).unwrap().0,
            Driver::Nfs
        );
    }

    #[test]
    fn without_either_the_message_names_both_reasons_and_the_exit_code_is_71() {
        let nothing = Kernel {
            nfs: false,
            dev_fuse: false,
            ..EVERYTHING
        };
        let error = choose(DriverChoice::Auto, &nothing).unwrap_err();
        let words = error.to_string();
        assert!(
            words.contains("no NFS client") && words.contains("/dev/fuse cannot be opened"),
            "{words}"
        );
        assert_eq!(error.exit().code(), 71);
    }

    #[test]
    fn without_the_capability_only_a_set_uid_helper_helps() {
        let user = Kernel {
            admin: false,
            ..EVERYTHING
        };
        assert_eq!(choose(DriverChoice::Auto, &user).unwrap().0, Driver::Fuse);
        let jailed = Kernel {
            admin_bounding: false,
            ..user
        };
        let words = choose(DriverChoice::Auto, &jailed).unwrap_err().to_string();
        assert!(words.contains("CAP_SYS_ADMIN"), "{words}");
    }

    #[test]
    fn a_driver_asked_for_is_never_replaced() {
        let error = choose(
            DriverChoice::Nfs,
            &Kernel {
                nfs: false,
                ..EVERYTHING
            },
        )
        .unwrap_err();
        assert!(error.to_string().contains("mount.driver is nfs"), "{error}");
        assert_eq!(choose(DriverChoice::Fuse, &EVERYTHING).unwrap().0, Driver::Fuse);
        assert!(
            choose(
                DriverChoice::Fuse,
                &Kernel {
                    fusermount: false,
                    ..EVERYTHING
                }
            )
            .is_err()
        );
    }

    #[test]
    fn proc_files_are_read_as_documented() {
        assert!(lists_nfs("nodev\tsysfs\nnodev\tnfs\n\text4\n"));
        assert!(!lists_nfs("nodev\tnfsd\nnodev\tnfs4\n"));
        let status = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t0000000000200000\nCapBnd:\t00000000a80425fb\n";
        assert!(has_capability(status, "CapEff", CAP_SYS_ADMIN));
        assert!(!has_capability(status, "CapBnd", CAP_SYS_ADMIN));
        assert!(is_first_user_namespace("         0          0 4294967295\n"));
        assert!(!is_first_user_namespace("         0     100000      65536\n"));
    }
}
