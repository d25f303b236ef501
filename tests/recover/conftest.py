"""A tenant whose supervisor is going to be killed, with its bucket behind a network that can be cut."""

import json
import os
import signal

import pytest

from lib.faultproxy import FaultProxy
from lib.stage import processes_naming
from lib.tenant import children, cmdline, descendants
from lib.wait import wait_until

FAST = {"TENANT_INIT_HEALTH__STORAGE_INTERVAL": "500ms", "TENANT_INIT_HEALTH__MOUNT_INTERVAL": "500ms"}


class Patient:
    """The tenant, what it has acknowledged (`written`: name → text), and the pids of everything that it ever was."""

    def __init__(self, s3, proxy, make_tenant):
        self.s3, self.proxy, self.make_tenant = s3, proxy, make_tenant
        self.written = {}
        self.tenant = None
        self.pids = set()

    def start(self, app=("sleep", "infinity"), **env):
        env = {**self.s3.env(), "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.proxy.port}", **FAST, **env}
        self.tenant = self.make_tenant(None, app=list(app), env=env).start()
        return self

    def ready(self, **kwargs):
        self.start(**kwargs).tenant.wait_ready()
        return self

    def write(self, name, text="acknowledged\n"):
        (self.tenant.mount / name).write_text(text)
        self.written[name] = text

    def burst(self, count, prefix="note"):
        for number in range(count):
            self.write(f"{prefix}-{number:02}.md", f"# {prefix} {number}\n" * (number + 1))

    def said(self, words, seconds=30):
        """Waits until the log has these words."""
        wait_until(lambda: words in self.tenant.log(), seconds, lambda: f"{words!r} in the log:\n{self.tenant.log()[-3000:]}",
                   every=0.005)

    def reason(self, code, seconds=30):
        """Waits until this is among the reasons for not being ready."""
        wait_until(lambda: any(r.startswith(code + ":") for r in self.tenant.status()["reasons"]), seconds,
                   lambda: f"{code}: {self.tenant.status()['reasons']}", every=0.01)

    def kill(self, number=signal.SIGKILL):
        """The signal to the supervisor alone."""
        self.pids |= set(descendants(self.tenant.process.pid))
        os.kill(self.tenant.supervisor_pid(), number)

    def recovering(self):
        """Waits until somebody has taken the supervisor's place; its pid."""
        guardian = self.tenant.process.pid
        return wait_until(lambda: [pid for pid in children(guardian) if b"recover" in cmdline(pid).split(b"\0")[:2]], 20,
                          "the recovery runs")[0]

    def ended(self, code, seconds=60):
        """Waits for the end: nothing is left of it, and the verdict stands where the next start looks for it."""
        end = self.tenant.wait(seconds)
        tenant = self.tenant
        assert end.code == code, f"{end}\n{tenant.log()[-4000:]}"
        assert end.verdict["exit_code"] == code, end.verdict
        assert tenant.mounts() == [], "neither mount nor barrier"
        assert {pid for pid in self.pids if os.path.exists(f"/proc/{pid}")} == set()
        assert processes_naming(tenant.folder) == {}
        assert list((tenant.folder / "run").rglob("rclone.conf")) == [], "the key is not left behind"
        if tenant.cache.is_dir():
            assert json.loads((tenant.cache / "last-verdict.json").read_text()) == end.verdict
        return end

    def stored(self, code):
        """The end, with everything acknowledged in the bucket."""
        end = self.ended(code)
        assert (end.verdict["stored"], end.verdict["uploads_pending"]) == (True, []), end.verdict
        self.in_bucket()
        return end

    def in_bucket(self):
        assert {name: self.s3.read(name) for name in self.s3.objects()} == self.written

    def next_life(self):
        """Another start on the same disk: whole, ready, and ended with 0."""
        self.ready()
        for name, text in self.written.items():
            assert (self.tenant.mount / name).read_text() == text
        assert self.tenant.stop().code == 0
        self.in_bucket()


@pytest.fixture
def patient(s3_server, make_tenant):
    with FaultProxy(s3_server.port) as proxy:
        yield Patient(s3_server, proxy, make_tenant)
