//! Makes a local file aside and puts it in its place in one step.
//!
//! The file is built as `NAME.restoring`, checked, brought to the disk and renamed. A write-ahead log that belongs to the
//! old file must not meet the new one, so it is removed before the rename: a crash between the two leaves an old file
//! that lost transactions, which is not used, because what it was replaced for still holds at the next start.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use libsql_hrana::proto::Row;
use rusqlite::{Connection, params_from_iter};

use super::local;
use super::schema::{self, Catalog, Object, Table};
use super::value;

/// Why there is no new file.
#[derive(Debug)]
pub(super) enum BuildError {
    /// The machine: disk full, no permission.
    Machine(String),
    /// What it was to be made from.
    Content(String),
}

/// A file that is being built.
#[derive(Debug)]
pub(super) struct Build {
    connection: Connection,
    aside: PathBuf,
    path: PathBuf,
}

impl Build {
    /// An empty file of `owner` aside of `path`.
    pub(super) fn begin(path: &Path, owner: (u32, u32)) -> Result<Build, BuildError> {
        let aside = with_suffix(path, ".restoring");
        let fails = |error: std::io::Error| BuildError::Machine(format!("cannot make {}: {error}", aside.display()));
        for stale in ["", "-wal", "-shm", "-journal"] {
            remove(&with_suffix(&aside, stale)).map_err(fails)?;
        }
        // Never opens what somebody put there meanwhile, be it a link.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .map_err(fails)?;
        fchown(&file, Some(owner.0), Some(owner.1)).map_err(fails)?;
        let connection = local::connect(&aside).map_err(BuildError::Machine)?;
        let build = Build {
            connection,
            aside,
            path: path.to_owned(),
        };
        // Nothing is to be undone in a file that is thrown away when something fails.
        build
            .connection
            .execute_batch("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF; BEGIN")
            .map_err(|error| build.failed("making the file", &error))?;
        Ok(build)
    }

    /// Makes `object`, whose SQL is from the database: nothing but the one `CREATE` that it claims to be.
    pub(super) fn create(&self, object: &Object) -> Result<(), BuildError> {
        let mut words = object.sql.split_whitespace().map(str::to_lowercase);
        let mut word = || words.next().unwrap_or_default();
        let kind = match (word().as_str(), word().as_str()) {
            ("create", "virtual" | "unique") => word(),
            ("create", kind) => kind.to_owned(),
            _ => String::new(),
        };
        if kind != object.kind {
            return Err(BuildError::Content(format!(
                "{} has a definition that is none",
                object.name
            )));
        }
        let made = self
            .connection
            .prepare(&object.sql)
            .and_then(|mut create| create.execute(()));
        made.map_err(|error| self.failed(&object.name, &error))?;
        Ok(())
    }

    /// The shape of a table that was made.
    pub(super) fn table(&self, name: &str) -> Result<Table, BuildError> {
        Table::of(&self.connection, name).map_err(|error| self.failed(name, &error))
    }

    /// Inserts rows as `table.page()` gives them.
    pub(super) fn insert(&self, table: &Table, rows: &[Row]) -> Result<(), BuildError> {
        let insert = table.insert(&vec!["?"; table.width()]);
        let fails = |error| self.failed(&table.name, &error);
        let mut statement = self.connection.prepare(&insert).map_err(fails)?;
        for row in rows {
            if row.values.len() != table.width() {
                return Err(BuildError::Content(format!(
                    "{} has rows of different widths",
                    table.name
                )));
            }
            let values = row.values.iter().map(value::local);
            statement.execute(params_from_iter(values)).map_err(fails)?;
        }
        Ok(())
    }

    /// Everything that comes after the rows, our own tables if the file is to be `recorded` (its lineage and base), a check;
    /// then the file is in its place.
    pub(super) fn finish(
        self,
        catalog: &Catalog,
        sequences: &[(String, i64)],
        recorded: Option<(&str, u64)>,
    ) -> Result<(), BuildError> {
        for name in &catalog.rebuilt {
            let rebuilt = self.connection.execute(&schema::rebuild(name), ());
            rebuilt.map_err(|error| self.failed(name, &error))?;
        }
        for (name, seq) in sequences {
            if catalog.tables.iter().any(|table| table.name == *name) {
                self.sequence(name, *seq).map_err(|error| self.failed(name, &error))?;
            }
        }
        for object in &catalog.later {
            self.create(object)?;
        }
        recorded
            .map_or(Ok(()), |(lineage, base)| {
                local::make_tables(&self.connection, lineage, base)
            })
            .and_then(|()| self.connection.execute_batch("COMMIT; PRAGMA journal_mode = WAL"))
            .map_err(|error| self.failed("our tables", &error))?;
        let verdict = self
            .connection
            .query_row("PRAGMA integrity_check(1)", (), |row| row.get::<_, String>(0));
        match verdict.map_err(|error| self.failed("the check", &error))? {
            ok if ok == "ok" => self.place(),
            bad => Err(BuildError::Content(format!("it does not hold together: {bad}"))),
        }
    }

    fn sequence(&self, name: &str, seq: i64) -> rusqlite::Result<()> {
        let connection = &self.connection;
        if connection.execute("UPDATE sqlite_sequence SET seq = ?2 WHERE name = ?1", (name, seq))? == 0 {
            connection.execute("INSERT INTO sqlite_sequence(name, seq) VALUES (?1, ?2)", (name, seq))?;
        }
        Ok(())
    }

    fn place(self) -> Result<(), BuildError> {
        let Build {
            connection,
            aside,
            path,
        } = self;
        let fails = |error: std::io::Error| BuildError::Machine(format!("cannot replace {}: {error}", path.display()));
        // The last connection takes the log into the file and removes it.
        connection
            .close()
            .map_err(|(_, error)| BuildError::Machine(format!("cannot close {}: {error}", aside.display())))?;
        File::open(&aside).and_then(|file| file.sync_all()).map_err(fails)?;
        for stale in ["-wal", "-shm", "-journal"] {
            remove(&with_suffix(&path, stale)).map_err(fails)?;
        }
        fs::rename(&aside, &path).map_err(fails)?;
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fails)
    }

    fn failed(&self, what: &str, error: &rusqlite::Error) -> BuildError {
        let words = crate::storage::network::shorten(&format!("{what}: {error}"));
        if local::is_of_machine(error) {
            BuildError::Machine(format!("cannot write {}: {words}", self.aside.display()))
        } else {
            BuildError::Content(words)
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(kind: &str, sql: &str) -> Object {
        Object {
            kind: kind.into(),
            name: "x".into(),
            table: "x".into(),
            sql: sql.into(),
        }
    }

    #[test]
    fn only_definitions_are_run() {
        let dir = tempfile::tempdir().unwrap();
        let owner = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let build = Build::begin(&dir.path().join("memory.db"), owner).unwrap();
        let other = dir.path().join("other");
        for sql in [
            format!("ATTACH '{}' AS o", other.display()),
            format!("CREATE TABLE y(a); ATTACH '{}' AS o", other.display()),
            format!("VACUUM INTO '{}'", other.display()),
            "CREATE INDEX i ON y(a)".to_owned(),
            String::new(),
        ] {
            assert!(build.create(&object("table", &sql)).is_err(), "{sql}");
        }
        assert!(!other.exists());
        build.create(&object("table", "CREATE TABLE x(a)")).unwrap();
        build.create(&object("index", "CREATE UNIQUE INDEX i ON x(a)")).unwrap();
        build
            .create(&object("table", "CREATE VIRTUAL TABLE f USING fts5(a)"))
            .unwrap();
    }
}
