//! `tenant-init probe KIND PATH [LIST]`: the child that touches the mount so that nothing else can hang on it.
//!
//! A process that enters a mount whose server is gone sleeps until the server is back; only SIGKILL gets it out. So every
//! look at the mount is made by a process of its own that its parent (`prober`) kills at a deadline. It prints one JSON
//! line and exits: 0 when it could do what it was asked, 1 when the system said no, 64 when it was called wrongly.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use serde::{Deserialize, Serialize};

use super::{mode, selftest};

/// What a probe can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// statvfs: kernel to rclone and back; no bucket and no attribute cache involved.
    Statvfs,
    /// statvfs and the first entries of the directory.
    Look,
    /// syncfs: everything written through the kernel reaches rclone's cache.
    Sync,
    /// umount2 without flags: fails while somebody uses the mount.
    Unmount,
    /// umount2 with MNT_DETACH: never blocks.
    Detach,
    /// The truncation self-test (see `selftest`).
    SelfTest,
    /// Opens each file of a list once (see `adopt`).
    Visit,
    /// A bind remount that makes the mount read-only (see `mode`).
    ReadOnly,
    /// The same, writable again.
    Writable,
}

impl Kind {
    /// How many kinds there are.
    pub(super) const COUNT: usize = 9;

    const ALL: [(Kind, &'static str); Kind::COUNT] = [
        (Kind::Statvfs, "statvfs"),
        (Kind::Look, "look"),
        (Kind::Sync, "sync"),
        (Kind::Unmount, "unmount"),
        (Kind::Detach, "detach"),
        (Kind::SelfTest, "selftest"),
        (Kind::Visit, "visit"),
        (Kind::ReadOnly, "read-only"),
        (Kind::Writable, "writable"),
    ];

    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        Kind::ALL[self.index()].1
    }

    /// Position in tables by kind.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    fn parse(word: &OsStr) -> Option<Kind> {
        Kind::ALL
            .into_iter()
            .find(|(_, name)| word == *name)
            .map(|(kind, _)| kind)
    }
}

/// The line a probe prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Did all of it work?
    pub ok: bool,
    /// How long it took inside the child.
    pub milliseconds: f64,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub step: Option<String>,
    /// errno of the failure, when the system said no.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub errno: Option<i32>,
    /// The failure in words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// The self-test saw a file lose its content.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub emptied: bool,
}

/// Why a probe's step failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// The step.
    pub step: &'static str,
    /// errno, when there is one.
    pub errno: Option<Errno>,
    /// In words.
    pub error: String,
    /// Content was lost.
    pub emptied: bool,
}

impl Failure {
    /// The system said no.
    pub(super) fn system(step: &'static str, errno: Errno) -> Failure {
        Failure {
            step,
            errno: Some(errno),
            error: errno.desc().to_owned(),
            emptied: false,
        }
    }

    /// The same, from the standard library.
    pub(super) fn io(step: &'static str, error: &std::io::Error) -> Failure {
        let errno = error.raw_os_error().map(Errno::from_raw);
        Failure {
            step,
            errno,
            error: error.to_string(),
            emptied: false,
        }
    }
}

/// Runs a probe with the arguments after `probe`; the result is the process's exit code.
#[must_use]
pub fn main(arguments: &[OsString]) -> u8 {
    let (kind, path, list) = match arguments {
        [kind, path] => (kind, path, None),
        [kind, path, list] => (kind, path, Some(Path::new(list))),
        _ => return usage(),
    };
    let Some(kind) = Kind::parse(kind) else {
        return usage();
    };
    let start = Instant::now();
    let result = run(kind, Path::new(path), list);
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let report = match result {
        Ok(()) => Report {
            ok: true,
            milliseconds,
            step: None,
            errno: None,
            error: None,
            emptied: false,
        },
        Err(failure) => Report {
            ok: false,
            milliseconds,
            step: Some(failure.step.to_owned()),
            errno: failure.errno.map(|errno| errno as i32),
            error: Some(failure.error),
            emptied: failure.emptied,
        },
    };
    let line = serde_json::to_string(&report).unwrap_or_default();
    // Nobody may be reading any more: then the exit code has to do.
    drop(writeln!(std::io::stdout(), "{line}"));
    u8::from(!report.ok)
}

fn usage() -> u8 {
    let words: Vec<&str> = Kind::ALL.iter().map(|(_, name)| *name).collect();
    drop(writeln!(
        std::io::stderr(),
        "usage: tenant-init probe {} PATH [LIST]",
        words.join("|")
    ));
    64
}

fn run(kind: Kind, path: &Path, list: Option<&Path>) -> Result<(), Failure> {
    match kind {
        Kind::Statvfs => statvfs(path),
        Kind::Look => {
            statvfs(path)?;
            let mut entries = std::fs::read_dir(path).map_err(|error| Failure::io("readdir", &error))?;
            entries
                .next()
                .transpose()
                .map_err(|error| Failure::io("readdir", &error))
                .map(drop)
        }
        Kind::Sync => {
            let directory = std::fs::File::open(path).map_err(|error| Failure::io("open", &error))?;
            nix::unistd::syncfs(&directory).map_err(|errno| Failure::system("syncfs", errno))
        }
        Kind::Unmount => unmount(path, false),
        Kind::Detach => unmount(path, true),
        Kind::SelfTest => selftest::run(path),
        Kind::Visit => visit(path, list.unwrap_or(Path::new(""))),
        Kind::ReadOnly => mode::remount(path, true),
        Kind::Writable => mode::remount(path, false),
    }
}

/// Reads the first byte of each file in the JSON list of names below `path` and lengths. An empty one is emptied instead:
/// rclone does not look at it for a read. The list is left with the names of those that are not there.
fn visit(path: &Path, list: &Path) -> Result<(), Failure> {
    let text = std::fs::read(list).map_err(|error| Failure::io("reading the list of files", &error))?;
    let files: Vec<(String, u64)> =
        serde_json::from_slice(&text).map_err(|error| Failure::io("reading the list of files", &error.into()))?;
    let mut missing = Vec::new();
    for (name, length) in files {
        let opened = OpenOptions::new()
            .read(length > 0)
            .write(length == 0)
            .open(path.join(&name));
        let visited = opened.and_then(|mut file| match length {
            0 => file.set_len(0),
            _ => file.read(&mut [0]).map(drop),
        });
        match visited {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
            Err(error) => return Err(Failure::io("opening a file", &error)),
        }
    }
    let text = serde_json::to_vec(&missing).map_err(|error| Failure::io("writing the list of files", &error.into()))?;
    std::fs::write(list, text).map_err(|error| Failure::io("writing the list of files", &error))
}

fn statvfs(path: &Path) -> Result<(), Failure> {
    nix::sys::statvfs::statvfs(path)
        .map(drop)
        .map_err(|errno| Failure::system("statvfs", errno))
}

/// umount2 as root; without the right to, `fusermount3` does it for the owner of a FUSE mount.
fn unmount(path: &Path, detach: bool) -> Result<(), Failure> {
    let flags = if detach {
        MntFlags::MNT_DETACH
    } else {
        MntFlags::empty()
    };
    match umount2(path, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => {
            let program = super::kernel::find("fusermount3").or_else(|| super::kernel::find("fusermount"));
            let Some(program) = program else {
                return Err(Failure::system("umount", Errno::EPERM));
            };
            let output = Command::new(program)
                .arg(if detach { "-uz" } else { "-u" })
                .arg("--")
                .arg(path)
                .stdin(Stdio::null())
                .output()
                .map_err(|error| Failure::io("fusermount", &error))?;
            if output.status.success() {
                return Ok(());
            }
            let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            let busy = words.contains("busy").then_some(Errno::EBUSY);
            Err(Failure {
                step: "fusermount",
                errno: busy,
                error: words,
                emptied: false,
            })
        }
        Err(errno) => Err(Failure::system("umount", errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_their_words_match() {
        for (kind, name) in Kind::ALL {
            assert_eq!(kind.name(), name);
            assert_eq!(Kind::parse(OsStr::new(name)), Some(kind));
        }
        assert_eq!(Kind::parse(OsStr::new("rm")), None);
    }

    #[test]
    fn a_local_directory_passes_every_look() {
        let dir = tempfile::tempdir().unwrap();
        for kind in [Kind::Statvfs, Kind::Look, Kind::Sync, Kind::SelfTest] {
            assert!(run(kind, dir.path(), None).is_ok(), "{kind:?}");
        }
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            0,
            "the self-test cleans up"
        );
        let failure = run(Kind::Look, &dir.path().join("absent"), None).unwrap_err();
        assert_eq!((failure.step, failure.errno), ("statvfs", Some(Errno::ENOENT)));
    }
}
