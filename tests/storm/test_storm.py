"""Storms over a tenant on this machine, by the seeds of seeds.py. `make storm` runs as many as you like."""

import pytest

from storm.machines import Local
from storm.seeds import said, seeds
from storm.storm import Storm


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", seeds())
def test_nothing_acknowledged_is_lost(tmp_path, binary, seed):
    said(seed, "host")
    storm = Storm(tmp_path, seed, lambda env: Local(tmp_path / "tenant", env, storm.ledger, seed, program=binary))
    report = storm.run()
    print(report.words())
    assert report.acknowledged > 0, report.words()
    assert not report.problems, report.words()
