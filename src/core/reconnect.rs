//! A dead or hung rclone on nfs, or one with old keys: replaced behind the guard, while the app goes on.
//!
//! The kernel talks to the guard, and the guard holds its calls as long as there is no rclone. So nothing is unmounted and
//! nobody is stopped: a new rclone is started on the same cache directory, the guard joins it, and the app has seen a
//! pause. `recover` takes over (the app is stopped, the mount made anew) when that does not work within a limit.
//!
//! A bucket that is unreachable meanwhile has no limit: a new rclone knows no directory yet and would call every file
//! absent, so the calls wait for the bucket. The app would not be better off without a mount.

use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::backoff::Verdict;
use crate::core::event::{Driver, Failure};
use crate::core::index::LeaseState;
use crate::core::policy::{BUSY_QUEUE_INTERVAL, RECONNECT_LIMIT, RECONNECT_PAUSE, RECONNECT_PER_UPLOAD};
use crate::core::state::{Stage, State};
use crate::core::step::observe;
use crate::core::stop::StopPhase;
use crate::core::verdict::Cause;
use crate::exit::Exit;

/// A reconnect under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reconnect {
    /// When rclone was lost.
    pub since: Duration,
    /// The mount is made anew when it does not succeed by then.
    pub until: Duration,
    /// The next try; `None` while one is under way.
    pub retry: Option<Duration>,
    /// The next try begins with a new rclone.
    pub fresh: bool,
    /// rclone works, and is replaced on purpose.
    pub gently: bool,
    /// A stop has come to where it needs the result.
    pub holds_stop: bool,
}

impl State {
    /// Can a lost rclone be replaced behind the guard now?
    fn may_reconnect(&self) -> bool {
        let wanted = match &self.stage {
            Stage::Serving => true,
            // What the app still writes, and the sync, need one.
            Stage::Stopping(stop) => stop.mounted && matches!(stop.phase, StopPhase::App | StopPhase::Sync),
            _ => false,
        };
        wanted && self.driver() == Some(Driver::Nfs) && self.index.lease != LeaseState::Lost
    }

    /// rclone has ended or hangs. The mount is made anew where it can't be replaced.
    pub(super) fn mounter_lost(&mut self, cause: &'static str, failure: Failure, now: Duration) -> Vec<Action> {
        if self.mounter.reconnect.is_some() {
            return Vec::new();
        }
        if !self.may_reconnect() || self.mounter.ready_since.is_none() {
            return self.mount_failed(cause, failure, now);
        }
        let ran = self
            .mounter
            .ready_since
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        self.mounter.last_error = Some(failure.words.clone());
        let Verdict::Retry(delay) = self.mounter.backoff.failed(cause, now, ran, true) else {
            self.mounter.ready_since = None;
            let words = format!("the mount failed too often ({cause}); the last time: {}", failure.words);
            return self.begin_stop(Cause::Failure(Failure::new(Exit::Budget, words)), now);
        };
        self.mounter.retry_delay = delay;
        self.begin_reconnect(cause, false, now);
        vec![Action::Say(
            Level::Warn,
            "tenant",
            format!(
                "{}; rclone is started again on the same cache, the app waits for it",
                failure.words
            ),
        )]
    }

    /// Replaces an rclone that works, for `cause`. False where that can't be done without stopping the app.
    pub(super) fn replaced_behind_the_guard(&mut self, cause: &'static str, words: &str, now: Duration) -> bool {
        if !self.may_reconnect() || self.mounter.ready_since.is_none() || self.mounter.reconnect.is_some() {
            return false;
        }
        self.mounter.last_error = Some(words.to_owned());
        self.mounter.retry_delay = Duration::ZERO;
        self.pressure.mounter_gone(&self.queue, now);
        self.begin_reconnect(cause, true, now);
        true
    }

    fn begin_reconnect(&mut self, cause: &'static str, gently: bool, now: Duration) {
        *self.mounter.restarts.entry(cause).or_default() += 1;
        self.mounter.stuck = None;
        self.mounter.hung = 0;
        // It is started with the newest keys.
        self.keys_handed_over();
        let uploads = u32::try_from(self.queue.files).unwrap_or(u32::MAX);
        self.mounter.reconnect = Some(Reconnect {
            since: now,
            until: now + RECONNECT_LIMIT + RECONNECT_PER_UPLOAD.saturating_mul(uploads),
            retry: Some(now),
            fresh: true,
            gently,
            holds_stop: false,
        });
    }

    /// When the next try is due; `None` when there is none to make.
    pub(super) fn reconnect_due(&self) -> Option<Duration> {
        let retry = self.mounter.reconnect.as_ref()?.retry?;
        self.may_reconnect().then_some(retry)
    }

    pub(super) fn reconnect_timer(&mut self, now: Duration) -> Option<Action> {
        self.reconnect_due().filter(|due| *due <= now)?;
        let reconnect = self.mounter.reconnect.as_mut()?;
        reconnect.retry = None;
        Some(Action::Reconnect {
            fresh: reconnect.fresh,
            gently: std::mem::take(&mut reconnect.gently),
            within: reconnect.until.saturating_sub(now).max(RECONNECT_PAUSE),
        })
    }

    pub(super) fn reconnected(&mut self, now: Duration) -> Vec<Action> {
        let Some(reconnect) = self.mounter.reconnect.take() else {
            return Vec::new();
        };
        self.mounter.ready_since = Some(now);
        self.mounter.probing = false;
        self.mounter.next_probe = now + BUSY_QUEUE_INTERVAL;
        observe(
            &mut self.storage,
            &Ok(Duration::ZERO),
            now,
            self.policy.storage_interval,
        );
        let took = now.saturating_sub(reconnect.since).as_secs_f64();
        let mut actions = vec![
            Action::Say(
                Level::Info,
                "tenant",
                format!("rclone is back after {took:.2} s; the app went on"),
            ),
            Action::ExpireQueue,
        ];
        if reconnect.holds_stop {
            actions.extend(self.after(StopPhase::Sync, now));
        }
        actions
    }

    pub(super) fn reconnect_failed(&mut self, failure: Failure, now: Duration) -> Vec<Action> {
        let Some(reconnect) = &mut self.mounter.reconnect else {
            return Vec::new();
        };
        self.mounter.last_error = Some(failure.words.clone());
        if reconnect.holds_stop {
            // One more try would take the time of what can still be done.
            self.mounter.reconnect = None;
            let mut actions = vec![Action::Say(Level::Error, "tenant", failure.words)];
            actions.extend(self.after(StopPhase::Sync, now));
            return actions;
        }
        let outage = failure.is_outage();
        let permanent = matches!(failure.exit, Exit::Refused | Exit::Config);
        if permanent || (!outage && now >= reconnect.until) {
            self.mounter.reconnect = None;
            let failure = match failure.exit {
                // At a start these are this machine's fault; here it has worked before.
                Exit::Machine => Failure::new(Exit::Budget, failure.words),
                _ => failure,
            };
            return self.mount_failed("reconnect", failure, now);
        }
        reconnect.retry = Some(now + RECONNECT_PAUSE);
        reconnect.fresh = !outage;
        if outage {
            reconnect.until = now + RECONNECT_LIMIT;
        }
        vec![Action::Say(
            Level::Error,
            "tenant",
            format!("rclone is not back yet: {}", failure.words),
        )]
    }
}
