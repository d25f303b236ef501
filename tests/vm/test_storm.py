"""Storms (tests/storm) over a tenant on an NFS mount, by the seeds of storm/seeds.py.

`make storm STORM_WHERE=vm` runs as many as you like.
"""

import pytest

from lib import vm
from storm.seeds import said, seeds

STEPS = 4


@pytest.mark.timeout(700)
@pytest.mark.parametrize("seed", seeds(new=True))
def test_nothing_acknowledged_is_lost_on_nfs(tmp_path, seed):
    said(seed, f"vm STORM_STEPS={STEPS}")
    told = vm.boot(tmp_path, "run_storm.py", seed, str(STEPS), timeout=600).checked().one("storm")
    print(told["words"])
    assert told["acknowledged"] > 0, told["words"]
    assert not told["problems"], told["words"]
