//! When the one child is gone: what becomes of the processes it left behind, and what we say and return.
//!
//! Other inits exit at once, so as PID 1 the kernel kills the rest in the middle of whatever it does, and elsewhere the rest runs on
//! unattended. Here everyone is asked first: SIGTERM to every process left (each group once), a bounded wait, reaping as they end;
//! then SIGKILL, which as PID 1 the kernel does for us as we exit. Nothing is left, so nothing is waited for: the
//! usual case costs no time. A stop signal during the wait ends it.
//!
//! If it was the supervisor that died without a verdict (a panic, a kill, out of memory), `recover` follows it as our child: it knows
//! about tenants, ends the app, stores what is not stored, clears the mount, and gives the verdict. If that dies too, or there is none,
//! we give a verdict in its place: nobody knows what was stored.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use super::guard::{Ended, Guardian, Recovery};
use super::stop::{Mode, UNKILLABLE};
use super::tree::{Tree, children};
use super::{PANIC, say, signals};
use crate::exit::Exit;

/// What processes that are left get to end by themselves.
const GRACE: Duration = Duration::from_secs(3);
/// The same after the supervisor has died: they are services in the middle of their work.
const SERVICE_GRACE: Duration = Duration::from_secs(5);

/// Ends what is left and returns the exit code.
pub(super) fn finish(guardian: &mut Guardian, ended: Ended) -> u8 {
    match (guardian.mode, ended) {
        (Mode::Supervisor, Ended::Killed(_) | Ended::Stuck | Ended::Exited(PANIC)) => supervisor_died(guardian, ended),
        _ => {
            clear(guardian, ended, GRACE);
            ended.code()
        }
    }
}

fn supervisor_died(guardian: &mut Guardian, ended: Ended) -> u8 {
    let code = if ended == Ended::Exited(PANIC) {
        Exit::Bug.code()
    } else {
        ended.code()
    };
    let recovery = guardian.recovery.take().filter(|_| ended != Ended::Stuck);
    let follows = match recovery {
        Some(_) => "storing what it left",
        None => "ending every process it left",
    };
    match ended {
        Ended::Killed(signal) => say::stderr(format_args!(
            "the supervisor was killed by signal {signal}{}; {follows}",
            if signal == libc::SIGKILL {
                " (perhaps out of memory: see the kernel log)"
            } else {
                ""
            }
        )),
        Ended::Exited(_) => say::stderr(format_args!(
            "the supervisor panicked, which is a bug in tenant-init; {follows}"
        )),
        Ended::Stuck => {}
    }
    if let Some(recovery) = recovery
        && let Some(recovered) = recover(guardian, recovery, ended, code)
    {
        return recovered;
    }
    clear(guardian, ended, SERVICE_GRACE);
    say::stderr(format_args!(
        "what the app wrote and the bucket does not have yet is in the cache directory: start again with the same one to store it"
    ));
    say::stdout(format_args!(
        "{{\"event\":\"verdict\",\"exit_code\":{code},\"stored\":false,\"uploads_pending\":null,\"index_pending\":null,\
         \"seconds\":{:.3},\"reason\":\"the supervisor died\"}}",
        guardian.clock().as_secs_f64()
    ));
    code
}

/// Lets `recover` do what the supervisor cannot do any more. `None` when it died as well.
fn recover(guardian: &mut Guardian, recovery: Recovery, died: Ended, code: u8) -> Option<u8> {
    let words = match died {
        Ended::Killed(signal) => format!("the supervisor was killed by signal {signal}"),
        _ => "the supervisor panicked, which is a bug in tenant-init".to_owned(),
    };
    let told = [
        format!("--guardian={}", nix::unistd::getpid()),
        format!("--code={code}"),
        format!("--stops={}", guardian.stop.asked()),
        format!("--died={words}"),
    ];
    guardian.stop.child_ended(guardian.clock());
    let mut command = recovery.before;
    command.extend(told.map(OsString::from));
    command.extend(recovery.after);
    match guardian.replace_child(&command)? {
        Ended::Exited(code) if code != PANIC => {
            clear(guardian, Ended::Exited(code), GRACE);
            Some(code)
        }
        ended => {
            say::stderr(format_args!(
                "the recovery died as well ({ended:?}); ending every process that is left"
            ));
            None
        }
    }
}

/// Ends every process that is left, within `grace` plus a little.
fn clear(guardian: &mut Guardian, ended: Ended, grace: Duration) {
    if ended == Ended::Stuck {
        let pid = guardian.child;
        say::stderr(format_args!(
            "pid {pid} does not end even by SIGKILL: it hangs in the kernel, often on a mount whose server is gone \
             (see /proc/{pid}/stack); leaving without it"
        ));
        Tree::kill();
        return;
    }
    let mut tree = Tree::default();
    let asked = wait_until_empty(guardian, grace, || tree.ask());
    if asked == Left::Nothing {
        return;
    }
    report(asked, grace);
    if !guardian.pid1 {
        wait_until_empty(guardian, UNKILLABLE, Tree::kill);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    /// Someone asked us to hurry.
    Hurried,
    TooSlow,
}

/// Repeats `push` whenever something changed, until no process is left, a stop signal comes or the time is over.
fn wait_until_empty(guardian: &mut Guardian, limit: Duration, mut push: impl FnMut()) -> Left {
    let deadline = guardian.clock() + limit;
    loop {
        if let (_, false) = guardian.reap() {
            return Left::Nothing;
        }
        push();
        let now = guardian.clock();
        if now >= deadline {
            return Left::TooSlow;
        }
        if let Some(signal) = signals::wait(Some(deadline - now))
            && matches!(signal.number(), libc::SIGTERM | libc::SIGINT | libc::SIGQUIT)
        {
            return Left::Hurried;
        }
    }
}

/// Names what is about to be killed: whoever wonders why a stop took so long finds it here.
fn report(why: Left, grace: Duration) {
    let left = children();
    let names: Vec<String> = left
        .iter()
        .take(5)
        .map(|pid| {
            format!(
                "{} (pid {pid})",
                fs::read_to_string(format!("/proc/{pid}/comm"))
                    .unwrap_or_default()
                    .trim_end()
            )
        })
        .collect();
    let (names, more) = (names.join(", "), if left.len() > 5 { ", …" } else { "" });
    match why {
        Left::TooSlow => {
            say::stderr(format_args!(
                "killing what did not end within {} s of SIGTERM: {names}{more}",
                grace.as_secs()
            ));
        }
        _ => say::stderr(format_args!("killing what still runs, as asked: {names}{more}")),
    }
}
