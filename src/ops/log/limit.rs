//! Storms: the same event again and again, a child that prints in a loop.
//!
//! One token bucket per place in the source (its callsite: the message's own text varies in a storm, its place does
//! not), and per child. What is held back is counted and said: with the next line of the log once the bucket has
//! recovered or [`REPORT`] has passed, at the latest at exit.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{self, Context};

use super::format::Line;
use super::{CHILD, RCLONE};

/// Lines of one place in the source at once, and per second after that. Ordinary life is far below.
const OURS: Rate = Rate {
    burst: 100.0,
    per_second: 10.0,
};

/// The same for a child: room for tracebacks and for an access log.
const CHILDREN: Rate = Rate {
    burst: 2000.0,
    per_second: 200.0,
};

/// A storm that goes on is reported this often.
const REPORT: Duration = Duration::from_secs(10);

/// Buckets at most; more keys than this share one.
const BUCKETS: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// All buckets. `now` is a parameter so that tests need not wait.
#[derive(Debug)]
pub(super) struct Limiter {
    buckets: Mutex<HashMap<u64, Bucket>>,
    /// Something is held back; spares the lock on the usual path.
    holding: AtomicBool,
    now: fn() -> Instant,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
    name: String,
    held_back: u64,
    reported: Instant,
}

/// What one bucket held back.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeldBack {
    name: String,
    lines: u64,
}

impl HeldBack {
    /// The line that says so.
    pub(super) fn line(&self) -> Line {
        let words = format!("{} lines held back: too many of {}", self.lines, self.name);
        Line::ours(Level::WARN, "log_limited", words)
            .with("lines", self.lines)
            .with("of", self.name.as_str())
    }
}

impl Limiter {
    pub(super) fn new(now: fn() -> Instant) -> Self {
        Limiter {
            buckets: Mutex::default(),
            holding: AtomicBool::new(false),
            now,
        }
    }

    /// May this line be written? Counts it if not.
    fn allow(&self, key: u64, rate: Rate, name: impl FnOnce() -> String) -> bool {
        let now = (self.now)();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if buckets.len() < BUCKETS || buckets.contains_key(&key) {
            key
        } else {
            0
        };
        let bucket = match buckets.entry(key) {
            Entry::Occupied(bucket) => bucket.into_mut(),
            Entry::Vacant(empty) => {
                let name = if key == 0 { "several sources".to_owned() } else { name() };
                empty.insert(Bucket {
                    rate,
                    tokens: rate.burst,
                    at: now,
                    name,
                    held_back: 0,
                    reported: now,
                })
            }
        };
        bucket.refill(now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return true;
        }
        if bucket.held_back == 0 {
            bucket.reported = now;
        }
        bucket.held_back += 1;
        self.holding.store(true, Relaxed);
        false
    }

    /// What is to be said now.
    pub(super) fn due(&self) -> Vec<HeldBack> {
        if !self.holding.load(Relaxed) {
            return Vec::new();
        }
        let now = (self.now)();
        self.take(|bucket| {
            bucket.refill(now);
            bucket.tokens >= bucket.rate.burst / 2.0 || now.duration_since(bucket.reported) >= REPORT
        })
    }

    /// Everything that was not said yet.
    pub(super) fn drain(&self) -> Vec<HeldBack> {
        self.take(|_| true)
    }

    fn take(&self, due: impl Fn(&mut Bucket) -> bool) -> Vec<HeldBack> {
        let now = (self.now)();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut said = Vec::new();
        for bucket in buckets.values_mut().filter(|bucket| bucket.held_back > 0) {
            if due(bucket) {
                said.push(HeldBack {
                    name: bucket.name.clone(),
                    lines: std::mem::take(&mut bucket.held_back),
                });
                bucket.reported = now;
            }
        }
        self.holding
            .store(buckets.values().any(|bucket| bucket.held_back > 0), Relaxed);
        said
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let earned = now.duration_since(self.at).as_secs_f64() * self.rate.per_second;
        self.tokens = (self.tokens + earned).min(self.rate.burst);
        self.at = now;
    }
}

/// The limiter as a filter of the subscriber.
#[derive(Debug)]
pub(super) struct Filter(pub(super) Arc<Limiter>);

impl<S: Subscriber> layer::Filter<S> for Filter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let mut hasher = DefaultHasher::new();
        metadata.callsite().hash(&mut hasher);
        let mut child = ChildName::default();
        match metadata.target() {
            CHILD => event.record(&mut child),
            RCLONE => RCLONE.clone_into(&mut child.0),
            target => {
                let place = || format!("{target} ({}:{})", file(metadata), metadata.line().unwrap_or(0));
                return self.0.allow(hasher.finish(), OURS, place);
            }
        }
        child.0.hash(&mut hasher);
        self.0
            .allow(hasher.finish(), CHILDREN, || format!("the output of {}", child.0))
    }

    /// Says that this filter never needs a level of its own, so that the other's decides what costs nothing.
    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }
}

/// Without the directories of the machine it was built on.
fn file<'a>(metadata: &Metadata<'a>) -> &'a str {
    let file = metadata.file().unwrap_or("?");
    file.rsplit('/').next().unwrap_or(file)
}

#[derive(Default)]
struct ChildName(String);

impl Visit for ChildName {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "service" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}
