//! Files that an rclone before left unsent, made whole in a new one before anyone reads them.
//!
//! rclone queues such files when it starts, but does not connect them with the entries of its directories: their uploads
//! end without anybody telling the entry which object it is now. Whoever opens the file then gets it compared with the
//! object before (or with none), and rclone throws the cached content away as stale: the file reads as empty, or as a
//! mixture, and an append to it would store that. (Seen with 1.75.2, on every start with unsent files.)
//!
//! A file that is opened once before its upload begins is connected, so each of them is ([`visit`]). For that, a life that
//! begins with unsent files has a longer write-back delay ([`delay`]), long enough for rclone to look them all up and for
//! us to open them. It can't be changed back while rclone runs; so once that is done uploads are made due from here, when
//! they have waited as long as `mount.write_back` says ([`hurry`]). Not before, and nobody else may make one due: a bucket that comes back late would get them
//! while they are being opened, and the kernel keeps for `mount.attribute_timeout` what it sees of such a file: no bytes. A
//! file whose upload was faster all the same gets its entry from the bucket: its directory is listed again. So does a file that
//! has no entry at all, because the bucket did not answer when rclone made it ("failed to add virtual dir entry"): it is
//! uploaded first.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::guard::visit;
use super::probe::Kind;
use super::session::Inner;

/// One rc call on a local socket.
const RC_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at an upload that is under way.
const PAUSE: Duration = Duration::from_millis(50);
/// The write-back delay of a life that begins with unsent files, and how much longer for each of them: rclone asks the
/// bucket for one after the other.
const DELAY: Duration = Duration::from_secs(10);
const DELAY_PER_FILE: Duration = Duration::from_millis(100);
/// Between two looks for uploads that are due.
const HURRY_MOST: Duration = Duration::from_millis(500);
const HURRY_LEAST: Duration = Duration::from_millis(50);

/// The write-back delay that rclone gets, when it finds this many unsent files. Without a delay it uploads them before it
/// serves.
pub(super) fn delay(write_back: Duration, unsent: usize) -> Duration {
    if unsent == 0 || write_back.is_zero() {
        return write_back;
    }
    let files = u32::try_from(unsent).unwrap_or(u32::MAX);
    write_back.max(DELAY + DELAY_PER_FILE.saturating_mul(files))
}

/// Makes uploads due that have waited for `write_back`, until the session ends.
async fn hurry(session: Weak<Inner>, write_back: Duration) {
    let pause = (write_back / 2).clamp(HURRY_LEAST, HURRY_MOST);
    loop {
        sleep(pause).await;
        let Some(inner) = session.upgrade() else { return };
        if inner.has_ended() {
            return;
        }
        // An rclone that does not answer is the health round's business.
        let Ok(mut queue) = inner.queue().await else { continue };
        let most = inner.write_back.saturating_sub(write_back);
        // What has failed waits longer on purpose.
        queue.items.retain(|item| !item.failing && item.due <= most);
        drop(inner.expire(&queue).await);
    }
}

impl Inner {
    /// See the module.
    ///
    /// # Errors
    /// In words; also when it does not end by `deadline`.
    pub(super) async fn adopt(&self, deadline: Instant) -> Result<(), String> {
        match timeout_at(deadline, self.adopt_all(deadline)).await {
            Ok(result) => result,
            Err(_) => Err("opening the files that were left unsent takes too long".to_owned()),
        }
    }

    /// It is done: from now on uploads are due as configured, and may be made due.
    pub(super) fn has_taken_up(self: &Arc<Self>) {
        self.adopted.store(true, Ordering::Release);
        if self.write_back > self.wanted_write_back {
            tokio::spawn(hurry(Arc::downgrade(self), self.wanted_write_back));
        }
    }

    /// May an upload be made due?
    pub(super) fn has_adopted(&self) -> bool {
        self.adopted.load(Ordering::Acquire)
    }

    async fn adopt_all(&self, deadline: Instant) -> Result<(), String> {
        if self.found.is_empty() {
            return Ok(());
        }
        let files: Vec<(&str, u64)> = self.found.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
        let visited = match self.nfs_port() {
            Some(port) => {
                let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                visit(upstream, &files, deadline)
                    .await
                    .map_err(|error| error.to_string())
            }
            None => self.visit_through_the_mount(&files, deadline).await,
        };
        tracing::info!(
            files = files.len(),
            "opened the files that the rclone before left unsent"
        );
        let missing = visited.map_err(|error| format!("opening the files that were left unsent failed: {error}"))?;
        let missing: HashSet<&str> = missing.iter().map(String::as_str).collect();
        let mut late: HashSet<&str> = files.iter().map(|(name, _)| *name).collect();
        for item in self.queue_items().await? {
            if !item.uploading && !missing.contains(item.name.as_str()) {
                late.remove(item.name.as_str());
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        loop {
            let queue = self.queue().await.map_err(|error| error.to_string())?;
            let mut waiting = queue.clone();
            waiting.items.retain(|item| missing.contains(item.name.as_str()));
            if waiting.items.is_empty()
                && !queue
                    .items
                    .iter()
                    .any(|item| item.uploading && late.contains(item.name.as_str()))
            {
                break;
            }
            self.expire(&waiting).await.map_err(|error| error.to_string())?;
            // What fails is not tried without a pause.
            sleep(if waiting.is_empty() { PAUSE } else { HURRY_MOST }).await;
        }
        // With those above them, from the root on: rclone may not know a directory that came with its first file.
        let directories: BTreeSet<&str> = late
            .iter()
            .flat_map(|name| name.match_indices('/').map(|(at, _)| &name[..at]).chain([""]))
            .collect();
        tracing::info!(
            files = late.len(),
            directories = directories.len(),
            "files left unsent were stored at once; their directories are read again"
        );
        for directory in directories {
            // A directory that is gone needs none.
            if let Err(error) = self
                .rc
                .refresh(directory, deadline.saturating_duration_since(Instant::now()))
                .await
            {
                tracing::warn!(directory, %error, "could not be read again from the bucket");
            }
        }
        Ok(())
    }

    /// In a child process, as everything that touches a mount. Returns the names of files that are not there.
    async fn visit_through_the_mount(&self, files: &[(&str, u64)], deadline: Instant) -> Result<Vec<String>, String> {
        let list = self.run_dir().join("unsent.json");
        let text = serde_json::to_vec(files).map_err(|error| error.to_string())?;
        fs::write(&list, text).map_err(|error| format!("{}: {error}", list.display()))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let visited = self.prober.run_with(Kind::Visit, &[&self.path, &list], left).await;
        let left = fs::read(&list);
        // It is in a directory of our own, and the next one replaces it.
        let _ = fs::remove_file(&list);
        visited.map_err(|error| error.to_string())?;
        let left = left.map_err(|error| format!("{}: {error}", list.display()))?;
        serde_json::from_slice(&left).map_err(|error| error.to_string())
    }

    async fn queue_items(&self) -> Result<Vec<super::rc::QueueItem>, String> {
        self.rc.queue(RC_LIMIT).await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_life_that_begins_with_unsent_files_waits_longer() {
        let second = Duration::from_secs(1);
        assert_eq!(delay(second, 0), second);
        assert_eq!(delay(second, 50), 15 * second);
        assert_eq!(delay(60 * second, 50), 60 * second);
        assert_eq!(delay(Duration::ZERO, 50), Duration::ZERO);
    }
}
