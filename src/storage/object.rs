//! Small objects of our own: below `.tenant-init/` in the tenant's bucket, and those of `bench` in its folder. The tenant's
//! files are the mounter's business.

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
