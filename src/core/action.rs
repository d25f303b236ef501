//! What the core wants done. The loop carries each out and answers with events.

use std::time::Duration;

use crate::core::verdict::Cause;

/// One action.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Fetch credentials, check preconditions → `Event::Prepared`.
    Prepare,
    /// Ask the source of the keys again and take what it has → `Event::Keys`
    FetchKeys,
    /// Clear stale mounts, start the mounter → `Launched`, then `Ready`, or `Failed`; `Exited` at any later time.
    LaunchMount {
        /// Not ready after this long is a failure.
        within: Duration,
    },
    /// nfs: put a new rclone behind the guard, the mount stays → `Launched`, then `Reconnected`, or `ReconnectFailed`.
    Reconnect {
        /// End the present rclone, if it still runs, and start another; else only wait for the present one.
        fresh: bool,
        /// The present one works: the calls that it has are finished first.
        gently: bool,
        /// Give up after this long.
        within: Duration,
    },
    /// One health round → `MountEvent::Health`.
    ProbeMount,
    /// → `Event::Storage`, perhaps `Event::StorageSilent` before it.
    ProbeStorage {
        /// The last probe found nothing wrong.
        well: bool,
    },
    /// One try → `IndexEvent::Lease`
    TakeLease,
    /// Make the local index file usable: continue it, or restore it from the database → `IndexEvent::Opened`
    OpenIndex,
    /// Put the local index file aside and begin an empty one, which the app fills from the notes → `IndexEvent::Opened`
    RebuildIndex,
    /// Ship what waits in the outbox, or just renew the lease → `IndexEvent::Shipped`
    ShipIndex,
    /// Fill the database from the local file → `IndexEvent::Reseeded`
    ReseedIndex,
    /// Compare local file and database row by row → `IndexEvent::Compared`
    CompareIndex,
    /// Connections from before a suspension lead nowhere.
    DropConnections,
    /// SIGSTOP to rclone: it uploads nothing.
    PauseMounter,
    /// SIGCONT to rclone.
    ResumeMounter,
    /// Another machine has the lease: nothing on the mount may be changed any more.
    Fence,
    /// How uploads shall flow from now on.
    Uploads(Flow),
    /// The bucket is back: upload now instead of at the end of the retry delay.
    ExpireQueue,
    /// Refuse whatever changes the mount, or no longer → `MountEvent::Mode`
    SetReadOnly(bool),
    /// Start the app → `Started` or `Failed`, then `Ready`; `Exited` and `Gone` at the end.
    StartApp,
    /// TERM to the app's group.
    TerminateApp,
    /// KILL to the app's group.
    KillApp,
    /// nfs: this mount is given up, and calls that wait for an rclone fail: a process can't die while it waits for one.
    FailCalls,
    /// `syncfs` the mount, bounded → `PhaseEnd::Synced`.
    Sync {
        /// Give up after this long.
        within: Duration,
    },
    /// Unmount, plain then detach, bounded → `PhaseEnd::Unmounted`.
    Unmount {
        /// Give up the plain unmount after this long.
        within: Duration,
    },
    /// Upload everything queued, bounded → `PhaseEnd::Drained`.
    Drain {
        /// Give up after this long.
        within: Duration,
    },
    /// Ship everything, bounded, and give the lease back → `PhaseEnd::IndexDrained`.
    DrainIndex {
        /// Give up after this long.
        within: Duration,
    },
    /// TERM, then KILL rclone → `PhaseEnd::MounterGone`.
    TerminateMounter,
    /// Write one line to the log, under a stable event name.
    Say(Level, &'static str, String),
    /// Everything is over: collect what is not stored, write the verdict, end.
    Finish(Cause),
}

/// How loud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// What an operator wants to read in a quiet log.
    Info,
    /// Needs attention, goes on.
    Warn,
    /// Something failed.
    Error,
}

/// How uploads flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// As rclone likes.
    #[default]
    Free,
    /// The bucket is unreachable: held back, all but one now and then.
    Held,
    /// The store limits our rate: one at a time.
    Paced,
    /// It is back: a few one by one, then free.
    Easing,
}
