//! Is the mount usable? "Mounted" proves nothing: with a wrong key, a missing bucket or no cache rclone mounts and looks
//! fine. Ready means that each of these was seen: rclone answers; the bucket answers it; there is one mount of ours on
//! the path; rclone has a cache; a child process could look into the mount; no file lost its content in the self-test.

use std::process::ExitStatus;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::MountError;
use super::mountinfo::{self, Kind as Whose};
use super::probe::Kind;
use super::prober::ProbeError;
use super::rc::{RcError, StorageFault};
use super::session::{Inner, Session};
use crate::exit::Exit;

/// Time between two looks while waiting: the whole start takes a fraction of a second, so it must be short.
const PAUSE: Duration = Duration::from_millis(10);

/// Time between two tries of a bucket that does not answer.
const STORAGE_PAUSE: Duration = Duration::from_millis(250);

/// Files that were left unsent are taken up so often, while the bucket answers in between.
const ADOPTION_TRIES: u32 = 3;
/// One rc call on a local socket.
const RC_LIMIT: Duration = Duration::from_secs(1);

/// Why the mount is not ready.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// The storage key is wrong or may not use the bucket.
    #[error(
        "the storage key is rejected for bucket {bucket}: {why}. Check the access key, its secret and its rights on the bucket"
    )]
    Rejected {
        /// The bucket.
        bucket: String,
        /// What S3 said.
        why: String,
    },
    /// The bucket does not exist.
    #[error("bucket {bucket} does not exist at this endpoint ({why}). Check BUCKET_NAME and AWS_ENDPOINT_URL_S3")]
    BucketMissing {
        /// The bucket.
        bucket: String,
        /// What S3 said.
        why: String,
    },
    /// The bucket cannot be reached.
    #[error("the storage of bucket {bucket} cannot be reached: {why}. Check AWS_ENDPOINT_URL_S3 and the network")]
    Unreachable {
        /// The bucket.
        bucket: String,
        /// What happened.
        why: String,
    },
    /// rclone ended.
    #[error("rclone ended before the mount was ready ({status}): {words}")]
    Exited {
        /// Its exit status.
        status: ExitStatus,
        /// Its last serious log lines.
        words: String,
    },
    /// rclone runs without a cache and would lose writes.
    #[error("rclone could not make its cache in {cache_dir} and mounted read-only: {words}. Check mount.cache_dir")]
    NoCache {
        /// The cache directory.
        cache_dir: String,
        /// Its last serious log lines.
        words: String,
    },
    /// A step did not come to an end in time.
    #[error("the mount at {path} is not ready in time: {step}. {words}")]
    Late {
        /// The mountpoint.
        path: String,
        /// What was waited for.
        step: String,
        /// rclone's last serious log lines.
        words: String,
    },
    /// Looking into the mount failed.
    #[error("the mount at {path} does not work: {why}")]
    Broken {
        /// The mountpoint.
        path: String,
        /// What the probe saw.
        why: String,
    },
    /// The self-test lost content.
    #[error(
        "files would be emptied: on this kernel, opening an existing file with O_CREAT through the mount at {path} loses its content ({why}). Set mount.driver = \"fuse\""
    )]
    Truncates {
        /// The mountpoint.
        path: String,
        /// The way that lost it.
        why: String,
    },
    /// The mount table is not as it should be.
    #[error(transparent)]
    Mount(#[from] MountError),
}

impl NotReady {
    /// The exit code this stands for when the tenant cannot start because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            NotReady::Rejected { .. } => Exit::Refused,
            NotReady::BucketMissing { .. } | NotReady::NoCache { .. } => Exit::Config,
            NotReady::Unreachable { .. } => Exit::Unavailable,
            NotReady::Exited { .. } | NotReady::Late { .. } | NotReady::Broken { .. } | NotReady::Truncates { .. } => {
                Exit::Machine
            }
            NotReady::Mount(error) => error.exit(),
        }
    }

    /// May another start of rclone find it mended? Not when a person has to change something first.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            NotReady::Unreachable { .. } | NotReady::Exited { .. } | NotReady::Late { .. }
        )
    }
}

impl Session {
    /// Waits until the mount is ready; returns the time since [`Session::launch`] began. When `small` says that the bucket is,
    /// rclone reads all its folders first.
    ///
    /// # Errors
    /// As soon as it is known that it will not be, at the latest at `deadline`. The mounter is left running.
    pub async fn ready(&self, small: impl Future<Output = bool>, deadline: Instant) -> Result<Duration, NotReady> {
        self.unless_exited(self.0.become_ready(small, deadline)).await?;
        self.0.has_taken_up();
        Ok(self.0.started.elapsed())
    }
}

impl Session {
    /// After [`Session::relaunch`]: waits until rclone can serve. The bucket must answer, because rclone knows no directory
    /// yet and would call every file in it absent.
    ///
    /// # Errors
    /// As soon as it is known that it will not, at the latest at `deadline`. The mounter is left running.
    pub async fn reanswers(&self, deadline: Instant) -> Result<(), NotReady> {
        self.unless_exited(async {
            self.0.answers(deadline).await?;
            tokio::try_join!(self.0.storage_answers(deadline), self.0.has_cache(deadline)).map(drop)
        })
        .await
    }

    /// After [`Session::reanswers`]: lets the calls go on that wait in the guard, and looks into the mount.
    ///
    /// # Errors
    /// As for [`Session::reanswers`].
    pub async fn rejoin(&self, small: bool, deadline: Instant) -> Result<(), NotReady> {
        self.unless_exited(async {
            let read = small && self.0.reads_all(deadline).await?;
            self.0.has_read(read);
            self.0.adopts(deadline).await?;
            self.0.has_taken_up();
            self.0.join();
            self.0.probe(Kind::Look, "looking into the mount", deadline).await
        })
        .await
    }

    async fn unless_exited(&self, work: impl Future<Output = Result<(), NotReady>>) -> Result<(), NotReady> {
        tokio::select! {
            result = work => result,
            status = self.exited() => Err(NotReady::Exited { status, words: self.0.words() }),
        }
    }
}

impl Inner {
    async fn become_ready(&self, small: impl Future<Output = bool>, deadline: Instant) -> Result<(), NotReady> {
        self.answers(deadline).await?;
        tokio::try_join!(self.storage_answers(deadline), self.is_mounted(deadline))?;
        self.barrier.close()?;
        self.has_cache(deadline).await?;
        let read = small.await && self.reads_all(deadline).await?;
        self.has_read(read);
        self.adopts(deadline).await?;
        self.probe(Kind::Look, "looking into the mount", deadline).await?;
        if self.read_only {
            return Ok(());
        }
        self.probe(Kind::SelfTest, "the truncation self-test", deadline).await
    }

    /// All folders, before anybody looks: none has to be read later, one after the other, or in an outage. (On nfs a file in a
    /// folder that cannot be read counts as absent.) Nobody may change anything meanwhile; uploads wait until unsent files are
    /// taken up. False: the bucket failed.
    async fn reads_all(&self, deadline: Instant) -> Result<bool, NotReady> {
        let began = Instant::now();
        let read = self.rc.refresh_all(deadline.saturating_duration_since(began)).await;
        tracing::debug!(
            event = "folders_read",
            milliseconds = began.elapsed().as_millis() as u64,
            "rclone has read all folders: {read:?}"
        );
        match read {
            // It goes on, and what it reads will be older than what is done then.
            Err(error @ RcError::Silent { .. }) => Err(NotReady::Late {
                path: self.path.display().to_string(),
                step: error.to_string(),
                words: self.words(),
            }),
            // The bucket failed: what is looked at is read then.
            other => Ok(other.is_ok()),
        }
    }

    /// A bucket that went away meanwhile is why it failed; if it is back, it is tried again.
    async fn adopts(&self, deadline: Instant) -> Result<(), NotReady> {
        for _ in 1..ADOPTION_TRIES {
            if self.adopt(deadline).await.is_ok() {
                return Ok(());
            }
            self.storage_answers(Instant::now() + RC_LIMIT).await?;
        }
        let Err(step) = self.adopt(deadline).await else {
            return Ok(());
        };
        self.storage_answers(Instant::now() + RC_LIMIT).await?;
        Err(NotReady::Late {
            path: self.path.display().to_string(),
            step,
            words: self.words(),
        })
    }

    async fn answers(&self, deadline: Instant) -> Result<(), NotReady> {
        while self.rc.noop(RC_LIMIT).await.is_err() {
            self.pause(PAUSE, deadline, "rclone does not answer on its socket")
                .await?;
        }
        Ok(())
    }

    async fn storage_answers(&self, deadline: Instant) -> Result<(), NotReady> {
        let bucket = self.bucket.clone();
        loop {
            let why = match self
                .rc
                .storage(&self.bucket, deadline.saturating_duration_since(Instant::now()))
                .await
            {
                Ok(()) => return Ok(()),
                Err(StorageFault::Rejected(why)) => return Err(NotReady::Rejected { bucket, why }),
                Err(StorageFault::BucketMissing(why)) => return Err(NotReady::BucketMissing { bucket, why }),
                Err(StorageFault::Unreachable(why)) => why,
            };
            if Instant::now() + STORAGE_PAUSE >= deadline {
                return Err(NotReady::Unreachable { bucket, why });
            }
            sleep(STORAGE_PAUSE).await;
        }
    }

    async fn is_mounted(&self, deadline: Instant) -> Result<(), NotReady> {
        loop {
            let entries = mountinfo::at(&self.path).map_err(|source| MountError::Path {
                path: self.path.clone(),
                source,
            })?;
            let kinds: Vec<Whose> = entries.iter().map(mountinfo::Entry::kind).collect();
            match kinds.iter().filter(|kind| **kind == Whose::Tenant).count() {
                0 => {}
                1 if kinds.last() == Some(&Whose::Tenant) => return Ok(()),
                count => {
                    let why = format!("{} mounts are stacked on it, {count} of them ours", kinds.len());
                    return Err(NotReady::Broken {
                        path: self.path.display().to_string(),
                        why,
                    });
                }
            }
            // The bucket's verdict is the better one when both are late: leave it the last word.
            let step = "rclone did not mount";
            self.pause(PAUSE, deadline + STORAGE_PAUSE, step).await?;
        }
    }

    async fn has_cache(&self, deadline: Instant) -> Result<(), NotReady> {
        loop {
            match self.rc.disk_cache(RC_LIMIT).await {
                Ok(Some(_)) => return Ok(()),
                Ok(None) => {
                    let cache_dir = self.cache_dir.display().to_string();
                    return Err(NotReady::NoCache {
                        cache_dir,
                        words: self.words(),
                    });
                }
                Err(error) => self.pause(PAUSE, deadline, &error.to_string()).await?,
            }
        }
    }

    async fn probe(&self, kind: Kind, step: &str, deadline: Instant) -> Result<(), NotReady> {
        let path = self.path.display().to_string();
        let left = deadline.saturating_duration_since(Instant::now());
        match self.prober.run(kind, &self.path, left).await {
            Ok(_) => Ok(()),
            Err(error @ ProbeError::Stuck(_)) => Err(NotReady::Late {
                path,
                step: format!("{step}: {error}"),
                words: self.words(),
            }),
            Err(ProbeError::Failed {
                emptied: true,
                step,
                error,
                ..
            }) => Err(NotReady::Truncates {
                path,
                why: format!("{step}: {error}"),
            }),
            Err(error) => Err(NotReady::Broken {
                path,
                why: format!("{step}: {error}. {}", self.words()),
            }),
        }
    }

    async fn pause(&self, pause: Duration, deadline: Instant, step: &str) -> Result<(), NotReady> {
        if Instant::now() >= deadline {
            let path = self.path.display().to_string();
            return Err(NotReady::Late {
                path,
                step: step.to_owned(),
                words: self.words(),
            });
        }
        sleep(pause).await;
        Ok(())
    }

    /// rclone's last serious words, for the end of a message.
    fn words(&self) -> String {
        let words = self.log.serious();
        if words.is_empty() {
            "rclone said nothing about it".to_owned()
        } else {
            words.join(" | ")
        }
    }
}
