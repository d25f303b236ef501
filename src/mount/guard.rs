//! The NFS guard: a proxy for NFSv3 between the kernel's NFS client and the server in `rclone nfsmount`.
//!
//! rclone's server does seven things that lose data or freeze the mount, and can't be told not to. The guard sits on a
//! loopback port of its own, to which the mount's options point the kernel, and mends them:
//!
//! * **Files are not emptied.** CREATE with mode UNCHECKED empties an existing file; it becomes GUARDED ([`call`]). Where
//!   the kernel can't handle the NFS3ERR_EXIST that this brings, the guard looks the file up and answers as RFC 1813 says
//!   ([`memory::Absent`]).
//! * **One blocked call does not block the rest.** Each call has a path of its own to rclone ([`path`]), up to a limit,
//!   and replies go back as they come. Calls that change the same thing keep their order ([`order`]).
//! * **A call is executed once**, although the kernel sends it again after 60 s or a reconnect ([`memory::Replies`]).
//! * **An unmount does not end rclone**, which would drop its queue of uploads: MOUNT's UMNT is answered here.
//! * **A rename does not meet an upload** of one of its files ([`rename`]).
//! * **A file is not called absent** because its directory could not be read ([`reach`]).
//! * **A file stays the same file** when it is renamed, and over a restart of rclone, whose handles and numbers do not.
//!
//! It also measures every operation, can refuse whatever modifies (lease lost, cache full), can hold all calls while
//! rclone is restarted, and knows how long calls have been waiting.
//!
//! # When rclone goes away
//! The kernel and the app wait, and that is all they see. Their handles and file numbers are ours and stay ([`nodes`],
//! [`translate`]); what they stand for is looked up in the next rclone when it is needed ([`reach`]).
//!
//! A call that was not sent yet waits and goes to the next rclone. A call that may have been executed is sent again, and
//! what comes back is taken for what it means ([`reach`]): REMOVE and RMDIR that find nothing have done their work. So has a
//! RENAME of a known name that finds nothing under it, and something under the new one. CREATE and MKDIR that find a name
//! taken which nobody knew before have taken it themselves, if what is there is as they would have left it: a directory,
//! or a file without content. What can't be told apart is an empty file that somebody else made in the bucket under the
//! very name, unknown here: an exclusive CREATE whose reply was lost then succeeds on it.
//!
//! NFS3ERR_JUKEBOX was considered instead; the kernel would wait 5 s and then do the same under a new id, so that nobody
//! knew it was a repeat.
//!
//! # Memory
//! 16 MiB of calls and 16 MiB of large replies at most; beyond that connections are not read. 64 paths of 8 KiB. About 200
//! bytes for each file that the kernel knows ([`nodes`]).

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

mod buffers;
mod call;
mod client;
mod exchange;
mod memory;
mod nodes;
mod order;
mod path;
mod peer;
mod procedure;
mod reach;
mod record;
mod rename;
mod reply;
mod state;
mod translate;
mod visit;
mod wire;

#[cfg(test)]
mod tests;

use exchange::Exchange;
pub(super) use visit::{ping, visit};

/// Connections served at a time. The kernel opens `nconnect` (16 at most), mount.nfs a few to ping.
const MAX_CONNECTIONS: usize = 64;
/// How often what is not needed is given back.
const SWEEP: Duration = Duration::from_secs(15);
/// Pause after accepting failed, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A refused connection is logged at most this often: anyone on the machine can make them.
const REFUSALS_LOGGED: Duration = Duration::from_secs(10);

/// Is told of every operation on the mount.
pub trait Observer: Send + Sync {
    /// A call has been answered by rclone. `name` is RFC 1813's name of the procedure in lower case (`null`, `mount` and
    /// `other` beside them), `elapsed` the time from the call's arrival until its reply was there, `error` the status as
    /// RFC 1813 section 2.6 writes it or, where the call did not get that far, RFC 5531's.
    fn operation(&self, name: &'static str, elapsed: Duration, error: Option<&'static str>);

    /// A call has been refused by the guard itself ([`Handle::set_read_only`]); rclone did not see it.
    fn refused(&self, name: &'static str, error: &'static str) {
        let _ = (name, error);
    }
}

/// What is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the guard has to know about rclone that its server does not say.
pub trait Rclone: Send + Sync {
    /// Waits until a file (path in the bucket) may be renamed: until neither it nor what has the new name is uploaded or to be
    /// uploaded, as far as that matters. `Err`: that takes too long, in words.
    fn settled<'a>(&'a self, from: &'a str, to: &'a str) -> Waiting<'a, Result<(), String>>;

    /// The last rename to that name has failed for a reason that passes.
    fn may_be_renamed_later(&self, to: &str) -> bool;

    /// The bucket has failed it a moment ago.
    fn was_failed(&self) -> bool;
}

/// Nothing is uploaded, no rename is tried again, and the bucket never fails.
impl Rclone for () {
    fn settled<'a>(&'a self, _: &'a str, _: &'a str) -> Waiting<'a, Result<(), String>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn may_be_renamed_later(&self, _: &str) -> bool {
        false
    }

    fn was_failed(&self) -> bool {
        false
    }
}

/// Why nothing may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadOnlyReason {
    /// Another machine may have the lease: modifying calls fail with NFS3ERR_ROFS.
    LeaseLost,
    /// The disk of rclone's cache is full: modifying calls fail with NFS3ERR_NOSPC, but for REMOVE and RMDIR. Opening with
    /// `O_TRUNC` and renaming fail too, or a file would be emptied that can't be written again.
    CacheFull,
}

/// The guard, listening but not serving yet.
pub struct Guard {
    listener: TcpListener,
    local: SocketAddr,
    exchange: Arc<Exchange>,
    admit: fn(SocketAddr, SocketAddr) -> bool,
}

impl Guard {
    /// Listens on a free port of 127.0.0.1. Connections are served once [`Guard::run`] is called.
    ///
    /// # Errors
    /// When there is no free port or no descriptor.
    pub async fn bind(observer: Arc<dyn Observer>, rclone: Arc<dyn Rclone>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let local = listener.local_addr()?;
        Ok(Self {
            listener,
            local,
            exchange: Arc::new(Exchange::new(observer, rclone)),
            admit: peer::may_connect,
        })
    }

    /// The port for the mount options `port` and `mountport`.
    pub fn port(&self) -> u16 {
        self.local.port()
    }

    /// A way to control the guard while it runs.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.exchange))
    }

    /// Serves the kernel, with rclone's server at `upstream`, until [`Handle::shutdown`]. All connections end with it.
    pub async fn run(self, upstream: SocketAddr) {
        struct ShutDown(Arc<Exchange>);
        impl Drop for ShutDown {
            fn drop(&mut self) {
                self.0.shut_down();
            }
        }
        let _shut_down = ShutDown(Arc::clone(&self.exchange));
        self.exchange.set_upstream(upstream);
        let mut closing = self.exchange.closing();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut clients = JoinSet::new();
        let mut refusals = Refusals::default();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => match self.check(&stream, peer, clients.len()) {
                        Ok(()) => {
                            clients.spawn(client::serve(Arc::clone(&self.exchange), stream));
                        }
                        Err(reason) => refusals.log(peer, &reason),
                    },
                    Err(error) => {
                        tracing::warn!(%error, "the NFS guard can't accept a connection; trying again");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
                _ = sweep.tick() => self.exchange.sweep(),
                () = exchange::closed(&mut closing) => return,
            }
        }
    }

    fn check(&self, stream: &TcpStream, peer: SocketAddr, connections: usize) -> Result<(), String> {
        if !(self.admit)(peer, self.local) {
            return Err("it is neither the kernel's nor root's".to_owned());
        }
        if connections >= MAX_CONNECTIONS {
            return Err(format!("there are {connections} already"));
        }
        stream.set_nodelay(true).map_err(|error| error.to_string())
    }
}

/// Logs refused connections, but not all of a flood.
#[derive(Default)]
struct Refusals {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Refusals {
    fn log(&mut self, peer: SocketAddr, reason: &str) {
        if self.logged.is_some_and(|logged| logged.elapsed() < REFUSALS_LOGGED) {
            self.unlogged += 1;
            return;
        }
        let more = std::mem::take(&mut self.unlogged);
        tracing::warn!(%peer, reason, more, "refused a connection to the NFS guard");
        self.logged = Some(Instant::now());
    }
}

/// Controls a running [`Guard`]. Cheap to clone; every method returns at once.
#[derive(Clone)]
pub struct Handle(Arc<Exchange>);

impl Handle {
    /// Calls that have been received and not answered.
    pub fn in_flight(&self) -> usize {
        self.0.in_flight()
    }

    /// Waits until a call has been waiting for that long. No timer runs while there is no call.
    pub async fn call_waits(&self, limit: Duration) {
        let mut calls = self.0.calls();
        loop {
            // An error means that the guard itself is gone.
            if calls.wait_for(|calls| *calls).await.is_err() {
                return std::future::pending().await;
            }
            sleep(limit).await;
            if self.oldest().is_some_and(|waiting| waiting >= limit) {
                return;
            }
        }
    }

    /// Calls that rclone has and has not answered.
    pub fn under_way(&self) -> usize {
        self.0.under_way()
    }

    /// Calls that have been waiting for an answer at least that long, be it in rclone or for a path to it. Time spent held
    /// counts only until [`Handle::release`].
    pub fn stuck(&self, older_than: Duration) -> usize {
        self.0.stuck(older_than)
    }

    /// How long the oldest unanswered call has been waiting, by the same clock as [`Handle::stuck`].
    pub fn oldest(&self) -> Option<Duration> {
        self.0.oldest()
    }

    /// Files and directories that the kernel may hold a handle of.
    pub fn known(&self) -> usize {
        self.0.known()
    }

    /// Open connections to rclone.
    pub fn paths(&self) -> usize {
        self.0.paths()
    }

    /// Refuses modifying calls from now on, those that wait included; `None` lets them pass again. Calls that rclone has
    /// been sent already are not stopped.
    pub fn set_read_only(&self, reason: Option<ReadOnlyReason>) {
        self.0.set_read_only(reason);
    }

    /// Keeps calls from rclone until [`Handle::release`]. They wait here, the kernel and the app with them. Calls under way
    /// are not stopped; those that lose their connection wait with the rest.
    pub fn hold(&self) {
        self.0.hold();
    }

    /// Ends [`Handle::hold`].
    pub fn release(&self) {
        self.0.release();
    }

    /// Whether there may be directories that rclone has not read: it calls what is in them absent when the bucket fails, and is
    /// not believed then.
    pub fn set_unread(&self, unread: bool) {
        self.0.set_unread(unread);
    }

    /// rclone forgets a directory (path in the bucket) and reads it again: until [`Handle::has_read`] it may not know what is in
    /// it, as for [`Handle::set_unread`].
    pub fn reads(&self, directory: &str) {
        self.0.reads(directory);
    }

    /// It knows it again.
    pub fn has_read(&self, directory: &str) {
        self.0.has_read(directory);
    }

    /// Whether the bucket is away, so that a directory that rclone has forgotten can't be read: as [`Handle::set_unread`].
    pub fn set_away(&self, away: bool) {
        self.0.set_away(away);
    }

    /// Goes on with rclone's server at another address. Calls that the old one has not answered are sent to the new one, so
    /// the old one must be dead.
    pub fn set_upstream(&self, upstream: SocketAddr) {
        self.0.set_upstream(upstream);
    }

    /// Answers all calls with NFS3ERR_IO from now on, those that wait and those that rclone has included: the mount is given up,
    /// and whoever waits for it shall be able to end.
    pub fn fail(&self) {
        self.0.give_up();
    }

    /// Ends [`Guard::run`] and all connections. Calls that wait are not answered.
    pub fn shutdown(&self) {
        self.0.shut_down();
    }
}
