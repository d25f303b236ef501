//! Embeddings are of this disk only: the extension that keeps them does not exist in libSQL, and they can be computed again.
//!
//! basic-memory computes them when a note changes, and after its start for every note that it has marked as unfinished
//! (`entity.vector_sync_deferred_at`). So in a file that holds none at all, be it restored or from an image without semantic
//! search, every note is marked. The statement is recorded like the app's own: file and database stay the same.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use super::local::{self, blocking};

/// Older than every pass over the notes, so that the first one that finishes a note takes its mark away.
const MARK: &str = "UPDATE entity SET vector_sync_deferred_at = '1970-01-01 00:00:00.000000' \
    WHERE content_type = 'text/markdown' AND vector_sync_deferred_at IS NULL";

/// Marks all notes of the file at `path` as without embeddings if it holds none. The app must not be running. Returns how
/// many notes were marked.
///
/// # Errors
/// In words: the file cannot be used.
pub async fn mark_missing(path: &Path) -> Result<u64, String> {
    let path = path.to_owned();
    blocking(move || {
        let mut connection = local::connect(&path)?;
        mark(&mut connection).map_err(|error| format!("cannot use {}: {error}", path.display()))
    })
    .await
}

fn mark(connection: &mut Connection) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let count = |sql: &str| transaction.query_row(sql, (), |row| row.get::<_, i64>(0));
    let has_any = count("SELECT count(*) FROM sqlite_master WHERE name = 'search_vector_chunks'")? > 0;
    let wanted =
        "SELECT count(*) FROM pragma_table_xinfo('entity') WHERE name IN ('content_type', 'vector_sync_deferred_at')";
    // Without these columns it is another basic-memory, which has other means.
    if has_any || count(wanted)? < 2 {
        return Ok(0);
    }
    let marked = transaction.execute(MARK, ())?;
    if marked > 0 {
        transaction.execute(
            "INSERT INTO _tenant_init_outbox(starts, foreign_keys, made_ms, changes, sql, rows) VALUES (1, 0, ?1, ?2, ?3, '[[]]')",
            (jiff::Timestamp::now().as_millisecond(), i64::try_from(marked).unwrap_or(i64::MAX), MARK),
        )?;
    }
    transaction.commit()?;
    Ok(marked as u64)
}
