//! After the death of the supervisor: another one does no more than store what it left, and ends.
//!
//! It lives as any other, by the same ways: keys, preconditions, the lease, rclone on the same cache directory, the index
//! file. Only that the app is never started: where it would be, the stop begins. What can be waited for (a bucket, a
//! database that does not answer) is waited for as long as a stop may take; whatever else happens, the cause of the end
//! stays the death, and what is not stored is named.
//!
//! So does a supervisor that is to stop while it has no mount, because its rclone died: it makes the mount it is about to
//! make, without the app, and stops then.

use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::event::Failure;
use crate::core::index::LeaseState;
use crate::core::policy::Policy;
use crate::core::state::{Stage, State};
use crate::core::verdict::Cause;
use crate::exit::Exit;

/// Between two tries of what a start fails of.
const PAUSE: Duration = Duration::from_secs(1);
/// So many launches may fail for another reason than the bucket.
const LAUNCHES: u64 = 3;

/// How the supervisor before this one ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Died {
    /// In words.
    pub words: String,
    /// The exit code when everything is stored: 128 + signal, or 70 for a panic.
    pub code: u8,
    /// Stop signals so far.
    pub stops: u32,
}

/// What is known in such a life.
#[derive(Debug, Clone, PartialEq)]
pub struct Orphaned {
    /// Why it ends.
    cause: Cause,
    /// Stop signals so far.
    stops: u32,
    /// It ends then.
    until: Duration,
    /// The preconditions are looked at again then.
    prepare_at: Option<Duration>,
}

impl State {
    /// A tenant whose supervisor has died, with `left` of the time for its stop; and the first action.
    #[must_use]
    pub fn orphaned(policy: Policy, died: Died, left: Duration) -> (State, Vec<Action>) {
        let (mut state, first) = State::start(policy);
        state.stop_began = Some(Duration::ZERO);
        state.orphaned = Some(Orphaned {
            cause: Cause::Died {
                code: died.code,
                words: died.words,
            },
            stops: died.stops,
            until: left,
            prepare_at: None,
        });
        (state, first)
    }

    /// A stop was asked for in a moment without a mount, between two rclones: is there anything to store first?
    pub(super) fn has_to_mount_first(&self, cause: &Cause) -> bool {
        let between = matches!(
            self.stage,
            Stage::Recovering(_) | Stage::Waiting { .. } | Stage::Mounting
        );
        let may_be_unsent = self.queue.files > 0 || self.storage.down_since.is_none();
        matches!(cause, Cause::Signal(_))
            && between
            && self.mounter.ever_ready
            && may_be_unsent
            && self.orphaned.is_none()
            && self.index.lease != LeaseState::Lost
    }

    /// See [`State::has_to_mount_first`].
    pub(super) fn mount_first(&mut self, cause: Cause, now: Duration) -> Vec<Action> {
        let words = format!(
            "stopping: {}; the mount is made once more, to store what is left",
            cause.words()
        );
        self.stop_began.get_or_insert(now);
        self.orphaned = Some(Orphaned {
            cause,
            stops: 1,
            until: now + self.policy.stop_timeout,
            prepare_at: None,
        });
        if let Stage::Waiting { until } = &mut self.stage {
            *until = now;
        }
        vec![Action::Say(Level::Info, "tenant", words)]
    }

    /// Does it only store what a dead supervisor left?
    #[must_use]
    pub fn is_orphaned(&self) -> bool {
        self.orphaned.is_some()
    }

    /// The cause that an end for `cause` has.
    pub(super) fn cause_of_the_end(&self, cause: Cause) -> Cause {
        match (self.orphaned.as_ref().map(|orphaned| &orphaned.cause), cause) {
            (None, cause) => cause,
            (Some(Cause::Died { code, words }), Cause::Failure(failure)) => Cause::Died {
                code: *code,
                words: format!("{words}; what it left: {}", failure.words),
            },
            // Nobody may start that machine again as it is.
            (Some(Cause::Signal(_)), Cause::Failure(failure)) if failure.exit == Exit::Refused => {
                Cause::Failure(failure)
            }
            (Some(first), _) => first.clone(),
        }
    }

    /// When a stop that begins at `now` must be over.
    pub(super) fn stop_deadline(&self, now: Duration) -> Duration {
        self.orphaned
            .as_ref()
            .map_or(now + self.policy.stop_timeout, |orphaned| orphaned.until)
    }

    /// The mount and the index are there, or will not be: what is left goes out now.
    pub(super) fn store_what_is_left(&mut self, now: Duration) -> Vec<Action> {
        let cause = self.orphaned.as_ref().map(|orphaned| orphaned.cause.clone());
        cause.map_or_else(Vec::new, |cause| self.begin_stop(cause, now))
    }

    /// The first stop signal asks for what is being done already; the second means that time is up.
    pub(super) fn orphan_signalled(&mut self, name: &str, now: Duration) -> Vec<Action> {
        let Some(orphaned) = &mut self.orphaned else {
            return Vec::new();
        };
        orphaned.stops += 1;
        if orphaned.stops < 2 {
            let words = format!("{name} received: what the supervisor left is being stored already");
            return vec![Action::Say(Level::Info, "tenant", words)];
        }
        let mut actions = self.store_what_is_left(now);
        actions.extend(self.time_is_up(&format!("a second stop signal ({name}) came"), now));
        actions
    }

    /// The preconditions do not hold. True when they are looked at again.
    pub(super) fn prepared_again(&mut self, failure: &Failure, now: Duration) -> bool {
        match &mut self.orphaned {
            Some(orphaned) if failure.is_outage() => {
                orphaned.prepare_at = Some(now + PAUSE);
                true
            }
            _ => false,
        }
    }

    /// May a first launch that failed be followed by another?
    pub(super) fn launches_again(&self, failure: &Failure) -> bool {
        let launches = self.mounter.restarts.values().sum::<u64>();
        self.orphaned.is_some() && (failure.is_outage() || (failure.exit == Exit::Machine && launches < LAUNCHES))
    }

    /// How long a launch at `now` may take; `None` in an ordinary life.
    pub(super) fn orphan_launch_limit(&self, now: Duration) -> Option<Duration> {
        let orphaned = self.orphaned.as_ref()?;
        Some(orphaned.until.saturating_sub(now).max(PAUSE))
    }

    /// When something is due.
    pub(super) fn orphan_due(&self) -> Option<Duration> {
        let orphaned = self.orphaned.as_ref()?;
        match self.stage {
            Stage::Stopping(_) | Stage::Stopped => None,
            // An index that cannot be opened holds up nothing but itself.
            Stage::Serving => Some(orphaned.until / 2),
            Stage::Preparing => Some(orphaned.prepare_at.unwrap_or(orphaned.until).min(orphaned.until)),
            _ => Some(orphaned.until),
        }
    }

    /// What is due at `now`.
    pub(super) fn orphan_timer(&mut self, now: Duration) -> Vec<Action> {
        if self.orphan_due().is_none_or(|due| due > now) {
            return Vec::new();
        }
        let Some(orphaned) = &mut self.orphaned else {
            return Vec::new();
        };
        let over = now >= orphaned.until;
        if orphaned.prepare_at.take().is_some() && !over {
            return vec![Action::Prepare];
        }
        let mut actions = self.store_what_is_left(now);
        if over {
            actions.extend(self.time_is_up("the stop deadline has passed", now));
        }
        actions
    }

    /// As `code: words`.
    pub(super) fn orphan_reason(&self) -> Option<String> {
        let orphaned = self.orphaned.as_ref().filter(|_| !self.is_stopping())?;
        Some(format!("stopping: {}; storing what is left", orphaned.cause.words()))
    }
}
