//! At the start: makes the local file usable.

use std::path::Path;
use std::time::Duration;

use super::error::IndexError;
use super::lease::Granted;
use super::remote::Remote;

/// How the local file became usable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// It was here and the database's content is its own past.
    Continued {
        /// Recorded transactions that are not in the database yet.
        queued: u64,
    },
    /// It was made from the database.
    Restored {
        /// Rows of all tables.
        rows: u64,
    },
    /// Both were empty: a new file without tables.
    Fresh,
    /// The database is of no use and there is no usable local file: an empty one was made, and the app rebuilds the
    /// index from the notes. The database has to be seeded. With the reason.
    Rebuild(String),
    /// The local file is good and the database does not continue into it: it has to be seeded. With the reason.
    Reseed(String),
}

impl How {
    /// [`super::Shipper::reseed`] has to run before anything can be shipped; [`super::Shipper::round`] says so, too.
    #[must_use]
    pub fn seed_needed(&self) -> Option<&str> {
        match self {
            How::Rebuild(why) | How::Reseed(why) => Some(why),
            How::Continued { .. } | How::Restored { .. } | How::Fresh => None,
        }
    }
}

/// The local file, ready for the app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What was done.
    pub how: How,
    /// Of the file.
    pub lineage: String,
    /// The last outbox id that is in the database.
    pub position: u64,
    /// Recorded transactions that were thrown away because another machine has written since.
    pub discarded: u64,
    /// How long it took.
    pub took: Duration,
}

/// Why the local file is not usable. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The database did not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// Another one has taken the lease.
    #[error("{holder} has taken the lease of the index database")]
    Lost {
        /// Who.
        holder: String,
    },
    /// The local disk or file did not do it.
    #[error("{0}")]
    Local(String),
}

/// Makes `path` usable. The lease is held (`granted`) and nothing else has the file open.
///
/// `owner` is uid and gid that the file is given. `call_limit` bounds each request.
///
/// # Errors
/// [`OpenError`].
pub async fn open(
    path: &Path,
    owner: (u32, u32),
    remote: &Remote,
    granted: &Granted,
    call_limit: Duration,
) -> Result<Opened, OpenError> {
    let _ = (owner, remote, granted, call_limit);
    Err(OpenError::Local(format!("{}: not built yet", path.display())))
}
