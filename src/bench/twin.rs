//! A second basic-memory, with its notes and its index on local disk: what the tenant's own is compared with. It is the same
//! program with the same settings and is gone before the run ends.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tokio::process::Child;
use tokio::time::timeout;

use super::halt::Halt;
use super::stop::{Later, Stop};
use crate::app::{command, ready};
use crate::config::Config;
use crate::process::{self, Ended, Group};

/// What basic-memory takes with some notes. Without it, memory might run out for the tenant.
const MEMORY_MB: u64 = 400;
/// For its end; it has nothing to save.
const PATIENCE: Duration = Duration::from_secs(10);
/// The first to go when memory runs out all the same.
const OOM_SCORE_ADJ: i32 = 1000;

/// The running one.
pub(super) struct Twin {
    child: Child,
    group: Group,
    /// Where it listens.
    pub(super) port: u16,
}

impl Twin {
    /// Starts it below `folder` and waits for its first answer. The inner error says why there is none.
    pub(super) fn start(config: &Config, folder: &Path, stop: &Stop) -> Result<Result<Twin, String>, Halt> {
        let free = available_mb();
        if free < MEMORY_MB {
            let words = format!("a second basic-memory needs {MEMORY_MB} MB of memory, {free} MB are available");
            return Ok(Err(words));
        }
        let port = match free_port() {
            Ok(port) => port,
            Err(error) => return Ok(Err(format!("no free port: {error}"))),
        };
        if let Err(error) = make_folders(config, folder) {
            return Ok(Err(format!("cannot make its folders: {error}")));
        }
        let mut spec = command::on_local_disk(config, folder, port);
        spec.oom_score_adj = OOM_SCORE_ADJ;
        let spawned = stop.wait(Box::pin(async { process::spawn(&spec) }))?;
        let (child, group) = match spawned {
            Ok(spawned) => spawned,
            Err(error) => return Ok(Err(format!("cannot start it: {error}"))),
        };
        stop.own(Some(group));
        let mut twin = Twin { child, group, port };
        match stop.wait(twin.answer(config.app.start_timeout)) {
            Ok(Ok(())) => Ok(Ok(twin)),
            Ok(Err(words)) => {
                twin.end(stop);
                Ok(Err(words))
            }
            Err(halt) => {
                twin.end(stop);
                Err(halt)
            }
        }
    }

    fn answer(&mut self, bound: Duration) -> Later<'_, Result<(), String>> {
        Box::pin(async move {
            tokio::select! {
                answer = timeout(bound, ready::answered("127.0.0.1", self.port)) => {
                    answer.map_err(|_elapsed| "it does not answer".to_owned())
                }
                ended = self.child.wait() => Err(match ended {
                    Ok(status) => format!("it ended: {}", Ended::from(status).words),
                    Err(error) => error.to_string(),
                }),
            }
        })
    }

    /// Ends it, its whole group.
    pub(super) fn end(mut self, stop: &Stop) {
        let end = async {
            self.group.signal(Signal::SIGTERM);
            let gone = async {
                // Its exit code means nothing to anyone; what counts is that the group is empty.
                let _ = self.child.wait().await;
                self.group.empty().await;
            };
            if timeout(PATIENCE, gone).await.is_err() {
                self.group.signal(Signal::SIGKILL);
                let _ = self.child.wait().await;
            }
        };
        stop.finish(Box::pin(end));
        stop.own(None);
    }
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn make_folders(config: &Config, folder: &Path) -> io::Result<()> {
    let user = if Uid::effective().is_root() {
        let name = &config.app.user;
        let known = match name.parse() {
            Ok(number) => User::from_uid(Uid::from_raw(number)),
            Err(_) => User::from_name(name),
        };
        known?
    } else {
        None
    };
    for folder in [
        folder.to_owned(),
        folder.join("app"),
        folder.join("notes"),
        folder.join("notes/main"),
    ] {
        fs::create_dir(&folder)?;
        if let Some(user) = &user {
            chown(&folder, Some(user.uid.as_raw()), Some(user.gid.as_raw()))?;
        }
    }
    Ok(())
}

/// Memory that a new process can have: of the machine, and of our control group where there is one.
fn available_mb() -> u64 {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let machine = text("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        })
        .map(|kilobytes| kilobytes / 1000);
    let number = |path: &str| text(path).trim().parse::<u64>().ok();
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used) / 1_000_000);
    machine.into_iter().chain(group).min().unwrap_or(u64::MAX)
}
