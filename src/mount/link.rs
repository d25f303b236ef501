//! The way between the kernel's NFS client and rclone: the guard's port for the kernel, rclone's port for the guard.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use super::error::MountError;
use super::guard::{Guard, Handle, Observer};

/// A guard that serves one mount.
pub(super) struct Link {
    upstream: u16,
    port: u16,
    handle: Handle,
}

impl Link {
    /// Starts a guard. rclone's port is a free one of now, as rclone cannot be given a socket; should somebody take it
    /// before rclone does, rclone ends, and the next start takes another.
    pub(super) async fn open(observer: Arc<dyn Observer>) -> Result<Link, MountError> {
        let failed = |source| MountError::Port { source };
        let guard = Guard::bind(observer).await.map_err(failed)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|free| free.local_addr())
            .map_err(failed)?;
        let link = Link {
            upstream: free.port(),
            port: guard.port(),
            handle: guard.handle(),
        };
        tokio::spawn(guard.run(SocketAddr::from((Ipv4Addr::LOCALHOST, link.upstream))));
        Ok(link)
    }

    /// Where rclone shall listen.
    pub(super) fn upstream(&self) -> u16 {
        self.upstream
    }

    /// Where the kernel shall connect.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How long the oldest call has been waiting, when longer than `limit`.
    pub(super) fn stuck(&self, limit: Duration) -> Option<Duration> {
        self.handle.oldest().filter(|waiting| *waiting >= limit)
    }

    /// Controls the guard.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Link")
            .field("upstream", &self.upstream)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}
