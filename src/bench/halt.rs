//! Why a run ends before its end.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::exit::Exit;

/// Ends the run; what was made is removed all the same.
#[derive(Debug, thiserror::Error)]
pub(super) enum Halt {
    /// Somebody wants us to stop.
    #[error("stopped by {0}")]
    Stopped(Signal),
    /// A file operation failed. Nothing measured after that would mean anything.
    #[error("{what}: {}", explain(.error))]
    File {
        /// What was done, and where.
        what: String,
        /// Why it failed.
        error: io::Error,
    },
    /// The run cannot begin.
    #[error("{words}")]
    Refused {
        /// Why, and what to do.
        words: String,
        /// The exit code that says so.
        exit: Exit,
    },
}

impl Halt {
    pub(super) fn file(what: impl Into<String>, error: io::Error) -> Halt {
        Halt::File {
            what: what.into(),
            error,
        }
    }

    pub(super) fn refused(exit: Exit, words: impl Into<String>) -> Halt {
        Halt::Refused {
            words: words.into(),
            exit,
        }
    }

    pub(super) fn exit(&self) -> Exit {
        match self {
            Halt::Stopped(signal) => Exit::App(u8::try_from(128 + *signal as i32).unwrap_or(u8::MAX)),
            Halt::File { error, .. } => match errno(error) {
                Some(Errno::EIO | Errno::ESTALE | Errno::ETIMEDOUT | Errno::ENOTCONN) => Exit::Unavailable,
                _ => Exit::Machine,
            },
            Halt::Refused { exit, .. } => *exit,
        }
    }
}

fn errno(error: &io::Error) -> Option<Errno> {
    error.raw_os_error().map(Errno::from_raw)
}

/// The system's words and what to do about them.
fn explain(error: &io::Error) -> String {
    let advice = match errno(error) {
        Some(Errno::ENOSPC | Errno::EDQUOT) => {
            "the disk is full, or the tenant takes no more writes (`tenant-init status` says why)"
        }
        Some(Errno::EROFS) => "it is read-only (`tenant-init status` says why)",
        Some(Errno::EACCES | Errno::EPERM) => "run it as root, or as the user of the app",
        Some(Errno::EIO | Errno::ESTALE | Errno::ETIMEDOUT | Errno::ENOTCONN) => {
            "the mount or its bucket does not work (`tenant-init status` says why)"
        }
        _ => return error.to_string(),
    };
    format!("{error}: {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_tell_whose_fault_it_is() {
        let file = |errno: Errno| Halt::file("create", io::Error::from(errno));
        assert_eq!(file(Errno::ENOSPC).exit(), Exit::Machine);
        assert_eq!(file(Errno::EIO).exit(), Exit::Unavailable);
        assert_eq!(Halt::Stopped(Signal::SIGINT).exit().code(), 130);
        assert!(file(Errno::ENOSPC).to_string().contains("the disk is full"));
    }
}
