//! Reads the clocks that `core::clocks` compares.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::core::clocks::{Away, Reading, away};

/// Remembers the last look.
#[derive(Debug)]
pub struct Clocks {
    last: Option<Reading>,
    stall: Duration,
}

impl Clocks {
    /// A loop that comes later than `stall` has stalled.
    pub fn new(stall: Duration) -> Self {
        Clocks { last: None, stall }
    }

    /// Was this machine away since the last look? `late`: how long ago the loop should have turned.
    pub fn look(&mut self, late: Duration) -> Option<Away> {
        let now = read()?;
        let before = self.last.replace(now)?;
        away(&before, &now, late, self.stall)
    }
}

/// `None` on a kernel that has not all of them.
fn read() -> Option<Reading> {
    let clock = |id| clock_gettime(id).ok().map(Duration::from);
    Some(Reading {
        monotonic: clock(ClockId::CLOCK_MONOTONIC)?,
        boottime: clock(ClockId::CLOCK_BOOTTIME)?,
        realtime: clock(ClockId::CLOCK_REALTIME)?,
    })
}
