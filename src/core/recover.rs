//! A dead or stuck mounter, a dead app.
//!
//! A mount that failed is taken away completely before a new one is made: the app is stopped (it holds files of the dead
//! mount), the mount point is cleared, rclone is gone, and only then is rclone started again on the same cache directory
//! where every acknowledged write still is. An outage of the bucket spends no restart budget.

use std::time::Duration;

use crate::config::RestartPolicy;
use crate::core::action::{Action, Level};
use crate::core::backoff::Verdict;
use crate::core::event::{Failure, PhaseEnd};
use crate::core::policy::RECOVERY_APP_GRACE;
use crate::core::state::{AppState, RecoveryPhase, Stage, State};
use crate::core::verdict::Cause;
use crate::exit::Exit;

impl State {
    /// The mount could not be made, or is lost.
    pub(super) fn mount_failed(&mut self, cause: &'static str, failure: Failure, now: Duration) -> Vec<Action> {
        self.mounter.last_error = Some(failure.words.clone());
        let ran = self
            .mounter
            .ready_since
            .take()
            .map_or(Duration::ZERO, |since| now.saturating_sub(since));
        match self.stage {
            Stage::Mounting | Stage::Serving => self.pressure.mounter_gone(&self.queue, now),
            // A stop or a recovery under way deals with a mounter that dies meanwhile.
            _ => return Vec::new(),
        }
        self.mounter.reconnect = None;
        if failure.exit == Exit::Refused && self.mounter.ever_ready {
            return self.mount_refused(failure, ran, now);
        }
        let permanent = matches!(failure.exit, Exit::Refused | Exit::Config | Exit::Machine);
        if !self.mounter.ever_ready && self.launches_again(&failure) {
            let again = self.mounter.backoff.failed(cause, now, ran, false);
            if let Verdict::Retry(delay) = again {
                *self.mounter.restarts.entry(cause).or_default() += 1;
                self.mounter.retry_delay = delay;
                let mut actions = vec![Action::Say(Level::Error, "tenant", failure.words)];
                actions.extend(self.recover_app(now));
                return actions;
            }
        }
        if permanent || !self.mounter.ever_ready {
            return self.begin_stop(Cause::Failure(failure), now);
        }
        match self.mounter.backoff.failed(cause, now, ran, !failure.is_outage()) {
            Verdict::Exhausted => {
                let words = format!("the mount failed too often ({cause}); the last time: {}", failure.words);
                self.begin_stop(Cause::Failure(Failure::new(Exit::Budget, words)), now)
            }
            Verdict::Retry(delay) => {
                *self.mounter.restarts.entry(cause).or_default() += 1;
                self.mounter.retry_delay = delay;
                self.mounter.stuck = None;
                self.mounter.hung = 0;
                let mut actions = vec![Action::Say(
                    Level::Error,
                    "tenant",
                    format!(
                        "{}; the app is stopped, the mount is made again on the same cache",
                        failure.words
                    ),
                )];
                actions.extend(self.recover_app(now));
                actions
            }
        }
    }

    /// The bucket refuses the key of a tenant that was ready before: perhaps there is a new one.
    fn mount_refused(&mut self, failure: Failure, ran: Duration, now: Duration) -> Vec<Action> {
        self.storage.down_since = None;
        let since = *self.storage.rejected_since.get_or_insert(now);
        self.storage.last_error = Some(failure.words.clone());
        if now.saturating_sub(since) >= self.policy.rejected_limit {
            return self.begin_stop(Cause::Failure(failure), now);
        }
        if let Verdict::Retry(delay) = self.mounter.backoff.failed("refused", now, ran, false) {
            self.mounter.retry_delay = delay;
        }
        let mut actions = self.keys_refused(now);
        actions.extend(self.recover_app(now));
        actions
    }

    /// Nothing failed: rclone is replaced on purpose, by the same ways as after a failure.
    pub(super) fn restart_mounter(&mut self, cause: &'static str, words: &str, now: Duration) -> Vec<Action> {
        if self.replaced_behind_the_guard(cause, words, now) {
            return vec![Action::Say(Level::Info, "mounter_replaced", words.to_owned())];
        }
        *self.mounter.restarts.entry(cause).or_default() += 1;
        self.mounter.last_error = Some(words.to_owned());
        self.mounter.retry_delay = Duration::ZERO;
        self.mounter.ready_since = None;
        self.mounter.stuck = None;
        self.pressure.mounter_gone(&self.queue, now);
        let mut actions = vec![Action::Say(Level::Info, "mounter_replaced", words.to_owned())];
        actions.extend(self.recover_app(now));
        actions
    }

    fn recover_app(&mut self, now: Duration) -> Vec<Action> {
        self.stage = Stage::Recovering(RecoveryPhase::App);
        let kill_at = Some(now + RECOVERY_APP_GRACE);
        match &self.app.state {
            AppState::Off | AppState::Waiting { .. } => self.recover_unmount(),
            AppState::Starting { since } | AppState::Ready { since } => {
                let ran = now.saturating_sub(*since);
                self.app.state = AppState::Ending {
                    kill_at,
                    by_itself: None,
                    ran,
                };
                vec![Action::TerminateApp]
            }
            AppState::Ending { by_itself, ran, .. } => {
                self.app.state = AppState::Ending {
                    kill_at,
                    by_itself: by_itself.clone(),
                    ran: *ran,
                };
                Vec::new()
            }
        }
    }

    fn recover_unmount(&mut self) -> Vec<Action> {
        self.app.state = AppState::Off;
        self.stage = Stage::Recovering(RecoveryPhase::Unmount);
        vec![Action::Unmount {
            within: Duration::from_secs(1),
        }]
    }

    pub(super) fn recovery_phase_ended(&mut self, phase: RecoveryPhase, end: PhaseEnd, now: Duration) -> Vec<Action> {
        match (phase, end) {
            (RecoveryPhase::Unmount, PhaseEnd::Unmounted(result)) => {
                self.stage = Stage::Recovering(RecoveryPhase::Mounter);
                let mut actions = Vec::new();
                if let Err(words) = result {
                    actions.push(Action::Say(Level::Error, "tenant", words));
                }
                actions.push(Action::TerminateMounter);
                actions
            }
            (RecoveryPhase::Mounter, PhaseEnd::MounterGone) => {
                self.mounter.pid = None;
                self.stage = Stage::Waiting {
                    until: now + self.mounter.retry_delay,
                };
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// The main process of the app ended: what is left of its group goes too, then it is decided what follows.
    pub(super) fn app_exited(&mut self, code: u8, words: String, now: Duration) -> Vec<Action> {
        self.app.pid = None;
        match &self.app.state {
            AppState::Starting { since } | AppState::Ready { since } => {
                let ran = now.saturating_sub(*since);
                let kill_at = Some(now + RECOVERY_APP_GRACE);
                self.app.state = AppState::Ending {
                    kill_at,
                    by_itself: Some((code, words)),
                    ran,
                };
                vec![Action::TerminateApp]
            }
            _ => Vec::new(),
        }
    }

    /// Nothing of the app runs any more.
    pub(super) fn app_gone(&mut self, now: Duration) -> Vec<Action> {
        self.app.pid = None;
        let ended = std::mem::replace(&mut self.app.state, AppState::Off);
        match self.stage {
            Stage::Stopping(_) => self.stop_app_gone(now),
            Stage::Recovering(RecoveryPhase::App) => self.recover_unmount(),
            Stage::Serving => match ended {
                AppState::Ending {
                    by_itself: Some((code, words)),
                    ran,
                    ..
                } => {
                    let mut actions = self.app_ended(code, words, ran, now);
                    actions.extend(self.apply_pressure(now));
                    actions
                }
                _ => self.apply_pressure(now),
            },
            _ => Vec::new(),
        }
    }

    fn app_ended(&mut self, code: u8, words: String, ran: Duration, now: Duration) -> Vec<Action> {
        let restart = match self.policy.restart {
            RestartPolicy::Always | RestartPolicy::Auto => true,
            RestartPolicy::OnFailure => code != 0,
            RestartPolicy::Never => false,
        };
        if !restart {
            return self.begin_stop(Cause::AppEnded { code, words }, now);
        }
        self.app.last_error = Some(words.clone());
        // Memory is not what a new index would mend.
        self.app.failed_starts += u32::from(!self.app.out_of_memory);
        if let Some(actions) = self.rebuild_index_for_an_app_that_never_starts() {
            return actions;
        }
        let cause = if self.app.out_of_memory { "oom" } else { "exited" };
        match self.app.backoff.failed(cause, now, ran, true) {
            Verdict::Exhausted => {
                let words = format!("the app ended too often; the last time: {words}");
                self.begin_stop(Cause::Failure(Failure::new(Exit::Budget, words)), now)
            }
            Verdict::Retry(delay) => {
                *self.app.restarts.entry(cause).or_default() += 1;
                self.app.state = AppState::Waiting { until: now + delay };
                vec![Action::Say(
                    Level::Error,
                    "tenant",
                    format!(
                        "the app ended by itself ({words}); it is started again in {:.1} s",
                        delay.as_secs_f64()
                    ),
                )]
            }
        }
    }

    /// The app cannot be started at all: nothing a retry would change.
    pub(super) fn app_failed_to_start(&mut self, failure: Failure, now: Duration) -> Vec<Action> {
        self.app.last_error = Some(failure.words.clone());
        match self.stage {
            Stage::Serving => {
                self.app.state = AppState::Off;
                self.begin_stop(Cause::Failure(failure), now)
            }
            // Somebody waits for its end, and it will not come otherwise.
            _ => self.app_gone(now),
        }
    }

    /// The app runs but never answered: it is ended, and started again within its budget.
    pub(super) fn app_start_timed_out(&mut self, now: Duration) -> Vec<Action> {
        let words = format!("no ready answer within {} s", self.policy.app_start_timeout.as_secs());
        let AppState::Starting { since } = self.app.state else {
            return Vec::new();
        };
        self.app.state = AppState::Ending {
            kill_at: Some(now + RECOVERY_APP_GRACE),
            by_itself: Some((1, words)),
            ran: now.saturating_sub(since),
        };
        vec![Action::TerminateApp]
    }
}
