//! The guardian: PID 1 of the container, or the subreaper of its tree where something else is PID 1 (on Fly, Fly's own init).
//!
//! One thread, no runtime, no handlers: it blocks every signal, starts one child exactly as it was started itself, and then sleeps
//! in one system call until a signal arrives. SIGCHLD: reap until nothing is left to reap. Anything else: pass it on. It never
//! wakes up for nothing, and allocates nothing while it waits. When the child is gone it ends what the child left behind
//! and exits with the child's code.
//!
//! | | `exec -- CMD` ([`exec`]) | `run` ([`guard_supervisor`]) |
//! |---|---|---|
//! | session | one of its own; on a terminal a process group in ours | one of its own |
//! | signals go to | the process group of CMD (with a value, by sigqueue(3): to CMD) | the supervisor alone; it stops its own children in order |
//! | not passed on | SIGCHLD | SIGCHLD, SIGTSTP, SIGTTIN, SIGTTOU: a suspended supervisor would freeze the mount |
//! | terminal | goes to CMD if it was ours, so CMD can be a shell | stays with us: Ctrl-C reaches the supervisor exactly once |
//! | second stop signal | SIGTERM: SIGKILL after 3 s | TERM, INT or QUIT: SIGKILL after 10 s |
//! | CMD dies, others are left | SIGTERM, 3 s, SIGKILL | the same; after a bug or a kill `recover` first, which stores what it left |
//! | our own death | CMD goes on | the supervisor gets SIGTERM |
//!
//! `stop` explains the second stop signal, `terminal` job control, `aftermath` what happens to processes that are left.
//! [`launch`] is the other end: what the supervisor's children become before they are executed.
//!
//! This module is the only one with `unsafe` code, and `inherited`, `signals`, `spawn`, `terminal`, `memory`,
//! `orphans` and `launch` are the only files.

mod aftermath;
mod guard;
mod inherited;
pub mod launch;
mod memory;
mod orphans;
mod say;
mod session;
mod signals;
mod spawn;
mod stop;
mod terminal;
mod tree;

use std::ffi::{OsStr, OsString};

pub use guard::Recovery;
pub use inherited::ignores_hangups;
pub use orphans::orphans_reaped;
pub use tree::children_of;

use stop::Mode;

/// What Rust exits with after a panic in the main thread, and the supervisor after one in any task. The guardian then gives
/// the verdict that the supervisor could not, and exits with 70.
pub const PANIC: u8 = 101;

/// Takes over the process before anything else runs, if the command line asks for the guardian or the launcher: no parser and
/// no runtime is started in them. Call it first in `main`, and exit with the code it returns.
///
/// Handles `exec [--] CMD [ARGS…]`, and for our own use `guard -- CMD [ARGS…]` and `launch [OPTIONS] -- CMD [ARGS…]`. Any
/// other command line, help and mistakes included, gives `None` and is left to the real parser. In `supervise` it takes over
/// what the guardian left for [`orphans_reaped`].
#[must_use]
pub fn early() -> Option<u8> {
    let mut args = std::env::args_os().skip(1);
    let subcommand = args.next()?;
    match subcommand.to_str()? {
        "exec" => memory::exit(exec(&command(args.collect())?)),
        "guard" => memory::exit(guard_supervisor(&command(args.collect())?, None)),
        "launch" => Some(launch::main(args)),
        "supervise" | "recover" => {
            orphans::adopt();
            // The guardian starts us as /proc/self/exe; without this, `ps` and `top` would call us "exe". Only cosmetic.
            let _ = nix::sys::prctl::set_name(c"tenant-init");
            None
        }
        _ => None,
    }
}

/// The command in `[--] CMD [ARGS…]`; `None` when there is none, or when an option comes first.
fn command(mut args: Vec<OsString>) -> Option<Vec<OsString>> {
    let first = args.first()?;
    if first == "--" {
        args.remove(0);
    } else if first.as_encoded_bytes().starts_with(b"-") {
        return None;
    }
    (!args.is_empty()).then_some(args)
}

/// Runs `command` as the one child, as a plain init would, and returns when everything is over: with the code of the child,
/// 128 + n when signal n killed it, 127 when it was not found, 126 when it could not be executed. Never panics.
#[must_use]
pub fn exec(command: &[OsString]) -> u8 {
    guard::guard(Mode::Exec, command, None)
}

/// Runs the supervisor (`/proc/self/exe supervise …`) as the one child and returns when everything is over: with its code; 128 + n
/// when signal n killed it; 70 when it panicked. Does not return while it has left processes behind that can be ended.
///
/// A supervisor that has died is followed by `recovery`, which ends what it left in order, and whose code counts then.
#[must_use]
pub fn guard_supervisor(command: &[OsString], recovery: Option<Recovery>) -> u8 {
    guard::guard(Mode::Supervisor, command, recovery)
}

/// Whether `path` is this program itself, whatever it is installed as.
fn is_ourselves(path: &OsStr) -> bool {
    path == "/proc/self/exe"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Option<Vec<OsString>> {
        command(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn a_command_may_follow_with_or_without_dashes() {
        assert_eq!(
            parse(&["--", "sh", "-c", "x"]),
            Some(vec!["sh".into(), "-c".into(), "x".into()])
        );
        assert_eq!(
            parse(&["sh", "--", "-c"]),
            Some(vec!["sh".into(), "--".into(), "-c".into()])
        );
        assert_eq!(parse(&["--", "--help"]), Some(vec!["--help".into()]));
    }

    #[test]
    fn help_and_mistakes_are_left_to_the_real_parser() {
        for args in [&[][..], &["--help"], &["-h"], &["--"], &["--verbose", "sh"]] {
            assert_eq!(parse(args), None, "{args:?}");
        }
    }
}
