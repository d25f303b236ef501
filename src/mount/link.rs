//! The way between the kernel's NFS client and rclone: the guard's port for the kernel, rclone's port for the guard.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::error::MountError;
use super::guard::{Guard, Handle, Observer, Uploads};
use super::renames::Renames;

/// A guard that serves one mount, over any number of rclones.
pub(super) struct Link {
    port: u16,
    handle: Handle,
    renames: Arc<Renames>,
}

impl Link {
    /// Starts a guard for the rclone that will listen on `upstream`.
    pub(super) async fn open(observer: Arc<dyn Observer>, renames: Renames, upstream: u16) -> Result<Link, MountError> {
        let renames = Arc::new(renames);
        let guard = Guard::bind(observer, Arc::clone(&renames) as Arc<dyn Uploads>)
            .await
            .map_err(|source| MountError::Port { source })?;
        let link = Link {
            port: guard.port(),
            handle: guard.handle(),
            renames,
        };
        tokio::spawn(guard.run(address(upstream)));
        Ok(link)
    }

    /// A port for rclone: a free one of now, as rclone cannot be given a socket. Should somebody take it before rclone
    /// does, rclone ends, and the next start takes another.
    pub(super) fn free_port() -> Result<u16, MountError> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|free| free.local_addr())
            .map(|free| free.port())
            .map_err(|source| MountError::Port { source })
    }

    /// rclone is gone: calls wait.
    pub(super) fn part(&self) {
        self.handle.hold();
    }

    /// Another rclone listens on `upstream`, and the one before is dead: calls go on there.
    pub(super) fn join(&self, upstream: u16) {
        self.handle.set_upstream(address(upstream));
        self.handle.release();
    }

    /// Where the kernel shall connect.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How long the oldest call has been waiting, when longer than `limit`.
    pub(super) fn stuck(&self, limit: Duration) -> Option<Duration> {
        self.handle.oldest().filter(|waiting| *waiting >= limit)
    }

    /// What the guard knows about renames.
    pub(super) fn renames(&self) -> &Renames {
        &self.renames
    }

    /// Controls the guard.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Link")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
