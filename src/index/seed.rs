//! Makes the database a copy of the local file: the way out of everything that cannot be shipped.
//!
//! The first request marks the row (`partial`, under a lineage that no file has) and drops what is there; the others
//! bring tables, rows, and at last indexes, triggers and views; the last one names the file's lineage and position. The
//! row's position counts the requests meanwhile, so that a late one of an earlier attempt cannot slip in between.
//!
//! The file is read in one read transaction while the app goes on writing: the copy is the state at its beginning, and
//! what was recorded after that is shipped as usual.
//!
//! A value over the server's own limit (sqld: 5 MB) cannot be in the database at all: seeding ends with `Replay` each
//! time, the app works on, and the index is rebuilt from the notes when the disk is lost.

use libsql_hrana::proto::Stmt;
use rusqlite::Connection;
use rusqlite::types::ValueRef;
use tokio::sync::mpsc;

use super::fence::{self, Next, Outcome, Place};
use super::lease::{self, LeaseError};
use super::local;
use super::outbox;
use super::remote::{Remote, ask, run, step};
use super::restore;
use super::schema::{self, Catalog, OBJECTS, START, Table};
use super::ship::{self, ShipError, ShipLimits, Shipper};
use super::value::{self, int, number, text};

/// Rows that are read at once.
const PAGE: i64 = 500;

/// What the reader sends.
enum Part {
    /// Statements for one request, and the rows in them.
    Statements(Vec<Stmt>, u64),
    /// That was all. The last outbox id that is in it.
    End { position: u64, empty: bool },
}

impl Shipper {
    /// Makes the database a copy of the local file as it is now; the app may go on writing. `progress` hears of the rows
    /// so far after each request. Returns the rows.
    ///
    /// # Errors
    /// [`ShipError`]; after one it has to be run again, from its beginning.
    pub async fn reseed(&mut self, mut progress: impl FnMut(u64)) -> Result<u64, ShipError> {
        let cleared = self.clear().await;
        if self.seed.is_none() && !matches!(cleared, Err(ShipError::Fenced { .. })) {
            // Whatever happens from here on, nothing can be shipped before this has been done.
            self.seed = Some(ShipError::Diverged("seeding it was interrupted".into()));
        }
        let mut place = cleared?;
        let (path, lineage) = self.path();
        let (sender, mut parts) = mpsc::channel(1);
        let limits = self.limits;
        // When this call is dropped, so is the receiver, and the reader stops with its next part.
        let reader = tokio::task::spawn_blocking(move || read(&ship::ours(&path, &lineage)?, &limits, &sender));
        let mut rows = 0;
        let mut end = None;
        while let Some(part) = parts.recv().await {
            match part {
                Part::Statements(stmts, count) => {
                    let next = place.position + 1;
                    self.part(&mut place, stmts, next, "partial", None).await?;
                    rows += count;
                    progress(rows);
                }
                Part::End { position, empty } => end = Some((position, if empty { "empty" } else { "complete" })),
            }
        }
        match (reader.await, end) {
            (Ok(Ok(())), Some((position, state))) => {
                let lineage = self.lineage.clone();
                self.part(&mut place, vec![], position, state, Some(&lineage)).await?;
                self.seeded(position);
                self.tidy(0).await;
                Ok(rows)
            }
            (Ok(Err(error)), _) => Err(error),
            (Ok(Ok(())), None) => Err(ShipError::Local("the local index was not read to its end".into())),
            (Err(ended), _) => Err(ShipError::Local(format!("reading the local index ended: {ended}"))),
        }
    }

    /// Marks the row and drops what is there. One request for the list, one for the rest.
    async fn clear(&mut self) -> Result<Place, ShipError> {
        let limit = self.limits.call_limit;
        let place = Place {
            epoch: self.place.epoch,
            lineage: format!("seeding-{}", lease::fresh_id()),
            position: 0,
        };
        let sql = "UPDATE _tenant_init_lease SET lineage = ?2, position = 0, state = 'partial' \
                   WHERE id = 1 AND epoch = ?1";
        let mark = run(sql, vec![number(place.epoch), text(&place.lineage)]);
        match lease::fenced(&self.remote, mark, limit).await {
            Ok(()) => {}
            Err(LeaseError::Index(error)) => return Err(error.into()),
            Err(LeaseError::Lost { holder } | LeaseError::Held { holder, .. }) => {
                return Err(ShipError::Fenced { holder });
            }
            Err(LeaseError::OtherTenant(words)) => return Err(ShipError::Fenced { holder: words }),
        }
        let catalog = self.catalog().await?;
        let mut place = place;
        let later = catalog.later.iter().filter(|object| object.kind != "index");
        let drops = later.rev().chain(catalog.tables.iter().rev()).map(|object| {
            let sql = format!("DROP {} IF EXISTS {}", object.kind, schema::quoted(&object.name));
            run(sql, vec![])
        });
        let drops = drops.collect();
        self.part(&mut place, drops, 1, "partial", None).await?;
        Ok(place)
    }

    async fn catalog(&self) -> Result<Catalog, ShipError> {
        let mut answer = self
            .remote
            .batch(vec![step(ask(OBJECTS, vec![]))], self.limits.call_limit)
            .await?;
        if let Some(error) = answer.error(0) {
            return Err(self.remote.failed(error).into());
        }
        let objects = restore::objects(&mut answer, 0);
        let unreadable = || self.remote.nonsense("its list of tables is not readable");
        Ok(Catalog::of(objects.ok_or_else(unreadable)?))
    }

    /// One request of the seeding.
    async fn part(
        &self,
        place: &mut Place,
        stmts: Vec<Stmt>,
        position: u64,
        state: &str,
        lineage: Option<&str>,
    ) -> Result<(), ShipError> {
        let next = Next {
            lineage: lineage.unwrap_or(&place.lineage),
            position,
            state,
        };
        let times = (self.ttl, self.limits.call_limit);
        match fence::write(&self.remote, place, &next, false, stmts, times).await? {
            Outcome::Done(_) => {
                place.position = position;
                Ok(())
            }
            Outcome::Elsewhere => Err(moved(&self.remote, place, &self.limits).await?),
            Outcome::Failed(_, error) => Err(ShipError::Replay(format!(
                "while it was seeded ({})",
                self.remote.words(&error)
            ))),
        }
    }
}

/// Why the fence did not let us through.
async fn moved(remote: &Remote, place: &Place, limits: &ShipLimits) -> Result<ShipError, ShipError> {
    let lease = fence::look(remote, limits.call_limit).await?;
    Ok(match lease {
        Some(lease) if lease.epoch == place.epoch => {
            ShipError::Diverged("somebody wrote to it while it was seeded".into())
        }
        other => ShipError::Fenced {
            holder: fence::holder(other.as_ref()),
        },
    })
}

/// Sends the whole file in parts that keep to `limits`. Ends early when nobody listens any more.
fn read(connection: &Connection, limits: &ShipLimits, parts: &mpsc::Sender<Part>) -> Result<(), ShipError> {
    // One snapshot, taken by the first query.
    let snapshot = connection.unchecked_transaction().map_err(outbox::unreadable)?;
    match Reader::new(&snapshot, limits, parts).run() {
        Ok(()) => Ok(()),
        Err(Stopped::Gone) => Err(ShipError::Local("seeding was given up".into())),
        Err(Stopped::Local(error)) => Err(outbox::unreadable(error)),
    }
}

enum Stopped {
    Gone,
    Local(rusqlite::Error),
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Stopped {
        Stopped::Local(error)
    }
}

struct Reader<'a> {
    connection: &'a Connection,
    limits: &'a ShipLimits,
    parts: &'a mpsc::Sender<Part>,
    stmts: Vec<Stmt>,
    bytes: usize,
    rows: u64,
}

impl<'a> Reader<'a> {
    fn new(connection: &'a Connection, limits: &'a ShipLimits, parts: &'a mpsc::Sender<Part>) -> Reader<'a> {
        Reader {
            connection,
            limits,
            parts,
            stmts: vec![],
            bytes: 0,
            rows: 0,
        }
    }

    fn run(mut self) -> Result<(), Stopped> {
        let position = local::last_id(self.connection)?;
        let catalog = Catalog::local(self.connection)?;
        for table in &catalog.tables {
            self.push(run(&*table.sql, vec![]), table.sql.len())?;
        }
        for object in catalog.copied() {
            let table = Table::of(self.connection, &object.name)?;
            self.table(&table)?;
        }
        for name in &catalog.rebuilt {
            self.push(run(schema::rebuild(name), vec![]), name.len())?;
        }
        self.sequences(&catalog)?;
        for object in &catalog.later {
            self.push(run(&*object.sql, vec![]), object.sql.len())?;
        }
        self.flush()?;
        let empty = catalog.tables.is_empty();
        self.send(Part::End { position, empty })
    }

    fn table(&mut self, table: &Table) -> Result<(), Stopped> {
        let mut page = self.connection.prepare(&table.page())?;
        let mut start = START;
        loop {
            let mut rows = page.query((start, PAGE))?;
            let (mut count, mut last) = (0, None);
            while let Some(row) = rows.next()? {
                count += 1;
                let values = (0..table.width())
                    .map(|at| row.get_ref(at))
                    .collect::<Result<Vec<_>, _>>()?;
                last = values.first().and_then(|value| match value {
                    ValueRef::Integer(value) => Some(*value),
                    _ => None,
                });
                let (expressions, bound): (Vec<_>, Vec<_>) = values.iter().copied().map(value::bound).unzip();
                let sql = table.insert(&expressions);
                let size = sql.len() + values.iter().copied().map(value::size).sum::<usize>();
                self.push(run(sql, bound.into_iter().flatten().collect()), size)?;
                self.rows += 1;
            }
            match table.next(start, count, last) {
                Some(next) if i64::try_from(count).is_ok_and(|count| count >= PAGE) => start = next,
                _ => return Ok(()),
            }
        }
    }

    fn sequences(&mut self, catalog: &Catalog) -> Result<(), Stopped> {
        let mut statement = self.connection.prepare("SELECT name, seq FROM sqlite_sequence")?;
        let rows = statement.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        for row in rows {
            let (name, seq) = row?;
            if catalog.tables.iter().any(|table| table.name == name) {
                let remove = "DELETE FROM sqlite_sequence WHERE name = ?1";
                self.push(run(remove, vec![text(&name)]), 64)?;
                let insert = "INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)";
                self.push(run(insert, vec![text(&name), int(seq)]), 64)?;
            }
        }
        Ok(())
    }

    fn push(&mut self, stmt: Stmt, bytes: usize) -> Result<(), Stopped> {
        let full = self.stmts.len() >= self.limits.statements || self.bytes + bytes > self.limits.bytes;
        if full && !self.stmts.is_empty() {
            self.flush()?;
        }
        self.stmts.push(stmt);
        self.bytes += bytes;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        self.bytes = 0;
        let (stmts, rows) = (std::mem::take(&mut self.stmts), std::mem::take(&mut self.rows));
        self.send(Part::Statements(stmts, rows))
    }

    fn send(&self, part: Part) -> Result<(), Stopped> {
        self.parts.blocking_send(part).map_err(|_| Stopped::Gone)
    }
}
