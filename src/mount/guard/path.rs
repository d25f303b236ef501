//! A path to rclone: one connection that carries one call at a time.
//!
//! rclone's server takes the calls of a connection one after the other, so a call that waits for S3 holds up everything
//! behind it. With a connection for each call that is under way it holds up nothing, whatever the number of connections
//! that the kernel uses.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nfs3_types::nfs3::nfsstat3;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};

use super::buffers::LARGE;
use super::exchange::{Call, Exchange, Fate, Next, closed, permits};
use super::procedure::{Procedure, Scope};
use super::record::{MARK, RecordReader};
use super::reply::{self, Outcome};
use super::translate::translate;

/// How long connecting may take. On loopback only a server that accepts nothing takes longer than no time at all.
const CONNECT: Duration = Duration::from_secs(5);
/// Pause before the second attempt to connect; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Path {
    id: u64,
    generation: u64,
    replaced: watch::Receiver<u64>,
    reader: RecordReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    pub(super) reply: Vec<u8>,
    /// What a large `reply` takes of the room for replies, until it is written.
    reply_room: Option<OwnedSemaphorePermit>,
}

/// Gives the place in the pool back however the path ends.
struct Place(Arc<Exchange>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.path_ended();
    }
}

/// Opens a path, carries `first` and what follows, and ends with the connection, the guard, or when it is not needed.
pub(super) async fn run(exchange: Arc<Exchange>, first: Call) {
    let _place = Place(Arc::clone(&exchange));
    let mut closing = exchange.closing();
    tokio::select! {
        () = carry(&exchange, first) => {}
        () = closed(&mut closing) => {}
    }
}

async fn carry(exchange: &Arc<Exchange>, mut call: Call) {
    let opened = Path::open(exchange).await;
    exchange.opening_ended();
    let Some(mut path) = opened else {
        exchange.lost(call, false);
        return;
    };
    loop {
        match exchange.fate(&call) {
            Fate::Send => {
                if !path.forward(exchange, call).await {
                    return;
                }
            }
            Fate::Refuse(status) => {
                let reply = reply::failure(call.plan.identity.0, call.plan.procedure, status);
                if let Some(client) = exchange.refuse(&call, status) {
                    client.send(&reply).await;
                }
            }
            Fate::Drop => exchange.drop_call(&call),
        }
        match path.next(exchange).await {
            Some(next) => call = next,
            None => return,
        }
    }
}

impl Path {
    /// Connects, however long it takes. `None` when the call can be given back: calls are held, or another path tries.
    async fn open(exchange: &Arc<Exchange>) -> Option<Self> {
        let mut pause = FIRST_PAUSE;
        loop {
            let replaced = exchange.generations();
            let (upstream, generation, id) = exchange.way()?;
            let connected = match timeout(CONNECT, TcpStream::connect(upstream)).await {
                Ok(connected) => connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            match connected {
                Ok(stream) => {
                    if exchange.reached(true) {
                        tracing::info!(%upstream, "rclone's NFS server answers again");
                    }
                    let (read, writer) = stream.into_split();
                    let reader = RecordReader::new(read);
                    return Some(Self {
                        id,
                        generation,
                        replaced,
                        reader,
                        writer,
                        reply: Vec::new(),
                        reply_room: None,
                    });
                }
                Err(error) => {
                    if exchange.reached(false) {
                        tracing::warn!(%upstream, %error, "can't reach rclone's NFS server; calls wait until it is back");
                    }
                    if !exchange.keep_trying() {
                        return None;
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Carries one call there and its reply back. False when the path has broken.
    async fn forward(&mut self, exchange: &Arc<Exchange>, mut call: Call) -> bool {
        let mut replaced = self.replaced.clone();
        let result = tokio::select! {
            biased;
            result = self.transact(exchange, &mut call) => result,
            _ = replaced.changed() => Err(io::Error::other("rclone was replaced")),
        };
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::warn!(%error, call = call.plan.procedure.name, "lost a connection to rclone's NFS server");
                if let Some(call) = exchange.lost(call, true) {
                    self.give_up(exchange, &call).await;
                }
                return false;
            }
        };
        let client = exchange.complete(&call, &self.reply, outcome);
        exchange.buffers.give(call.record);
        if let Some(client) = client {
            client.send(&self.reply).await;
        }
        if self.reply.capacity() > LARGE {
            exchange.buffers.give(std::mem::take(&mut self.reply));
        }
        self.reply_room = None;
        true
    }

    /// Fails a call that keeps losing its connection.
    async fn give_up(&mut self, exchange: &Arc<Exchange>, call: &Call) {
        let xid = call.plan.identity.0;
        tracing::error!(
            xid,
            call = call.plan.procedure.name,
            "rclone died of a call too often; the app gets an I/O error"
        );
        self.reply = reply::failure(xid, call.plan.procedure, nfsstat3::NFS3ERR_IO);
        let outcome = Outcome::Failed(nfsstat3::NFS3ERR_IO);
        if let Some(client) = exchange.complete(call, &self.reply, outcome) {
            client.send(&self.reply).await;
        }
    }

    /// Sends the call and leaves what the kernel is to get in `self.reply`.
    async fn transact(&mut self, exchange: &Exchange, call: &mut Call) -> io::Result<Outcome> {
        let epoch = exchange.nodes().epoch();
        let outcome = if call.plan.procedure.scope == Scope::TwoEntries {
            self.rename(exchange, call).await?
        } else {
            self.execute(exchange, call).await?
        };
        translate(&mut self.reply, &call.plan, &call.record, &mut exchange.nodes(), epoch);
        Ok(outcome)
    }

    /// Has the call executed, and takes the reply for what it means.
    pub(super) async fn execute(&mut self, exchange: &Exchange, call: &mut Call) -> io::Result<Outcome> {
        let (xid, procedure) = (call.plan.identity.0, call.plan.procedure);
        let mut again = false;
        let outcome = loop {
            if let Err(status) = self.address(exchange, call).await? {
                return Ok(self.fail(call, status));
            }
            // It would make a new one over one that it does not see.
            if matches!(procedure.name, "create" | "mkdir") && !self.sees(exchange, call).await? {
                return Ok(self.fail(call, nfsstat3::NFS3ERR_IO));
            }
            let outcome = self.round_trip(exchange, &call.record, xid, procedure).await?;
            if again || !exchange.nodes().disown(outcome, &call.plan) {
                break outcome;
            }
            again = true;
        };
        let outcome = self.settle(exchange, call, outcome).await?;
        match (procedure.name, outcome) {
            ("lookup", Outcome::Failed(nfsstat3::NFS3ERR_NOENT | nfsstat3::NFS3ERR_NOTDIR)) => {
                self.believe(exchange, call, outcome).await
            }
            // That is what it says when it can't read a directory.
            ("readdir" | "readdirplus", Outcome::Failed(nfsstat3::NFS3ERR_NOTDIR)) if self.is_blind(exchange, call) => {
                Ok(self.fail(call, nfsstat3::NFS3ERR_IO))
            }
            _ => Ok(outcome),
        }
    }

    /// A LOOKUP that has found nothing, `outcome`: because there is nothing?
    async fn believe(&mut self, exchange: &Exchange, call: &Call, outcome: Outcome) -> io::Result<Outcome> {
        // What rclone has logged before it answered is read first.
        yield_now().await;
        yield_now().await;
        if !self.is_blind(exchange, call) {
            return Ok(outcome);
        }
        if !self.sees(exchange, call).await? {
            return Ok(self.fail(call, nfsstat3::NFS3ERR_IO));
        }
        // It sees now. Did it then?
        self.round_trip(exchange, &call.record, call.plan.identity.0, call.plan.procedure)
            .await
    }

    /// Prepares the reply that a call fails with `status`.
    pub(super) fn fail(&mut self, call: &Call, status: nfsstat3) -> Outcome {
        self.reply = reply::failure(call.plan.identity.0, call.plan.procedure, status);
        Outcome::Failed(status)
    }

    /// One call there, one reply back, in `self.reply`.
    pub(super) async fn round_trip(
        &mut self,
        exchange: &Exchange,
        request: &[u8],
        xid: u32,
        procedure: &Procedure,
    ) -> io::Result<Outcome> {
        self.writer.write_all(request).await?;
        let mark = self.reader.mark().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let bound = mark.record_bound();
        if bound > LARGE {
            self.reply_room = Arc::clone(&exchange.reply_room)
                .acquire_many_owned(permits(bound))
                .await
                .ok();
            self.reply = exchange.buffers.take(MARK + bound);
        }
        self.reader.body(mark, &mut self.reply).await?;
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        if reply::xid(&self.reply).map_err(invalid)? != xid {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply to another call"));
        }
        Ok(reply::outcome(&self.reply, procedure))
    }

    /// Waits for the next call. `None` when the path has broken or is not needed.
    async fn next(&mut self, exchange: &Arc<Exchange>) -> Option<Call> {
        let mut wait = match exchange.next(self.id, self.generation) {
            Next::Call(call) => return Some(*call),
            Next::Wait(wait) => wait,
            Next::End => return None,
        };
        tokio::select! {
            biased;
            call = &mut wait => call.ok(),
            // Nothing is to come on an idle path but its end.
            _ = self.reader.mark() => {
                if !exchange.retire(self.id)
                    && let Ok(call) = wait.await
                {
                    exchange.lost(call, false);
                }
                None
            }
        }
    }
}
