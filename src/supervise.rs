//! The loop: the world becomes events, `core::step` decides, `effects` carries the actions out.
//!
//! One thread, no locks. An effect that takes time is a task that sends its event when it is done; at most one of each
//! kind is under way because the core asks for one at a time. After every step the snapshot is published; HTTP, metrics
//! and `status` read nothing else. `/livez` asks this loop itself (`ping`), so it needs no heartbeat and no wake-ups.

mod application;
mod auditing;
mod clocks;
mod effects;
pub mod finish;
mod holding;
mod identity;
mod indexing;
mod keys;
mod leasing;
mod mounting;
pub mod orphaned;
mod prepare;
mod relisting;
mod shipping;
mod suspecting;
mod warm;

use std::cell::Cell;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Config;
use crate::core::action::{Action, Level};
use crate::core::clocks as core_clocks;
use crate::core::event::Event;
use crate::core::health::Clock;
use crate::core::policy::Policy;
use crate::core::snapshot::{Phase, Snapshot};
use crate::core::state::State;
use crate::core::verdict::Verdict;
use crate::credentials::Bundle;
use crate::exit::Exit;
use crate::mount::DrainProgress;
use crate::ops;
use effects::Effects;

/// Where the credentials come from.
pub enum Keys {
    /// The configured source.
    Configured,
    /// Already known: `dev` makes its own.
    Given(Box<Bundle>),
}

/// What can be watched of a life.
pub struct View {
    /// The picture after each step.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// How far the drain of a stop is; nothing before it begins.
    pub draining: watch::Receiver<Option<DrainProgress>>,
}

/// Supervises the tenant until it is stopped or fails for good. Returns with the verdict written. `watched` is called once,
/// inside the runtime, before the first step.
pub async fn run(config: Config, keys: Keys, watched: impl FnOnce(View)) -> Exit {
    let config = Arc::new(config);
    // Before anything else can fail: whoever looks must find out what is wrong from the endpoint too.
    let listener = match listen(&config) {
        Ok(listener) => listener,
        Err(error) => {
            let words = format!(
                "cannot listen on health.listen = {}: {error}. Is another tenant-init running? Stop it or set another address",
                config.health.listen
            );
            return finish::before_the_start(&config, Exit::Machine, &words);
        }
    };
    let signals = match Signals::install(&config, false) {
        Ok(signals) => signals,
        Err(error) => {
            return finish::before_the_start(&config, Exit::Bug, &format!("cannot receive signals: {error}"));
        }
    };
    let policy = Policy::new(&config, fastrand::u64(..));
    let (state, first) = State::start(policy);
    let life = Life {
        config,
        keys,
        state,
        first,
        listener,
        signals,
    };
    live(life, watched).await
}

/// What a life begins with.
struct Life {
    config: Arc<Config>,
    keys: Keys,
    state: State,
    first: Vec<Action>,
    /// The health port, if it is ours.
    listener: Option<TcpListener>,
    signals: Signals,
}

/// The health port; a local mount has none unless it was given one.
fn listen(config: &Config) -> std::io::Result<Option<TcpListener>> {
    if config.mount.local.is_some() && config.health.listen.port() == 0 {
        return Ok(None);
    }
    TcpListener::bind(config.health.listen).map(Some)
}

async fn live(life: Life, watched: impl FnOnce(View)) -> Exit {
    let Life {
        config,
        keys,
        state,
        first,
        listener,
        signals,
    } = life;
    let orphaned = state.is_orphaned();
    let (events, inbox) = mpsc::unbounded_channel();
    let stall = core_clocks::stall(config.index.lease_ttl);
    let clock = Clock {
        started: jiff::Timestamp::now(),
    };
    let (publisher, snapshot) = watch::channel(Arc::new(state.snapshot(Duration::ZERO, &clock)));
    let metrics = Arc::new(ops::metrics::Metrics::default());
    let effects = Effects::new(Arc::clone(&config), keys, Arc::clone(&metrics), events);
    if orphaned {
        effects.has_served();
    }
    let (ping, pings) = mpsc::channel(16);
    let server = listener.map(|listener| {
        let sources = ops::http::Sources {
            snapshot,
            metrics: Arc::clone(&metrics),
            ping,
            webhook: None,
        };
        tokio::task::spawn_local(ops::http::serve(listener, sources, std::future::pending()))
    });
    watched(View {
        snapshot: publisher.subscribe(),
        draining: effects.draining(),
    });
    let exit = Loop {
        config,
        state,
        effects,
        metrics,
        publisher,
        clock,
        zero: Instant::now(),
        clocks: clocks::Clocks::new(stall),
        orphans: Cell::default(),
    }
    .turn(first, inbox, signals, pings)
    .await;
    if let Some(server) = server {
        server.abort();
    }
    exit
}

/// The signals that mean something. The three stops mean the same (Fly's default is INT, Docker's TERM); USR1 asks for the
/// full check of the index; HUP for new keys; USR2, whose default would end the supervisor, means nothing. On somebody's computer
/// HUP is a terminal that was closed: a stop, but never the second one, because shell and kernel both send it. Started with `nohup`
/// it means nothing there.
struct Signals {
    /// This is a local mount.
    local: bool,
    stopping: bool,
    check: Signal,
    /// None where it stays ignored.
    hangup: Option<Signal>,
    user: Signal,
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl Signals {
    /// `stopping`: there was a stop signal already.
    fn install(config: &Config, stopping: bool) -> std::io::Result<Self> {
        let local = config.mount.local.is_some();
        let ignored = local && crate::init::ignores_hangups();
        Ok(Signals {
            local,
            stopping,
            check: signal(SignalKind::user_defined1())?,
            hangup: if ignored {
                None
            } else {
                Some(signal(SignalKind::hangup())?)
            },
            user: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> Event {
        let event = self.any().await;
        self.stopping |= matches!(event, Event::StopSignal(_));
        event
    }

    async fn any(&mut self) -> Event {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return Event::StopSignal("SIGTERM"),
                _ = self.interrupt.recv() => return Event::StopSignal("SIGINT"),
                _ = self.quit.recv() => return Event::StopSignal("SIGQUIT"),
                _ = self.check.recv() => return Event::CheckIndex,
                () = received(&mut self.hangup) => match (self.local, self.stopping) {
                    (false, _) => return Event::AskKeys("SIGHUP"),
                    (true, false) => return Event::StopSignal("SIGHUP"),
                    (true, true) => {}
                },
                _ = self.user.recv() => tracing::info!(event = "signal", "SIGUSR2 means nothing to a tenant: ignored"),
            }
        }
    }
}

struct Loop {
    config: Arc<Config>,
    state: State,
    effects: Effects,
    metrics: Arc<ops::metrics::Metrics>,
    publisher: watch::Sender<Arc<Snapshot>>,
    clock: Clock,
    zero: Instant,
    clocks: clocks::Clocks,
    /// Orphans the guardian had reaped at the last look.
    orphans: Cell<u64>,
}

impl Loop {
    async fn turn(
        mut self,
        first: Vec<Action>,
        mut inbox: mpsc::UnboundedReceiver<Event>,
        mut signals: Signals,
        mut pings: mpsc::Receiver<oneshot::Sender<()>>,
    ) -> Exit {
        let mut actions = first;
        loop {
            for action in actions {
                match action {
                    Action::Say(level, event, words) => {
                        // The front end of a local mount says that it stops, and last of all why.
                        if self.config.mount.local.is_none() || !words.starts_with("stopping: ") {
                            say(level, event, &words);
                        }
                    }
                    Action::Finish(cause) => {
                        self.publish();
                        let stop_seconds = self.state.stop_seconds(self.zero.elapsed());
                        let verdict = self.effects.finish(&cause, stop_seconds).await;
                        return self.stopped(&verdict);
                    }
                    other => self.effects.perform(other),
                }
            }
            self.publish();
            let due = self.state.next_deadline().map(|due| self.zero + due);
            let event = tokio::select! {
                Some(event) = inbox.recv() => event,
                event = signals.next() => event,
                Some(answer) = pings.recv() => {
                    // A caller that went away needs no answer.
                    let _ = answer.send(());
                    actions = Vec::new();
                    continue;
                }
                () = sleep_until(due) => Event::Timer,
            };
            let late = due.map_or(Duration::ZERO, |due| due.elapsed());
            let mut answer = Vec::new();
            if let Some(away) = self.clocks.look(late) {
                answer.extend(self.state.step(Event::Resumed(away), self.zero.elapsed()));
            }
            answer.extend(self.state.step(event, self.zero.elapsed()));
            actions = answer;
        }
    }

    fn publish(&self) {
        let mut snapshot = self.state.snapshot(self.zero.elapsed(), &self.clock);
        snapshot.operations = self.metrics.operations.summary();
        if let Some(total) = crate::init::orphans_reaped() {
            let new = total.saturating_sub(self.orphans.replace(total));
            self.metrics.orphans_reaped(new);
        }
        self.publisher.send_replace(Arc::new(snapshot));
    }

    fn stopped(&self, verdict: &Verdict) -> Exit {
        self.publisher.send_modify(|snapshot| {
            let mut stopped = (**snapshot).clone();
            stopped.phase = Phase::Stopped;
            stopped.ready = false;
            *snapshot = Arc::new(stopped);
        });
        finish::announce(&self.config, verdict)
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn say(level: Level, event: &'static str, words: &str) {
    match level {
        Level::Info => tracing::info!(event, "{words}"),
        Level::Warn => tracing::warn!(event, "{words}"),
        Level::Error => tracing::error!(event, "{words}"),
    }
}
