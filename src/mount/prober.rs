//! Runs probe children: one at a time per kind, each with a deadline, killed after it.
//!
//! SIGKILL gets a process out of a hung NFS or FUSE call. If the kernel keeps it all the same, it stays in its slot, and
//! no second one of its kind is started until it is gone: a stuck mount must not fill the process table.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::probe::{Kind, Report};

/// How long a killed probe may take to go before it counts as unkillable.
const REAP: Duration = Duration::from_secs(1);

/// Why a probe gave no success.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProbeError {
    /// It did not come back in time.
    #[error("no answer within {:.1} s", .0.as_secs_f64())]
    Stuck(Duration),
    /// The system said no.
    #[error("{step}: {error}")]
    Failed {
        /// The step that failed.
        step: String,
        /// errno, when there is one.
        errno: Option<i32>,
        /// In words.
        error: String,
        /// The self-test saw content lost.
        emptied: bool,
    },
    /// It could not be run, or died.
    #[error("the probe process failed: {0}")]
    Broken(String),
}

/// Starts probes of one mount.
#[derive(Debug)]
pub struct Prober {
    program: PathBuf,
    slots: [Mutex<Option<Child>>; Kind::COUNT],
}

impl Prober {
    /// Probes are run as `PROGRAM probe KIND PATH`; normally the program is this one.
    #[must_use]
    pub fn new(program: PathBuf) -> Prober {
        Prober {
            program,
            slots: Default::default(),
        }
    }

    /// The same with our own executable, also when it was replaced on disk since.
    #[must_use]
    pub fn this_program() -> Prober {
        Prober::new("/proc/self/exe".into())
    }

    /// Runs one probe; returns how long it took inside the child.
    ///
    /// # Errors
    /// See [`ProbeError`]. A probe of the same kind that is still stuck counts as stuck at once.
    pub async fn run(&self, kind: Kind, path: &Path, limit: Duration) -> Result<Duration, ProbeError> {
        self.run_with(kind, &[path], limit).await
    }

    /// The same for a kind that takes more than the path.
    pub(super) async fn run_with(
        &self,
        kind: Kind,
        arguments: &[&Path],
        limit: Duration,
    ) -> Result<Duration, ProbeError> {
        let start = Instant::now();
        let Some(slot) = self.slots.get(kind.index()) else {
            return Err(ProbeError::Broken("no such probe".to_owned()));
        };
        let mut slot = slot.lock().await;
        if let Some(previous) = slot.as_mut() {
            if !matches!(previous.try_wait(), Ok(Some(_))) {
                return Err(ProbeError::Stuck(start.elapsed()));
            }
            *slot = None;
        }
        let broken = |error: std::io::Error| ProbeError::Broken(error.to_string());
        let mut child = self.command(kind, arguments).spawn().map_err(broken)?;
        let answer = timeout(limit, answer(&mut child)).await;
        match answer {
            Ok(result) => result,
            Err(_elapsed) => {
                if let Some(group) = child.id().and_then(|id| i32::try_from(id).ok()) {
                    // It may have gone in this very moment.
                    let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
                }
                if timeout(REAP, child.wait()).await.is_err() {
                    *slot = Some(child);
                }
                Err(ProbeError::Stuck(start.elapsed()))
            }
        }
    }

    fn command(&self, kind: Kind, arguments: &[&Path]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg0("tenant-init")
            .args(["probe", kind.name()])
            .args(arguments)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

async fn answer(child: &mut Child) -> Result<Duration, ProbeError> {
    let broken = |error: std::io::Error| ProbeError::Broken(error.to_string());
    let mut line = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut line).await.map_err(broken)?;
    }
    let status = child.wait().await.map_err(broken)?;
    let report: Report =
        serde_json::from_slice(&line).map_err(|_| ProbeError::Broken(format!("it said nothing ({status})")))?;
    if report.ok {
        return Ok(Duration::from_secs_f64(report.milliseconds.max(0.0) / 1e3));
    }
    Err(ProbeError::Failed {
        step: report.step.unwrap_or_default(),
        errno: report.errno,
        error: report.error.unwrap_or_default(),
        emptied: report.emptied,
    })
}
