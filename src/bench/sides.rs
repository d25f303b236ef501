//! The two sides of a comparison, measured in turns: what else the machine does meets both.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::halt::Halt;
use super::progress::Progress;
use super::stop::Stop;

/// Where something is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Mount,
    Local,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Mount, Side::Local];

    /// Sample `number`: who comes first alternates, so that neither always follows the other.
    pub(super) fn order(number: usize) -> [Side; 2] {
        if number.is_multiple_of(2) {
            [Side::Mount, Side::Local]
        } else {
            [Side::Local, Side::Mount]
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Mount => "on the mount",
            Side::Local => "on local disk",
        }
    }
}

/// Our folder on each side.
#[derive(Debug, Clone)]
pub(super) struct Folders {
    pub(super) mount: PathBuf,
    pub(super) local: PathBuf,
}

impl Folders {
    pub(super) fn at(&self, side: Side) -> &Path {
        match side {
            Side::Mount => &self.mount,
            Side::Local => &self.local,
        }
    }

    /// The folder `name` in both; not made yet.
    pub(super) fn join(&self, name: &str) -> Folders {
        Folders {
            mount: self.mount.join(name),
            local: self.local.join(name),
        }
    }

    /// Makes both.
    pub(super) fn make(&self) -> Result<(), Halt> {
        for side in Side::BOTH {
            let path = self.at(side);
            std::fs::create_dir(path)
                .map_err(|error| Halt::file(format!("cannot make the folder {}", path.display()), error))?;
        }
        Ok(())
    }
}

/// Samples of one measure in milliseconds. A side that was not measured is empty.
#[derive(Debug, Clone, Default)]
pub(super) struct Samples {
    pub(super) mount: Vec<f64>,
    pub(super) local: Vec<f64>,
}

impl Samples {
    pub(super) fn push(&mut self, side: Side, took: Duration) {
        let milliseconds = took.as_secs_f64() * 1e3;
        match side {
            Side::Mount => self.mount.push(milliseconds),
            Side::Local => self.local.push(milliseconds),
        }
    }
}

/// What every measure needs to run: somebody may want to stop it, somebody may watch.
#[derive(Clone)]
pub(super) struct Runner {
    pub(super) stop: Stop,
    pub(super) progress: Progress,
}

impl Runner {
    /// `count` samples on each side in turns. `operation` gives the time of the part that counts.
    pub(super) fn compare(
        &self,
        what: &str,
        count: usize,
        operation: &mut dyn FnMut(Side, usize) -> io::Result<Duration>,
    ) -> Result<Samples, Halt> {
        let mut samples = Samples::default();
        self.progress.step(what);
        for number in 0..count {
            self.stop.check()?;
            self.progress.tick(number, count);
            for side in Side::order(number) {
                let took =
                    operation(side, number).map_err(|error| Halt::file(format!("{what} {}", side.name()), error))?;
                samples.push(side, took);
            }
        }
        Ok(samples)
    }
}

/// How long `work` takes.
pub(super) fn timed<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<(Duration, T)> {
    let begin = Instant::now();
    let done = work()?;
    Ok((begin.elapsed(), done))
}

/// The same without a result.
pub(super) fn time(work: impl FnOnce() -> io::Result<()>) -> io::Result<Duration> {
    timed(work).map(|(took, ())| took)
}

/// Runs `work` on `count` threads at once, each with its number, and collects what they give.
pub(super) fn side_by_side(
    count: usize,
    work: &(dyn Fn(usize) -> io::Result<Vec<Duration>> + Sync),
) -> io::Result<Vec<Duration>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|number| scope.spawn(move || work(number))).collect();
        let mut all = Vec::new();
        for thread in threads {
            let done = thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread failed")));
            all.extend(done?);
        }
        Ok(all)
    })
}
