"""The same as tests/faults/test_silence.py, on nfs."""

import pytest

from lib import vm


@pytest.mark.timeout(300)
def test_nothing_that_is_known_and_nothing_new_waits_for_a_silent_bucket(tmp_path):
    run = vm.boot(tmp_path, "silent_bucket.py", "0.25", "blackhole", "quick", timeout=240).checked()
    silent = run.one("silence")["result"]["silent"]
    print({name: (found["count"], round(found["longest"])) for name, found in silent.items()})
    assert min(found["count"] for found in silent.values()) >= 10
    # In milliseconds: a call to the bucket is given up after 10 s at the earliest.
    assert max(found["longest"] for found in silent.values()) < 8000
