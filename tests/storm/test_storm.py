"""A storm over a tenant, always the same one. `make storm` runs random ones; a seed in TENANT_STORM_SEED repeats one here."""

import os

import pytest

from storm.machines import Local
from storm.storm import Storm

SEED = os.environ.get("TENANT_STORM_SEED", "fixed")


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost(tmp_path, binary):
    def make(env):
        return Local(tmp_path / "tenant", env, storm.ledger, SEED, program=binary)

    storm = Storm(tmp_path, SEED, make)
    report = storm.run()
    print(report.words())
    assert report.acknowledged > 0, report.words()
    assert not report.problems, report.words()
