//! Back-pressure: what could not be stored is refused before there is no place left to keep it.
//!
//! Three quantities grow when uploads do not get through: the age of the oldest, the bytes that only the cache has, and how
//! much of the cache's disk is taken. Past a first mark the tenant is not ready, past a second the mount is read-only: on
//! nfs the guard answers NFS3ERR_NOSPC, on fuse the kernel says EROFS. Each mark is left lower than it is reached, so that
//! nothing flaps, and everything goes away by itself with its cause.
//!
//! Two apps cannot be left to an error of the file system:
//!
//! * basic-memory acknowledges a note before it writes the file, and does not try again before its next start. So it is
//!   ended *before* the mount is read-only (what it has acknowledged it still writes then), and started when that is over.
//! * On fuse the kernel refuses to make a mount read-only while a file is open for writing. An app that keeps one open for
//!   longer than [`BUSY_PATIENCE`] is ended too, until it can write again.

use std::time::Duration;

use crate::core::action::{Action, Flow, Level as Loud};
use crate::core::event::{Queue, Room};
use crate::core::index::LeaseState;
use crate::core::policy::{BUSY_QUEUE_INTERVAL, CATCH_UP, CATCH_UP_AFTER, CATCH_UP_INTERVAL, Policy};
use crate::core::state::{AppState, Stage, State};

/// An app that keeps a file open for writing has this long before it is ended.
pub const BUSY_PATIENCE: Duration = Duration::from_secs(10);
/// A bucket that answers and refuses files for this long makes the tenant not ready; one refusal is a hiccup.
pub const FAILING_PATIENCE: Duration = Duration::from_secs(10);
/// The cache's disk is never filled further than this, in bytes, whatever `mount.cache_min_free` says: rclone's
/// descriptions of files that are not stored need room too.
pub const LEAST_RESERVE: u64 = 8 << 20;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Nothing to say.
    #[default]
    Calm,
    /// Not ready.
    Strained,
    /// Nothing more is accepted.
    Full,
}

/// Where a quantity that is worse the larger it is changes its level.
struct Band {
    /// Strained from here.
    strained: u64,
    /// Calm again at or below this.
    calm: u64,
    /// Full from here.
    full: u64,
    /// No longer full at or below this.
    relieved: u64,
}

impl Band {
    fn judge(&self, level: Level, value: u64) -> Level {
        if value >= self.full || (level == Level::Full && value > self.relieved) {
            Level::Full
        } else if value >= self.strained || (level != Level::Calm && value > self.calm) {
            Level::Strained
        } else {
            Level::Calm
        }
    }

    /// Age of the oldest upload in milliseconds.
    fn age(policy: &Policy) -> Band {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let late = millis(policy.uploads_max_age);
        Band {
            strained: late,
            calm: late.saturating_sub(1),
            full: policy.uploads_read_only_age.map_or(u64::MAX, millis),
            relieved: late.saturating_sub(1),
        }
    }

    /// Bytes that only the cache has: they cannot be evicted, so `mount.cache_max_size` is a promise only up to here.
    fn bytes(policy: &Policy) -> Band {
        let most = policy.cache_max_bytes;
        Band {
            strained: most / 4 * 3,
            calm: most / 2,
            full: most,
            relieved: most / 4 * 3,
        }
    }

    /// Bytes missing to twice the reserve.
    fn disk(reserve: u64) -> Band {
        Band {
            strained: reserve + 1,
            calm: reserve / 4 * 3,
            full: reserve + reserve / 2,
            relieved: reserve,
        }
    }
}

/// What the mount is to those who write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Writable,
    ReadOnly,
    /// `Action::SetReadOnly` is under way.
    Changing,
}

/// Everything about back-pressure.
#[derive(Debug, Clone, Default)]
pub struct Pressure {
    age: Level,
    bytes: Level,
    disk: Level,
    mode: Mode,
    /// The mount could not be made what it should be, since, and why.
    refused: Option<(Duration, String)>,
    /// The app was ended for this: it stays away until the mount is writable.
    holding: bool,
    /// The bucket answers and refuses files, since.
    failing_since: Option<Duration>,
    /// The last look at the cache's disk.
    pub(super) room: Option<Room>,
    /// Uploads that had failed in an outage were last sent again then.
    sent_again: Duration,
    /// The oldest file of a mounter that is gone had been waiting since then. The next one counts from its own start.
    inherited: Option<Duration>,
}

impl Pressure {
    /// The worst of all.
    fn level(&self) -> Level {
        self.age.max(self.bytes).max(self.disk)
    }

    /// Is the mount read-only now?
    pub(super) fn is_read_only(&self) -> bool {
        self.mode == Mode::ReadOnly
    }

    /// A mounter is gone; what its queue held is queued again by the next one, as if it were new.
    pub(super) fn mounter_gone(&mut self, queue: &Queue, now: Duration) {
        if queue.files > 0 {
            self.inherited = Some(now.saturating_sub(queue.oldest));
        }
    }

    /// A new mount is writable.
    pub(super) fn mount_ready(&mut self) {
        self.mode = Mode::Writable;
        self.refused = None;
    }

    /// The age of the oldest upload over restarts of rclone. As long as the oldest file is one that was there when the new
    /// mounter came up, it is the one that waited before.
    pub(super) fn true_age(&mut self, seen: &Queue, ready_since: Duration, now: Duration) -> Duration {
        let Some(born) = self.inherited else {
            return seen.oldest;
        };
        let slack = BUSY_QUEUE_INTERVAL * 3;
        if seen.files == 0 || seen.oldest + slack < now.saturating_sub(ready_since) {
            self.inherited = None;
            return seen.oldest;
        }
        now.saturating_sub(born)
    }
}

impl State {
    /// Takes in a health round of a serving mount.
    pub(super) fn observe_pressure(&mut self, room: Option<Room>, now: Duration) -> Vec<Action> {
        let reserve = self.policy.cache_min_free_bytes.max(LEAST_RESERVE);
        let millis = u64::try_from(self.queue.oldest.as_millis()).unwrap_or(u64::MAX);
        let age = if self.queue.files == 0 { 0 } else { millis };
        let pressure = &mut self.pressure;
        pressure.age = Band::age(&self.policy).judge(pressure.age, age);
        pressure.bytes = Band::bytes(&self.policy).judge(pressure.bytes, self.queue.bytes);
        if let Some(room) = room {
            let missing = reserve.saturating_mul(2).saturating_sub(room.total());
            pressure.disk = Band::disk(reserve).judge(pressure.disk, missing);
            pressure.room = Some(room);
        }
        pressure.failing_since = match pressure.failing_since {
            _ if self.queue.failing == 0 || self.storage.is_down() => None,
            since => Some(since.unwrap_or(now)),
        };
        self.apply_pressure(now)
    }

    /// `Action::SetReadOnly` ended.
    pub(super) fn mount_mode_changed(
        &mut self,
        wanted: bool,
        result: Result<(), String>,
        now: Duration,
    ) -> Vec<Action> {
        if self.pressure.mode != Mode::Changing || self.stage != Stage::Serving {
            return Vec::new();
        }
        match result {
            Ok(()) => {
                self.pressure.refused = None;
                self.pressure.mode = if wanted { Mode::ReadOnly } else { Mode::Writable };
                let say = if wanted {
                    let words = format!("the mount is read-only now: {}", self.pressure_words().join("; "));
                    Action::Say(Loud::Error, "read_only", words)
                } else {
                    let words = "the mount takes writes again: uploads get through and there is room for more".into();
                    Action::Say(Loud::Info, "writable", words)
                };
                let mut actions = vec![say];
                actions.extend(self.apply_pressure(now));
                actions
            }
            Err(words) => {
                self.pressure.mode = if wanted { Mode::Writable } else { Mode::ReadOnly };
                let first = self.pressure.refused.is_none();
                let since = self.pressure.refused.take().map_or(now, |(since, _)| since);
                self.pressure.refused = Some((since, words.clone()));
                let become_what = if wanted { "read-only" } else { "writable again" };
                let words = format!("the mount cannot be made {become_what}: {words}; it is tried again every second");
                // Tried again with the next health round.
                self.mounter.next_probe = self.mounter.next_probe.min(now + BUSY_QUEUE_INTERVAL);
                let said = first.then_some(Action::Say(Loud::Warn, "read_only", words));
                said.into_iter().collect()
            }
        }
    }

    /// Brings mount and app in line with the pressure: the app that must not see it goes first and comes back last.
    pub(super) fn apply_pressure(&mut self, now: Duration) -> Vec<Action> {
        // After a lost lease the guard refuses everything, and that must stay.
        if self.stage != Stage::Serving || self.index.lease == LeaseState::Lost {
            return Vec::new();
        }
        if self.orphaned.is_some() {
            return self.start_app_when_possible(now);
        }
        let full = self.pressure.level() == Level::Full;
        let mut actions = Vec::new();
        self.pressure.holding = self.holds_app(now);
        if self.pressure.holding {
            match &self.app.state {
                AppState::Off => {}
                AppState::Waiting { .. } => self.app.state = AppState::Off,
                AppState::Ending { .. } => return actions,
                AppState::Starting { since } | AppState::Ready { since } => {
                    self.app.state = AppState::Ending {
                        kill_at: Some(now + self.policy.app_stop_grace()),
                        by_itself: None,
                        ran: now.saturating_sub(*since),
                    };
                    let words = format!(
                        "the app is stopped until it can write again: {}",
                        self.pressure_words().join("; ")
                    );
                    return vec![Action::Say(Loud::Error, "app_held", words), Action::TerminateApp];
                }
            }
        }
        match self.pressure.mode {
            Mode::Writable if full => {
                self.pressure.mode = Mode::Changing;
                actions.push(Action::SetReadOnly(true));
            }
            Mode::ReadOnly if !full => {
                self.pressure.mode = Mode::Changing;
                actions.push(Action::SetReadOnly(false));
            }
            _ => {}
        }
        actions.extend(self.start_app_when_possible(now));
        actions
    }

    /// Must the app not run now?
    pub(super) fn holds_app(&self, now: Duration) -> bool {
        let pressure = &self.pressure;
        let full = pressure.level() == Level::Full;
        let busy = |(since, _): &(Duration, String)| now.saturating_sub(*since) >= BUSY_PATIENCE;
        let ended_for_it = pressure.holding || (full && pressure.refused.as_ref().is_some_and(busy));
        (self.acknowledges_early() || ended_for_it) && (full || pressure.mode != Mode::Writable)
    }

    /// Does the app tell its clients "written" before the file is?
    fn acknowledges_early(&self) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.has_index)
    }

    /// Everything about pressure that keeps the tenant from being ready, as `code: words`.
    pub(super) fn pressure_reasons(&self) -> Vec<String> {
        let mut reasons = self.pressure_words();
        let pressure = &self.pressure;
        if pressure.mode == Mode::ReadOnly {
            reasons.push("read_only: nothing more is accepted until what waits is stored".into());
        }
        if let Some((_, words)) = &pressure.refused {
            reasons.push(format!("read_only_refused: {words}"));
        }
        if self.holds_app(self.now) {
            reasons.push("app_held: the app is stopped until it can write again".into());
        }
        reasons
    }

    /// Are uploads late only because of an outage that is just over? They are being sent, and so is what is written now.
    fn catches_up(&self) -> bool {
        let recent = |back| self.now.saturating_sub(back) < self.policy.uploads_max_age;
        let answers = !self.storage.is_down() && self.storage.back_since.is_some_and(recent);
        answers && self.pressure.age == Level::Strained && self.pressure.mode == Mode::Writable
    }

    /// After an outage: what was on its way when it ended may fail only now, and would wait for minutes.
    pub(super) fn catch_up(&mut self, now: Duration) -> Option<Action> {
        let back = self.storage.back_since.filter(|_| !self.storage.is_down())?;
        // Before that what was held back is still being sent, in its own order.
        let since = self.pressure.sent_again.max(back + CATCH_UP_AFTER);
        let due = now.saturating_sub(back) < CATCH_UP && now.saturating_sub(since) >= CATCH_UP_INTERVAL;
        let one_by_one = matches!(self.mounter.flow, Flow::Held | Flow::Paced);
        if !due || one_by_one || self.queue.failing == 0 || self.queue.new_slow_downs > 0 {
            return None;
        }
        self.pressure.sent_again = now;
        Some(Action::ExpireQueue)
    }

    fn pressure_words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let (pressure, queue) = (&self.pressure, &self.queue);
        if pressure.age > Level::Calm && !self.catches_up() {
            words.push(format!(
                "uploads_late: {} file(s) wait, the oldest for {} s{}",
                queue.files,
                queue.oldest.as_secs(),
                because(queue)
            ));
        } else if let Some(since) = pressure.failing_since
            && self.now.saturating_sub(since) >= FAILING_PATIENCE
        {
            words.push(format!(
                "uploads_failing: the bucket answers but {} file(s) are not taken{}",
                queue.failing,
                because(queue)
            ));
        }
        if pressure.bytes > Level::Calm {
            words.push(format!(
                "cache_full: {} MiB wait for their upload, mount.cache_max_size is {} MiB",
                queue.bytes >> 20,
                self.policy.cache_max_bytes >> 20
            ));
        }
        if let (true, Some(room)) = (pressure.disk > Level::Calm, pressure.room) {
            words.push(format!(
                "cache_disk_full: the cache's disk has {} MiB left for new writes, mount.cache_min_free is {} MiB. Free some space or use a larger disk",
                room.total() >> 20,
                self.policy.cache_min_free_bytes >> 20
            ));
        }
        words
    }
}

/// Why the last upload failed, if one did.
fn because(queue: &Queue) -> String {
    queue
        .why
        .as_ref()
        .filter(|_| queue.failing > 0)
        .map_or_else(String::new, |why| format!("; the last failure: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_is_left_lower_than_it_is_reached() {
        let band = Band::disk(100);
        let mut level = Level::Calm;
        let mut walk = Vec::new();
        for room in [200, 120, 100, 99, 60, 50, 49, 60, 90, 99, 100, 110, 124, 125, 200] {
            level = band.judge(level, 200 - room);
            walk.push(level);
        }
        use Level::{Calm, Full, Strained};
        assert_eq!(
            walk,
            [
                Calm, Calm, Calm, Strained, Strained, Full, Full, Full, Full, Full, Strained, Strained, Strained, Calm,
                Calm
            ]
        );
    }

    #[test]
    fn without_a_limit_no_age_is_too_old() {
        let mut policy = crate::core::tests::policy();
        policy.uploads_read_only_age = None;
        let band = Band::age(&policy);
        assert_eq!(band.judge(Level::Calm, u64::MAX - 1), Level::Strained);
    }

    #[test]
    fn a_files_age_survives_a_restart_of_the_mounter_until_it_is_stored() {
        let at = Duration::from_secs;
        let mut pressure = Pressure::default();
        let queue = |oldest| Queue {
            files: 1,
            oldest: at(oldest),
            ..Queue::default()
        };
        pressure.mounter_gone(&queue(90), at(100));
        // Up again at 105, seen first at 106.
        assert_eq!(pressure.true_age(&queue(0), at(105), at(106)), at(96));
        assert_eq!(pressure.true_age(&queue(10), at(105), at(116)), at(106));
        // That one is gone: a newer file is the oldest now.
        assert_eq!(pressure.true_age(&queue(2), at(105), at(117)), at(2));
        assert_eq!(pressure.true_age(&queue(3), at(105), at(118)), at(3));
    }
}
