//! The programs a tenant consists of: are they here, do they run, and are they the versions we know?

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::{Finding, local};
use crate::config::Config;
use crate::exit::Exit;
use crate::mount::{Driver, kernel};
use crate::storage::network::shorten;

const RCLONE: &str = "rclone";
const MOUNT_NFS: &str = "mount.nfs";
const FUSERMOUNT: &str = "fusermount3";
const APP: &str = "app";
const USER: &str = "app user";

/// Debian 12's 1.60 has no `nfsmount`; 1.70 is the oldest whose cache and remote control we know.
const RCLONE_OLDEST: (u32, u32) = (1, 70);
const RCLONE_TESTED: (u32, u32) = (1, 75);
const BASIC_MEMORY_TESTED: &str = "0.24.1";

/// A program that does not say its version in this time does not work.
const VERSION_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn check(config: &Config, driver: Option<Driver>) -> Vec<Finding> {
    let command = config.app.command.clone();
    let mount = config.mount.path.clone();
    let has_app = config.mount.local.is_none();
    let (rclone, helper, app) = tokio::join!(
        rclone(&config.mount.rclone),
        local(MOUNT_NFS, "PATH".into(), move || helper(driver)),
        local(APP, "PATH".into(), move || match has_app {
            true => app(&command, &mount),
            false => Finding::skipped(APP, "a local mount has none"),
        }),
    );
    vec![rclone, helper, app]
}

async fn rclone(configured: &Path) -> Finding {
    let started = Instant::now();
    let shown = configured.display();
    let program = match locate(configured) {
        Ok(program) => program,
        Err(why) => {
            let advice = "install rclone 1.75 (rclone.org/downloads), or point mount.rclone at it";
            return Finding::failed(RCLONE, Exit::Machine, format!("{shown} {why}"), advice).since(started);
        }
    };
    let finding = match version(&program).await {
        Ok(output) => judge_rclone(&output, &program),
        Err(why) => Finding::failed(
            RCLONE,
            Exit::Machine,
            format!("{} {why}", program.display()),
            "run `rclone version` by hand; a binary for another processor, or a broken one, has to be replaced",
        ),
    };
    finding.since(started)
}

/// `rclone version`, with an empty environment: it needs none, and ours may hold secrets.
async fn version(program: &Path) -> Result<String, String> {
    let call = tokio::process::Command::new(program)
        .arg("version")
        .env_clear()
        .env("RCLONE_CONFIG", "/dev/null")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match tokio::time::timeout(VERSION_TIMEOUT, call).await {
        Err(_elapsed) => Err(format!(
            "did not say its version within {} s",
            VERSION_TIMEOUT.as_secs()
        )),
        Ok(Err(error)) => Err(format!("cannot be run ({error})")),
        Ok(Ok(output)) if !output.status.success() => Err(format!(
            "version ended with {} ({})",
            output.status,
            shorten(&String::from_utf8_lossy(&output.stderr))
        )),
        Ok(Ok(output)) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

fn judge_rclone(output: &str, program: &Path) -> Finding {
    let program = program.display();
    // "rclone v1.75.2"
    let said = output.lines().next().and_then(|line| line.strip_prefix("rclone v"));
    let parts = said.and_then(|version| {
        let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        Some((version, (numbers.next()?, numbers.next()?)))
    });
    let Some((version, number)) = parts else {
        let detail = format!("{program} is not rclone: it says {:?}", shorten(output));
        return Finding::failed(RCLONE, Exit::Machine, detail, "point mount.rclone at rclone 1.75");
    };
    if number < RCLONE_OLDEST {
        let detail = format!("{version} at {program} is too old: 1.70 is the oldest that can do what we need");
        Finding::failed(
            RCLONE,
            Exit::Machine,
            detail,
            "install rclone 1.75 (rclone.org/downloads; Debian's is too old)",
        )
    } else if number == RCLONE_TESTED {
        Finding::ok(RCLONE, format!("{version} at {program}"))
    } else {
        let detail = format!("{version} at {program} is a version that tenant-init was not tested with");
        Finding::warning(RCLONE, detail, "use 1.75, or watch the first writes")
    }
}

/// The helper that the driver calls. Which one is missing decided about the driver already: here it is told.
fn helper(driver: Option<Driver>) -> Finding {
    let (name, program, package) = match driver {
        Some(Driver::Nfs) => (MOUNT_NFS, "mount.nfs", "nfs-common"),
        Some(Driver::Fuse) => (FUSERMOUNT, "fusermount3", "fuse3"),
        None => return Finding::skipped("mount helper", "no driver to help"),
    };
    match kernel::find(program) {
        Some(path) => Finding::ok(name, path.display().to_string()),
        None => Finding::warning(
            name,
            format!("{program} is not in PATH; an older one takes its place"),
            format!("install the package {package}"),
        ),
    }
}

/// Existence only: starting basic-memory to ask for its version takes seconds of processor time.
fn app(command: &[String], mount: &Path) -> Finding {
    let Some(program) = command.first() else {
        return basic_memory();
    };
    let path = Path::new(program);
    let relative = path.is_relative() && program.contains('/');
    if relative || path.starts_with(mount) {
        return Finding::skipped(
            APP,
            format!("{program} is one of the tenant's files: seen when they are mounted"),
        );
    }
    let correct = "correct the command after `run --` (or app.command), or install it";
    match locate(path) {
        Ok(path) => Finding::ok(APP, path.display().to_string()),
        Err(why) => Finding::failed(APP, Exit::Config, format!("the command {program} {why}"), correct),
    }
}

fn basic_memory() -> Finding {
    let install = format!("install basic-memory {BASIC_MEMORY_TESTED}, or run another command: tenant-init run -- CMD");
    let path = match locate(Path::new("basic-memory")) {
        Ok(path) => path,
        Err(why) => return Finding::failed(APP, Exit::Machine, format!("basic-memory {why}"), install),
    };
    let shown = path.display();
    match package_version(&path, "basic_memory") {
        Some(version) if version == BASIC_MEMORY_TESTED => {
            Finding::ok(APP, format!("basic-memory {version} at {shown}"))
        }
        Some(version) => Finding::warning(
            APP,
            format!("basic-memory {version} at {shown} is a version that tenant-init was not tested with"),
            format!("use {BASIC_MEMORY_TESTED}, or try a start and a stop first"),
        ),
        None => Finding::ok(
            APP,
            format!("basic-memory at {shown} (its version is not readable from there)"),
        ),
    }
}

/// The version of a Python package from the name of its metadata folder
/// (`…/lib/python3.13/site-packages/basic_memory-0.24.1.dist-info`), without starting Python.
fn package_version(script: &Path, package: &str) -> Option<String> {
    let prefix = script.canonicalize().ok()?.parent()?.parent()?.join("lib");
    let interpreters = std::fs::read_dir(prefix).ok()?.flatten();
    let folders = interpreters.filter_map(|entry| std::fs::read_dir(entry.path().join("site-packages")).ok());
    folders.flatten().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let version = name
            .strip_prefix(package)?
            .strip_prefix('-')?
            .strip_suffix(".dist-info")?;
        Some(version.to_owned())
    })
}

/// A path with a slash as it is, a bare name from PATH.
fn locate(program: &Path) -> Result<PathBuf, String> {
    if program.components().count() < 2 && !program.is_absolute() {
        return kernel::find(&program.to_string_lossy()).ok_or_else(|| "is not in PATH".to_owned());
    }
    match std::fs::metadata(program) {
        Err(error) => Err(format!("cannot be found ({error})")),
        Ok(meta) if !meta.is_file() => Err("is not a file".to_owned()),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => Err("is not executable".to_owned()),
        Ok(_) => Ok(program.to_owned()),
    }
}

/// The user the app will run as.
pub(super) async fn user(config: &Config) -> Finding {
    if config.mount.local.is_some() {
        return Finding::skipped(USER, "a local mount has no app");
    }
    let user = config.app.user.clone();
    local(USER, "the user database".into(), move || {
        judge_user(&user, nix::unistd::geteuid().is_root())
    })
    .await
}

fn judge_user(user: &str, root: bool) -> Finding {
    if !root {
        return Finding::ok(
            USER,
            "our own: tenant-init does not run as root, so the app runs as the same user",
        );
    }
    let found = match user.parse::<u32>() {
        Ok(uid) => nix::unistd::User::from_uid(uid.into()),
        Err(_) => nix::unistd::User::from_name(user),
    };
    match found {
        Ok(Some(found)) if found.uid.is_root() => Finding::warning(
            USER,
            format!("{user} is root: the app can then read every secret of the tenant"),
            "set app.user to an ordinary user",
        ),
        Ok(Some(found)) => Finding::ok(USER, format!("{user} (uid {}, gid {})", found.uid, found.gid)),
        Ok(None) => Finding::failed(
            USER,
            Exit::Config,
            format!("there is no user {user} on this machine"),
            format!("create it (useradd --system {user}), or set app.user"),
        ),
        Err(error) => Finding::failed(
            USER,
            Exit::Machine,
            format!("the user {user} cannot be looked up: {error}"),
            "check /etc/passwd and /etc/nsswitch.conf",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn rclone_is_judged_by_its_version() {
        let outcome = |text: &str| judge_rclone(text, Path::new("/bin/rclone")).outcome;
        assert_eq!(outcome("rclone v1.75.2\n- os/version: debian 12"), Outcome::Ok);
        assert_eq!(outcome("rclone v1.76.0-beta.1"), Outcome::Warning);
        assert_eq!(outcome("rclone v1.70.0"), Outcome::Warning);
        assert_eq!(outcome("rclone v1.60.1-DEV"), Outcome::Failed(Exit::Machine));
        assert_eq!(outcome("rclone v2.0.0"), Outcome::Warning);
        assert_eq!(outcome("BusyBox v1.36"), Outcome::Failed(Exit::Machine));
    }

    #[tokio::test]
    async fn a_program_that_is_absent_broken_or_something_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str, mode: u32| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        for (path, words) in [
            (dir.path().join("absent"), "cannot be found"),
            (script("plain", "#!/bin/sh\n", 0o644), "is not executable"),
            (dir.path().to_owned(), "is not a file"),
            (PathBuf::from("no-such-program-here"), "is not in PATH"),
            (
                script("failing", "#!/bin/sh\necho broken >&2; exit 3\n", 0o755),
                "exit status: 3 (broken)",
            ),
            (script("other", "#!/bin/sh\necho hello\n", 0o755), "is not rclone"),
        ] {
            let finding = rclone(&path).await;
            assert_eq!(finding.outcome, Outcome::Failed(Exit::Machine));
            assert!(finding.detail.contains(words), "{}", finding.detail);
        }
    }

    #[tokio::test]
    async fn the_version_is_asked_without_our_environment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rclone");
        std::fs::write(&path, "#!/bin/sh\necho rclone v1.75.2; /usr/bin/env >\"${0%/*}/env\"\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(rclone(&path).await.outcome, Outcome::Ok);
        let seen = std::fs::read_to_string(dir.path().join("env")).unwrap();
        assert!(
            seen.contains("RCLONE_CONFIG=/dev/null") && !seen.contains("PATH=/") && !seen.contains("CARGO"),
            "{seen}"
        );
    }

    #[test]
    fn the_version_of_a_python_package_is_read_from_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(
            dir.path()
                .join("lib/python3.13/site-packages/basic_memory-0.24.1.dist-info"),
        )
        .unwrap();
        let script = bin.join("basic-memory");
        std::fs::write(&script, "").unwrap();
        assert_eq!(package_version(&script, "basic_memory").as_deref(), Some("0.24.1"));
        assert_eq!(package_version(&script, "fastmcp"), None);
    }

    #[test]
    fn a_command_is_looked_up_unless_it_is_one_of_the_tenants_files() {
        let outcome = |program: &str| app(&[program.to_owned()], Path::new("/data")).outcome;
        assert_eq!(outcome("sh"), Outcome::Ok);
        assert_eq!(outcome("/bin/sh"), Outcome::Ok);
        assert_eq!(outcome("no-such-command"), Outcome::Failed(Exit::Config));
        assert_eq!(outcome("/etc/passwd"), Outcome::Failed(Exit::Config));
        assert_eq!(outcome("./job.sh"), Outcome::Skipped);
        assert_eq!(outcome("/data/job.sh"), Outcome::Skipped);
    }

    #[test]
    fn the_apps_user_has_to_exist_when_we_are_root() {
        assert_eq!(judge_user("nobody", true).outcome, Outcome::Ok);
        assert_eq!(judge_user("root", true).outcome, Outcome::Warning);
        assert_eq!(judge_user("0", true).outcome, Outcome::Warning);
        assert_eq!(judge_user("no-such-user", true).outcome, Outcome::Failed(Exit::Config));
        assert_eq!(judge_user("no-such-user", false).outcome, Outcome::Ok);
    }
}
