"""A lease whose grant was never heard of: the disk that asked for it must not take itself for another machine."""

import pytest

from lib.faultproxy import FaultProxy
from lib.wait import wait_until

TAKE = b"SET epoch"  # only the request that takes the lease


@pytest.mark.parametrize("lost", [1, 2])
def test_writes_of_this_disk_are_uploaded_after_a_grant_that_was_never_heard_of(make_tenant, s3_server, sqld, lost):
    with FaultProxy(sqld.port) as database, FaultProxy(s3_server.port) as bucket:
        env = {"DATABASE_URL": sqld.url_at(database.port), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}"}
        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        bucket.status(503)
        (tenant.mount / "note.md").write_text("acknowledged\n")
        wait_until(lambda: tenant.status()["uploads"]["queued"] > 0, 30, "the upload waits")
        tenant.kill()
        bucket.ok()

        for _ in range(lost):
            database.swallow_next(TAKE)
            before = database.counters
            assert make_tenant(s3_server, env=env).start().wait(60).code == 69
            assert database.counters.since(before).swallowed == 1

        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        assert tenant.stop().code == 0
        assert s3_server.read("note.md") == "acknowledged\n", tenant.log()[-3000:]
        assert not list(tenant.cache.glob("set-aside-*"))


def test_a_disk_that_another_one_overtook_after_such_a_grant_keeps_its_writes_to_itself(make_tenant, s3_server, sqld):
    with FaultProxy(sqld.port) as database, FaultProxy(s3_server.port) as bucket:
        env = {"DATABASE_URL": sqld.url_at(database.port), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}",
               "TENANT_INIT_INDEX__LEASE_TTL": "3s"}
        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        bucket.status(503)
        (tenant.mount / "note.md").write_text("old\n")
        wait_until(lambda: tenant.status()["uploads"]["queued"] > 0, 30, "the upload waits")
        tenant.kill()
        bucket.ok()
        database.swallow_next(TAKE)
        assert make_tenant(s3_server, env=env).start().wait(60).code == 69

        other = make_tenant(s3_server, name="other", env=env).start().wait_ready()
        (other.mount / "note.md").write_text("new\n")
        assert other.stop().code == 0

        tenant = make_tenant(s3_server, env=env).start().wait_ready()
        assert tenant.stop().code == 0
        assert s3_server.read("note.md") == "new\n"
        assert list(tenant.cache.glob("set-aside-*")), tenant.log()[-3000:]
