"""Back-pressure and a jump of the clock on nfs, with the guard between the kernel and rclone."""

import re

import pytest

from lib import vm

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return vm.boot(tmp_path_factory.mktemp("pressure"), "pressure.py", timeout=600).checked()


def test_writes_are_refused_with_enospc_and_reading_goes_on(run):
    refused = run.one("refused")
    assert {refused[how] for how in ("create", "change", "open_file", "rename")} == {"ENOSPC"}
    assert refused["read"] == "during\n"
    assert not refused["ready"] and {"uploads_late", "read_only"} <= set(refused["codes"])


def test_it_goes_away_by_itself_and_what_was_acknowledged_is_stored(run):
    after = run.one("after")
    assert (after["code"], after["stored"], after["same_app"]) == (0, True, True), after


def test_a_jump_of_the_clock_is_taken_for_an_absence(run):
    jump = run.one("jump")
    assert (jump["same"], jump["code"], jump["stored"]) == (True, 0, True), jump
    [seconds] = re.findall(r"away for ([0-9.]+) s", str(jump["said"]))
    assert 3590 < float(seconds) < 3610
