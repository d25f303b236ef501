//! The stop: app → sync → (nfs: unmount, drain; fuse: drain, unmount) → index and lease → mounter → verdict, under one
//! deadline.
//!
//! On nfs rclone survives the unmount and keeps its queue, so unmounting first makes sure that nothing is written while
//! it is drained. On fuse an unmount ends rclone and its queue with it, so the drain comes first. A second signal, or the
//! deadline, means "time is up": straight to the verdict, which then says what is not stored.
//!
//! When another machine has taken the lease, rclone goes first: what it has not uploaded must not overwrite what the
//! other machine writes now. The verdict names it.

use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::event::{Driver, PhaseEnd};
use crate::core::index::LeaseState;
use crate::core::policy::VERDICT_RESERVE;
use crate::core::state::{AppState, Stage, State};
use crate::core::verdict::Cause;

/// A stop under way.
#[derive(Debug, Clone, PartialEq)]
pub struct Stop {
    /// Why.
    pub cause: Cause,
    /// What is being waited for.
    pub phase: StopPhase,
    /// When it ends at the latest.
    pub deadline: Duration,
    /// Is there a mount to sync and a queue to drain?
    pub mounted: bool,
}

/// The phases. Which of them run, and in which order, depends on the driver and on what was alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopPhase {
    /// Waiting for the app's group.
    App,
    /// Waiting for `syncfs`.
    Sync,
    /// Waiting for the unmount.
    Unmount,
    /// Waiting for the upload queue.
    Drain,
    /// Waiting for the outbox, and for the lease to be given back.
    Index,
    /// Waiting for rclone.
    Mounter,
}

/// A drain with a key that the bucket refuses: one try for each file.
const REFUSED_DRAIN: Duration = Duration::from_secs(5);

const FENCED: [StopPhase; 3] = [StopPhase::Mounter, StopPhase::App, StopPhase::Unmount];
const NFS: [StopPhase; 6] = [
    StopPhase::App,
    StopPhase::Sync,
    StopPhase::Unmount,
    StopPhase::Drain,
    StopPhase::Index,
    StopPhase::Mounter,
];
const FUSE: [StopPhase; 6] = [
    StopPhase::App,
    StopPhase::Sync,
    StopPhase::Drain,
    StopPhase::Unmount,
    StopPhase::Index,
    StopPhase::Mounter,
];

impl State {
    pub(super) fn stop_signal(&mut self, name: &'static str, now: Duration) -> Vec<Action> {
        if self.orphaned.is_some() {
            return self.orphan_signalled(name, now);
        }
        if let Stage::Stopping(_) = self.stage {
            return self.time_is_up(&format!("a second stop signal ({name}) came while stopping"), now);
        }
        self.begin_stop(Cause::Signal(name), now)
    }

    /// Starts the stop. A stop that is under way goes on with its own cause.
    pub(super) fn begin_stop(&mut self, cause: Cause, now: Duration) -> Vec<Action> {
        if self.is_stopping() {
            return Vec::new();
        }
        if self.has_to_mount_first(&cause) {
            return self.mount_first(cause, now);
        }
        let cause = self.cause_of_the_end(cause);
        let level = if matches!(cause, Cause::Failure(_) | Cause::Died { .. }) {
            Level::Error
        } else {
            Level::Info
        };
        let mounted = self.stage == Stage::Serving && self.mounter.ready_since.is_some();
        let mut actions = vec![Action::Say(level, "tenant", format!("stopping: {}", cause.words()))];
        actions.extend(self.unpause());
        self.stop_began.get_or_insert(now);
        self.stage = Stage::Stopping(Stop {
            cause,
            phase: self.stop_order()[0],
            deadline: self.stop_deadline(now),
            mounted,
        });
        actions.extend(self.enter(self.stop_order()[0], now));
        actions
    }

    /// Another machine has taken the lease: a stop in the order that keeps everything of ours from it. One that is under way
    /// begins again in that order, with the deadline it has: it might be uploading.
    pub(super) fn begin_fenced_stop(&mut self, cause: Cause, now: Duration) -> Vec<Action> {
        // An rclone that is on its way is wanted no more, and its arrival must not move this stop on.
        self.mounter.reconnect = None;
        match &mut self.stage {
            Stage::Stopping(stop) => {
                stop.cause = cause;
                self.enter(FENCED[0], now)
            }
            _ => self.begin_stop(cause, now),
        }
    }

    /// Enters `phase`, or the first one after it that has something to do.
    fn enter(&mut self, phase: StopPhase, now: Duration) -> Vec<Action> {
        let Stage::Stopping(stop) = &mut self.stage else {
            return Vec::new();
        };
        stop.phase = phase;
        let left = stop.deadline.saturating_sub(now);
        let mounted = stop.mounted;
        let fenced = self.index.lease == LeaseState::Lost;
        // An app whose mount was just taken away has nothing left to finish.
        let grace = if fenced {
            Duration::ZERO
        } else {
            self.policy.app_stop_grace()
        };
        match phase {
            StopPhase::App => match &self.app.state {
                AppState::Off | AppState::Waiting { .. } => {
                    self.app.state = AppState::Off;
                    self.after(phase, now)
                }
                AppState::Ending { by_itself, ran, .. } => {
                    let kill_at = Some(now + grace);
                    self.app.state = AppState::Ending {
                        kill_at,
                        by_itself: by_itself.clone(),
                        ran: *ran,
                    };
                    vec![Action::TerminateApp]
                }
                AppState::Starting { since } | AppState::Ready { since } => {
                    let ran = now.saturating_sub(*since);
                    let kill_at = Some(now + grace);
                    self.app.state = AppState::Ending {
                        kill_at,
                        by_itself: None,
                        ran,
                    };
                    vec![Action::TerminateApp]
                }
            },
            StopPhase::Sync if mounted => vec![Action::Sync {
                within: (left / 4).min(Duration::from_secs(10)),
            }],
            StopPhase::Drain if mounted => {
                let within = left.saturating_sub(VERDICT_RESERVE);
                // A refused key uploads nothing, however long it is tried.
                let refused = self.storage.rejected_since.is_some();
                vec![Action::Drain {
                    within: if refused { within.min(REFUSED_DRAIN) } else { within },
                }]
            }
            StopPhase::Unmount if self.mounter.launched => {
                vec![Action::Unmount {
                    within: (left / 4).min(Duration::from_secs(5)),
                }]
            }
            StopPhase::Index if self.index.is_held() => vec![Action::DrainIndex {
                within: left.saturating_sub(VERDICT_RESERVE),
            }],
            StopPhase::Mounter if self.mounter.launched => vec![Action::TerminateMounter],
            _ => self.after(phase, now),
        }
    }

    fn stop_order(&self) -> &'static [StopPhase] {
        match self.driver() {
            _ if self.index.lease == LeaseState::Lost => &FENCED,
            Some(Driver::Fuse) => &FUSE,
            _ => &NFS,
        }
    }

    pub(super) fn after(&mut self, phase: StopPhase, now: Duration) -> Vec<Action> {
        match self.stop_order().iter().skip_while(|p| **p != phase).nth(1) {
            Some(next) => self.enter(*next, now),
            None => self.finish(),
        }
    }

    fn finish(&mut self) -> Vec<Action> {
        match std::mem::replace(&mut self.stage, Stage::Stopped) {
            Stage::Stopping(stop) => vec![Action::Finish(stop.cause)],
            other => {
                self.stage = other;
                Vec::new()
            }
        }
    }

    pub(super) fn stop_app_gone(&mut self, now: Duration) -> Vec<Action> {
        match &self.stage {
            Stage::Stopping(stop) if stop.phase == StopPhase::App => self.after(StopPhase::App, now),
            _ => Vec::new(),
        }
    }

    pub(super) fn stop_phase_ended(&mut self, end: PhaseEnd, now: Duration) -> Vec<Action> {
        let (ended, result) = match end {
            PhaseEnd::Synced(result) => (StopPhase::Sync, result),
            PhaseEnd::Unmounted(result) => (StopPhase::Unmount, result),
            PhaseEnd::Drained(result) => (StopPhase::Drain, result),
            PhaseEnd::IndexDrained(result) => (StopPhase::Index, result),
            PhaseEnd::MounterGone => (StopPhase::Mounter, Ok(())),
        };
        // A recovery that was under way when the stop began ends its own phase late: not ours.
        if !matches!(&self.stage, Stage::Stopping(stop) if stop.phase == ended) {
            return Vec::new();
        }
        let mut actions = Vec::new();
        if let Err(words) = result {
            actions.push(Action::Say(Level::Error, "tenant", words));
        }
        // The drain needs the rclone that is on its way.
        if ended == StopPhase::Sync
            && let Some(reconnect) = &mut self.mounter.reconnect
        {
            reconnect.holds_stop = true;
            return actions;
        }
        actions.extend(self.after(ended, now));
        actions
    }

    /// No time for the remaining phases. The verdict finds out what is not stored.
    pub(super) fn time_is_up(&mut self, why: &str, now: Duration) -> Vec<Action> {
        let seconds = self.stop_seconds(now);
        let Stage::Stopping(stop) = &self.stage else {
            return Vec::new();
        };
        let words = format!(
            "{why} after {seconds:.1} s in phase {:?}: the rest is skipped",
            stop.phase
        );
        let mut actions = vec![Action::Say(Level::Error, "tenant", words), Action::KillApp];
        actions.extend(self.finish());
        actions
    }
}
