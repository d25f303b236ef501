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

use super::stop::Stop;
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
    /// Starts it below `folder` and waits for its first answer.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn start(config: &Config, folder: &Path, stop: &Stop) -> Result<Twin, String> {
        let free = available_mb();
        if free < MEMORY_MB {
            return Err(format!(
                "a second basic-memory needs {MEMORY_MB} MB of memory, {free} MB are available"
            ));
        }
        let port = free_port().map_err(|error| format!("no free port: {error}"))?;
        make_folders(config, folder).map_err(|error| format!("cannot make its folders: {error}"))?;
        let mut spec = command::on_local_disk(config, folder, port);
        spec.oom_score_adj = OOM_SCORE_ADJ;
        let (child, group) = process::spawn(&spec).map_err(|error| format!("cannot start it: {error}"))?;
        stop.own(Some(group));
        let mut twin = Twin { child, group, port };
        let answer = timeout(config.app.start_timeout, ready::answered("127.0.0.1", port));
        let failed = tokio::select! {
            answer = stop.or(answer) => match answer {
                Ok(Ok(())) => return Ok(twin),
                Ok(Err(_elapsed)) => "it does not answer".to_owned(),
                Err(halt) => halt.to_string(),
            },
            ended = twin.child.wait() => match ended {
                Ok(status) => format!("it ended: {}", Ended::from(status).words),
                Err(error) => error.to_string(),
            },
        };
        twin.end(stop).await;
        Err(failed)
    }

    /// Ends it, its whole group.
    pub(super) async fn end(mut self, stop: &Stop) {
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
