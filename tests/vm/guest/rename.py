"""A rename that fails because the bucket is away, and what is written afterwards to the file under the name that it kept.

    rename.py nfs|fuse
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
tenant = Tenant(folder / "tenant", server, app=["sleep", "infinity"], env={"TENANT_INIT_MOUNT__DRIVER": sys.argv[1]}).start()


def contents():
    return {name: server.read(name) for name in server.objects()}


try:
    tenant.wait_ready(60)
    emit("driver", driver=tenant.status()["services"]["mount"]["driver"])
    stored = tenant.mount / "stored.md"
    stored.write_text("before\n")
    wait_until(lambda: tenant.settled("stored.md"), 30, lambda: str(contents()))
    server.kill()
    # In a process of its own, which may hang as long as it likes.
    rename = subprocess.run(["timeout", "100", "mv", "-T", stored, tenant.mount / "moved.md"], capture_output=True, text=True)
    emit("rename", code=rename.returncode, words=rename.stderr)
    write = subprocess.run(["timeout", "60", "sh", "-c", 'echo after >> "$0"', stored], capture_output=True, text=True)
    emit("write", code=write.returncode, words=write.stderr)
    server.start()
    wait_until(tenant.ready, 60, tenant.log)
    wait_until(lambda: contents() == {"stored.md": "before\nafter\n"}, 60, lambda: f"stored under its name: {contents()}")
    emit("mount", names=os.listdir(tenant.mount), text=stored.read_text())
    emit("restarts", **{name: tenant.status()["services"][name]["restarts"] for name in ("mount", "app")})
    end = tenant.stop()
    emit("exit", code=end.code, bucket=contents())
finally:
    print(tenant.log()[-3000:])
    tenant.clean_up()
    server.kill()
