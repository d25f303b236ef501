"""Out of memory: the kernel kills the app first, and nobody but its counters says that it was the kernel."""

import os
import signal
import uuid
from pathlib import Path

import pytest

from lib.tenant import descendants
from lib.wait import wait_until

# First life: more than there is. Later lives: quiet.
GREEDY = 'echo life >> lives.log; [ "$(grep -c life lives.log)" = 1 ] || exec sleep infinity; sleep 1; exec python3 -c "x = bytearray(1 << 30)"'


@pytest.fixture
def small_memory():
    """Makes a memory cgroup of so many MiB; gives the prefix that starts a command in it."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    made = []

    def make(mebibytes):
        name = f"tenant-test-{uuid.uuid4().hex[:8]}"
        try:
            if v1.is_dir():
                group, limits = v1 / name, {"memory.limit_in_bytes": mebibytes << 20}
            else:
                group, limits = v2 / name, {"memory.max": mebibytes << 20, "memory.swap.max": 0}
            group.mkdir()
            made.append(group)
            for file, value in limits.items():
                (group / file).write_text(str(value))
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")
        return ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]

    yield make
    for group in made:
        wait_until(lambda group=group: not (group / "cgroup.procs").read_text().split(), 20, f"{group} is empty")
        group.rmdir()


def adj(pid):
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def test_the_kernel_kills_the_app_and_the_tenant_says_so(make_tenant, s3_server, small_memory):
    env = {"TENANT_INIT_APP__RESTART": "always"}
    tenant = make_tenant(s3_server, app=["sh", "-c", GREEDY], env=env)
    tenant.start(prefix=small_memory(400))
    wait_until(lambda: tenant.status()["services"]["app"]["restarts_by_cause"] == {"oom": 1}, 60,
               lambda: f"{tenant.status()['services']}\n{tenant.log()[-2000:]}")
    assert "out of memory" in tenant.status()["services"]["app"]["last_error"]
    assert '"out_of_memory":true' in tenant.log()
    assert tenant.metric('tenant_service_restarts_total{service="app",cause="oom"}') == 1
    assert tenant.status()["services"]["mount"]["restarts"] == 0, "rclone holds what is not stored: it goes last"
    wait_until(tenant.ready, 30)
    assert tenant.stop().code == 0


def test_an_app_that_is_not_restarted_says_so_in_the_verdict(make_tenant, s3_server, small_memory):
    tenant = make_tenant(s3_server, app=["python3", "-c", "x = bytearray(1 << 30)"])
    tenant.start(prefix=small_memory(400))
    ended = tenant.wait(60)
    assert ended.code == 137
    assert "out of memory" in ended.verdict["reason"]
    assert ended.verdict["stored"] is True


def test_a_kill_by_somebody_else_is_not_called_that(make_tenant, s3_server, small_memory):
    tenant = make_tenant(s3_server, env={"TENANT_INIT_APP__RESTART": "always"})
    tenant.start(prefix=small_memory(400))
    tenant.wait_ready()
    os.kill(tenant.service_pid("app"), signal.SIGKILL)
    wait_until(lambda: tenant.status()["services"]["app"]["restarts_by_cause"] == {"exited": 1}, 30,
               lambda: str(tenant.status()["services"]["app"]))
    assert "out of memory" not in tenant.status()["services"]["app"]["last_error"]
    assert tenant.stop().code == 0


def test_the_order_in_which_the_kernel_would_kill(running_tenant):
    app, mount = running_tenant.service_pid("app"), running_tenant.service_pid("mount")
    supervisor = running_tenant.supervisor_pid()
    assert adj(app) > adj(mount) > adj(supervisor) >= adj(running_tenant.process.pid)
    assert all(adj(pid) >= adj(app) for pid in descendants(app))
