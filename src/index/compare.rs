//! Are the local file and the database the same?
//!
//! Definitions, every row of every table with its rowid, the AUTOINCREMENT counters and, by FTS5's own check, each
//! full-text index against its content on both sides. Rows are read in pages of the same rowids and merged. The local
//! side is one read transaction, the database's is not: compare when nothing is being shipped. A message names table,
//! rowid and column, never a value.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use libsql_hrana::proto::Row;
use rusqlite::Connection;
use rusqlite::types::{Value as Local, ValueRef};

use super::error::{self, IndexError};
use super::fence;
use super::local::{self, blocking};
use super::remote::{Remote, ask, run, step, step_after};
use super::restore;
use super::schema::{self, Catalog, Key, OBJECTS, Object, START, Table};
use super::value::{self, int, integer, text_of};

/// Differences in a report.
const MOST: usize = 100;
/// Rows that are compared at once, at first; fewer when they are large.
const PAGE: i64 = 1000;

/// What a comparison found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Tables that both have.
    pub tables: u64,
    /// Rows of the local file that were compared.
    pub rows: u64,
    /// In words, at most a hundred; empty when both are the same.
    pub differences: Vec<String>,
}

impl Report {
    fn differs(&mut self, words: impl Into<String>) {
        if self.differences.len() < MOST {
            self.differences.push(words.into());
        }
    }
}

/// Why there is no report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// The database did not do it.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The local disk or file did not do it.
    #[error("{0}")]
    Local(String),
}

/// Compares every row of every table, and the definitions. What is still queued counts as a difference.
///
/// `call_limit` bounds each request.
///
/// # Errors
/// [`CompareError`].
pub async fn compare(remote: &Remote, path: &Path, call_limit: Duration) -> Result<Report, CompareError> {
    let place = path.to_owned();
    let opened = blocking(move || {
        let connection = local::connect(&place)?;
        let lineage = read(&connection, |connection| {
            connection.execute_batch("BEGIN")?;
            local::lineage(connection)
        })?;
        Ok((connection, lineage))
    });
    let (connection, lineage) = opened.await.map_err(CompareError::Local)?;
    let mut comparison = Comparison {
        remote,
        limit: call_limit,
        connection: Some(connection),
        report: Report::default(),
    };
    comparison.place(lineage.as_deref()).await?;
    let catalog = comparison.definitions().await?;
    for object in catalog.copied() {
        comparison.table(&object.name).await?;
    }
    comparison.sequences(&catalog).await?;
    comparison.full_text(&catalog).await?;
    Ok(comparison.report)
}

fn read<T>(connection: &Connection, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, String> {
    work(connection).map_err(|error| format!("the local index cannot be read: {error}"))
}

struct Comparison<'a> {
    remote: &'a Remote,
    limit: Duration,
    /// Away while it is used on a blocking thread.
    connection: Option<Connection>,
    report: Report,
}

/// Rows by their key; the key is among the values, too.
type Rows = BTreeMap<i64, Vec<Local>>;

impl Comparison<'_> {
    async fn local<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, CompareError> {
        let gone = || CompareError::Local("the local index is not open any more".into());
        let connection = self.connection.take().ok_or_else(gone)?;
        let (connection, result) = blocking(move || {
            let result = read(&connection, work);
            (connection, result)
        })
        .await;
        self.connection = Some(connection);
        result.map_err(CompareError::Local)
    }

    /// Lineage and position.
    async fn place(&mut self, lineage: Option<&str>) -> Result<(), CompareError> {
        let lease = fence::look(self.remote, self.limit).await?;
        let last = match lineage {
            Some(_) => self.local(local::last_id).await?,
            None => 0,
        };
        match (lease, lineage) {
            (None, _) => self.report.differs("the database has no lease row"),
            (_, None) => self.report.differs("the local file has not the tables of tenant-init"),
            (Some(lease), Some(lineage)) => {
                if lease.lineage != lineage {
                    self.report
                        .differs("the database is not a copy of this file (another lineage)");
                }
                if lease.position != last {
                    let words = format!("the database is at position {}, the file at {last}", lease.position);
                    self.report.differs(words);
                }
            }
        }
        Ok(())
    }

    /// Compares the definitions. What both have.
    async fn definitions(&mut self) -> Result<Catalog, CompareError> {
        let here = self.local(Catalog::local).await?;
        let mut answer = self.remote.batch(vec![step(ask(OBJECTS, vec![]))], self.limit).await?;
        if let Some(error) = answer.error(0) {
            return Err(self.remote.failed(error).into());
        }
        let objects = restore::objects(&mut answer, 0);
        let there = Catalog::of(objects.ok_or_else(|| self.remote.nonsense("its list of tables is not readable"))?);
        let set =
            |catalog: &Catalog| -> BTreeSet<Object> { catalog.tables.iter().chain(&catalog.later).cloned().collect() };
        let (ours, theirs) = (set(&here), set(&there));
        for object in ours.symmetric_difference(&theirs) {
            let side = if ours.contains(object) {
                "the file"
            } else {
                "the database"
            };
            self.report.differs(format!(
                "{} {} is only in {side}, or different there",
                object.kind, object.name
            ));
        }
        let both = |object: &Object| there.tables.iter().any(|table| table.name == object.name);
        let tables: Vec<Object> = here.tables.iter().filter(|object| both(object)).cloned().collect();
        self.report.tables = tables.len() as u64;
        Ok(Catalog { tables, ..here })
    }

    async fn table(&mut self, name: &str) -> Result<(), CompareError> {
        let owned = name.to_owned();
        let table = self.local(move |connection| Table::of(connection, &owned)).await?;
        let (mut start, mut page) = (START, PAGE);
        loop {
            let there = match self.there(&table, start, page).await? {
                Ok(rows) => rows,
                Err(_too_large) if page > 1 => {
                    page = (page / 4).max(1);
                    continue;
                }
                Err(words) => {
                    self.report
                        .differs(format!("{name} cannot be read in the database: {words}"));
                    return Ok(());
                }
            };
            let of = table.clone();
            let here = self.local(move |connection| here(connection, &of, start, page)).await?;
            let full = |rows: &Rows| i64::try_from(rows.len()).is_ok_and(|rows| rows >= page);
            // Behind the end of a full page, that side has rows that were not read yet.
            let ends = [&here, &there].into_iter().filter(|rows| full(rows));
            let bound = ends.filter_map(|rows| rows.keys().next_back().copied()).min();
            self.rows(&table, &here, &there, bound);
            match bound.and_then(|bound| bound.checked_add(1)) {
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    }

    /// A page of the database; in words why not, when it cannot be read or is too large.
    async fn there(&self, table: &Table, start: i64, page: i64) -> Result<Result<Rows, String>, CompareError> {
        let steps = vec![step(ask(table.page(), vec![int(start), int(page)]))];
        let mut answer = match self.remote.call(steps, self.limit).await? {
            Ok(answer) => answer,
            Err(error) if error::is_outage(&error) => return Err(self.remote.failed(&error).into()),
            Err(error) => return Ok(Err(self.remote.words(&error))),
        };
        if let Some(error) = answer.error(0) {
            return match error::is_outage(error) {
                true => Err(self.remote.failed(error).into()),
                false => Ok(Err(self.remote.words(error))),
            };
        }
        let rows = answer
            .rows(0)
            .into_iter()
            .map(|row| row.values.iter().map(value::local).collect());
        Ok(Ok(keyed(table, start, rows)))
    }

    fn rows(&mut self, table: &Table, here: &Rows, there: &Rows, bound: Option<i64>) {
        let keys: BTreeSet<i64> = here.keys().chain(there.keys()).copied().collect();
        let name = &table.name;
        for key in keys.into_iter().filter(|key| bound.is_none_or(|bound| *key <= bound)) {
            match (here.get(&key), there.get(&key)) {
                (Some(ours), Some(theirs)) => {
                    self.report.rows += 1;
                    let skipped = table.width() - table.columns.len();
                    let pairs = ours.iter().zip(theirs).skip(skipped).zip(&table.columns);
                    let differing = pairs.filter(|((ours, theirs), _)| !same(ours, theirs));
                    let columns: Vec<&str> = differing.map(|(_, column)| column.as_str()).collect();
                    if ours.len() != theirs.len() || !columns.is_empty() {
                        self.report
                            .differs(format!("{name}, row {key}: {} differs", columns.join(", ")));
                    }
                }
                (Some(_), None) => {
                    self.report.rows += 1;
                    self.report.differs(format!("{name}, row {key}: only in the file"));
                }
                (None, _) => self.report.differs(format!("{name}, row {key}: only in the database")),
            }
        }
    }

    async fn sequences(&mut self, catalog: &Catalog) -> Result<(), CompareError> {
        const SQL: &str = "SELECT name, seq FROM sqlite_sequence";
        let here = self.local(|connection| {
            let mut statement = connection.prepare(SQL)?;
            let rows = statement.query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<BTreeMap<String, i64>>>()
        });
        let here = here.await?;
        // There is no such table before the first AUTOINCREMENT.
        let mut answer = self.remote.batch(vec![step(ask(SQL, vec![]))], self.limit).await?;
        let rows = answer.rows(0);
        let there = rows.iter().filter_map(|row: &Row| match row.values.as_slice() {
            [name, seq] => Some((text_of(name)?, integer(seq)?)),
            _ => None,
        });
        let there: BTreeMap<&str, i64> = there.collect();
        for table in &catalog.tables {
            if here.get(&table.name) != there.get(table.name.as_str()) {
                self.report
                    .differs(format!("{}: the next AUTOINCREMENT number differs", table.name));
            }
        }
        Ok(())
    }

    /// FTS5's own check. It counts as a write, which is rolled back; the app may hold the lock, then there is no check.
    async fn full_text(&mut self, catalog: &Catalog) -> Result<(), CompareError> {
        let names: Vec<String> = schema::full_text(catalog).map(|table| table.name.clone()).collect();
        for name in names {
            let sql = schema::integrity(&name);
            let check = sql.clone();
            let verdict = self.local(move |connection| {
                connection.execute_batch("COMMIT; BEGIN")?;
                let verdict = connection.execute(&check, ()).map_err(|error| error.to_string());
                connection.execute_batch("ROLLBACK; BEGIN")?;
                Ok(verdict)
            });
            if let Err(words) = verdict.await? {
                self.report.differs(format!(
                    "{name}: its full-text index in the file is not checked or wrong: {words}"
                ));
            }
            let steps = vec![
                step(run("BEGIN IMMEDIATE", vec![])),
                step_after(run(sql, vec![]), 0),
                step(run("ROLLBACK", vec![])),
            ];
            let answer = self.remote.batch(steps, self.limit).await?;
            if let Some((_, error)) = answer.first_error() {
                let words = self.remote.words(error);
                self.report.differs(format!(
                    "{name}: its full-text index in the database is not checked or wrong: {words}"
                ));
            }
        }
        Ok(())
    }
}

fn here(connection: &Connection, table: &Table, start: i64, page: i64) -> rusqlite::Result<Rows> {
    let mut statement = connection.prepare(&table.page())?;
    let rows = statement.query_map((start, page), |row| {
        // A text that is not UTF-8 counts as bytes: the database cannot show it.
        let value = |at| {
            row.get_ref(at)
                .map(|value| Local::try_from(value).unwrap_or_else(|_| bytes(value)))
        };
        (0..table.width()).map(value).collect()
    })?;
    Ok(keyed(
        table,
        start,
        rows.collect::<rusqlite::Result<Vec<_>>>()?.into_iter(),
    ))
}

fn bytes(value: ValueRef<'_>) -> Local {
    Local::Blob(value.as_bytes().unwrap_or_default().to_vec())
}

/// By rowid, or numbered from the page's start.
fn keyed(table: &Table, start: i64, rows: impl Iterator<Item = Vec<Local>>) -> Rows {
    let keyed = rows
        .zip(start.max(0)..)
        .filter_map(|(row, number)| match (&table.key, row.first()) {
            (Key::Rowid(_), Some(Local::Integer(key))) => Some((*key, row)),
            (Key::Rowid(_), _) => None,
            (Key::Counted(_), _) => Some((number, row)),
        });
    keyed.collect()
}

/// Exactly: numbers by their bits.
fn same(ours: &Local, theirs: &Local) -> bool {
    match (ours, theirs) {
        (Local::Real(ours), Local::Real(theirs)) => ours.to_bits() == theirs.to_bits(),
        _ => ours == theirs,
    }
}
