//! What the app writes gets into the database, once.

use std::time::Duration;

use serde_json::json;
use tenant_init::exit::Exit;
use tenant_init::index::{How, IndexError, ShipError, ShipLimits, Shipper, lease, pending};

use crate::fixture::{App, LIMIT, Machine, TTL, claimant, remote, ship, tenant, there};
use crate::proxy::Proxy;
use crate::support::{self, Issuer};

const ROWS_OF_NOTES: u64 = 3;

#[tokio::test]
async fn everything_the_app_writes_arrives() {
    let (_server, machine, opened, app) = tenant().await;
    assert_eq!(opened.how, How::Fresh);
    let mut shipper = machine.shipper(&opened);
    app.notes(1..21);
    let waiting = shipper.pending().unwrap();
    assert_eq!((waiting.transactions, waiting.rows), (2, 12));
    assert!(waiting.bytes > 1000 && waiting.oldest.is_some(), "{waiting:?}");
    let round = shipper.round().await.unwrap();
    assert_eq!((round.shipped, round.position, round.left.rows), (12, 12, 0));
    machine.same(20 * ROWS_OF_NOTES + 1).await;

    // Updates and deletes by key, by full text, by cascade, by trigger; a count per executemany.
    app.write(&[
        (
            "UPDATE entity SET title = ? WHERE id = ?",
            json!([["new", 3], ["newer", 4], ["nobody's", 999]]),
        ),
        ("DELETE FROM search WHERE rowid = :id", json!([{"id": 5}])),
        (
            "UPDATE search SET body = 'changed' WHERE search MATCH ?",
            json!([["word6"]]),
        ),
        ("REPLACE INTO pairs VALUES (?, ?, ?)", json!([["k1", 1, {"b": "AP8="}]])),
        ("INSERT INTO project(name) VALUES (?)", json!([["second"]])),
    ]);
    app.write(&[("DELETE FROM project WHERE id = ?", json!([[1]]))]);
    assert_eq!(app.count("SELECT count(*) FROM entity"), 0, "the cascade");
    ship(&mut shipper).await.unwrap();
    machine.same(40).await;
    assert_eq!(
        there(&machine, "SELECT rowid FROM search WHERE search MATCH 'changed'").await,
        "6"
    );
    assert_eq!(
        there(&machine, "SELECT state FROM _tenant_init_lease").await,
        "complete"
    );
    assert_eq!(
        there(&machine, "SELECT seq FROM sqlite_sequence WHERE name = 'project'").await,
        "2"
    );
}

#[tokio::test]
async fn without_foreign_keys_nothing_cascades_there_either() {
    let (_server, machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    app.notes(1..3);
    app.connection.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    app.write(&[("DELETE FROM project WHERE id = ?", json!([[1]]))]);
    let round = shipper.round().await.unwrap();
    assert_eq!(round.left.rows, 1, "another value of the pragma is another request");
    ship(&mut shipper).await.unwrap();
    assert_eq!(there(&machine, "SELECT count(*) FROM entity").await, "2");
    machine.same(6).await;
}

#[tokio::test]
async fn a_transaction_that_is_too_large_is_split_and_marked_meanwhile() {
    let (_server, machine, opened, app) = tenant().await;
    let limits = ShipLimits {
        statements: 10,
        ..ShipLimits::default()
    };
    let mut shipper = machine.limited(&opened, limits);
    ship(&mut shipper).await.unwrap();
    let inserts: Vec<_> = (0..35)
        .map(|id| ("INSERT INTO pairs VALUES ('k', ?, 1)", json!([[id]])))
        .collect();
    app.write(&[("INSERT INTO project(name) VALUES ('small')", json!([[]]))]);
    app.write(&inserts);
    app.write(&[("INSERT INTO project(name) VALUES ('last')", json!([[]]))]);
    let state = "SELECT state || ' ' || (SELECT count(*) FROM pairs) FROM _tenant_init_lease";
    let mut seen = Vec::new();
    loop {
        let round = shipper.round().await.unwrap();
        seen.push(there(&machine, state).await);
        if round.left.rows == 0 {
            break;
        }
    }
    assert_eq!(
        seen,
        ["complete 0", "partial 10", "partial 20", "partial 30", "complete 35"]
    );
    machine.same(37).await;
}

#[tokio::test]
async fn in_the_middle_of_a_split_transaction_the_next_start_goes_on() {
    let (_server, mut machine, opened, app) = tenant().await;
    let limits = ShipLimits {
        statements: 10,
        ..ShipLimits::default()
    };
    let mut shipper = machine.limited(&opened, limits);
    ship(&mut shipper).await.unwrap();
    let inserts: Vec<_> = (0..25)
        .map(|id| ("INSERT INTO pairs VALUES ('k', ?, 1)", json!([[id]])))
        .collect();
    app.write(&inserts);
    shipper.round().await.unwrap();
    drop(shipper);
    machine.again("a").await;
    let opened = machine.open().await;
    assert_eq!(opened.how, How::Continued { queued: 1 });
    let mut shipper = machine.limited(&opened, limits);
    ship(&mut shipper).await.unwrap();
    assert_eq!(
        there(&machine, "SELECT state FROM _tenant_init_lease").await,
        "complete"
    );
    machine.same(25).await;
}

#[tokio::test]
async fn a_lost_answer_is_neither_forgotten_nor_repeated() {
    let server = support::sqld(None);
    let proxy = Proxy::to(server.address);
    let machine = Machine::new(&proxy.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    for lost in 1..4 {
        // An insert that would be there twice.
        app.write(&[("INSERT INTO project(name) VALUES (NULL)", json!([[]]))]);
        proxy.let_pass(0);
        match shipper.round().await.unwrap_err() {
            ShipError::Index(error @ IndexError::Unreachable { .. }) => {
                assert!(error.to_string().contains("closed before"), "{error}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(proxy.lost(), lost, "the server had carried it out");
        proxy.let_all_pass();
        // More has been written meanwhile.
        app.write(&[("INSERT INTO project(name) VALUES (NULL)", json!([[]]))]);
        ship(&mut shipper).await.unwrap();
        assert_eq!(
            there(&machine, "SELECT count(*) FROM project").await,
            (lost * 2).to_string()
        );
    }
    machine.same(6).await;
}

#[tokio::test]
async fn an_outage_queues_and_a_new_server_process_gets_the_rest() {
    let mut server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    app.notes(1..50);
    server.kill();
    let Err(ShipError::Index(error)) = shipper.round().await else {
        panic!("shipped to a dead server")
    };
    assert_eq!(error.exit(), Exit::Unavailable);
    app.notes(50..100);
    assert_eq!(shipper.pending().unwrap().transactions, 2);
    server.restart();
    ship(&mut shipper).await.unwrap();
    machine.same(99 * ROWS_OF_NOTES + 1).await;
}

#[tokio::test]
async fn who_lost_the_lease_writes_nothing_more() {
    let server = support::sqld(None);
    let mut machine = Machine::new(&server.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    app.notes(1..3);
    machine.release().await;
    lease::acquire(&machine.remote, &claimant("b"), None, LIMIT)
        .await
        .unwrap();
    let fenced = ShipError::Fenced { holder: "b".into() };
    assert_eq!(shipper.round().await.unwrap_err(), fenced);
    assert_eq!(shipper.reseed(|_| ()).await.unwrap_err(), fenced);
    assert_eq!(there(&machine, "SELECT count(*) FROM entity").await, "0");
    there(&machine, "DELETE FROM _tenant_init_lease").await;
    assert!(
        matches!(shipper.round().await.unwrap_err(), ShipError::Fenced { .. }),
        "no row, no writing"
    );
    there(&machine, "DROP TABLE _tenant_init_lease").await;
    assert!(
        matches!(shipper.round().await.unwrap_err(), ShipError::Fenced { .. }),
        "no table, no writing"
    );
    machine.granted.epoch = 0;
}

#[tokio::test]
async fn every_batch_extends_the_lease() {
    let (_server, machine, opened, app) = tenant().await;
    lease::renew(&machine.remote, machine.granted.epoch, Duration::ZERO, LIMIT)
        .await
        .unwrap();
    let left = "SELECT expires_ms > (julianday('now') - 2440587.5) * 86400000 + 50000 FROM _tenant_init_lease";
    assert_eq!(there(&machine, left).await, "0");
    app.notes(1..2);
    machine.shipper(&opened).round().await.unwrap();
    assert_eq!(there(&machine, left).await, "1");
}

#[tokio::test]
async fn a_statement_that_fails_there_is_told_without_its_values_and_not_repeated() {
    let (_server, machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    app.notes(1..3);
    app.record(
        true,
        "INSERT INTO nowhere(x) VALUES (?)",
        &json!([["SECRETVALUE"]]),
        Some(1),
    );
    for _ in 0..2 {
        match shipper.round().await.unwrap_err() {
            ShipError::Replay(words) => {
                assert!(words.contains("INSERT INTO nowhere(x) VALUES (?)"), "{words}");
                assert!(
                    words.contains("no such table") && !words.contains("SECRETVALUE"),
                    "{words}"
                );
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(
        there(&machine, "SELECT count(*) FROM entity").await,
        "0",
        "all or nothing"
    );
    assert_eq!(shipper.reseed(|_| ()).await.unwrap(), 2 * ROWS_OF_NOTES + 1);
    app.notes(3..4);
    ship(&mut shipper).await.unwrap();
    machine.same(3 * ROWS_OF_NOTES + 1).await;
}

#[tokio::test]
async fn what_cannot_be_sent_as_it_was_recorded_is_a_replay_error() {
    for (sql, rows) in [
        ("INSERT INTO pairs VALUES ('i', 1, ?)", json!([[{"f": "Infinity"}]])),
        ("INSERT INTO pairs VALUES ('i', 1, ?)", json!([[true]])),
        ("INSERT INTO", json!([[]])),
    ] {
        let (_server, machine, opened, app) = tenant().await;
        let mut shipper = machine.shipper(&opened);
        app.record(true, sql, &rows, None);
        let error = shipper.round().await.unwrap_err();
        assert!(matches!(error, ShipError::Replay(_)), "{sql} {rows}: {error}");
        shipper.reseed(|_| ()).await.unwrap();
        machine.same(0).await;
    }
}

#[tokio::test]
async fn a_copy_that_went_astray_is_noticed_and_never_continued_from() {
    let (_server, mut machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    app.notes(1..4);
    ship(&mut shipper).await.unwrap();
    there(&machine, "DELETE FROM pairs WHERE b = 2").await;
    app.write(&[("UPDATE pairs SET v = 0 WHERE b = ?", json!([[1], [2]]))]);
    match shipper.round().await.unwrap_err() {
        ShipError::Diverged(words) => assert!(words.contains("2 rows here and 1 there"), "{words}"),
        other => panic!("{other}"),
    }
    assert!(matches!(shipper.round().await, Err(ShipError::Diverged(_))));
    machine.again("a").await;
    let opened = machine.open().await;
    assert!(matches!(opened.how, How::Reseed(_)), "{opened:?}");
    let mut shipper = machine.shipper(&opened);
    assert!(
        matches!(shipper.round().await, Err(ShipError::Diverged(_))),
        "not before it is seeded"
    );
    shipper.reseed(|_| ()).await.unwrap();
    machine.same(3 * ROWS_OF_NOTES + 1).await;
}

#[tokio::test]
async fn a_queue_over_its_limit_is_dropped_and_seeding_makes_up_for_it() {
    let mut server = support::sqld(None);
    let machine = Machine::new(&server.url(), "a").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    let limits = ShipLimits {
        outbox_bytes: 20_000,
        ..ShipLimits::default()
    };
    let mut shipper = machine.limited(&opened, limits);
    ship(&mut shipper).await.unwrap();
    server.kill();
    app.notes(1..20);
    assert!(
        matches!(shipper.round().await, Err(ShipError::Index(_))),
        "within the limit"
    );
    app.notes(20..200);
    assert_eq!(shipper.round().await, Err(ShipError::Overflow));
    assert_eq!(pending(&machine.path, 0).unwrap().rows, 0);
    app.notes(200..201);
    assert_eq!(shipper.round().await, Err(ShipError::Overflow), "until it is seeded");
    server.restart();
    shipper.reseed(|_| ()).await.unwrap();
    ship(&mut shipper).await.unwrap();
    machine.same(200 * ROWS_OF_NOTES + 1).await;
}

#[tokio::test]
async fn a_stop_leaves_an_empty_queue() {
    let (_server, machine, opened, app) = tenant().await;
    app.notes(1..4);
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    shipper.prune().await.unwrap();
    drop((shipper, app));
    assert_eq!(
        pending(&machine.path, 0).unwrap(),
        tenant_init::index::Pending::default()
    );
    assert_eq!(
        pending(&machine.path.with_file_name("other.db"), 0).unwrap().rows,
        0,
        "no file, nothing queued"
    );
}

#[tokio::test]
async fn another_file_under_the_name_is_not_shipped() {
    let (_server, machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    drop(app);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", machine.path.display()));
    }
    let app: App = machine.app();
    app.connection.execute_batch("CREATE TABLE t(x)").unwrap();
    match shipper.round().await.unwrap_err() {
        ShipError::Local(words) => assert!(words.contains("started again"), "{words}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn with_a_token_everything_works_and_a_rejected_one_loses_nothing() {
    let issuer = Issuer::new();
    let server = support::sqld(Some(&issuer.public()));
    let token = issuer.token(3600);
    let machine = Machine::with_token(&server.url(), "a", Some(&token)).await;
    let opened = machine.open().await;
    let app = machine.app();
    app.schema();
    app.notes(1..4);
    for bad in [issuer.token(-3600), issuer.token_for("ro", 3600)] {
        let remote = remote(&server.url(), Some(&bad));
        let limits = ShipLimits::default();
        let mut shipper = Shipper::new(remote, &machine.path, &machine.granted, &opened, TTL, limits);
        let error = shipper.round().await.unwrap_err();
        assert!(
            matches!(error, ShipError::Index(IndexError::Rejected { .. })),
            "{error}"
        );
        assert!(!format!("{error} {error:?} {shipper:?}").contains(&bad), "{error}");
    }
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    shipper.reseed(|_| ()).await.unwrap();
    machine.same(3 * ROWS_OF_NOTES + 1).await;
}

#[tokio::test]
async fn one_recorded_row_over_the_limits_goes_alone() {
    let (_server, machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    // Three executemany of 3000 rows each, then one value of 3 MB.
    app.notes(1..3001);
    app.write(&[(
        "INSERT INTO pairs VALUES ('large', 1, ?)",
        json!([["x".repeat(3_000_000)]]),
    )]);
    ship(&mut shipper).await.unwrap();
    machine.same(3000 * ROWS_OF_NOTES + 2).await;
}
