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
@pytest.mark.parametrize("meanwhile", [[], ["source"]], ids=["", "source"])
def test_a_rename_that_meets_an_upload_of_its_target_costs_neither_file(tmp_path, meanwhile):
    """rclone is replaced before anybody is told that the rename has failed: it can have one file under both names. (Found by storms.)"""
    run = vm.boot(tmp_path, "rename_meets.py", "nfs", *meanwhile, timeout=240).checked()
    assert run.one("driver")["driver"] == "nfs"
    kept, uploaded = run.one("rename")["kept"], "uploaded at a bad moment\n"
    before = {"stored.md": kept, "note.md": uploaded} if run.one("rename")["code"] else {"note.md": kept}
    after = before | {"note.md": before["note.md"] + "and more\n"}
    assert run.one("looked")["files"] == before
    assert run.one("written")["files"] == after
    # The call may be repeated then, and succeed.
    assert run.one("restarts") == {"event": "restarts", "mount": 1, "app": 0}, "the app waited"
    assert run.one("exit")["code"] == 0 and run.one("exit")["bucket"] == after
