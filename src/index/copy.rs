//! A copy of the index for somebody who only reads: a user's own basic-memory, a backup, a report.
//!
//! It takes no lease and writes nothing, so a read-only token is enough. The tenant may go on meanwhile: a copy counts
//! only if the database was at the same place before and after it was read, else it is made once more.

use std::path::Path;
use std::time::Duration;

use nix::unistd::{getegid, geteuid};

use super::error::IndexError;
use super::fence;
use super::lease::{Lease, RemoteState};
use super::local::blocking;
use super::remote::Remote;
use super::restore::{Filled, RestoreError};

/// A tenant that writes all the time can make this many copies void.
const TRIES: u32 = 10;

/// A copy that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// Rows of all tables.
    pub rows: u64,
    /// Where the database was.
    pub position: u64,
}

/// Why there is no copy. What was at the path is still there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// The database did not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// There is no whole index in it.
    #[error("{url} holds no index that can be copied: {why}")]
    NoIndex {
        /// The database.
        url: String,
        /// What is there instead.
        why: String,
    },
    /// The tenant wrote faster than it could be read.
    #[error("the index changes too fast to be copied; try again when the tenant is quieter")]
    Busy,
    /// The local disk or file did not do it.
    #[error("{0}")]
    Local(String),
}

impl CopyError {
    /// The exit code of a command that ends with it.
    #[must_use]
    pub fn exit(&self) -> crate::exit::Exit {
        use crate::exit::Exit;
        match self {
            CopyError::Index(error) => error.exit(),
            CopyError::NoIndex { .. } => Exit::Config,
            CopyError::Busy => Exit::Unavailable,
            CopyError::Local(_) => Exit::Machine,
        }
    }
}

/// Makes `path` a plain basic-memory index with what the database holds, replacing what is there in one step. Each
/// request may take `limit`.
///
/// # Errors
/// [`CopyError`].
pub async fn copy(remote: &Remote, path: &Path, limit: Duration) -> Result<Copied, CopyError> {
    let owner = (geteuid().as_raw(), getegid().as_raw());
    for _ in 0..TRIES {
        let before = whole(remote, limit).await?;
        let filled = match Filled::from(path, owner, remote, before.epoch, limit).await {
            Ok(filled) => filled,
            // A new epoch: the tenant has been started anew meanwhile.
            Err(RestoreError::Lost { .. }) => continue,
            Err(RestoreError::Index(error)) => return Err(error.into()),
            Err(RestoreError::Local(words)) => return Err(CopyError::Local(words)),
            Err(RestoreError::Unusable(why)) => return Err(no_index(remote, &why)),
        };
        let after = whole(remote, limit).await?;
        if (after.epoch, after.position, &after.lineage) != (before.epoch, before.position, &before.lineage) {
            continue;
        }
        let rows = filled.rows;
        let (finished, position) = (blocking(move || filled.finish(None)).await, after.position);
        return match finished.map_err(RestoreError::from) {
            Ok(()) => Ok(Copied { rows, position }),
            Err(RestoreError::Unusable(why)) => Err(no_index(remote, &why)),
            Err(RestoreError::Local(words)) => Err(CopyError::Local(words)),
            Err(RestoreError::Index(error)) => Err(error.into()),
            Err(RestoreError::Lost { .. }) => Err(CopyError::Busy),
        };
    }
    Err(CopyError::Busy)
}

async fn whole(remote: &Remote, limit: Duration) -> Result<Lease, CopyError> {
    match fence::look(remote, limit).await? {
        Some(lease) if lease.state == RemoteState::Complete => Ok(lease),
        Some(lease) if lease.state == RemoteState::Partial => Err(no_index(remote, "it is just being filled")),
        Some(_) => Err(no_index(remote, "the tenant has not written anything yet")),
        None => Err(no_index(remote, "no tenant has used it yet")),
    }
}

fn no_index(remote: &Remote, why: &str) -> CopyError {
    CopyError::NoIndex {
        url: remote.url().to_owned(),
        why: why.to_owned(),
    }
}
