//! The bucket past the mount: what "changed elsewhere" and "stored" mean.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::halt::Halt;
use super::sides::Runner;
use super::stop::Later;
use crate::config::{Config, Environment};
use crate::core::snapshot::Snapshot;
use crate::credentials;
use crate::ops::status::{self, StatusError};
use crate::storage::{Bucket, StorageError, Timeouts};

/// Objects that are put at the same time.
const PARALLEL: usize = 16;
/// Between two looks. A listing of 200 names takes a few milliseconds.
const LOOK: Duration = Duration::from_millis(20);
/// How long is waited for the next file to be stored.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bucket, seen by a client of our own; only objects below our folder's name are touched.
#[derive(Clone)]
pub(super) struct Far {
    bucket: Bucket,
    prefix: String,
}

impl Far {
    /// # Errors
    /// In words: why there is no way to the bucket.
    pub(super) fn connect<'a>(config: &'a Config, name: &str) -> Later<'a, Result<Far, String>> {
        let prefix = format!("{name}/");
        Box::pin(async move {
            let bundle = credentials::fetch(config, &Environment::process())
                .await
                .map_err(|error| format!("no credentials for the bucket: {}", first(&error.to_string())))?;
            let bucket = Bucket::connect(&bundle.storage, Timeouts::START).map_err(|error| error.to_string())?;
            bucket.probe().await.map_err(|error| error.to_string())?;
            Ok(Far { bucket, prefix })
        })
    }

    /// The same bucket with another folder of ours, relative to the bucket.
    pub(super) fn beside(&self, folder: &str) -> Far {
        Far {
            bucket: self.bucket.clone(),
            prefix: format!("{folder}/"),
        }
    }

    /// What all names of our objects begin with.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Puts one object; `name` is relative to our folder.
    pub(super) fn put<'a>(&'a self, name: &str, content: Vec<u8>) -> Later<'a, Result<(), StorageError>> {
        let key = format!("{}{name}", self.prefix);
        Box::pin(async move { self.bucket.write_small(&key, content).await })
    }

    /// Deletes one.
    pub(super) fn delete<'a>(&'a self, name: &str) -> Later<'a, Result<(), StorageError>> {
        let key = format!("{}{name}", self.prefix);
        Box::pin(async move { self.bucket.delete(&key).await })
    }

    /// Puts many objects with the same content. The inner error says why the bucket did not take them.
    pub(super) fn put_all(
        &self,
        runner: &Runner,
        names: Vec<String>,
        content: &[u8],
    ) -> Result<Result<(), String>, Halt> {
        let count = names.len();
        let mut names = names.into_iter().enumerate();
        let puts = async {
            let mut puts: JoinSet<Result<(), StorageError>> = JoinSet::new();
            loop {
                while puts.len() < PARALLEL
                    && let Some((number, name)) = names.next()
                {
                    runner.progress.tick(number, count);
                    let (far, content) = (self.clone(), content.to_vec());
                    let put: Later<'static, _> = Box::pin(async move { far.put(&name, content).await });
                    puts.spawn(put);
                }
                match puts.join_next().await {
                    None => return Ok(()),
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => return Err(error.to_string()),
                    Some(Err(panic)) => return Err(panic.to_string()),
                }
            }
        };
        runner.stop.wait(Box::pin(puts))
    }

    /// Names below a folder of ours, relative to it; `""` is our folder itself.
    pub(super) fn names<'a>(&'a self, folder: &str) -> Later<'a, Result<Vec<String>, StorageError>> {
        let prefix = format!("{}{folder}", self.prefix);
        Box::pin(async move {
            let mut names = self.bucket.names(&prefix).await?;
            for name in &mut names {
                name.drain(..prefix.len().min(name.len()));
            }
            Ok(names)
        })
    }

    /// Deletes whatever is left of ours; how many objects that were.
    pub(super) fn sweep(&self) -> Later<'_, Result<usize, StorageError>> {
        Box::pin(async move {
            let names = self.names("").await?;
            for name in &names {
                self.delete(name).await?;
            }
            Ok(names.len())
        })
    }
}

/// What the tenant says of itself.
pub(super) fn ask(address: SocketAddr) -> Later<'static, Result<Snapshot, StatusError>> {
    Box::pin(async move { status::ask(address).await.map(|(snapshot, _)| snapshot) })
}

/// The first of several faults is enough to say why something was skipped; `check` lists them all, with what to do.
fn first(faults: &str) -> String {
    let first = faults.split(';').next().unwrap_or_default();
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Who can tell that a file is stored.
#[derive(Clone)]
pub(super) enum Witness {
    /// The bucket itself. The address is that of the tenant's health endpoint, where there is one.
    Bucket(Box<Far>, Option<SocketAddr>),
    /// The tenant's own account of its queue. It looks at the queue every second while it knows of something in it, and
    /// otherwise at the interval given here: an empty queue says nothing before that has passed.
    Status { address: SocketAddr, interval: Duration },
    /// Nobody, and why.
    Nobody(String),
}

impl Witness {
    /// Where the tenant can be asked.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Witness::Bucket(_, address) => *address,
            Witness::Status { address, .. } => Some(*address),
            Witness::Nobody(_) => None,
        }
    }

    /// Waits until `count` files below `folder` (relative to ours, with a slash at its end) are stored. The inner error says
    /// why that is not known.
    pub(super) fn stored(&self, runner: &Runner, folder: &str, count: usize) -> Result<Result<(), String>, Halt> {
        let begin = Instant::now();
        let (mut seen_waiting, mut most, mut news) = (false, 0, begin);
        loop {
            let (stored, all) = match self {
                Witness::Nobody(reason) => return Ok(Err(reason.clone())),
                Witness::Bucket(far, _) => match runner.stop.wait(far.names(folder))? {
                    Ok(names) => (names.len().min(count), names.len() >= count),
                    Err(error) => return Ok(Err(error.to_string())),
                },
                Witness::Status { address, interval } => match runner.stop.wait(ask(*address))? {
                    Ok(snapshot) => {
                        let waiting = usize::try_from(snapshot.uploads.queued).unwrap_or(usize::MAX);
                        seen_waiting |= waiting > 0;
                        let known = seen_waiting || begin.elapsed() > *interval;
                        (count.saturating_sub(waiting), known && waiting == 0)
                    }
                    Err(error) => return Ok(Err(error.to_string())),
                },
            };
            if all {
                return Ok(Ok(()));
            }
            runner.progress.tick(stored, count);
            if stored > most {
                (most, news) = (stored, Instant::now());
            }
            if news.elapsed() > PATIENCE {
                let quiet = PATIENCE.as_secs();
                let words = format!("{stored} of {count} files are stored, and no further one for {quiet} s");
                return Ok(Err(words));
            }
            runner.stop.sleep(LOOK)?;
        }
    }
}
