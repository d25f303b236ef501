"""Suspended and resumed: every process stands still, the clocks go on."""

import os
import signal
import time

from lib.tenant import descendants
from lib.wait import wait_until

FAST = {"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "1s"}


class Frozen:
    """Everything of a tenant stands still for at least `seconds`."""

    def __init__(self, tenant, seconds):
        self.tenant, self.seconds = tenant, seconds

    def __enter__(self):
        self.pids = [self.tenant.process.pid, *descendants(self.tenant.process.pid)]
        for pid in self.pids:
            os.kill(pid, signal.SIGSTOP)
        self.began = time.monotonic()

    def __exit__(self, *_):
        # The absence itself is what is tested.
        time.sleep(max(0, self.seconds - (time.monotonic() - self.began)))
        for pid in reversed(self.pids):
            os.kill(pid, signal.SIGCONT)


def test_a_stall_is_noticed_everything_is_looked_at_again_and_nothing_restarted(make_tenant, s3_server):
    tenant = make_tenant(s3_server, env=FAST).start().wait_ready()
    before = tenant.status()
    (tenant.mount / "before.md").write_text("acknowledged before\n")
    with Frozen(tenant, 7):
        pass
    wait_until(lambda: tenant.status()["totals"]["resumes"] == 1, 20)
    wait_until(tenant.ready, 20, lambda: str(tenant.status()["reasons"]))
    assert "this machine was away for" in tenant.log()
    after = tenant.status()
    for service in ("mount", "app"):
        assert after["services"][service]["pid"] == before["services"][service]["pid"]
        assert after["services"][service]["restarts"] == 0
    assert tenant.metric("tenant_resumes_total") == 1
    (tenant.mount / "after.md").write_text("acknowledged after\n")
    assert tenant.stop().code == 0
    assert set(s3_server.objects()) == {"before.md", "after.md"}


def test_a_bucket_that_went_away_in_the_meantime_is_known_at_once(make_tenant, s3_server):
    """Nothing that was known before the absence is assumed: not ready until the bucket has answered."""
    env = {"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1h", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "1s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    with Frozen(tenant, 7):
        s3_server.stop()
    wait_until(lambda: any(r.startswith("storage_unreachable") for r in tenant.status()["reasons"]), 20,
               lambda: f"the next ordinary probe is an hour away: {tenant.status()['reasons']}")
    s3_server.start()
    wait_until(tenant.ready, 30)
    assert tenant.stop().code == 0
