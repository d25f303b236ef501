"""The whole tenant in a container: basic-memory's notes live in the bucket and survive the machine.

basic-memory's project `main` is the folder `main/` of the bucket.
"""

import pytest

from lib.mcp import McpClient
from lib.wait import wait_until

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def tenant(s3_server, make_container):
    return make_container(s3_server).start().wait_ready()


def note_objects(s3_server):
    return {key for key in s3_server.objects() if key.endswith(".md")}


def test_tenant_init_is_pid_1_and_the_app_is_not_root(tenant):
    assert tenant.exec("readlink", "/proc/1/exe").stdout.strip() == "/usr/local/bin/tenant-init"
    app = tenant.status()["services"]["app"]["pid"]
    uids = tenant.exec("sh", "-c", f"grep ^Uid: /proc/{app}/status").stdout.split()[1:]
    assert set(uids) == {"1000"}
    # The app sees no credentials.
    environment = tenant.exec("sh", "-c", f"tr '\\0' '\\n' </proc/{app}/environ").stdout
    assert "BASIC_MEMORY_HOME=" in environment
    assert "SECRETEXAMPLE" not in environment


def test_notes_are_written_read_found_edited_moved_and_deleted(tenant, s3_server):
    with McpClient(tenant.mcp_url()) as mcp:
        mcp.call("write_note", title="Plan", directory="work", content="# Plan\nA zebra crosses the street.")
        assert "zebra" in mcp.call("read_note", identifier="work/plan")
        assert "Plan" in mcp.call("search_notes", query="zebra")
        mcp.call("edit_note", identifier="work/plan", operation="append", content="\nThen a giraffe.")
        assert "giraffe" in mcp.call("read_note", identifier="work/plan")
        # A rename while rclone uploads the old name can leave that name in the bucket too; not what is tested here.
        wait_until(lambda: tenant.status()["uploads"]["queued"] == 0, 60, "the note is uploaded")
        mcp.call("move_note", identifier="work/plan", destination_path="done/plan.md")
        assert "giraffe" in mcp.call("read_note", identifier="done/plan")
        mcp.call("write_note", title="Scrap", directory="work", content="# Scrap\nthrow me away")
        mcp.call("delete_note", identifier="work/scrap")
    end = tenant.stop()
    assert (end.code, end.verdict["stored"], end.verdict["uploads_pending"]) == (0, True, [])
    assert {key.lower() for key in note_objects(s3_server)} == {"main/done/plan.md"}
    [key] = note_objects(s3_server)
    text = s3_server.read(key)
    assert "zebra" in text and "giraffe" in text


def test_a_stop_right_after_a_note_keeps_it(tenant, s3_server):
    """write_note answers before the file is written; the stop must wait for it."""
    with McpClient(tenant.mcp_url()) as mcp:
        for i in range(20):
            mcp.call("write_note", title=f"Burst {i}", directory="burst", content=f"# Burst {i}\nnumber {i}")
    end = tenant.stop()
    assert (end.code, end.verdict["stored"]) == (0, True)
    texts = [s3_server.read(key) for key in note_objects(s3_server)]
    assert sorted(n for n in range(20) for text in texts if text.rstrip().endswith(f"number {n}")) == list(range(20))


def test_a_new_machine_has_everything(tenant, s3_server, make_container):
    with McpClient(tenant.mcp_url()) as mcp:
        mcp.call("write_note", title="Kept", directory="work", content="# Kept\nThe okapi is still here.")
    assert tenant.stop().code == 0
    tenant.remove()

    second = make_container(s3_server).start().wait_ready()
    with McpClient(second.mcp_url()) as mcp:
        # A new machine builds its index from the notes in the background.
        wait_until(lambda: "okapi" in mcp.call("read_note", identifier="work/kept"), 60, "the note is read")
        wait_until(lambda: "Kept" in mcp.call("search_notes", query="okapi"), 60, "the note is found by its words")
        mcp.call("edit_note", identifier="work/kept", operation="append", content="\nAnd a tapir.")
    assert second.stop().code == 0
    assert "tapir" in s3_server.read("main/work/Kept.md")
