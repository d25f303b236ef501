"""A rename whose copy in the bucket meets an upload of its target that rclone has given up and that arrives late: rclone finds the
wrong length, and takes the object away.

    rename_meets.py nfs|fuse
"""

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

KEPT, UPLOADED = "the one to keep\n", "uploaded at a bad moment\n"

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
network = FaultProxy(server.port).start()
env = {"TENANT_INIT_MOUNT__DRIVER": sys.argv[1], "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}
tenant = Tenant(folder / "tenant", server, app=["sleep", "infinity"], env=env).start()


def contents():
    return {name: server.read(name) for name in server.objects()}


def shown():
    return {name: (tenant.mount / name).read_text() for name in os.listdir(tenant.mount)}


try:
    tenant.wait_ready(60)
    emit("driver", driver=tenant.status()["services"]["mount"]["driver"])
    (tenant.mount / "stored.md").write_text(KEPT)
    wait_until(lambda: tenant.settled("stored.md"), 30, lambda: str(contents()))
    upload = network.hold_next(b"PUT /notes/note.md")
    (tenant.mount / "note.md").write_text(UPLOADED)
    assert upload.arrived.wait(30)
    check = []
    copying = network.before_next(b"X-Amz-Copy-Source", lambda: check.append(network.hold_next(b"HEAD /notes/note.md", b"rclone/")))
    rename = subprocess.Popen(["timeout", "100", "mv", "-T", tenant.mount / "stored.md", tenant.mount / "note.md"], stderr=subprocess.PIPE, text=True)
    assert copying.wait(30) and check[0].arrived.wait(30)
    upload.deliver()
    wait_until(lambda: contents().get("note.md") == UPLOADED, 30, lambda: str(contents()))
    check[0].deliver()
    _, words = rename.communicate()
    emit("rename", code=rename.returncode, words=words, kept=KEPT)
    # Whoever looks now must find both as they were.
    emit("looked", files=shown())
    with open(tenant.mount / "note.md", "a") as file:
        file.write("and more\n")
    emit("written", files=shown())
    wanted = shown()
    wait_until(lambda: contents() == wanted and tenant.ready(), 60, lambda: f"{wanted}, not {contents()}")
    emit("restarts", **{name: tenant.status()["services"][name]["restarts"] for name in ("mount", "app")})
    end = tenant.stop()
    emit("exit", code=end.code, bucket=contents())
finally:
    print(tenant.log()[-3000:])
    tenant.clean_up()
    network.close()
    server.kill()
