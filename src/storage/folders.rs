//! What others have changed in the bucket between two listings, folder by folder.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use super::{Bucket, StorageError, object};

/// Objects of tenant-init itself; no one looks for changes of them.
pub(crate) const OURS: &str = ".tenant-init/";

impl Bucket {
    /// Lists the whole bucket but for our own prefix: a digest of each object (name, size, ETag), and how many requests that took.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn folders(&self) -> Result<(Folders, u32), StorageError> {
        let mut folders = Folders::default();
        let requests = self
            .each_object(|key, size, etag| folders.add(&key, size, &etag))
            .await?;
        Ok((folders, requests))
    }

    /// All objects but for those of our own prefix: name, size in bytes, ETag without quotes.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn objects(&self) -> Result<Vec<(String, u64, String)>, StorageError> {
        let mut objects = Vec::new();
        self.each_object(|key, size, etag| objects.push((key, size, etag)))
            .await?;
        Ok(objects)
    }

    /// Returns the number of requests.
    async fn each_object(&self, mut take: impl FnMut(String, u64, String)) -> Result<u32, StorageError> {
        self.each_page("", |objects| {
            for object in objects {
                if !object.key.starts_with(OURS) {
                    take(object.key, object.size, object::plain(Some(&object.etag)));
                }
            }
            true
        })
        .await
    }
}

/// Digests of the objects in each folder, by digests of their names; the root is the empty name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders(BTreeMap<String, HashMap<u64, u64>>);

impl Folders {
    /// Takes in an object.
    pub fn add(&mut self, key: &str, size: u64, etag: &str) {
        let (folder, leaf) = split(key);
        let objects = self.0.entry(folder.to_owned()).or_default();
        objects.insert(digest(leaf), digest((size, etag)));
        let mut above = folder;
        while !above.is_empty() {
            above = split(above).0;
            if self.0.contains_key(above) {
                break;
            }
            self.0.insert(above.to_owned(), HashMap::new());
        }
    }

    /// As if `key` were as it was `before`: for what is being changed and is looked at the next time.
    pub fn put_back(&mut self, key: &str, before: &Folders) {
        let (folder, name) = split(key);
        let name = digest(name);
        match before.0.get(folder).and_then(|objects| objects.get(&name)) {
            Some(object) => drop(self.0.entry(folder.to_owned()).or_default().insert(name, *object)),
            None => {
                if let Some(objects) = self.0.get_mut(folder) {
                    objects.remove(&name);
                }
            }
        }
    }

    /// The folders that are not as they were `before`, but for what is `own`.
    #[must_use]
    pub fn changed(&self, before: &Folders, own: &OwnChanges) -> Vec<String> {
        let mut changed = BTreeSet::new();
        for folder in self.0.keys().chain(before.0.keys()) {
            if changed.contains(folder) || !self.has_foreign_change(folder, before, own) {
                continue;
            }
            let mut folder = folder.as_str();
            changed.insert(folder.to_owned());
            // One that has come or gone is a change of the folder above.
            while !folder.is_empty() && self.0.contains_key(folder) != before.0.contains_key(folder) {
                folder = split(folder).0;
                changed.insert(folder.to_owned());
            }
        }
        changed.into_iter().collect()
    }

    fn has_foreign_change(&self, folder: &str, before: &Folders, own: &OwnChanges) -> bool {
        let none = HashMap::new();
        let (now, before) = (
            self.0.get(folder).unwrap_or(&none),
            before.0.get(folder).unwrap_or(&none),
        );
        let foreign = |leaf: &u64| {
            let found = now.get(leaf);
            found != before.get(leaf) && !own.left(folder, *leaf, found)
        };
        now.keys().chain(before.keys()).any(foreign)
    }
}

/// How changes of this machine have left their objects, as they were seen in the bucket.
#[derive(Debug, Default)]
pub struct OwnChanges(HashMap<(String, u64), (Option<u64>, Instant)>);

impl OwnChanges {
    /// `object` is there as this machine has stored it (size and ETag), or is not because this machine has deleted it.
    pub fn saw(&mut self, key: &str, object: Option<(u64, &str)>, now: Instant) {
        let (folder, leaf) = split(key);
        self.0
            .insert((folder.to_owned(), digest(leaf)), (object.map(digest), now));
    }

    /// A listing that began at `then` has shown the older ones.
    pub fn forget_before(&mut self, then: Instant) {
        self.0.retain(|_, (_, seen)| *seen >= then);
    }

    fn left(&self, folder: &str, leaf: u64, found: Option<&u64>) -> bool {
        let left = self.0.get(&(folder.to_owned(), leaf));
        left.is_some_and(|(object, _)| object.as_ref() == found)
    }
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

fn digest(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn folders(keys: &[(&str, u64)]) -> Folders {
        let mut folders = Folders::default();
        for (key, size) in keys {
            folders.add(key, *size, "etag");
        }
        folders
    }

    #[test]
    fn a_change_is_one_of_its_folder_and_a_new_folder_one_of_the_folder_above() {
        let own = OwnChanges::default();
        let before = folders(&[("a/b/x.md", 1), ("a/y.md", 1), ("z.md", 1)]);
        let changed = |keys| folders(keys).changed(&before, &own);
        assert!(changed(&[("z.md", 1), ("a/y.md", 1), ("a/b/x.md", 1)]).is_empty());
        assert_eq!(changed(&[("a/b/x.md", 2), ("a/y.md", 1), ("z.md", 1)]), ["a/b"]);
        assert_eq!(changed(&[("a/b/x.md", 1), ("z.md", 1)]), ["a"]);
        assert_eq!(
            changed(&[("a/b/x.md", 1), ("a/y.md", 1), ("z.md", 1), ("c/d/new.md", 1)]),
            ["", "c", "c/d"]
        );
        assert_eq!(changed(&[("a/y.md", 1), ("z.md", 1)]), ["a", "a/b"]);
        assert_eq!(before.changed(&Folders::default(), &own), ["", "a", "a/b"]);
    }

    #[test]
    fn what_is_being_changed_is_compared_the_next_time() {
        let own = OwnChanges::default();
        let before = folders(&[("a/gone.md", 1), ("a/x.md", 1)]);
        let mut now = folders(&[("a/x.md", 2), ("a/new.md", 1)]);
        for name in ["a/x.md", "a/gone.md", "a/new.md"] {
            now.put_back(name, &before);
        }
        assert!(now.changed(&before, &own).is_empty());
        let next = folders(&[("a/x.md", 2), ("a/gone.md", 1)]);
        assert_eq!(next.changed(&now, &own), ["a"]);
    }

    #[test]
    fn what_this_machine_has_done_is_no_change_unless_somebody_else_came_after_it() {
        let before = folders(&[("a/gone.md", 1), ("a/x.md", 1)]);
        let (mut own, now) = (OwnChanges::default(), Instant::now());
        own.saw("a/x.md", Some((2, "etag")), now);
        own.saw("a/gone.md", None, now);
        own.saw("new/n.md", Some((7, "etag")), now);
        let changed = |keys, own: &OwnChanges| folders(keys).changed(&before, own);
        assert!(changed(&[("a/x.md", 2), ("new/n.md", 7)], &own).is_empty());
        assert_eq!(changed(&[("a/x.md", 3), ("new/n.md", 7)], &own), ["a"]);
        assert_eq!(
            changed(&[("a/x.md", 2), ("a/gone.md", 5), ("new/n.md", 7)], &own),
            ["a"]
        );
        assert_eq!(
            changed(&[("a/x.md", 2), ("new/n.md", 7), ("new/theirs.md", 7)], &own),
            ["", "new"]
        );
        own.forget_before(now + Duration::from_secs(1));
        assert_eq!(changed(&[("a/x.md", 2), ("new/n.md", 7)], &own), ["", "a", "new"]);
    }
}
