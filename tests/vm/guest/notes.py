"""basic-memory's notes on the tenant's NFS mount, by MCP, in two lives of the tenant.

    notes.py child        this script starts the tenant twice, the second time on an empty disk (as on Fly: not PID 1)
    notes.py pid1 first   the tenant is PID 1 (vm-run.sh --pid1): one life that writes
    notes.py pid1 second  the next boot, a new disk and the same bucket: one life that must find everything

The bucket is a folder outside the machine, so it survives a boot.
"""

import os
import sys
import tempfile
from pathlib import Path

from lib.mcp import McpClient
from lib.s3 import S3Server
from lib.tenant import Tenant, get
from lib.wait import wait_until
from vm.guestlib import DISK, emit, start_pid1, stop_pid1

STORE = Path("/vm/out")
S3_PORT = 9000


def write(url, uploads):
    """`uploads` gives the number of files on their way to the bucket."""
    with McpClient(url) as mcp:
        mcp.call("write_note", title="Plan", directory="work", content="# Plan\nA zebra crosses the street.")
        emit("read", ok="zebra" in mcp.call("read_note", identifier="work/plan"))
        emit("search", ok="Plan" in mcp.call("search_notes", query="zebra"))
        mcp.call("edit_note", identifier="work/plan", operation="append", content="\nThen a giraffe.")
        emit("edit", ok="giraffe" in mcp.call("read_note", identifier="work/plan"))
        # A rename while rclone uploads the old name can leave that name in the bucket too; not what is tested here.
        wait_until(lambda: uploads() == 0, 60, "the note is uploaded")
        mcp.call("move_note", identifier="work/plan", destination_path="done/plan.md")
        emit("move", ok="giraffe" in mcp.call("read_note", identifier="done/plan"))
        mcp.call("write_note", title="Scrap", directory="work", content="# Scrap\nthrow me away")
        mcp.call("delete_note", identifier="work/scrap")


def find(url, _):
    with McpClient(url) as mcp:
        # A new machine builds its index from the notes in the background.
        wait_until(lambda: "giraffe" in mcp.call("read_note", identifier="done/plan"), 60, "the note is read")
        emit("found", ok=True)
        wait_until(lambda: "Plan" in mcp.call("search_notes", query="zebra"), 60, "the note is found by its words")
        emit("found_by_search", ok=True)


def child(s3):
    folder = Path(tempfile.mkdtemp(dir=DISK))
    for life, use in (("first", write), ("second", find)):
        tenant = Tenant(folder / life, s3, env={"TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app"})
        tenant.start()
        try:
            tenant.wait_ready(120)
            emit("driver", life=life, driver=tenant.status()["services"]["mount"]["driver"])
            use(tenant.mcp_url(), lambda: tenant.status()["uploads"]["queued"])
            end = tenant.stop()
            emit("exit", life=life, code=end.code, verdict=end.verdict, mounts=tenant.mounts())
        finally:
            print(tenant.log()[-3000:])
            tenant.clean_up()


def pid1(use):
    start_pid1()
    wait_until(lambda: get("http://127.0.0.1:9180/readyz")[0] == 200, 120,
               lambda: f"ready: {get('http://127.0.0.1:9180/status')}")
    emit("pid1", program=os.readlink("/proc/1/exe"))
    use("http://127.0.0.1:8000/mcp", lambda: get("http://127.0.0.1:9180/status")[1]["uploads"]["queued"])
    stop_pid1()


server = S3Server(STORE, port=S3_PORT).start()
if sys.argv[1] == "child":
    child(server)
else:
    pid1(write if sys.argv[2] == "first" else find)
