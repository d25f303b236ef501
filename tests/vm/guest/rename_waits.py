"""Renames of stored files when the bucket is slow to answer, or its answers are lost.

    rename_waits.py nfs
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.faultproxy import FaultProxy
from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit

COPY = b"X-Amz-Copy-Source"

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
network = FaultProxy(server.port).start()
env = {"TENANT_INIT_MOUNT__DRIVER": sys.argv[1], "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}
tenant = Tenant(folder / "tenant", server, app=["sleep", "infinity"], env=env).start()


def contents():
    return {name: server.read(name) for name in server.objects()}


def shown():
    return {name: (tenant.mount / name).read_text() for name in sorted(os.listdir(tenant.mount))}


def store(**files):
    """Makes `files` (name: content) all that there is, here and in the bucket."""
    for name in os.listdir(tenant.mount):
        (tenant.mount / name).unlink()
    for name, text in files.items():
        (tenant.mount / f"{name}.md").write_text(text)
    for name in files:
        wait_until(lambda name=name: tenant.settled(f"{name}.md"), 60, lambda: str(contents()))
    wait_until(lambda: contents() == shown(), 60, lambda: str(contents()))


def start(*command):
    return subprocess.Popen(["timeout", "100", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def move():
    return start("mv", "-T", str(tenant.mount / "a.md"), str(tenant.mount / "b.md"))


def end(part, process, **more):
    output, words = process.communicate()
    emit(part, code=process.returncode, words=words, files=shown(), output=output, **more)


def stored(part):
    wait_until(lambda: contents() == shown() and tenant.ready(), 60, lambda: f"{shown()}, in the bucket {contents()}")
    restarts = {name: tenant.status()["services"][name]["restarts"] for name in ("mount", "app")}
    emit("stored", part=part, files=contents(), restarts=restarts)


try:
    tenant.wait_ready(60)
    emit("driver", driver=tenant.status()["services"]["mount"]["driver"])

    # An upload of the source is under way.
    store(a="one\n", b="the other\n")
    upload = network.hold_next(b"PUT /notes/a.md")
    (tenant.mount / "a.md").write_text("one, changed\n")
    assert upload.arrived.wait(30)
    copying = network.before_next(COPY, lambda: None)
    moving = move()
    early = copying.wait(1)
    upload.deliver()
    end("uploading", moving, early=early)
    stored("uploading")

    # The source is read while the rename is under way, and that fails.
    store(a="one\n", b="the other\n")
    copy = network.hold_next(COPY)
    moving = move()
    assert copy.arrived.wait(30)
    Path("/proc/sys/vm/drop_caches").write_text("1")
    reading = start("cat", str(tenant.mount / "a.md"))
    with contextlib.suppress(subprocess.TimeoutExpired):
        reading.wait(1)
    network.refuse()
    end("reading", moving, text=reading.communicate()[0])
    network.lose()
    copy.deliver()
    network.ok()
    for name in "ab":
        with open(tenant.mount / f"{name}.md", "a") as file:
            file.write(f"more of {name}\n")
    emit("appended", files=shown())
    stored("reading")

    # The bucket copies, and its answer is lost (and once more, as HTTP clients ask again where a connection is cut).
    store(a="one\n", b="the other\n")
    network.swallow_next(COPY, count=2)
    end("copied", move())
    stored("copied")

    # It also deletes the source, and that answer is lost.
    store(a="one\n", b="the other\n")
    network.swallow_next(b"DELETE /notes/a.md", count=2)
    end("deleted", move())
    stored("deleted")
    emit("exit", code=tenant.stop().code)
finally:
    print(tenant.log()[-6000:])
    tenant.clean_up()
    network.close()
    server.kill()
