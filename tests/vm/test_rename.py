"""A rename that fails must not change where later writes go."""

import pytest

from lib import vm


@pytest.mark.timeout(300)
def test_a_file_whose_rename_failed_is_stored_under_the_name_it_kept(tmp_path):
    run = vm.boot(tmp_path, "rename.py", "nfs", timeout=240).checked()
    assert run.one("driver")["driver"] == "nfs"
    assert run.one("rename")["code"] == 1 and "error" in run.one("rename")["words"].lower()
    assert run.one("write")["code"] == 0
    mount = run.one("mount")
    assert (mount["names"], mount["text"]) == (["stored.md"], "before\nafter\n")
    assert run.one("restarts") == {"event": "restarts", "mount": 0, "app": 0}, "nobody noticed"
    assert run.one("exit")["code"] == 0 and run.one("exit")["bucket"] == {"stored.md": "before\nafter\n"}


@pytest.mark.timeout(300)
def test_a_rename_that_meets_an_upload_that_arrives_late_costs_neither_file(tmp_path):
    """rclone is replaced before anybody is told that the rename has failed: it can have one file under both names. (Found by storms.)"""
    run = vm.boot(tmp_path, "rename_meets.py", "nfs", timeout=240).checked()
    assert run.one("driver")["driver"] == "nfs"
    kept, uploaded = run.one("rename")["kept"], "uploaded at a bad moment\n"
    before = {"stored.md": kept, "note.md": uploaded} if run.one("rename")["code"] else {"note.md": kept}
    after = before | {"note.md": before["note.md"] + "and more\n"}
    assert run.one("looked")["files"] == before
    assert run.one("written")["files"] == after
    # The call may be repeated then, and succeed.
    assert run.one("restarts") == {"event": "restarts", "mount": 1, "app": 0}, "the app waited"
    assert run.one("exit")["code"] == 0 and run.one("exit")["bucket"] == after


@pytest.mark.timeout(400)
def test_a_rename_waits_for_uploads_reads_wait_for_it_and_lost_answers_are_made_up_for(tmp_path):
    run = vm.boot(tmp_path, "rename_waits.py", "nfs", timeout=300).checked()
    assert run.one("driver")["driver"] == "nfs"
    stored = {result["part"]: result for result in run.of("stored")}

    uploading = run.one("uploading")
    assert not uploading["early"], "copied while the source was being uploaded"
    assert (uploading["code"], uploading["files"]) == (0, {"b.md": "one, changed\n"})
    assert stored["uploading"]["files"] == {"b.md": "one, changed\n"}

    reading = run.one("reading")
    assert (reading["code"], reading["text"]) == (1, "one\n"), "what is read is what the file has, although it is being renamed"
    assert reading["files"] == {"a.md": "one\n", "b.md": "the other\n"}
    both = {"a.md": "one\nmore of a\n", "b.md": "the other\nmore of b\n"}
    assert run.one("appended")["files"] == both == stored["reading"]["files"]

    copied = run.one("copied")
    assert (copied["code"], copied["files"], stored["copied"]["files"]) == (0, {"b.md": "one\n"}, {"b.md": "one\n"})
    assert stored["copied"]["restarts"] == {"mount": 0, "app": 0}

    deleted = run.one("deleted")
    assert (deleted["code"], deleted["files"], stored["deleted"]["files"]) == (0, {"b.md": "one\n"}, {"b.md": "one\n"})
    assert stored["deleted"]["restarts"] == {"mount": 1, "app": 0}, "rclone did not know that it was done"
    assert run.one("exit")["code"] == 0


@pytest.mark.timeout(400)
def test_a_rename_that_is_given_up_after_it_was_done_in_the_bucket_is_undone_there(tmp_path):
    run = vm.boot(tmp_path, "rename_gives_up.py", "nfs", timeout=300).checked()
    assert run.one("driver")["driver"] == "nfs"
    copied, moved = run.of("renamed")
    before = {"a.md": "copied a\n", "b.md": "copied b\n"}
    assert copied["happened"] and copied["bucket"] == {"a.md": "copied a\n", "b.md": "copied a\n"}
    assert (copied["code"], copied["files"]) == (1, before)
    assert run.one("put right")["files"] == run.one("put right")["bucket"] == before
    before = {"a.md": "moved a\n", "b.md": "moved b\n"}
    assert moved["happened"] and moved["bucket"] == {"b.md": "moved a\n"}
    assert (moved["code"], moved["files"]) == (1, before)
    # A stop looks at once.
    assert run.one("exit") == {"event": "exit", "code": 0, "bucket": before}
    assert run.one("restarts") == {"event": "restarts", "mount": 0, "app": 0}
