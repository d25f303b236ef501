//! A start on an empty disk, on the old disk, and after every kind of accident.

use std::os::unix::fs::MetadataExt;

use tenant_init::index::{How, OpenError, ShipError, lease, open};

use crate::fixture::{LIMIT, Machine, claimant, ship, tenant, there};
use crate::proxy::Proxy;
use crate::support;

/// A database with 150 notes and no machine.
async fn filled() -> support::Server {
    let (server, machine, opened, app) = tenant().await;
    app.notes(1..151);
    ship(&mut machine.shipper(&opened)).await.unwrap();
    machine.release().await;
    server
}

#[tokio::test]
async fn an_empty_disk_gets_the_whole_index() {
    let server = filled().await;
    let machine = Machine::new(&server.url(), "b").await;
    let opened = machine.open().await;
    assert_eq!(opened.how, How::Restored { rows: 451 });
    assert_eq!((opened.position, opened.discarded), (12, 0));
    machine.same(451).await;
    let found = std::fs::metadata(&machine.path).unwrap();
    assert_eq!(
        (found.uid(), found.gid(), found.mode() & 0o777),
        (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw(), 0o600)
    );
    let names: Vec<_> = std::fs::read_dir(machine.dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names.iter().all(|name| !name.to_string_lossy().contains("restoring")),
        "{names:?}"
    );

    let app = machine.app();
    assert_eq!(app.count("SELECT rowid FROM search WHERE search MATCH 'word77'"), 77);
    assert_eq!(
        app.count("SELECT count(*) FROM search WHERE search MATCH 'common'"),
        150
    );
    assert_eq!(
        app.count("SELECT count(*) FROM search WHERE search MATCH '\"notes/n77\"'"),
        1,
        "its tokenizer"
    );
    assert_eq!(
        app.count("SELECT tags = '[77]' FROM entity WHERE id = 77"),
        1,
        "generated columns"
    );
    assert_eq!(
        app.count("SELECT seq FROM sqlite_sequence WHERE name = '_tenant_init_outbox'"),
        12
    );
}

#[tokio::test]
async fn a_restored_file_goes_on_where_the_database_is() {
    let server = filled().await;
    let machine = Machine::new(&server.url(), "b").await;
    let opened = machine.open().await;
    let app = machine.app();
    app.notes(151..152);
    let mut shipper = machine.shipper(&opened);
    let round = ship(&mut shipper).await.unwrap();
    assert_eq!((round.shipped, round.position), (4, 16));
    machine.same(454).await;
}

#[tokio::test]
async fn the_old_disk_goes_on_with_its_queue() {
    let (_server, mut machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    app.notes(1..3);
    app.notes(3..4);
    machine.again("a").await;
    let opened = machine.open().await;
    assert_eq!(opened.how, How::Continued { queued: 2 });
    assert_eq!(opened.position, 8);
    ship(&mut machine.shipper(&opened)).await.unwrap();
    machine.same(10).await;
    machine.again("a").await;
    assert_eq!(machine.open().await.how, How::Continued { queued: 0 });
}

#[tokio::test]
async fn what_another_machine_wrote_wins_and_the_loss_is_counted() {
    let (server, mut machine, opened, app) = tenant().await;
    let mut shipper = machine.shipper(&opened);
    ship(&mut shipper).await.unwrap();
    app.notes(1..3);
    shipper.prune().await.unwrap();
    machine.release().await;

    let other = Machine::new(&server.url(), "b").await;
    let restored = other.open().await;
    other.app().notes(10..12);
    ship(&mut other.shipper(&restored)).await.unwrap();
    assert!(matches!(shipper.round().await, Err(ShipError::Fenced { .. })));
    other.release().await;

    drop(app);
    machine.again("a").await;
    let opened = machine.open().await;
    assert_eq!((opened.how, opened.discarded), (How::Restored { rows: 7 }, 1));
    machine.same(7).await;
}

#[tokio::test]
async fn an_interrupted_restore_is_done_again() {
    let server = filled().await;
    let proxy = Proxy::to(server.address);
    let mut machine = Machine::new(&proxy.url(), "b").await;
    let mut failed = 0;
    for answers in 0.. {
        proxy.let_pass(answers);
        let result = machine.try_open().await;
        proxy.let_all_pass();
        let Err(error) = result else { break };
        assert!(matches!(error, OpenError::Index(_)), "{error}");
        failed += 1;
        // Leftovers of this attempt are in the way of the next one, which is in the same life or in another.
        std::fs::write(machine.dir.path().join("memory.db.restoring-wal"), "leftover").unwrap();
        if answers % 2 == 0 {
            machine.again("b").await;
        }
    }
    assert!(failed >= 3, "definitions, rows, claim: {failed}");
    machine.same(451).await;
}

#[tokio::test]
async fn a_file_in_place_that_was_not_claimed_is_restored_again_and_a_claimed_one_is_not() {
    let server = filled().await;
    let proxy = Proxy::to(server.address);
    let mut machine = Machine::new(&proxy.url(), "b").await;
    let before = there(&machine, "SELECT lineage FROM _tenant_init_lease").await;
    // All but the claim's answer: it is carried out.
    let mut answers = 0;
    while !machine.path.exists() {
        proxy.let_pass(answers);
        assert!(machine.try_open().await.is_err());
        proxy.let_all_pass();
        answers += 1;
    }
    machine.again("b").await;
    assert_eq!(machine.open().await.how, How::Continued { queued: 0 });
    // As if the claim had not been carried out.
    there(&machine, &format!("UPDATE _tenant_init_lease SET lineage = '{before}'")).await;
    machine.again("b").await;
    assert_eq!(machine.open().await.how, How::Restored { rows: 451 });
    machine.same(451).await;
}

#[tokio::test]
async fn who_loses_the_lease_while_restoring_does_not_start() {
    let server = filled().await;
    let machine = Machine::new(&server.url(), "b").await;
    machine.release().await;
    lease::acquire(&machine.remote, &claimant("c"), None, LIMIT)
        .await
        .unwrap();
    assert_eq!(
        machine.try_open().await.unwrap_err(),
        OpenError::Lost { holder: "c".into() }
    );
}

#[tokio::test]
async fn a_damaged_file_is_replaced() {
    let server = filled().await;
    let mut machine = Machine::new(&server.url(), "b").await;
    machine.open().await;
    let bytes = std::fs::read(&machine.path).unwrap();
    let middle = bytes.len() / 2;
    let damaged: Vec<u8> = bytes
        .iter()
        .enumerate()
        .map(|(at, byte)| if at > middle { 0xa5 } else { *byte })
        .collect();
    std::fs::write(&machine.path, damaged).unwrap();
    machine.again("b").await;
    assert_eq!(machine.open().await.how, How::Restored { rows: 451 });
    machine.same(451).await;
}

#[tokio::test]
async fn half_a_database_and_no_file_is_rebuilt_and_then_seeded() {
    let server = filled().await;
    let mut machine = Machine::new(&server.url(), "b").await;
    there(&machine, "UPDATE _tenant_init_lease SET state = 'partial'").await;
    machine.again("b").await;
    let opened = machine.open().await;
    assert!(
        matches!(&opened.how, How::Rebuild(why) if why.contains("part")),
        "{opened:?}"
    );
    let app = machine.app();
    app.schema();
    app.notes(1..3);
    let mut shipper = machine.shipper(&opened);
    assert!(matches!(shipper.round().await, Err(ShipError::Diverged(_))));
    shipper.reseed(|_| ()).await.unwrap();
    app.notes(3..4);
    ship(&mut shipper).await.unwrap();
    machine.same(10).await;
}

#[tokio::test]
async fn a_database_that_cannot_be_restored_from_does_not_stop_the_start() {
    let server = filled().await;
    let mut machine = Machine::new(&server.url(), "b").await;
    // Its protocol has no infinite numbers.
    there(&machine, "INSERT INTO pairs VALUES ('infinite', 1, 9e999)").await;
    machine.again("b").await;
    let opened = machine.open().await;
    assert!(
        matches!(&opened.how, How::Rebuild(why) if why.contains("infinite")),
        "{opened:?}"
    );
    let app = machine.app();
    app.schema();
    let mut shipper = machine.shipper(&opened);
    shipper.reseed(|_| ()).await.unwrap();
    machine.same(0).await;
}

#[tokio::test]
async fn large_rows_are_read_in_smaller_pages() {
    let (server, machine, opened, app) = tenant().await;
    let text = "x".repeat(300_000);
    for id in 0..60 {
        app.write(&[(
            "INSERT INTO pairs VALUES ('large', ?, ?)",
            serde_json::json!([[id, text]]),
        )]);
    }
    ship(&mut machine.shipper(&opened)).await.unwrap();
    machine.same(60).await;
    machine.release().await;
    let other = Machine::new(&server.url(), "b").await;
    assert_eq!(other.open().await.how, How::Restored { rows: 60 });
    other.same(60).await;
}

#[tokio::test]
async fn a_plain_index_of_basic_memory_is_taken_over() {
    let server = support::sqld(None);
    let url = server.url();
    let machine = Machine::new(&url, "a").await;
    there(&machine, "DROP TABLE _tenant_init_lease").await;
    for sql in crate::fixture::SCHEMA {
        there(&machine, sql).await;
    }
    there(&machine, "INSERT INTO project(name) VALUES ('main')").await;
    let machine = Machine::new(&url, "a").await;
    assert_eq!(machine.open().await.how, How::Restored { rows: 1 });
    machine.same(1).await;
}

/// The app runs as another user and must be able to write all of SQLite's files; the folder stays as it was.
#[tokio::test]
async fn the_files_belong_to_the_apps_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let server = filled().await;
    let machine = Machine::new(&server.url(), "b").await;
    let owner = (12_345, 23_456);
    let before = std::fs::metadata(machine.dir.path()).unwrap();
    let opened = open::open(&machine.path, owner, &machine.remote, &machine.granted, LIMIT)
        .await
        .unwrap();
    let mut shipper = machine.shipper(&opened);
    machine.app().notes(151..152);
    // Both we and the app have it open, in whichever order.
    ship(&mut shipper).await.unwrap();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(machine.dir.path()).unwrap() {
        let entry = entry.unwrap();
        let found = entry.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), owner, "{:?}", entry.file_name());
        names.push(entry.file_name().into_string().unwrap());
    }
    names.sort();
    assert_eq!(names, ["memory.db", "memory.db-shm", "memory.db-wal"]);
    let after = std::fs::metadata(machine.dir.path()).unwrap();
    assert_eq!(
        (before.uid(), before.gid(), before.mode()),
        (after.uid(), after.gid(), after.mode())
    );
}

#[tokio::test]
async fn a_link_in_the_files_place_is_refused() {
    let server = filled().await;
    let machine = Machine::new(&server.url(), "b").await;
    let target = machine.dir.path().join("target");
    std::fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &machine.path).unwrap();
    match machine.try_open().await.unwrap_err() {
        OpenError::Local(words) => assert!(words.contains("symbolic link"), "{words}"),
        other => panic!("{other}"),
    }
    // One in the place of what is built does not lead anywhere either.
    std::fs::remove_file(&machine.path).unwrap();
    std::os::unix::fs::symlink(&target, machine.dir.path().join("memory.db.restoring")).unwrap();
    machine.open().await;
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
    machine.same(451).await;
}
