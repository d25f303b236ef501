//! Files that an rclone before left unsent, made whole in a new one before anyone reads them.
//!
//! rclone queues such files when it starts, but does not connect them with the entries of its directories: their uploads
//! end without anybody telling the entry which object it is now. Whoever opens the file then gets it compared with the
//! object before (or with none), and rclone throws the cached content away as stale: the file reads as empty, or as a
//! mixture, and an append to it would store that. (Seen with 1.75.2, on every start with unsent files.)
//!
//! A file that is opened once before its upload begins is connected, so each of them is ([`visit`]). One whose upload was
//! faster gets its entry from the bucket: its directory is listed again.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::guard::visit;
use super::probe::Kind;
use super::session::Inner;

/// One rc call on a local socket.
const RC_LIMIT: Duration = Duration::from_secs(1);
/// How long uploads that began too early are waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at an upload that is under way.
const PAUSE: Duration = Duration::from_millis(50);

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

    async fn adopt_all(&self, deadline: Instant) -> Result<(), String> {
        let unsent = self.unsent().await.map_err(|error| error.to_string())?;
        if unsent.is_empty() {
            return Ok(());
        }
        let files: Vec<(&str, u64)> = unsent.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
        let visited = match self.nfs_port() {
            Some(port) => {
                let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                visit(upstream, &files, deadline)
                    .await
                    .map_err(|error| error.to_string())
            }
            None => self.visit_through_the_mount(&files, deadline).await,
        };
        visited.map_err(|error| format!("opening the files that were left unsent failed: {error}"))?;
        let mut late: HashSet<&str> = files.iter().map(|(name, _)| *name).collect();
        for item in self.queue_items().await? {
            if !item.uploading {
                late.remove(item.name.as_str());
            }
        }
        if late.is_empty() {
            return Ok(());
        }
        let patience = deadline.min(Instant::now() + PATIENCE);
        loop {
            let queue = self.queue_items().await?;
            let waiting = queue
                .iter()
                .filter(|item| item.uploading && late.contains(item.name.as_str()))
                .count();
            if waiting == 0 {
                break;
            }
            if Instant::now() >= patience {
                // It will be tried again, and connected then; unless it succeeds just now.
                tracing::warn!(files = waiting, "uploads of files that were left unsent take long");
                break;
            }
            sleep(PAUSE).await;
        }
        let directories: HashSet<&str> = late
            .iter()
            .map(|name| name.rsplit_once('/').map_or("", |(directory, _)| directory))
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

    /// In a child process, as everything that touches a mount.
    async fn visit_through_the_mount(&self, files: &[(&str, u64)], deadline: Instant) -> Result<(), String> {
        let list = self.run_dir().join("unsent.json");
        let text = serde_json::to_vec(files).map_err(|error| error.to_string())?;
        fs::write(&list, text).map_err(|error| format!("{}: {error}", list.display()))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let visited = self.prober.run_with(Kind::Visit, &[&self.path, &list], left).await;
        // It is in a directory of our own, and the next one replaces it.
        let _ = fs::remove_file(&list);
        visited.map(drop).map_err(|error| error.to_string())
    }

    async fn queue_items(&self) -> Result<Vec<super::rc::QueueItem>, String> {
        self.rc.queue(RC_LIMIT).await.map_err(|error| error.to_string())
    }
}
