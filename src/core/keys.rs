//! New keys: when the source is asked again, and what follows when it has others.
//!
//! Asked before they expire, when the bucket or the database refuses them, when the source says that it changed (the
//! watched file, SIGHUP). An answer that changes nothing, or no answer, changes nothing: the keys that we have may be fine.
//! A key that is refused for `limits.rejected_limit` ends the tenant.
//!
//! rclone does not take new keys while it runs. It goes on with the old ones until nothing waits (or they are refused, or
//! [`DRAIN_PATIENCE`] is over), and is then replaced on the same cache directory: behind the guard where there is one, else
//! by the way of a recovery, with the app stopped and started. Nothing that was acknowledged depends on it.

use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::event::{Failure, KeysAnswer, Queue};
use crate::core::state::{Stage, State};

/// Between two questions while a key is refused.
const ASK_PAUSE: Duration = Duration::from_secs(5);
/// First and longest time between two questions that got no answer.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Keys are asked for again this long before they expire: a tenth of their time, but within these.
const EARLY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// The old keys may upload for this long what waits.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of the keys.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    /// `Action::FetchKeys` is under way.
    asking: bool,
    /// Somebody wants them asked again after that.
    again: bool,
    /// The last question.
    asked: Option<Duration>,
    /// The next one.
    ask_at: Option<Duration>,
    /// Questions in a row without an answer.
    failures: u32,
    /// What was said about the last of them.
    said: Option<String>,
    /// rclone has older keys than we, since.
    stale_since: Option<Duration>,
}

impl Keys {
    /// The next question is due.
    pub(super) fn ask_at(&self) -> Option<Duration> {
        self.ask_at.filter(|_| !self.asking)
    }

    /// Keys that stop working in `valid_for` were taken at `now`.
    pub(super) fn taken(&mut self, valid_for: Option<Duration>, now: Duration) {
        self.failures = 0;
        self.said = None;
        self.ask_at = valid_for.map(|time| {
            let early = (time / 10).clamp(EARLY.0, EARLY.1);
            // Keys that live for seconds are asked for all the time, but not in a loop.
            now + time
                .saturating_sub(early)
                .max(ASK_PAUSE.min(time / 2).max(Duration::from_secs(1)))
        });
    }
}

impl State {
    /// Somebody says that there may be new keys, or that the present ones are refused.
    pub(super) fn ask_for_keys(&mut self, now: Duration) -> Vec<Action> {
        if self.is_stopping() || self.prepared.is_none() {
            return Vec::new();
        }
        if self.keys.asking {
            self.keys.again = true;
            return Vec::new();
        }
        self.keys.asking = true;
        self.keys.again = false;
        self.keys.asked = Some(now);
        vec![Action::FetchKeys]
    }

    /// The keys are refused: asked for at once, then every few seconds.
    pub(super) fn keys_refused(&mut self, now: Duration) -> Vec<Action> {
        match self.keys.asked {
            Some(asked) if now.saturating_sub(asked) < ASK_PAUSE => {
                let soon = asked + ASK_PAUSE;
                self.keys.ask_at = Some(self.keys.ask_at.map_or(soon, |at| at.min(soon)));
                Vec::new()
            }
            _ => self.ask_for_keys(now),
        }
    }

    pub(super) fn keys_answered(&mut self, answer: Result<KeysAnswer, Failure>, now: Duration) -> Vec<Action> {
        self.keys.asking = false;
        if self.is_stopping() {
            return Vec::new();
        }
        let refused = self.storage.rejected_since.or(self.database.rejected_since).is_some();
        let mut actions = Vec::new();
        match answer {
            Err(failure) => {
                let wait = (RETRY.0 * 2u32.saturating_pow(self.keys.failures.min(8))).min(RETRY.1);
                self.keys.failures += 1;
                self.keys.ask_at = Some(now + if refused { ASK_PAUSE } else { wait });
                if self.keys.said.as_ref() != Some(&failure.words) {
                    self.keys.said = Some(failure.words.clone());
                    actions.push(Action::Say(Level::Warn, "keys_unavailable", failure.words));
                }
            }
            Ok(answer) => {
                self.keys.taken(answer.valid_for, now);
                if refused && !answer.storage && !answer.index {
                    self.keys.ask_at = Some(now + ASK_PAUSE);
                }
                if answer.index {
                    self.index_wants_attention(now);
                }
                if answer.storage {
                    self.keys.stale_since = Some(now);
                    self.storage.next_probe = now;
                    if !refused {
                        actions.push(Action::ExpireQueue);
                    }
                }
                if answer.storage || answer.index {
                    let words = "there are new keys; what the old ones can still upload goes first".into();
                    actions.push(Action::Say(Level::Info, "keys_changed", words));
                }
            }
        }
        if std::mem::take(&mut self.keys.again) {
            actions.extend(self.ask_for_keys(now));
        }
        actions
    }

    /// After a health round: is it time for rclone to be replaced by one with the new keys?
    pub(super) fn replace_mounter_for_keys(&mut self, refused: bool, now: Duration) -> Vec<Action> {
        let Some(since) = self.keys.stale_since else {
            return Vec::new();
        };
        if self.stage != Stage::Serving || self.mounter.reconnect.is_some() {
            return Vec::new();
        }
        let waited = now.saturating_sub(since);
        let drained = self.queue.files == 0 && waited > Duration::ZERO;
        if drained || refused || waited >= DRAIN_PATIENCE {
            self.restart_mounter(
                "keys",
                "rclone is started again with the new keys, on the same cache",
                now,
            )
        } else {
            Vec::new()
        }
    }

    /// The machine slept for `asleep`, and the clocks of the keys did not.
    pub(super) fn keys_older_by(&mut self, asleep: Duration, now: Duration) -> Vec<Action> {
        self.keys.ask_at = self.keys.ask_at.map(|at| at.saturating_sub(asleep));
        self.keys_timers(now)
    }

    /// A mounter is about to be launched: it gets the newest keys.
    pub(super) fn keys_handed_over(&mut self) {
        self.keys.stale_since = None;
    }

    /// What is due at `now`.
    pub(super) fn keys_timers(&mut self, now: Duration) -> Vec<Action> {
        if self.keys.ask_at().is_some_and(|at| at <= now) {
            self.keys.ask_at = None;
            return self.ask_for_keys(now);
        }
        Vec::new()
    }

    /// Do the uploads fail because the key may not write? Listing may still work, so no probe tells.
    pub(super) fn uploads_refused(queue: &Queue) -> bool {
        const CODES: [&str; 4] = [
            "StatusCode: 403",
            "AccessDenied",
            "InvalidAccessKeyId",
            "SignatureDoesNotMatch",
        ];
        let why = queue.why.as_deref().unwrap_or_default();
        queue.new_failures > 0 && CODES.iter().any(|code| why.contains(code))
    }
}
