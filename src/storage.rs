//! The tenant's bucket, asked one cheap question: is it there, does the key open it, and is the network in between?
//!
//! `Bucket::probe` lists at most one object. A listing needs the key, the bucket and the network, and its failure
//! carries an S3 error code in the body; `HeadBucket` answers a bare status, which cannot tell a rejected key from a
//! wrong clock. The probe changes nothing, so it cannot show that the key may *write*: a write with a condition that
//! makes it harmless would still be a change, and `check` promises none. A key that may only read shows itself when
//! the mount's self-test writes its scratch object.
//!
//! Requests use path style (`endpoint/bucket`) everywhere, because rclone's provider `Other` does: the probe takes the
//! road that the mounter will take. No key is read from the environment, files or metadata services.
//!
//! The server's `Date` is compared with our clock on every answer, whether or not the probe succeeded: see
//! [`Bucket::clock_skew`].

mod client;
mod clock;
mod error;
mod filebody;
mod folders;
pub(crate) mod network;
mod object;
mod pulse;
pub(crate) mod sign;
mod whole;
pub(crate) mod xml;

use std::fmt;
use std::time::{Duration, Instant};

use jiff::SignedDuration;
use reqwest::Method;

use crate::credentials;
use client::{Client, Request};
pub use error::StorageError;
pub(crate) use error::describe_skew;
pub(crate) use folders::OURS as OWN_OBJECTS;
pub use folders::{Folders, OwnChanges};
pub(crate) use object::AUTHOR;
pub use object::{Head, Placed};
pub use pulse::Pulse;
pub(crate) use whole::{Holds, Made};

/// How long a request to the bucket may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Until the TCP connection stands.
    pub connect: Duration,
    /// One attempt, connection included.
    pub attempt: Duration,
    /// All attempts and the pauses between them.
    pub operation: Duration,
    /// How many attempts; at least 1.
    pub attempts: u32,
}

impl Timeouts {
    /// For a start or `check`: two attempts, at most 9 s.
    pub const START: Timeouts = Timeouts {
        connect: Duration::from_secs(3),
        attempt: Duration::from_secs(4),
        operation: Duration::from_secs(9),
        attempts: 2,
    };
    /// For a probe that is repeated anyway: one attempt, at most 4 s.
    pub const REPEATED: Timeouts = Timeouts {
        operation: Duration::from_secs(4),
        attempts: 1,
        ..Timeouts::START
    };
}

/// What a successful probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// From the request to its answer, a new connection and retries included.
    pub latency: Duration,
}

/// A bucket and the key that opens it. Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Bucket {
    client: Client,
    target: Target,
    clock: clock::Watch,
}

/// Names for messages, and the secrets that must not get into one.
#[derive(Clone)]
struct Target {
    bucket: String,
    /// Without user information: some people put a password there.
    endpoint: String,
    host: String,
    timeouts: Timeouts,
    secrets: [secrecy::SecretString; 2],
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("bucket", &self.target.bucket)
            .field("endpoint", &self.target.endpoint)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    /// Prepares the client. Sends nothing; for an `https` endpoint it reads the machine's CA certificates (5 ms).
    ///
    /// # Errors
    /// [`StorageError::NoCertificates`] when an `https` endpoint could never be trusted, and
    /// [`StorageError::BadEndpoint`] when the endpoint is not an `http(s)` URL.
    pub fn connect(storage: &credentials::Storage, timeouts: Timeouts) -> Result<Bucket, StorageError> {
        let endpoint = network::Endpoint::parse(&storage.endpoint).ok_or_else(|| StorageError::BadEndpoint {
            endpoint: network::without_userinfo(&storage.endpoint),
        })?;
        if endpoint.tls {
            network::certificates().map_err(|reason| StorageError::NoCertificates {
                endpoint: endpoint.shown.clone(),
                reason,
            })?;
        }
        let clock = clock::Watch::default();
        let client = Client::new(storage, &endpoint, timeouts.connect, clock.clone()).map_err(|reason| {
            StorageError::NoCertificates {
                endpoint: endpoint.shown.clone(),
                reason,
            }
        })?;
        Ok(Bucket {
            client,
            target: Target {
                bucket: storage.bucket.clone(),
                endpoint: endpoint.shown,
                host: endpoint.host,
                timeouts,
                secrets: [storage.access_key_id.clone(), storage.secret_access_key.clone()],
            },
            clock,
        })
    }

    /// Asks for a listing of one object: proves key, bucket and network. Returns within `Timeouts::operation`.
    ///
    /// # Errors
    /// A [`StorageError`] that says which of them failed; [`StorageError::exit`] is the exit code it deserves.
    pub async fn probe(&self) -> Result<Probe, StorageError> {
        let started = Instant::now();
        self.page(Request::bucket(Method::GET).query("max-keys", "1")).await?;
        Ok(Probe {
            latency: started.elapsed(),
        })
    }

    /// One page of a listing. `request` has what it is limited to.
    async fn page(&self, request: Request<'_>) -> Result<xml::Page, StorageError> {
        let answer = self.client.done(&self.target, request.query("list-type", "2")).await?;
        xml::page(&answer.body).ok_or_else(|| error::no_s3(answer.status, &self.target))
    }

    /// The bucket's clock minus ours, as the last answer showed it: positive when ours is behind. Correct to about a
    /// second (the `Date` header has no fractions). `None` until something answered with a date.
    #[must_use]
    pub fn clock_skew(&self) -> Option<SignedDuration> {
        self.clock.skew()
    }

    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.target.bucket
    }

    /// The endpoint, without user information.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.target.endpoint
    }
}

/// Is this Tigris (one service, two names)?
pub(crate) fn is_tigris(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    let host = host.split(['/', ':']).next().unwrap_or_default();
    ["tigris.dev", "storage.dev"].iter().any(|domain| {
        host.strip_suffix(domain)
            .is_some_and(|sub| sub.is_empty() || sub.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storage(endpoint: &str) -> credentials::Storage {
        credentials::Storage {
            bucket: "notes".into(),
            endpoint: endpoint.into(),
            region: "auto".into(),
            access_key_id: "AKIDEXAMPLE".to_owned().into(),
            secret_access_key: "SECRETEXAMPLE".to_owned().into(),
        }
    }

    #[test]
    fn an_endpoint_that_is_no_url_is_a_configuration_error() {
        for endpoint in ["", "t3.storage.dev", "ftp://host", "http://", "not a url"] {
            let error = Bucket::connect(&storage(endpoint), Timeouts::START).unwrap_err();
            assert_eq!(error.exit(), crate::exit::Exit::Config, "{endpoint}: {error}");
        }
    }

    #[test]
    fn debug_and_messages_show_no_key_and_no_password() {
        let bucket = Bucket::connect(&storage("http://user:hunter2@127.0.0.1:9000"), Timeouts::START).unwrap();
        let shown = format!("{bucket:?} {} {}", bucket.endpoint(), bucket.name());
        for secret in ["AKIDEXAMPLE", "SECRETEXAMPLE", "hunter2"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}
