"""A start that cannot succeed: its exit code, soon, one clear last line, and never a word of being ready."""

import json

import pytest

from lib.troubles import TROUBLES


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_trouble_ends_the_start(trouble, make_tenant, s3_server):
    tenant = make_tenant(s3_server, app=["sh", "-c", "echo the app was started; sleep infinity"])
    with trouble.arrange(tenant, s3_server) as prefix:
        ended = tenant.start(prefix=prefix).wait(30)
    assert ended.code == trouble.code, tenant.log()[-3000:]
    assert ended.seconds < 15
    assert ended.verdict is not None and ended.verdict["exit_code"] == trouble.code, tenant.stdout()
    assert trouble.words in ended.last_line, tenant.log()[-3000:]
    said = [json.loads(line) for line in tenant.log().splitlines() if line.startswith("{")]
    assert not [line for line in said if line.get("event") == "ready"]
    assert "the app was started" not in tenant.log() + tenant.stdout()
    assert s3_server.secret not in tenant.log() and s3_server.key_id not in tenant.log()
    assert tenant.mounts() == []
    assert s3_server.objects(own=True) == {}, "something was written to the bucket"


def test_the_same_tenant_starts_once_the_trouble_is_over(make_tenant, s3_server):
    tenant = make_tenant(s3_server)
    s3_server.stop()
    assert tenant.start().wait(30).code == 69
    s3_server.start()
    tenant.start().wait_ready()
    assert tenant.stop().code == 0
