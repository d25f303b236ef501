"""Storms (tests/storm) over a tenant in a container: always the same one, and one by a seed that is new.

`make storm STORM_WHERE=container` runs as many as you like.
"""

import pytest

from storm.machines import Contained
from storm.seeds import said, seeds
from storm.storm import Storm


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds())
def test_nothing_acknowledged_is_lost_in_a_container(tmp_path, seed):
    said(seed, "container")
    tmp_path.chmod(0o755)
    storm = Storm(tmp_path, seed, lambda env: Contained(tmp_path / "tenant", env, storm.ledger, seed))
    report = storm.run()
    print(report.words())
    assert report.acknowledged > 0, report.words()
    assert not report.problems, report.words()
