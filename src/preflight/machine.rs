//! Kernel, driver and capabilities: what this machine can do for a mount.

use std::time::Instant;

use super::Finding;
use crate::config::Config;
use crate::exit::Exit;

use crate::mount::{Driver, Kernel, MountError, kernel};

const KERNEL: &str = "kernel";
const DRIVER: &str = "mount driver";
const CAPABILITIES: &str = "capabilities";

const GRANT: &str = "give the container what is missing: docker run --cap-add SYS_ADMIN --device /dev/fuse \
                     --security-opt apparmor=unconfined";

/// The same for somebody's own computer.
const INSTALL: &str = "install the package fuse3 (as an ordinary user), or run as root with the package nfs-common";

/// What the other checks need to know, and the findings.
pub(super) struct Machine {
    /// The driver a start would take; `None` when there is none.
    pub(super) driver: Option<Driver>,
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn look(config: &Config) -> Machine {
    let started = Instant::now();
    let kernel = tokio::task::spawn_blocking(Kernel::read).await;
    let Ok(kernel) = kernel else {
        let broke = Finding::failed(
            DRIVER,
            Exit::Bug,
            "the kernel could not be asked",
            "report this as a bug of tenant-init",
        );
        return Machine {
            driver: None,
            findings: vec![broke],
        };
    };
    let chosen = kernel::choose(config.mount.driver, &kernel, config.mount.local.is_some());
    let driver = chosen.as_ref().ok().map(|(driver, _)| *driver);
    let runs_app = config.mount.local.is_none();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let findings = vec![
        version(&release.unwrap_or_default(), driver),
        driver_finding(chosen, if runs_app { GRANT } else { INSTALL }),
        capabilities(
            &kernel,
            driver,
            effective(&status),
            runs_app && nix::unistd::geteuid().is_root(),
        ),
    ];
    Machine {
        driver,
        findings: findings.into_iter().map(|finding| finding.since(started)).collect(),
    }
}

/// Says whether a plain `rclone nfsmount` would empty files on this kernel: seen on 6.12 and 7.2, not on 6.1; between
/// them nobody looked. The guard prevents it on each, so this is never more than news.
fn version(release: &str, driver: Option<Driver>) -> Finding {
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Finding::warning(
            KERNEL,
            format!("version {release:?} is not understood"),
            "tell us what kernel this is",
        );
    };
    let nfs = if driver != Some(Driver::Nfs) {
        ""
    } else if (major, minor) <= (6, 1) {
        ", which asks before it creates; guarded all the same"
    } else if (major, minor) < (6, 12) {
        ", which may truncate files through rclone's NFS server; guarded"
    } else {
        ", which truncates files through rclone's NFS server; guarded"
    };
    Finding::ok(KERNEL, format!("Linux {release}{nfs}"))
}

fn driver_finding(chosen: Result<(Driver, String), MountError>, grant: &str) -> Finding {
    match chosen {
        Ok((_, why)) => Finding::ok(DRIVER, why),
        Err(MountError::NoDriver { nfs, fuse }) => Finding::failed(
            DRIVER,
            Exit::Machine,
            format!("this machine can mount neither way: {nfs}; {fuse}"),
            grant,
        ),
        Err(MountError::DriverMissing { driver, why }) => Finding::failed(
            DRIVER,
            Exit::Machine,
            format!("mount.driver is {driver}, but {why}"),
            format!("set mount.driver = \"auto\", or {grant}"),
        ),
        Err(other) => Finding::failed(DRIVER, other.exit(), other.to_string(), grant),
    }
}

/// Capabilities that root needs besides CAP_SYS_ADMIN (capabilities(7)): to become the app's user, to signal it, and to
/// give it its directory.
const AS_ROOT: &[(u32, &str)] = &[(0, "CAP_CHOWN"), (5, "CAP_KILL"), (6, "CAP_SETGID"), (7, "CAP_SETUID")];

fn capabilities(kernel: &Kernel, driver: Option<Driver>, effective: u64, root: bool) -> Finding {
    let missing: Vec<&str> = AS_ROOT
        .iter()
        .filter(|(number, _)| root && effective & (1 << number) == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        let advice = format!(
            "add them (docker run --cap-add {}), or run tenant-init as the app's user",
            missing.join(" --cap-add ")
        );
        let detail = format!(
            "{} missing: the app cannot be started and stopped as its own user",
            missing.join(", ")
        );
        return Finding::failed(CAPABILITIES, Exit::Machine, detail, advice.replace("CAP_", ""));
    }
    match (kernel.admin, driver) {
        (true, _) => Finding::ok(
            CAPABILITIES,
            "CAP_SYS_ADMIN, and what it takes to run the app as its own user",
        ),
        (false, Some(_)) => Finding::ok(CAPABILITIES, "no CAP_SYS_ADMIN; the set-uid fusermount3 mounts for us"),
        (false, None) => Finding::failed(
            CAPABILITIES,
            Exit::Machine,
            "CAP_SYS_ADMIN is missing: mounting needs it",
            GRANT,
        ),
    }
}

fn effective(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    const NOTHING: Kernel = Kernel {
        nfs: false,
        mount_nfs: false,
        dev_fuse: false,
        fusermount: false,
        fusermount_setuid: false,
        admin: false,
        admin_bounding: false,
        first_user_namespace: true,
    };

    #[test]
    fn the_kernels_that_truncate_are_named_only_where_nfs_is_used() {
        let detail = |release| version(release, Some(Driver::Nfs)).detail;
        assert!(
            detail("6.1.0-56-amd64").contains("asks before"),
            "{}",
            detail("6.1.0-56-amd64")
        );
        assert!(detail("6.8.4").contains("may truncate"));
        assert!(detail("6.12.107").contains("which truncates"));
        assert!(detail("7.2.7").contains("which truncates"));
        assert_eq!(version("7.2.7", Some(Driver::Fuse)).detail, "Linux 7.2.7");
        assert_eq!(version("odd", None).outcome, Outcome::Warning);
    }

    #[test]
    fn no_driver_and_no_capability_are_71_with_advice() {
        let choice = crate::config::DriverChoice::Auto;
        let finding = driver_finding(kernel::choose(choice, &NOTHING, false), GRANT);
        assert_eq!(finding.outcome, Outcome::Failed(Exit::Machine));
        assert!(finding.advice.unwrap().contains("--cap-add SYS_ADMIN"));
        assert_eq!(
            capabilities(&NOTHING, None, u64::MAX, true).outcome,
            Outcome::Failed(Exit::Machine)
        );
        let user = capabilities(&NOTHING, Some(Driver::Fuse), 0, false);
        assert_eq!(user.outcome, Outcome::Ok, "{user:?}");
    }

    #[test]
    fn root_without_the_right_to_change_user_is_told_which_one() {
        let kernel = Kernel { admin: true, ..NOTHING };
        let finding = capabilities(&kernel, Some(Driver::Fuse), !(1 << 7), true);
        assert_eq!(finding.outcome, Outcome::Failed(Exit::Machine));
        assert!(
            finding.detail.contains("CAP_SETUID") && !finding.detail.contains("CAP_SETGID"),
            "{finding:?}"
        );
        assert!(finding.advice.unwrap().contains("--cap-add SETUID"));
    }

    #[test]
    fn the_effective_set_is_read_from_proc() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t00000000a80425fb\nCapBnd:\tff\n"),
            0xa804_25fb
        );
        assert_eq!(effective(""), 0);
    }
}
