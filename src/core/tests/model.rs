//! A model check: every order in which effects can end and things can fail, breadth first, up to a number of failures and steps.
//!
//! [`random`](super::random) throws any event at the core, possible or not. Here is a world in which things happen only as they can:
//! an effect is answered once, rclone dies only when it runs, time jumps to the next deadline. All worlds that can be reached are
//! visited, and from each one two futures are tried: left alone with everything working, it must become ready or end; asked to stop, it
//! must end with a verdict before its deadline.

mod search;

use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::core::event::{
    Backlog, Failure, IndexEvent, IndexOpened, KeysAnswer, LeaseTaken, MountHealth, Queue, ShipFailure, Shipped,
};
use crate::exit::Exit;

/// An effect under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Pending {
    Prepare,
    /// rclone is being started.
    Launch,
    /// rclone runs, its mount is not ready.
    Mounting,
    /// A new rclone is put behind the guard.
    Reconnect,
    ProbeMount,
    ProbeStorage,
    FetchKeys,
    /// The mount is being made read-only, or writable.
    Mode(bool),
    TakeLease,
    OpenIndex,
    Ship,
    Reseed,
    Compare,
    StartApp,
    /// The app runs and does not answer yet.
    AppStarting,
    /// The app was asked to end.
    EndApp,
    Sync,
    Unmount,
    Drain,
    DrainIndex,
    EndMounter,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Done(Pending),
    Failed(Pending, Exit),
    Time,
    MounterDies,
    AppDies,
    Fenced(Pending),
    StopSignal,
    /// The source of the keys has another one for the bucket.
    NewKeys,
}

#[derive(Clone)]
struct World {
    life: Life,
    pending: Vec<Pending>,
    driver: Driver,
    database: bool,
    mounter: bool,
    /// Of the present rclone.
    pid: u32,
    mounted: bool,
    app: bool,
    leased: bool,
    fenced: bool,
    /// The supervisor before this one has died.
    orphaned: bool,
    failures: u32,
    finished: u32,
    /// The deadline of the stop cut it short.
    cut_short: bool,
    stopping: Option<Duration>,
    path: Vec<Step>,
}

impl World {
    fn new(driver: Driver, database: bool) -> Self {
        World::beginning(Life::new(policy()), driver, database)
    }

    /// After the death of a supervisor.
    fn orphaned(driver: Driver, database: bool) -> Self {
        let died = crate::core::orphaned::Died {
            words: "killed".into(),
            code: 137,
            stops: 0,
        };
        let life = Life::beginning(State::orphaned(policy(), died, policy().stop_timeout));
        World {
            orphaned: true,
            ..World::beginning(life, driver, database)
        }
    }

    fn beginning(life: Life, driver: Driver, database: bool) -> Self {
        let mut world = World {
            life,
            orphaned: false,
            pending: Vec::new(),
            driver,
            database,
            mounter: false,
            pid: 0,
            mounted: false,
            app: false,
            leased: false,
            fenced: false,
            failures: 0,
            finished: 0,
            cut_short: false,
            stopping: None,
            path: Vec::new(),
        };
        for action in std::mem::take(&mut world.life.done) {
            world.act(&action);
        }
        world
    }

    /// Equal for worlds whose futures are equal.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        format!("{:?}", self.life.state).hash(&mut hasher);
        let mut pending = self.pending.clone();
        pending.sort_unstable();
        (pending, self.mounter, self.mounted, self.app, self.failures).hash(&mut hasher);
        hasher.finish()
    }

    fn wants(&self, holds: bool, promise: &str) {
        assert!(holds, "{promise}\nafter {:#?}\n{:#?}", self.path, self.life.state);
    }

    /// Carries an action out, or begins to, and checks what must never be done.
    fn act(&mut self, action: &Action) {
        self.wants(self.finished == 0, &format!("{action:?} after the end"));
        let begun = match action {
            Action::Prepare => Pending::Prepare,
            Action::LaunchMount { .. } => {
                self.wants(!self.mounter, "a second rclone");
                self.wants(!self.mounted, "a mount over a mount");
                self.wants(!self.app, "a new mount while the app of the old one runs");
                self.wants(self.leased || !self.database, "a mount without the lease");
                Pending::Launch
            }
            Action::Reconnect { .. } => {
                self.wants(
                    self.driver == Driver::Nfs && self.mounted,
                    "a reconnect without a mount that the guard serves",
                );
                self.wants(!self.fenced, "an rclone that would upload without the lease");
                Pending::Reconnect
            }
            Action::ProbeMount => Pending::ProbeMount,
            Action::ProbeStorage { .. } => Pending::ProbeStorage,
            Action::FetchKeys => Pending::FetchKeys,
            Action::SetReadOnly(read_only) => Pending::Mode(*read_only),
            Action::TakeLease => Pending::TakeLease,
            Action::OpenIndex | Action::RebuildIndex => Pending::OpenIndex,
            Action::ShipIndex => Pending::Ship,
            Action::ReseedIndex => Pending::Reseed,
            Action::CompareIndex => Pending::Compare,
            Action::StartApp => {
                self.wants(
                    !self.life.state.is_orphaned(),
                    "the app in a life that only stores what is left",
                );
                let served = self.mounter || self.driver == Driver::Nfs;
                self.wants(served && self.mounted, "the app without a ready mount");
                self.wants(!self.app, "a second app");
                self.wants(
                    !self.pending.contains(&Pending::OpenIndex),
                    "the app while its index is being made",
                );
                Pending::StartApp
            }
            Action::TerminateApp | Action::KillApp => {
                // What is not started yet is called off.
                self.forget(Pending::StartApp);
                Pending::EndApp
            }
            Action::Sync { .. } => Pending::Sync,
            Action::Unmount { .. } => {
                self.wants(!self.app || self.fenced, "the mount is taken from a living app");
                Pending::Unmount
            }
            Action::Drain { .. } => {
                self.wants(!self.app, "a drain while the app still writes");
                self.wants(
                    self.driver == Driver::Fuse || !self.mounted,
                    "nfs: a drain before the unmount",
                );
                Pending::Drain
            }
            Action::DrainIndex { .. } => {
                self.wants(
                    !self.app && self.leased && !self.fenced,
                    "the index is drained too early, or without the lease",
                );
                Pending::DrainIndex
            }
            Action::TerminateMounter => Pending::EndMounter,
            Action::Fence => {
                self.fenced = true;
                return;
            }
            Action::Finish(_) => {
                self.finished += 1;
                self.wants(self.cut_short || !self.app, "an end while the app runs");
                self.wants(self.cut_short || !self.mounter, "an end while rclone runs");
                return;
            }
            Action::Uploads(_)
            | Action::ExpireQueue
            | Action::DropConnections
            | Action::PauseMounter
            | Action::ResumeMounter
            | Action::FailCalls
            | Action::Say(..) => return,
        };
        if !(begun == Pending::EndApp && self.pending.contains(&Pending::EndApp)) {
            self.pending.push(begun);
        }
    }

    fn tell(&mut self, event: Event) {
        for action in self.life.on(event) {
            self.act(&action);
        }
    }

    /// What can happen now; what costs a failure only while some are left.
    fn steps(&self, failures: u32) -> Vec<Step> {
        let mut steps: Vec<Step> = self.pending.iter().map(|pending| Step::Done(*pending)).collect();
        if self.life.state.next_deadline().is_some() {
            steps.push(Step::Time);
        }
        if self.failures >= failures {
            return steps;
        }
        for pending in &self.pending {
            let exits: &[Exit] = match pending {
                Pending::Prepare | Pending::TakeLease | Pending::StartApp => &[Exit::Machine],
                Pending::Launch | Pending::Mounting | Pending::Reconnect | Pending::OpenIndex => {
                    &[Exit::Unavailable, Exit::Refused]
                }
                Pending::ProbeStorage => &[Exit::Unavailable, Exit::Refused],
                Pending::ProbeMount | Pending::FetchKeys | Pending::Mode(_) | Pending::Reseed | Pending::Compare => {
                    &[Exit::Unavailable]
                }
                Pending::Ship => &[Exit::Unavailable, Exit::Refused],
                Pending::Unmount | Pending::Drain | Pending::DrainIndex => &[Exit::Unavailable],
                Pending::AppStarting | Pending::EndApp | Pending::EndMounter | Pending::Sync => &[],
            };
            steps.extend(exits.iter().map(|exit| Step::Failed(*pending, *exit)));
            if *pending == Pending::Ship {
                steps.push(Step::Fenced(*pending));
            }
            if *pending == Pending::FetchKeys {
                steps.push(Step::NewKeys);
            }
        }
        if self.mounter && !self.pending.contains(&Pending::EndMounter) {
            steps.push(Step::MounterDies);
        }
        if self.app && !self.pending.contains(&Pending::EndApp) {
            steps.push(Step::AppDies);
        }
        if !self.life.state.is_stopped() {
            steps.push(Step::StopSignal);
        }
        steps
    }

    fn take(&mut self, step: Step) {
        self.path.push(step);
        match step {
            Step::Done(pending) => {
                self.forget(pending);
                self.done(pending);
            }
            Step::Failed(pending, exit) => {
                self.failures += 1;
                self.forget(pending);
                self.failed(pending, Failure::new(exit, "words"));
            }
            Step::Fenced(pending) => {
                self.failures += 1;
                self.forget(pending);
                let lost = Err(ShipFailure::Fenced { holder: "b".into() });
                self.tell(Event::Index(IndexEvent::Shipped(lost, Backlog::default())));
            }
            Step::NewKeys => {
                self.failures += 1;
                self.forget(Pending::FetchKeys);
                let answer = KeysAnswer {
                    storage: true,
                    ..KeysAnswer::default()
                };
                self.tell(Event::Keys(Ok(answer)));
            }
            Step::Time => {
                let Some(due) = self.life.state.next_deadline() else {
                    return;
                };
                self.life.now = self.life.now.max(due);
                // The time of an orphaned life runs from its start.
                let began = if self.orphaned {
                    Some(Duration::ZERO)
                } else {
                    self.stopping
                };
                self.cut_short |= began.is_some_and(|began| began + policy().stop_timeout <= self.life.now);
                self.tell(Event::Timer);
                let again = self.life.state.next_deadline();
                self.wants(
                    again.is_none_or(|at| at > self.life.now),
                    "the timer did nothing: the loop would spin",
                );
            }
            Step::MounterDies => {
                self.failures += 1;
                self.mounter = false;
                self.pending.retain(|pending| *pending != Pending::Mounting);
                self.tell(Event::Mount(MountEvent::Exited {
                    pid: self.pid,
                    words: "killed".into(),
                }));
            }
            Step::AppDies => {
                self.failures += 1;
                self.pending.retain(|pending| *pending != Pending::AppStarting);
                self.tell(Event::App(AppEvent::Exited {
                    code: 137,
                    out_of_memory: false,
                    words: "killed".into(),
                }));
            }
            Step::StopSignal => {
                self.failures += 1;
                let signals = self.path.iter().filter(|step| matches!(step, Step::StopSignal)).count();
                self.cut_short |= if self.orphaned {
                    signals > 1
                } else {
                    self.stopping.is_some()
                };
                self.tell(Event::StopSignal("SIGTERM"));
            }
        }
        let stores_first = !self.orphaned && self.life.state.is_orphaned();
        if self.stopping.is_none() && (self.life.state.is_stopping() || stores_first) {
            self.stopping = Some(self.life.now);
        }
        let idle = self.pending.is_empty() && self.life.state.next_deadline().is_none();
        self.wants(
            !idle || self.life.state.is_stopped(),
            "nothing is under way and nothing will ever happen: stuck",
        );
    }

    fn new_mounter(&mut self) {
        self.mounter = true;
        self.pid += 1;
    }

    fn forget(&mut self, pending: Pending) {
        if let Some(at) = self.pending.iter().position(|other| *other == pending) {
            self.pending.remove(at);
        }
    }

    fn done(&mut self, pending: Pending) {
        let millis = Duration::from_millis(3);
        match pending {
            Pending::Prepare => self.tell(Event::Prepared(Ok(Prepared {
                tenant: "t".into(),
                driver: self.driver,
                has_database: self.database,
                has_index: true,
                found_pending: 0,
                keys_valid_for: None,
            }))),
            Pending::Launch => {
                self.new_mounter();
                self.pending.push(Pending::Mounting);
                self.tell(Event::Mount(MountEvent::Launched { pid: self.pid }));
            }
            Pending::Mounting => {
                self.mounted = true;
                self.tell(Event::Mount(MountEvent::Ready));
            }
            Pending::Reconnect => {
                self.new_mounter();
                self.tell(Event::Mount(MountEvent::Launched { pid: self.pid }));
                self.tell(Event::Mount(MountEvent::Reconnected));
            }
            Pending::ProbeMount => self.tell(Event::Mount(MountEvent::Health(MountHealth {
                stuck: None,
                hung: false,
                queue: Some(Queue::default()),
                room: None,
            }))),
            Pending::ProbeStorage => self.tell(Event::Storage(Ok(millis))),
            Pending::FetchKeys => self.tell(Event::Keys(Ok(KeysAnswer::default()))),
            Pending::Mode(read_only) => self.tell(Event::Mount(MountEvent::Mode {
                read_only,
                result: Ok(()),
            })),
            Pending::TakeLease => {
                self.leased = true;
                let taken = LeaseTaken {
                    epoch: 1,
                    latency: millis,
                    position: 0,
                };
                self.tell(Event::Index(IndexEvent::Lease(Ok(taken))));
            }
            Pending::OpenIndex => self.tell(Event::Index(IndexEvent::Opened(Ok(IndexOpened { reseed: None })))),
            Pending::Ship => {
                let shipped = Shipped {
                    position: 1,
                    latency: Some(millis),
                };
                self.tell(Event::Index(IndexEvent::Shipped(Ok(shipped), Backlog::default())));
            }
            Pending::Reseed => self.tell(Event::Index(IndexEvent::Reseeded(Ok(9)))),
            Pending::Compare => self.tell(Event::Index(IndexEvent::Compared(Ok("equal".into())))),
            Pending::StartApp => {
                self.app = true;
                self.pending.push(Pending::AppStarting);
                self.tell(Event::App(AppEvent::Started { pid: 2 }));
            }
            Pending::AppStarting => self.tell(Event::App(AppEvent::Ready)),
            Pending::EndApp => {
                self.app = false;
                self.pending.retain(|pending| *pending != Pending::AppStarting);
                self.tell(Event::App(AppEvent::Gone));
            }
            Pending::Sync => self.tell(Event::Phase(PhaseEnd::Synced(Ok(())))),
            Pending::Unmount => {
                self.mounted = false;
                self.tell(Event::Phase(PhaseEnd::Unmounted(Ok(()))));
            }
            Pending::Drain => self.tell(Event::Phase(PhaseEnd::Drained(Ok(())))),
            Pending::DrainIndex => self.tell(Event::Phase(PhaseEnd::IndexDrained(Ok(())))),
            Pending::EndMounter => {
                self.mounter = false;
                self.pending
                    .retain(|pending| !matches!(pending, Pending::Launch | Pending::Mounting | Pending::Reconnect));
                self.tell(Event::Phase(PhaseEnd::MounterGone));
            }
        }
    }

    fn failed(&mut self, pending: Pending, failure: Failure) {
        let down = ShipFailure::Down(failure.clone());
        match pending {
            Pending::Prepare => self.tell(Event::Prepared(Err(failure))),
            Pending::Launch | Pending::Mounting => self.tell(Event::Mount(MountEvent::Failed(failure))),
            Pending::Reconnect => self.tell(Event::Mount(MountEvent::ReconnectFailed(failure))),
            Pending::ProbeMount => self.tell(Event::Mount(MountEvent::Health(MountHealth {
                stuck: Some("silent".into()),
                hung: true,
                queue: None,
                room: None,
            }))),
            Pending::ProbeStorage => self.tell(Event::Storage(Err(failure))),
            Pending::FetchKeys => self.tell(Event::Keys(Err(failure))),
            Pending::Mode(read_only) => self.tell(Event::Mount(MountEvent::Mode {
                read_only,
                result: Err("busy".into()),
            })),
            Pending::TakeLease => {
                let refusal = crate::core::event::LeaseRefusal::Failed(failure);
                self.tell(Event::Index(IndexEvent::Lease(Err(refusal))));
            }
            Pending::OpenIndex => self.tell(Event::Index(IndexEvent::Opened(Err(failure)))),
            Pending::Ship => self.tell(Event::Index(IndexEvent::Shipped(Err(down), Backlog::default()))),
            Pending::Reseed => self.tell(Event::Index(IndexEvent::Reseeded(Err(down)))),
            Pending::Compare => {
                let broken = ShipFailure::Broken {
                    cause: "compare",
                    words: "differs".into(),
                };
                self.tell(Event::Index(IndexEvent::Compared(Err(broken))));
            }
            Pending::StartApp => self.tell(Event::App(AppEvent::Failed(failure))),
            Pending::Unmount => {
                // It is detached even when something holds it.
                self.mounted = false;
                self.tell(Event::Phase(PhaseEnd::Unmounted(Err("busy".into()))));
            }
            Pending::Drain => self.tell(Event::Phase(PhaseEnd::Drained(Err("late".into())))),
            Pending::DrainIndex => self.tell(Event::Phase(PhaseEnd::IndexDrained(Err("late".into())))),
            Pending::AppStarting | Pending::EndApp | Pending::EndMounter | Pending::Sync => {}
        }
    }
}
