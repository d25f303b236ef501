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
