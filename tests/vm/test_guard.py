"""The NFS guard alone between a real kernel and a real rclone: what it keeps, what it costs.

The guard runs as `examples/guard.rs`, so that a failure here is the guard's and not the supervisor's.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from lib import vm

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def guard():
    """Path of the guard as a program."""
    done = subprocess.run(["cargo", "build", "--release", "--locked", "--example", "guard"], cwd=REPO,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return REPO / "target/release/examples/guard"


@pytest.fixture(scope="session")
def files(guard, tmp_path_factory):
    """One boot that goes through every case."""
    folder = tmp_path_factory.mktemp("guard")
    shutil.copy(guard, folder / "guard")
    return vm.boot(folder, "guard_files.py", timeout=570).checked()


pytestmark = pytest.mark.timeout(1500)


def test_no_open_destroys_what_is_in_a_file(files):
    assert [case for case in files.of("case") if not case["kept"]] == []
    assert files.one("replace_then_append")["lost"] == 0
    assert files.one("replace_then_read")["lost"] == 0
    assert files.one("bucket")["differences"] == {}
    assert files.one("bucket")["negative_kept"]


def test_a_file_made_elsewhere_is_opened_although_the_kernel_holds_it_for_absent(files):
    cases = files.of("negative_case")
    assert {case["name"] for case in cases} == {"append", "touch", "rdwr_creat", "truncate", "after_unlink"}
    assert [case for case in cases if case["error"] or case["seen"] != case["want"]] == []
    # open(…, 0o777) of a file that is there does not change its mode.
    assert {case["mode"] for case in cases} == {"0o644", None}
    modes = files.one("modes")
    assert modes["opened"] == modes["looked_up"]


def test_a_watcher_sees_no_new_file_where_there_was_one(files):
    events = files.one("events")
    assert events["existing"] == ["modify:watched.md", "close_write:watched.md"]
    assert events["created"] == ["create:fresh.md", "modify:fresh.md", "close_write:fresh.md"]


def test_only_the_kernel_and_root_are_served(files):
    peers = files.one("peers")
    assert peers["ports_and_uids"], "the kernel has no connection to the guard"
    assert all(port < 1024 and uid == 0 for port, uid in peers["ports_and_uids"])
    assert peers["refused"]


def test_a_large_file_comes_back_as_it_was(files):
    large = files.one("large")
    assert large["read_back"] and large["stored"]
    resident, peak = large["rss_kib"]
    assert peak < 48 << 10, "16 MiB of calls and 16 of replies at most"
    assert resident < 20 << 10


def test_eight_programs_at_a_time_lose_nothing(files):
    parallel = files.one("parallel")
    assert parallel["files"] > 50
    assert parallel["wrong"] == parallel["not_stored"] == []
    assert parallel["names_right"] and parallel["shared"]


def test_an_rclone_that_stands_still_delays_and_loses_nothing(files):
    suspended = files.one("suspended")
    assert suspended["during"]["stuck"] > 0 and suspended["during"]["oldest"] >= 1
    assert suspended["wrong"] == []
    assert suspended["after"]["in_flight"] == suspended["after"]["stuck"] == 0


def test_one_call_that_waits_for_the_bucket_does_not_freeze_the_mount(files):
    blocked = files.one("blocked")
    assert blocked["stats"]["stuck"] == 1, "the read waits"
    assert None not in blocked["seconds"].values(), blocked["seconds"]
    assert blocked["reader_ended"] and blocked["warm"]


def test_modifying_calls_can_be_refused(files):
    refusing = files.one("refusing")
    assert refusing["read_only"] == ["EROFS"] * 4 + [True]
    assert refusing["full"] == ["ENOSPC", "ENOSPC", True, None]
    assert refusing["writable"] is None


def test_calls_can_be_held(files):
    held = files.one("held")
    assert held["waited"] and held["ended"] == 0 and held["kept"]


def test_an_unmount_leaves_rclone_and_its_queue_alone(files):
    unmount = files.one("unmount")
    assert unmount["answered"] == 28, "a reply without results"
    assert unmount["rclone_running"] and unmount["stored"]


def test_what_the_guard_costs_is_measured(guard, tmp_path):
    """Figures for people; only what can't depend on the machine's load is asserted."""
    shutil.copy(guard, tmp_path / "guard")
    run = vm.boot(tmp_path, "guard_latency.py", "40", timeout=400).checked()
    for result in run.of("latency") + run.of("throughput"):
        print(result)
    cost = run.one("cost")
    assert cost["rpc"]["create"]["errors"] == {}
    assert cost["rss_kib"][0] < 20 << 10
