//! Uploads while the bucket is unreachable, and just after: held back, all but one now and then.
//!
//! rclone would try them all, again and again. That asks much of a store in trouble, and it makes the mount slow: a file
//! that is changed while it is being uploaded waits until that upload has been given up, and rclone's pacer (up to 2 s after
//! some failures, for one request after the other) can't be cancelled. It also stays slow for a while afterwards.
//!
//! The single upload shows what our own probe can't see: that the bucket takes files after all, perhaps slowly. It is that
//! of the file which has not been changed for the longest time, the least likely to be changed meanwhile. When it gets
//! through, the next one follows at once. When the bucket is back, the first few go one by one too, until the pacer is quick
//! again; then all the others.
//!
//! The same, with less patience, for a store that limits our rate: it is asked for one file after the other.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::queue::Item;

/// A held file is put off by this …
pub(super) const PUT_OFF: Duration = Duration::from_secs(60);
/// … as soon as it would be due within this. Should nobody end the hold, rclone goes on by itself.
const SOON: Duration = Duration::from_secs(30);
/// A file that is due by this much earlier than it was put off to has been changed since, or tried.
const EARLY: Duration = Duration::from_secs(2);
/// Between two single uploads that do not get through, to a bucket that is unreachable …
const TRY_INTERVAL: Duration = Duration::from_secs(30);
/// … and to one that limits our rate.
const PACE: Duration = Duration::from_secs(5);

/// The bucket is back: this many go one by one, …
const ONE_BY_ONE: u32 = 8;
/// … for at most this long.
const EASE_LIMIT: Duration = Duration::from_secs(10);

/// A hold under way.
#[derive(Debug)]
pub struct Hold {
    /// Process id of the rclone whose queue it was: another one numbers its files anew.
    of: Option<u32>,
    interval: Duration,
    tried: Instant,
    /// The file of the last single upload.
    pioneer: Option<u64>,
    held: HashMap<u64, Held>,
    /// It is being ended since, and so many got through.
    eased: Option<(Instant, u32)>,
}

/// A file that was put off.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// When, for the last time.
    at: Instant,
    /// Neither changed nor tried since.
    quiet_since: Instant,
}

/// What is to be done with the queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Orders {
    /// Put these off.
    pub(super) put_off: Vec<u64>,
    /// Upload this one.
    pub(super) send: Option<u64>,
    /// The hold is over: upload all.
    pub(super) over: bool,
}

impl Hold {
    /// The bucket is unreachable from `now` on.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Hold {
            of: None,
            interval: TRY_INTERVAL,
            tried: now,
            pioneer: None,
            held: HashMap::new(),
            eased: None,
        }
    }

    /// The store limits our rate from `now` on.
    #[must_use]
    pub fn paced(now: Instant) -> Self {
        Hold {
            interval: PACE,
            ..Hold::new(now)
        }
    }

    /// The bucket is back.
    pub fn ease(&mut self, now: Instant) {
        self.eased.get_or_insert((now, 0));
    }

    /// `items`: the queue of the rclone with this process id, oldest first.
    pub(super) fn orders(&mut self, pid: u32, items: &[Item], now: Instant) -> Orders {
        if self.of.replace(pid) != Some(pid) {
            self.pioneer = None;
            self.held.clear();
        }
        let got_through = self.pioneer.is_some_and(|id| !items.iter().any(|item| item.id == id));
        // What hangs since before the bucket came back is in nobody's way.
        let counts = |item: &Item| self.eased.is_none() || self.pioneer == Some(item.id);
        let busy = items.iter().any(|item| item.uploading && counts(item));
        if got_through {
            self.pioneer = None;
        }
        if let Some((since, count)) = &mut self.eased {
            *count += u32::from(got_through);
            if items.is_empty() || *count >= ONE_BY_ONE || now.saturating_duration_since(*since) >= EASE_LIMIT {
                return Orders {
                    over: true,
                    ..Orders::default()
                };
            }
        }
        self.held.retain(|id, _| items.iter().any(|item| item.id == *id));
        let soon = |item: &&Item| !item.uploading && item.due < SOON;
        for item in items.iter().filter(soon) {
            let quiet_since = self.held.get(&item.id).filter(|held| {
                let due = PUT_OFF.saturating_sub(now.saturating_duration_since(held.at));
                item.due + EARLY >= due
            });
            let quiet_since = quiet_since.map_or(now, |held| held.quiet_since);
            self.held.insert(item.id, Held { at: now, quiet_since });
        }
        let waited = now.saturating_duration_since(self.tried) >= self.interval;
        let due = self.eased.is_some() || got_through || waited;
        // Of two, the one that waits longer.
        let idle = items.iter().filter(|item| !item.uploading);
        let idle = idle.min_by_key(|item| self.held.get(&item.id).map(|held| held.quiet_since));
        let send = idle.filter(|_| due && !busy).map(|item| item.id);
        if let Some(id) = send {
            self.pioneer = send;
            self.tried = now;
            // If it fails, the others have their turn first.
            let sent = Held {
                at: now,
                quiet_since: now,
            };
            self.held.insert(id, sent);
        }
        let put_off = |item: &&Item| soon(item) && Some(item.id) != send;
        Orders {
            put_off: items.iter().filter(put_off).map(|item| item.id).collect(),
            send,
            over: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(id: u64, due: u64, uploading: bool) -> Item {
        Item {
            id,
            name: format!("{id}.md"),
            bytes: 1,
            tries: 0,
            due: Duration::from_secs(due),
            uploading,
            failing: false,
            age: Duration::ZERO,
        }
    }

    fn after(seconds: u64, hold: &mut Hold, start: Instant, items: &[Item]) -> Orders {
        hold.orders(7, items, start + Duration::from_secs(seconds))
    }

    #[test]
    fn everything_is_put_off_once_and_one_is_tried_now_and_then() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let orders = after(
            0,
            &mut hold,
            start,
            &[item(1, 0, false), item(2, 0, true), item(3, 60, false)],
        );
        assert_eq!(
            (orders.put_off, orders.send),
            (vec![1], None),
            "neither the one on its way nor the one put off"
        );
        let orders = after(30, &mut hold, start, &[item(1, 30, false), item(2, 1, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![2], Some(1)));
        // It has failed.
        let orders = after(40, &mut hold, start, &[item(1, 2, false), item(2, 50, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![1], None));
        assert_eq!(after(60, &mut hold, start, &[item(1, 40, false)]).send, Some(1));
    }

    #[test]
    fn the_one_that_is_tried_is_the_one_that_has_been_left_alone_for_longest() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let busy = |seconds| item(1, seconds, false);
        after(0, &mut hold, start, &[busy(1), item(2, 1, false), item(3, 1, false)]);
        let orders = after(29, &mut hold, start, &[busy(1), item(2, 31, false), item(3, 31, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![1], None));
        // 2 and 3 are put off again because their time is running out: that is no change.
        let orders = after(
            31,
            &mut hold,
            start,
            &[busy(58), item(2, 29, false), item(3, 29, false)],
        );
        assert_eq!((orders.put_off, orders.send), (vec![3], Some(2)));
        // It was tried, and is not the next one.
        let orders = after(41, &mut hold, start, &[busy(48), item(2, 5, false), item(3, 50, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![2], None));
        let orders = after(61, &mut hold, start, &[busy(1), item(2, 40, false), item(3, 30, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![1], Some(3)));
    }

    #[test]
    fn a_file_that_fails_again_and_again_lets_the_others_go_first() {
        let start = Instant::now();
        let mut hold = Hold::paced(start);
        let all = [item(1, 250, false), item(2, 250, false), item(3, 250, false)];
        let sent: Vec<_> = (1..=4)
            .filter_map(|turn| after(turn * 5, &mut hold, start, &all).send)
            .collect();
        assert_eq!(sent, [1, 2, 3, 1]);
    }

    #[test]
    fn a_bucket_that_takes_files_slowly_gets_one_after_the_other() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        assert_eq!(
            after(30, &mut hold, start, &[item(1, 60, false), item(2, 60, false)]).send,
            Some(1)
        );
        assert_eq!(
            after(33, &mut hold, start, &[item(1, 0, true), item(2, 60, false)]).send,
            None
        );
        assert_eq!(
            after(36, &mut hold, start, &[item(2, 60, false), item(3, 60, false)]).send,
            Some(2)
        );
    }

    #[test]
    fn a_store_that_limits_our_rate_gets_one_and_after_a_refusal_another_one_soon() {
        let start = Instant::now();
        let mut hold = Hold::paced(start);
        let all = [item(1, 60, false), item(2, 60, false)];
        assert_eq!(after(4, &mut hold, start, &all).send, None);
        assert_eq!(after(5, &mut hold, start, &all).send, Some(1));
        assert_eq!(after(6, &mut hold, start, &all[1..]).send, Some(2), "it got through");
        let orders = after(7, &mut hold, start, &[item(2, 2, false), item(3, 1, false)]);
        assert_eq!((orders.put_off, orders.send), (vec![2, 3], None), "refused");
        assert!(
            after(11, &mut hold, start, &[item(2, 58, false), item(3, 58, false)])
                .send
                .is_some()
        );
    }

    #[test]
    fn another_rclone_has_not_sent_what_is_not_in_its_queue() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let orders = after(30, &mut hold, start, &[item(9, 1, false)]);
        assert_eq!(orders.send, Some(9));
        let orders = hold.orders(8, &[item(1, 10, false)], start + Duration::from_secs(31));
        assert_eq!((orders.put_off, orders.send), (vec![1], None));
    }

    #[test]
    fn when_the_bucket_is_back_a_few_go_one_by_one_and_then_all() {
        let start = Instant::now();
        let mut hold = Hold::new(start);
        let all = (1..=20).map(|id| item(id, 60, false)).collect::<Vec<_>>();
        assert_eq!(after(5, &mut hold, start, &all).send, None);
        hold.ease(start + Duration::from_secs(6));
        for gone in 0..8 {
            assert_eq!(after(6, &mut hold, start, &all[gone..]).send, Some(gone as u64 + 1));
            let mut sending = all[gone..].to_vec();
            sending[0].uploading = true;
            assert_eq!(after(6, &mut hold, start, &sending), Orders::default());
        }
        assert!(after(6, &mut hold, start, &all[8..]).over);
        let mut hold = Hold::new(start);
        hold.ease(start);
        assert!(!after(9, &mut hold, start, &all).over);
        assert!(after(10, &mut hold, start, &all).over, "whatever it is that keeps them");
    }
}
