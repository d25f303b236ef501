"""A rename that is half done, or done, when the bucket goes away, and given up: both files are as they were, here and in the bucket.

    rename_gives_up.py nfs
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

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
network = FaultProxy(server.port).start()
env = {"TENANT_INIT_MOUNT__DRIVER": sys.argv[1], "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{network.port}"}
tenant = Tenant(folder / "tenant", server, app=["sleep", "infinity"], env=env).start()


def shown():
    return {name: (tenant.mount / name).read_text() for name in sorted(os.listdir(tenant.mount))}


def contents():
    return {name: server.read(name) for name in server.objects()}


def gives_up(part, then):
    """`then` happens before the source is deleted."""
    for name, text in {"a": f"{part} a\n", "b": f"{part} b\n"}.items():
        (tenant.mount / f"{name}.md").write_text(text)
    wait_until(lambda: contents() == shown() and tenant.status()["uploads"]["queued"] == 0, 60, lambda: str(contents()))
    happened = network.before_next(b"DELETE /notes/a.md", then)
    rename = subprocess.run(["timeout", "100", "mv", "-T", tenant.mount / "a.md", tenant.mount / "b.md"], capture_output=True, text=True)
    emit("renamed", part=part, code=rename.returncode, words=rename.stderr, files=shown(), bucket=contents(), happened=happened.is_set())
    network.ok()
    wait_until(tenant.ready, 60, tenant.log)


def carry_out_and_refuse():
    """Nobody learns that it is carried out; the next attempt, which the HTTP library makes by itself, meets nobody."""
    network.swallow_next(b"DELETE /notes/a.md")
    network.before_next(b"DELETE /notes/a.md", network.refuse)


try:
    tenant.wait_ready(60)
    emit("driver", driver=tenant.status()["services"]["mount"]["driver"])
    gives_up("copied", network.refuse)
    wait_until(lambda: contents() == shown(), 90, lambda: f"{shown()}, in the bucket {contents()}")
    emit("put right", files=shown(), bucket=contents())
    gives_up("moved", carry_out_and_refuse)
    emit("restarts", **{name: tenant.status()["services"][name]["restarts"] for name in ("mount", "app")})
    end = tenant.stop()
    emit("exit", code=end.code, bucket=contents())
finally:
    print(tenant.log()[-6000:])
    tenant.clean_up()
    network.close()
    server.kill()
