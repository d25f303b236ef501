"""The supervisor is killed on nfs: with its guard gone the app hangs in the mount, and everything is stored all the same."""

import pytest

from lib import vm

CASES = {"burst": 137, "at_work": 134, "reconnect": 137, "drain": 137}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return vm.boot(tmp_path_factory.mktemp("recover"), "recover.py", *CASES, timeout=400).checked()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_and_everything_is_stored(run, case):
    [end] = [end for end in run.of("ended") if end["case"] == case]
    print(case, end["seconds"], "s from the kill to the end")
    assert (end["code"], end["verdict"]["exit_code"], end["verdict"]["stored"]) == (CASES[case], CASES[case], True), end
    assert (end["mounts"], end["left"], end["named"], end["marker"]) == ([], [], {}, True), end
    assert end["wrong"] == [] and len(end["extra"]) <= 1, end
