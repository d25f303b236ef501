//! What the guard asks about rclone: its uploads before a rename (see `guard::rename`), and what it has said.
//!
//! A file that was never stored is renamed in rclone's cache alone, at once, and its upload goes on under the new name. That is
//! how programs save, and how new notes are moved in an outage. For any other the uploads of both names are hurried and
//! waited for: the copy in the bucket is then one of what the file has.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::cached;
use super::guard::{Rclone, Waiting};
use super::log::LogTail;
use super::pending::read_meta;
use super::rc::{QueueItem, Rc, RcError};

/// Uploads may take this long. Programs that look for names in the two directories wait as well.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks at the queue: the first pause, and the longest.
const LOOK: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// One call on a local socket.
const RC_LIMIT: Duration = Duration::from_secs(5);

/// Over any number of rclones.
pub(super) struct Renames {
    metadata: PathBuf,
    rc: Mutex<Option<Rc>>,
    log: Mutex<LogTail>,
}

impl Renames {
    /// For the rclones that serve `bucket` from `cache_dir`.
    pub(super) fn new(cache_dir: &Path, bucket: &str) -> Renames {
        Renames {
            metadata: cached::metadata(cache_dir, bucket),
            rc: Mutex::default(),
            log: Mutex::default(),
        }
    }

    /// Another rclone: its remote control, and its log.
    pub(super) fn follow(&self, rc: &Rc, log: &LogTail) {
        *lock(&self.rc) = Some(rc.clone());
        *lock(&self.log) = log.clone();
    }

    async fn wait(&self, from: &str, to: &str) -> Result<(), String> {
        let began = Instant::now();
        let mut pause = LOOK.0;
        while !self.was_never_stored(from) {
            let rc = lock(&self.rc).clone();
            let queue = match rc {
                Some(rc) => self.look(&rc, from, to).await,
                None => Ok(vec![]),
            };
            let left = PATIENCE.saturating_sub(began.elapsed());
            match queue {
                Ok(queue) => {
                    let Some(first) = queue.first() else { break };
                    let put_off =
                        |item: &QueueItem| item.tries > 0 && !item.uploading && item.expiry > left.as_secs_f64();
                    if left.is_zero() || queue.iter().any(put_off) {
                        return Err(format!("{} could not be uploaded before", first.name));
                    }
                }
                // It is gone, or hangs: the call itself will find that out.
                Err(error) if left.is_zero() => {
                    tracing::debug!("a rename does not wait for uploads: {error}");
                    break;
                }
                Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(LOOK.1);
        }
        Ok(())
    }

    /// What is queued of the two files; it is hurried, once.
    async fn look(&self, rc: &Rc, from: &str, to: &str) -> Result<Vec<QueueItem>, RcError> {
        let mut queue = rc.queue(RC_LIMIT).await?;
        queue.retain(|item| item.name == from || item.name == to);
        for item in queue
            .iter()
            .filter(|item| !item.uploading && item.expiry > 0.0 && item.tries == 0)
        {
            match rc.expire(item.id, RC_LIMIT).await {
                // It has left the queue.
                Ok(()) | Err(RcError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(queue)
    }

    /// rclone knows no object of that name. (Its description of the cached file says so: no fingerprint of one.)
    fn was_never_stored(&self, name: &str) -> bool {
        read_meta(&self.metadata.join(name))
            .ok()
            .flatten()
            .is_some_and(|meta| meta.dirty && meta.fingerprint.is_empty())
    }
}

impl Rclone for Renames {
    fn settled<'a>(&'a self, from: &'a str, to: &'a str) -> Waiting<'a, Result<(), String>> {
        Box::pin(self.wait(from, to))
    }

    fn may_be_renamed_later(&self, to: &str) -> bool {
        lock(&self.log).may_be_renamed_later(to)
    }

    fn was_failed(&self) -> bool {
        lock(&self.log).was_failed()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
