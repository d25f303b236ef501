//! Tells when the local database was written, without asking again and again.
//!
//! In WAL mode every commit writes to `NAME-wal` (otherwise to `NAME`), which inotify reports. The folder is watched and
//! not the two files: the log is removed and made again when its last user goes. Other files of the folder wake us in
//! vain, which costs nothing that matters.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent};
use tokio::io::unix::AsyncFd;

/// Watches one database file. Made inside a tokio runtime.
#[derive(Debug)]
pub struct Watch {
    queue: AsyncFd<Queue>,
    names: [OsString; 2],
}

#[derive(Debug)]
struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Starts watching `path`. The file need not exist, its folder must.
    ///
    /// # Errors
    /// The kernel's: no such folder, too many watches.
    pub fn new(path: &Path) -> io::Result<Watch> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let flags = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
        inotify.add_watch(folder, flags | AddWatchFlags::IN_ONLYDIR)?;
        let mut log = name.to_owned();
        log.push("-wal");
        // What replaces `new` is unsafe, which only src/init may be. Sound here: `Queue` owns its descriptor.
        #[allow(deprecated)]
        let queue = AsyncFd::new(Queue(inotify))?;
        Ok(Watch {
            queue,
            names: [name.to_owned(), log],
        })
    }

    /// Resolves when the file was written since the last call (or since `new`). Cancel safe.
    ///
    /// # Errors
    /// The kernel's; [`io::ErrorKind::NotFound`] when the folder is gone.
    pub async fn written(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.queue.readable().await?;
            let mut written = false;
            // Everything that is there: a thousand writes are one answer.
            loop {
                match ready.get_inner().0.read_events() {
                    Ok(events) => {
                        for event in &events {
                            if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                                return Err(io::ErrorKind::NotFound.into());
                            }
                            written |= self.is_ours(event);
                        }
                    }
                    Err(Errno::EAGAIN) => break ready.clear_ready(),
                    Err(Errno::EINTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if written {
                return Ok(());
            }
        }
    }

    /// Also when the kernel dropped events: one of them may have been ours.
    fn is_ours(&self, event: &InotifyEvent) -> bool {
        let name: Option<&OsStr> = event.name.as_deref();
        event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
            || self.names.iter().any(|ours| Some(ours.as_os_str()) == name)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn soon(watch: &mut Watch) -> io::Result<()> {
        tokio::time::timeout(Duration::from_secs(10), watch.written())
            .await
            .unwrap()
    }

    /// Nothing is to come: the queue is read while nothing is in it.
    async fn quiet(watch: &mut Watch) {
        let waited = tokio::time::timeout(Duration::from_millis(50), watch.written()).await;
        assert!(waited.is_err(), "{waited:?}");
    }

    #[tokio::test]
    async fn commits_are_noticed_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory.db");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t(x)")
            .unwrap();
        let mut watch = Watch::new(&path).unwrap();
        std::fs::write(dir.path().join("basic-memory.log"), "a line").unwrap();
        quiet(&mut watch).await;
        connection
            .execute_batch("BEGIN; INSERT INTO t VALUES (1); COMMIT")
            .unwrap();
        soon(&mut watch).await.unwrap();
        quiet(&mut watch).await;
        // The log is removed and made again.
        drop(connection);
        let connection = rusqlite::Connection::open(&path).unwrap();
        soon(&mut watch).await.unwrap();
        connection.execute_batch("INSERT INTO t VALUES (2)").unwrap();
        soon(&mut watch).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_is_removed_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&dir.path().join("memory.db")).unwrap();
        drop(dir);
        assert_eq!(soon(&mut watch).await.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(Watch::new(Path::new("/nonexistent/memory.db")).is_err());
    }
}
