//! The comparison that all other tests rely on sees what it is there for.

use tenant_init::index::compare::compare;

use crate::fixture::{LIMIT, ship, tenant, there};

#[tokio::test]
async fn every_kind_of_difference_is_named_and_no_value_is_shown() {
    let (_server, machine, opened, app) = tenant().await;
    app.notes(1..1501);
    ship(&mut machine.shipper(&opened)).await.unwrap();
    machine.same(4501).await;
    for (change, back, words) in [
        (
            "UPDATE entity SET data = x'5EC2E7' WHERE id = 1400",
            None,
            "entity, row 1400: data differs",
        ),
        (
            "UPDATE entity SET mtime = mtime + 0.0000005 WHERE id = 3",
            None,
            "entity, row 3: mtime differs",
        ),
        ("UPDATE pairs SET v = '5EC2E7' WHERE b = 9", None, "v differs"),
        (
            "DELETE FROM entity WHERE id = 1",
            None,
            "entity, row 1: only in the file",
        ),
        (
            "INSERT INTO entity(id) VALUES (9999)",
            Some("DELETE FROM entity WHERE id = 9999"),
            "entity, row 9999: only in the database",
        ),
        (
            "UPDATE search SET rowid = 7777 WHERE rowid = 7",
            Some("UPDATE search SET rowid = 7 WHERE rowid = 7777"),
            "search, row 7: only in the file",
        ),
        (
            "UPDATE sqlite_sequence SET seq = 5 WHERE name = 'project'",
            Some("UPDATE sqlite_sequence SET seq = 1 WHERE name = 'project'"),
            "project: the next AUTOINCREMENT number differs",
        ),
        (
            "CREATE INDEX other ON entity(meta)",
            Some("DROP INDEX other"),
            "index other is only in the database",
        ),
        (
            "UPDATE search_content SET c1 = '5EC2E7' WHERE id = 8",
            None,
            "search: its full-text index in the database is not checked or wrong",
        ),
        (
            "UPDATE _tenant_init_lease SET position = 1",
            Some("UPDATE _tenant_init_lease SET position = 12"),
            "the database is at position 1, the file at 12",
        ),
    ] {
        there(&machine, change).await;
        let report = compare(&machine.remote, &machine.path, LIMIT).await.unwrap();
        let shown = report.differences.join("\n");
        assert!(shown.contains(words), "{change}: {shown}");
        assert!(!shown.contains("5EC2E7"), "{shown}");
        if let Some(back) = back {
            there(&machine, back).await;
        }
    }
}
