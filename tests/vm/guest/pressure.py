"""A tenant on nfs whose bucket falls silent, then one that slept: what the app's programs see."""

import datetime
import errno
import os
import subprocess
import sys
import time

from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, emit

FAST = {"TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_MOUNT__WRITE_BACK": "500ms", "TENANT_INIT_HEALTH__STORAGE_INTERVAL": "1s",
        "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "1s"}
PRESSED = {**FAST, "TENANT_INIT_LIMITS__UPLOADS_MAX_AGE": "3s", "TENANT_INIT_LIMITS__UPLOADS_READ_ONLY_AGE": "8s"}


def codes(tenant):
    return sorted({reason.split(":")[0] for reason in tenant.status()["reasons"]})


def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read_only(s3):
    tenant = Tenant(DISK / "read-only", s3, app=["sleep", "infinity"], env=PRESSED).start().wait_ready()
    written = {"before.md": "before\n"}
    write(tenant.mount / "before.md", written["before.md"])
    wait_until(lambda: "before.md" in s3.objects(), 30)
    held = open(tenant.mount / "held.md", "w")  # open for writing all the time: no obstacle on nfs
    s3.suspend()
    written["during.md"] = "during\n"
    write(tenant.mount / "during.md", written["during.md"])
    wait_until(lambda: "uploads_late" in codes(tenant), 30)
    wait_until(lambda: tenant.status()["uploads"]["read_only"], 30, lambda: str(tenant.status()))

    def append():
        held.write("never acknowledged\n")
        held.flush()
        os.fsync(held.fileno())

    app = tenant.service_pid("app")
    emit("refused", create=attempt(lambda: write(tenant.mount / "refused.md", "no\n")),
         change=attempt(lambda: write(tenant.mount / "before.md", "no\n")), open_file=attempt(append),
         rename=attempt(lambda: os.rename(tenant.mount / "during.md", tenant.mount / "moved.md")),
         read=(tenant.mount / "during.md").read_text(), codes=codes(tenant), ready=tenant.ready())
    attempt(held.close)
    s3.resume()
    wait_until(tenant.ready, 90, lambda: str(tenant.status()["reasons"]))
    written["after.md"] = "after\n"
    write(tenant.mount / "after.md", written["after.md"])
    same = tenant.service_pid("app") == app
    ended = tenant.stop()
    stored = {name: s3.read(name) for name in s3.objects() if name != "held.md"}
    emit("after", code=ended.code, stored=stored == written, same_app=same, objects=sorted(stored))


def clock_jump(s3):
    """A machine that its host froze for an hour: nothing in it notices but the time of day."""
    tenant = Tenant(DISK / "jump", s3, app=["sleep", "infinity"], env=FAST).start().wait_ready()
    before = tenant.status()["services"]
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    subprocess.run(["date", "--utc", "--set", later.isoformat()], check=True, stdout=subprocess.DEVNULL)
    began = time.monotonic()
    wait_until(lambda: tenant.status()["totals"]["resumes"] == 1, 30, lambda: str(tenant.status()))
    noticed = time.monotonic() - began
    wait_until(tenant.ready, 30, lambda: str(tenant.status()["reasons"]))
    after = tenant.status()["services"]
    same = all(before[name]["pid"] == after[name]["pid"] for name in ("mount", "app"))
    write(tenant.mount / "jumped.md", "after the jump\n")
    ended = tenant.stop()
    emit("jump", noticed=noticed, same=same, code=ended.code, stored="jumped.md" in s3.objects(),
         said=[line for line in tenant.log().splitlines() if '"resumed"' in line][:1])


def main():
    for case in (read_only, clock_jump):
        folder = DISK / f"s3-{case.__name__}"
        folder.mkdir(parents=True)
        s3 = S3Server(folder).start()
        try:
            case(s3)
        finally:
            s3.kill()


sys.exit(main())
