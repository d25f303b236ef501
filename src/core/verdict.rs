//! What is said at the end: is everything stored, and with which exit code do we leave.

use serde::{Deserialize, Serialize};

use crate::core::event::Failure;
use crate::exit::Exit;

/// Why the tenant stops.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// Asked to.
    Signal(&'static str),
    /// The app ended by itself and is not restarted.
    AppEnded {
        /// 128 + signal when killed.
        code: u8,
        /// In words.
        words: String,
    },
    /// Something failed for good.
    Failure(Failure),
    /// The supervisor before this one has died.
    Died {
        /// As a shell would report it; 70 for a panic.
        code: u8,
        /// How, and what went wrong since.
        words: String,
    },
}

impl Cause {
    /// One clear sentence.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Cause::Signal(name) => format!("{name} received"),
            Cause::AppEnded { words, .. } => format!("the app ended by itself: {words}"),
            Cause::Failure(failure) => failure.words.clone(),
            Cause::Died { words, .. } => words.clone(),
        }
    }

    fn exit(&self) -> Exit {
        match self {
            Cause::Signal(_) => Exit::Stored,
            Cause::AppEnded { code, .. } => Exit::App(*code),
            Cause::Failure(failure) => failure.exit,
            Cause::Died { code, .. } => Exit::from_code(*code),
        }
    }
}

/// The last line on stdout, and the marker that the next start reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Always `verdict`.
    pub event: String,
    /// The exit code of the process.
    pub exit_code: u8,
    /// Is every acknowledged write in the bucket and in the database?
    pub stored: bool,
    /// Names of the files that are not.
    pub uploads_pending: Vec<String>,
    /// Transactions that are not.
    pub index_pending: u64,
    /// How long the stop took.
    pub seconds: f64,
    /// Why it stopped.
    pub reason: String,
}

/// Decides. `served`: was the tenant's mount ever ready in this life? If not, nothing new was accepted, and what an
/// earlier life left is named but the reason of the failed start stays the exit code. A rejected key keeps 77, so that
/// nobody restarts a machine that must not run; the files it could not store are named all the same.
#[must_use]
pub fn decide(cause: &Cause, served: bool, uploads_pending: Vec<String>, index_pending: u64, seconds: f64) -> Verdict {
    let stored = uploads_pending.is_empty() && index_pending == 0;
    let exit = match cause.exit() {
        exit if stored || exit == Exit::Refused => exit,
        exit if !served && exit != Exit::Stored => exit,
        _ => Exit::NotStored,
    };
    Verdict {
        event: "verdict".into(),
        exit_code: exit.code(),
        stored,
        uploads_pending,
        index_pending,
        seconds: (seconds * 1000.0).round() / 1000.0,
        reason: cause.words(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(exit: Exit) -> Cause {
        Cause::Failure(Failure::new(exit, "words"))
    }

    #[test]
    fn a_requested_stop_is_zero_only_when_everything_is_stored() {
        assert_eq!(decide(&Cause::Signal("SIGTERM"), true, vec![], 0, 0.5).exit_code, 0);
        let verdict = decide(&Cause::Signal("SIGTERM"), true, vec!["a.md".into()], 0, 0.5);
        assert_eq!((verdict.exit_code, verdict.stored), (74, false));
        assert_eq!(decide(&Cause::Signal("SIGTERM"), true, vec![], 3, 0.5).exit_code, 74);
    }

    #[test]
    fn data_not_stored_wins_over_the_apps_code_and_over_a_used_up_budget() {
        let app = Cause::AppEnded {
            code: 3,
            words: "exit code 3".into(),
        };
        assert_eq!(decide(&app, true, vec![], 0, 0.0).exit_code, 3);
        assert_eq!(decide(&app, true, vec!["a".into()], 0, 0.0).exit_code, 74);
        assert_eq!(
            decide(&failed(Exit::Budget), true, vec!["a".into()], 0, 0.0).exit_code,
            74
        );
    }

    #[test]
    fn a_supervisor_that_died_keeps_its_code_only_when_everything_is_stored() {
        let died = Cause::Died {
            code: 137,
            words: "killed by signal 9".into(),
        };
        assert_eq!(decide(&died, true, vec![], 0, 0.0).exit_code, 137);
        assert_eq!(decide(&died, true, vec!["a".into()], 0, 0.0).exit_code, 74);
        assert_eq!(decide(&died, true, vec![], 1, 0.0).exit_code, 74);
    }

    #[test]
    fn a_rejected_key_and_a_failed_start_keep_their_code_but_name_the_files() {
        let verdict = decide(&failed(Exit::Refused), true, vec!["a".into()], 0, 0.0);
        assert_eq!((verdict.exit_code, verdict.stored), (77, false));
        let verdict = decide(&failed(Exit::Unavailable), false, vec!["a".into()], 0, 0.0);
        assert_eq!((verdict.exit_code, verdict.stored), (69, false));
    }
}
