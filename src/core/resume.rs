//! Back after a suspension or a long stall.
//!
//! Connections lead nowhere, keys may have expired, another machine may have the lease, and nothing that is known of bucket,
//! database and mount is still known. So pools are dropped and everything is asked at once; until each has answered the
//! tenant is not ready.
//!
//! When the absence was longer than the lease, the lease is not assumed: rclone is stopped (SIGSTOP), so that it uploads
//! nothing over what another machine may have written, until the database says that it is still ours. If it is not, the
//! tenant is fenced as always. Time that passed on the core's clock while nothing ran is nobody's slowness.

use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::clocks::Away;
use crate::core::state::{AppState, Stage, State};

/// What has not answered since.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recheck {
    /// The bucket, and the key.
    pub(super) storage: bool,
    /// The mount.
    pub(super) mount: bool,
    /// The database, and the lease.
    pub(super) lease: bool,
    /// The lease may have ended meanwhile: nothing is uploaded.
    pub(super) unproven: bool,
    /// How long it was.
    pub(super) away: Duration,
}

impl Recheck {
    fn is_over(self) -> bool {
        !(self.storage || self.mount || self.lease)
    }
}

impl State {
    pub(super) fn resumed(&mut self, away: Away, now: Duration) -> Vec<Action> {
        let words = format!(
            "this machine was away for {:.1} s: connections are dropped, lease, mount and keys are looked at again",
            away.total().as_secs_f64()
        );
        let mut actions = vec![Action::Say(Level::Warn, "resumed", words), Action::DropConnections];
        if self.is_stopping() || self.prepared.is_none() {
            return actions;
        }
        self.totals_resumed += 1;
        if let AppState::Starting { since } = &mut self.app.state {
            *since += away.stalled;
        }
        self.mounter.stuck = None;
        self.mounter.hung = 0;
        self.mounter.next_probe = now;
        self.storage.probing = false;
        self.storage.next_probe = now;
        self.index_wants_attention(now);
        actions.extend(self.keys_older_by(away.asleep, now));
        let held = self.index.is_held() && self.mounter.launched;
        let proven = self.database.last_ok.map_or(Duration::ZERO, |(at, _)| at);
        let unproven = held && now.saturating_sub(proven) + away.asleep >= self.policy.lease_ttl;
        let paused = self.is_paused();
        self.recheck = Recheck {
            storage: true,
            mount: self.stage == Stage::Serving,
            lease: held,
            unproven: unproven || paused,
            away: away.total(),
        };
        if unproven && !paused {
            let words =
                "the lease may have ended meanwhile: nothing is uploaded until the database says that it is still ours";
            actions.push(Action::Say(Level::Warn, "lease_unproven", words.into()));
            actions.push(Action::PauseMounter);
        }
        actions
    }

    /// Is rclone stopped because the lease is not known to be ours?
    pub(super) fn is_paused(&self) -> bool {
        self.recheck.unproven
    }

    /// The bucket has answered, in whatever way: its own reasons say how.
    pub(super) fn storage_rechecked(&mut self) {
        self.recheck.storage = false;
    }

    /// So has the mount. (Not while rclone is stopped.)
    pub(super) fn mount_rechecked(&mut self) {
        self.recheck.mount &= self.recheck.unproven;
    }

    /// The database has answered, and the lease is ours.
    pub(super) fn lease_rechecked(&mut self) -> Vec<Action> {
        self.recheck.lease = false;
        self.unpause()
    }

    /// rclone may go on.
    pub(super) fn unpause(&mut self) -> Vec<Action> {
        if std::mem::take(&mut self.recheck.unproven) {
            vec![Action::ResumeMounter]
        } else {
            Vec::new()
        }
    }

    /// As `code: words`.
    pub(super) fn resume_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let (recheck, seconds) = (self.recheck, self.recheck.away.as_secs());
        if recheck.unproven {
            reasons.push(format!(
                "lease_unproven: this machine was away for {seconds} s, longer than its lease; nothing is uploaded until the database answers"
            ));
        } else if !recheck.is_over() {
            reasons.push(format!(
                "resumed: away for {seconds} s; lease, mount and keys are looked at again"
            ));
        }
        reasons
    }
}
