//! Carries actions out. What an effect needs from an earlier one (the bucket, the mount session, the app's process
//! group) is kept here; what was decided is not: that is the core's.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{SetOnce, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::core::action::Action;
use crate::core::event::Event;
use crate::core::verdict::{Cause, Verdict};
use crate::mount::{Claim, DrainProgress, Hold, Session};
use crate::ops::metrics::Metrics;
use crate::process::Group;
use crate::storage::OwnChanges;
use crate::supervise::prepare::Tenant;
use crate::supervise::suspecting::Ended;
use crate::supervise::warm::Warm;
use crate::supervise::{Keys, application, finish, holding, indexing, keys, leasing, mounting, prepare, shipping};

/// Where the app is.
#[derive(Default)]
pub enum App {
    /// Nothing of it runs.
    #[default]
    Off,
    /// What it needs is being made; sending calls the start off.
    Starting(oneshot::Sender<()>),
    /// Its process group.
    Running(Group),
}

/// What the effects share. One thread: `Rc` and `RefCell`, never borrowed across an await.
pub struct Shared {
    pub config: Arc<Config>,
    pub keys: Keys,
    pub metrics: Arc<Metrics>,
    events: mpsc::UnboundedSender<Event>,
    /// Set once the preconditions hold.
    pub tenant: RefCell<Option<Rc<Tenant>>>,
    /// The bucket's name, as soon as the credentials are known.
    pub bucket: RefCell<Option<String>>,
    /// The mount, while there is one.
    pub session: RefCell<Option<Session>>,
    /// Mountpoint and cache directory, from the first launch to the end.
    pub claim: RefCell<Option<Rc<Claim>>>,
    /// Folders that rclone has to read again, and since when.
    pub stale_folders: RefCell<BTreeMap<String, Instant>>,
    /// When an rclone has ended for the last time, until nothing of it can arrive any more.
    pub mounter_ended: Cell<Option<Ended>>,
    /// How long the first listing of the bucket took.
    pub listing_took: SetOnce<Duration>,
    /// How this machine's own changes were seen in the bucket since the last listing of it.
    pub own_changes: RefCell<OwnChanges>,
    /// The ledger is being compared with the bucket.
    pub auditing: Cell<bool>,
    /// The bucket did not answer then.
    pub audit_failed: Cell<Option<Instant>>,
    /// Failed uploads at the last look.
    pub upload_failures: Cell<u64>,
    /// Of these, because the store asked us to slow down.
    pub slow_downs: Cell<u64>,
    /// The app, from the decision to start it to the end of its last process.
    pub app: RefCell<App>,
    /// Its interpreter, before the app may run.
    pub warm: RefCell<Option<Warm>>,
    /// The launch or reconnect under way.
    pub launch: RefCell<Option<JoinHandle<()>>>,
    /// The end has begun: whatever is still being launched is not wanted.
    pub ending: Cell<bool>,
    /// How far the drain of a stop is.
    pub draining: watch::Sender<Option<DrainProgress>>,
    /// Was the mount ever ready in this life?
    pub served: Cell<bool>,
    /// A living rclone has said that everything is sent, and nothing was mounted since.
    pub drained: Cell<bool>,
    /// Counts the orders how uploads shall flow.
    pub flow: Cell<u64>,
    /// Locked while one is carried out; what the last one left to the next.
    pub hold: tokio::sync::Mutex<Option<Hold>>,
    /// The lease is lost: nothing makes the mount writable again.
    pub fenced: Cell<bool>,
}

impl Shared {
    /// Tells the core. After the end nobody listens, and that is fine.
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
    }

    /// The tenant. Every action but `Prepare` comes after it was set.
    pub fn tenant(&self) -> Option<Rc<Tenant>> {
        self.tenant.borrow().clone()
    }

    /// The mount, while there is one.
    pub fn session(&self) -> Option<Session> {
        self.session.borrow().clone()
    }
}

/// See the module.
pub struct Effects {
    shared: Rc<Shared>,
}

impl Effects {
    pub fn new(config: Arc<Config>, keys: Keys, metrics: Arc<Metrics>, events: mpsc::UnboundedSender<Event>) -> Self {
        let shared = Shared {
            config,
            keys,
            metrics,
            events,
            tenant: RefCell::default(),
            bucket: RefCell::default(),
            session: RefCell::default(),
            claim: RefCell::default(),
            stale_folders: RefCell::default(),
            mounter_ended: Cell::default(),
            listing_took: SetOnce::new(),
            own_changes: RefCell::default(),
            auditing: Cell::default(),
            audit_failed: Cell::default(),
            upload_failures: Cell::default(),
            slow_downs: Cell::default(),
            app: RefCell::default(),
            warm: RefCell::default(),
            launch: RefCell::default(),
            ending: Cell::default(),
            draining: watch::Sender::default(),
            served: Cell::default(),
            drained: Cell::default(),
            flow: Cell::default(),
            hold: tokio::sync::Mutex::default(),
            fenced: Cell::default(),
        };
        Effects {
            shared: Rc::new(shared),
        }
    }

    /// How far the drain of a stop is; nothing before it begins.
    pub fn draining(&self) -> watch::Receiver<Option<DrainProgress>> {
        self.shared.draining.subscribe()
    }

    /// The life before this one has served the tenant, and this one answers for it.
    pub fn has_served(&self) {
        self.shared.served.set(true);
    }

    /// Starts what `action` asks for; the outcome arrives as events.
    pub fn perform(&self, action: Action) {
        let shared = Rc::clone(&self.shared);
        match action {
            Action::Prepare => spawn(prepare::prepare(shared)),
            Action::FetchKeys => spawn(keys::fetch(shared)),
            Action::LaunchMount { within } => {
                let task = tokio::task::spawn_local(mounting::launch(Rc::clone(&shared), within));
                shared.launch.replace(Some(task));
            }
            Action::Reconnect { fresh, gently, within } => {
                let how = mounting::How { fresh, gently };
                let task = tokio::task::spawn_local(mounting::reconnect(Rc::clone(&shared), how, within));
                shared.launch.replace(Some(task));
            }
            Action::ProbeMount => spawn(mounting::probe(shared)),
            Action::ProbeStorage { well } => spawn(prepare::probe_storage(shared, well)),
            Action::TakeLease => spawn(leasing::take_lease(shared)),
            Action::OpenIndex => spawn(indexing::open_index(shared)),
            Action::RebuildIndex => spawn(indexing::rebuild_index(shared)),
            Action::ShipIndex => spawn(shipping::ship(shared)),
            Action::ReseedIndex => spawn(shipping::reseed(shared)),
            Action::CompareIndex => spawn(shipping::compare(shared)),
            Action::DropConnections => keys::drop_connections(&shared),
            Action::PauseMounter => mounting::signal(&shared, nix::sys::signal::Signal::SIGSTOP),
            Action::ResumeMounter => mounting::signal(&shared, nix::sys::signal::Signal::SIGCONT),
            Action::Fence => leasing::fence(&shared),
            Action::Uploads(flow) => spawn(holding::regulate(shared, flow)),
            Action::ExpireQueue => spawn(mounting::expire_queue(shared)),
            Action::SetReadOnly(read_only) => spawn(mounting::set_read_only(shared, read_only)),
            Action::StartApp => spawn(application::start(shared)),
            Action::TerminateApp => application::signal(&shared, nix::sys::signal::Signal::SIGTERM),
            Action::KillApp => application::signal(&shared, nix::sys::signal::Signal::SIGKILL),
            Action::FailCalls => {
                if let Some(guard) = shared.session().as_ref().and_then(Session::guard) {
                    guard.fail();
                }
            }
            Action::Sync { within } => spawn(mounting::sync(shared, within)),
            Action::Unmount { within } => spawn(mounting::unmount(shared, within)),
            Action::Drain { within } => spawn(mounting::drain(shared, within)),
            Action::DrainIndex { within } => spawn(shipping::drain(shared, within)),
            Action::TerminateMounter => spawn(mounting::terminate(shared)),
            // The loop itself says and finishes.
            Action::Say(..) | Action::Finish(_) => {}
        }
    }

    /// The last effect: what is not stored, and what that means.
    pub async fn finish(&self, cause: &Cause, stop_seconds: f64) -> Verdict {
        finish::verdict(&self.shared, cause, stop_seconds).await
    }
}

fn spawn(effect: impl Future<Output = ()> + 'static) {
    tokio::task::spawn_local(effect);
}
