//! The core in virtual time: scripted lives of a tenant, and random ones.

mod index;
mod keys;
mod life;
mod model;
mod orphaned;
mod outage;
mod pressure;
mod random;
mod reconnect;
mod resume;

use std::time::Duration;

use crate::config::RestartPolicy;
use crate::core::action::Action;
use crate::core::event::{AppEvent, Driver, Event, MountEvent, PhaseEnd, Prepared};
use crate::core::health::Clock;
use crate::core::policy::Policy;
use crate::core::snapshot::Snapshot;
use crate::core::state::State;

/// A policy with round numbers.
pub fn policy() -> Policy {
    Policy {
        start_timeout: Duration::from_secs(12),
        stop_timeout: Duration::from_secs(110),
        outage_limit: None,
        rejected_limit: Duration::from_secs(60),
        uploads_max_age: Duration::from_secs(60),
        uploads_read_only_age: Some(Duration::from_secs(900)),
        cache_max_bytes: 1 << 30,
        cache_min_free_bytes: 256 << 20,
        restart_budget: 3,
        restart_window: Duration::from_secs(300),
        mount_interval: Duration::from_secs(5),
        storage_interval: Duration::from_secs(10),
        lease_ttl: Duration::from_secs(30),
        lease_wait: Duration::from_secs(360),
        max_lag: Duration::from_secs(60),
        restart: RestartPolicy::Always,
        app_start_timeout: Duration::from_secs(120),
        seed: 7,
    }
}

impl State {
    /// The picture, with a clock that began in 1970.
    pub fn snapshot_at(&self, now: Duration) -> Snapshot {
        let clock = Clock {
            started: jiff::Timestamp::UNIX_EPOCH,
        };
        self.snapshot(now, &clock)
    }
}

/// Without a database, with keys for ever.
pub fn a_tenant(driver: Driver) -> Prepared {
    Prepared {
        tenant: "acme".into(),
        driver,
        has_database: false,
        has_index: true,
        found_pending: 0,
        keys_valid_for: None,
    }
}

/// A tenant in virtual time.
#[derive(Clone)]
pub struct Life {
    pub state: State,
    pub now: Duration,
    /// Every action so far, without what was only said.
    pub done: Vec<Action>,
    pub said: Vec<String>,
}

impl Life {
    pub fn new(policy: Policy) -> Self {
        Life::beginning(State::start(policy))
    }

    pub fn beginning((state, first): (State, Vec<Action>)) -> Self {
        let mut life = Life {
            state,
            now: Duration::ZERO,
            done: Vec::new(),
            said: Vec::new(),
        };
        life.note(first);
        life
    }

    fn note(&mut self, actions: Vec<Action>) -> Vec<Action> {
        for action in &actions {
            match action {
                Action::Say(_, _, words) => self.said.push(words.clone()),
                other => self.done.push(other.clone()),
            }
        }
        actions
    }

    /// One event now; the actions without what was only said.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        let actions = self.state.step(event, self.now);
        self.note(actions)
            .into_iter()
            .filter(|a| !matches!(a, Action::Say(..)))
            .collect()
    }

    /// Lets time pass, stopping at each deadline as the loop does.
    pub fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.now + time;
        let mut all = Vec::new();
        while let Some(due) = self.state.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let actions = self.on(Event::Timer);
            // Probes are answered by the script; whatever else is due has happened.
            assert!(
                !actions.is_empty() || self.state.next_deadline().is_none_or(|next| next > self.now),
                "the timer at {:?} did nothing and is due again: the loop would spin",
                self.now
            );
            all.extend(actions);
        }
        self.now = end;
        all
    }

    pub fn prepared(&mut self, driver: Driver) -> Vec<Action> {
        self.on(Event::Prepared(Ok(a_tenant(driver))))
    }

    /// Up to ready.
    pub fn ready(driver: Driver, policy: Policy) -> Self {
        let mut life = Life::new(policy);
        life.prepared(driver);
        life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
        life.on(Event::Mount(MountEvent::Ready));
        life.on(Event::App(AppEvent::Started { pid: 11 }));
        life.on(Event::App(AppEvent::Ready));
        life.done.clear();
        life
    }

    /// The rclone with this pid has died.
    pub fn mounter_died(&mut self, pid: u32) -> Vec<Action> {
        let words = "killed by SIGKILL".into();
        self.on(Event::Mount(MountEvent::Exited { pid, words }))
    }

    pub fn end(&mut self, end: PhaseEnd) -> Vec<Action> {
        self.on(Event::Phase(end))
    }

    pub fn gone(&mut self) -> Vec<Action> {
        self.on(Event::App(AppEvent::Gone))
    }
}
