//! Ships recorded statements to the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::IndexError;
use super::lease::Granted;
use super::open::Opened;
use super::outbox::Pending;
use super::remote::Remote;

/// Bounds of what is sent and kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipLimits {
    /// Statements in one request.
    pub statements: usize,
    /// Bytes of statements and values in one request.
    pub bytes: usize,
    /// For one request.
    pub call_limit: Duration,
    /// Bytes of the local queue; when it is over, the queue is dropped and the database has to be seeded.
    pub outbox_bytes: u64,
}

impl Default for ShipLimits {
    fn default() -> ShipLimits {
        ShipLimits {
            statements: 500,
            bytes: 1 << 20,
            call_limit: Duration::from_secs(20),
            outbox_bytes: 256 << 20,
        }
    }
}

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Round {
    /// Outbox rows that got into the database.
    pub shipped: u64,
    /// The last outbox id that is in the database.
    pub position: u64,
    /// What is still queued.
    pub left: Pending,
}

/// Why statements did not get into the database. Contains no secret and no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShipError {
    /// An outage, or a rejected token: what is queued stays queued.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another one has the lease: stop writing.
    #[error("{holder} has taken the lease of the index database")]
    Fenced {
        /// Who.
        holder: String,
    },
    /// The database does not run a statement that ran here: seed it.
    #[error("the index database cannot repeat a statement: {0}")]
    Replay(String),
    /// The database is not what the local file's past made it: seed it.
    #[error("the index database is not a copy of the local index: {0}")]
    Diverged(String),
    /// More was queued than may be: rows were dropped. Seed the database.
    #[error("the queue of the index grew over its limit and was dropped: the database has to be seeded")]
    Overflow,
    /// The local disk or file did not do it.
    #[error("{0}")]
    Local(String),
}

impl ShipError {
    /// [`Shipper::reseed`] is what helps.
    #[must_use]
    pub fn seed_needed(&self) -> bool {
        matches!(
            self,
            ShipError::Replay(_) | ShipError::Diverged(_) | ShipError::Overflow
        )
    }
}

/// Ships one local file to one database under one lease.
#[derive(Debug)]
pub struct Shipper {
    #[allow(dead_code)]
    remote: Remote,
    #[allow(dead_code)]
    path: PathBuf,
}

impl Shipper {
    /// Continues where `opened` found the database, under the lease `granted`, which every batch extends by `ttl`.
    /// Sends nothing.
    #[must_use]
    pub fn new(
        remote: Remote,
        path: &Path,
        granted: &Granted,
        opened: &Opened,
        ttl: Duration,
        limits: ShipLimits,
    ) -> Shipper {
        let _ = (granted, opened, ttl, limits);
        Shipper {
            remote,
            path: path.to_owned(),
        }
    }

    /// Ships one group of whole transactions (one request). `left.rows == 0`: everything is in the database.
    ///
    /// May be dropped at any moment: what then happened to the request is found out by the next round.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn round(&mut self) -> Result<Round, ShipError> {
        Err(ShipError::Local("not built yet".into()))
    }

    /// Makes the database a copy of the local file as it is now; the app may go on writing. Returns the rows.
    ///
    /// # Errors
    /// [`ShipError`]; after one it has to be run again, from its beginning.
    pub async fn reseed(&mut self, mut progress: impl FnMut(u64)) -> Result<u64, ShipError> {
        progress(0);
        Err(ShipError::Local("not built yet".into()))
    }

    /// Removes what is shipped from the local queue. `round` does it by itself now and then; at a stop, so that
    /// [`super::pending`] counts what is true.
    ///
    /// # Errors
    /// [`ShipError::Local`]; harmless.
    pub async fn prune(&mut self) -> Result<(), ShipError> {
        Err(ShipError::Local("not built yet".into()))
    }

    /// What is queued now.
    ///
    /// # Errors
    /// [`ShipError::Local`].
    pub fn pending(&self) -> Result<Pending, ShipError> {
        Err(ShipError::Local("not built yet".into()))
    }
}
