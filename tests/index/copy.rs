//! Copies for readers elsewhere.

use rusqlite::Connection;
use tenant_init::index::Remote;
use tenant_init::index::copy::{CopyError, copy};

use crate::fixture::{LIMIT, Machine, remote, ship, tenant, there};
use crate::support::{self, Issuer};

const ROW: &str = "SELECT epoch || ' ' || position || ' ' || holder || ' ' || expires_ms FROM _tenant_init_lease";

fn count(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, (), |row| row.get(0)).unwrap()
}

#[tokio::test]
async fn a_read_only_token_is_enough_and_nothing_is_changed() {
    let issuer = Issuer::new();
    let server = support::sqld(Some(&issuer.public()));
    let machine = Machine::with_token(&server.url(), "a", Some(&issuer.token(3600))).await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    app.notes(1..301);
    let shipped = ship(&mut machine.shipper(&opened)).await.unwrap();
    let reader: Remote = remote(&server.url(), Some(&issuer.token_for("ro", 3600)));

    let path = machine.dir.path().join("elsewhere.db");
    let copied = copy(&reader, &path, LIMIT).await.unwrap();

    assert_eq!((copied.position, copied.rows), (shipped.position, 901));
    let copy = Connection::open(&path).unwrap();
    assert_eq!(
        count(
            &copy,
            "SELECT count(*) FROM sqlite_schema WHERE name LIKE '\\_tenant%' ESCAPE '\\'"
        ),
        0
    );
    assert_eq!(
        count(&copy, "SELECT count(*) FROM entity"),
        app.count("SELECT count(*) FROM entity")
    );
    let found = "SELECT count(*) FROM search WHERE search MATCH 'common'";
    assert_eq!(count(&copy, found), app.count(found));
    // The tenant did not notice: its next batch is let through.
    app.notes(301..303);
    ship(&mut machine.shipper(&opened)).await.unwrap();
    machine.same(907).await;
}

#[tokio::test]
async fn the_row_of_the_lease_stays_as_it_is() {
    let (_server, machine, opened, _app) = tenant().await;
    ship(&mut machine.shipper(&opened)).await.unwrap();
    let before = there(&machine, ROW).await;
    copy(&machine.remote, &machine.dir.path().join("copy.db"), LIMIT)
        .await
        .unwrap();
    assert_eq!(there(&machine, ROW).await, before);
}

#[tokio::test]
async fn without_a_whole_index_the_file_that_is_there_stays() {
    let (_server, machine, _opened, _app) = tenant().await;
    let path = machine.dir.path().join("copy.db");
    std::fs::write(&path, "precious").unwrap();
    for (sql, words) in [
        (
            "UPDATE _tenant_init_lease SET state = 'empty'",
            "has not written anything yet",
        ),
        ("UPDATE _tenant_init_lease SET state = 'partial'", "just being filled"),
        ("DELETE FROM _tenant_init_lease", "no tenant has used it"),
    ] {
        there(&machine, sql).await;
        let error = copy(&machine.remote, &path, LIMIT).await.unwrap_err();
        assert!(matches!(error, CopyError::NoIndex { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
