//! Restart delay and restart budget of one service.
//!
//! 0.5 s, doubled to 30 s, with up to 10 % jitter; forgotten after the service was stable for a minute. The budget is
//! counted per cause inside a sliding window, so that a flapping app cannot hide behind a flapping mount.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const MOST: Duration = Duration::from_secs(30);
/// A service that ran this long was stable: the next failure starts from the first delay again.
pub const STABLE: Duration = Duration::from_secs(60);

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again after this long.
    Retry(Duration),
    /// The budget for this cause is used up.
    Exhausted,
}

/// Restart bookkeeping of one service.
#[derive(Debug, Clone)]
pub struct Backoff {
    budget: u32,
    window: Duration,
    delay: Duration,
    failures: BTreeMap<&'static str, VecDeque<Duration>>,
    rng: fastrand::Rng,
}

impl Backoff {
    /// `budget` restarts per cause inside `window`. `seed` makes the jitter repeatable.
    #[must_use]
    pub fn new(budget: u32, window: Duration, seed: u64) -> Self {
        Backoff {
            budget,
            window,
            delay: FIRST,
            failures: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A failure at `now` after the service ran for `ran`. `counts`: does it spend the budget (an outage does not)?
    pub fn failed(&mut self, cause: &'static str, now: Duration, ran: Duration, counts: bool) -> Verdict {
        if ran >= STABLE {
            self.delay = FIRST;
        }
        if counts {
            let window = self.window;
            let times = self.failures.entry(cause).or_default();
            times.retain(|t| now.saturating_sub(*t) < window);
            times.push_back(now);
            if times.len() > self.budget as usize {
                return Verdict::Exhausted;
            }
        }
        let delay = self.delay;
        self.delay = (delay * 2).min(MOST);
        Verdict::Retry(delay.mul_f64(1.0 + self.rng.f64() * 0.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_with_jitter_and_start_again_after_stability() {
        let mut backoff = Backoff::new(100, Duration::from_secs(300), 1);
        let mut expected = FIRST;
        for i in 0..10 {
            let Verdict::Retry(delay) = backoff.failed("exited", Duration::from_secs(i), Duration::ZERO, true) else {
                panic!("budget of 100 used up after {i}")
            };
            assert!(
                delay >= expected && delay <= expected.mul_f64(1.1),
                "{delay:?} is not {expected:?} plus 0-10 %"
            );
            expected = (expected * 2).min(MOST);
        }
        let Verdict::Retry(delay) = backoff.failed("exited", Duration::from_secs(99), STABLE, true) else {
            panic!()
        };
        assert!(delay < Duration::from_secs(1));
    }

    #[test]
    fn the_budget_is_per_cause_and_inside_the_window() {
        let window = Duration::from_secs(300);
        let mut backoff = Backoff::new(2, window, 1);
        let at = Duration::from_secs;
        assert!(matches!(
            backoff.failed("exited", at(0), at(0), true),
            Verdict::Retry(_)
        ));
        assert!(matches!(
            backoff.failed("exited", at(1), at(0), true),
            Verdict::Retry(_)
        ));
        assert!(matches!(backoff.failed("stuck", at(2), at(0), true), Verdict::Retry(_)));
        assert_eq!(backoff.failed("exited", at(3), at(0), true), Verdict::Exhausted);
        assert!(matches!(
            backoff.failed("exited", at(400), at(0), true),
            Verdict::Retry(_)
        ));
    }

    #[test]
    fn an_outage_spends_no_budget() {
        let mut backoff = Backoff::new(1, Duration::from_secs(300), 1);
        for i in 0..50 {
            assert!(matches!(
                backoff.failed("storage", Duration::from_secs(i), Duration::ZERO, false),
                Verdict::Retry(_)
            ));
        }
    }
}
