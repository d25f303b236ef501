use super::*;
use crate::ops::testing::{degraded, healthy};

fn table(snapshot: &Snapshot, colour: bool) -> String {
    let mut out = Vec::new();
    table::print(&mut out, snapshot, colour).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_verdict_comes_first_and_nothing_is_left_out() {
    let text = table(&degraded(), false);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("acme: degraded, not ready for "), "{text}");
    assert_eq!(
        lines[1],
        "  - storage_unreachable: the bucket does not answer: connection refused (since 14 s)"
    );
    for line in [
        "mount      degraded    nfs, pid 41, 2 restarts, last failure: rclone was killed by signal 9",
        "index      ready       libsql",
        "app        ready       pid 42",
        "database   reachable   22 ms",
        "lease      held        epoch 7",
        "not stored 12 files, 3 index changes 5.4 MB, oldest 1 min 13 s, 4 uploading, 5 failing, index lag 2 s",
    ] {
        assert!(lines.contains(&line), "no line {line:?} in\n{text}");
    }
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("bucket     unreachable last answer ")),
        "{text}"
    );
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("read ") && line.ends_with("2.4 ms")),
        "{text}"
    );
}

#[test]
fn colour_only_when_asked_for_and_no_foreign_escape_sequences() {
    let mut snapshot = healthy();
    snapshot.services.app.last_error = Some("\x1b[2Jgone\r\nforged: line".into());
    let plain = table(&snapshot, false);
    assert!(!plain.contains('\x1b') && !plain.contains('\r'), "{plain:?}");
    assert!(plain.contains("\\u{1b}[2Jgone\\r\\nforged: line"));
    assert!(table(&snapshot, true).contains("\x1b[32mready"));
}

#[test]
fn an_unspecified_address_means_this_machine() {
    for (listen, expected) in [
        ("0.0.0.0:9180", "127.0.0.1:9180"),
        ("[::]:9180", "[::1]:9180"),
        ("10.1.2.3:80", "10.1.2.3:80"),
    ] {
        assert_eq!(reachable(listen.parse().unwrap()), expected.parse().unwrap());
    }
}
