//! A child process of the supervisor: its own process group, its own environment, its lines in our log.
//!
//! Every child goes through `tenant-init launch` (`init::launch`), which sets user, limits and signal state before it
//! becomes the command. Ending means the whole group: `write_note` returns before the file is written, and a grandchild
//! may be the one that writes it.

pub mod lines;
pub mod oom;

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// What to run and how.
#[derive(Debug, Clone)]
pub struct Spec {
    /// The name its lines carry in our log.
    pub name: &'static str,
    /// Program and arguments; the program is looked up in the child's PATH.
    pub command: Vec<OsString>,
    /// The whole environment of the child. Nothing is inherited.
    pub environment: Vec<(OsString, OsString)>,
    /// User to run as when we are root.
    pub user: Option<String>,
    /// Higher dies first when memory runs out (proc_pid_oom_score_adj(5)): app before mounter before us.
    pub oom_score_adj: i32,
    /// Working directory; `None`: `/`.
    pub directory: Option<PathBuf>,
    /// Its stdin is a pipe of ours; otherwise it is empty.
    pub stdin: bool,
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code, or 128 + signal.
    pub code: u8,
    /// "exit code 3", "killed by SIGKILL".
    pub words: String,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Ended {
                code: u8::try_from(code).unwrap_or(255),
                words: format!("exit code {code}"),
            },
            (None, Some(number)) => {
                let name = Signal::try_from(number).map_or_else(|_| format!("signal {number}"), |s| s.to_string());
                Ended {
                    code: u8::try_from(128 + number).unwrap_or(255),
                    words: format!("killed by {name}"),
                }
            }
            (None, None) => Ended {
                code: 255,
                words: format!("{status}"),
            },
        }
    }
}

/// The process group of a child: what signals are sent to and what must be empty in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group(Pid);

impl Group {
    /// Signals every process of the group; a group that is gone already is fine.
    pub fn signal(self, signal: Signal) {
        if let Err(error) = killpg(self.0, signal)
            && error != Errno::ESRCH
        {
            tracing::warn!(
                event = "signal_failed",
                "cannot send {signal} to process group {}: {error}",
                self.0
            );
        }
    }

    /// Waits until no process of the group is left. Orphans of it are reaped by the guardian.
    pub async fn empty(self) {
        let mut pause = Duration::from_millis(2);
        while killpg(self.0, None) != Err(Errno::ESRCH) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// Starts the child. Its stdout and stderr become lines in our log.
///
/// # Errors
/// When the process cannot be created. A command that does not exist shows as exit code 127 of the child, as in a shell.
pub fn spawn(spec: &Spec) -> io::Result<(Child, Group)> {
    let mut command = Command::new("/proc/self/exe");
    command
        .arg("launch")
        .arg("--oom-score-adj")
        .arg(spec.oom_score_adj.to_string());
    command.args(["--no-new-privs", "--no-core", "--own-output"]);
    if let Some(user) = &spec.user {
        command.arg("--user").arg(user);
    }
    // Not by `current_dir`, see `launch`.
    if let Some(directory) = &spec.directory {
        command.arg("--directory").arg(directory);
    }
    command
        .arg("--")
        .args(&spec.command)
        .env_clear()
        .envs(spec.environment.iter().map(|(k, v)| (k, v)))
        .current_dir("/")
        .process_group(0)
        .stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .ok_or_else(|| io::Error::other("the child has no pid"))?;
    if let Some(out) = child.stdout.take() {
        tokio::spawn(lines::log(spec.name, out));
    }
    if let Some(err) = child.stderr.take() {
        tokio::spawn(lines::log(spec.name, err));
    }
    Ok((child, Group(Pid::from_raw(pid))))
}

/// Variables that say nothing about a tenant and that programs expect: passed to every child when they are set.
pub const HARMLESS: [&str; 9] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NO_COLOR",
];

/// The harmless variables of our own environment.
#[must_use]
pub fn harmless_environment() -> Vec<(OsString, OsString)> {
    HARMLESS
        .iter()
        .filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)))
        .collect()
}
