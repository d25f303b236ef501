//! The state the decisions are made on. Fields are what was observed or decided; what can be derived is derived.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::action::{Action, Flow};
use crate::core::backoff::Backoff;
use crate::core::event::{Driver, Prepared, Queue};
use crate::core::index::Index;
use crate::core::keys::Keys;
use crate::core::orphaned::Orphaned;
use crate::core::policy::Policy;
use crate::core::pressure::Pressure;
use crate::core::reconnect::Reconnect;
use crate::core::resume::Recheck;
use crate::core::snapshot::Phase;
use crate::core::stop::Stop;

/// Where in its life the tenant is, in enough detail to decide the next action.
#[derive(Debug, Clone, PartialEq)]
pub enum Stage {
    /// Credentials and preconditions.
    Preparing,
    /// The lease is being taken, or waited for.
    Leasing,
    /// The mounter was launched; readiness is awaited.
    Mounting,
    /// The mount is ready; the app runs or is about to.
    Serving,
    /// A failed mount is being taken away.
    Recovering(RecoveryPhase),
    /// Waiting before the mounter is launched again.
    Waiting {
        /// Launch then.
        until: Duration,
    },
    /// Stopping.
    Stopping(Stop),
    /// `Action::Finish` was given.
    Stopped,
}

/// What a recovery is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryPhase {
    /// The app's group to be gone.
    App,
    /// The mount point to be clean.
    Unmount,
    /// rclone to be gone.
    Mounter,
}

/// The mounter and the mount.
#[derive(Debug, Clone)]
pub struct Mounter {
    /// rclone's pid while it runs.
    pub pid: Option<u32>,
    /// Was launched and not cleared away since: there may be something to unmount.
    pub launched: bool,
    /// Ready since.
    pub ready_since: Option<Duration>,
    /// Was it ever ready in this life?
    pub ever_ready: bool,
    /// What does not answer, and for how many probes in a row.
    pub stuck: Option<(String, u32)>,
    /// Rounds in a row in which rclone was proven to hang.
    pub hung: u32,
    /// A health round is under way.
    pub probing: bool,
    /// The end of the last one.
    pub probed: Option<Duration>,
    /// The next health round.
    pub next_probe: Duration,
    /// How uploads were last told to flow.
    pub flow: Flow,
    /// The last time that the store asked us to slow down.
    pub slowed_down: Option<Duration>,
    /// rclone is being replaced behind the guard.
    pub reconnect: Option<Reconnect>,
    /// Delay before the next launch, decided when it failed.
    pub retry_delay: Duration,
    /// Restart bookkeeping.
    pub backoff: Backoff,
    /// Restarts by cause.
    pub restarts: BTreeMap<&'static str, u64>,
    /// The last failure.
    pub last_error: Option<String>,
}

/// The app's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppState {
    /// Nothing of it runs.
    Off,
    /// Started, not answering yet.
    Starting {
        /// Since.
        since: Duration,
    },
    /// Answers.
    Ready {
        /// Started at.
        since: Duration,
    },
    /// Its group is going away.
    Ending {
        /// KILL then, if it has not gone.
        kill_at: Option<Duration>,
        /// It ended by itself with this code and these words (`None`: we asked it to).
        by_itself: Option<(u8, String)>,
        /// It had been running this long.
        ran: Duration,
    },
    /// Waiting before it is started again.
    Waiting {
        /// Start then.
        until: Duration,
    },
}

/// The app.
#[derive(Debug, Clone)]
pub struct App {
    /// Its life.
    pub state: AppState,
    /// Its pid while it runs.
    pub pid: Option<u32>,
    /// Was it ever ready in this life?
    pub ever_ready: bool,
    /// Ends in a row without having been ready.
    pub failed_starts: u32,
    /// The kernel killed it for memory the last time it ended.
    pub out_of_memory: bool,
    /// Restart bookkeeping.
    pub backoff: Backoff,
    /// Restarts by cause.
    pub restarts: BTreeMap<&'static str, u64>,
    /// The last failure.
    pub last_error: Option<String>,
}

/// A dependency elsewhere, watched by probes.
#[derive(Debug, Clone, Default)]
pub struct Watched {
    /// Does the tenant have it at all?
    pub used: bool,
    /// A probe is under way.
    pub probing: bool,
    /// The last probe began then.
    pub asked: Duration,
    /// The next probe.
    pub next_probe: Duration,
    /// The last outage ended then.
    pub back_since: Option<Duration>,
    /// Unreachable since.
    pub down_since: Option<Duration>,
    /// It answers, but refuses our key, since. An outage in between is left out.
    pub rejected_since: Option<Duration>,
    /// How long it had been refusing our key when the present outage began.
    pub rejected_before: Duration,
    /// It asks us to slow down.
    pub slow_down: bool,
    /// The last success: when, and how long it took.
    pub last_ok: Option<(Duration, Duration)>,
    /// The last failure in words, while it lasts.
    pub last_error: Option<String>,
    /// Outages that are over, summed.
    pub outage_total: Duration,
}

impl Watched {
    /// Does it not answer, or refuse our key?
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.down_since.or(self.rejected_since).is_some()
    }

    /// Seconds of outage so far, the present one included.
    #[must_use]
    pub fn outage_at(&self, now: Duration) -> Duration {
        self.outage_total
            + self
                .down_since
                .map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }
}

/// The whole state of a tenant.
#[derive(Debug, Clone)]
pub struct State {
    pub(super) policy: Policy,
    /// The time of the last event.
    pub(super) now: Duration,
    pub(super) stage: Stage,
    pub(super) prepared: Option<Prepared>,
    pub(super) mounter: Mounter,
    pub(super) app: App,
    pub(super) storage: Watched,
    pub(super) database: Watched,
    pub(super) index: Index,
    pub(super) queue: Queue,
    pub(super) pressure: Pressure,
    pub(super) keys: Keys,
    pub(super) recheck: Recheck,
    /// The supervisor before this one has died.
    pub(super) orphaned: Option<Orphaned>,
    /// How often this machine came back.
    pub(super) totals_resumed: u64,
    /// Answers of the store that asked us to slow down.
    pub(super) totals_slow_downs: u64,
    pub(super) upload_failures: u64,
    pub(super) ever_ready: bool,
    pub(super) stop_began: Option<Duration>,
    pub(super) phase: Phase,
    pub(super) phase_since: Duration,
}

impl State {
    /// A tenant at its start, and the first action.
    #[must_use]
    pub fn start(policy: Policy) -> (State, Vec<Action>) {
        let backoff = |salt| Backoff::new(policy.restart_budget, policy.restart_window, policy.seed ^ salt);
        let state = State {
            now: Duration::ZERO,
            stage: Stage::Preparing,
            prepared: None,
            mounter: Mounter {
                pid: None,
                launched: false,
                ready_since: None,
                ever_ready: false,
                stuck: None,
                hung: 0,
                probing: false,
                probed: None,
                next_probe: Duration::ZERO,
                flow: Flow::Free,
                slowed_down: None,
                reconnect: None,
                retry_delay: Duration::ZERO,
                backoff: backoff(1),
                restarts: BTreeMap::new(),
                last_error: None,
            },
            app: App {
                state: AppState::Off,
                pid: None,
                ever_ready: false,
                failed_starts: 0,
                out_of_memory: false,
                backoff: backoff(2),
                restarts: BTreeMap::new(),
                last_error: None,
            },
            storage: Watched::default(),
            database: Watched::default(),
            index: Index::new(backoff(3)),
            queue: Queue::default(),
            pressure: Pressure::default(),
            keys: Keys::default(),
            recheck: Recheck::default(),
            orphaned: None,
            totals_resumed: 0,
            totals_slow_downs: 0,
            upload_failures: 0,
            ever_ready: false,
            stop_began: None,
            phase: Phase::Starting,
            phase_since: Duration::ZERO,
            policy,
        };
        (state, vec![Action::Prepare])
    }

    /// `None` before the preconditions were checked.
    #[must_use]
    pub fn driver(&self) -> Option<Driver> {
        self.prepared.as_ref().map(|p| p.driver)
    }

    /// Has `Action::Finish` been given?
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stage == Stage::Stopped
    }

    /// Seconds since the stop began; 0 before.
    #[must_use]
    pub fn stop_seconds(&self, now: Duration) -> f64 {
        self.stop_began
            .map_or(0.0, |began| now.saturating_sub(began).as_secs_f64())
    }

    /// The mount is given up: calls on it wait for nothing.
    pub(super) fn serves_nothing(&self) -> bool {
        match &self.stage {
            Stage::Recovering(_) => true,
            Stage::Stopping(stop) => !stop.mounted,
            _ => false,
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.stage, Stage::Stopping(_) | Stage::Stopped)
    }

    /// When the next health round is due, while serving.
    pub(super) fn probe_due(&self) -> Option<Duration> {
        (!self.mounter.probing && self.mounter.reconnect.is_none()).then_some(self.mounter.next_probe)
    }

    /// When `step` must be called with `Event::Timer` at the latest. `None`: nothing is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.is_stopped() {
            return None;
        }
        let mut due = Vec::with_capacity(8);
        due.extend(self.index_deadline());
        match &self.stage {
            Stage::Waiting { until } if !self.is_paused() => due.push(*until),
            Stage::Stopping(stop) => due.push(stop.deadline),
            Stage::Serving => due.extend(self.probe_due()),
            _ => {}
        }
        due.extend(self.reconnect_due());
        due.extend(self.orphan_due());
        match &self.app.state {
            AppState::Starting { since } => due.push(*since + self.policy.app_start_timeout),
            AppState::Ending { kill_at: Some(at), .. } => due.push(*at),
            AppState::Waiting { until } if self.stage == Stage::Serving && !self.holds_app(self.now) => {
                due.push(*until)
            }
            _ => {}
        }
        if !self.is_stopping() {
            due.extend(self.keys.ask_at());
            if self.storage.used && !self.storage.probing {
                due.push(self.storage.next_probe);
            }
            if let (Some(since), Some(limit)) = (self.storage.down_since, self.policy.outage_limit) {
                due.push(since + limit);
            }
        }
        due.into_iter().min()
    }
}
