//! rclone's remote control over its Unix socket: the calls we use, with a deadline on each, and what its errors mean.
//!
//! Only `rc/noop`, `vfs/queue` and `operations/list` are asked while the tenant runs: they take no lock of the mounted
//! file system. `vfs/stats` does (it was seen to take 4 s in an outage) and is asked once, at start.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::mountinfo::REMOTE;

/// A remote-control call that gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RcError {
    /// Nobody answers on the socket, or not in time.
    #[error("rclone does not answer {call}: {why}")]
    Silent {
        /// The call.
        call: &'static str,
        /// What happened.
        why: String,
    },
    /// rclone answered with an error.
    #[error("rclone refuses {call} (status {status}): {message}")]
    Refused {
        /// The call.
        call: &'static str,
        /// Status in the answer.
        status: u16,
        /// rclone's words, shortened.
        message: String,
    },
    /// rclone answered something else than documented.
    #[error("rclone's answer to {call} is not understood: {why}. Is it rclone 1.75?")]
    Strange {
        /// The call.
        call: &'static str,
        /// What the parser said.
        why: String,
    },
}

impl RcError {
    /// The file or directory that the call was about is not there.
    #[must_use]
    pub fn is_not_there(&self) -> bool {
        // The last: something else has its name.
        const WORDS: [&str; 4] = [
            "file does not exist",
            "directory not found",
            "no such file",
            "invalid argument",
        ];
        matches!(self, RcError::Refused { message, .. } if WORDS.iter().any(|words| message.contains(words)))
    }
}

/// What a failed listing of the bucket says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageFault {
    /// The key is wrong, disabled or not allowed here.
    Rejected(String),
    /// The bucket does not exist at this endpoint.
    BucketMissing(String),
    /// Anything a later attempt may find mended: network, name resolution, TLS, 5xx, throttling.
    Unreachable(String),
}

/// One file in the upload queue, as `vfs/queue` reports it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct QueueItem {
    /// Path in the bucket.
    pub name: String,
    /// Names the entry until it is uploaded.
    pub id: u64,
    /// Bytes.
    pub size: i64,
    /// Seconds until it is tried; negative when overdue.
    pub expiry: f64,
    /// Attempts started.
    pub tries: u64,
    /// Seconds between two attempts: `write_back`, doubled by each failure.
    pub delay: f64,
    /// Being uploaded now.
    pub uploading: bool,
}

/// `diskCache` of `vfs/stats`; absent when rclone runs without a cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiskCache {
    /// Where the files are.
    pub path: String,
    /// The cache's disk is full.
    pub out_of_space: bool,
}

#[derive(Deserialize)]
struct QueueAnswer {
    queue: Vec<QueueItem>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatsAnswer {
    disk_cache: Option<DiskCache>,
}

/// A client of one rclone. Cheap to clone; keeps its connections open.
#[derive(Debug, Clone)]
pub struct Rc {
    http: reqwest::Client,
}

impl Rc {
    /// A client for the socket; connects at the first call.
    ///
    /// # Errors
    /// When the HTTP client cannot be built.
    pub fn new(socket: &Path) -> Result<Rc, RcError> {
        let failed = |why: String| RcError::Silent { call: "rc", why };
        // reqwest wants a TLS provider even for plain HTTP. An error means that one is installed already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder()
            .unix_socket(socket)
            .no_proxy()
            .tls_certs_only([])
            .build()
            .map_err(|error| failed(error.to_string()))?;
        Ok(Rc { http })
    }

    /// Is anybody there? Answered without any lock.
    ///
    /// # Errors
    /// See [`RcError`].
    pub async fn noop(&self, timeout: Duration) -> Result<(), RcError> {
        self.call::<Value>("rc/noop", json!({}), timeout).await.map(drop)
    }

    /// The disk cache, or `None` when rclone could not make one and would lose every write.
    ///
    /// # Errors
    /// See [`RcError`]; refused until the mount is up.
    pub async fn disk_cache(&self, timeout: Duration) -> Result<Option<DiskCache>, RcError> {
        Ok(self
            .call::<StatsAnswer>("vfs/stats", json!({}), timeout)
            .await?
            .disk_cache)
    }

    /// The upload queue.
    ///
    /// # Errors
    /// See [`RcError`].
    pub async fn queue(&self, timeout: Duration) -> Result<Vec<QueueItem>, RcError> {
        Ok(self.call::<QueueAnswer>("vfs/queue", json!({}), timeout).await?.queue)
    }

    /// Makes one queued file due now. The expiry is far in the past so that it goes before files that become due later.
    ///
    /// # Errors
    /// See [`RcError`]; refused when the file has left the queue, which is good news.
    pub async fn expire(&self, id: u64, timeout: Duration) -> Result<(), RcError> {
        self.set_expiry(id, -1e9, timeout).await
    }

    /// Makes one queued file due after `time`.
    ///
    /// # Errors
    /// As [`Rc::expire`].
    pub async fn put_off(&self, id: u64, time: Duration, timeout: Duration) -> Result<(), RcError> {
        self.set_expiry(id, time.as_secs_f64(), timeout).await
    }

    async fn set_expiry(&self, id: u64, seconds: f64, timeout: Duration) -> Result<(), RcError> {
        let arguments = json!({ "id": id, "expiry": seconds });
        self.call::<Value>("vfs/queue-set-expiry", arguments, timeout)
            .await
            .map(drop)
    }

    /// Reads a directory again from the bucket.
    ///
    /// # Errors
    /// See [`RcError`]; also refused when the directory is not known.
    pub async fn refresh(&self, dir: &str, timeout: Duration) -> Result<(), RcError> {
        let arguments = if dir.is_empty() {
            json!({})
        } else {
            json!({ "dir": dir })
        };
        self.refreshed(arguments, timeout).await
    }

    /// Reads all directories from the bucket, in one listing. What is changed while it runs may be missing afterwards.
    ///
    /// # Errors
    /// See [`RcError`]. After [`RcError::Silent`] it goes on.
    pub async fn refresh_all(&self, timeout: Duration) -> Result<(), RcError> {
        self.refreshed(json!({ "recursive": "true" }), timeout).await
    }

    async fn refreshed(&self, arguments: Value, timeout: Duration) -> Result<(), RcError> {
        let call = "vfs/refresh";
        let answer = self.call::<Value>(call, arguments, timeout).await?;
        match answer
            .get("result")
            .and_then(Value::as_object)
            .and_then(|result| result.values().next())
        {
            Some(Value::String(word)) if word == "OK" => Ok(()),
            other => {
                let message = shorten(&other.map(Value::to_string).unwrap_or_default());
                Err(RcError::Refused {
                    call,
                    status: 200,
                    message,
                })
            }
        }
    }

    /// Lists our own prefix: one ListObjectsV2 request, which proves network, key and bucket. (A listing of the root
    /// would read every page of it, and `operations/stat` does not notice a missing bucket.)
    ///
    /// # Errors
    /// What the failure says about the bucket.
    pub async fn storage(&self, bucket: &str, timeout: Duration) -> Result<(), StorageFault> {
        let arguments = json!({
            "fs": format!("{REMOTE}:{bucket}"),
            "remote": ".tenant-init",
            "opt": { "noModTime": true, "noMimeType": true },
        });
        match self.call::<Value>("operations/list", arguments, timeout).await {
            Ok(_) => Ok(()),
            Err(RcError::Refused { message, .. }) => Err(classify(&message)),
            Err(RcError::Silent { .. }) => Err(StorageFault::Unreachable(format!(
                "no answer within {} s",
                timeout.as_secs_f32()
            ))),
            Err(strange @ RcError::Strange { .. }) => Err(StorageFault::Unreachable(strange.to_string())),
        }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        call: &'static str,
        arguments: Value,
        timeout: Duration,
    ) -> Result<T, RcError> {
        let silent = |error: &reqwest::Error| {
            let mut why = error.to_string();
            let mut source = std::error::Error::source(error);
            while let Some(cause) = source {
                why = cause.to_string();
                source = cause.source();
            }
            RcError::Silent { call, why }
        };
        let request = self
            .http
            .post(format!("http://rclone/{call}"))
            .json(&arguments)
            .timeout(timeout);
        let response = request.send().await.map_err(|error| silent(&error))?;
        let failed = !response.status().is_success();
        let status = response.status().as_u16();
        let body = response.bytes().await.map_err(|error| silent(&error))?;
        if failed {
            let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
            let message = answer.get("error").and_then(Value::as_str).unwrap_or("no reason given");
            return Err(RcError::Refused {
                call,
                status,
                message: shorten(message),
            });
        }
        serde_json::from_slice(&body).map_err(|error| RcError::Strange {
            call,
            why: error.to_string(),
        })
    }
}

/// Sorts rclone's words for a failed listing. Names are S3 error codes; rclone reports a missing bucket as
/// "directory not found".
fn classify(message: &str) -> StorageFault {
    const REJECTED: [&str; 9] = [
        "StatusCode: 401",
        "StatusCode: 403",
        "AccessDenied",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "AuthorizationHeaderMalformed",
        "Unauthorized",
    ];
    const MISSING: [&str; 4] = [
        "NoSuchBucket",
        "directory not found",
        "InvalidBucketName",
        "StatusCode: 404",
    ];
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    let words = message
        .strip_prefix("error in ListJSON: ")
        .unwrap_or(message)
        .to_owned();
    // A missing bucket first: its code is more exact than the status that comes with it.
    if has(&MISSING) {
        StorageFault::BucketMissing(words)
    } else if has(&REJECTED) {
        StorageFault::Rejected(words)
    } else {
        StorageFault::Unreachable(words)
    }
}

/// The first 300 characters.
fn shorten(message: &str) -> String {
    message.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_read_as_rclone_writes_it() {
        let text = r#"{"queue":[{"name":"sub/a b.md","id":2,"size":3,"expiry":59.98,"tries":0,"delay":60,"uploading":false},
            {"name":"x","id":7,"size":-1,"expiry":-1000000001.01,"tries":1,"delay":120,"uploading":true}]}"#;
        let answer: QueueAnswer = serde_json::from_str(text).unwrap();
        assert_eq!(answer.queue[0].name, "sub/a b.md");
        assert!(answer.queue[1].uploading && answer.queue[1].size == -1);
    }

    #[test]
    fn a_mount_without_cache_is_seen() {
        let with = r#"{"diskCache":{"bytesUsed":0,"outOfSpace":false,"path":"/c/vfs/tenant/b"},"fs":"tenant:b"}"#;
        let answer: StatsAnswer = serde_json::from_str(with).unwrap();
        assert!(answer.disk_cache.is_some_and(|cache| !cache.out_of_space));
        assert!(
            serde_json::from_str::<StatsAnswer>(r#"{"fs":"tenant:b"}"#)
                .unwrap()
                .disk_cache
                .is_none()
        );
    }

    #[test]
    fn storage_errors_are_sorted_by_what_to_do() {
        let key = "error in ListJSON: operation error S3: ListObjectsV2, https response error StatusCode: 403, api error InvalidAccessKeyId: …";
        assert!(matches!(classify(key), StorageFault::Rejected(words) if words.starts_with("operation error")));
        assert!(matches!(
            classify("error in ListJSON: directory not found"),
            StorageFault::BucketMissing(_)
        ));
        let missing = "… StatusCode: 404, api error NoSuchBucket: …";
        assert!(matches!(classify(missing), StorageFault::BucketMissing(_)));
        let refused = "request send failed, Get \"http://127.0.0.1:9/\": dial tcp: connect: connection refused";
        assert!(matches!(classify(refused), StorageFault::Unreachable(_)));
        let throttled = "https response error StatusCode: 503, api error SlowDown";
        assert!(matches!(classify(throttled), StorageFault::Unreachable(_)));
    }
}
