//! The exchange between the kernel's connections and the paths to rclone: which call goes next, on which path, and where
//! its reply belongs.
//!
//! A call comes in with [`Exchange::submit`], waits in `ready` (or, behind another of its file or directory, in `parked`),
//! is taken by a path, and ends in [`Exchange::complete`]. From the first to the last it is in `waiting`, by its identity:
//! a retransmission finds it there and only changes where the reply goes. A reply is found by the path it comes on, which
//! carries one call at a time, so replies reach the kernel in the order in which rclone is done.
//!
//! Everything is behind one mutex that is never held across an await; the supervisor has one thread.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::buffers::Buffers;
use super::call::{Key, Plan};
use super::client::Client;
use super::memory::{Absent, Replies};
use super::nodes::{Nodes, Remote};
use super::order::{Lines, Order, Ticket};
use super::procedure::{Effect, Scope};
use super::record::MAX_RECORD;
use super::reply::{self, Outcome};
use super::state::{Idle, State, Waiting};
use super::{Observer, Rclone, ReadOnlyReason, path};

/// Bytes of calls held at a time. A connection that would go over it is not read until there is room: the kernel's
/// socket fills up and it waits.
const REQUEST_ROOM: usize = 16 << 20;
/// Bytes of large replies held at a time.
const REPLY_ROOM: usize = 16 << 20;
const _: () = assert!(REQUEST_ROOM > MAX_RECORD && REPLY_ROOM > MAX_RECORD);
/// Paths to rclone, and thereby calls that it works on at the same time.
const MAX_PATHS: usize = 64;
/// Idle paths kept open however long nothing happens.
const KEPT_PATHS: usize = 2;
/// How long an idle path over that number stays open.
const SURPLUS: Duration = Duration::from_secs(30);
/// How often a call may lose its connection before it fails: perhaps it is what rclone dies of.
const MAX_LOSSES: u32 = 5;

/// A call on its way.
pub(super) struct Call {
    pub(super) record: Vec<u8>,
    pub(super) plan: Plan,
    /// How often its connection was lost after some of it may have been sent. Whether it was executed is then unknown.
    pub(super) losses: u32,
    /// Whether the name in it (the first, where there are two) was known to exist when it came.
    pub(super) known: bool,
    lines: Lines,
    ticket: Ticket,
    received: Instant,
    _room: OwnedSemaphorePermit,
}

/// What a submitted call came to.
pub(super) enum Submitted {
    /// The reply will come.
    Queued,
    /// Answered at once, with this record.
    Answer(Vec<u8>),
}

/// What is to be done with a call that a path has taken.
pub(super) enum Fate {
    Send,
    /// Modifying calls are refused now.
    Refuse(nfsstat3),
    /// Nobody waits for it any more.
    Drop,
}

/// What a free path does next.
pub(super) enum Next {
    Call(Box<Call>),
    /// Wait for a call here; closed when the path is not needed any longer.
    Wait(oneshot::Receiver<Call>),
    /// The path leads to an rclone that has been replaced.
    End,
}

/// See the module's text.
pub(super) struct Exchange {
    state: Mutex<State>,
    /// May be locked while `state` is, not the other way round.
    nodes: Mutex<Nodes>,
    observer: Arc<dyn Observer>,
    pub(super) rclone: Arc<dyn Rclone>,
    /// Where paths run: the handle may be used on any thread.
    runtime: runtime::Handle,
    pub(super) request_room: Arc<Semaphore>,
    pub(super) reply_room: Arc<Semaphore>,
    pub(super) buffers: Buffers,
    generation: watch::Sender<u64>,
    closed: watch::Sender<bool>,
    /// Is there any call?
    calls: watch::Sender<bool>,
}

/// Waits until the guard is shut down.
pub(super) async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error means that the guard itself is gone.
    let _ = closing.wait_for(|closing| *closing).await;
}

/// Permits that stand for `bytes` in one of the rooms.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
}

impl Exchange {
    /// For use within a runtime.
    pub(super) fn new(observer: Arc<dyn Observer>, rclone: Arc<dyn Rclone>) -> Self {
        Self {
            state: Mutex::new(State {
                upstream: (Ipv4Addr::LOCALHOST, 0).into(),
                generation: 0,
                held: false,
                down: false,
                read_only: None,
                next_id: 0,
                ready: VecDeque::new(),
                parked: HashMap::new(),
                order: Order::default(),
                given_up: false,
                unread: false,
                listed: HashSet::new(),
                reading: BTreeSet::new(),
                away: false,
                moving: Vec::new(),
                waiting: HashMap::new(),
                idle: Vec::new(),
                paths: 0,
                max_paths: MAX_PATHS,
                opening: 0,
                replies: Replies::default(),
                absent: Absent::default(),
            }),
            nodes: Mutex::new(Nodes::new()),
            observer,
            rclone,
            runtime: runtime::Handle::current(),
            request_room: Arc::new(Semaphore::new(permits(REQUEST_ROOM) as usize)),
            reply_room: Arc::new(Semaphore::new(permits(REPLY_ROOM) as usize)),
            buffers: Buffers::default(),
            generation: watch::Sender::new(0),
            closed: watch::Sender::new(false),
            calls: watch::Sender::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the kernel's handles stand for.
    pub(super) fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a call from a connection of the kernel.
    pub(super) fn submit(
        self: &Arc<Self>,
        record: Vec<u8>,
        mut plan: Plan,
        room: OwnedSemaphorePermit,
        client: &Arc<Client>,
    ) -> Submitted {
        let state = &mut *self.state();
        if let Some(waiting) = state.waiting.get_mut(&plan.identity) {
            tracing::debug!(
                xid = plan.identity.0,
                call = plan.procedure.name,
                "the kernel sent a call again"
            );
            waiting.client = Arc::clone(client);
            return Submitted::Queued;
        }
        if let Some(reply) = state.replies.get(plan.identity) {
            return Submitted::Answer(reply.to_vec());
        }
        if let Some(status) = state.refusal(plan.procedure) {
            self.observer.refused(plan.procedure.name, reply::status_name(status));
            return Submitted::Answer(reply::failure(plan.identity.0, plan.procedure, status));
        }
        if state.given_up {
            let reply = reply::failure(plan.identity.0, plan.procedure, nfsstat3::NFS3ERR_IO);
            return Submitted::Answer(reply);
        }
        let received = Instant::now();
        let ticket = state.id();
        state.waiting.insert(
            plan.identity,
            Waiting {
                client: Arc::clone(client),
                since: received,
            },
        );
        if state.waiting.len() == 1 {
            self.calls.send_replace(true);
        }
        let (known, named) = {
            let nodes = self.nodes();
            (nodes.recognise(&mut plan, &record), nodes.keys(&plan, &record))
        };
        let lines = state.line_up(&plan, named);
        let may_run = state.order.enter(ticket, lines);
        let call = Call {
            record,
            plan,
            losses: 0,
            known,
            lines,
            ticket,
            received,
            _room: room,
        };
        if may_run {
            state.ready.push_back(call);
            self.dispatch(state);
        } else {
            state.parked.insert(ticket, call);
        }
        Submitted::Queued
    }

    /// Gives calls that may run to paths: idle ones first, then new ones.
    fn dispatch(self: &Arc<Self>, state: &mut State) {
        while !state.held && (!state.idle.is_empty() || state.may_open()) {
            let Some(call) = state.ready.pop_front() else { break };
            if let Some(idle) = state.idle.pop() {
                if let Err(call) = idle.job.send(call) {
                    state.ready.push_front(call);
                }
            } else {
                state.paths += 1;
                state.opening += 1;
                self.runtime.spawn(path::run(Arc::clone(self), call));
            }
        }
    }

    /// Decides about a call just before it is sent: much can have happened while it waited.
    pub(super) fn fate(&self, call: &Call) -> Fate {
        let state = self.state();
        let abandoned = state
            .waiting
            .get(&call.plan.identity)
            .is_none_or(|waiting| waiting.client.is_closed());
        if abandoned && call.plan.procedure.effect == Effect::Reads {
            return Fate::Drop;
        }
        state.refusal(call.plan.procedure).map_or(Fate::Send, Fate::Refuse)
    }

    /// Ends a call with `reply`. Returns the connection that the reply must be written to.
    pub(super) fn complete(self: &Arc<Self>, call: &Call, reply: &[u8], outcome: Outcome) -> Option<Arc<Client>> {
        let Plan {
            procedure,
            identity,
            entry,
            ..
        } = &call.plan;
        self.observer
            .operation(procedure.name, call.received.elapsed(), outcome.error());
        let state = &mut *self.state();
        if procedure.keeps_reply() {
            state.replies.insert(*identity, reply);
        }
        if let Some(entry) = *entry {
            state.remember(entry, procedure, outcome);
        }
        self.end(state, call)
    }

    /// Calls are held, since rclone is to be replaced: what it says counts no more.
    pub(super) fn is_held(&self) -> bool {
        self.state().held
    }

    /// Why the call is to be refused now.
    pub(super) fn refusal(&self, call: &Call) -> Option<nfsstat3> {
        self.state().refusal(call.plan.procedure)
    }

    pub(super) fn set_unread(&self, unread: bool) {
        self.state().unread = unread;
    }

    pub(super) fn reads(&self, directory: &str) {
        self.state().reading.insert(directory.to_owned());
    }

    pub(super) fn has_read(&self, directory: &str) {
        self.state().reading.remove(directory);
    }

    pub(super) fn set_away(&self, away: bool) {
        self.state().away = away;
    }

    /// May rclone call something absent because it can't read the directory?
    pub(super) fn may_be_blind(&self, directory: &Remote) -> bool {
        if self.rclone.was_failed() {
            return true;
        }
        let state = self.state();
        state.away || !state.reading.is_empty() || (state.unread && !state.listed.contains(directory))
    }

    /// It has read it, and will know it as long as it runs.
    pub(super) fn is_listed(&self, directory: &Remote) {
        let state = &mut *self.state();
        if state.unread {
            state.listed.insert(*directory);
        }
    }

    /// Ends a call that was refused on its way, with a status for the reply.
    pub(super) fn refuse(self: &Arc<Self>, call: &Call, status: nfsstat3) -> Option<Arc<Client>> {
        self.observer
            .refused(call.plan.procedure.name, reply::status_name(status));
        let state = &mut *self.state();
        self.end(state, call)
    }

    /// Ends a call that nobody waits for.
    pub(super) fn drop_call(self: &Arc<Self>, call: &Call) {
        let state = &mut *self.state();
        self.end(state, call);
    }

    fn end(self: &Arc<Self>, state: &mut State, call: &Call) -> Option<Arc<Client>> {
        let waiting = state.waiting.remove(&call.plan.identity);
        if state.waiting.is_empty() {
            self.calls.send_replace(false);
        }
        if call.plan.procedure.scope == Scope::TwoEntries {
            for file in call.lines[2..].iter().flatten() {
                if let Some(moved) = state.moving.iter().position(|key| key == file) {
                    state.moving.swap_remove(moved);
                }
            }
        }
        for next in state.order.leave(call.ticket, call.lines).into_iter().flatten() {
            if let Some(parked) = state.parked.remove(&next) {
                if state.order.may_run(next, parked.lines) {
                    state.ready.push_back(parked);
                } else {
                    state.parked.insert(next, parked);
                }
            }
        }
        self.dispatch(state);
        waiting.map(|waiting| waiting.client)
    }

    /// Takes back a call whose path was lost. `sent`: some of it may have reached rclone.
    ///
    /// It keeps its place before later calls of the same file, and is sent again as soon as there is a path. The kernel
    /// would do the same; only here it is known that it is a second time. Returns a call that has been lost too often.
    pub(super) fn lost(self: &Arc<Self>, mut call: Call, sent: bool) -> Option<Call> {
        call.losses += u32::from(sent);
        if call.losses >= MAX_LOSSES {
            return Some(call);
        }
        let state = &mut *self.state();
        if state.given_up {
            self.fail(state, &call);
        } else {
            state.ready.push_front(call);
            self.dispatch(state);
        }
        None
    }

    /// What a path of generation `generation` does when it is free.
    pub(super) fn next(&self, path: u64, generation: u64) -> Next {
        let state = &mut *self.state();
        if state.generation != generation {
            return Next::End;
        }
        if !state.held
            && let Some(call) = state.ready.pop_front()
        {
            return Next::Call(Box::new(call));
        }
        let (job, wait) = oneshot::channel();
        state.idle.push(Idle {
            id: path,
            since: Instant::now(),
            job,
        });
        Next::Wait(wait)
    }

    /// Takes a path that has broken off the list of idle ones. False when a call is already on its way to it.
    pub(super) fn retire(&self, path: u64) -> bool {
        let state = &mut *self.state();
        let before = state.idle.len();
        state.idle.retain(|idle| idle.id != path);
        state.idle.len() < before
    }

    /// A path has ended.
    pub(super) fn path_ended(self: &Arc<Self>) {
        let state = &mut *self.state();
        state.paths -= 1;
        self.dispatch(state);
    }

    /// A path has been opened, or has given up trying.
    pub(super) fn opening_ended(&self) {
        self.state().opening -= 1;
    }

    /// Whether a path that can't connect should go on trying: one is enough.
    pub(super) fn keep_trying(&self) -> bool {
        self.state().opening == 1
    }

    /// Where rclone listens, in which generation, and a number for a new path. `None` while calls are held.
    pub(super) fn way(&self) -> Option<(SocketAddr, u64, u64)> {
        let state = &mut *self.state();
        if state.held || state.given_up {
            None
        } else {
            Some((state.upstream, state.generation, state.id()))
        }
    }

    /// Notes whether rclone could be reached; true when that is news.
    pub(super) fn reached(self: &Arc<Self>, reached: bool) -> bool {
        let state = &mut *self.state();
        let news = std::mem::replace(&mut state.down, !reached) == reached;
        if news {
            self.dispatch(state);
        }
        news
    }

    pub(super) fn is_absent(&self, entry: Key) -> bool {
        self.state().absent.contains(entry)
    }

    /// Tells whether there is any call.
    pub(super) fn calls(&self) -> watch::Receiver<bool> {
        self.calls.subscribe()
    }

    /// Tells when rclone is replaced.
    pub(super) fn generations(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Tells when the guard is shut down.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Closes idle paths that have not been needed for a while, and gives back memory.
    pub(super) fn sweep(&self) {
        let state = &mut *self.state();
        let surplus = state.idle.len().saturating_sub(KEPT_PATHS);
        // The list is a stack: what was not needed for longest is at its start.
        let old = state
            .idle
            .iter()
            .take(surplus)
            .take_while(|idle| idle.since.elapsed() >= SURPLUS)
            .count();
        state.idle.drain(..old);
        if state.waiting.is_empty() {
            self.buffers.clear();
            state.ready.shrink_to(0);
            state.waiting.shrink_to(0);
        }
    }

    /// A call waits, and it is not rclone that it waits for.
    pub(super) fn excuse(&self, call: &Call) {
        if let Some(waiting) = self.state().waiting.get_mut(&call.plan.identity) {
            waiting.since = Instant::now();
        }
    }

    // What the handle does.

    pub(super) fn set_upstream(self: &Arc<Self>, upstream: SocketAddr) {
        self.nodes().renew();
        let state = &mut *self.state();
        state.upstream = upstream;
        state.reading.clear();
        state.listed.clear();
        state.generation += 1;
        state.down = false;
        state.idle.clear();
        self.generation.send_replace(state.generation);
        self.dispatch(state);
    }

    pub(super) fn set_read_only(&self, reason: Option<ReadOnlyReason>) {
        self.state().read_only = reason;
    }

    pub(super) fn hold(&self) {
        self.state().held = true;
    }

    pub(super) fn give_up(self: &Arc<Self>) {
        let state = &mut *self.state();
        state.given_up = true;
        // Paths hand back what they have.
        state.generation += 1;
        self.generation.send_replace(state.generation);
        let parked = std::mem::take(&mut state.parked);
        let waiting: Vec<Call> = state.ready.drain(..).chain(parked.into_values()).collect();
        for call in waiting {
            self.fail(state, &call);
        }
    }

    fn fail(self: &Arc<Self>, state: &mut State, call: &Call) {
        let reply = reply::failure(call.plan.identity.0, call.plan.procedure, nfsstat3::NFS3ERR_IO);
        if let Some(client) = self.end(state, call) {
            self.runtime.spawn(async move { client.send(&reply).await });
        }
    }

    pub(super) fn release(self: &Arc<Self>) {
        let state = &mut *self.state();
        state.held = false;
        let now = Instant::now();
        state.waiting.values_mut().for_each(|waiting| waiting.since = now);
        self.dispatch(state);
    }

    pub(super) fn in_flight(&self) -> usize {
        self.state().waiting.len()
    }

    pub(super) fn stuck(&self, older_than: Duration) -> usize {
        self.state()
            .waiting
            .values()
            .filter(|waiting| waiting.since.elapsed() >= older_than)
            .count()
    }

    pub(super) fn oldest(&self) -> Option<Duration> {
        self.state()
            .waiting
            .values()
            .map(|waiting| waiting.since.elapsed())
            .max()
    }

    pub(super) fn known(&self) -> usize {
        self.nodes().len()
    }

    pub(super) fn under_way(&self) -> usize {
        let state = self.state();
        state.paths.saturating_sub(state.idle.len() + state.opening)
    }

    pub(super) fn paths(&self) -> usize {
        self.state().paths
    }

    pub(super) fn shut_down(&self) {
        let state = &mut *self.state();
        state.held = true;
        state.idle.clear();
        self.closed.send_replace(true);
    }

    #[cfg(test)]
    pub(super) fn limit_paths(&self, max_paths: usize) {
        self.state().max_paths = max_paths;
    }
}
