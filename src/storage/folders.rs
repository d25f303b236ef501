//! What has changed in the bucket between two listings, folder by folder.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::{Bucket, StorageError, error};

impl Bucket {
    /// Lists the whole bucket: a digest of what each folder has in it (names, sizes, ETags), and how many requests that took.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn folders(&self) -> Result<(Folders, u32), StorageError> {
        let (mut folders, mut requests) = (Folders::default(), 0);
        let listing = self.client.list_objects_v2().bucket(&self.target.bucket);
        let mut pages = listing.into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|failure| error::classify(&failure, &self.target, self.clock_skew()))?;
            requests += 1;
            for object in page.contents() {
                folders.add(
                    object.key().unwrap_or_default(),
                    object.size().unwrap_or_default(),
                    object.e_tag().unwrap_or_default(),
                );
            }
        }
        Ok((folders, requests))
    }
}

/// A digest for each folder; the root is the empty name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Folders(BTreeMap<String, u64>);

impl Folders {
    /// Takes in an object.
    pub fn add(&mut self, key: &str, size: i64, etag: &str) {
        let (mut folder, mut entry) = key.rsplit_once('/').unwrap_or(("", key));
        let mut digest = DefaultHasher::new();
        (entry, size, etag).hash(&mut digest);
        let mut digest = digest.finish();
        loop {
            let known = self.0.contains_key(folder);
            // The order of a listing says nothing.
            let sum = self.0.entry(folder.to_owned()).or_default();
            *sum = sum.wrapping_add(digest);
            // A folder is an entry of the one above, once.
            if known || folder.is_empty() {
                return;
            }
            (folder, entry) = folder.rsplit_once('/').unwrap_or(("", folder));
            let mut name = DefaultHasher::new();
            entry.hash(&mut name);
            digest = name.finish();
        }
    }

    /// The folders that are not as they were `before`.
    #[must_use]
    pub fn changed(&self, before: &Folders) -> Vec<String> {
        let all = self
            .0
            .keys()
            .chain(before.0.keys().filter(|name| !self.0.contains_key(*name)));
        all.filter(|name| self.0.get(*name) != before.0.get(*name))
            .cloned()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(keys: &[(&str, i64)]) -> Folders {
        let mut folders = Folders::default();
        for (key, size) in keys {
            folders.add(key, *size, "etag");
        }
        folders
    }

    #[test]
    fn a_change_is_one_of_its_folder_and_a_new_folder_one_of_the_folder_above() {
        let before = folders(&[("a/b/x.md", 1), ("a/y.md", 1), ("z.md", 1)]);
        assert!(
            folders(&[("z.md", 1), ("a/y.md", 1), ("a/b/x.md", 1)])
                .changed(&before)
                .is_empty()
        );
        let changed = |keys| folders(keys).changed(&before);
        assert_eq!(changed(&[("a/b/x.md", 2), ("a/y.md", 1), ("z.md", 1)]), ["a/b"]);
        assert_eq!(changed(&[("a/b/x.md", 1), ("z.md", 1)]), ["a"]);
        assert_eq!(
            changed(&[("a/b/x.md", 1), ("a/y.md", 1), ("z.md", 1), ("c/new.md", 1)]),
            ["", "c"]
        );
        assert_eq!(changed(&[("a/y.md", 1), ("z.md", 1)]), ["a", "a/b"]);
        assert_eq!(before.changed(&Folders::default()), ["", "a", "a/b"]);
    }
}
