//! One connection of the kernel: its calls are read here, its replies written by whichever path has one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Mutex;

use super::call::{Inspected, inspect};
use super::exchange::{Exchange, Submitted, closed, permits};
use super::record::{MARK, RecordReader};

/// The writing side of a connection.
pub(super) struct Client {
    replies: Mutex<OwnedWriteHalf>,
    closed: AtomicBool,
}

impl Client {
    /// Writes a whole reply. A connection that has broken loses it: the kernel sends the call again on a new one.
    pub(super) async fn send(&self, reply: &[u8]) {
        let written = self.replies.lock().await.write_all(reply).await;
        if written.is_err() {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    /// Whether nobody reads replies here any more.
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

/// Serves a connection until it or the guard ends.
pub(super) async fn serve(exchange: Arc<Exchange>, stream: TcpStream) {
    let mut closing = exchange.closing();
    let (read, write) = stream.into_split();
    let client = Arc::new(Client {
        replies: Mutex::new(write),
        closed: AtomicBool::new(false),
    });
    let ended = tokio::select! {
        ended = read_calls(&exchange, RecordReader::new(read), &client) => ended,
        () = closed(&mut closing) => Ok(()),
    };
    client.closed.store(true, Ordering::Relaxed);
    match ended {
        Ok(()) => tracing::debug!("the kernel closed a connection to the NFS guard"),
        Err(error) => tracing::warn!(%error, "closed a connection of the NFS client"),
    }
}

async fn read_calls(
    exchange: &Arc<Exchange>,
    mut reader: RecordReader<OwnedReadHalf>,
    client: &Arc<Client>,
) -> io::Result<()> {
    while let Some(mark) = reader.mark().await? {
        let bound = mark.record_bound();
        let room = Arc::clone(&exchange.request_room)
            .acquire_many_owned(permits(bound))
            .await;
        // The semaphore is never closed; without room there is nothing to read into.
        let Ok(room) = room else { return Ok(()) };
        let mut record = exchange.buffers.take(MARK + mark.len);
        reader.body(mark, &mut record).await?;
        match inspect(&mut record) {
            Inspected::Forward(plan) => {
                if let Submitted::Answer(answer) = exchange.submit(record, plan, room, client) {
                    client.send(&answer).await;
                }
            }
            Inspected::Answer(answer) => client.send(&answer).await,
            Inspected::Close(malformed) => return Err(io::Error::new(io::ErrorKind::InvalidData, malformed)),
        }
    }
    Ok(())
}
