//! The upload queue, and emptying it.
//!
//! rclone uploads a file `write_back` after its last write and drops the queue when it ends, so before that every file is
//! made due at once, again and again: a failed attempt puts a file back with twice the delay. Empty means two things:
//! the queue is empty, and the cache's metadata knows no unsent file either (a file that is still open is only there).

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::error::MountError;
use super::hold::{Hold, PUT_OFF};
use super::pending::{self, Pending};
use super::probe::Kind;
use super::prober::ProbeError;
use super::queue::Queue;
use super::rc::RcError;
use super::session::{Inner, Session};
use super::unmount::{self, Cleared, Extent};

/// One call on a local socket; `vfs/queue` of thousands of files takes milliseconds.
const RC_LIMIT: Duration = Duration::from_secs(5);

/// First and longest time between two rounds.
const ROUND_MIN: Duration = Duration::from_millis(10);
const ROUND_MAX: Duration = Duration::from_millis(250);

/// Longest silence towards the progress callback.
const PROGRESS: Duration = Duration::from_secs(1);

/// Names in a progress report.
const NAMES: usize = 5;

/// How far a drain is.
#[derive(Debug, Clone, PartialEq)]
pub struct DrainProgress {
    /// Files left.
    pub files: usize,
    /// Bytes left.
    pub bytes: u64,
    /// Of these, being uploaded.
    pub uploading: usize,
    /// Of these, with a failed last attempt.
    pub failing: usize,
    /// Some of their names, oldest first.
    pub names: Vec<String>,
}

/// A drain that did not end with everything stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} files are not in the bucket: {why}", pending.len())]
pub struct Undrained {
    /// Why it ended.
    pub why: String,
    /// What is left; they stay in the cache directory.
    pub pending: Vec<Pending>,
}

/// How it is known that everything was uploaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// rclone has said so.
    Told,
    /// It ended before it could, and its notes name no file that is left.
    Seen,
}

impl Session {
    /// The upload queue now.
    ///
    /// # Errors
    /// When rclone does not answer.
    pub async fn queue(&self) -> Result<Queue, RcError> {
        self.0.queue().await
    }

    /// Makes every waiting file due now; returns how many. Used when an outage ends: waiting files may otherwise sleep
    /// for up to five minutes. None while files are being taken up that an rclone before left: they become due after that.
    ///
    /// # Errors
    /// When rclone does not answer.
    pub async fn expire_queue(&self) -> Result<usize, RcError> {
        if !self.0.has_adopted() {
            return Ok(0);
        }
        let queue = self.0.queue().await?;
        self.0.expire(&queue).await
    }

    /// One look at the queue while the bucket is unreachable, and just after; see [`Hold`]. True when the hold is over. Nothing is
    /// done while files are being taken up that an rclone before left.
    ///
    /// # Errors
    /// When rclone does not answer.
    pub async fn hold(&self, hold: &mut Hold) -> Result<bool, RcError> {
        if !self.0.has_adopted() {
            return Ok(false);
        }
        let queue = self.0.queue().await?;
        let orders = hold.orders(self.pid(), &queue.items, std::time::Instant::now());
        for id in orders.put_off {
            accept_gone(self.0.rc.put_off(id, PUT_OFF, RC_LIMIT).await)?;
        }
        if let Some(id) = orders.send {
            accept_gone(self.0.rc.expire(id, RC_LIMIT).await)?;
        }
        if orders.over {
            self.0.expire(&queue).await?;
        }
        Ok(orders.over)
    }

    /// Reads a directory (path in the bucket, empty for its root) again from the bucket.
    ///
    /// # Errors
    /// When rclone does not answer or does not know the directory.
    pub async fn refresh(&self, dir: &str) -> Result<(), RcError> {
        if let Some(guard) = self.guard() {
            guard.reads(dir);
        }
        let read = self.0.rc.refresh(dir, Duration::from_secs(30)).await;
        if let Some(guard) = self.guard()
            && read.as_ref().map_or_else(RcError::is_not_there, |()| true)
        {
            guard.has_read(dir);
        }
        read
    }

    /// syncfs on the mount, in a child process: what programs wrote without fsync reaches rclone's cache.
    ///
    /// # Errors
    /// When it does not end in time or the kernel reports lost writes.
    pub async fn sync(&self, limit: Duration) -> Result<Duration, ProbeError> {
        self.0.prober.run(Kind::Sync, &self.0.path, limit).await
    }

    /// Unmounts, plainly if it works within `limit`, else detached; the barrier stays. On FUSE this ends rclone and its
    /// queue, so drain first; on NFS rclone goes on and can be drained afterwards. Once rclone has ended, a plain unmount
    /// would only wait for it: then the mount is detached at once.
    ///
    /// # Errors
    /// When the mount would not go.
    pub async fn unmount(&self, limit: Duration) -> Result<Cleared, MountError> {
        let extent = Extent {
            keep_barrier: true,
            patience: limit,
        };
        unmount::clear(&self.0.path, &self.0.prober, extent).await
    }

    /// Uploads everything, then returns.
    ///
    /// # Errors
    /// What is left, when rclone ends or does not answer, or at `deadline`.
    pub async fn drain(
        &self,
        mut progress: impl FnMut(DrainProgress),
        deadline: Instant,
    ) -> Result<Drained, Undrained> {
        let outcome = tokio::select! {
            outcome = self.0.drain(&mut progress) => outcome,
            status = self.exited() => Err(format!("rclone ended ({status})")),
            () = sleep_until(deadline) => Err("the time for it is used up".to_owned()),
        };
        let Err(why) = outcome else {
            return Ok(Drained::Told);
        };
        match self.0.unsent().await {
            Ok(pending) if pending.is_empty() => Ok(Drained::Seen),
            Ok(pending) => Err(Undrained { why, pending }),
            Err(error) => Err(Undrained {
                why: format!("{why}, and the cache cannot be read: {error}"),
                pending: vec![],
            }),
        }
    }
}

impl Inner {
    pub(super) async fn queue(&self) -> Result<Queue, RcError> {
        let answer = self.rc.queue(RC_LIMIT).await?;
        let mut tracker = self.tracker.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tracker.update(answer, self.write_back, std::time::Instant::now()))
    }

    /// Makes the waiting files of `queue` due.
    pub(super) async fn expire(&self, queue: &Queue) -> Result<usize, RcError> {
        let mut count = 0;
        for item in queue.items.iter().filter(|item| !item.uploading && !item.due.is_zero()) {
            match self.rc.expire(item.id, RC_LIMIT).await {
                Ok(()) => count += 1,
                // It was uploaded, or its file deleted, since the queue was read.
                Err(RcError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    async fn drain(&self, progress: &mut impl FnMut(DrainProgress)) -> Result<(), String> {
        let mut pause = ROUND_MIN;
        let mut told: Option<(Instant, DrainProgress)> = None;
        loop {
            let queue = self.queue().await.map_err(|error| error.to_string())?;
            let mut now = summary(&queue);
            if queue.is_empty() {
                let unsent = self.unsent().await.map_err(|error| error.to_string())?;
                if unsent.is_empty() {
                    return Ok(());
                }
                now = DrainProgress {
                    files: unsent.len(),
                    bytes: unsent.iter().map(|file| file.bytes).sum(),
                    names: unsent.into_iter().take(NAMES).map(|file| file.name).collect(),
                    ..now
                };
            }
            let (expired, moved) = (
                self.expire(&queue).await,
                told.as_ref().is_none_or(|(_, last)| last.files != now.files),
            );
            expired.map_err(|error| error.to_string())?;
            pause = if moved { ROUND_MIN } else { (pause * 2).min(ROUND_MAX) };
            if told
                .as_ref()
                .is_none_or(|(time, last)| time.elapsed() >= PROGRESS || (moved && last.files == 0))
            {
                progress(now.clone());
                told = Some((Instant::now(), now));
            } else if let Some((_, last)) = told.as_mut() {
                *last = now;
            }
            sleep(pause).await;
        }
    }

    /// Reads the cache's metadata on a blocking thread: there may be many files.
    async fn unsent(&self) -> std::io::Result<Vec<Pending>> {
        let (cache_dir, bucket) = (self.cache_dir.clone(), self.bucket.clone());
        let read = tokio::task::spawn_blocking(move || pending::unsent(&cache_dir, &bucket));
        read.await.map_err(std::io::Error::other)?
    }
}

/// A file that has left the queue since it was read is uploaded, or gone.
fn accept_gone(answer: Result<(), RcError>) -> Result<(), RcError> {
    match answer {
        Err(RcError::Refused { .. }) => Ok(()),
        other => other,
    }
}

fn summary(queue: &Queue) -> DrainProgress {
    DrainProgress {
        files: queue.items.len(),
        bytes: queue.bytes(),
        uploading: queue.items.iter().filter(|item| item.uploading).count(),
        failing: queue.items.iter().filter(|item| item.failing).count(),
        names: queue.items.iter().take(NAMES).map(|item| item.name.clone()).collect(),
    }
}
