//! The local file: opening it safely, its two tables, whether it can be used.
//!
//! Its folder belongs to the app's user and we may be root, so nothing in it is trusted: symbolic links are refused by
//! SQLite itself (all its files), the schema may call no function or virtual table that could reach outside
//! (`trusted_schema`), and shadow tables cannot be written (`DEFENSIVE`).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};

use super::lease::FORMAT;

/// How long we wait for SQLite's lock: the app wants it, too, and what we write can wait.
const BUSY: Duration = Duration::from_millis(250);

/// Larger files are not read through at the start: SQLite does not damage files, disks do, and those of machines that
/// are thrown away are young.
const LARGEST_CHECKED: u64 = 256 << 20;

const TABLES: &str = "
CREATE TABLE _tenant_init_index(
  id      INTEGER PRIMARY KEY CHECK (id = 1),
  format  INTEGER NOT NULL,
  lineage TEXT    NOT NULL,
  base    INTEGER NOT NULL
);
CREATE TABLE _tenant_init_outbox(
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  starts       INTEGER NOT NULL,
  foreign_keys INTEGER NOT NULL,
  made_ms      INTEGER NOT NULL,
  changes      INTEGER,
  sql          TEXT NOT NULL,
  rows         TEXT NOT NULL
);";

/// What is at the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Local {
    /// Nothing.
    Missing,
    /// A file that cannot be used, with the reason.
    Unusable(String),
    /// A file of ours.
    Good(Good),
}

/// A usable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Good {
    pub(super) lineage: String,
    /// The outbox is whole after this position.
    pub(super) pruned: u64,
    /// The last id that the outbox gave out.
    pub(super) last: u64,
}

/// `folder/name` with the folder's links resolved, for SQLite refuses every link in a path.
fn resolved(path: &Path) -> Result<PathBuf, String> {
    let name = path
        .file_name()
        .ok_or_else(|| format!("{}: not a file name", path.display()))?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let folder = fs::canonicalize(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder.join(name))
}

/// Opens a file that exists.
pub(super) fn connect(path: &Path) -> Result<Connection, String> {
    let says = |error: rusqlite::Error| format!("cannot open {}: {error}", path.display());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(resolved(path)?, flags).map_err(says)?;
    (|| {
        connection.busy_timeout(BUSY)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, false)?;
        connection.execute_batch("PRAGMA synchronous = NORMAL")
    })()
    .map_err(says)?;
    Ok(connection)
}

/// The file's identity, to notice that another one has its name.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    let found = fs::symlink_metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

/// Makes our two tables in a file that has none; the outbox goes on after `base`.
pub(super) fn make_tables(connection: &Connection, lineage: &str, base: u64) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    let base = i64::try_from(base).unwrap_or(i64::MAX);
    connection.execute(
        "INSERT INTO _tenant_init_index VALUES (1, ?1, ?2, ?3)",
        (FORMAT, lineage, base),
    )?;
    connection.execute(
        "INSERT INTO sqlite_sequence(name, seq) VALUES ('_tenant_init_outbox', ?1)",
        (base,),
    )?;
    Ok(())
}

/// The lineage of an open file; `None` when it has not our tables, or not in our format.
pub(super) fn lineage(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('_tenant_init_index', '_tenant_init_outbox')",
        (),
        |row| row.get(0),
    )?;
    if tables != 2 {
        return Ok(None);
    }
    let sql = "SELECT lineage FROM _tenant_init_index WHERE id = 1 AND format = ?1";
    connection.query_row(sql, (FORMAT,), |row| row.get(0)).optional()
}

/// The last id that the outbox gave out.
pub(super) fn last_id(connection: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT max((SELECT base FROM _tenant_init_index), \
               coalesce((SELECT max(seq) FROM sqlite_sequence WHERE name = '_tenant_init_outbox'), 0))";
    let last: i64 = connection.query_row(sql, (), |row| row.get(0))?;
    Ok(last.try_into().unwrap_or(0))
}

/// Looks at the file.
///
/// # Errors
/// In words: what is there must not be touched, or the disk fails.
pub(super) fn inspect(path: &Path) -> Result<Local, String> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Local::Missing),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    if !found.is_file() || found.nlink() != 1 {
        let what = if found.is_symlink() {
            "a symbolic link"
        } else {
            "not a file of its own"
        };
        return Err(format!(
            "{} is {what}: remove it, the index is restored",
            path.display()
        ));
    }
    let connection = match connect(path) {
        Ok(connection) => connection,
        Err(error) => return Ok(Local::Unusable(error)),
    };
    match examine(&connection, found.len()) {
        Ok(local) => Ok(local),
        Err(error) if is_of_machine(&error) => Err(format!("cannot read {}: {error}", path.display())),
        Err(error) => Ok(Local::Unusable(error.to_string())),
    }
}

fn examine(connection: &Connection, size: u64) -> rusqlite::Result<Local> {
    if size <= LARGEST_CHECKED {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
        if verdict != "ok" {
            return Ok(Local::Unusable(format!("it is damaged: {verdict}")));
        }
    }
    let Some(lineage) = lineage(connection)? else {
        return Ok(Local::Unusable("it was not made by this tenant-init".into()));
    };
    let last = last_id(connection)?;
    let first: Option<i64> = connection.query_row("SELECT min(id) FROM _tenant_init_outbox", (), |row| row.get(0))?;
    let first = first.and_then(|first| u64::try_from(first).ok());
    Ok(Local::Good(Good {
        lineage,
        pruned: first.map_or(last, |first| first.saturating_sub(1)),
        last,
    }))
}

/// The machine is to blame, not what is in the file.
pub(super) fn is_of_machine(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::PermissionDenied
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
        )
    )
}

/// Runs `work` where blocking is allowed. A panic in it is a bug and goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is being shut down cancels; nobody waits for this any more.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("memory.db")
    }

    fn made(path: &Path, base: u64) {
        drop(fs::File::create_new(path).unwrap());
        make_tables(&connect(path).unwrap(), "L", base).unwrap();
    }

    #[test]
    fn a_new_file_goes_on_after_its_base() {
        let dir = tempfile::tempdir().unwrap();
        made(&file(&dir), 41);
        let good = |pruned, last| {
            Ok(Local::Good(Good {
                lineage: "L".into(),
                pruned,
                last,
            }))
        };
        assert_eq!(inspect(&file(&dir)), good(41, 41));
        let connection = connect(&file(&dir)).unwrap();
        let sql =
            "INSERT INTO _tenant_init_outbox(starts, foreign_keys, made_ms, sql, rows) VALUES (1, 1, 0, 's', '[]')";
        connection.execute(sql, ()).unwrap();
        connection.execute(sql, ()).unwrap();
        assert_eq!(inspect(&file(&dir)), good(41, 43));
        connection.execute("DELETE FROM _tenant_init_outbox", ()).unwrap();
        assert_eq!(inspect(&file(&dir)), good(43, 43));
    }

    #[test]
    fn what_is_no_file_of_ours_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(inspect(&file(&dir)), Ok(Local::Missing));
        fs::write(
            file(&dir),
            "no database, but long enough to be looked at as if it were one: ".repeat(99),
        )
        .unwrap();
        assert!(matches!(inspect(&file(&dir)), Ok(Local::Unusable(_))));
        fs::write(file(&dir), "").unwrap();
        assert!(
            matches!(inspect(&file(&dir)), Ok(Local::Unusable(_))),
            "an empty file is an empty database"
        );
    }

    #[test]
    fn links_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target.db");
        made(&target, 0);
        std::os::unix::fs::symlink(&target, file(&dir)).unwrap();
        assert!(inspect(&file(&dir)).unwrap_err().contains("symbolic link"));
        assert!(connect(&file(&dir)).is_err());
        fs::remove_file(file(&dir)).unwrap();
        fs::hard_link(&target, file(&dir)).unwrap();
        assert!(inspect(&file(&dir)).is_err());
    }

    #[test]
    fn fts5_is_in_this_build() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE VIRTUAL TABLE t USING fts5(x)")
            .unwrap();
    }
}
