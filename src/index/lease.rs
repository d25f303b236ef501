//! Who may write to the database: one row, taken and given back in one request each.
//!
//! [`acquire`] is one transaction on the server. It makes the row when it is missing, then bumps the epoch in an
//! `UPDATE` whose `CASE` gives NULL unless the row is ours to take: wrong tenant, wrong bucket or a holder whose time is
//! not up violate NOT NULL, and everything is rolled back, the row's creation included. The row as it was before comes
//! with the answer, and the same rules in Rust put the refusal into words. All times are the server's.
//!
//! The epoch is the fence: whoever writes names it, and a batch with an old one does nothing. So an expired lease that
//! nobody else took is still ours, and a holder that comes back after having lost it cannot do harm.
//!
//! A database that holds tables but no row is one that a plain basic-memory filled (its tables `alembic_version`,
//! `entity` and `project` are there): it counts as complete, at position 0. Any other content is not ours to overwrite
//! and is refused.

use std::time::Duration;

use libsql_hrana::proto::{Row, Value};

use super::error::IndexError;
use super::remote::{Answer, Remote, ask, run, step, step_after, step_unless};
use super::value::{count, integer, text, text_of};
use crate::exit::Exit;

/// Milliseconds since 1970 by the server's clock.
pub(super) const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";

/// The format of row and outbox that this program knows.
pub(super) const FORMAT: i64 = 1;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS _tenant_init_lease(
  id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, database_id TEXT NOT NULL, tenant TEXT NOT NULL,
  bucket TEXT NOT NULL, epoch INTEGER NOT NULL, holder TEXT NOT NULL, expires_ms INTEGER NOT NULL,
  lineage TEXT NOT NULL, position INTEGER NOT NULL, state TEXT NOT NULL)";

/// Tables that are neither SQLite's, nor libSQL's, nor ours.
const FOREIGN: &str = "type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' \
     AND name NOT LIKE 'libsql\\_%' ESCAPE '\\' AND name NOT LIKE '\\_tenant\\_init\\_%' ESCAPE '\\'";

/// Tables that only an index of basic-memory has all of.
const KNOWN: [&str; 3] = ["alembic_version", "entity", "project"];

/// Who wants the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// The tenant; empty when it has no id.
    pub tenant: String,
    /// The bucket with the notes that this index is of.
    pub bucket: String,
    /// For people, and to know ourselves again after a restart: host, machine.
    pub holder: String,
    /// How long the lease lasts without being renewed.
    pub ttl: Duration,
}

/// What is in the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoteState {
    /// No table yet.
    Empty,
    /// A whole index.
    Complete,
    /// A part of one: it was being seeded, or is in the middle of a transaction that took several requests.
    Partial,
}

/// The lease, and what the database is when it was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The fence: everything we send names it.
    pub epoch: u64,
    /// Random, made with the row. The bucket remembers it.
    pub database_id: String,
    /// The last holder, if there ever was one.
    pub previous: Option<String>,
    /// The last holder did not give the lease back: it was killed, or it was us and we crashed.
    pub expired: bool,
    /// Of the file whose statements are in the database; empty for none.
    pub lineage: String,
    /// The last outbox id that is in the database.
    pub position: u64,
    /// Whether that is a whole index.
    pub state: RemoteState,
}

/// What [`last_taken`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Of the database.
    pub database_id: String,
    /// As which it was taken.
    pub epoch: u64,
    /// By whom.
    pub holder: String,
}

/// Why the lease is not ours. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error("{holder} has the lease of the index database for another {} s", expires_in.as_secs() + 1)]
    Held {
        /// Who.
        holder: String,
        /// When it ends if it is not renewed.
        expires_in: Duration,
    },
    /// The database belongs to somebody else; nothing was written to it.
    #[error("{0}")]
    OtherTenant(String),
    /// It was ours, and another one has taken it.
    #[error("{holder} has taken the lease of the index database")]
    Lost {
        /// Who.
        holder: String,
    },
    /// The database did not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
}

impl LeaseError {
    /// The exit code that a start which fails with this deserves.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            LeaseError::Held { .. } | LeaseError::OtherTenant(_) | LeaseError::Lost { .. } => Exit::Refused,
            LeaseError::Index(error) => error.exit(),
        }
    }
}

/// The lease row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    format: i64,
    pub(super) database_id: String,
    tenant: String,
    bucket: String,
    pub(super) epoch: u64,
    pub(super) holder: String,
    /// 0: released.
    expires_ms: i64,
    pub(super) lineage: String,
    pub(super) position: u64,
    pub(super) state: RemoteState,
    /// The server's clock when the row was read.
    now_ms: i64,
}

/// Reads the row.
pub(super) fn select() -> libsql_hrana::proto::Stmt {
    let sql = format!(
        "SELECT format, database_id, tenant, bucket, epoch, holder, expires_ms, lineage, position, state, {NOW} \
         FROM _tenant_init_lease WHERE id = 1"
    );
    ask(sql, vec![])
}

impl Lease {
    /// `None` when a column has another type than we write.
    fn parse(row: &Row) -> Option<Lease> {
        let [
            format,
            database_id,
            tenant,
            bucket,
            epoch,
            holder,
            expires,
            lineage,
            position,
            state,
            now,
        ] = row.values.as_slice()
        else {
            return None;
        };
        let state = match text_of(state)? {
            "empty" => RemoteState::Empty,
            "complete" => RemoteState::Complete,
            "partial" => RemoteState::Partial,
            _ => return None,
        };
        Some(Lease {
            format: integer(format)?,
            database_id: text_of(database_id)?.to_owned(),
            tenant: text_of(tenant)?.to_owned(),
            bucket: text_of(bucket)?.to_owned(),
            epoch: count(epoch)?,
            holder: text_of(holder)?.to_owned(),
            expires_ms: integer(expires)?,
            lineage: text_of(lineage)?.to_owned(),
            position: count(position)?,
            state,
            now_ms: integer(now)?,
        })
    }

    /// The row that step `at` of `answer` read; `None` when there is none.
    pub(super) fn read(remote: &Remote, answer: &mut Answer, at: usize) -> Result<Option<Lease>, IndexError> {
        match answer.rows(at).first() {
            None => Ok(None),
            Some(row) => Lease::parse(row)
                .map(Some)
                .ok_or_else(|| remote.nonsense("its table _tenant_init_lease holds what tenant-init never wrote")),
        }
    }

    /// Why `claimant` does not get it; `None` when it does. The rules are those of `TAKE`.
    fn refuses(&self, remote: &Remote, claimant: &Claimant, bound_to: Option<&str>) -> Option<LeaseError> {
        let url = remote.url();
        if self.format != FORMAT {
            let what = format!(
                "it was written by a newer tenant-init (format {}): update this one",
                self.format
            );
            return Some(remote.nonsense(what).into());
        }
        if !self.tenant.is_empty() && !claimant.tenant.is_empty() && self.tenant != claimant.tenant {
            return Some(LeaseError::OtherTenant(format!(
                "the index database {url} belongs to tenant {}, this machine is for tenant {}: give each tenant a \
                 database of its own",
                self.tenant, claimant.tenant
            )));
        }
        if self.bucket != claimant.bucket {
            return Some(LeaseError::OtherTenant(format!(
                "the index database {url} is the index of bucket {}, this machine has bucket {}: correct the \
                 database URL or the bucket, or give this tenant an empty database",
                self.bucket, claimant.bucket
            )));
        }
        if let Some(bound) = bound_to
            && bound != self.database_id
            && self.state != RemoteState::Empty
        {
            return Some(LeaseError::OtherTenant(format!(
                "bucket {} remembers index database {bound}, but {url} is database {} and not empty: correct the \
                 database URL, or delete .tenant-init/binding.json in the bucket to use this database from now on",
                claimant.bucket, self.database_id
            )));
        }
        let left = self.expires_ms.saturating_sub(self.now_ms);
        (self.holder != claimant.holder && left > 0).then(|| LeaseError::Held {
            holder: self.holder.clone(),
            expires_in: Duration::from_millis(left.unsigned_abs()),
        })
    }
}

/// Who took the lease last, and as which epoch; `None` when nobody ever did. One request that changes nothing.
///
/// # Errors
/// The database did not answer, or with something else.
pub async fn last_taken(remote: &Remote, limit: Duration) -> Result<Option<Taken>, IndexError> {
    let mut answer = remote.batch(vec![step(select())], limit).await?;
    match answer.error(0) {
        Some(error) if is_missing_table(error) => Ok(None),
        Some(error) => Err(remote.failed(error)),
        None => Ok(Lease::read(remote, &mut answer, 0)?.map(|lease| Taken {
            database_id: lease.database_id,
            epoch: lease.epoch,
            holder: lease.holder,
        })),
    }
}

/// Takes the lease: it is free, given back, expired, or this `holder`'s already. One request.
///
/// `bound_to` is the database that the bucket remembers, if it does. A database that is empty may be bound anew.
///
/// # Errors
/// [`LeaseError::Held`], [`LeaseError::OtherTenant`] (nothing is written in either case) or [`LeaseError::Index`].
pub async fn acquire(
    remote: &Remote,
    claimant: &Claimant,
    bound_to: Option<&str>,
    limit: Duration,
) -> Result<Granted, LeaseError> {
    let insert = format!(
        "INSERT OR IGNORE INTO _tenant_init_lease \
         SELECT 1, {FORMAT}, ?1, ?2, ?3, 0, '', 0, '', 0, CASE WHEN EXISTS(SELECT 1 FROM sqlite_master WHERE {FOREIGN}) \
         THEN 'complete' ELSE 'empty' END"
    );
    let known = KNOWN.map(|name| format!("'{name}'")).join(",");
    // A row that is older than this transaction has an epoch; one made by it must not hide a stranger's tables.
    let take = format!(
        "UPDATE _tenant_init_lease SET epoch = CASE WHEN format = {FORMAT} AND (tenant = '' OR ?1 = '' OR tenant = ?1) \
         AND bucket = ?2 AND (?5 = '' OR database_id = ?5 OR state = 'empty') AND (holder = ?3 OR expires_ms <= {NOW}) \
         AND (epoch > 0 OR state = 'empty' OR {} = (SELECT count(*) FROM sqlite_master WHERE name IN ({known}))) \
         THEN epoch + 1 END, tenant = CASE WHEN tenant = '' THEN ?1 ELSE tenant END, holder = ?3, \
         expires_ms = {NOW} + ?4 WHERE id = 1",
        KNOWN.len()
    );
    let names = format!("SELECT name FROM sqlite_master WHERE {FOREIGN} ORDER BY name LIMIT 5");
    let new_row = vec![text(fresh_id()), text(&*claimant.tenant), text(&*claimant.bucket)];
    let ours = vec![
        text(&*claimant.tenant),
        text(&*claimant.bucket),
        text(&*claimant.holder),
        Value::Integer {
            value: millis(claimant.ttl),
        },
        text(bound_to.unwrap_or_default()),
    ];
    let steps = vec![
        step(run("BEGIN IMMEDIATE", vec![])),
        step_after(run(CREATE, vec![]), 0),
        step_after(select(), 1),
        step_after(run(insert, new_row), 2),
        step_after(select(), 3),
        step_after(ask(names, vec![]), 4),
        step_after(run(take, ours), 5),
        step_after(select(), 6),
        step_after(run("COMMIT", vec![]), 7),
        step_unless(run("ROLLBACK", vec![]), 8),
    ];
    let mut answer = remote.batch(steps, limit).await?;
    let before = Lease::read(remote, &mut answer, 2)?;
    // As it would be if it was made now: what the rules are asked about.
    let made = Lease::read(remote, &mut answer, 4)?;
    if answer.ok(8).is_some() {
        let now = Lease::read(remote, &mut answer, 7)?.ok_or_else(|| remote.nonsense("it keeps no lease"))?;
        return Ok(granted(now, before));
    }
    if answer.error(6).is_some()
        && let Some(row) = &made
    {
        if let Some(refusal) = row.refuses(remote, claimant, bound_to) {
            return Err(refusal);
        }
        if before.is_none() {
            return Err(LeaseError::OtherTenant(stranger(remote, &mut answer)));
        }
    }
    Err(match answer.first_error() {
        Some((_, error)) => remote.failed(error),
        None => remote.nonsense("it did not run the batch that takes the lease"),
    }
    .into())
}

fn granted(now: Lease, before: Option<Lease>) -> Granted {
    Granted {
        epoch: now.epoch,
        database_id: now.database_id,
        expired: before.as_ref().is_some_and(|lease| lease.expires_ms != 0),
        previous: before.map(|lease| lease.holder).filter(|holder| !holder.is_empty()),
        lineage: now.lineage,
        position: now.position,
        state: now.state,
    }
}

fn stranger(remote: &Remote, answer: &mut Answer) -> String {
    let rows = answer.rows(5);
    let names: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.values.first().and_then(text_of))
        .collect();
    format!(
        "the index database {} holds tables that are no index of basic-memory ({}): give this tenant an empty database",
        remote.url(),
        crate::storage::network::shorten(&names.join(", "))
    )
}

/// Extends the lease by `ttl` from now. One request.
///
/// # Errors
/// [`LeaseError::Lost`] or [`LeaseError::Index`].
pub async fn renew(remote: &Remote, epoch: u64, ttl: Duration, limit: Duration) -> Result<(), LeaseError> {
    let sql = format!("UPDATE _tenant_init_lease SET expires_ms = {NOW} + ?2 WHERE id = 1 AND epoch = ?1");
    let ttl = Value::Integer { value: millis(ttl) };
    fenced(remote, run(sql, vec![super::value::number(epoch), ttl]), limit).await
}

/// Gives the lease back, if it is still ours. Lineage, position and binding stay. One request.
///
/// # Errors
/// [`LeaseError::Lost`] or [`LeaseError::Index`].
pub async fn release(remote: &Remote, epoch: u64, limit: Duration) -> Result<(), LeaseError> {
    let sql = "UPDATE _tenant_init_lease SET expires_ms = 0 WHERE id = 1 AND epoch = ?1";
    fenced(remote, run(sql, vec![super::value::number(epoch)]), limit).await
}

/// Runs an `UPDATE` that changes nothing when the epoch is not ours any more.
pub(super) async fn fenced(
    remote: &Remote,
    update: libsql_hrana::proto::Stmt,
    limit: Duration,
) -> Result<(), LeaseError> {
    let mut answer = remote.batch(vec![step(update), step(select())], limit).await?;
    match answer.ok(0) {
        Some(result) if result.affected_row_count == 1 => return Ok(()),
        Some(_) => {}
        None => match answer.error(0) {
            Some(error) if is_missing_table(error) => return Err(gone()),
            Some(error) => return Err(remote.failed(error).into()),
            None => return Err(remote.nonsense("it did not run a statement").into()),
        },
    }
    Err(match Lease::read(remote, &mut answer, 1)? {
        Some(lease) => LeaseError::Lost { holder: lease.holder },
        None => gone(),
    })
}

/// Who has the lease when its row is gone.
pub(super) const NOBODY: &str = "nobody (the database was emptied)";

fn gone() -> LeaseError {
    LeaseError::Lost { holder: NOBODY.into() }
}

pub(super) fn is_missing_table(error: &libsql_hrana::proto::Error) -> bool {
    error.message.contains("no such table: _tenant_init_lease")
}

/// 128 random bits. fastrand is seeded from the system's randomness, and nothing secret hangs on it.
pub(super) fn fresh_id() -> String {
    format!("{:032x}", fastrand::u128(..))
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}
