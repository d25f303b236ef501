//! The upload queue as people and metrics want it: how much, how old, what fails.
//!
//! rclone says when a file is tried next, not since when it waits, so the first sighting of each id is kept here. An id
//! lives from the first write to the upload; a file rewritten again and again keeps its id, so its age is honest.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::rc::QueueItem;
use crate::core::snapshot::Uploads;

/// One file waiting or being uploaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Names the entry until it is uploaded.
    pub id: u64,
    /// Path in the bucket.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Attempts started.
    pub tries: u64,
    /// Time until it is tried; zero when due.
    pub due: Duration,
    /// Being uploaded now.
    pub uploading: bool,
    /// The last attempt failed.
    pub failing: bool,
    /// Since when it waits, as far as we saw.
    pub age: Duration,
}

/// The whole queue at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Queue {
    /// The files, oldest first.
    pub items: Vec<Item>,
}

impl Queue {
    /// Nothing is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|item| item.bytes).sum()
    }

    /// The totals for `/status`. `failures_total` is the caller's: it counts log lines, not queue entries.
    #[must_use]
    pub fn uploads(&self, failures_total: u64) -> Uploads {
        let count = |wanted: fn(&Item) -> bool| self.items.iter().filter(|item| wanted(item)).count() as u64;
        Uploads {
            queued: self.items.len() as u64,
            in_progress: count(|item| item.uploading),
            bytes: self.bytes(),
            oldest_seconds: self.items.first().map_or(0.0, |item| item.age.as_secs_f64()),
            failing: count(|item| item.failing),
            failures_total,
            ..Uploads::default()
        }
    }
}

/// Remembers when each id was seen first.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    first_seen: HashMap<u64, Instant>,
}

impl Tracker {
    /// Turns rclone's answer into a [`Queue`]. `write_back` is the delay of a file that never failed.
    pub(super) fn update(&mut self, answer: Vec<QueueItem>, write_back: Duration, now: Instant) -> Queue {
        let known = std::mem::take(&mut self.first_seen);
        let mut items: Vec<Item> = answer
            .into_iter()
            .map(|item| {
                let first = known.get(&item.id).copied().unwrap_or(now);
                self.first_seen.insert(item.id, first);
                Item {
                    id: item.id,
                    failing: is_failing(&item, write_back),
                    name: item.name,
                    bytes: u64::try_from(item.size).unwrap_or(0),
                    tries: item.tries,
                    due: Duration::try_from_secs_f64(item.expiry.max(0.0)).unwrap_or(Duration::ZERO),
                    uploading: item.uploading,
                    age: now.saturating_duration_since(first),
                }
            })
            .collect();
        items.sort_by(|a, b| b.age.cmp(&a.age).then(a.id.cmp(&b.id)));
        Queue { items }
    }
}

/// A failed attempt doubles the delay. An attempt cancelled by a newer write counts as a try but leaves the delay alone,
/// so `tries` alone would call a busy file broken. Without write-back there is no delay to double.
fn is_failing(item: &QueueItem, write_back: Duration) -> bool {
    if write_back.is_zero() {
        item.tries > u64::from(item.uploading)
    } else {
        item.delay > write_back.as_secs_f64() * 1.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64, delay: f64, tries: u64, uploading: bool) -> QueueItem {
        QueueItem {
            name: format!("{id}.md"),
            id,
            size: 10,
            expiry: 0.5,
            tries,
            delay,
            uploading,
        }
    }

    #[test]
    fn age_counts_from_the_first_sighting_and_ends_with_the_upload() {
        let mut tracker = Tracker::default();
        let (start, wait) = (Instant::now(), Duration::from_secs(1));
        tracker.update(vec![item(1, 1.0, 0, false)], wait, start);
        let queue = tracker.update(vec![item(2, 1.0, 0, false), item(1, 1.0, 0, true)], wait, start + wait);
        assert_eq!(
            queue.items.iter().map(|item| item.id).collect::<Vec<_>>(),
            [1, 2],
            "oldest first"
        );
        let uploads = queue.uploads(3);
        assert_eq!(
            (
                uploads.queued,
                uploads.in_progress,
                uploads.bytes,
                uploads.failures_total
            ),
            (2, 1, 20, 3)
        );
        assert!((uploads.oldest_seconds - 1.0).abs() < 1e-9);
        assert!(tracker.update(vec![], wait, start + wait).is_empty());
        let again = tracker.update(vec![item(1, 1.0, 0, false)], wait, start + 2 * wait);
        assert_eq!(again.items[0].age, Duration::ZERO);
    }

    #[test]
    fn failing_means_the_last_attempt_failed() {
        let second = Duration::from_secs(1);
        assert!(is_failing(&item(1, 2.0, 1, false), second));
        assert!(
            is_failing(&item(1, 2.0, 2, true), second),
            "still failing while it is tried again"
        );
        assert!(
            !is_failing(&item(1, 1.0, 3, false), second),
            "cancelled by newer writes"
        );
        assert!(is_failing(&item(1, 0.0, 1, false), Duration::ZERO));
        assert!(!is_failing(&item(1, 0.0, 1, true), Duration::ZERO));
    }
}
