//! Who may hold a connection to the health endpoint.
//!
//! Closing newcomers when all places are taken would let 64 silent connections keep a health check out, and the
//! platform would then stop sending traffic to a healthy tenant. So when it is full, the connection that has been
//! outside of any request for longest gives up its place: clients that do nothing lose, whoever asks is answered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Connections at once: a few health checkers, a scraper, some people with the page open, and room.
const MAX_CONNECTIONS: usize = 64;

/// A connection keeps its place this long without a request: a real client sends one with or right after the
/// handshake.
const GRACE: Duration = Duration::from_millis(250);

/// A newcomer waits this long for a place and is then closed. The next ones wait in the kernel's backlog.
const PATIENCE: Duration = Duration::from_secs(1);

/// How often a waiting newcomer looks for an idle connection.
const RETRY: Duration = Duration::from_millis(10);

/// All places.
#[derive(Debug, Default)]
pub(super) struct Slots {
    idle: Mutex<Idle>,
}

/// Connections that are outside of a request.
#[derive(Debug, Default)]
struct Idle {
    next: u64,
    since: HashMap<u64, (Instant, Arc<Notify>)>,
}

/// The place of one connection; dropping it frees the place.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    id: u64,
    evicted: Arc<Notify>,
}

/// Lasts as long as a request; its connection keeps its place meanwhile.
#[derive(Debug)]
pub(super) struct Busy(Arc<Slot>);

impl Slots {
    /// A place for a connection that was just accepted.
    pub(super) fn enter(self: &Arc<Self>) -> Slot {
        let evicted = Arc::new(Notify::new());
        let id = self.with(|idle| {
            idle.next += 1;
            idle.since.insert(idle.next, (Instant::now(), Arc::clone(&evicted)));
            idle.next
        });
        Slot {
            slots: Arc::clone(self),
            id,
            evicted,
        }
    }

    /// Waits until one more connection may be served, closing an idle one if need be. False when none became free in
    /// time.
    pub(super) async fn make_room(&self, connections: &mut JoinSet<()>) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while connections.try_join_next().is_some() {}
            if connections.len() < MAX_CONNECTIONS || self.evict() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(RETRY).await;
        }
    }

    /// Tells the connection that has been idle longest to close. False when all are busy or new.
    fn evict(&self) -> bool {
        self.with(|idle| {
            let longest = idle
                .since
                .iter()
                .min_by_key(|(_, (since, _))| *since)
                .map(|(id, (since, _))| (*id, *since));
            let Some((id, _)) = longest.filter(|(_, since)| since.elapsed() >= GRACE) else {
                return false;
            };
            if let Some((_, evicted)) = idle.since.remove(&id) {
                evicted.notify_one();
            }
            true
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Idle) -> T) -> T {
        change(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Slot {
    /// A request has arrived; the connection is not idle until the answer is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.slots.with(|idle| idle.since.remove(&self.id));
        Busy(Arc::clone(self))
    }

    /// Resolves when the connection has to make room for another one.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.with(|idle| idle.since.remove(&self.id));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let slot = &self.0;
        slot.slots
            .with(|idle| idle.since.insert(slot.id, (Instant::now(), Arc::clone(&slot.evicted))));
    }
}
