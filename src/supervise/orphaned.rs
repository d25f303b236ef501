//! `tenant-init recover`: the supervisor has died, and this process follows it under the same guardian.
//!
//! In order: the app and whatever else the supervisor had started is ended, rclone last, because on fuse the app's last
//! writes go through it; the mount and its barrier are taken away; and if anything on this disk is not stored, another
//! life stores it (`core::orphaned`). The verdict is this process's. Nothing depends on what the supervisor was doing when
//! it died: all that it would know is on the disk and in the process table.
//!
//! On nfs the guard has died with the supervisor, so the app hangs as soon as it touches the mount, and gets less time.
//! What it had written to open files without `fsync` is lost with it.

use std::collections::HashSet;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getppid};
use tokio::time::sleep;

use crate::config::Config;
use crate::core::orphaned::Died;
use crate::core::policy::{Policy, RECOVERY_APP_GRACE, VERDICT_RESERVE};
use crate::core::state::State;
use crate::core::verdict::Cause;
use crate::exit::Exit;
use crate::init;
use crate::mount::{self, Prober, mountinfo};
use crate::supervise::{Keys, Life, Signals, View, finish, identity, live};

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(20);
/// From KILL to going on without the process: it hangs in the kernel.
const UNKILLABLE: Duration = Duration::from_secs(5);
/// The app gets this much of the time; in an ordinary stop there is less to be done after it.
const APP_SHARE: f64 = 0.4;
/// The port of the dead supervisor is free as soon as the kernel has cleared it away.
const PORT_LIMIT: Duration = Duration::from_secs(1);

/// Ends what the supervisor left, stores what is not stored, and returns with the verdict written. `guardian` must be our
/// parent.
pub async fn recover(config: Config, guardian: i32, mut died: Died, watched: impl FnOnce(View)) -> Exit {
    if getppid().as_raw() != guardian {
        let words = "recover is started by the guardian only, when the supervisor has died";
        return finish::before_the_start(&config, Exit::Usage, words);
    }
    let began = Instant::now();
    let mut signals = match Signals::install(&config, died.stops > 0) {
        Ok(signals) => signals,
        Err(error) => return finish::before_the_start(&config, Exit::Bug, &format!("cannot receive signals: {error}")),
    };
    // The guardian has blocked them for us until now.
    let stops = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP]);
    if let Err(error) = stops.thread_unblock() {
        tracing::error!(event = "recover", "stop signals stay blocked: {error}");
    }
    tracing::warn!(event = "recover", "{}: what it left is stored and ended", died.words);
    let config = Arc::new(config);
    let policy = Policy::new(&config, fastrand::u64(..));
    let cache_dir = config
        .mount
        .cache_dir
        .canonicalize()
        .unwrap_or_else(|_| config.mount.cache_dir.clone());
    let grace = grace(&config, &policy);
    tokio::select! {
        () = end_app(guardian, &cache_dir, grace) => {}
        () = hurried(&mut signals, &mut died.stops) => end_app(guardian, &cache_dir, Duration::ZERO).await,
    }
    match mount::clear_leftovers(&config.mount, &Prober::this_program()).await {
        Ok(cleared) => {
            tracing::info!(
                event = "mount_cleared",
                found = cleared.found.join(", "),
                "the mount is taken away"
            );
        }
        // The next steps try the same, and say more.
        Err(error) => tracing::error!(event = "mount_left", "{error}"),
    }
    // A read-only mount has nothing to store: what there is in its cache directory is another one's.
    let needed = !config.mount.is_read_only()
        && (finish::anything_left(&config) || identity::held_a_lease(&config.mount.cache_dir));
    if died.stops >= 2 || !needed {
        let cause = Cause::Died {
            code: died.code,
            words: died.words,
        };
        return finish::at_once(&config, &cause, began.elapsed().as_secs_f64());
    }
    let left = policy.stop_timeout.saturating_sub(began.elapsed()).max(VERDICT_RESERVE);
    let (state, first) = State::orphaned(policy, died, left);
    let listener = listen(&config).await;
    let life = Life {
        config,
        keys: Keys::Configured,
        state,
        first,
        listener,
        signals,
    };
    live(life, watched).await
}

/// How long the app may take to end.
fn grace(config: &Config, policy: &Policy) -> Duration {
    let hangs = mountinfo::resolve(&config.mount.path)
        .and_then(|path| mountinfo::at(&path))
        .is_ok_and(|found| found.iter().any(|entry| entry.fstype.starts_with("nfs")));
    if hangs {
        RECOVERY_APP_GRACE.min(policy.stop_timeout.mul_f64(APP_SHARE))
    } else {
        policy.stop_timeout.mul_f64(APP_SHARE)
    }
}

/// Returns when there were two stop signals, with those that the supervisor got.
async fn hurried(signals: &mut Signals, stops: &mut u32) {
    while *stops < 2 {
        if let crate::core::event::Event::StopSignal(_) = signals.next().await {
            *stops += 1;
        }
    }
}

/// Ends every process below the guardian that is neither a mounter nor we: TERM to each group once, KILL after `grace`.
async fn end_app(guardian: i32, cache_dir: &Path, grace: Duration) {
    let began = Instant::now();
    let mut told = HashSet::new();
    loop {
        let left = groups(guardian, cache_dir);
        if left.is_empty() {
            return;
        }
        let time = began.elapsed();
        if time >= grace + UNKILLABLE {
            tracing::error!(
                event = "app_left",
                "{} process(es) of the app do not end even by SIGKILL",
                left.len()
            );
            return;
        }
        for target in left {
            if time >= grace {
                tell(target, Signal::SIGKILL);
            } else if told.insert(target) {
                tell(target, Signal::SIGTERM);
                // A stopped process could not answer.
                tell(target, Signal::SIGCONT);
            }
        }
        sleep(LOOK).await;
    }
}

/// Groups of what the supervisor left; a process of the guardian's own group stands as its negated pid.
fn groups(guardian: i32, cache_dir: &Path) -> HashSet<i32> {
    let children = init::children_of(guardian).into_iter();
    let group = |pid| getpgid(Some(Pid::from_raw(pid))).map_or(-1, Pid::as_raw);
    let guardians = group(guardian);
    children
        .filter(|&pid| pid != getpid().as_raw() && !mount::is_mounter(pid, cache_dir))
        .filter_map(|pid| match group(pid) {
            // It has gone meanwhile.
            -1 => None,
            group if group == guardians || group == getpgrp().as_raw() || group <= 1 => Some(-pid),
            group => Some(group),
        })
        .collect()
}

fn tell(target: i32, signal: Signal) {
    let told = if target > 0 {
        killpg(Pid::from_raw(target), signal)
    } else {
        kill(Pid::from_raw(-target), signal)
    };
    if let Err(errno) = told
        && errno != Errno::ESRCH
    {
        tracing::warn!(event = "signal_failed", "cannot send {signal} to {target}: {errno}");
    }
}

/// The health port, as soon as it is free. What is stored is worth more than being asked about it.
async fn listen(config: &Config) -> Option<TcpListener> {
    let deadline = Instant::now() + PORT_LIMIT;
    loop {
        match super::listen(config) {
            Ok(listener) => return listener,
            Err(error) if Instant::now() >= deadline => {
                tracing::warn!(
                    event = "health_port",
                    "nobody can be told how it goes: {}: {error}",
                    config.health.listen
                );
                return None;
            }
            Err(_) => sleep(LOOK).await,
        }
    }
}
