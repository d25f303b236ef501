//! The queue of recorded statements in the local file: what is in it, and what of it goes into the next request.
//!
//! Everything visible at one moment is whole transactions, and a row with `starts = 0` certainly continues the one
//! before it. So a group ends where the queue ends or before a row that may start a transaction. Only a transaction that
//! is larger than a request is cut inside.

use std::path::Path;
use std::time::Duration;

use libsql_hrana::proto::Stmt;
use rusqlite::Connection;

use super::local;
use super::ship::{ShipError, ShipLimits};
use super::value::{self, BadValue};

/// An outbox row cannot be split, and is not read into memory when it is larger than this. Seeding sends row by row.
const LARGEST_ROW: usize = 32 << 20;

/// What is recorded and not in the database yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Transactions, at most: rows that may start one.
    pub transactions: u64,
    /// Outbox rows.
    pub rows: u64,
    /// Bytes of their statements and values.
    pub bytes: u64,
    /// Since when the oldest of them waits.
    pub oldest: Option<Duration>,
}

/// What is queued in the file at `path` after position `after` (0: everything that is still in the outbox). For when
/// nothing runs any more; a file that is not there has nothing queued.
///
/// # Errors
/// [`ShipError::Local`].
pub fn pending(path: &Path, after: u64) -> Result<Pending, ShipError> {
    if let Ok(false) = path.try_exists() {
        return Ok(Pending::default());
    }
    let connection = local::connect(path).map_err(ShipError::Local)?;
    match local::lineage(&connection) {
        Ok(None) => Ok(Pending::default()),
        Ok(Some(_)) => counted(&connection, after).map_err(unreadable),
        Err(error) => Err(unreadable(error)),
    }
}

pub(super) fn unreadable(error: rusqlite::Error) -> ShipError {
    ShipError::Local(format!("the local index cannot be read: {error}"))
}

/// Counts what comes after `after`. `octet_length` does not read long values.
pub(super) fn counted(connection: &Connection, after: u64) -> rusqlite::Result<Pending> {
    let sql = "SELECT count(*), coalesce(sum(starts <> 0), 0), \
               coalesce(sum(octet_length(sql) + octet_length(rows)), 0), min(made_ms) \
               FROM _tenant_init_outbox WHERE id > ?1";
    connection.query_row(sql, (id(after),), |row| {
        let number = |at| row.get::<_, i64>(at).map(|value| u64::try_from(value).unwrap_or(0));
        let made: Option<i64> = row.get(3)?;
        let now = jiff::Timestamp::now().as_millisecond();
        Ok(Pending {
            rows: number(0)?,
            // The rest of a transaction that was cut is one, too.
            transactions: number(1)?.max(u64::from(number(0)? > 0)),
            bytes: number(2)?,
            oldest: made.map(|made| Duration::from_millis(now.saturating_sub(made).try_into().unwrap_or(0))),
        })
    })
}

/// SQLite's idea of a position.
pub(super) fn id(position: u64) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// One outbox row, without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Meta {
    id: u64,
    starts: bool,
    foreign_keys: bool,
    statements: usize,
    bytes: usize,
}

/// How many rows go into one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Group {
    rows: usize,
    /// It ends where a transaction ends.
    whole: bool,
}

/// The longest beginning of `queue` that ends with a transaction and keeps to the limits; else what fits of the one
/// transaction that does not. At least one row. `queue` ends where the outbox ends, or is longer than `statements`.
fn group(queue: &[Meta], statements: usize, bytes: usize) -> Group {
    let (mut total_statements, mut total_bytes, mut boundary) = (0_usize, 0_usize, 0);
    for (at, row) in queue.iter().enumerate() {
        total_statements = total_statements.saturating_add(row.statements);
        total_bytes = total_bytes.saturating_add(row.bytes);
        if at == 0 {
            continue;
        }
        if row.starts {
            boundary = at;
        }
        let other = queue
            .first()
            .is_some_and(|first| first.foreign_keys != row.foreign_keys);
        if other || total_statements > statements || total_bytes > bytes {
            return match boundary {
                0 => Group { rows: at, whole: false },
                rows => Group { rows, whole: true },
            };
        }
    }
    Group {
        rows: queue.len(),
        whole: true,
    }
}

/// What goes into one request.
pub(super) struct Load {
    pub(super) items: Vec<Item>,
    pub(super) foreign_keys: bool,
    /// The last outbox id in it.
    pub(super) last: u64,
    /// It ends where a transaction ends.
    pub(super) whole: bool,
}

/// One outbox row.
pub(super) struct Item {
    pub(super) sql: String,
    pub(super) changes: Option<u64>,
    pub(super) stmts: Result<Vec<Stmt>, BadValue>,
}

/// The queue after a position, at one moment.
pub(super) struct Queue {
    /// What goes into the next request; `None` when nothing is queued.
    pub(super) load: Option<Load>,
    /// What is queued, the load included.
    pub(super) total: Pending,
    /// What is queued after the load.
    pub(super) left: Pending,
    /// The last id that the outbox gave out.
    pub(super) last: u64,
    /// The first id after the position, when rows before it are missing.
    pub(super) gap: Option<u64>,
}

/// Reads the queue after `position`.
pub(super) fn read(connection: &Connection, position: u64, limits: &ShipLimits) -> rusqlite::Result<Queue> {
    // One snapshot for all of it.
    let transaction = connection.unchecked_transaction()?;
    let last = local::last_id(&transaction)?;
    let total = counted(&transaction, position)?;
    let queue = metas(&transaction, position, limits.statements.saturating_add(1))?;
    let gap = match queue.first() {
        Some(first) => (first.id != position + 1).then_some(first.id),
        None => (last > position).then_some(last + 1),
    };
    let load = match queue.as_slice() {
        [] => None,
        [first, ..] => {
            let group = group(&queue, limits.statements, limits.bytes);
            let last = queue.get(group.rows - 1).map_or(first.id, |row| row.id);
            Some(Load {
                items: items(&transaction, position, last)?,
                foreign_keys: first.foreign_keys,
                last,
                whole: group.whole,
            })
        }
    };
    let left = match &load {
        Some(load) => counted(&transaction, load.last)?,
        None => Pending::default(),
    };
    Ok(Queue {
        load,
        total,
        left,
        last,
        gap,
    })
}

fn metas(connection: &Connection, position: u64, most: usize) -> rusqlite::Result<Vec<Meta>> {
    let sql = "SELECT id, starts, foreign_keys, CASE WHEN json_valid(rows) THEN json_array_length(rows) ELSE 1 END, \
               octet_length(sql), octet_length(rows) FROM _tenant_init_outbox WHERE id > ?1 ORDER BY id LIMIT ?2";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map((id(position), i64::try_from(most).unwrap_or(i64::MAX)), |row| {
        let number = |at| row.get::<_, i64>(at).map(|value| usize::try_from(value).unwrap_or(0));
        let statements = number(3)?;
        Ok(Meta {
            id: row.get::<_, i64>(0)?.try_into().unwrap_or(0),
            starts: number(1)? != 0,
            foreign_keys: number(2)? != 0,
            statements: statements.max(1),
            bytes: number(4)?.saturating_mul(statements).saturating_add(number(5)?),
        })
    })?;
    rows.collect()
}

fn items(connection: &Connection, after: u64, last: u64) -> rusqlite::Result<Vec<Item>> {
    let sql = "SELECT changes, substr(sql, 1, ?3), CASE WHEN octet_length(sql) + octet_length(rows) <= ?3 THEN rows END \
               FROM _tenant_init_outbox WHERE id > ?1 AND id <= ?2 ORDER BY id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map(
        (id(after), id(last), i64::try_from(LARGEST_ROW).unwrap_or(i64::MAX)),
        |row| {
            let changes: Option<i64> = row.get(0)?;
            let sql: String = row.get(1)?;
            let rows: Option<String> = row.get(2)?;
            Ok(Item {
                changes: changes.and_then(|changes| changes.try_into().ok()),
                stmts: rows.map_or(Err(BadValue::TooLarge), |rows| value::recorded(&sql, &rows)),
                sql,
            })
        },
    )?;
    rows.collect()
}

/// Removes the rows up to `position`, a bounded number at once: the app waits for the lock meanwhile.
pub(super) fn prune(connection: &Connection, position: u64) -> rusqlite::Result<()> {
    let sql = "DELETE FROM _tenant_init_outbox WHERE id IN \
               (SELECT id FROM _tenant_init_outbox WHERE id <= ?1 ORDER BY id LIMIT 2000)";
    while connection.execute(sql, (id(position),))? == 2000 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queue() -> impl Strategy<Value = Vec<Meta>> {
        // foreign_keys changes only where a transaction starts, as SQLite has it.
        let row = (any::<bool>(), prop::bool::weighted(0.9), 1..8_usize, 1..50_usize);
        prop::collection::vec(row, 1..60).prop_map(|rows| {
            let mut keys = true;
            let mut queue = Vec::new();
            for (at, (starts, same, statements, bytes)) in rows.into_iter().enumerate() {
                keys ^= starts && !same;
                queue.push(Meta {
                    id: at as u64 + 1,
                    starts: starts || at == 0,
                    foreign_keys: keys,
                    statements,
                    bytes,
                });
            }
            queue
        })
    }

    proptest! {
        #[test]
        fn every_row_once_in_order_and_no_transaction_cut_that_fits(
            queue in queue(), statements in 1..30_usize, bytes in 1..300_usize,
        ) {
            let mut sent = Vec::new();
            let mut cut = false;
            while sent.len() < queue.len() {
                let rest = &queue[sent.len()..];
                // As `metas` does: never more than one row over the limit.
                let rest = &rest[..rest.len().min(statements + 1)];
                let group = group(rest, statements, bytes);
                prop_assert!(group.rows > 0);
                let rows = &rest[..group.rows];
                let total = |rows: &[Meta]| {
                    (rows.iter().map(|row| row.statements).sum::<usize>(), rows.iter().map(|row| row.bytes).sum::<usize>())
                };
                let fits = |rows: &[Meta]| total(rows).0 <= statements && total(rows).1 <= bytes;
                prop_assert!(group.rows == 1 || fits(rows), "over the limits");
                prop_assert!(rows.iter().all(|row| row.foreign_keys == rows[0].foreign_keys));
                let next = queue.get(sent.len() + group.rows);
                prop_assert_eq!(group.whole, next.is_none_or(|next| next.starts));
                if !group.whole {
                    // The transaction that was cut does not fit, or is the rest of one that did not.
                    let from = queue[..=sent.len()].iter().rposition(|row| row.starts).unwrap_or(0);
                    let to = (sent.len() + group.rows..queue.len()).find(|at| queue[*at].starts).unwrap_or(queue.len());
                    prop_assert!(!fits(&queue[from..to]));
                    prop_assert!(cut || from == sent.len(), "others were sent along with a part");
                }
                cut = !group.whole;
                sent.extend_from_slice(rows);
            }
            prop_assert_eq!(sent, queue);
        }
    }
}
