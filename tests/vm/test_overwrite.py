"""Overwriting in place needs no bucket, and does not write the old content to it once more."""

import pytest

from lib import vm


@pytest.mark.timeout(300)
def test_a_stored_file_can_be_overwritten_while_the_bucket_is_silent(tmp_path):
    run = vm.boot(tmp_path, "overwrite.py", timeout=240).checked()
    healthy, silent = run.one("healthy"), run.one("silent")
    assert healthy["newer"] > 0 and silent["newer"] > 0, "its time goes on as well"
    assert len(run.one("requests")["writing"]) == 1, "the upload"
    # A call to the bucket is given up after 10 s at the earliest.
    assert silent["seconds"] < 8
    assert (run.one("exit")["code"], run.one("exit")["text"]) == (0, "third\n")
