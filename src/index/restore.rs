//! Makes the local file from the database.
//!
//! One request reads lease and definitions, the next ones rows: many tables at once while they are small, and as many
//! rows as make an answer of about two megabytes (the server refuses more than ten). The lease keeps other writers away,
//! so several requests see one state; that they did is proven when the new lineage is written, on condition that lineage
//! and position are still the ones from before.
//!
//! What the server sends is not trusted: only definitions are run, each row has the width of its table, and rowids
//! grow. Whatever is wrong with it makes the database one that cannot be used, not a start that fails.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use libsql_hrana::proto::{Row, Value};

use super::build::{Build, BuildError};
use super::error::{self, IndexError};
use super::lease::{self, Granted, Lease};
use super::local::blocking;
use super::remote::{Answer, Remote, ask, step};
use super::schema::{Catalog, OBJECTS, Object, START, Table};
use super::value::{int, integer, text_of};

/// Bytes of values that one answer should have.
const ANSWER: usize = 2 << 20;
/// Rows of one request.
const MOST_ROWS: i64 = 5000;
/// Tables of one request.
const MOST_TABLES: i64 = 16;

/// Why there is no new file.
#[derive(Debug)]
pub(super) enum RestoreError {
    Index(IndexError),
    Lost {
        holder: String,
    },
    Local(String),
    /// The database's content is no index.
    Unusable(String),
}

impl From<IndexError> for RestoreError {
    fn from(error: IndexError) -> RestoreError {
        RestoreError::Index(error)
    }
}

impl From<BuildError> for RestoreError {
    fn from(error: BuildError) -> RestoreError {
        match error {
            BuildError::Machine(words) => RestoreError::Local(words),
            BuildError::Content(words) => RestoreError::Unusable(words),
        }
    }
}

/// Puts a file with the database's content, of `lineage`, at `path`. Returns its rows.
pub(super) async fn restore(
    path: &Path,
    owner: (u32, u32),
    remote: &Remote,
    granted: &Granted,
    lineage: &str,
    limit: Duration,
) -> Result<u64, RestoreError> {
    let filled = Filled::from(path, owner, remote, granted.epoch, limit).await?;
    let (rows, lineage, base) = (filled.rows, lineage.to_owned(), granted.position);
    blocking(move || filled.finish(Some((&lineage, base)))).await?;
    Ok(rows)
}

/// A file with the database's rows, not in its place yet.
pub(super) struct Filled {
    build: Build,
    catalog: Catalog,
    sequences: Vec<(String, i64)>,
    pub(super) rows: u64,
}

impl Filled {
    pub(super) fn finish(self, recorded: Option<(&str, u64)>) -> Result<(), BuildError> {
        self.build.finish(&self.catalog, &self.sequences, recorded)
    }

    /// Reads everything, beginning in `epoch`.
    pub(super) async fn from(
        path: &Path,
        owner: (u32, u32),
        remote: &Remote,
        epoch: u64,
        limit: Duration,
    ) -> Result<Filled, RestoreError> {
        let (catalog, sequences) = definitions(remote, epoch, limit).await?;
        let (path, tables) = (path.to_owned(), catalog.clone());
        let (mut build, copied) = blocking(move || {
            let build = Build::begin(&path, owner)?;
            for table in &tables.tables {
                build.create(table)?;
            }
            let copied = tables.copied().map(|table| build.table(&table.name));
            let copied = copied.collect::<Result<Vec<_>, _>>()?;
            Ok::<_, BuildError>((build, copied))
        })
        .await?;
        let mut pager = Pager::new(copied);
        let mut rows = 0;
        while let Some(pages) = pager.fetch(remote, limit).await? {
            rows += pages.iter().map(|(_, rows)| rows.len() as u64).sum::<u64>();
            build = blocking(move || {
                for (table, rows) in &pages {
                    build.insert(table, rows)?;
                }
                Ok::<_, BuildError>(build)
            })
            .await?;
        }
        Ok(Filled {
            build,
            catalog,
            sequences,
            rows,
        })
    }
}

/// The objects of the index, and where its AUTOINCREMENT columns are.
async fn definitions(
    remote: &Remote,
    epoch: u64,
    limit: Duration,
) -> Result<(Catalog, Vec<(String, i64)>), RestoreError> {
    let steps = vec![
        step(lease::select()),
        step(ask(OBJECTS, vec![])),
        // There is no such table before the first AUTOINCREMENT: an error of this step means that.
        step(ask("SELECT name, seq FROM sqlite_sequence", vec![])),
    ];
    let mut answer = remote.batch(steps, limit).await?;
    if let Some(error) = answer.error(0).or(answer.error(1)) {
        return Err(remote.failed(error).into());
    }
    match Lease::read(remote, &mut answer, 0)? {
        Some(lease) if lease.epoch == epoch => {}
        other => {
            let holder = super::fence::holder(other.as_ref());
            return Err(RestoreError::Lost { holder });
        }
    }
    let rows = answer.rows(2);
    let sequences = rows.iter().filter_map(|row| match row.values.as_slice() {
        [name, seq] => Some((text_of(name)?.to_owned(), integer(seq)?)),
        _ => None,
    });
    let sequences = sequences.collect();
    let catalog = objects(&mut answer, 1)
        .map(Catalog::of)
        .ok_or_else(|| RestoreError::Unusable("its list of tables is not readable".into()))?;
    Ok((catalog, sequences))
}

/// The rows of `OBJECTS`.
pub(super) fn objects(answer: &mut Answer, at: usize) -> Option<Vec<Object>> {
    let rows = answer.rows(at);
    let objects = rows.iter().map(|row| match row.values.as_slice() {
        [kind, name, table, sql] => Some(Object {
            kind: text_of(kind)?.to_owned(),
            name: text_of(name)?.to_owned(),
            table: text_of(table)?.to_owned(),
            sql: text_of(sql)?.to_owned(),
        }),
        _ => None,
    });
    objects.collect()
}

/// Reads tables page by page, several in one request.
pub(super) struct Pager {
    left: VecDeque<(Table, i64)>,
    /// Rows to ask for in one request.
    budget: i64,
}

impl Pager {
    pub(super) fn new(tables: Vec<Table>) -> Pager {
        Pager {
            left: tables.into_iter().map(|table| (table, START)).collect(),
            budget: 400,
        }
    }

    /// The next rows, in the order of each table; `None` when there are no more.
    async fn fetch(
        &mut self,
        remote: &Remote,
        limit: Duration,
    ) -> Result<Option<Vec<(Table, Vec<Row>)>>, RestoreError> {
        loop {
            let tables = self
                .budget
                .min(MOST_TABLES)
                .min(i64::try_from(self.left.len()).unwrap_or(MOST_TABLES));
            if tables == 0 {
                return Ok(None);
            }
            let rows = (self.budget / tables).max(1);
            let asked: Vec<(Table, i64)> = self.left.drain(..usize::try_from(tables).unwrap_or(1)).collect();
            let pages = asked
                .iter()
                .map(|(table, start)| step(ask(table.page(), vec![int(*start), int(rows)])));
            let mut answer = match remote.call(pages.collect(), limit).await? {
                Ok(answer) => answer,
                Err(error) => {
                    self.smaller(asked, remote, &error)?;
                    continue;
                }
            };
            if let Some((_, error)) = answer.first_error() {
                let error = error.clone();
                self.smaller(asked, remote, &error)?;
                continue;
            }
            let mut pages = Vec::with_capacity(asked.len());
            for (at, (table, start)) in asked.into_iter().enumerate() {
                let page = answer.rows(at);
                if i64::try_from(page.len()).is_ok_and(|got| got >= rows) {
                    let last = page.last().and_then(|row| integer(row.values.first()?));
                    match table.next(start, page.len(), last) {
                        Some(next) if next > start => self.left.push_front((table.clone(), next)),
                        Some(_) => return Err(RestoreError::Unusable(format!("rows of {} do not end", table.name))),
                        None => {}
                    }
                }
                pages.push((table, page));
            }
            self.adapt(&pages);
            return Ok(Some(pages));
        }
    }

    /// The answer would have been too large: asks for less.
    fn smaller(
        &mut self,
        asked: Vec<(Table, i64)>,
        remote: &Remote,
        error: &libsql_hrana::proto::Error,
    ) -> Result<(), RestoreError> {
        let too_large = error.code.contains("TOO_LARGE") || error.message.contains("too large");
        if too_large && self.budget > 1 {
            self.budget = (self.budget / 4).max(1);
            for (table, start) in asked.into_iter().rev() {
                self.left.push_front((table, start));
            }
            return Ok(());
        }
        if error::is_outage(error) {
            return Err(remote.failed(error).into());
        }
        Err(RestoreError::Unusable(format!(
            "it cannot be read: {}",
            remote.words(error)
        )))
    }

    fn adapt(&mut self, pages: &[(Table, Vec<Row>)]) {
        let values = pages.iter().flat_map(|(_, rows)| rows).flat_map(|row| &row.values);
        let bytes: usize = values.map(size).sum();
        let rows: usize = pages.iter().map(|(_, rows)| rows.len()).sum();
        if let Some(each) = bytes.checked_div(rows) {
            self.budget = i64::try_from(ANSWER / each.max(1))
                .unwrap_or(MOST_ROWS)
                .clamp(1, MOST_ROWS);
        }
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::Text { value } => 24 + value.len(),
        Value::Blob { value } => 24 + value.len() / 3 * 4,
        Value::None | Value::Null | Value::Integer { .. } | Value::Float { .. } => 24,
    }
}
