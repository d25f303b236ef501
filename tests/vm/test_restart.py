"""rclone killed under load on nfs: the app sees a pause, and nothing else; every acknowledged byte is there."""

import os
import random

import pytest

from lib import vm


def longest(run):
    pauses = {**run.one("app")["longest"]}
    print("longest step of each worker:", pauses, "replaced after:", [r["seconds"] for r in run.of("replaced")])
    return max(pauses.values(), default=0)


def check(run):
    app, end, services = run.one("app"), run.one("exit"), run.one("services")
    assert (app["error_count"], app["errors"]) == (0, [])
    assert app["wrong"] == {} and app["extra"] == []
    assert services["app"]["restarts"] == 0 and services["app"]["pid"] == services["same_app"]
    assert (end["code"], end["verdict"]["stored"], end["mounts"]) == (0, True, [])
    assert end["wrong"] == {} and end["extra"] == []
    # A bound for machines under any load; the pause itself is printed.
    assert longest(run) < 10


@pytest.mark.timeout(700)
def test_an_app_at_work_does_not_notice_that_rclone_is_killed(tmp_path):
    seed = int(os.environ.get("RESTART_SEED", random.randrange(1 << 32)))
    print("RESTART_SEED =", seed)
    run = vm.boot(tmp_path, "restart.py", str(seed), "8", "kill", timeout=600).checked()
    check(run)
    # A kill that hits a new rclone before it serves belongs to the restart under way.
    assert run.one("services")["mount"]["restarts"] >= 4
    assert all(steps > 20 for steps in run.one("app")["steps"].values()), run.one("app")["steps"]


@pytest.mark.timeout(400)
def test_files_that_are_open_or_written_before_and_after_are_whole(tmp_path):
    check(vm.boot(tmp_path, "restart.py", "1", "2", "idle", timeout=300).checked())


@pytest.mark.timeout(400)
def test_a_stop_right_after_rclone_was_killed_stores_everything(tmp_path):
    check(vm.boot(tmp_path, "restart.py", "3", "2", "stop", timeout=300).checked())


@pytest.mark.timeout(500)
def test_an_rclone_that_hangs_is_replaced_as_well(tmp_path):
    run = vm.boot(tmp_path, "restart.py", "2", "2", "hang", timeout=400).checked()
    assert run.one("services")["mount"]["restarts_by_cause"]["stuck"] == 1
    app, end = run.one("app"), run.one("exit")
    assert (app["error_count"], app["errors"], app["wrong"]) == (0, [], {})
    assert (end["code"], end["wrong"], end["extra"]) == (0, {}, [])
    longest(run)


@pytest.mark.timeout(300)
def test_the_supervisor_goes_on_when_the_app_cannot_enter_its_directory(tmp_path):
    """The directory is on the mount, whose guard lives in the supervisor: who starts the app must not wait for it."""
    run = vm.boot(tmp_path, "restart_away.py", timeout=240).checked()
    assert run.of("deaf") == []
    assert run.one("exit") == {"event": "exit", "code": 0, "stored": True}
