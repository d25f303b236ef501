//! What is going on, on stderr: one line that changes on a terminal, a line for each finished measure anywhere else.

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The live line changes at most this often: writing to a terminal takes time from what is measured.
const PAUSE: Duration = Duration::from_millis(100);

/// Cheap to clone; clones share the line.
#[derive(Clone)]
pub(super) struct Progress {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    sink: Box<dyn Write + Send>,
    live: bool,
    shown: Option<Instant>,
    step: String,
}

impl Progress {
    /// To stderr.
    pub(super) fn stderr() -> Progress {
        let live = io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb");
        Progress::new(Box::new(io::stderr()), live)
    }

    fn new(sink: Box<dyn Write + Send>, live: bool) -> Progress {
        Progress {
            inner: Arc::new(Mutex::new(Inner {
                sink,
                live,
                shown: None,
                step: String::new(),
            })),
        }
    }

    /// What is done now. Only shown on a terminal.
    pub(super) fn step(&self, step: &str) {
        self.with(|inner| {
            inner.step = step.to_owned();
            inner.shown = None;
            inner.show("");
        });
    }

    /// How far the step is.
    pub(super) fn tick(&self, done: usize, of: usize) {
        self.with(|inner| inner.show(&format!(" {done}/{of}")));
    }

    /// A line that stays.
    pub(super) fn say(&self, words: &str) {
        self.with(|inner| {
            inner.erase();
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(inner.sink, "{words}");
        });
    }

    /// Takes the live line away.
    pub(super) fn clear(&self) {
        self.with(Inner::erase);
    }

    fn with(&self, act: impl FnOnce(&mut Inner)) {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Inner {
    fn show(&mut self, more: &str) {
        if self.live && self.shown.is_none_or(|shown| shown.elapsed() >= PAUSE) {
            let _ = write!(self.sink, "\r\x1b[K{}{more}", self.step);
            let _ = self.sink.flush();
            self.shown = Some(Instant::now());
        }
    }

    fn erase(&mut self) {
        if self.shown.take().is_some() {
            let _ = write!(self.sink, "\r\x1b[K");
            let _ = self.sink.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(live: bool) -> String {
        let sink = Sink::default();
        let progress = Progress::new(Box::new(sink.clone()), live);
        progress.step("create");
        progress.tick(1, 100);
        progress.say("create: 4 ms");
        progress.clear();
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_pipe_gets_whole_lines_only() {
        assert_eq!(shown(false), "create: 4 ms\n");
    }

    #[test]
    fn a_terminal_gets_one_line_that_is_gone_in_the_end_and_not_written_for_every_sample() {
        assert_eq!(shown(true), "\r\x1b[Kcreate\r\x1b[Kcreate: 4 ms\n");
    }
}
