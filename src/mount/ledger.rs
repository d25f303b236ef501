//! What the bucket must have, by what rclone says it does: the list of names that nobody has compared with the bucket yet.
//!
//! rclone's log names every file that is queued, uploaded, copied or renamed in the bucket, and every one that leaves its
//! cache. From these lines the list is made; `core::audit` says why rclone's word is not enough. A name is looked at with
//! the next look at the mount, and again for a while ([`RISK`]) when an attempt to upload it has failed or was broken off: what
//! was sent then may still arrive. (TCP sends it again when the network is back, even if rclone has closed the connection, after
//! pauses that double.)
//!
//! The best known case is a deletion that rclone forgets. When a stored file is replaced (a temporary file renamed over it)
//! and then deleted or renamed before the new content is uploaded, rclone 1.75.2 has lost the connection to the old object: it
//! deletes nothing, and the old note would come back at the next listing.
//!
//! Every change is appended to a journal beside the cache before anything else happens, so that the list survives us: the
//! next start settles the deletions before rclone lists the bucket, and sends again what was not compared (`mend`). Each bucket
//! has its own: a cache directory can be given to another tenant, whose files have the same names.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::core::audit::Wanted;

mod journal;
mod renames;

/// More names than this are not remembered at a time; far more than a person or an agent changes in an outage.
const MOST: usize = 100_000;
/// How long an upload that failed or was broken off can still arrive.
const RISK: SignedDuration = SignedDuration::from_secs(60);
/// How long a copy is remembered that the cache does not have: longer than `suspecting` looks back.
const REMEMBERED: SignedDuration = SignedDuration::from_secs(300);
/// Until such a name is looked at again; then after twice as long, and so on.
const AGAIN: SignedDuration = SignedDuration::from_secs(5);
/// A journal is written anew when it has this many lines more than names.
const SLACK: usize = 1000;

const AUTHOR: &str = "author";

/// See the module. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    names: BTreeMap<String, Entry>,
    bucket: String,
    author: String,
    journal: Option<File>,
    lines: usize,
    no_sums: bool,
    wrong: BTreeSet<String>,
    removed: Vec<String>,
    failing: VecDeque<renames::Failing>,
    /// What may have been copied to a doubtful name.
    sources: BTreeMap<String, String>,
    /// The first failure to write the journal that nobody was told of.
    trouble: Option<io::Error>,
}

/// One name. Two that are equal are the same change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What must be there.
    pub wanted: Wanted,
    /// Since when: the last thing that rclone said about it.
    pub since: Timestamp,
    /// Somebody has looked and it was so.
    pub seen: bool,
    /// Its upload is still to come.
    queued: bool,
    /// rclone knows the object.
    landed: bool,
    /// Not before.
    next: Timestamp,
    /// An attempt that failed can arrive until then.
    risk: Timestamp,
    /// … and one of them is a deletion that nobody wants.
    removal: bool,
}

impl Ledger {
    /// The list that an earlier life left in `cache_dir` for `bucket`.
    #[must_use]
    pub fn load(cache_dir: &Path, bucket: &str) -> Ledger {
        let mut list = List {
            bucket: bucket.to_owned(),
            author: fs::read_to_string(cache_dir.join(AUTHOR)).unwrap_or_default(),
            ..List::default()
        };
        for line in fs::read(journal::path(cache_dir, bucket))
            .unwrap_or_default()
            .split(|byte| *byte == b'\n')
        {
            // The last line may be torn.
            let Ok(line) = serde_json::from_slice::<journal::Line>(line) else {
                continue;
            };
            list.lines += 1;
            match line.wanted {
                Some(wanted) => {
                    let mut entry = Entry::new(wanted.into(), line.since);
                    entry.risk = line.risk.unwrap_or(Timestamp::MIN);
                    (entry.seen, entry.removal) = (line.seen, line.removal);
                    if let Some(source) = line.source {
                        list.sources.insert(line.name.clone(), source);
                    }
                    list.names.insert(line.name, entry);
                }
                None => drop(list.names.remove(&line.name)),
            }
        }
        if list.author.is_empty() {
            list.author = format!("{:016x}", fastrand::u64(..));
        }
        Ledger(Arc::new(Mutex::new(list)))
    }

    /// The lists of all buckets.
    #[must_use]
    pub fn load_all(cache_dir: &Path) -> Vec<Ledger> {
        let entries = fs::read_dir(cache_dir).into_iter().flatten().flatten();
        let buckets = entries.filter_map(|entry| {
            let name = entry.file_name();
            let bucket = name
                .to_str()?
                .strip_prefix(journal::NAME.0)?
                .strip_suffix(journal::NAME.1)?;
            Some(Ledger::load(cache_dir, bucket))
        });
        buckets.collect()
    }

    /// When the journal in `cache_dir` was written to for the last time; none when there is none.
    #[must_use]
    pub fn last_written(cache_dir: &Path, bucket: &str) -> Option<Timestamp> {
        let written = fs::metadata(journal::path(cache_dir, bucket)).ok()?.modified().ok()?;
        Timestamp::try_from(written).ok()
    }

    /// From now on changes are written to `cache_dir`, which nobody else uses. Again after each start of rclone.
    ///
    /// # Errors
    /// When that cannot be written to.
    pub fn open(&self, cache_dir: &Path) -> io::Result<()> {
        let mut list = self.lock();
        let author = cache_dir.join(AUTHOR);
        if !author.exists() {
            fs::write(author, &list.author)?;
        }
        list.write_anew(cache_dir)
    }

    /// Tells of a journal that could not be written, once, and keeps it short.
    ///
    /// # Errors
    /// The first failure since the last call.
    pub fn tidy(&self, cache_dir: &Path) -> io::Result<()> {
        let mut list = self.lock();
        if let Some(trouble) = list.trouble.take() {
            // A new file has all of it.
            return list.write_anew(cache_dir).and(Err(trouble));
        }
        if list.journal.is_some() && list.lines > list.names.len() + SLACK {
            return list.write_anew(cache_dir);
        }
        Ok(())
    }

    /// What objects that are uploaded from this cache are marked with.
    #[must_use]
    pub fn author(&self) -> String {
        self.lock().author.clone()
    }

    /// One line of rclone's log.
    pub(super) fn note(&self, message: &str, object: Option<&str>, now: Timestamp) {
        let Some(object) = object else { return };
        let list = &mut *self.lock();
        if list.note_failed_rename(message, object, now) {
            return;
        }
        if message == "vfs cache: removed cache file as file deleted" {
            // Of a file that is stored rclone knows the object, and the deletion succeeds or fails with it. (Unless that is
            // about to be uploaded again.)
            let forgotten = list.names.get(object).is_some_and(|entry| !entry.landed);
            if forgotten || list.wrong.contains(object) {
                list.want(object, Wanted::Absent, now);
            } else {
                list.drop(object, now);
                if list.removed.len() < MOST {
                    list.removed.push(object.to_owned());
                }
            }
        } else if let Some(new) = message.strip_prefix("vfs cache: renamed in cache to ") {
            let new = new.trim_matches('"');
            list.want(object, Wanted::Absent, now);
            let copied = list.names.get(new).is_some_and(|entry| entry.wanted == Wanted::Copied);
            // If it is still to be uploaded, its description says so.
            list.want(new, Wanted::Uploaded, now);
            list.change(new, |entry| entry.landed = copied);
        } else if let Some((_, new)) = message
            .strip_prefix("Copied (")
            .and_then(|rest| rest.split_once(" to: "))
        {
            // "Copied (server-side copy) to: NAME"
            list.want(new, Wanted::Copied, now);
        } else if message.starts_with("vfs cache: queuing for upload") {
            list.want(object, Wanted::Uploaded, now);
            list.change(object, |entry| entry.queued = true);
        } else if message == "Removing failed copy" {
            if list.names.get(object).is_none_or(|entry| entry.seen) {
                list.want(object, Wanted::Doubtful, now);
            }
            // It is said before it is done, and the object may be looked at in between.
            list.change(object, |entry| (entry.risk, entry.removal) = (now + RISK, true));
            list.write(object, now);
        } else if message.starts_with("Copied (") || message.starts_with("vfs cache: upload succeeded") {
            list.landed(object, now);
        } else if message.starts_with("vfs cache: failed to upload") || message == "vfs cache: upload canceled" {
            if !list.names.contains_key(object) {
                list.want(object, Wanted::Uploaded, now);
                list.change(object, |entry| entry.queued = true);
            }
            list.change(object, |entry| entry.risk = now + RISK);
            list.write(object, now);
        }
    }

    /// We have uploaded the cached content of `name`; `entry` was the last word before.
    pub fn restored(&self, name: &str, entry: &Entry, now: Timestamp) {
        let list = &mut *self.lock();
        // Looked at again; and when it was deleted meanwhile, that has to be done once more. Anything else has its own look.
        let deleted = |now: &Entry| now.wanted == Wanted::Absent;
        if list.names.get(name).is_some_and(|now| now == entry || deleted(now)) {
            list.wrong.remove(name);
            list.landed(name, now);
        }
    }

    /// Can this store's ETags be compared with MD5 sums?
    #[must_use]
    pub fn compares_sums(&self) -> bool {
        !self.lock().no_sums
    }

    /// They look so and are not (an encrypting store): from now on only sizes are compared.
    pub fn etags_are_no_sums(&self) {
        self.lock().no_sums = true;
    }

    /// What is to be looked at now.
    #[must_use]
    pub fn due(&self, now: Timestamp) -> Vec<(String, Entry)> {
        self.select(|entry| !entry.queued && entry.next <= now)
    }

    /// What nobody has looked at since it was uploaded or deleted, or must look at again after `now`.
    #[must_use]
    pub fn unsure(&self, now: Timestamp) -> Vec<(String, Entry)> {
        self.select(|entry| !entry.queued && (!entry.seen || entry.risk > now))
    }

    /// Of these names in `folder` the bucket may show something else than what was left here, now or in a moment.
    #[must_use]
    pub fn at_risk(&self, folder: &str, now: Timestamp) -> Vec<(String, Entry)> {
        let list = self.lock();
        let found = list.names.iter().filter(|(name, entry)| {
            let uncertain = entry.risk > now || (entry.wanted == Wanted::Absent && !entry.seen);
            uncertain && folder_of(name) == folder
        });
        found.map(|(name, entry)| (name.clone(), *entry)).collect()
    }

    /// Stored files that rclone has said it deletes, since the last call.
    #[must_use]
    pub fn take_removed(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().removed)
    }

    /// Deletions that nobody has seen carried out.
    #[must_use]
    pub fn deletions(&self) -> Vec<(String, Entry)> {
        self.select(|entry| entry.wanted == Wanted::Absent && !entry.seen)
    }

    /// Names that must be empty in the bucket and may not be at `now`: before an rclone lists it.
    #[must_use]
    pub fn absent(&self, now: Timestamp) -> Vec<(String, Entry)> {
        self.select(|entry| entry.wanted == Wanted::Absent && (!entry.seen || entry.risk > now))
    }

    /// Everything of which nobody has said yet that the bucket has it as it was left here.
    #[must_use]
    pub fn unsettled(&self) -> Vec<String> {
        let list = self.select(|entry| entry.queued || !entry.seen);
        list.into_iter().map(|(name, _)| name).collect()
    }

    /// Names whose content in the cache may not be in the bucket at `now`, whatever its description says.
    #[must_use]
    pub(super) fn unproven(&self, now: Timestamp) -> Vec<String> {
        let list = self.select(|entry| {
            // What is doubted is compared before anything lists the bucket; sent unseen it could replace what others have written.
            entry.wanted == Wanted::Uploaded && (!entry.seen || entry.risk > now)
        });
        list.into_iter().map(|(name, _)| name).collect()
    }

    /// Is this still the last word about the name?
    #[must_use]
    pub fn stands(&self, name: &str, entry: &Entry) -> bool {
        self.lock().names.get(name) == Some(entry)
    }

    /// The bucket was looked at, and has under `name` what it must.
    pub fn settle(&self, name: &str, entry: &Entry, now: Timestamp) {
        let list = &mut *self.lock();
        if list.names.get(name) != Some(entry) {
            return;
        }
        if entry.risk > now {
            list.wrong.remove(name);
            // It stays in the journal, too: the next start looks again.
            let again = Entry {
                seen: true,
                next: now + AGAIN.max(now.duration_since(entry.since)),
                ..*entry
            };
            list.names.insert(name.to_owned(), again);
            if !entry.seen {
                list.write(name, now);
            }
        } else {
            list.drop(name, now);
        }
    }

    /// The copy to `name` is in the bucket, and the cache still has what was there before: remembered as long as that may be taken
    /// for something to be put right.
    pub fn remember_copy(&self, name: &str, entry: &Entry, now: Timestamp) {
        let list = &mut *self.lock();
        if entry.seen || list.names.get(name) != Some(entry) {
            return;
        }
        list.change(name, |entry| {
            (entry.seen, entry.next, entry.risk) = (true, now + REMEMBERED, entry.risk.max(now + REMEMBERED));
        });
        list.write(name, now);
    }

    /// Somebody else has changed `name` since: nothing that was done here is to be kept up.
    pub fn give_up(&self, name: &str, entry: &Entry, now: Timestamp) {
        let list = &mut *self.lock();
        if list.names.get(name) == Some(entry) {
            list.drop(name, now);
        }
    }

    /// No request about `name` is ever answered: there cannot be such an object.
    pub fn abandon(&self, name: &str, now: Timestamp) {
        let list = &mut *self.lock();
        list.drop(name, now);
    }

    /// A request of our own about `name` is about to be sent. If its answer does not come, it may arrive later, like rclone's;
    /// `removal`: and take away what is there then. What the entry is from now on; none if it is not the last word any more.
    #[must_use]
    pub fn begin(&self, name: &str, entry: &Entry, removal: bool, now: Timestamp) -> Option<Entry> {
        let list = &mut *self.lock();
        if list.names.get(name) != Some(entry) {
            return None;
        }
        let removal = entry.removal || removal;
        let begun = Entry {
            risk: now + RISK,
            removal,
            ..*entry
        };
        list.names.insert(name.to_owned(), begun);
        list.write(name, now);
        Some(begun)
    }

    /// The answer has come: `begun` is what [`Ledger::begin`] made of `before`.
    pub fn answered(&self, name: &str, begun: &Entry, before: &Entry, now: Timestamp) {
        let list = &mut *self.lock();
        if list.names.get(name) == Some(begun) {
            list.names.insert(name.to_owned(), *before);
            list.write(name, now);
        }
    }

    /// Something else than the cached content of `name` may have got into the bucket, and may again.
    pub fn doubt(&self, name: &str, now: Timestamp) {
        let list = &mut *self.lock();
        if !list.names.contains_key(name) {
            list.want(name, Wanted::Doubtful, now);
            list.change(name, |entry| entry.risk = now + RISK);
            list.write(name, now);
        }
    }

    /// The newer content of `name` is uploaded first.
    pub fn wait_for_upload(&self, name: &str, entry: &Entry) {
        let list = &mut *self.lock();
        if list.names.get(name) == Some(entry) {
            // What has landed may be an upload that this one had overtaken, and rclone not know of it.
            list.change(name, |entry| (entry.queued, entry.landed) = (true, false));
        }
    }

    /// The bucket has something else under `name`, which is about to be put right.
    pub fn found_wrong(&self, name: &str) {
        self.lock().wrong.insert(name.to_owned());
    }

    /// Is `name` one of [`Ledger::wrong`]?
    #[must_use]
    pub fn is_wrong(&self, name: &str) -> bool {
        self.lock().wrong.contains(name)
    }

    /// Uploads that were found to be not in the bucket, and are not put right yet.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        self.lock().wrong.iter().cloned().collect()
    }

    /// Files whose upload rclone has not told of.
    #[must_use]
    pub fn queued(&self) -> Vec<String> {
        let list = self.select(|entry| entry.queued);
        list.into_iter().map(|(name, _)| name).collect()
    }

    /// Nothing of this is ours any more: another machine has run the tenant since.
    ///
    /// # Errors
    /// When the journal in `cache_dir` cannot be written.
    pub fn forget(&self, cache_dir: &Path) -> io::Result<()> {
        let mut list = self.lock();
        list.names.clear();
        list.wrong.clear();
        list.write_anew(cache_dir)
    }

    fn select(&self, wanted: impl Fn(&Entry) -> bool) -> Vec<(String, Entry)> {
        let list = self.lock();
        let found = list.names.iter().filter(|(_, entry)| wanted(entry));
        found.map(|(name, entry)| (name.clone(), *entry)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(wanted: Wanted, since: Timestamp) -> Entry {
        Entry {
            wanted,
            since,
            seen: false,
            queued: false,
            landed: false,
            next: since,
            risk: Timestamp::MIN,
            removal: false,
        }
    }

    /// Is an object that is gone one that nobody has deleted on purpose?
    #[must_use]
    pub fn may_be_lost(&self) -> bool {
        self.removal || (!self.seen && self.wanted != Wanted::Doubtful)
    }

    /// May something that was sent from here take the object away?
    #[must_use]
    pub fn removal(&self) -> bool {
        self.removal
    }

    /// Something gets through: so may what was sent in vain before, however long ago.
    fn renew_risk(&mut self, now: Timestamp) {
        if self.risk > Timestamp::MIN {
            self.risk = now + RISK;
        }
    }
}

impl List {
    fn want(&mut self, name: &str, wanted: Wanted, now: Timestamp) {
        let before = self.names.get(name);
        if before.is_none() && self.names.len() >= MOST {
            return;
        }
        let (risk, removal) = before.map_or((Timestamp::MIN, false), |entry| (entry.risk, entry.removal));
        let entry = Entry {
            risk,
            removal: removal && risk > now,
            ..Entry::new(wanted, now)
        };
        self.names.insert(name.to_owned(), entry);
        self.wrong.remove(name);
        if risk <= now {
            self.sources.remove(name);
        }
        self.write(name, now);
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.names.get_mut(name) {
            change(entry);
        }
    }

    fn drop(&mut self, name: &str, now: Timestamp) {
        self.wrong.remove(name);
        self.sources.remove(name);
        if self.names.remove(name).is_some() {
            self.write(name, now);
        }
    }

    fn landed(&mut self, name: &str, now: Timestamp) {
        match self.names.get_mut(name) {
            // Its upload was under way when it was deleted, and ended only now.
            Some(entry) if entry.wanted == Wanted::Absent => {
                *entry = Entry {
                    risk: entry.risk,
                    ..Entry::new(Wanted::Absent, now)
                };
                entry.renew_risk(now);
            }
            // The copy was made by rclone after it had uploaded the source, or is an upload that the copy has overtaken.
            _ => {
                self.want(name, Wanted::Uploaded, now);
                self.change(name, |entry| {
                    entry.landed = true;
                    entry.renew_risk(now);
                });
            }
        }
    }

    /// What is known of `name` goes to the journal.
    fn write(&mut self, name: &str, now: Timestamp) {
        let Some(journal) = &mut self.journal else { return };
        self.lines += 1;
        if let Err(error) = journal::line(name, self.names.get(name), self.sources.get(name), now)
            .and_then(|line| journal.write_all(&line))
        {
            self.trouble.get_or_insert(error);
        }
    }

    fn write_anew(&mut self, cache_dir: &Path) -> io::Result<()> {
        let file = journal::path(cache_dir, &self.bucket);
        let fresh = file.with_extension("new");
        let mut text = Vec::new();
        for (name, entry) in &self.names {
            text.extend(journal::line(name, Some(entry), self.sources.get(name), entry.since)?);
        }
        fs::write(&fresh, &text)?;
        fs::rename(&fresh, &file)?;
        self.journal = Some(OpenOptions::new().append(true).open(&file)?);
        self.lines = self.names.len();
        Ok(())
    }
}

/// The folder of a name in the bucket; empty for its root.
#[must_use]
pub fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests;
