//! The bucket watched all the time: is it still there, and back yet? A drop shall be noticed within seconds, and so shall
//! its end, at the price of a few requests.
//!
//! While all is well the question is `HeadBucket`, which costs a tenth of a listing; what it can't say (why not) is asked by
//! a listing after it. A request that was sent into a network that drops packets is answered late or never even when the
//! network is back: TCP repeats it after longer and longer pauses. So the question is asked again, on a new connection,
//! each [`AGAIN`], and the first answer counts.
//!
//! An open connection needs no name, the next one does. So the name is resolved each time too.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::Method;
use tokio::task::JoinSet;

use super::network::Reason;
use super::{Bucket, Probe, Request, StorageError};

/// A question without an answer is asked again after this long. Few stores answer that late, and one that does is asked a
/// few times more.
const AGAIN: Duration = Duration::from_secs(1);

/// With one of these rclone and our requests ask a proxy, which resolves names itself.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"];

impl Bucket {
    /// A question to a bucket that is asked again and again. `well`: the last answer was a good one.
    #[must_use]
    pub fn pulse(&self, well: bool) -> Pulse {
        Pulse {
            bucket: self.clone(),
            well,
            answered: Arc::default(),
        }
    }
}

/// One question; see the module.
#[derive(Debug, Clone)]
pub struct Pulse {
    bucket: Bucket,
    well: bool,
    /// The bucket has answered well: what is missing is its name.
    answered: Arc<AtomicBool>,
}

impl Pulse {
    /// Asks, until something is known, at most for `Timeouts::operation`.
    ///
    /// # Errors
    /// As [`Bucket::probe`].
    pub async fn ask(&self) -> Result<Probe, StorageError> {
        let started = Instant::now();
        let limit = self.bucket.target.timeouts.operation;
        let mut attempts = JoinSet::new();
        let asking = async {
            loop {
                let pulse = self.clone();
                attempts.spawn(async move { pulse.attempt().await });
                // An attempt that panicked ends the process: nothing is lost by asking again.
                if let Ok(Some(Ok(answer))) = tokio::time::timeout(AGAIN, attempts.join_next()).await {
                    return answer;
                }
            }
        };
        match tokio::time::timeout(limit, asking).await {
            Ok(answer) => answer.map(|()| Probe {
                latency: started.elapsed(),
            }),
            Err(_) => Err(self.silent(limit)),
        }
    }

    /// What it means that nothing is known after `time`.
    #[must_use]
    pub fn silent(&self, time: Duration) -> StorageError {
        if self.answered.load(Ordering::Relaxed) {
            return self.unreachable(Reason::Unresolved(self.bucket.target.host.clone()));
        }
        self.unreachable(Reason::Silent(time))
    }

    fn unreachable(&self, reason: Reason) -> StorageError {
        StorageError::Unreachable {
            bucket: self.bucket.target.bucket.clone(),
            endpoint: self.bucket.target.endpoint.clone(),
            reason,
        }
    }

    async fn attempt(&self) -> Result<(), StorageError> {
        let answers = async {
            if !(self.well && self.is_there().await) {
                self.bucket.probe().await?;
            }
            self.answered.store(true, Ordering::Relaxed);
            Ok(())
        };
        tokio::try_join!(answers, self.resolves()).map(drop)
    }

    async fn is_there(&self) -> bool {
        let asked = Request::bucket(Method::HEAD);
        self.bucket.client.done(&self.bucket.target, asked).await.is_ok()
    }

    async fn resolves(&self) -> Result<(), StorageError> {
        let host = self.bucket.target.host.trim_matches(['[', ']']);
        if host.parse::<IpAddr>().is_ok() || PROXIES.iter().any(|name| std::env::var_os(name).is_some()) {
            return Ok(());
        }
        let found = tokio::net::lookup_host((host, 0)).await;
        if found.is_ok_and(|mut found| found.next().is_some()) {
            Ok(())
        } else {
            Err(self.unreachable(Reason::Unresolved(host.to_owned())))
        }
    }
}
