//! Embeddings stay on one disk; what follows for the other side and for the next disk.

use serde_json::json;
use tenant_init::index::{How, mark_missing_embeddings};

use crate::fixture::{App, Machine, ship, tenant, there};

const MARKED: &str = "SELECT count(*) FROM entity WHERE vector_sync_deferred_at < '2020-01-01'";

/// What basic-memory's migrations make, and a note that is no Markdown.
fn notes(app: &App) {
    app.write(&[
        ("ALTER TABLE entity ADD COLUMN content_type TEXT", json!([[]])),
        (
            "ALTER TABLE entity ADD COLUMN vector_sync_deferred_at TIMESTAMP",
            json!([[]]),
        ),
    ]);
    app.notes(1..6);
    app.write(&[
        ("UPDATE entity SET content_type = 'text/markdown'", json!([[]])),
        (
            "UPDATE entity SET content_type = 'image/png' WHERE id = ?",
            json!([[3]]),
        ),
    ]);
}

/// What basic-memory makes with its first embedding. The adapter does not record it.
fn embed(app: &App) {
    let sql =
        "CREATE TABLE search_vector_chunks(id INTEGER PRIMARY KEY AUTOINCREMENT, entity_id INTEGER, chunk_key TEXT);
        CREATE UNIQUE INDEX chunk_keys ON search_vector_chunks(entity_id, chunk_key);
        INSERT INTO search_vector_chunks(entity_id, chunk_key) VALUES (1, 'a'), (2, 'b')";
    app.connection.execute_batch(sql).unwrap();
}

#[tokio::test]
async fn they_are_no_difference_and_are_not_seeded() {
    let (_server, machine, opened, app) = tenant().await;
    notes(&app);
    embed(&app);
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    machine.same(16).await;
    shipper.reseed(|_| {}).await.unwrap();
    machine.same(16).await;
    let tables = "SELECT count(*) FROM sqlite_master WHERE tbl_name LIKE 'search_vector_%'";
    assert_eq!(there(&machine, tables).await, "0");
}

#[tokio::test]
async fn a_file_without_any_has_every_note_marked_on_both_sides() {
    let (server, machine, opened, app) = tenant().await;
    notes(&app);
    embed(&app);
    ship(&mut machine.shipper(&opened)).await.unwrap();
    assert_eq!(mark_missing_embeddings(&machine.path).await.unwrap(), 0, "it has some");
    machine.release().await;

    let next = Machine::new(&server.url(), "b").await;
    let opened = next.open().await;
    assert_eq!(opened.how, How::Restored { rows: 16 });
    assert_eq!(mark_missing_embeddings(&next.path).await.unwrap(), 4, "Markdown only");
    assert_eq!(mark_missing_embeddings(&next.path).await.unwrap(), 0, "marked already");
    let app = next.app();
    assert_eq!(app.count(MARKED), 4);
    // basic-memory embeds one of them.
    app.write(&[(
        "UPDATE entity SET vector_sync_deferred_at = NULL WHERE id = ?",
        json!([[1]]),
    )]);
    ship(&mut next.shipper(&opened)).await.unwrap();
    assert_eq!(there(&next, MARKED).await, "3");
    next.same(16).await;
}

#[tokio::test]
async fn a_file_of_another_kind_is_left_as_it_is() {
    let (_server, machine, _opened, app) = tenant().await;
    assert_eq!(mark_missing_embeddings(&machine.path).await.unwrap(), 0);
    assert_eq!(app.count("SELECT count(*) FROM entity"), 0);
}
