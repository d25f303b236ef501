"""A tenant: the real `tenant-init run` against real servers."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from .mounts import detach_below, mounted
from .proc import Process
from .s3 import rclone
from .wait import free_port, wait_until


def binary():
    """The tenant-init under test: $TENANT_INIT_BIN, else the image's, else this repository's release build."""
    given = os.environ.get("TENANT_INIT_BIN")
    if given:
        return given
    built = Path(__file__).resolve().parents[2] / "target/release/tenant-init"
    return str(built) if built.exists() else "/usr/local/bin/tenant-init"


@dataclass
class Exit:
    """How a tenant ended."""

    code: int  # negative: killed by that signal
    verdict: dict | None  # the last line on stdout
    seconds: float  # from the signal to the end; from the start when it ended by itself
    last_line: str  # the last line on stderr: what people see


def get(url, seconds=5):
    """Status code and body (parsed when it is JSON) of a GET; every HTTP status is an answer."""
    try:
        with urllib.request.urlopen(url, timeout=seconds) as answer:
            status, body = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read().decode()
    try:
        return status, json.loads(body)
    except ValueError:
        return status, body


class Tenant:
    """One life of a tenant in `folder`; give the same folder again for the next life on the same disk.

    `app` is the command after `run --`; none means basic-memory. Everything of `env` wins over what is set here.
    """

    def __init__(self, folder, s3=None, sqld=None, app=(), env=None, arguments=(), program=None):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.mount = self.folder / "data"
        # Not exist_ok: that would look at it, and a dead mount of the life before may be there.
        with contextlib.suppress(FileExistsError):
            self.mount.mkdir()
        self.cache = self.folder / "cache"
        self.health_port, self.app_port = free_port(), free_port()
        self.app, self.arguments = list(app), list(arguments)
        self.program = program or binary()
        self.process = Process("tenant", self.folder)
        self.started = None
        # Nothing of the surroundings that could change what is tested: no AWS_*, no TENANT_*.
        self.env = {
            "PATH": os.path.dirname(rclone()) + ":" + os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "TENANT_INIT_MOUNT__PATH": str(self.mount),
            "TENANT_INIT_MOUNT__CACHE_DIR": str(self.cache),
            "TENANT_INIT_MOUNT__RUN_DIR": str(self.folder / "run"),
            "TENANT_INIT_APP__CONFIG_DIR": str(self.folder / "app"),
            "TENANT_INIT_APP__PORT": str(self.app_port),
            "TENANT_INIT_HEALTH__LISTEN": f"127.0.0.1:{self.health_port}",
            "TENANT_INIT_APP__USER": "nobody",
            "TENANT_INIT_LOG__FORMAT": "json",
            **(s3.env() if s3 else {}),
            **({"DATABASE_URL": sqld.url} if sqld else {}),
            **(env or {}),
        }
        # The app runs as another user; it must be able to reach its folders below pytest's 0700 ones.
        for parent in [self.folder, *self.folder.parents]:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o111)

    # -- life --

    def start(self, prefix=(), **kwargs):
        """Starts it; does not wait. `prefix` runs it under something else, for example `unshare --pid --fork`."""
        for stale in (self.process.out, self.process.err):
            stale.unlink(missing_ok=True)
        argv = [self.program, "run", *self.arguments, *(["--", *self.app] if self.app else [])]
        self.started = time.monotonic()
        self.process.spawn(argv, env=self.env, prefix=prefix, **kwargs)
        return self

    def wait_ready(self, seconds=60):
        """Until `/readyz` answers 200; fails at once when the tenant ends."""

        def ready():
            if not self.process.running():
                raise RuntimeError(f"tenant-init ended with {self.process.process.returncode}:\n{self.log()[-3000:]}")
            return self.ready()

        wait_until(ready, seconds, lambda: f"ready; reasons: {self._reasons()}\n{self.log()[-3000:]}")
        return self

    def stop(self, number=signal.SIGTERM, seconds=120):
        """Sends the signal and waits for the end."""
        begin = time.monotonic()
        if self.process.running():
            self.process.signal(number)
        return self._ended(seconds, begin)

    def wait(self, seconds=60):
        """Waits for an end that nobody asked for."""
        return self._ended(seconds, self.started)

    def _ended(self, seconds, begin):
        try:
            code = self.process.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"tenant-init still runs after {seconds} s:\n{self.log()[-3000:]}") from None
        return Exit(code, self.verdict(), time.monotonic() - begin, (self.log().rstrip().splitlines() or [""])[-1])

    def kill(self):
        """SIGKILL for the guardian and everything it started: the machine is gone."""
        if self.process.process is None:
            return
        # All at once, as when a machine is gone: none may notice the death of another and still do something, and none that was
        # just being started may be left.
        stopped = []
        while pids := [pid for pid in [self.process.pid, *descendants(self.process.pid)] if pid not in stopped]:
            send(signal.SIGSTOP, pids)
            stopped += pids
        send(signal.SIGKILL, stopped)
        self.process.kill()

    def clean_up(self):
        """Kills what still runs and detaches what is still mounted; returns the left-over mounts."""
        self.kill()
        return detach_below(self.folder)

    # -- asking it --

    def url(self, path):
        return f"http://127.0.0.1:{self.health_port}{path}"

    def get(self, path, seconds=5):
        return get(self.url(path), seconds)

    def ready(self):
        """True when `/readyz` answers 200."""
        return self.get("/readyz")[0] == 200

    def _reasons(self):
        try:
            return self.get("/readyz")[1]
        except OSError as error:
            return repr(error)

    def status(self):
        """`GET /status`."""
        code, body = self.get("/status")
        assert code == 200, f"/status answered {code}: {body}"
        return body

    def metric(self, name):
        """Value of one metric line, labels included: `tenant_phase{phase="ready"}`."""
        _, text = self.get("/metrics")
        for line in text.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        raise LookupError(f"no metric {name}")

    def mcp_url(self):
        return f"http://127.0.0.1:{self.app_port}/mcp"

    def log(self):
        """Everything it wrote for people and log collectors."""
        return self.process.stderr()

    def stdout(self):
        return self.process.stdout()

    def verdict(self):
        """The last line on stdout, when it is the verdict."""
        lines = self.stdout().strip().splitlines()
        try:
            last = json.loads(lines[-1]) if lines else None
        except ValueError:
            return None
        return last if isinstance(last, dict) and last.get("event") == "verdict" else None

    def mounts(self):
        """File system types on the mount path, lowest first: barrier and mount while it lives, none before and after."""
        return mounted(self.mount)

    def settled(self, name):
        """Somebody has compared the file with the bucket: rclone, too, knows that it is there."""
        lines = [json.loads(line) for line in (self.cache / "ledger-notes.jsonl").read_text().splitlines()]
        last = [line for line in lines if line["name"] == name][-1:]
        return bool(last) and "wanted" not in last[0]

    def supervisor_pid(self):
        """The guardian's child that runs `tenant-init supervise`."""
        for pid in children(self.process.pid):
            if b"supervise" in cmdline(pid):
                return pid
        raise LookupError("no supervisor below the guardian")

    def service_pid(self, name):
        """Process id of `mount` or `app` as `/status` gives it."""
        return self.status()["services"][name]["pid"]


def send(number, pids):
    """A signal to all of these processes that still are there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def children(pid):
    """Ids of the direct children of a process."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            if int(stat.rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(entry))
    return found


def descendants(pid):
    """Ids of all processes below a process. None below number 0, which is what podman gives for a container that has ended (and the
    parent of everything)."""
    found = []
    if pid == 0:
        return found
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
