"""The supervisor is killed at any moment: by chance (RECOVER_SEED repeats one), and by the kernel for memory."""

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from lib.tenant import cmdline
from lib.wait import wait_until
from storm.machines import PYTHON

# One file after another; a line in the ledger says that it was acknowledged. Ends after the file that it is at.
WRITER = """
import os, signal, sys, time
running = True
def end(*_):
    global running
    running = False
signal.signal(signal.SIGTERM, end)
ledger = open(sys.argv[1], "a", buffering=1)
life, number = sys.argv[2], 0
while running:
    name = f"{life}-{number:04}.md"
    with open(name, "w") as file:
        file.write(f"# {name}\\n" * (1 + number % 50))
    ledger.write(name + "\\n")
    number += 1
    time.sleep(0.01)
"""


def text(name):
    return f"# {name}\n" * (1 + int(name[-7:-3]) % 50)


@pytest.fixture
def ledger(tmp_path):
    path = tmp_path / "ledger" / "ledger"
    path.parent.mkdir()
    path.parent.chmod(0o777)
    return path


@pytest.mark.timeout(240)
def test_killed_again_and_again_at_random_moments(patient, tmp_path, ledger):
    seed = int(os.environ.get("RECOVER_SEED", random.randrange(1 << 32)))
    print("RECOVER_SEED =", seed)
    chance = random.Random(seed)
    (tmp_path / "ledger/writer.py").write_text(WRITER)
    for life in range(6):
        app = [PYTHON, str(tmp_path / "ledger/writer.py"), str(ledger), f"life{life}"]
        patient.start(app=app, TENANT_INIT_MOUNT__WRITE_BACK=chance.choice(["100ms", "1s", "60s"]))
        moment, stop = chance.uniform(0, 1.5), chance.random() < 0.3
        number = chance.choice([signal.SIGKILL, signal.SIGABRT])
        wait_until(lambda: patient.tenant.supervisor_pid(), 10, every=0.001)
        time.sleep(moment)  # the moment is the fault
        if stop:
            patient.tenant.process.signal(signal.SIGTERM)
            time.sleep(chance.uniform(0, 0.5))
        print(f"life {life}: {number.name} after {moment:.2f} s" + (", in a stop" if stop else ""))
        with suppress(LookupError):  # a stop may have been faster
            patient.kill(number)
        code = patient.tenant.wait(60).code
        assert code == 128 + number or (stop and code in (0, 128 + signal.SIGTERM)), code
        assert patient.ended(code).verdict["stored"] is True
        acknowledged = ledger.read_text().split() if ledger.exists() else []
        wrong = {name for name in acknowledged if name not in patient.s3.objects() or patient.s3.read(name) != text(name)}
        assert wrong == set(), f"of {len(acknowledged)} acknowledged"
        patient.pids.clear()
    print(len(acknowledged), "files acknowledged")
    assert acknowledged


@pytest.fixture
def no_memory():
    """Puts a process into a memory cgroup of its own in which it can get no further page."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    group = (v1 if v1.is_dir() else v2) / f"tenant-test-{os.getpid()}-{time.monotonic_ns()}"

    def starve(pid):
        try:
            group.mkdir()
            (group / ("memory.limit_in_bytes" if v1.is_dir() else "memory.max")).write_text(str(64 << 10))
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")

    yield starve
    if group.is_dir():
        wait_until(lambda: not (group / "cgroup.procs").read_text().split(), 20, f"{group} is empty")
        group.rmdir()


def test_killed_by_the_kernel_for_memory(patient, no_memory):
    patient.ready(TENANT_INIT_MOUNT__WRITE_BACK="60s")
    patient.burst(10)
    supervisor = patient.tenant.supervisor_pid()
    patient.pids.add(supervisor)
    no_memory(supervisor)

    def killed():
        with suppress(OSError):  # each answer needs memory
            patient.tenant.get("/status", 1)
        return b"supervise" not in cmdline(supervisor)

    wait_until(killed, 20, "the kernel kills it")
    patient.stored(137)
    assert "out of memory" in patient.tenant.log()
    patient.next_life()
