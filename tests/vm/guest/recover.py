"""The supervisor is killed on nfs: its guard dies with it, and everybody who touches the mount hangs until he is killed.

    recover.py CASE…     each on a tenant of its own; see the functions
"""

import os
import re
import signal
import sys
import time

from lib.faultproxy import FaultProxy
from lib.s3 import S3Server
from lib.stage import processes_naming
from lib.tenant import Tenant, descendants
from lib.wait import wait_until
from vm.guestlib import DISK, emit

LATER = {"TENANT_INIT_MOUNT__WRITE_BACK": "60s"}
# Goes on writing and syncing, and ends on TERM if it can.
APP = ["python3", "-c", """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
number = 0
while True:
    with open(f"app-{number:04}.md", "w") as file:
        file.write(f"# {number}\\n")
    os.write(1, f"acknowledged {number}.\\n".encode())
    number += 1
    time.sleep(0.05)
"""]


class Case:
    def __init__(self, name):
        self.folder = DISK / name
        self.folder.mkdir(parents=True)
        self.s3 = S3Server(self.folder).start()
        self.proxy = FaultProxy(self.s3.port).start()
        self.written, self.pids, self.name = {}, set(), name

    def start(self, app=("sleep", "infinity"), **env):
        env = {**self.s3.env(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.proxy.port}",
               "TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app", **env}
        self.tenant = Tenant(self.folder / "tenant", None, app=app, env=env).start()
        return self

    def ready(self, **kwargs):
        self.start(**kwargs).tenant.wait_ready(60)
        return self

    def burst(self, count):
        for number in range(count):
            name, text = f"note-{number:02}.md", f"# note {number}\n" * (number + 1)
            (self.tenant.mount / name).write_text(text)
            self.written[name] = text

    def said(self, words):
        wait_until(lambda: words in self.tenant.log(), 60, lambda: self.tenant.log()[-3000:], every=0.01)

    def kill(self, number=signal.SIGKILL):
        self.began = time.monotonic()
        self.pids |= set(descendants(self.tenant.process.pid))
        os.kill(self.tenant.supervisor_pid(), number)

    def ended(self, acknowledged=None):
        end = self.tenant.wait(120)
        expected = dict(self.written)
        for number in acknowledged() if acknowledged else ():
            expected[f"app-{number:04}.md"] = f"# {number}\n"
        objects = {name: self.s3.read(name) for name in self.s3.objects()}
        # The app may have been in the middle of one more.
        wrong = sorted(name for name, text in expected.items() if objects.get(name) != text)
        extra = sorted(set(objects) - set(expected))
        emit("ended", case=self.name, code=end.code, verdict=end.verdict, mounts=self.tenant.mounts(), wrong=wrong, extra=extra,
             left=sorted(pid for pid in self.pids if os.path.exists(f"/proc/{pid}")), named=processes_naming(self.folder / "tenant"),
             marker=(self.tenant.cache / "last-verdict.json").exists(), seconds=round(time.monotonic() - self.began, 1))

    def close(self):
        print(*[line for line in self.tenant.log().splitlines() if '"level":"DEBUG"' not in line][-25:], sep="\n")
        self.tenant.clean_up()
        self.proxy.close()
        self.s3.kill()


def burst(case):
    """Unsent files, nobody on the mount."""
    case.ready(**LATER).burst(20)
    case.kill()
    case.ended()


def at_work(case):
    """The app writes all the time, so it hangs in a call."""
    case.ready(app=APP, **LATER)
    case.said("acknowledged 20.")
    case.kill(signal.SIGABRT)
    case.ended(lambda: [int(number) for number in re.findall(r'"message":"acknowledged (\d+)', case.tenant.log())])


def reconnect(case):
    """While rclone is replaced behind the guard: the new one is there and does not serve yet."""
    case.ready(**LATER).burst(5)
    first = case.tenant.service_pid("mount")
    case.proxy.silent()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: case.tenant.service_pid("mount") not in (None, first), 30)
    case.kill()
    case.proxy.ok()
    case.ended()


def drain(case):
    """In a stop, after the unmount."""
    case.ready(**LATER).burst(5)
    case.proxy.silent()
    case.tenant.process.signal(signal.SIGTERM)
    case.said('"event":"draining"')
    case.kill()
    case.proxy.ok()
    case.ended()


def main(names):
    for name in names:
        case = Case(name)
        try:
            globals()[name](case)
        finally:
            case.close()


main(sys.argv[1:])
