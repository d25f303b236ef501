//! The exit codes of tenant-init, in one place (design contract, section 7; numbers from sysexits.h where one fits).

use std::process::ExitCode;

/// Why the process ends. Every path out of `main` goes through this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: stopped as asked and everything is stored.
    Stored,
    /// 64: wrong command line.
    Usage,
    /// 69: bucket or database unreachable at start, or an outage past its limit.
    Unavailable,
    /// 70: a bug in tenant-init.
    Bug,
    /// 71: this machine cannot do it (no NFS and no FUSE, a missing capability, mountpoint busy, port taken, disk full).
    Machine,
    /// 74: stopped with data not stored. Wins over every other reason: it is the one that must not be missed.
    NotStored,
    /// 75: a restart budget is used up.
    Budget,
    /// 77: credentials rejected, tenant mismatch, or another machine holds the lease.
    Refused,
    /// 78: the configuration is wrong (also: a bucket that does not exist, a cache directory that cannot be made).
    Config,
    /// The app ended by itself and is not to be restarted: its own code (128 + signal when killed).
    App(u8),
}

impl Exit {
    /// The number the parent process sees.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Exit::Stored => 0,
            Exit::Usage => 64,
            Exit::Unavailable => 69,
            Exit::Bug => 70,
            Exit::Machine => 71,
            Exit::NotStored => 74,
            Exit::Budget => 75,
            Exit::Refused => 77,
            Exit::Config => 78,
            Exit::App(code) => code,
        }
    }

    /// The exit of a process that ended with `code`.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        [
            Exit::Stored,
            Exit::Usage,
            Exit::Unavailable,
            Exit::Bug,
            Exit::Machine,
            Exit::NotStored,
            Exit::Budget,
            Exit::Refused,
            Exit::Config,
        ]
        .into_iter()
        .find(|exit| exit.code() == code)
        .unwrap_or(Exit::App(code))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}
