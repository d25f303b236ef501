//! Tells when the bundle's file has new contents.
//!
//! Polling, not inotify: a secret is often mounted from elsewhere (a projected volume, a bind mount), where a watch on
//! the inode misses the atomic replace that everyone uses to rotate it. A `stat` every two seconds costs nothing.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{bundle, secret};

/// Time between two looks. New contents are reported after they have stayed the same for one period.
const PERIOD: Duration = Duration::from_secs(2);

/// See [`watch_file`].
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    period: Duration,
    stamp: Option<Stamp>,
    contents: Option<u64>,
}

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

/// Watches `path` from its present contents on. Nothing runs in the background: poll [`FileWatch::changed`].
pub async fn watch_file(path: &Path) -> FileWatch {
    watch_every(path, PERIOD).await
}

async fn watch_every(path: &Path, period: Duration) -> FileWatch {
    let mut watch = FileWatch {
        path: path.to_owned(),
        period,
        stamp: None,
        contents: None,
    };
    watch.stamp = watch.look().await;
    watch.contents = watch.read().await;
    watch
}

impl FileWatch {
    /// Returns when the file has new contents. Survives an atomic replace and a file that is away for a while; a touch
    /// is not a change. Cancel safe: a change that is not reported yet is found by the next call.
    pub async fn changed(&mut self) {
        loop {
            tokio::time::sleep(self.period).await;
            let Some(stamp) = self.look().await else { continue };
            if self.stamp == Some(stamp) {
                continue;
            }
            // Someone may still be writing: wait until it stays as it is.
            tokio::time::sleep(self.period).await;
            if self.look().await != Some(stamp) {
                continue;
            }
            let contents = self.read().await;
            self.stamp = Some(stamp);
            if contents.is_some() && contents != self.contents {
                self.contents = contents;
                return;
            }
        }
    }

    async fn look(&self) -> Option<Stamp> {
        let metadata = tokio::fs::metadata(&self.path).await.ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// A hash: the watch has no business keeping secrets.
    async fn read(&self) -> Option<u64> {
        let bytes = secret::read_bounded(&self.path, bundle::LARGEST).await.ok()?;
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        Some(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::{FileWatch, watch_every};

    const PERIOD: Duration = Duration::from_millis(20);

    async fn reports(watch: &mut FileWatch, within: Duration) -> bool {
        tokio::time::timeout(within, watch.changed()).await.is_ok()
    }

    fn replace(path: &Path, contents: &str) {
        let new = path.with_extension("new");
        std::fs::write(&new, contents).unwrap();
        std::fs::rename(&new, path).unwrap();
    }

    #[tokio::test]
    async fn replaced_rewritten_and_returned_files_are_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bundle.json");
        std::fs::write(&path, "one").unwrap();
        let mut watch = watch_every(&path, PERIOD).await;
        let deadline = Duration::from_secs(10);

        replace(&path, "two");
        assert!(reports(&mut watch, deadline).await, "atomic replace");
        std::fs::write(&path, "three").unwrap();
        assert!(reports(&mut watch, deadline).await, "rewritten in place");
        std::fs::remove_file(&path).unwrap();
        assert!(!reports(&mut watch, PERIOD * 5).await, "away is not a change");
        std::fs::write(&path, "four").unwrap();
        assert!(reports(&mut watch, deadline).await, "back again");
        replace(&path, "four");
        assert!(
            !reports(&mut watch, PERIOD * 10).await,
            "the same contents are not a change"
        );
    }
}
