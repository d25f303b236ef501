//! The way between the kernel's NFS client and rclone: the guard's port for the kernel, rclone's port for the guard.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::error::MountError;
use super::guard::{Guard, Handle, Observer, Rclone};
use super::renames::Renames;

/// Few servers listen here by default.
const OWN_PORTS: Range<u16> = 20_000..32_000;
const TRIES: usize = 100;

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
        let guard = Guard::bind(observer, Arc::clone(&renames) as Arc<dyn Rclone>)
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

    /// A port for rclone: a free one of now, as rclone cannot be given a socket. Not one of those that the kernel takes for
    /// connections going out: rclone would find it taken every now and then. Should somebody take it all the same, rclone ends, and
    /// the next start takes another.
    pub(super) fn free_port() -> Result<u16, MountError> {
        let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        let own = OWN_PORTS.start..outgoing_ports().start.min(OWN_PORTS.end);
        let tries = if own.is_empty() { 0 } else { TRIES };
        let found = (0..tries).find_map(|_| bind(fastrand::u16(own.clone())).ok());
        // Else one of the kernel's choice.
        found
            .map_or_else(|| bind(0), Ok)
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

/// The ports that the kernel chooses from for connections going out (ip(7), `ip_local_port_range`).
fn outgoing_ports() -> Range<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = range.split_whitespace().map_while(|bound| bound.parse().ok());
    match (bounds.next(), bounds.next()) {
        (Some(first), Some(last)) => first..last,
        // Linux's default.
        _ => 32_768..60_999,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_for_rclone_is_free_and_none_that_a_connection_may_take() {
        let outgoing = outgoing_ports();
        for _ in 0..20 {
            let port = Link::free_port().unwrap();
            assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
            assert!(outgoing.start <= OWN_PORTS.start || !outgoing.contains(&port), "{port}");
        }
    }
}
