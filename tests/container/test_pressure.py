"""Back-pressure with basic-memory, which acknowledges a note before its file exists."""

import pytest

from lib.mcp import McpClient
from lib.wait import listening, wait_until

pytestmark = pytest.mark.timeout(400)


def codes(tenant):
    return {reason.split(":")[0] for reason in tenant.status()["reasons"]}


def test_notes_are_refused_at_the_door_and_what_was_acknowledged_is_stored(s3_server, make_container):
    """A read-only mount alone would not do: write_note would still say "created", and the file would never come."""
    env = {"TENANT_INIT_LIMITS__UPLOADS_MAX_AGE": "3s", "TENANT_INIT_LIMITS__UPLOADS_READ_ONLY_AGE": "8s",
           "TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s"}
    tenant = make_container(s3_server, env=env).start().wait_ready()
    acknowledged = []

    def write(number):
        with McpClient(tenant.mcp_url(), 20) as mcp:
            answer = mcp.call("write_note", title=f"Note {number}", directory="work", content=f"# Note {number}\nheron {number}")
        assert "Note" in answer
        acknowledged.append(number)

    write(0)
    wait_until(lambda: "main/work/Note 0.md" in s3_server.objects(), 60)
    s3_server.suspend()
    number = 0
    while listening(tenant.app_port):
        number += 1
        assert number < 200, f"still accepting: {tenant.status()}"
        try:
            write(number)
        except Exception as error:  # whatever the client makes of a server that is going away: not acknowledged
            print(f"note {number} was refused: {error!r}")
    wait_until(lambda: {"read_only", "app_held", "uploads_late"} <= codes(tenant), 60, lambda: str(tenant.status()["reasons"]))
    assert len(acknowledged) > 1, "the app went on in the outage before"
    assert tenant.get("/readyz")[0] == 503
    denied = tenant.exec("sh", "-c", "echo x > /data/main/stray.md")
    assert denied.returncode != 0 and ("Read-only" in denied.stderr or "No space" in denied.stderr), denied

    s3_server.resume()
    wait_until(lambda: tenant.get("/readyz")[0] == 200, 120, lambda: str(tenant.status()["reasons"]))
    assert tenant.status()["services"]["app"]["restarts"] == 0
    write(number + 1)
    with McpClient(tenant.mcp_url()) as mcp:
        for written in acknowledged:
            assert f"heron {written}" in mcp.call("read_note", identifier=f"work/note-{written}")
    end = tenant.stop()
    assert (end.code, end.verdict["stored"]) == (0, True)
    texts = {key: s3_server.read(key) for key in s3_server.objects() if key.endswith(".md")}
    for written in acknowledged:
        assert f"heron {written}" in texts[f"main/work/Note {written}.md"]
