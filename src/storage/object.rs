//! Small objects of our own, below `.tenant-init/` in the tenant's bucket. The tenant's files are the mounter's business.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;

use super::{Bucket, StorageError, error};

/// An object of ours that is larger was not written by us.
const LARGEST: usize = 1024 * 1024;

impl Bucket {
    /// Reads a small object; `None` when there is none.
    ///
    /// # Errors
    /// As [`Bucket::probe`], and [`StorageError::Unreachable`] when the body does not arrive whole.
    pub async fn read_small(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let answer = self
            .client
            .get_object()
            .bucket(&self.target.bucket)
            .key(key)
            .send()
            .await;
        let mut object = match answer {
            Ok(object) => object,
            Err(SdkError::ServiceError(failure)) if failure.err().is_no_such_key() => return Ok(None),
            Err(failure) => return Err(error::classify(&failure, &self.target, self.clock_skew())),
        };
        let mut bytes = Vec::new();
        while let Some(chunk) = object.body.next().await {
            let chunk = chunk.map_err(|_| error::cut_off(&self.target))?;
            if bytes.len() + chunk.len() > LARGEST {
                return Err(error::cut_off(&self.target));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// When an object was last modified, by the store's clock (whole seconds); `None` when there is none.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn modified(&self, key: &str) -> Result<Option<jiff::Timestamp>, StorageError> {
        match self
            .client
            .head_object()
            .bucket(&self.target.bucket)
            .key(key)
            .send()
            .await
        {
            // Without a date it counts as new: nothing is deleted on a guess.
            Ok(found) => Ok(Some(found.last_modified().map_or(jiff::Timestamp::MAX, |time| {
                jiff::Timestamp::from_second(time.secs()).unwrap_or(jiff::Timestamp::MAX)
            }))),
            Err(SdkError::ServiceError(failure)) if failure.err().is_not_found() => Ok(None),
            Err(failure) => Err(error::classify(&failure, &self.target, self.clock_skew())),
        }
    }

    /// Deletes an object; one that is not there is fine.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        match self
            .client
            .delete_object()
            .bucket(&self.target.bucket)
            .key(key)
            .send()
            .await
        {
            Ok(_) => Ok(()),
            Err(failure) => Err(error::classify(&failure, &self.target, self.clock_skew())),
        }
    }

    /// Writes a small object, replacing one of that name.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn write_small(&self, key: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        let put = self
            .client
            .put_object()
            .bucket(&self.target.bucket)
            .key(key)
            .body(ByteStream::from(bytes));
        match put.send().await {
            Ok(_) => Ok(()),
            Err(failure) => Err(error::classify(&failure, &self.target, self.clock_skew())),
        }
    }

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
