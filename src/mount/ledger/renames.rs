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

/// What rclone has said last of a rename that fails: its next line names where to.
#[derive(Debug)]
pub(super) struct Failing {
    source: String,
    /// The copy is made.
    copied: bool,
}

impl Ledger {
    /// What was doubted and nobody has looked at, or must look at again after `now`.
    #[must_use]
    pub fn doubtful(&self, now: Timestamp) -> Vec<(String, Entry)> {
        self.select(|entry| entry.is_doubted() || (entry.wanted == Wanted::Doubtful && entry.risk > now))
    }

    /// What was doubted and nobody has looked at.
    #[must_use]
    pub fn doubted(&self) -> Vec<String> {
        let list = self.select(Entry::is_doubted);
        list.into_iter().map(|(name, _)| name).collect()
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
    fn is_doubted(&self) -> bool {
        self.wanted == Wanted::Doubtful && !self.seen && !self.queued
    }

    /// Is something under way that may still change it?
    #[must_use]
    pub fn waits(&self, now: Timestamp) -> bool {
        self.wanted == Wanted::Doubtful && self.next > now
    }
}

impl List {
    /// One line of rclone's log about `object`. False when it is about something else.
    pub(super) fn note_failed_rename(&mut self, message: &str, object: &str, now: Timestamp) -> bool {
        let failing = |copied| {
            let source = object.to_owned();
            Some(Failing { source, copied })
        };
        if message.starts_with("Not deleting source as copy failed: ") {
            self.failing = failing(false);
        } else if message.starts_with("Couldn't delete: ") {
            self.doubt(object, now);
            self.change(object, |entry| entry.removal = true);
            self.write(object, now);
            self.failing = failing(true);
        } else if message.starts_with("File.Rename error: ") {
            self.failed_rename(object, now);
        } else {
            return false;
        }
        true
    }

    fn failed_rename(&mut self, to: &str, now: Timestamp) {
        let failing = self.failing.take();
        // The copy is of a rename before, which has succeeded: the cache may still have what was there before that.
        let copied = failing.as_ref().is_some_and(|failing| failing.copied);
        let renamed = |entry: &Entry| entry.wanted == Wanted::Copied && !copied;
        if self.names.get(to).is_some_and(renamed) {
            return;
        }
        self.doubt(to, now);
        self.write(to, now);
        if let Some(failing) = failing {
            self.sources.insert(to.to_owned(), failing.source);
        }
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
