"""The bucket is silent for longer than anything is remembered: what does not need it goes on, and does not wait for it."""

import threading

import pytest

from lib import mounts

from .silence import OPERATIONS, QUICK, Side, rounds
from .sky import DROPS

SECONDS = 12


@pytest.fixture
def side(tmp_path, binary):
    one = Side("silent", tmp_path / "side", QUICK)
    yield one
    one.close()
    mounts.detach_below(tmp_path)


@pytest.mark.timeout(180)
def test_nothing_that_is_known_and_nothing_new_waits_for_a_silent_bucket(side):
    found = {}

    def work():
        try:
            found.update(rounds([side], SECONDS)["silent"])
        except OSError as error:
            found["failed"] = error

    DROPS["blackhole"](side.sky)
    working = threading.Thread(target=work, daemon=True)
    working.start()
    # A call to the bucket is given up after 10 s at the earliest, and fails: neither may be seen before the bucket is back.
    working.join(SECONDS + 8)
    assert not working.is_alive(), "an operation waits for the bucket"
    assert "failed" not in found, found
    print({name: (len(times), round(max(times), 3)) for name, times in found.items()})
    assert set(found) == set(OPERATIONS) and min(map(len, found.values())) >= 10
    assert not side.tenant.ready()
