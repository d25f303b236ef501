//! Ships recorded statements to the database.
//!
//! A [`Shipper`] knows in memory where the database is: epoch, lineage, position. [`Shipper::round`] reads the queue
//! after that position, sends one group as one fenced transaction and moves on; no local write is needed for it. An
//! answer may get lost after the commit. Then the fence of the next try fails, the row is read, and a position ahead of
//! ours, in our epoch and lineage and among the ids that our outbox has given out, can only be from that lost request.
//!
//! Rows that are in the database are removed from the queue later, many at once: that needs the lock that the app wants.
//!
//! Each row records how many rows its statement changed here. The database's count has to be the same, so that a copy
//! that went astray is noticed with the next statement that touches the spot, not at the next restore. It is noticed
//! after the commit, so the row is marked at once: no later start may continue from there.
//!
//! What cannot be shipped (a statement that fails there, a copy that went astray, a queue over its limit) needs
//! [`Shipper::reseed`]; until it has run, `round` repeats the reason.

use std::path::{Path, PathBuf};
use std::time::Duration;

use libsql_hrana::proto::Stmt;
use rusqlite::Connection;

use super::error::IndexError;
use super::fence::{self, Next, Outcome, Place};
use super::lease::{self, Granted};
use super::local::{self, blocking};
use super::open::Opened;
use super::outbox::{self, Load, Pending, Queue};
use super::remote::{Remote, run};
use super::value::number;

/// So many shipped rows may stay in the queue while more is being shipped.
const SHIPPED_KEPT: u64 = 1000;

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
    pub(super) remote: Remote,
    path: PathBuf,
    /// Where the database is, as far as we know.
    pub(super) place: Place,
    /// The local file's; differs from the place's while the database is of no use.
    pub(super) lineage: String,
    pub(super) ttl: Duration,
    pub(super) limits: ShipLimits,
    /// Why nothing can be shipped before the database is seeded.
    pub(super) seed: Option<ShipError>,
    /// Rows up to here are removed from the queue.
    pruned: u64,
    file: Option<File>,
}

/// The open file. `Connection` is `Send`, so it moves to the blocking thread and back.
#[derive(Debug)]
struct File {
    connection: Connection,
    identity: Option<(u64, u64)>,
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
        Shipper {
            remote,
            path: path.to_owned(),
            place: Place {
                epoch: granted.epoch,
                lineage: opened.lineage.clone(),
                position: opened.position,
            },
            lineage: opened.lineage.clone(),
            ttl,
            limits,
            seed: opened.how.seed_needed().map(|why| ShipError::Diverged(why.to_owned())),
            pruned: opened.position,
            file: None,
        }
    }

    /// Ships one group of whole transactions (one request, a few after a lost answer). `left.rows == 0`: everything is
    /// in the database.
    ///
    /// May be dropped at any moment: what then happened to the request is found out by the next round.
    ///
    /// # Errors
    /// [`ShipError`].
    pub async fn round(&mut self) -> Result<Round, ShipError> {
        // Twice at most: for the lost answer of an earlier round, and for one that was still on its way.
        for _ in 0..3 {
            let (position, limits) = (self.place.position, self.limits);
            let queue = self
                .with_file(move |connection| outbox::read(connection, position, &limits))
                .await?;
            let Queue {
                load,
                total,
                left,
                last,
                gap,
            } = queue;
            if total.bytes > self.limits.outbox_bytes {
                return Err(self.overflow(last).await);
            }
            if let Some(why) = &self.seed {
                return Err(why.clone());
            }
            if let Some(first) = gap {
                let why = format!("recorded statements are missing (after {position}, before {first})");
                return Err(self.astray(why).await);
            }
            let Some(load) = load else {
                self.tidy(0).await;
                return Ok(Round {
                    shipped: 0,
                    position,
                    left,
                });
            };
            if self.send(load, last).await? {
                let position_now = self.place.position;
                self.tidy(SHIPPED_KEPT).await;
                return Ok(Round {
                    shipped: position_now.saturating_sub(position),
                    position: position_now,
                    left,
                });
            }
        }
        Err(ShipError::Diverged("its position does not stay where we put it".into()))
    }

    /// Sends one group. False when the place was wrong and is known now.
    async fn send(&mut self, load: Load, last: u64) -> Result<bool, ShipError> {
        let mut stmts: Vec<Stmt> = Vec::new();
        let mut items = Vec::with_capacity(load.items.len());
        for item in load.items {
            let of_item = match item.stmts {
                Ok(of_item) => of_item,
                Err(bad) => return Err(self.failed(ShipError::Replay(format!("{} ({bad})", shown(&item.sql))))),
            };
            items.push((item.sql, item.changes, of_item.len()));
            stmts.extend(of_item);
        }
        let next = Next {
            lineage: &self.place.lineage,
            position: load.last,
            state: if load.whole { "complete" } else { "partial" },
        };
        let times = (self.ttl, self.limits.call_limit);
        match fence::write(&self.remote, &self.place, &next, load.foreign_keys, stmts, times).await? {
            Outcome::Done(changed) => {
                self.place.position = load.last;
                let mut changed = changed.into_iter();
                for (sql, here, statements) in items {
                    let there: u64 = changed.by_ref().take(statements).sum();
                    if let Some(here) = here
                        && here != there
                    {
                        let why = format!("{} changed {here} rows here and {there} there", shown(&sql));
                        return Err(self.astray(why).await);
                    }
                }
                Ok(true)
            }
            Outcome::Elsewhere => self.resync(last).await.map(|()| false),
            Outcome::Failed(at, error) => {
                let mut upto = 0;
                let sql = items.iter().find(|(_, _, statements)| {
                    upto += statements;
                    at.is_some_and(|at| at < upto)
                });
                let sql = sql.map_or_else(|| "one of a batch".to_owned(), |(sql, _, _)| shown(sql));
                let why = format!("{sql} ({})", self.remote.words(&error));
                Err(self.failed(ShipError::Replay(why)))
            }
        }
    }

    /// The fence did not let us through: finds out why. `last`: the last id that our outbox gave out.
    async fn resync(&mut self, last: u64) -> Result<(), ShipError> {
        let found = fence::look(&self.remote, self.limits.call_limit).await?;
        match found {
            Some(lease) if lease.epoch == self.place.epoch => {
                let ours = lease.lineage == self.lineage;
                if ours && (self.place.position..=last).contains(&lease.position) {
                    self.place.position = lease.position;
                    return Ok(());
                }
                let why = if ours {
                    format!("it is at position {}, not at {}", lease.position, self.place.position)
                } else {
                    "it is a copy of another file".to_owned()
                };
                Err(self.failed(ShipError::Diverged(why)))
            }
            other => Err(ShipError::Fenced {
                holder: fence::holder(other.as_ref()),
            }),
        }
    }

    /// The copy went astray: marks the row, so that nobody continues from it, and remembers it.
    async fn astray(&mut self, why: String) -> ShipError {
        let sql = "UPDATE _tenant_init_lease SET lineage = '', state = 'partial' WHERE id = 1 AND epoch = ?1";
        let update = run(sql, vec![number(self.place.epoch)]);
        // When this fails, the mark is missing only if we end before the database is seeded.
        if let Err(error) = lease::fenced(&self.remote, update, self.limits.call_limit).await {
            tracing::warn!(
                event = "index_mark",
                "the index database could not be marked as not usable: {error}"
            );
        }
        self.failed(ShipError::Diverged(why))
    }

    /// Remembers that only seeding helps.
    fn failed(&mut self, error: ShipError) -> ShipError {
        self.seed = Some(error.clone());
        error
    }

    /// Drops the queue: the local file has everything, and seeding sends that.
    async fn overflow(&mut self, last: u64) -> ShipError {
        match self.with_file(move |connection| outbox::prune(connection, last)).await {
            Ok(()) => {
                self.pruned = last;
                self.failed(ShipError::Overflow)
            }
            Err(error) => error,
        }
    }

    /// Removes shipped rows from the queue when there are more than `kept`. Failing is harmless: later then.
    pub(super) async fn tidy(&mut self, kept: u64) {
        if self.place.position.saturating_sub(self.pruned) > kept
            && let Err(error) = self.prune().await
        {
            tracing::debug!(
                event = "index_prune",
                "shipped statements stay in the local queue for now: {error}"
            );
        }
    }

    /// Removes what is shipped from the local queue. `round` does it by itself now and then; at a stop, so that
    /// [`super::pending`] counts what is true.
    ///
    /// # Errors
    /// [`ShipError::Local`]; harmless.
    pub async fn prune(&mut self) -> Result<(), ShipError> {
        if self.seed.is_some() {
            return Ok(());
        }
        let position = self.place.position;
        self.with_file(move |connection| outbox::prune(connection, position))
            .await?;
        self.pruned = position;
        Ok(())
    }

    /// What is queued now.
    ///
    /// # Errors
    /// [`ShipError::Local`].
    pub fn pending(&self) -> Result<Pending, ShipError> {
        outbox::pending(&self.path, self.place.position)
    }

    /// Runs `work` on the local file, which is opened again when another one has its name.
    pub(super) async fn with_file<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, ShipError> {
        let (held, path, lineage) = (self.file.take(), self.path.clone(), self.lineage.clone());
        let (file, result) = blocking(move || {
            let file = match held.filter(|file| file.identity == local::identity(&path)) {
                Some(file) => file,
                None => match opened(&path, &lineage) {
                    Ok(file) => file,
                    Err(error) => return (None, Err(error)),
                },
            };
            let result = work(&file.connection).map_err(outbox::unreadable);
            (result.is_ok().then_some(file), result)
        })
        .await;
        self.file = file;
        result
    }

    /// The local file, for work that brings its own connection.
    pub(super) fn path(&self) -> (PathBuf, String) {
        (self.path.clone(), self.lineage.clone())
    }

    /// The database is a copy again, at `position`.
    pub(super) fn seeded(&mut self, position: u64) {
        self.place.lineage.clone_from(&self.lineage);
        self.place.position = position;
        self.seed = None;
        self.pruned = 0;
    }
}

fn opened(path: &Path, lineage: &str) -> Result<File, ShipError> {
    let identity = local::identity(path);
    Ok(File {
        connection: ours(path, lineage)?,
        identity,
    })
}

/// Opens the file at `path` if it is the one of `lineage`.
pub(super) fn ours(path: &Path, lineage: &str) -> Result<Connection, ShipError> {
    let connection = local::connect(path).map_err(ShipError::Local)?;
    match local::lineage(&connection).map_err(outbox::unreadable)? {
        Some(found) if found == lineage => Ok(connection),
        _ => Err(ShipError::Local(format!(
            "{} is not the file any more that the app was started with: the app has to be started again",
            path.display()
        ))),
    }
}

/// A statement for a message: its beginning, never its values.
fn shown(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}
