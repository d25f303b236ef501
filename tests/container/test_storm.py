"""Storms (tests/storm) in containers, by the seeds of storm/seeds.py.

`make storm STORM_WHERE=container` and `STORM_WHERE=notes` run as many as you like.
"""

import pytest

from storm.machines import Contained
from storm.notes import NotesStorm
from storm.seeds import said, seeds
from storm.storm import Storm

pytestmark = pytest.mark.timeout(600)
NOTES_STEPS = 3


@pytest.mark.parametrize("seed", seeds(new=True))
def test_nothing_acknowledged_is_lost_in_a_container(tmp_path, seed):
    said(seed, "container")
    tmp_path.chmod(0o755)
    storm = Storm(tmp_path, seed, lambda env: Contained(tmp_path / "tenant", env, storm.ledger, seed))
    judge(storm.run())


@pytest.mark.parametrize("seed", seeds())
def test_no_note_is_lost_and_the_index_is_the_same(tmp_path, sqld_binary, seed):
    said(seed, f"notes STORM_STEPS={NOTES_STEPS}")
    tmp_path.chmod(0o755)
    judge(NotesStorm(tmp_path, seed, sqld_binary, steps=NOTES_STEPS).run())


def judge(report):
    print(report.words())
    assert report.acknowledged > 0, report.words()
    assert not report.problems, report.words()
