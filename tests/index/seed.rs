//! Seeding: the database becomes what the file is.

use tenant_init::index::{How, ShipError, ShipLimits, compare};

use crate::fixture::{LIMIT, Machine, ship, tenant, there};
use crate::proxy::Proxy;
use crate::support;

#[tokio::test]
async fn the_database_becomes_the_file_whatever_was_in_it() {
    let (_server, machine, opened, app) = tenant().await;
    let limits = ShipLimits {
        statements: 50,
        ..ShipLimits::default()
    };
    let mut shipper = machine.limited(&opened, limits);
    ship(&mut shipper).await.unwrap();
    there(&machine, "CREATE TABLE stray(x)").await;
    there(&machine, "CREATE VIRTUAL TABLE stray_fts USING fts5(x)").await;
    there(&machine, "CREATE VIEW stray_view AS SELECT 1").await;
    there(&machine, "INSERT INTO pairs VALUES ('stray', 1, 1)").await;
    app.notes(1..301);
    // What JSON cannot carry is not recorded here, but it is in the file.
    app.connection
        .execute_batch(
            "UPDATE pairs SET v = -9e999 WHERE b = 7; UPDATE pairs SET v = CAST(x'ff41' AS TEXT) WHERE b = 8",
        )
        .unwrap();
    let report = compare::compare(&machine.remote, &machine.path, LIMIT).await.unwrap();
    assert!(
        report.differences.iter().any(|words| words.contains("stray")),
        "{report:?}"
    );
    let mut heard = Vec::new();
    assert_eq!(shipper.reseed(|rows| heard.push(rows)).await.unwrap(), 901);
    assert!(
        heard.len() > 10 && heard.is_sorted() && heard.last() == Some(&901),
        "{heard:?}"
    );
    assert_eq!(there(&machine, "SELECT hex(v) FROM pairs WHERE b = 8").await, "FF41");
    assert_eq!(there(&machine, "SELECT v < -1e308 FROM pairs WHERE b = 7").await, "1");
    app.connection
        .execute_batch("UPDATE pairs SET v = 0 WHERE b IN (7, 8)")
        .unwrap();
    there(&machine, "UPDATE pairs SET v = 0 WHERE b IN (7, 8)").await;
    machine.same(901).await;
    assert_eq!(
        shipper.round().await.unwrap().left.rows,
        0,
        "what was queued is in the copy"
    );
}

#[tokio::test]
async fn what_is_written_meanwhile_is_shipped_after_it() {
    let (_server, machine, opened, app) = tenant().await;
    let mut shipper = machine.limited(
        &opened,
        ShipLimits {
            statements: 20,
            ..ShipLimits::default()
        },
    );
    app.notes(1..101);
    let mut next = 101;
    shipper
        .reseed(|_| {
            app.notes(next..next + 1);
            next += 1;
        })
        .await
        .unwrap();
    assert!(next > 110, "{next}");
    ship(&mut shipper).await.unwrap();
    machine.same((next - 1) * 3 + 1).await;
}

#[tokio::test]
async fn an_interrupted_seeding_is_begun_again_at_the_next_start() {
    let server = support::sqld(None);
    let proxy = Proxy::to(server.address);
    let mut machine = Machine::new(&proxy.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    app.notes(1..101);
    let limits = ShipLimits {
        statements: 50,
        ..ShipLimits::default()
    };
    // Cut after each request in turn, until one attempt gets through.
    for answers in 0.. {
        proxy.let_pass(answers);
        let mut shipper = machine.limited(&opened, limits);
        let result = shipper.reseed(|_| ()).await;
        proxy.let_all_pass();
        if result.is_ok() {
            assert!(answers > 8, "{answers} answers were enough");
            break;
        }
        assert!(matches!(result, Err(ShipError::Index(_))), "{result:?}");
        assert!(
            matches!(shipper.round().await, Err(ShipError::Diverged(_))),
            "not before it is seeded"
        );
        machine.again("a").await;
        let opened = machine.open().await;
        match &opened.how {
            How::Reseed(_) => {}
            // The last answer got lost: it was done.
            How::Continued { queued: 0 } => assert_eq!(
                there(&machine, "SELECT state FROM _tenant_init_lease").await,
                "complete"
            ),
            other => panic!("{answers}: {other:?}"),
        }
    }
    machine.same(301).await;
}

#[tokio::test]
async fn without_tables_the_database_is_empty_again() {
    let server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    let opened = machine.open().await;
    let mut shipper = machine.shipper(&opened);
    assert_eq!(shipper.reseed(|_| ()).await.unwrap(), 0);
    assert_eq!(there(&machine, "SELECT state FROM _tenant_init_lease").await, "empty");
    machine.app().schema();
    ship(&mut shipper).await.unwrap();
    machine.same(0).await;
}
