"""Storms over a tenant: a fixed one and a random one. `make storm` runs many; a seed in TENANT_STORM_SEED repeats one."""

import os
import secrets

import pytest

from storm.machines import Local
from storm.storm import Storm

GIVEN = os.environ.get("TENANT_STORM_SEED")
SEEDS = [GIVEN] if GIVEN else ["fixed", secrets.token_hex(4)]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_acknowledged_is_lost(tmp_path, binary, seed):
    def make(env):
        return Local(tmp_path / "tenant", env, storm.ledger, seed, program=binary)

    storm = Storm(tmp_path, seed, make)
    report = storm.run()
    print(report.words())
    assert report.acknowledged > 0, report.words()
    assert not report.problems, report.words()
