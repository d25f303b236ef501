//! What the world tells the core.

use std::time::Duration;

use crate::core::clocks::Away;
use crate::exit::Exit;

/// Something that went wrong, in the words an operator reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code if this failure ends the tenant.
    pub exit: Exit,
    /// What failed, for which object, why, what to do next. Never a secret.
    pub words: String,
    /// The other side asks us to slow down (503 SlowDown, 429).
    pub slow_down: bool,
}

impl Failure {
    /// A failure with its exit code.
    pub fn new(exit: Exit, words: impl Into<String>) -> Self {
        Failure {
            exit,
            words: words.into(),
            slow_down: false,
        }
    }

    /// The other side works, and has had enough of us for now.
    pub fn slow_down(words: impl Into<String>) -> Self {
        Failure {
            slow_down: true,
            ..Failure::new(Exit::Unavailable, words)
        }
    }

    /// Is it the bucket (or the way to it) that did not answer? Then waiting helps and no restart budget is spent.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        self.exit == Exit::Unavailable
    }
}

/// One event. Everything that happens outside reaches the core as one of these.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// `State::next_deadline` has passed.
    Timer,
    /// A stop signal (INT, TERM, QUIT: all the same).
    StopSignal(&'static str),
    /// Somebody wants the index compared with the database, whole (USR1).
    CheckIndex,
    /// This machine was away.
    Resumed(Away),
    /// There may be new keys, and who says so.
    AskKeys(&'static str),
    /// `Action::FetchKeys` ended.
    Keys(Result<KeysAnswer, Failure>),
    /// Credentials fetched and preconditions checked.
    Prepared(Result<Prepared, Failure>),
    /// The mounter and the mount.
    Mount(MountEvent),
    /// The app.
    App(AppEvent),
    /// A bucket probe ended.
    Storage(Result<Duration, Failure>),
    /// The index and the lease.
    Index(IndexEvent),
    /// A stop or recovery phase ended.
    Phase(PhaseEnd),
}

/// What is known once credentials are there and the preconditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Tenant id, for `/status`.
    pub tenant: String,
    /// `nfs` or `fuse`.
    pub driver: Driver,
    /// Does the bundle name an index database? Then there is a lease too.
    pub has_database: bool,
    /// Is the app basic-memory, whose index can be made anew from the notes?
    pub has_index: bool,
    /// Files an earlier life on this disk had not stored; this life finishes them.
    pub found_pending: usize,
    /// The keys stop working after this long; `None`: nobody said so.
    pub keys_valid_for: Option<Duration>,
}

/// What the source of the keys answered. They are in use already, but for rclone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeysAnswer {
    /// The bucket's key is another one, and opens the bucket.
    pub storage: bool,
    /// The database's token is another one.
    pub index: bool,
    /// They stop working after this long; `None`: nobody said so.
    pub valid_for: Option<Duration>,
}

/// How the bucket is mounted. The stop order depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// `rclone nfsmount`: rclone survives the unmount, so its queue is drained after it.
    Nfs,
    /// `rclone mount`: an unmount ends rclone and its queue, so drain first.
    Fuse,
}

impl Driver {
    /// `nfs` or `fuse`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Driver::Nfs => "nfs",
            Driver::Fuse => "fuse",
        }
    }
}

/// The mounter and the mount.
#[derive(Debug, Clone, PartialEq)]
pub enum MountEvent {
    /// rclone runs; readiness is not known yet.
    Launched {
        /// Its process id.
        pid: u32,
    },
    /// Every condition of readiness holds.
    Ready,
    /// It could not be launched, or was not ready in time.
    Failed(Failure),
    /// rclone ended without being asked.
    Exited {
        /// The process it was: news of one that was replaced meanwhile comes late.
        pid: u32,
        /// How, and its last words.
        words: String,
    },
    /// The mount is gone or dead although rclone is not.
    Lost(String),
    /// A rename failed, and rclone would store under its new name what is written to that file from now on.
    Crooked(String),
    /// `Action::Reconnect` has succeeded: calls go to the new rclone.
    Reconnected,
    /// It has not.
    ReconnectFailed(Failure),
    /// A health round ended.
    Health(MountHealth),
    /// `Action::SetReadOnly` ended.
    Mode {
        /// What was asked for.
        read_only: bool,
        /// Why it could not be done.
        result: Result<(), String>,
    },
}

/// One health round.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MountHealth {
    /// `None`: kernel, guard and rclone answer. Else what does not, in words.
    pub stuck: Option<String>,
    /// The upload queue, if rclone told.
    pub queue: Option<Queue>,
    /// The cache's disk, if it could be asked.
    pub room: Option<Room>,
}

/// Room for new writes on the cache's disk, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Free for us.
    pub available: u64,
    /// Taken by cached files that are stored, so that rclone can evict them.
    pub evictable: u64,
}

impl Room {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.available.saturating_add(self.evictable)
    }
}

/// The upload queue as rclone tells it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    /// Files waiting or being uploaded.
    pub files: u64,
    /// Of these, being uploaded now.
    pub in_progress: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How long the oldest has been waiting.
    pub oldest: Duration,
    /// Of these, tried and failed at least once.
    pub failing: u64,
    /// Failed attempts seen since the last round.
    pub new_failures: u64,
    /// Of these, because the store asks us to slow down.
    pub new_slow_downs: u64,
    /// Why the last attempt that failed did, in rclone's words.
    pub why: Option<String>,
}

/// The app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppEvent {
    /// It runs; readiness is not known yet.
    Started {
        /// Its process id.
        pid: u32,
    },
    /// It could not be started.
    Failed(Failure),
    /// It answers.
    Ready,
    /// Its main process ended. `code` is 128 + signal when killed.
    Exited {
        /// As the shell counts.
        code: u8,
        /// "exit code 3", "killed by SIGSEGV", …
        words: String,
        /// The kernel killed it for memory.
        out_of_memory: bool,
    },
    /// Main process and whole process group are gone.
    Gone,
}

/// A stop or recovery phase ended. Each answers exactly one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PhaseEnd {
    /// `Action::Sync`
    Synced(Result<(), String>),
    /// `Action::Unmount`
    Unmounted(Result<(), String>),
    /// `Action::Drain`
    Drained(Result<(), String>),
    /// `Action::DrainIndex`
    IndexDrained(Result<(), String>),
    /// `Action::TerminateMounter`
    MounterGone,
}

/// The index and the lease.
#[derive(Debug, Clone, PartialEq)]
pub enum IndexEvent {
    /// `Action::TakeLease` ended.
    Lease(Result<LeaseTaken, LeaseRefusal>),
    /// `Action::OpenIndex` or `Action::RebuildIndex` ended: the local file is there.
    Opened(Result<IndexOpened, Failure>),
    /// The app has committed something.
    Written,
    /// `Action::ShipIndex` ended.
    Shipped(Result<Shipped, ShipFailure>, Backlog),
    /// `Action::ReseedIndex` ended; with the number of rows.
    Reseeded(Result<u64, ShipFailure>),
    /// `Action::CompareIndex` ended, in words; a difference is `ShipFailure::Broken`.
    Compared(Result<String, ShipFailure>),
}

/// The lease is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTaken {
    /// Our epoch.
    pub epoch: u64,
    /// How long the database took to answer.
    pub latency: Duration,
    /// The position of the index in the database.
    pub position: u64,
}

/// The lease is not ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseRefusal {
    /// Another machine has it.
    Held {
        /// Which.
        holder: String,
        /// It ends then, unless it is renewed.
        expires_in: Duration,
    },
    /// The database did not answer, refused our token, or belongs to another tenant.
    Failed(Failure),
}

/// The local index file can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexOpened {
    /// The database has to be filled from it first, and why.
    pub reseed: Option<String>,
}

/// One look at the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Everything up to here is in the database.
    pub position: u64,
    /// How long the database took; `None` when there was nothing to ask it.
    pub latency: Option<Duration>,
}

/// Why the outbox was not shipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShipFailure {
    /// The database does not answer, or refuses our token.
    Down(Failure),
    /// Another machine has taken the lease.
    Fenced {
        /// Which.
        holder: String,
    },
    /// The database and the local file cannot be brought together statement by statement: it is filled anew.
    Broken {
        /// `replay`, `diverged` or `overflow`.
        cause: &'static str,
        /// In words.
        words: String,
    },
    /// The local file cannot be read just now.
    Local(String),
}

/// What waits in the outbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Transactions.
    pub transactions: u64,
    /// Age of the oldest.
    pub oldest: Option<Duration>,
}
