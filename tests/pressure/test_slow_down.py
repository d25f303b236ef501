"""A store that asks to slow down is obeyed, and it shows."""

import os
import signal

import pytest

from lib.faultproxy import FaultProxy
from lib.wait import wait_until

SLOW_DOWN = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
FAST = {"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "1s",
        "TENANT_INIT_MOUNT__WRITE_BACK": "200ms"}


def told(tenant):
    """Does it say so?"""
    return any(reason.startswith("storage_slow_down: the store asks us to slow down") for reason in tenant.status()["reasons"])


@pytest.fixture
def proxy(s3_server):
    with FaultProxy(s3_server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("status", [503, 429])
def test_it_is_told_from_an_outage_counted_and_nothing_is_lost(make_tenant, s3_server, proxy, status):
    env = {**FAST, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    proxy.status(status, SLOW_DOWN)
    before = proxy.counters
    files = {f"note-{n}.md": f"acknowledged {n}\n" for n in range(20)}
    for name, text in files.items():
        (tenant.mount / name).write_text(text)

    wait_until(lambda: told(tenant), 20, lambda: str(tenant.status()["reasons"]))
    # Probes and uploads are both counted: wait until several have been answered so.
    wait_until(lambda: tenant.metric("tenant_storage_slow_downs_total") >= 10, 60)
    wait_until(lambda: tenant.status()["uploads"]["failing"] > 0, 30)
    requests = proxy.counters.since(before).injected
    print(f"{requests} requests were answered with {status} before that")
    assert not any("storage_unreachable" in reason for reason in tenant.status()["reasons"])
    assert tenant.status()["services"]["mount"]["restarts"] == 0
    proxy.ok()
    wait_until(tenant.ready, 90, lambda: str(tenant.status()["reasons"]))
    wait_until(lambda: set(s3_server.objects()) == set(files), 90)
    assert tenant.stop().code == 0
    assert {name: s3_server.read(name) for name in files} == files


@pytest.mark.timeout(180)
def test_nothing_is_uploaded_before_an_rclone_has_taken_up_what_the_one_before_it_left(make_tenant, s3_server, proxy):
    """It would show the file as empty, and store what is appended to that. (Found by a storm.)"""
    env = {**FAST, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{proxy.port}"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    files = {f"note-{n}.md": f"acknowledged {n}\n" for n in range(100)}
    for life in range(3):
        proxy.status(503, SLOW_DOWN)
        for name in files:
            with open(tenant.mount / name, "a") as file:
                file.write(files[name] if life == 0 else f"life {life}\n")
            files[name] += "" if life == 0 else f"life {life}\n"
        wait_until(lambda: told(tenant), 20, tenant.log)
        failed = tenant.metric("tenant_upload_failures_total")
        wait_until(lambda: tenant.metric("tenant_upload_failures_total") > failed, 30, tenant.log)
        # For some seconds they go one by one, while another rclone takes them up.
        proxy.ok()
        os.kill(tenant.service_pid("mount"), signal.SIGKILL)
        wait_until(lambda: tenant.status()["services"]["mount"]["restarts"] == life + 1 and tenant.ready(), 60, tenant.log)
        assert {name: (tenant.mount / name).read_text() for name in files} == files
        assert "stored at once" not in tenant.log(), "before they were taken up"
    wait_until(lambda: {name: s3_server.read(name) for name in s3_server.objects()} == files, 90)
    assert tenant.stop().code == 0
