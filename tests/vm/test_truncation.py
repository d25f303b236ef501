"""No open of an existing file may destroy what is in it: not through the guard, though plain rclone does.

Linux sends NFSv3 CREATE(UNCHECKED) without a LOOKUP for a name it does not know yet, and rclone's NFS server truncates
on it. The first test shows that the second one is able to fail.
"""

import pytest

from lib import vm

DESTROYED_BY_PLAIN_RCLONE = {"append", "shell_append", "touch", "rdwr_creat", "wronly_creat"}


@pytest.mark.timeout(200)
def test_plain_nfsmount_loses_what_was_in_the_file(tmp_path):
    run = vm.boot(tmp_path, "truncation.py", "plain", timeout=150).checked()
    lost = {case["name"] for case in run.of("case") if not case["kept"]}
    assert lost == DESTROYED_BY_PLAIN_RCLONE
    assert run.one("replace_then_append")["lost"] == 60
    # Not only in this machine's view: the loss reaches the bucket.
    assert {f"{name}.md" for name in DESTROYED_BY_PLAIN_RCLONE} < run.one("bucket")["differences"].keys()


@pytest.mark.timeout(200)
def test_plain_fuse_mount_keeps_it(tmp_path):
    """The same list on the other driver: the loss is not a mistake of the list."""
    run = vm.boot(tmp_path, "truncation.py", "plain-fuse", timeout=150).checked()
    assert [case["name"] for case in run.of("case") if not case["kept"]] == []
    assert run.one("replace_then_append")["lost"] == 0


@pytest.mark.timeout(200)
def test_the_tenants_mount_keeps_it(tmp_path):
    run = vm.boot(tmp_path, "truncation.py", "tenant", timeout=150).checked()
    assert [case for case in run.of("case") if not case["kept"]] == []
    assert run.one("replace_then_append")["lost"] == 0
    assert run.one("replace_then_read")["lost"] == 0
    assert run.one("bucket")["differences"] == {}
    assert run.one("bucket")["negative_kept"]
    assert run.one("exit")["code"] == 0
    assert run.one("exit")["verdict"]["stored"] is True
