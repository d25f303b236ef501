//! Small objects of our own: below `.tenant-init/` in the tenant's bucket, and those of `bench` in its folder. The tenant's
//! files are the mounter's business.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::primitives::ByteStream;

use super::{Bucket, StorageError, error, is_tigris};

/// An object of ours that is larger was not written by us.
const LARGEST: usize = 1024 * 1024;

/// Metadata that names the cache an object was uploaded from (`x-amz-meta-…`, in any case).
pub(crate) const AUTHOR: &str = "tenant-init";

/// Bytes a second that an upload has at least.
const SLOWEST: u64 = 1024 * 1024;

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes.
    pub size: u64,
    /// Without its quotes.
    pub etag: String,
    /// Which cache it was uploaded from, if that was said.
    pub author: Option<String>,
    /// By the store's clock, in whole seconds.
    pub modified: jiff::Timestamp,
}

/// How a conditional upload ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Placed {
    /// It is there, with this ETag (without quotes).
    Stored {
        /// The ETag.
        etag: String,
    },
    /// Something else is there by now; nothing was done.
    Changed,
}

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

    /// What is known of an object; `None` when there is none.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn head(&self, key: &str) -> Result<Option<Head>, StorageError> {
        let consistent = is_tigris(&self.target.endpoint);
        let asked = self
            .client
            .head_object()
            .bucket(&self.target.bucket)
            .key(key)
            .customize()
            .mutate_request(move |request| {
                // Without it a bucket in several regions may answer with what was there before.
                if consistent {
                    request.headers_mut().insert("X-Tigris-Consistent", "true");
                }
            });
        match asked.send().await {
            Ok(found) => Ok(Some(Head {
                size: found
                    .content_length()
                    .and_then(|size| size.try_into().ok())
                    .unwrap_or(0),
                etag: plain(found.e_tag()),
                author: found.metadata().and_then(author),
                // Without a date it counts as new: nothing is deleted on a guess.
                modified: found.last_modified().map_or(jiff::Timestamp::MAX, |time| {
                    jiff::Timestamp::from_second(time.secs()).unwrap_or(jiff::Timestamp::MAX)
                }),
            })),
            Err(SdkError::ServiceError(failure)) if failure.err().is_not_found() => Ok(None),
            Err(failure) => Err(error::classify(&failure, &self.target, self.clock_skew())),
        }
    }

    /// Uploads the file at `path` provided that the object with the ETag `replaces` is still there, or none if there was none. (A
    /// store that knows no conditions takes it in any case.) As rclone does it: with the file's modification time, and marked with `author`.
    ///
    /// # Errors
    /// As [`Bucket::probe`], and [`StorageError::Unreachable`] when the file cannot be read.
    pub async fn put_file(
        &self,
        key: &str,
        path: &Path,
        replaces: Option<&str>,
        by: &str,
    ) -> Result<Placed, StorageError> {
        let unread = |_| error::cut_off(&self.target);
        let found = std::fs::metadata(path).map_err(unread)?;
        let body = ByteStream::from_path(path)
            .await
            .map_err(|_| error::cut_off(&self.target))?;
        let put = self
            .client
            .put_object()
            .bucket(&self.target.bucket)
            .key(key)
            .metadata(AUTHOR, by)
            .body(body);
        let put = match found
            .modified()
            .ok()
            .and_then(|time| jiff::Timestamp::try_from(time).ok())
        {
            Some(time) => put.metadata("mtime", format!("{}.{:09}", time.as_second(), time.subsec_nanosecond())),
            None => put,
        };
        let put = match replaces {
            Some(etag) => put.if_match(format!("\"{etag}\"")),
            None => put.if_none_match("*"),
        };
        let slow = Duration::from_secs(found.len() / SLOWEST);
        let times = TimeoutConfig::builder()
            .connect_timeout(self.target.timeouts.connect)
            .operation_attempt_timeout(self.target.timeouts.attempt + slow)
            .operation_timeout(self.target.timeouts.operation + slow)
            .build();
        let settings = aws_sdk_s3::config::Builder::new().timeout_config(times);
        match put.customize().config_override(settings).send().await {
            Ok(stored) => Ok(Placed::Stored {
                etag: plain(stored.e_tag()),
            }),
            Err(failure) if matches!(status(&failure), Some(409 | 412)) => Ok(Placed::Changed),
            Err(failure) => Err(error::classify(&failure, &self.target, self.clock_skew())),
        }
    }

    /// Names of all objects that begin with `prefix`, in the store's order.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let (mut names, mut next) = (Vec::new(), None);
        loop {
            let page = self
                .client
                .list_objects_v2()
                .bucket(&self.target.bucket)
                .prefix(prefix)
                .set_continuation_token(next)
                .send()
                .await
                .map_err(|failure| error::classify(&failure, &self.target, self.clock_skew()))?;
            names.extend(page.contents.into_iter().flatten().filter_map(|object| object.key));
            next = page.next_continuation_token;
            if next.is_none() {
                return Ok(names);
            }
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
}

pub(super) fn plain(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_ascii_lowercase()
}

fn author(metadata: &HashMap<String, String>) -> Option<String> {
    let found = metadata.iter().find(|(name, _)| name.eq_ignore_ascii_case(AUTHOR));
    found.map(|(_, author)| author.clone())
}

fn status(failure: &SdkError<PutObjectError>) -> Option<u16> {
    failure.raw_response().map(|response| response.status().as_u16())
}
