//! Mount operations: how many, how long, how they failed. Recorded live on the path of every NFS call, so recording
//! takes no lock and allocates nothing: one scan over a few names and three relaxed atomic additions.
//!
//! Names and error codes are `&'static str` from closed sets (NFSv3 procedures and status codes), and both tables have
//! a fixed size with a catch-all behind it. So neither memory nor the number of time series can grow, whatever a
//! client sends.
//!
//! One histogram serves both readers. Its *bounds* are the 1-2-5 series people set targets on and are what the metrics
//! show; each interval is cut into [`PARTS`] equal parts that only the percentiles of `/status` use.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::core::snapshot::Operation;

/// Upper bounds of the intervals in nanoseconds, inclusive; everything above the last one is one more interval.
const BOUNDS: [u64; 20] = [
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
    20_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Parts of one interval. With 8 a percentile is off by at most a fifth of its value (the widest interval grows by
/// 2.5 times, one part of it is 3/16 of its lower bound), and 50 us / 8 below the first bound.
const PARTS: u64 = 8;

/// Bounded intervals cut into parts, and the unbounded one.
const CELLS: usize = BOUNDS.len() * PARTS as usize + 1;

/// Distinct operations: NFSv3 has 22 procedures, fuse needs fewer.
const OPERATIONS: usize = 32;

/// Distinct errors of one operation.
const ERRORS: usize = 16;

/// Name of what did not fit in a table.
const OTHER: &str = "other";

/// A latency histogram. Recording is wait-free; reading is consistent enough for people: a reader may miss
/// observations that are being recorded, but its count always equals the sum of its buckets.
#[derive(Debug)]
pub struct Histogram {
    cells: [AtomicU64; CELLS],
    sum_nanos: AtomicU64,
    max_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram {
            cells: [const { AtomicU64::new(0) }; CELLS],
            sum_nanos: AtomicU64::new(0),
            max_nanos: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Counts one observation.
    pub fn record(&self, elapsed: Duration) {
        let nanos = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.cells[cell_of(nanos)].fetch_add(1, Relaxed);
        self.sum_nanos.fetch_add(nanos, Relaxed);
        self.max_nanos.fetch_max(nanos, Relaxed);
    }

    /// A copy to compute on.
    #[must_use]
    pub fn read(&self) -> Reading {
        let mut cells = [0; CELLS];
        for (copy, cell) in cells.iter_mut().zip(&self.cells) {
            *copy = cell.load(Relaxed);
        }
        Reading {
            count: cells.iter().sum(),
            cells,
            sum_nanos: self.sum_nanos.load(Relaxed),
            max_nanos: self.max_nanos.load(Relaxed),
        }
    }
}

/// What a histogram held at one moment.
#[derive(Debug, Clone)]
pub struct Reading {
    cells: [u64; CELLS],
    count: u64,
    sum_nanos: u64,
    max_nanos: u64,
}

impl Reading {
    /// Observations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum of all observations in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        seconds(self.sum_nanos)
    }

    /// `(upper bound in seconds, observations in this interval)`, not cumulative; the last bound is infinity.
    #[must_use]
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS.iter().map(|&bound| seconds(bound)).chain([f64::INFINITY]);
        bounds
            .zip(self.cells.chunks(PARTS as usize).map(|parts| parts.iter().sum()))
            .collect()
    }

    /// The value below which the share `q` (0 to 1) of all observations lies, in milliseconds, by linear interpolation
    /// inside a part; never above the largest observation. 0 when there is none.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "counts and nanoseconds stay far below 2^53")]
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let rank = q * self.count as f64;
        let max = self.max_nanos as f64;
        let mut below = 0.0;
        for (index, &inside) in self.cells.iter().enumerate().filter(|&(_, &inside)| inside > 0) {
            let inside = inside as f64;
            if below + inside >= rank {
                let (low, high) = edges(index, self.max_nanos);
                let value = low as f64 + (high - low) as f64 * ((rank - below) / inside);
                return value.min(max) / 1e6;
            }
            below += inside;
        }
        max / 1e6
    }
}

#[allow(clippy::cast_precision_loss, reason = "2^53 ns are 104 days")]
fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Index of the part that holds `nanos`. Parts include their upper edge, as `le` does.
fn cell_of(nanos: u64) -> usize {
    let interval = BOUNDS.partition_point(|&bound| bound < nanos);
    let Some(&high) = BOUNDS.get(interval) else {
        return CELLS - 1;
    };
    let low = lower_bound(interval);
    let part = (nanos - low).saturating_sub(1) * PARTS / (high - low);
    interval * PARTS as usize + usize::try_from(part).unwrap_or(0)
}

fn lower_bound(interval: usize) -> u64 {
    interval.checked_sub(1).map_or(0, |previous| BOUNDS[previous])
}

/// Lower and upper edge of a part; the unbounded one ends at the largest observation.
fn edges(cell: usize, max: u64) -> (u64, u64) {
    let interval = cell / PARTS as usize;
    let low = lower_bound(interval);
    let Some(&high) = BOUNDS.get(interval) else {
        return (low, max.max(low));
    };
    let part = (cell % PARTS as usize) as u64;
    let width = high - low;
    (low + width * part / PARTS, low + width * (part + 1) / PARTS)
}

/// An append-only table with a fixed number of names and a catch-all. Lookups are lock-free and in order of first use,
/// so what is frequent is usually found at once.
#[derive(Debug)]
struct Table<V, const N: usize> {
    slots: [OnceLock<(&'static str, V)>; N],
    rest: V,
}

impl<V: Default, const N: usize> Default for Table<V, N> {
    fn default() -> Self {
        Table {
            slots: [const { OnceLock::new() }; N],
            rest: V::default(),
        }
    }
}

impl<V: Default, const N: usize> Table<V, N> {
    fn get(&self, name: &'static str) -> &V {
        for slot in &self.slots {
            // Another thread may win the race for a free slot with another name: then look at the next one.
            let (taken, value) = slot.get_or_init(|| (name, V::default()));
            if *taken == name {
                return value;
            }
        }
        &self.rest
    }

    fn iter(&self) -> impl Iterator<Item = (&'static str, &V)> {
        let named = self
            .slots
            .iter()
            .map_while(OnceLock::get)
            .map(|(name, value)| (*name, value));
        named.chain([(OTHER, &self.rest)])
    }
}

#[derive(Debug, Default)]
struct Entry {
    latency: Histogram,
    errors: Table<AtomicU64, ERRORS>,
}

/// All mount operations since the start.
#[derive(Debug, Default)]
pub struct Operations {
    table: Table<Entry, OPERATIONS>,
}

impl Operations {
    /// Counts one operation. `name` and `error` come from closed sets (`"write"`, `"NFS3ERR_NOSPC"`); the 33rd name and
    /// the 17th error of a name are counted as `other`.
    pub fn operation(&self, name: &'static str, elapsed: Duration, error: Option<&'static str>) {
        let entry = self.table.get(name);
        entry.latency.record(elapsed);
        if let Some(error) = error {
            entry.errors.get(error).fetch_add(1, Relaxed);
        }
    }

    /// Counts an operation that was refused before anyone spent time on it. Only its error is counted: a latency of
    /// nothing would flatter the percentiles.
    pub fn refused(&self, name: &'static str, error: &'static str) {
        self.table.get(name).errors.get(error).fetch_add(1, Relaxed);
    }

    /// For `/status`: counts and percentiles since the start, by name.
    #[must_use]
    pub fn summary(&self) -> BTreeMap<String, Operation> {
        let mut summary = BTreeMap::new();
        for (name, entry) in self.table.iter() {
            let reading = entry.latency.read();
            let errors: u64 = entry.errors.iter().map(|(_, count)| count.load(Relaxed)).sum();
            if reading.count + errors > 0 {
                let (p50_ms, p99_ms) = (reading.quantile_ms(0.5), reading.quantile_ms(0.99));
                summary.insert(
                    name.to_owned(),
                    Operation {
                        count: reading.count,
                        errors,
                        p50_ms,
                        p99_ms,
                    },
                );
            }
        }
        summary
    }

    /// `(operation, its latencies)` of every operation that happened.
    pub fn histograms(&self) -> impl Iterator<Item = (&'static str, Reading)> {
        self.table
            .iter()
            .map(|(name, entry)| (name, entry.latency.read()))
            .filter(|(_, reading)| reading.count > 0)
    }

    /// `(operation, error, how often)` of every error that happened.
    pub fn errors(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.table
            .iter()
            .flat_map(|(name, entry)| {
                entry
                    .errors
                    .iter()
                    .map(move |(error, count)| (name, error, count.load(Relaxed)))
            })
            .filter(|&(_, _, count)| count > 0)
    }
}

impl crate::mount::guard::Observer for Operations {
    fn operation(&self, name: &'static str, elapsed: Duration, error: Option<&'static str>) {
        Operations::operation(self, name, elapsed, error);
    }

    fn refused(&self, name: &'static str, error: &'static str) {
        Operations::refused(self, name, error);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn summary_counts_and_names() {
        let operations = Operations::default();
        for _ in 0..99 {
            operations.operation("read", Duration::from_millis(1), None);
        }
        operations.operation("read", Duration::from_secs(2), Some("NFS3ERR_IO"));
        operations.operation("write", Duration::from_micros(10), None);
        let summary = operations.summary();
        assert_eq!(summary.keys().collect::<Vec<_>>(), ["read", "write"]);
        let read = &summary["read"];
        assert_eq!((read.count, read.errors), (100, 1));
        assert!((0.9..=1.1).contains(&read.p50_ms), "p50 {}", read.p50_ms);
        assert!((0.9..=1.1).contains(&read.p99_ms), "p99 {}", read.p99_ms);
        assert!(
            (0.0..=0.01).contains(&summary["write"].p99_ms),
            "clamped to the largest: {}",
            summary["write"].p99_ms
        );
        assert_eq!(operations.errors().collect::<Vec<_>>(), [("read", "NFS3ERR_IO", 1)]);
    }

    #[test]
    fn a_refused_operation_is_an_error_without_a_latency() {
        let operations = Operations::default();
        operations.refused("write", "NFS3ERR_ROFS");
        assert_eq!(
            (
                operations.summary()["write"].count,
                operations.summary()["write"].errors
            ),
            (0, 1)
        );
        assert_eq!(operations.errors().collect::<Vec<_>>(), [("write", "NFS3ERR_ROFS", 1)]);
        assert_eq!(operations.histograms().count(), 0);
    }

    #[test]
    fn names_beyond_the_table_become_other() {
        let operations = Operations::default();
        for n in 0..OPERATIONS + 5 {
            let name: &'static str = Box::leak(format!("OP{n}").into_boxed_str());
            operations.operation(name, Duration::from_millis(1), None);
        }
        for n in 0..ERRORS + 3 {
            let error: &'static str = Box::leak(format!("ERR{n}").into_boxed_str());
            operations.operation("OP0", Duration::from_millis(1), Some(error));
        }
        let summary = operations.summary();
        assert_eq!(summary.len(), OPERATIONS + 1);
        assert_eq!(summary["other"].count, 5);
        assert_eq!(summary["OP0"].errors, (ERRORS + 3) as u64);
        assert_eq!(operations.errors().count(), ERRORS + 1);
    }

    #[test]
    fn counting_from_many_threads_loses_nothing() {
        let operations = Operations::default();
        let names = ["read", "write", "lookup", "create"];
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let operations = &operations;
                scope.spawn(move || {
                    for n in 0..1000 {
                        operations.operation(names[(n + thread) % 4], Duration::from_micros(n as u64), Some("E"));
                    }
                });
            }
        });
        let summary = operations.summary();
        assert_eq!(summary.len(), 4);
        assert!(
            summary.values().all(|s| s.count == 1000 && s.errors == 1000),
            "{summary:?}"
        );
    }

    #[test]
    fn bounds_are_inclusive_and_the_last_bucket_is_open() {
        let histogram = Histogram::default();
        for nanos in [0, 50_000, 50_001, 60_000_000_000, 60_000_000_001] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let buckets = histogram.read().buckets();
        assert_eq!(buckets.len(), BOUNDS.len() + 1);
        assert_eq!(buckets[0], (0.000_05, 2));
        assert_eq!(buckets[1].1, 1);
        assert_eq!(buckets[BOUNDS.len() - 1], (60.0, 1));
        assert_eq!(buckets[BOUNDS.len()], (f64::INFINITY, 1));
        let expected = 60_000_000_001f64 / 1e6;
        assert!((histogram.read().quantile_ms(1.0) - expected).abs() < 0.001);
    }

    #[test]
    fn nothing_recorded_is_zero() {
        assert!(Histogram::default().read().quantile_ms(0.99).abs() < f64::EPSILON);
        assert!(Operations::default().summary().is_empty());
    }

    proptest! {
        /// The estimate lies in the same part as the exact percentile (nearest rank), so it is off by at most one
        /// part: a fifth of the value, or 6.25 us near zero.
        #[test]
        fn percentiles_are_within_one_part(
            mut nanos in prop::collection::vec(prop_oneof![0u64..200_000, 0u64..50_000_000, 0u64..70_000_000_000], 1..400),
            q in prop::sample::select(vec![0.5, 0.9, 0.99, 1.0]),
        ) {
            let histogram = Histogram::default();
            for &n in &nanos {
                histogram.record(Duration::from_nanos(n));
            }
            nanos.sort_unstable();
            #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let rank = ((q * nanos.len() as f64).ceil() as usize).max(1);
            let exact = nanos[rank - 1];
            #[allow(clippy::cast_precision_loss)]
            let exact_ms = exact as f64 / 1e6;
            let estimate = histogram.read().quantile_ms(q);
            if exact <= 60_000_000_000 {
                prop_assert!((estimate - exact_ms).abs() <= (exact_ms * 0.2).max(0.00625), "{estimate} for {exact_ms}");
            }
            #[allow(clippy::cast_precision_loss)]
            let max_ms = nanos[nanos.len() - 1] as f64 / 1e6;
            prop_assert!(estimate <= max_ms);
        }
    }
}
