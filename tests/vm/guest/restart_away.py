"""The app is started again at a moment in which its directory, the NFS mount, cannot answer: rclone stands still."""

import os
import signal
import tempfile
import time
from pathlib import Path

from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit

folder = Path(tempfile.mkdtemp(dir=DISK))
s3 = S3Server(folder).start()
tenant = Tenant(folder / "tenant", s3, app=["sleep", "infinity"], env={
    "TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app", "TENANT_INIT_APP__RESTART": "always",
    # So that the kernel asks for the directory at once.
    "TENANT_INIT_MOUNT__ATTRIBUTE_TIMEOUT": "1s"})
try:
    tenant.start().wait_ready(120)
    app, rclone = tenant.service_pid("app"), tenant.service_pid("mount")
    wait_until(lambda: (tenant.mount / "note.md").write_text("words\n"), 30)
    time.sleep(2)  # what the kernel knows of the directory is too old now
    os.kill(rclone, signal.SIGSTOP)
    os.kill(app, signal.SIGKILL)
    wait_until(lambda: "is started again" in tenant.log(), 30, "the app's end is noticed")
    # It is started half a second later, and its start hangs for as long as rclone does.
    until, longest = time.monotonic() + 4, 0.0
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            tenant.get("/livez", 20)
        except OSError as error:
            emit("deaf", error=repr(error))
            break
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.05)
    emit("alive", longest=round(longest, 2))
    wait_until(lambda: tenant.ready() and tenant.service_pid("app") not in (None, app), 60, lambda: f"ready again: {tenant.log()[-3000:]}")
    wait_until(lambda: os.readlink(f"/proc/{tenant.service_pid('app')}/cwd") == str(tenant.mount), 30, "the app is in its directory")
    end = tenant.stop()
    emit("exit", code=end.code, stored=s3.read("note.md") == "words\n")
finally:
    print(tenant.log()[-3000:])
    tenant.clean_up()
