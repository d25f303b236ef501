"""Overwriting a stored file in place, with O_TRUNC: with its bucket, and without."""

import os
import tempfile
import time
from pathlib import Path

from lib.faultproxy import FaultProxy
from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
network = FaultProxy(server.port)
network.start()
env = {"TENANT_INIT_MOUNT__DRIVER": "nfs", "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}
tenant = Tenant(folder / "tenant", server, app=["sleep", "infinity"], env=env).start()


def stored(text):
    wait_until(lambda: server.objects() and server.read("note.md") == text, 30, lambda: str(server.objects()))
    wait_until(lambda: tenant.status()["uploads"]["queued"] == 0, 30)


def overwrite(text):
    """How long that took (seconds), and by how much the file's time went on."""
    before, began = os.stat(note).st_mtime_ns, time.monotonic()
    with open(note, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return {"seconds": time.monotonic() - began, "newer": os.stat(note).st_mtime_ns - before}


try:
    tenant.wait_ready(60)
    note = tenant.mount / "note.md"
    note.write_text("first\n")
    stored("first\n")
    before = len(network.seen)
    emit("healthy", **overwrite("second\n"))
    stored("second\n")
    emit("requests", writing=[line for line in list(network.seen)[before:] if line.startswith(("PUT", "POST", "DELETE"))])
    network.silent()
    emit("silent", **overwrite("third\n"))
    network.ok()
    stored("third\n")
    emit("exit", code=tenant.stop().code, text=server.read("note.md"))
finally:
    print(tenant.log()[-3000:])
    tenant.clean_up()
    network.close()
    server.kill()
