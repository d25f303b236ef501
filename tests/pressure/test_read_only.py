"""Back-pressure: what could not be stored is refused while there is still room for what was accepted."""

import errno
import time

import pytest

from lib.wait import wait_until

LIMITS = {"TENANT_INIT_LIMITS__UPLOADS_MAX_AGE": "2s", "TENANT_INIT_LIMITS__UPLOADS_READ_ONLY_AGE": "5s",
          "TENANT_INIT_MOUNT__WRITE_BACK": "200ms", "TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s"}


def codes(tenant):
    return {reason.split(":")[0] for reason in tenant.status()["reasons"]}


def write(tenant, name, text, acknowledged):
    (tenant.mount / name).write_text(text)
    acknowledged[name] = text


def refused(tenant, name="refused.md"):
    """The errno of a write that must not be accepted; None when it was."""
    try:
        (tenant.mount / name).write_text("never acknowledged\n")
    except OSError as error:
        return error.errno
    return None


def stored(s3_server, acknowledged):
    return all(name in s3_server.objects() and s3_server.read(name) == text for name, text in acknowledged.items())


def test_a_silent_bucket_ends_in_read_only_and_its_return_in_a_mount_that_takes_writes(make_tenant, s3_server):
    tenant = make_tenant(s3_server, env=LIMITS).start().wait_ready()
    acknowledged = {}
    write(tenant, "before.md", "stored before the outage\n", acknowledged)
    wait_until(lambda: stored(s3_server, acknowledged), 20)
    s3_server.suspend()
    write(tenant, "during.md", "acknowledged in the outage\n", acknowledged)
    wait_until(lambda: "uploads_late" in codes(tenant), 20, "not ready first")
    assert not tenant.status()["uploads"]["read_only"] or "read_only" in codes(tenant)
    wait_until(lambda: tenant.status()["uploads"]["read_only"], 20, "then read-only")
    assert tenant.get("/readyz")[0] == 503 and "read_only" in codes(tenant)
    assert tenant.metric("tenant_mount_read_only") == 1
    assert refused(tenant) in (errno.EROFS, errno.ENOSPC)
    assert refused(tenant, "before.md") in (errno.EROFS, errno.ENOSPC), "nor is a file changed that is stored"
    assert (tenant.mount / "during.md").read_text() == acknowledged["during.md"], "reading goes on"
    assert tenant.status()["services"]["app"]["restarts"] == 0

    s3_server.resume()
    wait_until(tenant.ready, 60, lambda: f"ready again by itself: {tenant.status()['reasons']}")
    write(tenant, "after.md", "acknowledged afterwards\n", acknowledged)
    ended = tenant.stop()
    assert ended.code == 0, ended
    assert stored(s3_server, acknowledged)
    assert "refused.md" not in s3_server.objects()


def test_a_stop_while_read_only_names_what_is_left_and_the_next_start_is_writable_again(make_tenant, s3_server):
    env = {**LIMITS, "TENANT_INIT_LIMITS__STOP_TIMEOUT": "6s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    acknowledged = {}
    s3_server.suspend()
    write(tenant, "left.md", "acknowledged\n", acknowledged)
    wait_until(lambda: tenant.status()["uploads"]["read_only"], 30)
    ended = tenant.stop()
    assert (ended.code, ended.verdict["uploads_pending"]) == (74, ["left.md"])
    s3_server.resume()
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    write(tenant, "next.md", "writable\n", acknowledged)
    assert tenant.stop().code == 0
    assert stored(s3_server, acknowledged)


def test_a_full_cache_disk_refuses_writes_before_it_loses_one(make_tenant, s3_server, small_disk):
    disk = small_disk(96)
    # The rest of the disk is somebody else's: 40 MiB are left, of which 16 are the reserve.
    (disk / "ballast").write_bytes(bytes(56 << 20))
    env = {"TENANT_INIT_MOUNT__CACHE_DIR": str(disk / "cache"), "TENANT_INIT_MOUNT__CACHE_MIN_FREE": "16MiB",
           "TENANT_INIT_MOUNT__CACHE_MAX_SIZE": "64MiB", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "200ms",
           "TENANT_INIT_MOUNT__WRITE_BACK": "200ms", "TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s"}
    tenant = make_tenant(s3_server, env=env).start().wait_ready()
    s3_server.suspend()
    acknowledged, number, seen, code = {}, 0, set(), None
    while code is None:
        try:
            write(tenant, f"note-{number:03}.md", f"{number:07}\n" * (64 << 10), acknowledged)  # half a MiB
        except OSError as error:
            code = error.errno
            break
        number += 1
        seen |= codes(tenant)
        assert number < 80, f"40 MiB were accepted on a disk with 40 MiB: {tenant.status()}"
        time.sleep(0.05)  # not a wait for anything: slower than a look at the disk
    assert code in (errno.EROFS, errno.ENOSPC)
    wait_until(lambda: tenant.status()["uploads"]["read_only"], 20, lambda: f"{tenant.status()}")
    assert "cache_disk_full" in seen, "not ready came first"
    assert refused(tenant) in (errno.EROFS, errno.ENOSPC)
    assert tenant.status()["uploads"]["room_bytes"] > 0, "refused while there was room for what was accepted"

    s3_server.resume()
    wait_until(lambda: not tenant.status()["uploads"]["read_only"], 90, lambda: f"writable again: {tenant.status()}")
    write(tenant, "after.md", "acknowledged afterwards\n", acknowledged)
    ended = tenant.stop()
    assert ended.code == 0, ended
    assert stored(s3_server, acknowledged)


def test_an_app_that_keeps_a_file_open_is_ended_and_comes_back(make_tenant, s3_server):
    """On FUSE the kernel refuses to make a mount read-only under it."""
    app = ["sh", "-c", 'echo "begin $$" >> life.log; exec 3>> open.log; while :; do echo line >&3; sleep 0.2; done']
    tenant = make_tenant(s3_server, app=app, env=LIMITS).start().wait_ready()
    if tenant.status()["services"]["mount"]["driver"] != "fuse":
        pytest.skip("on nfs the guard refuses writes to open files too")
    first = tenant.service_pid("app")
    s3_server.suspend()
    (tenant.mount / "waits.md").write_text("acknowledged\n")
    wait_until(lambda: {"app_held", "read_only"} <= codes(tenant), 60, lambda: str(tenant.status()["reasons"]))
    assert tenant.service_pid("app") is None
    assert refused(tenant) == errno.EROFS
    s3_server.resume()
    wait_until(tenant.ready, 60, lambda: str(tenant.status()["reasons"]))
    assert tenant.service_pid("app") not in (None, first)
    assert tenant.status()["services"]["app"]["restarts"] == 0
    wait_until(lambda: (tenant.mount / "life.log").read_text().count("begin") == 2, 20, "the app's second life has begun")
    assert tenant.stop().code == 0
    assert s3_server.read("life.log").count("begin") == 2
    assert s3_server.read("waits.md") == "acknowledged\n"


