//! Small objects of our own: below `.tenant-init/` in the tenant's bucket, and those of `bench` in its folder. The tenant's
//! files are the mounter's business.

use std::path::Path;
use std::time::Duration;

use jiff::{Timestamp, fmt::rfc2822};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED};

use super::client::{Answer, Request};
use super::{Bucket, StorageError, error, is_tigris, xml};

/// An object of ours that is larger was not written by us.
const LARGEST: usize = 1024 * 1024;

/// Pages of a listing, of a thousand objects each where the store does as all do.
const MOST_PAGES: u32 = 100_000;

/// Metadata that names the cache an object was uploaded from (`x-amz-meta-…`, in any case).
pub(crate) const AUTHOR: &str = "tenant-init";
const AUTHOR_HEADER: &str = "x-amz-meta-tenant-init";

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
        let asked = Request::new(Method::GET, key).at_most(LARGEST);
        let answer = self.client.send(&self.target, asked).await?;
        if answer.is_good() {
            return Ok(Some(answer.body));
        }
        if xml::error(&answer.body).is_some_and(|said| said.code == "NoSuchKey") {
            return Ok(None);
        }
        Err(self.client.refused(&self.target, &answer))
    }

    /// What is known of an object; `None` when there is none.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn head(&self, key: &str) -> Result<Option<Head>, StorageError> {
        let mut asked = Request::new(Method::HEAD, key);
        if is_tigris(&self.target.endpoint) {
            // Without it a bucket in several regions may answer with what was there before.
            asked = asked.header("x-tigris-consistent", "true");
        }
        let answer = self.client.send(&self.target, asked).await?;
        match answer.status {
            404 => Ok(None),
            _ if answer.is_good() => Ok(Some(head(&answer))),
            _ => Err(self.client.refused(&self.target, &answer)),
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
        let found = std::fs::metadata(path).map_err(|_| error::cut_off(&self.target))?;
        let slow = Duration::from_secs(found.len() / SLOWEST);
        let mut put = Request::new(Method::PUT, key)
            .file(path)
            .more_time(slow)
            .header(AUTHOR_HEADER, by);
        if let Some(time) = found.modified().ok().and_then(|time| Timestamp::try_from(time).ok()) {
            let time = format!("{}.{:09}", time.as_second(), time.subsec_nanosecond());
            put = put.header("x-amz-meta-mtime", time);
        }
        put = match replaces {
            Some(etag) => put.header(IF_MATCH.as_str(), format!("\"{etag}\"")),
            None => put.header(IF_NONE_MATCH.as_str(), "*"),
        };
        let answer = self.client.send(&self.target, put).await?;
        match answer.status {
            409 | 412 => Ok(Placed::Changed),
            _ if answer.is_good() => Ok(Placed::Stored {
                etag: plain(answer.header(ETAG.as_str())),
            }),
            _ => Err(self.client.refused(&self.target, &answer)),
        }
    }

    /// Names of all objects that begin with `prefix`, in the store's order.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let mut names = Vec::new();
        self.each_page(prefix, |objects| {
            names.extend(objects.into_iter().map(|object| object.key));
            true
        })
        .await?;
        Ok(names)
    }

    /// Gives each page of the listing of `prefix` to `take`, until that says `false`. Returns the number of requests.
    ///
    /// # Errors
    /// As [`Bucket::probe`]. Also a listing that is not whole: who deletes or compares must not take it for all there is.
    pub(super) async fn each_page(
        &self,
        prefix: &str,
        mut take: impl FnMut(Vec<xml::Listed>) -> bool,
    ) -> Result<u32, StorageError> {
        let mut asked_for: Option<String> = None;
        for requests in 1..=MOST_PAGES {
            let mut asked = Request::bucket(Method::GET);
            if !prefix.is_empty() {
                asked = asked.query("prefix", prefix);
            }
            if let Some(token) = &asked_for {
                asked = asked.query("continuation-token", token.as_str());
            }
            let page = self.page(asked).await?;
            if !take(page.objects) || (page.next.is_none() && !page.more) {
                return Ok(requests);
            }
            if page.next.is_none() || page.next == asked_for {
                break;
            }
            asked_for = page.next;
        }
        Err(error::misconfigured(&self.target, "its listing has no end"))
    }

    /// Deletes an object; one that is not there is fine.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let answer = self
            .client
            .send(&self.target, Request::new(Method::DELETE, key))
            .await?;
        // AWS answers 204 for one that is not there, others 404.
        let gone = xml::error(&answer.body).is_some_and(|said| said.code == "NoSuchKey");
        if answer.is_good() || gone {
            Ok(())
        } else {
            Err(self.client.refused(&self.target, &answer))
        }
    }

    /// Writes a small object, replacing one of that name.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn write_small(&self, key: &str, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.client
            .done(&self.target, Request::new(Method::PUT, key).bytes(bytes))
            .await?;
        Ok(())
    }
}

pub(super) fn plain(etag: Option<&str>) -> String {
    etag.unwrap_or_default().trim_matches('"').to_ascii_lowercase()
}

fn head(answer: &Answer) -> Head {
    Head {
        size: answer
            .header(CONTENT_LENGTH.as_str())
            .and_then(|size| size.parse().ok())
            .unwrap_or(0),
        etag: plain(answer.header(ETAG.as_str())),
        author: answer.header(AUTHOR_HEADER).map(str::to_owned),
        // Without a date it counts as new: nothing is deleted on a guess.
        modified: answer
            .header(LAST_MODIFIED.as_str())
            .and_then(|date| rfc2822::parse(date).ok())
            .map_or(Timestamp::MAX, |date| date.timestamp()),
    }
}
