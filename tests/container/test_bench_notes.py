"""`tenant-init bench` where basic-memory is the app: note operations on the mount and on local disk."""

import json

import pytest

from lib.mcp import McpClient

pytestmark = pytest.mark.timeout(300)

NOTES = {"note_write", "note_read", "note_search", "note_edit", "note_move", "note_delete"}


def test_note_operations_are_compared_and_nothing_of_them_is_left(s3_server, make_container):
    tenant = make_container(s3_server).start().wait_ready()
    with McpClient(tenant.mcp_url()) as mcp:
        mcp.call("write_note", title="Mine", directory="work", content="# Mine\nThe okapi was measured, too.")
        done = tenant.exec("tenant-init", "bench", "--only", "notes", "--samples", "4", "--json", seconds=200)
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        measured = {measure["name"]: measure for measure in result["measures"]}
        assert set(measured) == NOTES and not result["skipped"], done.stderr
        assert all(measure["mount"]["samples"] == measure["local"]["samples"] == 1 for measure in measured.values())

        assert "okapi" in mcp.call("read_note", identifier="work/mine")
        found = mcp.call("search_notes", query="measured")
        assert "Mine" in found and "Round" not in found
        assert "bench" not in mcp.call("list_directory", dir_name="/", depth=3)
    left = tenant.exec("find", "/data", "/var/lib/tenant-init/app", "-name", "*tenant-init-bench*").stdout
    assert left == ""
    # Every process of the second basic-memory is gone.
    assert tenant.exec("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'basic-memory [m]cp' | wc -l").stdout.strip() == "1"
    assert tenant.stop().code == 0
    assert {key for key in s3_server.objects() if key.endswith(".md")} == {"main/work/Mine.md"}
