//! Renames that rclone says have failed.
//!
//! A stored file is renamed by a copy in the bucket and a deletion. Either may be done although nobody got an answer, or be done
//! later, and rclone goes on with both files as they were: what had the new name is overwritten in the bucket then, or the source
//! is gone. So both names are doubted, once the rename is not tried any more.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};

use super::super::cached;
use super::{Entry, Ledger, List, RISK};
use crate::core::audit::Wanted;

/// A rename that has failed may be tried again for this long (`guard::rename`): until then nothing is put right that it may change.
pub(super) const ATTEMPTS: SignedDuration = SignedDuration::from_secs(45);

/// Renames that fail at the same time, at most.
const AT_ONCE: usize = 64;

/// What rclone has said of a rename that fails. A line with the same reason tells where to.
#[derive(Debug)]
pub(super) struct Failing {
    why: String,
    source: String,
    /// The copy is made.
    copied: bool,
}

impl Ledger {
    /// What was doubted and nobody has looked at, or must look at again after `now`.
    #[must_use]
    pub fn doubtful(&self, now: Timestamp) -> Vec<(String, Entry)> {
        self.select(|entry| entry.wanted == Wanted::Doubtful && !entry.queued && (!entry.seen || entry.risk > now))
    }

    /// What was doubted, and nobody has looked at or has been able to put right.
    #[must_use]
    pub fn doubted(&self) -> Vec<String> {
        let list = self.lock();
        let found = list.names.iter().filter(|(name, entry)| {
            let open = !entry.seen || list.wrong.contains(*name);
            entry.wanted == Wanted::Doubtful && open && !entry.queued
        });
        found.map(|(name, _)| name.clone()).collect()
    }

    /// What of that `cache_dir` has.
    #[must_use]
    pub fn doubted_in(&self, cache_dir: &Path) -> Vec<String> {
        let bucket = self.lock().bucket.clone();
        let mut names = self.doubted();
        names.retain(|name| cached::path(cache_dir, &bucket, name).is_file());
        names
    }

    /// The object that may have been copied to `name`, which is doubtful.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<String> {
        self.lock().sources.get(name).cloned()
    }
}

impl Entry {
    /// Is something under way that may still change it?
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> bool {
        self.wanted == Wanted::Doubtful && !self.seen && self.next > now
    }
}

impl List {
    /// One line of rclone's log about `object`. False when it is about something else.
    pub(super) fn note_failed_rename(&mut self, message: &str, object: &str, now: Timestamp) -> bool {
        if let Some(why) = message.strip_prefix("Not deleting source as copy failed: ") {
            self.fails(why, object, false);
        } else if let Some(why) = message.strip_prefix("Couldn't delete: ") {
            self.doubt(object, now);
            self.change(object, |entry| entry.removal = true);
            self.write(object, now);
            self.fails(why, object, true);
        } else if let Some(why) = message.strip_prefix("File.Rename error: ") {
            self.failed_rename(why, object, now);
        } else {
            return false;
        }
        true
    }

    fn fails(&mut self, why: &str, source: &str, copied: bool) {
        if self.failing.len() == AT_ONCE {
            self.failing.pop_front();
        }
        let (why, source) = (why.to_owned(), source.to_owned());
        self.failing.push_back(Failing { why, source, copied });
    }

    fn failed_rename(&mut self, why: &str, to: &str, now: Timestamp) {
        let found = self.failing.iter().position(|failing| failing.why == why);
        let failing = found.and_then(|found| self.failing.remove(found));
        // The copy is of a rename before, which has succeeded: the cache may still have what was there before that.
        let only_renamed_before = failing.as_ref().is_some_and(|failing| !failing.copied);
        let copied = |entry: &Entry| entry.wanted == Wanted::Copied;
        if only_renamed_before && self.names.get(to).is_some_and(copied) {
            return;
        }
        self.doubt(to, now);
        if let Some(failing) = failing {
            self.sources.insert(to.to_owned(), failing.source);
        }
        self.write(to, now);
    }

    /// The last word stays where somebody has still to act on it.
    fn doubt(&mut self, name: &str, now: Timestamp) {
        let known = |entry: &Entry| !entry.seen && entry.wanted != Wanted::Copied;
        if !self.names.get(name).is_some_and(known) {
            self.want(name, Wanted::Doubtful, now);
        }
        self.change(name, |entry| (entry.risk, entry.next) = (now + RISK, now + ATTEMPTS));
    }
}
