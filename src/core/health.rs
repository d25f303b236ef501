//! Ready or not, and why; and the snapshot everyone reads.
//!
//! Ready means: a client may be sent here and what it writes will be stored soon. So an unreachable bucket or late
//! uploads make the tenant *degraded*: the app goes on, `/readyz` says 503 and why, nothing is restarted for it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::core::action::{Action, Level};
use crate::core::index::LeaseState;
use crate::core::snapshot::{
    Changes, Dependency, IndexState, Lease, Phase, Service, Services, Snapshot, Totals, Uploads,
};
use crate::core::state::{AppState, Stage, State, Watched};

/// Turns the core's time into wall-clock time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    /// The wall-clock time at which the core's time was zero.
    pub started: Timestamp,
}

impl Clock {
    fn rfc3339(&self, at: Duration) -> String {
        let at = SignedDuration::try_from(at).unwrap_or(SignedDuration::ZERO);
        let time = self.started.checked_add(at).unwrap_or(self.started);
        format!("{time:.3}")
    }
}

impl State {
    /// Everything that keeps the tenant from being ready, as `code: words`. Empty when it is ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons = Vec::from_iter(self.orphan_reason());
        match &self.stage {
            Stage::Preparing => reasons.push("starting: fetching credentials and checking preconditions".into()),
            Stage::Leasing => {}
            Stage::Mounting if !self.mounter.ever_ready => reasons.push("mount_starting: waiting for the mount".into()),
            Stage::Mounting | Stage::Recovering(_) | Stage::Waiting { .. } => reasons.push(format!(
                "mount_recovering: {}",
                self.mounter.last_error.as_deref().unwrap_or("the mount is made again")
            )),
            Stage::Serving => {}
            Stage::Stopping(stop) => reasons.push(format!("stopping: {}", stop.cause.words())),
            Stage::Stopped => reasons.push("stopped: the verdict is written".into()),
        }
        if self.stage == Stage::Serving {
            if self.mounter.reconnect.is_some() {
                let words = self.mounter.last_error.as_deref().unwrap_or("rclone was lost");
                reasons.push(format!("mount_reconnecting: {words}"));
            }
            match &self.app.state {
                AppState::Ready { .. } => {}
                AppState::Starting { .. } => reasons.push("app_starting: waiting for the app's first answer".into()),
                AppState::Ending {
                    by_itself: Some((_, words)),
                    ..
                } => reasons.push(format!("app_down: the app ended by itself: {words}")),
                AppState::Off if !self.index.is_usable() => {}
                AppState::Off | AppState::Ending { .. } | AppState::Waiting { .. } if self.holds_app(self.now) => {}
                _ => reasons.push(format!(
                    "app_down: {}",
                    self.app.last_error.as_deref().unwrap_or("the app is not running")
                )),
            }
            if let Some((words, _)) = &self.mounter.stuck {
                reasons.push(format!("mount_stuck: {words}"));
            }
            reasons.extend(self.pressure_reasons());
        }
        if !self.is_stopping() {
            let error = self.storage.last_error.as_deref().unwrap_or("no answer");
            if self.storage.slow_down {
                reasons.push(format!("storage_slow_down: {error}"));
            } else if self.storage.down_since.is_some() {
                reasons.push(format!("storage_unreachable: {error}"));
            } else if self.storage.rejected_since.is_some() {
                reasons.push(format!("storage_rejected: {error}"));
            }
        }
        if !self.is_stopping() {
            reasons.extend(self.resume_reasons());
        }
        reasons.extend(self.index_reasons());
        if reasons.is_empty() && self.stage == Stage::Leasing {
            reasons.push("lease_starting: taking the tenant's lease".into());
        }
        reasons
    }

    /// The phase, derived from everything else.
    #[must_use]
    pub fn phase(&self) -> Phase {
        match self.stage {
            Stage::Stopping(_) => Phase::Stopping,
            Stage::Stopped => Phase::Stopped,
            _ if self.orphaned.is_some() => Phase::Stopping,
            _ if self.reasons().is_empty() => Phase::Ready,
            _ if self.ever_ready => Phase::Degraded,
            _ => Phase::Starting,
        }
    }

    /// Notices a change of phase and says so.
    pub(super) fn announce(&mut self, now: Duration) -> Option<Action> {
        let phase = self.phase();
        if phase == self.phase {
            return None;
        }
        let took = now.saturating_sub(self.phase_since).as_secs_f64();
        self.phase = phase;
        self.phase_since = now;
        let first = phase == Phase::Ready && !self.ever_ready;
        self.ever_ready |= phase == Phase::Ready;
        match phase {
            Phase::Ready if first => Some(Action::Say(Level::Info, "tenant", format!("ready after {took:.2} s"))),
            Phase::Ready => Some(Action::Say(
                Level::Info,
                "tenant",
                format!("ready again after {took:.1} s"),
            )),
            Phase::Degraded => Some(Action::Say(
                Level::Warn,
                "tenant",
                format!("degraded: {}", self.reasons().join("; ")),
            )),
            _ => None,
        }
    }

    /// The picture at `now`. Operations and changes are filled in by the loop, which owns them.
    #[must_use]
    pub fn snapshot(&self, now: Duration, clock: &Clock) -> Snapshot {
        let prepared = self.prepared.as_ref();
        let restarts = |by: &BTreeMap<&'static str, u64>| by.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        Snapshot {
            version: env!("CARGO_PKG_VERSION").into(),
            tenant: prepared.map(|p| p.tenant.clone()).unwrap_or_default(),
            phase: self.phase(),
            ready: self.phase() == Phase::Ready,
            reasons: self.reasons(),
            since: clock.rfc3339(self.phase_since),
            services: Services {
                mount: Service {
                    state: self.mount_state().into(),
                    pid: self.mounter.pid,
                    driver: self.driver().map(|d| d.name().into()),
                    restarts: self.mounter.restarts.values().sum(),
                    restarts_by_cause: restarts(&self.mounter.restarts),
                    last_error: self.mounter.last_error.clone(),
                },
                index: Service {
                    state: self.index_state().into(),
                    pid: None,
                    driver: Some(self.index_driver().into()),
                    restarts: self.index.repairs.values().sum(),
                    restarts_by_cause: restarts(&self.index.repairs),
                    last_error: self.index.last_error.clone(),
                },
                app: Service {
                    state: self.app_state().into(),
                    pid: self.app.pid,
                    driver: None,
                    restarts: self.app.restarts.values().sum(),
                    restarts_by_cause: restarts(&self.app.restarts),
                    last_error: self.app.last_error.clone(),
                },
            },
            uploads: Uploads {
                queued: self.queue.files,
                in_progress: self.queue.in_progress,
                bytes: self.queue.bytes,
                oldest_seconds: self.queue.oldest.as_secs_f64(),
                failing: self.queue.failing,
                failures_total: self.upload_failures,
                read_only: self.pressure.is_read_only(),
                room_bytes: self.pressure.room.map(|room| room.total()),
            },
            index: IndexState {
                outbox: self.index.backlog.transactions,
                lag_seconds: self.index.lag(now).as_secs_f64(),
                position: self.index.position,
            },
            storage: dependency(&self.storage, clock),
            database: dependency(&self.database, clock),
            lease: Lease {
                held: self.index.is_held(),
                epoch: match self.index.lease {
                    LeaseState::Held { epoch } => Some(epoch),
                    _ => None,
                },
            },
            operations: BTreeMap::new(),
            changes: Changes::default(),
            totals: Totals {
                resumes: self.totals_resumed,
                slow_downs: self.totals_slow_downs,
                outage_seconds: [("storage", &self.storage), ("database", &self.database)]
                    .into_iter()
                    .map(|(name, watched)| (name.to_owned(), watched.outage_at(now).as_secs_f64()))
                    .collect(),
            },
        }
    }

    fn mount_state(&self) -> &'static str {
        match &self.stage {
            Stage::Preparing | Stage::Leasing => "waiting",
            Stage::Mounting => "starting",
            Stage::Serving if self.mounter.reconnect.is_some() => "recovering",
            Stage::Serving if self.mounter.stuck.is_some() || self.pressure.is_read_only() => "degraded",
            Stage::Serving => "ready",
            Stage::Recovering(_) | Stage::Waiting { .. } => "recovering",
            Stage::Stopping(_) => "stopping",
            Stage::Stopped => "stopped",
        }
    }

    fn app_state(&self) -> &'static str {
        match &self.app.state {
            AppState::Off if self.is_stopping() => "stopped",
            AppState::Off => "waiting",
            AppState::Starting { .. } => "starting",
            AppState::Ready { .. } => "ready",
            AppState::Ending { by_itself: Some(_), .. } | AppState::Waiting { .. } => "failed",
            AppState::Ending { .. } => "stopping",
        }
    }
}

fn dependency(watched: &Watched, clock: &Clock) -> Dependency {
    let reachable = match (
        watched.used,
        watched.down_since.is_some() || watched.rejected_since.is_some(),
    ) {
        (false, _) => None,
        (true, true) => Some(false),
        (true, false) => watched.last_ok.map(|_| true),
    };
    Dependency {
        reachable,
        // The mount's own readiness also proves the bucket, but has no latency.
        latency_ms: watched
            .last_ok
            .filter(|(_, latency)| !latency.is_zero())
            .map(|(_, latency)| (latency.as_secs_f64() * 1e6).round() / 1e3),
        last_ok: watched.last_ok.map(|(at, _)| clock.rfc3339(at)),
        last_error: watched.last_error.clone(),
    }
}
