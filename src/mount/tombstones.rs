//! Deletions that rclone forgets to carry out in the bucket.
//!
//! When a stored file is replaced (a temporary file renamed over it) and then deleted or renamed before the new content
//! is uploaded, rclone 1.75.2 has lost the connection to the old object: it deletes nothing, and the old note comes back
//! at the next listing. Seen on both drivers, with and without the guard.
//!
//! rclone's log names every file that leaves its cache, and every name that is used again. From these lines a list of
//! tombstones is kept: names that must not be in the bucket. Each is settled by asking the bucket; an object that is
//! older than the deletion is the forgotten one, before rclone is started again at the latest, which would list it. What is not
//! settled is kept beside the cache for the next start. A name that nobody forgot costs one request.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use jiff::Timestamp;

/// More deletions than this are not remembered at a time; far more than a person or an agent makes in an outage.
const MOST: usize = 100_000;

/// Where unsettled ones wait for the next start.
const FILE: &str = "tombstones.json";

/// Names that must not be in the bucket, with the moment of their deletion. Clones share one list.
#[derive(Debug, Clone, Default)]
pub struct Tombstones(Arc<Mutex<List>>);

type Names = BTreeMap<String, Timestamp>;

#[derive(Debug, Default)]
struct List {
    names: Names,
    /// As the file has them.
    kept: Names,
}

impl Tombstones {
    /// The ones an earlier life left in `cache_dir`.
    #[must_use]
    pub fn load(cache_dir: &Path) -> Tombstones {
        let left: Names = fs::read(cache_dir.join(FILE))
            .ok()
            .and_then(|text| serde_json::from_slice(&text).ok())
            .unwrap_or_default();
        Tombstones(Arc::new(Mutex::new(List {
            kept: left.clone(),
            names: left,
        })))
    }

    /// Keeps what is not settled for the next start, or removes the file when there is nothing. Does nothing when the file has it.
    ///
    /// # Errors
    /// When the file cannot be written or removed.
    pub fn save(&self, cache_dir: &Path) -> io::Result<()> {
        let list = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if list.names == list.kept {
            return Ok(());
        }
        let file = cache_dir.join(FILE);
        if list.names.is_empty() {
            match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        } else {
            // Renamed into place: a start that finds half a list would have forgotten the other half.
            let fresh = file.with_extension("new");
            fs::write(&fresh, serde_json::to_vec(&list.names)?)?;
            fs::rename(fresh, file)?;
        }
        list.kept = list.names.clone();
        Ok(())
    }

    /// One line of rclone's log.
    pub(super) fn note(&self, message: &str, object: Option<&str>, now: Timestamp) {
        let Some(object) = object else { return };
        self.with(|list| {
            if message == "vfs cache: removed cache file as file deleted" {
                bury(list, object, now);
            } else if let Some(new) = message.strip_prefix("vfs cache: renamed in cache to ") {
                bury(list, object, now);
                list.remove(new.trim_matches('"'));
            } else if let Some((_, new)) = message.split_once(" to: ") {
                // "Copied (server-side copy) to: NAME"
                list.remove(new);
            } else if message.starts_with("vfs cache: queuing for upload") {
                list.remove(object);
            } else if message.starts_with("Copied (")
                && let Some(time) = list.get_mut(object)
            {
                // Its upload was under way when it was deleted, and ended only now.
                *time = now;
            }
        });
    }

    /// All of them, oldest name first.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Timestamp)> {
        self.with(|list| list.iter().map(|(name, time)| (name.clone(), *time)).collect())
    }

    /// `name` is settled, unless it was deleted again since `time`.
    pub fn settled(&self, name: &str, time: Timestamp) {
        self.with(|list| {
            if list.get(name) == Some(&time) {
                list.remove(name);
            }
        });
    }

    /// The deletions count from `now`: for when rclone is gone and nothing can have been made under these names since.
    pub fn renew(&self, now: Timestamp) {
        self.with(|list| list.values_mut().for_each(|time| *time = now));
    }

    /// Is this tombstone still standing? It is not when the name was used again.
    #[must_use]
    pub fn stands(&self, name: &str, time: Timestamp) -> bool {
        self.with(|list| list.get(name) == Some(&time))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Names) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).names)
    }
}

fn bury(list: &mut BTreeMap<String, Timestamp>, name: &str, now: Timestamp) {
    if list.len() < MOST {
        list.insert(name.to_owned(), now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMOVED: &str = "vfs cache: removed cache file as file deleted";

    fn names(tombstones: &Tombstones) -> Vec<String> {
        tombstones.all().into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn deleted_and_renamed_names_are_remembered_until_they_are_used_again() {
        let tombstones = Tombstones::default();
        let now = Timestamp::now();
        tombstones.note(REMOVED, Some("a.md"), now);
        tombstones.note("vfs cache: renamed in cache to \"c.md\"", Some("b.md"), now);
        tombstones.note(REMOVED, Some("d.md"), now);
        assert_eq!(names(&tombstones), ["a.md", "b.md", "d.md"]);
        tombstones.note("vfs cache: queuing for upload in 1s", Some("a.md"), now);
        tombstones.note("vfs cache: renamed in cache to \"b.md\"", Some("t.tmp"), now);
        tombstones.note("Copied (server-side copy) to: d.md", Some("x.md"), now);
        assert_eq!(names(&tombstones), ["t.tmp"]);
        assert!(tombstones.stands("t.tmp", now));
        let later = now + jiff::SignedDuration::from_secs(3);
        tombstones.note("Copied (new)", Some("t.tmp"), later);
        assert!(
            tombstones.stands("t.tmp", later),
            "an upload that ended after the deletion"
        );
        tombstones.note("Copied (new)", Some("t.tmp"), now);
        tombstones.settled("t.tmp", now - jiff::SignedDuration::from_secs(1));
        assert_eq!(names(&tombstones), ["t.tmp"], "deleted again meanwhile");
        tombstones.settled("t.tmp", now);
        assert!(tombstones.all().is_empty());
    }

    #[test]
    fn what_is_not_settled_survives_on_disk() {
        let cache = tempfile::tempdir().unwrap();
        let tombstones = Tombstones::load(cache.path());
        tombstones.note(REMOVED, Some("a.md"), Timestamp::now());
        tombstones.save(cache.path()).unwrap();
        let again = Tombstones::load(cache.path());
        assert_eq!(again.all(), tombstones.all());
        again.settled("a.md", again.all()[0].1);
        again.save(cache.path()).unwrap();
        again.save(cache.path()).unwrap();
        assert!(Tombstones::load(cache.path()).all().is_empty());
    }
}
