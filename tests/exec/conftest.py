"""The guardian from outside: the real binary, real signals, terminals and PID namespaces."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
DEADLINE = 20
ROOT = os.geteuid() == 0
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def until(condition, what, deadline=DEADLINE):
    """Polls `condition` until it is true, and returns what it gave."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline} s: {what}"
        time.sleep(0.005)


def stat(pid):
    """Fields of /proc/PID/stat from the state on; None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def state(pid):
    """R, S, D, T, Z …; None when the process is gone."""
    fields = stat(pid)
    return fields and fields[0]


def children(pid):
    """Direct children, by reading all of /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat(entry)
            if fields and int(fields[1]) == pid:
                found.append(int(entry))
    return sorted(found)


def tree(pid):
    """`pid` and all its descendants, leaves first."""
    return [below for child in children(pid) for below in tree(child)] + [pid]


def status(pid):
    """/proc/PID/status as a dictionary."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


class Guarded:
    """A guardian with a payload: `tenant-init exec -- …` (or `guard`), as PID 1 of its own namespace if asked."""

    def __init__(self, binary, payload, mode="exec", pid1=False, **kwargs):
        kwargs.setdefault("stdin", subprocess.DEVNULL)
        kwargs.setdefault("stdout", subprocess.PIPE)
        kwargs.setdefault("stderr", subprocess.PIPE)
        if isinstance(payload, str):
            payload = [sys.executable, "-Sc", payload]
        self.command = [binary, mode, "--", *payload]
        self.pid1 = pid1
        self.process = subprocess.Popen((NAMESPACE if pid1 else []) + self.command, **kwargs)

    @property
    def guardian(self):
        """Pid of the guardian, seen from here."""
        if not self.pid1:
            return self.process.pid
        return until(lambda: children(self.process.pid), "the namespace's PID 1")[0]

    @property
    def payload(self):
        """Pid of the payload, once it has been executed."""
        guardian = self.guardian

        def executed():
            # Orphans may be there too, but only the payload leads a group. Until its exec it is us: with the guardian's mask, in
            # which everything is blocked.
            leaders = (pid for pid in children(guardian) if (fields := stat(pid)) and fields[2] == str(pid))
            return next((pid for pid in leaders if status(pid)["SigBlk"] != "fffffffffffbfeff"), None)

        return until(executed, "the payload runs")

    def line(self):
        """The next line the payload prints."""
        return self.process.stdout.readline().decode().rstrip("\n")

    def kill(self, number):
        """Sends the guardian a signal."""
        os.kill(self.guardian, number)

    def wait(self, deadline=DEADLINE):
        """Exit code, stdout and stderr, once everything is over."""
        code, out, err = self.wait_bytes(deadline)
        return code, out.decode(), err.decode()

    def wait_bytes(self, deadline=DEADLINE):
        """The same, undecoded."""
        try:
            out, err = self.process.communicate(timeout=deadline)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {deadline} s: {' '.join(map(str, self.command))}")
        return self.process.returncode, out or b"", err or b""

    def clean_up(self):
        # A killed guardian cannot end its tree, so the tree is listed first, and frozen so that it does not change meanwhile.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in tree(self.process.pid) if self.process.poll() is None else ():
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
        self.process.communicate()


@pytest.fixture(scope="session")
def binary():
    """Path of the tenant-init under test."""
    path = os.environ.get("TENANT_INIT_BIN") or str(REPO / "target/release/tenant-init")
    assert os.access(path, os.X_OK), f"there is no {path}: build it first, or set TENANT_INIT_BIN"
    return os.path.abspath(path)


@pytest.fixture
def guarded(binary):
    """Starts payloads under guard; a string is a Python program."""
    made = []

    def start(payload, **kwargs):
        made.append(Guarded(binary, payload, **kwargs))
        return made[-1]

    yield start
    for one in made:
        one.clean_up()


@pytest.fixture(params=["pid1", "subreaper"])
def pid1(request):
    """Runs a test twice: as PID 1 of a namespace and as an ordinary process."""
    if request.param == "pid1" and not ROOT:
        pytest.skip("a PID namespace needs root")
    return request.param == "pid1"


@pytest.fixture
def tools():
    """The helpers above, for the test modules."""
    return sys.modules[__name__]
