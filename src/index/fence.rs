//! The batch that writes: one transaction on the server, which does nothing unless the database is exactly where we
//! believe it is, in the epoch we hold.

use std::time::Duration;

use libsql_hrana::proto::{Error, Stmt, Value};

use super::error::{self, IndexError};
use super::lease::{self, Lease, NOBODY, NOW};
use super::remote::{Answer, Remote, run, step, step_after, step_unless};
use super::value::{number, text};

/// The first statement's step.
const FIRST: usize = 4;

/// Where the database is, and who writes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: u64,
    pub(super) lineage: String,
    pub(super) position: u64,
}

/// What a batch turns the row into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next<'a> {
    pub(super) lineage: &'a str,
    pub(super) position: u64,
    /// `empty`, `complete` or `partial`.
    pub(super) state: &'a str,
}

/// How a batch ended that the server answered. Nothing was written unless it is `Done`.
pub(super) enum Outcome {
    /// Committed; with the rows that each statement changed.
    Done(Vec<u64>),
    /// The database is not at the place we named.
    Elsewhere,
    /// A statement failed: its number and the server's words.
    Failed(Option<usize>, Error),
}

/// Runs `stmts` in one transaction at `place`, moves the row to `next` and extends the lease by `ttl`. One request.
///
/// # Errors
/// No usable answer, or the server could not do it now: it may have been done or not.
pub(super) async fn write(
    remote: &Remote,
    place: &Place,
    next: &Next<'_>,
    foreign_keys: bool,
    stmts: Vec<Stmt>,
    (ttl, limit): (Duration, Duration),
) -> Result<Outcome, IndexError> {
    let count = stmts.len();
    let keys = if foreign_keys {
        "PRAGMA foreign_keys = ON"
    } else {
        "PRAGMA foreign_keys = OFF"
    };
    let mut steps = vec![
        step(run(keys, vec![])),
        step_after(run("BEGIN IMMEDIATE", vec![]), 0),
        step_after(fence(place, next, ttl), 1),
        // The UPDATE runs into NOT NULL at a wrong place; it changes nothing, which is no error, when the row is gone.
        step_after(
            run("SELECT json(CASE changes() WHEN 1 THEN '1' ELSE '' END)", vec![]),
            2,
        ),
    ];
    for stmt in stmts {
        steps.push(step_after(stmt, steps.len() - 1));
    }
    steps.push(step_after(run("COMMIT", vec![]), steps.len() - 1));
    let commit = steps.len() - 1;
    steps.push(step_unless(run("ROLLBACK", vec![]), commit));
    let answer = match remote.call(steps, limit).await? {
        Ok(answer) => answer,
        Err(error) if error::is_outage(&error) => return Err(remote.failed(&error)),
        Err(error) => return Ok(Outcome::Failed(None, error)),
    };
    judge(remote, &answer, count, commit)
}

fn judge(remote: &Remote, answer: &Answer, count: usize, commit: usize) -> Result<Outcome, IndexError> {
    if answer.ok(commit).is_some() {
        let changed = |at| answer.ok(FIRST + at).map_or(0, |result| result.affected_row_count);
        return Ok(Outcome::Done((0..count).map(changed).collect()));
    }
    match answer.first_error() {
        Some((2 | 3, error)) if !error::is_outage(error) => Ok(Outcome::Elsewhere),
        Some((at, error)) if (FIRST..=commit).contains(&at) && !error::is_outage(error) => {
            Ok(Outcome::Failed((at < commit).then(|| at - FIRST), error.clone()))
        }
        Some((_, error)) => Err(remote.failed(error)),
        None => Err(remote.nonsense("it did not run a batch, and does not say why")),
    }
}

fn fence(place: &Place, next: &Next<'_>, ttl: Duration) -> Stmt {
    let sql = format!(
        "UPDATE _tenant_init_lease SET position = CASE WHEN epoch = ?1 AND lineage = ?2 AND position = ?3 THEN ?4 END, \
         lineage = ?5, state = ?6, expires_ms = {NOW} + ?7 WHERE id = 1"
    );
    let args = vec![
        number(place.epoch),
        text(&place.lineage),
        number(place.position),
        number(next.position),
        text(next.lineage),
        text(next.state),
        Value::Integer {
            value: lease::millis(ttl),
        },
    ];
    run(sql, args)
}

/// Reads the row; `None` when it, or its table, is gone.
pub(super) async fn look(remote: &Remote, limit: Duration) -> Result<Option<Lease>, IndexError> {
    let mut answer = remote.batch(vec![step(lease::select())], limit).await?;
    match answer.error(0) {
        Some(error) if lease::is_missing_table(error) => Ok(None),
        Some(error) => Err(remote.failed(error)),
        None => Lease::read(remote, &mut answer, 0),
    }
}

/// Who holds the lease by this row.
pub(super) fn holder(lease: Option<&Lease>) -> String {
    lease.map_or_else(|| NOBODY.to_owned(), |lease| lease.holder.clone())
}
