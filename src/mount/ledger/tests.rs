//! rclone's lines, and what is on the list after them.

use super::super::cached;
use super::renames::ATTEMPTS;
use super::*;

const REMOVED: &str = "vfs cache: removed cache file as file deleted";
const QUEUED: &str = "vfs cache: queuing for upload in 1s";
const UPLOADED: &str = "vfs cache: upload succeeded try #1";

fn names(found: Vec<(String, Entry)>) -> Vec<String> {
    found.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn deleted_and_renamed_names_are_remembered_until_they_are_used_again() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    for name in ["a.md", "d.md"] {
        ledger.note(QUEUED, Some(name), now);
        ledger.note(REMOVED, Some(name), now);
    }
    ledger.note("vfs cache: renamed in cache to \"c.md\"", Some("b.md"), now);
    assert_eq!(names(ledger.deletions()), ["a.md", "b.md", "d.md"]);
    assert_eq!(names(ledger.due(now)), ["a.md", "b.md", "c.md", "d.md"]);
    ledger.note(QUEUED, Some("a.md"), now);
    ledger.note("vfs cache: renamed in cache to \"b.md\"", Some("t.tmp"), now);
    ledger.note("Copied (server-side copy) to: d.md", Some("x.md"), now);
    assert_eq!(names(ledger.deletions()), ["t.tmp"]);
    let (name, deleted) = ledger.deletions().remove(0);
    let later = now + SignedDuration::from_secs(3);
    ledger.note("Copied (new)", Some(&name), later);
    let (_, again) = ledger.deletions().remove(0);
    assert_eq!(again.since, later, "an upload that ended after the deletion");
    ledger.settle(&name, &deleted, later);
    assert_eq!(names(ledger.deletions()), ["t.tmp"], "that was another one");
    ledger.settle(&name, &again, later);
    assert!(ledger.deletions().is_empty());
}

#[test]
fn an_upload_is_looked_at_once_it_has_ended_and_again_while_an_earlier_try_may_arrive() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(QUEUED, Some("a.md"), now);
    assert!(ledger.due(now).is_empty() && ledger.unsure(now).is_empty());
    assert_eq!(ledger.unproven(now), ["a.md"]);
    ledger.note(
        "vfs cache: failed to upload try #1, will retry in 2s: x",
        Some("a.md"),
        now,
    );
    ledger.note(UPLOADED, Some("a.md"), now);
    let (name, entry) = ledger.due(now).remove(0);
    ledger.settle(&name, &entry, now);
    assert!(ledger.due(now).is_empty());
    assert_eq!(ledger.unproven(now), ["a.md"], "that try could be in the bucket by now");
    assert_eq!(names(ledger.unsure(now)), ["a.md"]);
    let (name, entry) = ledger.due(now + AGAIN).remove(0);
    assert!(entry.seen && ledger.unproven(now + RISK).is_empty());
    ledger.settle(&name, &entry, now + RISK);
    assert!(ledger.due(Timestamp::MAX).is_empty());
}

#[test]
fn an_object_that_rclone_says_it_removes_is_looked_at_again_after_it_was_found() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note("Removing failed copy", Some("a.md"), now);
    for wanted in [Wanted::Doubtful, Wanted::Uploaded] {
        let (name, entry) = ledger.due(now).remove(0);
        ledger.settle(&name, &entry, now);
        let (_, entry) = ledger.due(now + AGAIN).remove(0);
        assert!(entry.wanted == wanted && entry.seen && entry.may_be_lost());
        let before_the_next_rclone = [ledger.unproven(now), names(ledger.doubtful(now))].concat();
        assert_eq!(before_the_next_rclone, ["a.md"]);
        ledger.note(UPLOADED, Some("a.md"), now);
    }
    ledger.note(REMOVED, Some("a.md"), now);
    assert!(ledger.due(Timestamp::MAX).is_empty(), "on purpose");
}

#[test]
fn the_deletion_of_a_stored_file_is_left_to_rclone() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(REMOVED, Some("a.md"), now);
    ledger.note(UPLOADED, Some("b.md"), now);
    ledger.note(REMOVED, Some("b.md"), now);
    ledger.note("Copied (server-side copy) to: d.md", Some("c.md"), now);
    ledger.note("vfs cache: renamed in cache to \"d.md\"", Some("c.md"), now);
    ledger.note(REMOVED, Some("d.md"), now);
    assert_eq!(names(ledger.unsure(now)), ["c.md"], "it may have failed");
}

#[test]
fn what_nobody_has_seen_survives_in_the_journal() {
    let cache = tempfile::tempdir().unwrap();
    let ledger = Ledger::load(cache.path(), "notes");
    ledger.open(cache.path()).unwrap();
    let now = Timestamp::now();
    ledger.note(QUEUED, Some("a.md"), now);
    ledger.note(REMOVED, Some("a.md"), now);
    ledger.note(QUEUED, Some("b.md"), now);
    ledger.note(UPLOADED, Some("c.md"), now);
    let (name, entry) = ledger.due(now).remove(1);
    assert_eq!(name, "c.md");
    ledger.settle(&name, &entry, now);
    ledger.note("vfs cache: upload canceled", Some("d.md"), now);
    ledger.note(UPLOADED, Some("d.md"), now);
    let (name, entry) = ledger.due(now).remove(1);
    ledger.settle(&name, &entry, now);
    let journal = journal::path(cache.path(), "notes");
    let torn = [fs::read(&journal).unwrap(), b"{\"name\":\"z".to_vec()].concat();
    fs::write(&journal, torn).unwrap();
    let again = Ledger::load(cache.path(), "notes");
    assert_eq!(names(again.deletions()), ["a.md"]);
    assert!(Ledger::load(cache.path(), "another").due(Timestamp::MAX).is_empty());
    assert_eq!(Ledger::load_all(cache.path()).len(), 1);
    assert_eq!(again.unproven(now), ["b.md", "d.md"]);
    let (name, entry) = again.due(now).remove(2);
    assert_eq!(name, "d.md");
    again.settle(&name, &entry, now);
    assert_eq!(again.unproven(now), ["b.md", "d.md"], "it may still arrive");
    again.settle(&name, &again.due(now + AGAIN).remove(2).1, now + RISK);
    assert_eq!(again.author(), ledger.author());
    again.open(cache.path()).unwrap();
    assert_eq!(fs::read_to_string(&journal).unwrap().lines().count(), 2);
    again.found_wrong("b.md");
    assert_eq!(again.wrong(), ["b.md"]);
    again.forget(cache.path()).unwrap();
    assert!(again.wrong().is_empty());
    assert!(Ledger::load(cache.path(), "notes").due(Timestamp::MAX).is_empty());
}

#[test]
fn what_was_seen_in_the_bucket_is_not_sent_again_by_the_next_start() {
    let cache = tempfile::tempdir().unwrap();
    let ledger = Ledger::load(cache.path(), "notes");
    ledger.open(cache.path()).unwrap();
    let now = Timestamp::now();
    ledger.note("vfs cache: upload canceled", Some("a.md"), now);
    ledger.note(UPLOADED, Some("a.md"), now);
    let (name, entry) = ledger.due(now).remove(0);
    ledger.settle(&name, &entry, now);
    let again = Ledger::load(cache.path(), "notes");
    assert_eq!(again.unproven(now), ["a.md"], "that try may still arrive");
    assert!(again.unproven(now + RISK).is_empty() && again.unsettled().is_empty());
    // A deletion, too: what is to come may be there before the next rclone lists the bucket.
    ledger.note("vfs cache: upload canceled", Some("b.md"), now);
    ledger.note(REMOVED, Some("b.md"), now);
    let (name, entry) = ledger.due(now).remove(0);
    ledger.settle(&name, &entry, now);
    let again = Ledger::load(cache.path(), "notes");
    assert_eq!(
        (names(again.absent(now)), names(again.deletions())),
        (vec!["b.md".to_owned()], vec![])
    );
    assert!(again.absent(now + RISK).is_empty());
}

#[test]
fn a_request_of_our_own_is_a_risk_until_it_is_answered() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note("vfs cache: renamed in cache to \"dir/b.md\"", Some("dir/a.md"), now);
    let (name, entry) = ledger.deletions().remove(0);
    let begun = ledger.begin(&name, &entry, true, now).unwrap();
    assert!(
        ledger.begin(&name, &entry, true, now).is_none(),
        "that is not the last word any more"
    );
    // The name is used again; what takes its object away then was nobody's wish.
    ledger.note(UPLOADED, Some("dir/a.md"), now);
    ledger.note(QUEUED, Some("dir/a.md"), now);
    ledger.note(UPLOADED, Some("dir/a.md"), now);
    ledger.answered(&name, &begun, &entry, now);
    let (_, used) = ledger.due(now).remove(0);
    assert!(used.wanted == Wanted::Uploaded && used.may_be_lost());
    ledger.settle(&name, &used, now);
    assert_eq!(names(ledger.at_risk("dir", now)), ["dir/a.md"]);
    assert!(ledger.at_risk("", now).is_empty() && ledger.at_risk("dir", now + RISK).is_empty());
    // One that is answered leaves none.
    let (name, entry) = ledger.due(now).remove(0);
    let begun = ledger.begin(&name, &entry, false, now).unwrap();
    ledger.answered(&name, &begun, &entry, now);
    assert!(ledger.stands(&name, &entry));
}

#[test]
fn a_file_that_is_deleted_while_it_is_restored_is_deleted_after_that() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(UPLOADED, Some("a.md"), now);
    let (name, entry) = ledger.due(now).remove(0);
    ledger.found_wrong(&name);
    ledger.note(REMOVED, Some("a.md"), now);
    assert!(!ledger.is_wrong("a.md"));
    ledger.restored(&name, &entry, now);
    assert_eq!(names(ledger.deletions()), ["a.md"]);
    // Nobody was restoring this one: rclone deletes it.
    ledger.note(UPLOADED, Some("b.md"), now);
    ledger.note(REMOVED, Some("b.md"), now);
    assert_eq!(ledger.take_removed(), ["b.md"]);
    assert!(ledger.take_removed().is_empty());
    assert_eq!(names(ledger.deletions()), ["a.md"]);
}

#[test]
fn what_somebody_else_has_changed_is_not_watched_any_more() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note("vfs cache: upload canceled", Some("a.md"), now);
    ledger.note(UPLOADED, Some("a.md"), now);
    let (name, entry) = ledger.due(now).remove(0);
    ledger.give_up(&name, &entry, now);
    assert!(ledger.due(Timestamp::MAX).is_empty() && ledger.unproven(now).is_empty());
}

const COPIED: &str = "Copied (server-side copy) to: b.md";
const NOT_DELETED: &str = "Couldn't delete: operation error S3: x";
const NOT_COPIED: &str = "Not deleting source as copy failed: operation error S3: x";
const NOT_RENAMED: &str = "File.Rename error: operation error S3: x";

#[test]
fn what_a_rename_may_have_done_before_it_failed_is_doubted_once_it_is_not_tried_any_more() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(COPIED, Some("a.md"), now);
    // Somebody looks meanwhile.
    let (name, entry) = ledger.due(now).remove(0);
    ledger.remember_copy(&name, &entry, now);
    ledger.note(NOT_DELETED, Some("a.md"), now);
    ledger.note(NOT_RENAMED, Some("b.md"), now);
    assert!(ledger.due(now).is_empty(), "it is tried again");
    assert_eq!(ledger.doubted(), ["a.md", "b.md"]);
    assert_eq!(ledger.source("b.md").as_deref(), Some("a.md"));
    assert_eq!(names(ledger.due(now + ATTEMPTS)), ["a.md", "b.md"]);
    let (source, target) = (ledger.doubtful(now).remove(0).1, ledger.doubtful(now).remove(1).1);
    assert!(source.waits(now) && !source.waits(now + ATTEMPTS));
    assert!(source.may_be_lost());
    assert!(
        !target.may_be_lost(),
        "a copy takes nothing away: it was deleted elsewhere"
    );
    assert!(
        ledger.unproven(now).is_empty(),
        "it is compared before it is sent again"
    );
    // It succeeds.
    ledger.note("vfs cache: renamed in cache to \"b.md\"", Some("a.md"), now);
    assert!(ledger.doubted().is_empty());
    assert_eq!(names(ledger.deletions()), ["a.md"]);
}

#[test]
fn what_is_to_be_uploaded_or_deleted_stays_so_after_a_rename_that_failed() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(QUEUED, Some("c.md"), now);
    ledger.note("vfs cache: renamed in cache to \"d.md\"", Some("a.md"), now);
    for name in ["c.md", "a.md"] {
        ledger.note(NOT_RENAMED, Some(name), now);
    }
    assert_eq!(names(ledger.deletions()), ["a.md"]);
    assert!(ledger.doubted().is_empty());
}

#[test]
fn a_rename_that_succeeded_is_not_undone_because_a_later_one_to_the_same_name_fails() {
    let now = Timestamp::now();
    for looked_at in [false, true] {
        let ledger = Ledger::default();
        ledger.note(COPIED, Some("x.md"), now);
        if looked_at {
            let (name, entry) = ledger.due(now).remove(0);
            ledger.remember_copy(&name, &entry, now);
        }
        ledger.note(NOT_COPIED, Some("y.md"), now);
        ledger.note(NOT_RENAMED, Some("b.md"), now);
        assert!(ledger.doubted().is_empty(), "the cache has what was there before x.md");
    }
}

#[test]
fn renames_that_fail_at_the_same_time_are_told_apart_by_their_reasons() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    for (from, to) in [("x", "a"), ("y", "b")] {
        ledger.note(&format!("Copied (server-side copy) to: {to}"), Some(from), now);
    }
    for (line, object) in [
        ("Couldn't delete: S3, request 1", "x"),
        ("Couldn't delete: S3, request 2", "y"),
        ("File.Rename error: S3, request 1", "a"),
        ("File.Rename error: S3, request 2", "b"),
    ] {
        ledger.note(line, Some(object), now);
    }
    assert_eq!(ledger.doubted(), ["a", "b", "x", "y"]);
    assert_eq!(ledger.source("a").as_deref(), Some("x"));
    assert_eq!(ledger.source("b").as_deref(), Some("y"));
    // What was written there since does not end the risk of a copy that comes late.
    ledger.note(QUEUED, Some("a"), now);
    assert_eq!(ledger.source("a").as_deref(), Some("x"));
    ledger.note(QUEUED, Some("a"), now + RISK);
    assert_eq!(ledger.source("a"), None);
}

#[test]
fn what_was_doubted_and_is_found_wrong_later_holds_a_listing_back_again() {
    let ledger = Ledger::default();
    let now = Timestamp::now();
    ledger.note(NOT_RENAMED, Some("b.md"), now);
    let (name, entry) = ledger.doubtful(now).remove(0);
    ledger.settle(&name, &entry, now);
    assert!(ledger.doubted().is_empty());
    let (_, entry) = ledger.doubtful(now).remove(0);
    assert!(!entry.waits(now), "the rename is not tried any more");
    ledger.found_wrong("b.md");
    assert_eq!(ledger.doubted(), ["b.md"]);
    ledger.abandon("b.md", now);
    assert!(ledger.doubted().is_empty());
}

#[test]
fn that_a_deletion_may_have_been_done_survives_in_the_journal() {
    let cache = tempfile::tempdir().unwrap();
    let ledger = Ledger::load(cache.path(), "notes");
    ledger.open(cache.path()).unwrap();
    let now = Timestamp::now();
    ledger.note(NOT_DELETED, Some("a.md"), now);
    ledger.note(NOT_RENAMED, Some("b.md"), now);
    let again = Ledger::load(cache.path(), "notes");
    let (_, source) = again.doubtful(now).remove(0);
    assert!(source.may_be_lost());
    assert_eq!(again.source("b.md").as_deref(), Some("a.md"));
    assert!(
        ledger.doubted_in(cache.path()).is_empty(),
        "the cache has nothing to put back"
    );
    let file = cached::path(cache.path(), "notes", "a.md");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "a").unwrap();
    assert_eq!(ledger.doubted_in(cache.path()), ["a.md"]);
}
