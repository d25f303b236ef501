"""New keys on nfs: rclone is replaced behind the guard, and an app at work does not notice."""

import pytest

from lib import vm


@pytest.mark.timeout(400)
def test_an_app_at_work_does_not_notice_that_the_key_is_rotated(tmp_path):
    run = vm.boot(tmp_path, "restart.py", "5", "2", "keys", timeout=300).checked()
    app, end, services = run.one("app"), run.one("exit"), run.one("services")
    assert (app["error_count"], app["errors"]) == (0, [])
    assert app["wrong"] == {} and app["extra"] == []
    assert services["mount"]["restarts_by_cause"] == {"keys": 2}
    assert services["app"]["restarts"] == 0 and services["app"]["pid"] == services["same_app"]
    assert (end["code"], end["verdict"]["stored"], end["mounts"]) == (0, True, [])
    assert end["wrong"] == {} and end["extra"] == []
    pauses = app["longest"]
    print("longest step of each worker:", pauses, "replaced after:", [r["seconds"] for r in run.of("replaced")])
    assert max(pauses.values()) < 10, "a bound for machines under any load"
    assert all(steps > 20 for steps in app["steps"].values()), app["steps"]
