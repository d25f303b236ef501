//! Lines go through a bounded queue to one thread that writes them.
//!
//! The reader of our stderr may stop reading (a stuck log shipper, a terminal with ^S); a pipe then takes 64 KiB and
//! blocks. That must not stop the supervisor, so it never writes itself: when the queue is full the line is dropped and
//! counted, and the thread says how many as soon as it can write again.
//!
//! `tracing-appender` has such a writer. It is not used because it prints to *stdout* when it cannot flush, which is
//! reserved for the verdict, and because it bounds lines, not bytes.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait at most.
const MAX_LINES: usize = 4096;

/// Bytes that wait at most.
const MAX_BYTES: usize = 1024 * 1024;

/// Pause before the next try when the descriptor was made non-blocking by someone and is full.
const RETRY: Duration = Duration::from_millis(5);

enum Message {
    Line(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Puts lines in the queue. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    queue: SyncSender<Message>,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Writer {
    /// Starts the thread that writes to `sink`. `report` makes a line of the number of lines dropped since the last
    /// report.
    pub(super) fn spawn(
        sink: impl Write + Send + 'static,
        report: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, waiting) = sync_channel(MAX_LINES);
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || write(&waiting, sink, &shared, report))?;
        Ok(Writer { queue, state })
    }

    /// Queues a line, or drops and counts it. Never blocks.
    pub(super) fn line(&self, line: Vec<u8>) {
        let size = line.len();
        let fits = self.state.waiting_bytes.fetch_add(size, Relaxed) + size <= MAX_BYTES;
        if !fits || self.queue.try_send(Message::Line(line)).is_err() {
            self.state.waiting_bytes.fetch_sub(size, Relaxed);
            self.state.dropped.fetch_add(1, Relaxed);
        }
    }

    /// Lines dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }

    /// Waits until everything queued so far is written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (done, written) = sync_channel(1);
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = back;
            thread::sleep(RETRY);
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// The thread: ends when the last [`Writer`] is gone.
fn write(waiting: &Receiver<Message>, mut sink: impl Write, state: &State, report: impl Fn(u64) -> Vec<u8>) {
    let mut reported = 0;
    while let Ok(message) = waiting.recv() {
        let dropped = state.dropped.load(Relaxed);
        if dropped > reported {
            write_all(&mut sink, &report(dropped - reported));
            reported = dropped;
        }
        match message {
            Message::Line(line) => {
                write_all(&mut sink, &line);
                state.waiting_bytes.fetch_sub(line.len(), Relaxed);
            }
            Message::Flush(done) => {
                let _ = sink.flush();
                let _ = done.try_send(());
            }
        }
    }
}

/// Unlike [`Write::write_all`] goes on after `WouldBlock`: stderr may share its open file, and so `O_NONBLOCK`, with
/// other processes. Any other failure loses the line: there is nowhere to say so.
pub(in crate::ops) fn write_all(sink: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match sink.write(line) {
            Ok(0) => return,
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(RETRY),
            Err(_) => return,
        }
    }
}

impl Write for Writer {
    /// One call is one line: the subscriber formats an event before it writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.line(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        self.clone()
    }
}
