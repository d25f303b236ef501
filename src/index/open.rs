//! At the start: makes the local file usable.
//!
//! The two sides know each other by the lineage, a random name that is made with the local file and written to the
//! database: "what is in here, up to this position, is that file's past". When it is the local file's, and the position
//! is one that the local queue reaches back to, the file continues. Otherwise the database wins if it is whole, the
//! local file if not, and if neither is good an empty file is made, which the app fills from the notes (`decide`).
//!
//! ## Crashes
//!
//! A restored file gets a new lineage, so that an older copy of the index on another disk can never continue. First the
//! file is put in place (one rename), then its lineage is written to the database, fenced by epoch, old lineage and
//! position. Whatever is interrupted, the next start does the right thing:
//!
//! * Before the rename: the old file is there as it was, perhaps without its write-ahead log; what it was given up for
//!   still holds. `NAME.restoring` is removed by the next attempt.
//! * Between rename and claim: the file's lineage is one that the database does not know. The app has not run, so
//!   nothing is in its queue, and it is restored once more. The other way round (claim first) a crash would leave a
//!   database that names a file which never existed: just as harmless, but meanwhile no file at all could continue.
//! * The claim's answer is lost: either it was carried out, then the file continues at the next attempt (which reads the
//!   row anew), or it was not, then it is restored once more.
//! * Another machine takes the lease meanwhile: the claim changes nothing, and the start fails with `Lost`.
//!
//! An empty file for an empty database is claimed in the same way. A file that seeds the database is not claimed before:
//! until seeding has finished, the database is `partial` under a lineage that no file has, so each further start seeds
//! again (file still there) or rebuilds (file lost).

use std::path::Path;
use std::time::{Duration, Instant};

use super::build::{Build, BuildError};
use super::error::IndexError;
use super::fence;
use super::lease::{self, Granted, LeaseError, RemoteState};
use super::local::{self, Local, blocking};
use super::outbox;
use super::remote::{Remote, run};
use super::restore::{self, RestoreError};
use super::schema::Catalog;
use super::value::{number, text};
use crate::exit::Exit;

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

impl OpenError {
    /// The exit code that a start which fails with this deserves.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            OpenError::Index(error) => error.exit(),
            OpenError::Lost { .. } => Exit::Refused,
            OpenError::Local(_) => Exit::Machine,
        }
    }
}

/// Makes `path` usable. The lease is held (`granted`) and nothing else has the file open.
///
/// `owner` is uid and gid that a new file is given. `call_limit` bounds each request.
///
/// # Errors
/// [`OpenError`]. Nothing is lost by one: it can be tried again.
pub async fn open(
    path: &Path,
    owner: (u32, u32),
    remote: &Remote,
    granted: &Granted,
    call_limit: Duration,
) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let granted = &now(remote, granted, call_limit).await?;
    let place = path.to_owned();
    let local = blocking(move || local::inspect(&place))
        .await
        .map_err(OpenError::Local)?;
    if let Local::Unusable(why) = &local {
        tracing::warn!(event = "index_unusable", "{} cannot be used: {why}", path.display());
    }
    let steps = Steps {
        path,
        owner,
        remote,
        granted,
        limit: call_limit,
    };
    let (how, lineage, discarded) = match decide(&local, granted) {
        Plan::Continue { lineage } => (steps.proceed().await?, lineage, 0),
        Plan::Fresh => (How::Fresh, steps.fresh().await?, 0),
        Plan::Rebuild(why) => (How::Rebuild(why), steps.empty().await?, 0),
        Plan::Reseed { lineage, why } => (How::Reseed(why), lineage, 0),
        Plan::Restore { instead_of } => steps.restore(instead_of).await?,
    };
    Ok(Opened {
        how,
        lineage,
        position: granted.position,
        discarded,
        took: started.elapsed(),
    })
}

/// Puts an empty file in place, whatever the database holds: the app fills it from the notes, and the database has to be
/// seeded from it. For a local file that the app cannot start on ([`super::put_aside`] keeps it).
///
/// # Errors
/// [`OpenError::Local`].
pub async fn rebuild(
    path: &Path,
    owner: (u32, u32),
    remote: &Remote,
    granted: &Granted,
    why: &str,
) -> Result<Opened, OpenError> {
    let started = Instant::now();
    let steps = Steps {
        path,
        owner,
        remote,
        granted,
        limit: Duration::ZERO,
    };
    Ok(Opened {
        lineage: steps.empty().await?,
        how: How::Rebuild(why.into()),
        position: granted.position,
        discarded: 0,
        took: started.elapsed(),
    })
}

/// `granted` as it is now: an earlier attempt may have claimed the database without hearing of it.
async fn now(remote: &Remote, granted: &Granted, limit: Duration) -> Result<Granted, OpenError> {
    match fence::look(remote, limit).await? {
        Some(lease) if lease.epoch == granted.epoch => Ok(Granted {
            lineage: lease.lineage,
            position: lease.position,
            state: lease.state,
            ..granted.clone()
        }),
        other => Err(OpenError::Lost {
            holder: fence::holder(other.as_ref()),
        }),
    }
}

/// What to do with the two sides.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Plan {
    Continue {
        lineage: String,
    },
    Fresh,
    /// With the usable local file that is given up for it.
    Restore {
        instead_of: Option<String>,
    },
    Reseed {
        lineage: String,
        why: String,
    },
    Rebuild(String),
}

fn decide(local: &Local, granted: &Granted) -> Plan {
    let Local::Good(good) = local else {
        return match granted.state {
            RemoteState::Empty => Plan::Fresh,
            RemoteState::Complete => Plan::Restore { instead_of: None },
            RemoteState::Partial => Plan::Rebuild(PARTIAL.into()),
        };
    };
    let lineage = good.lineage.clone();
    let reseed = |why: String| Plan::Reseed {
        lineage: lineage.clone(),
        why,
    };
    let ours = lineage == granted.lineage;
    if ours && granted.position < good.pruned {
        return reseed(format!(
            "it is at position {}, and the local queue begins after {}",
            granted.position, good.pruned
        ));
    }
    if ours && granted.position <= good.last {
        return Plan::Continue { lineage };
    }
    match granted.state {
        RemoteState::Complete => Plan::Restore {
            instead_of: Some(lineage),
        },
        RemoteState::Partial => reseed(PARTIAL.into()),
        RemoteState::Empty => reseed("it is empty, and there is a local index".into()),
    }
}

const PARTIAL: &str = "it holds only a part of an index";

/// The steps of a plan.
struct Steps<'a> {
    path: &'a Path,
    owner: (u32, u32),
    remote: &'a Remote,
    granted: &'a Granted,
    limit: Duration,
}

impl Steps<'_> {
    /// The queue begins after what the database has.
    async fn proceed(&self) -> Result<How, OpenError> {
        let (path, position) = (self.path.to_owned(), self.granted.position);
        let pending = blocking(move || {
            let connection = local::connect(&path)?;
            outbox::prune(&connection, position)
                .and_then(|()| outbox::counted(&connection, position))
                .map_err(|error| format!("cannot use {}: {error}", path.display()))
        });
        Ok(How::Continued {
            queued: pending.await.map_err(OpenError::Local)?.transactions,
        })
    }

    async fn fresh(&self) -> Result<String, OpenError> {
        let lineage = self.empty().await?;
        self.claim(&lineage).await?;
        Ok(lineage)
    }

    /// Puts a file without tables in place.
    async fn empty(&self) -> Result<String, OpenError> {
        let lineage = lease::fresh_id();
        let (path, owner, base, name) = (self.path.to_owned(), self.owner, self.granted.position, lineage.clone());
        blocking(move || Build::begin(&path, owner)?.finish(&Catalog::default(), &[], Some((&name, base))))
            .await
            .map_err(|(BuildError::Machine(words) | BuildError::Content(words))| OpenError::Local(words))?;
        Ok(lineage)
    }

    /// Makes the file from the database; when that cannot be used, the local file is good enough, or an empty one.
    async fn restore(&self, instead_of: Option<String>) -> Result<(How, String, u64), OpenError> {
        let discarded = match &instead_of {
            Some(of) => {
                // Of our own past, only what the database does not have would be lost.
                let after = if *of == self.granted.lineage {
                    self.granted.position
                } else {
                    0
                };
                let path = self.path.to_owned();
                let pending = blocking(move || outbox::pending(&path, after)).await;
                pending.map_or(0, |pending| pending.transactions)
            }
            None => 0,
        };
        let lineage = lease::fresh_id();
        match restore::restore(self.path, self.owner, self.remote, self.granted, &lineage, self.limit).await {
            Ok(rows) => {
                self.claim(&lineage).await?;
                Ok((How::Restored { rows }, lineage, discarded))
            }
            Err(RestoreError::Unusable(why)) => match instead_of {
                Some(lineage) => Ok((How::Reseed(why), lineage, 0)),
                None => Ok((How::Rebuild(why), self.empty().await?, 0)),
            },
            Err(RestoreError::Index(error)) => Err(error.into()),
            Err(RestoreError::Lost { holder }) => Err(OpenError::Lost { holder }),
            Err(RestoreError::Local(words)) => Err(OpenError::Local(words)),
        }
    }

    /// From now on the database's content is the past of the file of `lineage`.
    async fn claim(&self, lineage: &str) -> Result<(), OpenError> {
        let sql = "UPDATE _tenant_init_lease SET lineage = ?4 \
                   WHERE id = 1 AND epoch = ?1 AND lineage = ?2 AND position = ?3";
        let Granted {
            epoch,
            lineage: before,
            position,
            ..
        } = self.granted;
        let args = vec![number(*epoch), text(before), number(*position), text(lineage)];
        match lease::fenced(self.remote, run(sql, args), self.limit).await {
            Ok(()) => Ok(()),
            Err(LeaseError::Index(error)) => Err(error.into()),
            Err(_elsewhere) => {
                // Lost, or somebody without the lease wrote to the row.
                now(self.remote, self.granted, self.limit).await?;
                let words = "its content changed while the local file was made from it";
                Err(self.remote.nonsense(words).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::local::Good;

    fn granted(lineage: &str, position: u64, state: RemoteState) -> Granted {
        Granted {
            epoch: 1,
            database_id: "d".into(),
            previous: None,
            expired: false,
            lineage: lineage.into(),
            position,
            state,
        }
    }

    fn good(pruned: u64, last: u64) -> Local {
        Local::Good(Good {
            lineage: "L".into(),
            pruned,
            last,
        })
    }

    fn kind(plan: &Plan) -> &'static str {
        match plan {
            Plan::Continue { .. } => "continue",
            Plan::Fresh => "fresh",
            Plan::Restore { .. } => "restore",
            Plan::Reseed { .. } => "reseed",
            Plan::Rebuild(_) => "rebuild",
        }
    }

    #[test]
    fn every_pair_of_sides_has_its_way() {
        use RemoteState::{Complete, Empty, Partial};
        let none = || Local::Missing;
        let bad = || Local::Unusable("why".into());
        for (local, lineage, position, state, wanted) in [
            // Nothing usable here.
            (none(), "", 0, Empty, "fresh"),
            (none(), "X", 5, Complete, "restore"),
            (none(), "X", 5, Partial, "rebuild"),
            (bad(), "", 0, Empty, "fresh"),
            (bad(), "L", 5, Complete, "restore"),
            (bad(), "L", 5, Partial, "rebuild"),
            // Our own past.
            (good(3, 7), "L", 3, Complete, "continue"),
            (good(3, 7), "L", 7, Complete, "continue"),
            (good(0, 0), "L", 0, Empty, "continue"),
            // In the middle of a transaction that takes several requests.
            (good(3, 7), "L", 5, Partial, "continue"),
            // Rows were dropped, or the database was set back.
            (good(3, 7), "L", 2, Complete, "reseed"),
            (good(3, 7), "L", 2, Partial, "reseed"),
            // This file lost transactions that the database has.
            (good(3, 7), "L", 8, Complete, "restore"),
            (good(3, 7), "L", 8, Partial, "reseed"),
            // Another machine has written.
            (good(3, 7), "X", 5, Complete, "restore"),
            (good(3, 7), "X", 5, Partial, "reseed"),
            // The database is new, or was emptied.
            (good(3, 7), "", 0, Empty, "reseed"),
            (good(0, 0), "", 0, Empty, "reseed"),
            // Seeding was interrupted, or the copy went astray.
            (good(3, 7), "", 5, Partial, "reseed"),
        ] {
            let plan = decide(&local, &granted(lineage, position, state));
            assert_eq!(kind(&plan), wanted, "{local:?} {lineage:?} {position} {state:?}");
        }
    }
}
