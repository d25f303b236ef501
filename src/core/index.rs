//! The lease, and the index on its way to the database.
//!
//! With a database a tenant's life begins with the lease: one machine at a time. Then the local index file is opened
//! (continued, or restored from the database) while the mount comes up; the app waits for both. From then on every
//! change that the app commits is shipped, one request at a time, so that what is committed during a request goes
//! together in the next one. Each request renews the lease; without changes one is sent after a third of its time.
//!
//! What can go wrong, and what follows:
//!
//! | | |
//! |---|---|
//! | the database does not answer | degraded; the app goes on, the outbox grows, tried again every 2 s |
//! | it refuses our token for a minute | a stop with 77 |
//! | another machine took the lease | fenced: nothing more is written or uploaded, a stop with 77 |
//! | a statement fails there, or counts differ | degraded; the database is filled anew from the local file |
//! | the app never becomes ready on this file | the file is put aside once; the app fills a new one from the notes |

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::action::{Action, Level};
use crate::core::backoff::{Backoff, Verdict};
use crate::core::event::{
    Backlog, Failure, IndexEvent, IndexOpened, LeaseRefusal, LeaseTaken, Prepared, ShipFailure, Shipped,
};
use crate::core::policy::OUTAGE_PROBE_INTERVAL;
use crate::core::resume::Recheck;
use crate::core::state::{AppState, Stage, State};
use crate::core::step::observe;
use crate::core::verdict::Cause;
use crate::exit::Exit;

/// A waiting start asks for the lease this often at the most, and at the least.
const LEASE_ASK: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
/// Changes are gathered this long before a request: one note is some twenty transactions.
const GATHER: Duration = Duration::from_millis(100);
/// An app that ended this often without having been ready gets a new index.
const REBUILD_AFTER: u32 = 3;

/// The lease as we know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// There is none to take, or it was not asked for yet.
    None,
    /// Another machine has it.
    Waiting {
        /// Which.
        holder: String,
        /// Ask again then; `None` while the question is under way.
        ask_at: Option<Duration>,
    },
    /// Ours.
    Held {
        /// Our epoch.
        epoch: u64,
    },
    /// Another machine took it from us.
    Lost,
}

/// The local file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileState {
    /// The app keeps no index, or keeps it by itself.
    Unmanaged,
    /// Not asked for yet.
    Closed,
    /// `Action::OpenIndex` or `Action::RebuildIndex` is under way.
    Opening,
    /// It could not be opened because the database did not answer.
    Retry {
        /// Try again then.
        at: Duration,
    },
    /// The app may use it.
    Open,
}

/// What is being done with the database. One thing at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Nothing.
    Idle,
    /// `Action::ShipIndex`
    Shipping,
    /// `Action::ReseedIndex`
    Reseeding,
    /// `Action::CompareIndex`
    Comparing,
}

/// Lease and index.
#[derive(Debug, Clone)]
pub struct Index {
    pub(super) lease: LeaseState,
    /// Asking for the lease began then.
    asked_since: Duration,
    /// Time a start spent waiting for another machine's lease.
    pub(super) waited: Duration,
    pub(super) file: FileState,
    job: Job,
    /// Something was committed that no request has looked at yet.
    written: bool,
    /// Somebody wants the whole index compared.
    check: bool,
    /// The next request is due.
    next: Duration,
    /// Database and file do not match: cause and words.
    pub(super) broken: Option<(&'static str, String)>,
    pub(super) backlog: Backlog,
    /// `backlog` was seen then.
    backlog_at: Duration,
    pub(super) position: Option<u64>,
    /// Reseeds and rebuilds by cause.
    pub(super) repairs: BTreeMap<&'static str, u64>,
    repair: Backoff,
    pub(super) last_error: Option<String>,
    rebuilt: bool,
}

impl Index {
    /// Before anything is known. `repair`: delay and budget of reseeds.
    #[must_use]
    pub fn new(repair: Backoff) -> Self {
        Index {
            lease: LeaseState::None,
            asked_since: Duration::ZERO,
            waited: Duration::ZERO,
            file: FileState::Unmanaged,
            job: Job::Idle,
            written: false,
            check: false,
            next: Duration::ZERO,
            broken: None,
            backlog: Backlog::default(),
            backlog_at: Duration::ZERO,
            position: None,
            repairs: BTreeMap::new(),
            repair,
            last_error: None,
            rebuilt: false,
        }
    }

    /// May the app use its index?
    pub(super) fn is_usable(&self) -> bool {
        matches!(self.file, FileState::Open | FileState::Unmanaged)
    }

    /// How long the oldest change has been waiting for the database.
    pub(super) fn lag(&self, now: Duration) -> Duration {
        self.backlog
            .oldest
            .map_or(Duration::ZERO, |age| age + now.saturating_sub(self.backlog_at))
    }

    pub(super) fn is_held(&self) -> bool {
        matches!(self.lease, LeaseState::Held { .. })
    }

    fn ship_at(&self) -> Option<Duration> {
        // Also while the file is being restored: the lease must not run out over a large index.
        (self.is_held() && self.job == Job::Idle).then_some(self.next)
    }
}

impl State {
    /// Credentials are there: lease first, or straight to the mount.
    pub(super) fn begin_index(&mut self, now: Duration) -> Vec<Action> {
        if !self.database.used {
            return self.launch_mount(now);
        }
        if self.keeps_index() {
            self.index.file = FileState::Closed;
        }
        self.stage = Stage::Leasing;
        self.index.asked_since = now;
        vec![Action::TakeLease]
    }

    /// Is there an index that we keep in a database?
    fn keeps_index(&self) -> bool {
        self.prepared
            .as_ref()
            .is_some_and(|prepared: &Prepared| prepared.has_database && prepared.has_index)
    }

    pub(super) fn index_event(&mut self, event: IndexEvent, now: Duration) -> Vec<Action> {
        match event {
            IndexEvent::Lease(Ok(taken)) => self.lease_taken(taken, now),
            IndexEvent::Lease(Err(refusal)) => self.lease_refused(refusal, now),
            IndexEvent::Opened(Ok(opened)) => self.index_opened(opened, now),
            IndexEvent::Opened(Err(failure)) => self.index_not_opened(failure, now),
            IndexEvent::Written => {
                // A request that is due already is not put off by every further change.
                if !self.index.written && self.index.broken.is_none() && self.database.down_since.is_none() {
                    self.index.next = self.index.next.min(now + GATHER);
                }
                self.index.written = true;
                Vec::new()
            }
            IndexEvent::Shipped(result, backlog) => {
                self.index.job = Job::Idle;
                self.index.backlog = backlog;
                self.index.backlog_at = now;
                match result {
                    Ok(shipped) => self.shipped(&shipped, now),
                    Err(failure) => self.not_shipped(failure, now),
                }
            }
            IndexEvent::Reseeded(result) => {
                self.index.job = Job::Idle;
                match result {
                    Ok(rows) => self.reseeded(rows, now),
                    Err(failure) => self.not_shipped(failure, now),
                }
            }
            IndexEvent::Compared(result) => {
                self.index.job = Job::Idle;
                self.index.next = now;
                match result {
                    Ok(words) => vec![Action::Say(Level::Info, "index_compared", words)],
                    Err(failure) => self.not_shipped(failure, now),
                }
            }
        }
    }

    /// The full check on demand. It waits its turn behind what is being shipped.
    pub(super) fn check_index(&mut self, now: Duration) -> Vec<Action> {
        if !self.keeps_index() || self.is_stopping() {
            let words = "there is no index in a database to compare with".into();
            return vec![Action::Say(Level::Info, "index_compared", words)];
        }
        self.index.check = true;
        if self.index.broken.is_none() && self.database.down_since.is_none() {
            self.index.next = now;
        }
        Vec::new()
    }

    fn lease_taken(&mut self, taken: LeaseTaken, now: Duration) -> Vec<Action> {
        // Nothing gives a lost lease back.
        if self.index.lease == LeaseState::Lost {
            return Vec::new();
        }
        self.index.lease = LeaseState::Held { epoch: taken.epoch };
        self.index.position = Some(taken.position);
        self.index.next = now + self.policy.lease_ttl / 3;
        observe(&mut self.database, &Ok(taken.latency), now, Duration::ZERO);
        // A stop that began meanwhile gives it back.
        if self.stage != Stage::Leasing {
            return Vec::new();
        }
        self.index.waited = now.saturating_sub(self.index.asked_since);
        let mut actions = self.launch_mount(now);
        if self.keeps_index() {
            self.index.file = FileState::Opening;
            actions.push(Action::OpenIndex);
        }
        actions
    }

    fn lease_refused(&mut self, refusal: LeaseRefusal, now: Duration) -> Vec<Action> {
        if self.stage != Stage::Leasing {
            return Vec::new();
        }
        let (holder, expires_in) = match refusal {
            LeaseRefusal::Held { holder, expires_in } => (holder, expires_in),
            LeaseRefusal::Failed(failure) => return self.begin_stop(Cause::Failure(failure), now),
        };
        let waited = now.saturating_sub(self.index.asked_since);
        if waited >= self.policy.lease_wait {
            let words = format!(
                "another machine ({holder}) still holds this tenant's lease after {} s (index.lease_wait). Stop that machine, or this one",
                waited.as_secs()
            );
            return self.begin_stop(Cause::Failure(Failure::new(Exit::Refused, words)), now);
        }
        let first = !matches!(&self.index.lease, LeaseState::Waiting { holder: known, .. } if *known == holder);
        let ask_at = Some(now + expires_in.clamp(LEASE_ASK.0, LEASE_ASK.1));
        let words = format!(
            "another machine ({holder}) holds this tenant's lease for {:.0} s more unless it renews it; waiting up to {} s for its end",
            expires_in.as_secs_f64(),
            self.policy.lease_wait.as_secs()
        );
        self.index.lease = LeaseState::Waiting { holder, ask_at };
        if first {
            vec![Action::Say(Level::Warn, "lease_waiting", words)]
        } else {
            Vec::new()
        }
    }

    fn index_opened(&mut self, opened: IndexOpened, now: Duration) -> Vec<Action> {
        if self.index.file != FileState::Opening {
            return Vec::new();
        }
        self.index.file = FileState::Open;
        self.index.written = true;
        self.index.next = now;
        let mut actions = Vec::new();
        if let Some(words) = opened.reseed {
            self.index.broken = Some(("open", words));
        }
        actions.extend(self.start_app_when_possible(now));
        actions
    }

    fn index_not_opened(&mut self, failure: Failure, now: Duration) -> Vec<Action> {
        if self.index.file != FileState::Opening || self.is_stopping() {
            return Vec::new();
        }
        self.index.last_error = Some(failure.words.clone());
        if !failure.is_outage() {
            return self.begin_stop(Cause::Failure(failure), now);
        }
        self.index.file = FileState::Retry {
            at: now + OUTAGE_PROBE_INTERVAL,
        };
        self.database_is_down(failure, now)
    }

    fn shipped(&mut self, shipped: &Shipped, now: Duration) -> Vec<Action> {
        self.index.position = Some(shipped.position);
        let soon = self.index.written || self.index.backlog.transactions > 0;
        self.index.next = now + if soon { GATHER } else { self.policy.lease_ttl / 3 };
        let Some(latency) = shipped.latency else {
            return Vec::new();
        };
        // Every request to the database carries the lease's epoch, and fails when it is another's.
        let mut actions = self.lease_rechecked();
        actions.extend(self.database_answers(latency, now));
        actions
    }

    fn database_answers(&mut self, latency: Duration, now: Duration) -> Vec<Action> {
        let was_down = self.database.down_since.is_some() || self.database.rejected_since.is_some();
        observe(&mut self.database, &Ok(latency), now, Duration::ZERO);
        if was_down {
            vec![Action::Say(
                Level::Info,
                "database_back",
                "the index database answers again: shipping everything that waits".into(),
            )]
        } else {
            Vec::new()
        }
    }

    fn database_is_down(&mut self, failure: Failure, now: Duration) -> Vec<Action> {
        let was_down = self.database.down_since.is_some() || self.database.rejected_since.is_some();
        observe(&mut self.database, &Err(failure.clone()), now, Duration::ZERO);
        let mut actions = Vec::new();
        if !was_down {
            actions.push(Action::Say(Level::Warn, "database_down", failure.words.clone()));
        }
        match self.database.rejected_since {
            Some(since) if now.saturating_sub(since) >= self.policy.rejected_limit => {
                actions.extend(self.begin_stop(Cause::Failure(failure), now));
            }
            Some(_) => actions.extend(self.keys_refused(now)),
            None => {}
        }
        actions
    }

    fn not_shipped(&mut self, failure: ShipFailure, now: Duration) -> Vec<Action> {
        match failure {
            ShipFailure::Down(failure) => {
                self.index.next = now + OUTAGE_PROBE_INTERVAL;
                self.database_is_down(failure, now)
            }
            ShipFailure::Fenced { holder } => self.fenced(&holder, now),
            ShipFailure::Local(words) => {
                self.index.next = now + OUTAGE_PROBE_INTERVAL;
                let first = self.index.last_error.as_ref() != Some(&words);
                self.index.last_error = Some(words.clone());
                let said = first.then_some(Action::Say(Level::Warn, "index_unreadable", words));
                said.into_iter().collect()
            }
            ShipFailure::Broken { cause, words } => {
                self.index.last_error = Some(words.clone());
                self.index.broken = Some((cause, words.clone()));
                self.index.next = match self.index.repair.failed(cause, now, Duration::ZERO, true) {
                    Verdict::Retry(delay) => now + delay,
                    // Not given up, but no longer at the database's expense.
                    Verdict::Exhausted => now + self.policy.restart_window,
                };
                let wait = (self.index.next - now).as_secs_f64();
                vec![Action::Say(
                    Level::Error,
                    "index_broken",
                    format!("{words}; the database is filled anew from the local index in {wait:.1} s"),
                )]
            }
        }
    }

    fn reseeded(&mut self, rows: u64, now: Duration) -> Vec<Action> {
        let (cause, _) = self.index.broken.take().unwrap_or(("open", String::new()));
        *self.index.repairs.entry(cause).or_default() += 1;
        self.index.written = true;
        self.index.next = now;
        self.index.last_error = None;
        let mut actions = vec![Action::Say(
            Level::Warn,
            "index_reseeded",
            format!("the index database was filled anew from the local index: {rows} row(s)"),
        )];
        actions.extend(self.database_answers(Duration::ZERO, now));
        actions
    }

    /// Another machine writes now. From here on nothing of ours may reach the bucket or the database.
    fn fenced(&mut self, holder: &str, now: Duration) -> Vec<Action> {
        if self.index.lease == LeaseState::Lost {
            return Vec::new();
        }
        self.index.lease = LeaseState::Lost;
        let words = format!(
            "another machine ({holder}) has taken this tenant's lease; this one stops without uploading. Run one machine per tenant"
        );
        // rclone may be stopped, and stays so until it is killed.
        self.recheck = Recheck::default();
        let mut actions = vec![Action::Say(Level::Error, "lease_lost", words.clone()), Action::Fence];
        actions.extend(self.begin_fenced_stop(Cause::Failure(Failure::new(Exit::Refused, words)), now));
        actions
    }

    /// After the app ended once more without having been ready: perhaps its index is what is broken (a killed migration
    /// leaves one that no later start gets past). It can be made anew from the notes, so it is, once.
    pub(super) fn rebuild_index_for_an_app_that_never_starts(&mut self) -> Option<Vec<Action>> {
        let has_index = self.prepared.as_ref().is_some_and(|prepared| prepared.has_index);
        if !has_index || self.index.rebuilt || self.app.failed_starts < REBUILD_AFTER {
            return None;
        }
        self.index.rebuilt = true;
        self.index.file = FileState::Opening;
        *self.index.repairs.entry("rebuild").or_default() += 1;
        self.app.state = AppState::Off;
        let words = format!(
            "the app ended {} times without having been ready: its index is put aside and built anew from the notes",
            self.app.failed_starts
        );
        Some(vec![
            Action::Say(Level::Error, "index_rebuilt", words),
            Action::RebuildIndex,
        ])
    }

    /// Ask the database as soon as nothing else is being asked.
    pub(super) fn index_wants_attention(&mut self, now: Duration) {
        if self.index.broken.is_none() {
            self.index.next = now;
        }
    }

    /// When [`State::index_timers`] has something to do.
    pub(super) fn index_deadline(&self) -> Option<Duration> {
        if self.is_stopping() {
            return None;
        }
        let ask = match &self.index.lease {
            LeaseState::Waiting { ask_at, .. } => *ask_at,
            _ => None,
        };
        let open = match self.index.file {
            FileState::Retry { at } => Some(at),
            _ => None,
        };
        [ask, open, self.index.ship_at()].into_iter().flatten().min()
    }

    pub(super) fn index_timers(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if let LeaseState::Waiting { ask_at, .. } = &mut self.index.lease
            && ask_at.is_some_and(|at| at <= now)
        {
            *ask_at = None;
            actions.push(Action::TakeLease);
        }
        if let FileState::Retry { at } = self.index.file
            && at <= now
        {
            self.index.file = FileState::Opening;
            actions.push(Action::OpenIndex);
        }
        if self.index.ship_at().is_some_and(|at| at <= now) {
            self.index.written = false;
            let shipped_all = self.index.backlog.transactions == 0;
            let (job, action) = match self.index.broken {
                Some(_) if self.index.is_usable() => (Job::Reseeding, Action::ReseedIndex),
                None if self.index.check && shipped_all && self.index.is_usable() => {
                    self.index.check = false;
                    (Job::Comparing, Action::CompareIndex)
                }
                _ => (Job::Shipping, Action::ShipIndex),
            };
            self.index.job = job;
            actions.push(action);
        }
        actions
    }

    /// Everything about lease and index that keeps the tenant from being ready.
    pub(super) fn index_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.stage == Stage::Leasing
            && let LeaseState::Waiting { holder, .. } = &self.index.lease
        {
            reasons.push(format!("lease_waiting: another machine ({holder}) holds the lease"));
        }
        if self.is_stopping() {
            return reasons;
        }
        if self.stage == Stage::Serving && !self.index.is_usable() {
            reasons.push("index_starting: the local index is being made usable".into());
        }
        let error = self.database.last_error.as_deref().unwrap_or("no answer");
        if self.database.down_since.is_some() {
            reasons.push(format!("database_unreachable: {error}"));
        } else if self.database.rejected_since.is_some() {
            reasons.push(format!("database_rejected: {error}"));
        }
        if let Some((_, words)) = &self.index.broken {
            reasons.push(format!("index_diverged: {words}"));
        }
        let lag = self.index.lag(self.now);
        if lag >= self.policy.max_lag {
            reasons.push(format!(
                "index_lagging: {} transaction(s) are not in the database, the oldest for {} s",
                self.index.backlog.transactions,
                lag.as_secs()
            ));
        }
        reasons
    }

    /// `services.index.state`
    pub(super) fn index_state(&self) -> &'static str {
        let managed = self.keeps_index();
        match self.index.file {
            _ if matches!(self.stage, Stage::Stopped) => "stopped",
            _ if self.is_stopping() => "stopping",
            FileState::Unmanaged if !managed => {
                if self.app.ever_ready {
                    "local"
                } else {
                    "waiting"
                }
            }
            FileState::Unmanaged | FileState::Closed => "waiting",
            FileState::Opening | FileState::Retry { .. } => "starting",
            FileState::Open if !managed => "local",
            FileState::Open if self.index.broken.is_some() => "recovering",
            FileState::Open if self.database.down_since.or(self.database.rejected_since).is_some() => "degraded",
            FileState::Open => "ready",
        }
    }

    /// `services.index.driver`
    pub(super) fn index_driver(&self) -> &'static str {
        if self.keeps_index() { "libsql" } else { "local" }
    }
}
