"""`tenant-init mount` over NFS; what it is like on FUSE is in tests/local/."""

import pytest

from lib import vm


@pytest.mark.timeout(300)
def test_a_local_mount_over_nfs_writes_and_read_only_does_not(tmp_path):
    run = vm.boot(tmp_path, "local_mount.py", timeout=240).checked()
    write, look = run.one("write"), run.one("look")
    assert (write["driver"], write["read"], write["mode"]) == ("nfs", "from the bucket", 0o600)
    assert (write["code"], write["mounts"], write["bucket"]["mine.md"]) == (0, [], "from here")
    assert write["words"].startswith("everything is stored")
    assert (look["driver"], look["read"], look["refused"]) == ("nfs", "from the bucket", True)
    assert (look["code"], look["mounts"]) == (0, [])
    assert sorted(look["bucket"]) == ["mine.md", "theirs.md"]
