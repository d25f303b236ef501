//! Ctrl-C and its relatives: the first one ends the run in order, the second one at once.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::halt::Halt;
use crate::process::Group;

/// A future whose type is not part of its caller's: each of these would otherwise be compiled into everything that waits for
/// it, and an S3 request alone is 10 kB.
pub(super) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The one place where the thread that measures waits for the runtime, which runs on another. Told to everyone who works. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stop {
    asked: watch::Receiver<Option<Signal>>,
    runtime: Handle,
    child: Arc<Mutex<Option<Group>>>,
}

/// Listens from now on. `name` is what is left behind when there is no time to remove it. Must run inside a runtime.
pub(super) fn listen(name: String) -> io::Result<Stop> {
    let (send, mut signals) = mpsc::unbounded_channel();
    for (kind, number) in [
        (SignalKind::interrupt(), Signal::SIGINT),
        (SignalKind::terminate(), Signal::SIGTERM),
        (SignalKind::quit(), Signal::SIGQUIT),
        (SignalKind::hangup(), Signal::SIGHUP),
    ] {
        let (mut stream, send) = (signal(kind)?, send.clone());
        background(async move { while stream.recv().await.is_some() && send.send(number).is_ok() {} });
    }
    let (ask, asked) = watch::channel(None);
    let child = Arc::new(Mutex::new(None::<Group>));
    let stop = Stop {
        asked,
        runtime: Handle::current(),
        child: Arc::clone(&child),
    };
    background(async move {
        let Some(first) = signals.recv().await else { return };
        ask.send_replace(Some(first));
        say(&format!("{first}: removing what was made; once more leaves at once"));
        if let Some(second) = signals.recv().await {
            if let Some(child) = *child.lock().unwrap_or_else(PoisonError::into_inner) {
                child.signal(Signal::SIGKILL);
            }
            say(&format!("{second}: left at once, folders named {name} are left behind"));
            // A thread that hangs in the mount would keep every other way out waiting.
            std::process::exit(128 + second as i32);
        }
        // Keeps the sender, and with it the answer, until the process ends.
        ask.closed().await;
    });
    Ok(stop)
}

fn background(work: impl Future<Output = ()> + Send + 'static) {
    let work: Later<'static, ()> = Box::pin(work);
    tokio::spawn(work);
}

fn say(words: &str) {
    // Past the live line, which may be anywhere.
    let _ = writeln!(io::stderr(), "\ntenant-init bench: {words}");
}

impl Stop {
    /// Asked between two samples.
    pub(super) fn check(&self) -> Result<(), Halt> {
        match *self.asked.borrow() {
            Some(signal) => Err(Halt::Stopped(signal)),
            None => Ok(()),
        }
    }

    /// Waits for `work` until somebody wants us to stop.
    pub(super) fn wait<T: Send>(&self, work: Later<'_, T>) -> Result<T, Halt> {
        let mut result = None;
        self.race(Box::pin(async { result = Some(work.await) }), true)?;
        result.ok_or(Halt::Stopped(Signal::SIGTERM))
    }

    /// Waits for `work` to its end, whoever wants us to stop.
    pub(super) fn finish<T: Send>(&self, work: Later<'_, T>) -> Option<T> {
        let mut result = None;
        // Cannot be stopped, so there is no error.
        let _ = self.race(Box::pin(async { result = Some(work.await) }), false);
        result
    }

    /// Waits a moment.
    pub(super) fn sleep(&self, time: Duration) -> Result<(), Halt> {
        self.wait(Box::pin(tokio::time::sleep(time)))
    }

    fn race(&self, work: Later<'_, ()>, stoppable: bool) -> Result<(), Halt> {
        let mut asked = self.asked.clone();
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                Ok(signal) = asked.wait_for(Option::is_some), if stoppable => {
                    Err(Halt::Stopped(signal.unwrap_or(Signal::SIGTERM)))
                }
                () = work => Ok(()),
            }
        })
    }

    /// The process that must not outlive us.
    pub(super) fn own(&self, child: Option<Group>) {
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = child;
    }
}
