"""One row of the table of faults on nfs: the app is killed, and started again in a folder that only the supervisor's guard can open."""

import pytest

from lib import vm


@pytest.mark.timeout(300)
def test_a_killed_app_is_started_again(tmp_path):
    run = vm.boot(tmp_path, "fault_table.py", "--seconds", "1", "--jobs", "1", "--only", "app killed", "--tenant-only", timeout=240).checked()
    row = run.one("row")
    assert row["failed"] is None and row["ready"] is not None and row["ends"], row
    assert (row["restarts"], row["lost"], row["wrong"]) == ({"app": 1}, [], []), row
