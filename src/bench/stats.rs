//! Numbers about samples: quantiles as measured (no interpolation, no buckets) and how sure the median is.

use serde::Serialize;

/// What is kept of the samples of one measure on one side. All times are milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// How many samples.
    pub samples: usize,
    /// Half of them took at most this.
    pub median_ms: f64,
    /// The true median is between `low_ms` and `high_ms` with 95 % confidence (fewer than six samples: the range).
    pub low_ms: f64,
    /// See `low_ms`.
    pub high_ms: f64,
    /// 95 % took at most this.
    pub p95_ms: f64,
    /// 99 % took at most this.
    pub p99_ms: f64,
}

impl Summary {
    /// `None` when there are no samples.
    #[must_use]
    pub fn of(samples_ms: &[f64]) -> Option<Summary> {
        let mut sorted = samples_ms.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = median_ranks(sorted.len());
        let at = |index: usize| sorted.get(index).copied();
        let (below, above) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
        Some(Summary {
            samples: sorted.len(),
            median_ms: f64::midpoint(at(below)?, at(above)?),
            low_ms: at(low)?,
            high_ms: at(high)?,
            p95_ms: at(rank(sorted.len(), 95))?,
            p99_ms: at(rank(sorted.len(), 99))?,
        })
    }
}

/// Index of the smallest of `count` sorted samples that at least `percent` of them do not exceed (nearest rank).
fn rank(count: usize, percent: usize) -> usize {
    (count * percent).div_ceil(100).saturating_sub(1)
}

/// Indices of the sorted samples that enclose the true median with 95 % confidence: how many samples lie below it is
/// binomial with 1/2, whatever the distribution of the times is. Normal approximation, rounded outwards.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of samples; the result is clamped"
)]
fn median_ranks(count: usize) -> (usize, usize) {
    let last = count.saturating_sub(1);
    let half_width = 0.98 * (count as f64).sqrt();
    let low = (count as f64 / 2.0 - half_width).floor().max(0.0) as usize;
    (low.min(last), last - low.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[f64]) -> Summary {
        Summary::of(samples).unwrap()
    }

    #[test]
    fn quantiles_are_samples_in_any_order() {
        let mut samples: Vec<f64> = (1..=200).map(f64::from).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut samples);
        let summary = of(&samples);
        assert_eq!(
            (summary.samples, summary.median_ms, summary.p95_ms, summary.p99_ms),
            (200, 100.5, 190.0, 198.0)
        );
    }

    #[test]
    fn few_samples_have_their_range_as_the_interval() {
        assert_eq!(Summary::of(&[]), None);
        let one = of(&[4.0]);
        assert_eq!(
            (one.median_ms, one.low_ms, one.high_ms, one.p99_ms),
            (4.0, 4.0, 4.0, 4.0)
        );
        let three = of(&[3.0, 1.0, 2.0]);
        assert_eq!((three.median_ms, three.low_ms, three.high_ms), (2.0, 1.0, 3.0));
    }

    #[test]
    fn the_interval_holds_the_true_median_as_often_as_it_says() {
        let mut random = fastrand::Rng::with_seed(1);
        for count in [10, 30, 100] {
            // Squares of uniform numbers: skewed as latencies are, with the median 0.25.
            let hits = (0..2000)
                .filter(|_| {
                    let samples: Vec<f64> = (0..count).map(|_| random.f64().powi(2)).collect();
                    let summary = of(&samples);
                    (summary.low_ms..=summary.high_ms).contains(&0.25)
                })
                .count();
            assert!(hits >= 1870, "{hits} of 2000 with {count} samples");
        }
    }
}
