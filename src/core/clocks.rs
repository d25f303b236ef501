//! Has this machine been away? Three clocks tell (clock_gettime(2)): `CLOCK_MONOTONIC` stands still while it is suspended,
//! `CLOCK_BOOTTIME` does not, and a virtual machine that was frozen and thawed by its host notices nothing but that the time
//! of day has jumped. And a loop that comes late was stopped, or starved.

use std::time::Duration;

/// Less is an ordinary delay.
const STALL: Duration = Duration::from_secs(5);

/// A loop that comes this late has stalled. A lease that is short can end in a shorter one.
#[must_use]
pub fn stall(lease_ttl: Duration) -> Duration {
    STALL.min(lease_ttl / 3)
}

/// The two clocks that count from the start of the machine agree to microseconds.
const SLEEP: Duration = Duration::from_secs(1);
/// A time server corrects a clock in small steps; those are no jumps.
const JUMP: Duration = Duration::from_secs(5);

/// One look at the clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// `CLOCK_MONOTONIC`
    pub monotonic: Duration,
    /// `CLOCK_BOOTTIME`
    pub boottime: Duration,
    /// `CLOCK_REALTIME`, since 1970.
    pub realtime: Duration,
}

/// Time in which nothing of ours ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Away {
    /// Of it, the core's clock has counted this.
    pub stalled: Duration,
    /// And this it has not.
    pub asleep: Duration,
}

impl Away {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.stalled + self.asleep
    }
}

/// Compares two looks. `late`: how long ago the loop should have turned; from `stall` on it counts. `None`: nothing out of
/// the ordinary.
///
/// A time of day that was set back says that somebody set the clock, no more; what depends on it (signatures, leases) is
/// looked at again all the same.
#[must_use]
pub fn away(before: &Reading, after: &Reading, late: Duration, stall: Duration) -> Option<Away> {
    let passed = after.monotonic.saturating_sub(before.monotonic);
    let suspended = after.boottime.saturating_sub(before.boottime).saturating_sub(passed);
    let suspended = Some(suspended).filter(|time| *time >= SLEEP).unwrap_or_default();
    let expected = before.realtime + passed + suspended;
    let ahead = after.realtime.saturating_sub(expected);
    let back = expected.saturating_sub(after.realtime);
    let jumped = Some(ahead).filter(|time| *time >= JUMP).unwrap_or_default();
    let away = Away {
        stalled: Some(late).filter(|late| *late >= stall).unwrap_or_default(),
        asleep: suspended + jumped,
    };
    (away != Away::default() || back >= JUMP).then_some(away)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(monotonic: u64, boottime: u64, realtime: u64) -> Reading {
        Reading {
            monotonic: Duration::from_millis(monotonic),
            boottime: Duration::from_millis(boottime),
            realtime: Duration::from_millis(1_700_000_000_000 + realtime),
        }
    }

    fn seconds(after: Reading, late: u64) -> Option<(u64, u64)> {
        let away = away(&look(0, 0, 0), &after, Duration::from_millis(late), STALL)?;
        Some((away.stalled.as_secs(), away.asleep.as_secs()))
    }

    #[test]
    fn ordinary_time_is_nothing() {
        assert_eq!(seconds(look(9_000, 9_000, 9_000), 20), None);
        assert_eq!(
            seconds(look(9_000, 9_001, 9_400), 4_900),
            None,
            "a slow machine, a time server's step"
        );
    }

    #[test]
    fn each_kind_of_absence_is_seen() {
        assert_eq!(
            seconds(look(9_000, 3_609_000, 3_609_000), 20),
            Some((0, 3600)),
            "suspended"
        );
        assert_eq!(
            seconds(look(9_000, 9_000, 3_609_000), 20),
            Some((0, 3600)),
            "frozen by its host"
        );
        assert_eq!(seconds(look(40_000, 40_000, 40_000), 31_000), Some((31, 0)), "stopped");
        assert_eq!(
            seconds(look(9_000, 9_000, 0), 20),
            Some((0, 0)),
            "the clock was set back"
        );
    }
}
