"""The self-test that decides whether a mount may be called ready is able to fail, and fails for the right reason."""

import pytest

from lib import vm


@pytest.mark.timeout(200)
def test_the_selftest_fails_on_a_plain_nfsmount_and_passes_on_fuse(tmp_path):
    run = vm.boot(tmp_path, "selftest.py", timeout=150).checked()
    nfs, fuse = run.of("selftest")
    assert (nfs["verb"], nfs["code"]) == ("nfsmount", 1)
    assert nfs["report"]["emptied"] is True
    assert "bytes were written" in nfs["report"]["error"]
    assert (fuse["verb"], fuse["code"], fuse["report"]["ok"]) == ("mount", 0, True)
    # It cleans up after itself, also after a failure.
    assert nfs["left"] == fuse["left"] == ["precious.md"]
