"""Orphans are adopted and reaped; what the payload leaves behind is ended, not abandoned."""

import signal
import subprocess
import time

import pytest

# Makes COUNT orphans that end at once, prints their pids as seen from here, and stays.
ORPHANS = """
import os, signal
read, write = os.pipe()
for _ in range({count}):
    if os.fork() == 0:
        if os.fork() == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        os._exit(0)
    os.wait()
os.close(write)
print("made", flush=True)
{then}
"""


@pytest.mark.parametrize("count", [1, 2000])
def test_orphans_are_reaped(guarded, pid1, tools, count):
    payload = guarded(ORPHANS.format(count=count, then="signal.pause()"), pid1=pid1)
    assert payload.line() == "made"
    child, guardian = payload.payload, payload.guardian
    tools.until(lambda: tools.children(guardian) == [child], f"all {count} orphans are reaped", 60)


def test_the_code_survives_a_crowd_of_orphans(guarded, pid1):
    payload = guarded(ORPHANS.format(count=500, then="raise SystemExit(17)"), pid1=pid1)
    assert payload.wait()[0] == 17


def test_orphans_reaped_are_counted_for_the_supervisor(guarded, tools):
    program = """
import mmap, struct
page = mmap.mmap(int(os.environ["TENANT_INIT_GUARDIAN_FD"]), 4096, prot=mmap.PROT_READ)
while struct.unpack("QQ", page[:16])[1] < 100: pass
print("counted", struct.unpack("QQ", page[:16])[1], flush=True)
signal.pause()
"""
    payload = guarded(ORPHANS.format(count=100, then=program), mode="guard")
    assert payload.line() == "made"
    assert payload.line() == "counted 100"


def test_what_is_left_gets_term_and_time(guarded, pid1):
    script = """(trap 'sleep 0.5; echo saved; exit' TERM; echo ready; while :; do sleep 0.05; done) & read x; exit 3"""
    payload = guarded(["bash", "-c", script], pid1=pid1, stdin=subprocess.PIPE)
    assert payload.line() == "ready"
    payload.process.stdin.write(b"\n")
    payload.process.stdin.flush()
    code, out, err = payload.wait()
    assert (code, out) == (3, "saved\n")
    assert "tenant-init" not in err


def test_what_is_left_and_ignores_term_is_killed(guarded, pid1, tools):
    script = """(trap '' TERM; echo ready; exec sleep 60) & read x; exit 3"""
    payload = guarded(["bash", "-c", script], pid1=pid1, stdin=subprocess.PIPE)
    assert payload.line() == "ready"
    before = time.monotonic()
    payload.process.stdin.write(b"\n")
    payload.process.stdin.flush()
    code, _, err = payload.wait()
    assert code == 3
    assert "sleep" in err
    assert 2.9 < time.monotonic() - before < 10


def test_a_stop_signal_ends_the_wait_for_what_is_left(guarded, pid1, tools):
    script = """(trap '' TERM; echo ready; exec sleep 60) & read x; exit 3"""
    payload = guarded(["bash", "-c", script], pid1=pid1, stdin=subprocess.PIPE)
    assert payload.line() == "ready"
    guardian = payload.guardian
    main = tools.children(guardian)
    payload.process.stdin.write(b"\n")
    payload.process.stdin.flush()
    left = lambda: [pid for pid in tools.children(guardian) if pid not in main]
    tools.until(lambda: left() and left() == tools.children(guardian), "only the one left is there")
    before = time.monotonic()
    payload.kill(signal.SIGTERM)
    assert payload.wait()[0] == 3
    assert time.monotonic() - before < 2.5


def test_descendants_in_other_groups_and_sessions_are_ended_too(guarded, tools):
    program = """
import os, signal, sys
for leader in (lambda: os.setpgid(0, 0), os.setsid):
    if os.fork() == 0:
        leader()
        if os.fork() == 0:
            print(os.getpid(), flush=True)
            signal.pause()
        signal.pause()
sys.stdin.read()
"""
    payload = guarded(program, stdin=subprocess.PIPE)
    left = [int(payload.line()), int(payload.line())]
    payload.process.stdin.close()
    payload.process.stdin = None
    assert payload.wait()[0] == 0
    assert [tools.state(pid) for pid in left] == [None, None]
