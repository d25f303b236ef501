"""`guard`, the guardian of `run`: signals go to the supervisor alone, and its death leaves nothing running."""

import json
import os
import signal
import subprocess
import time

import pytest

# Starts a child in its own group, prints both pids, then what it hears.
SUPERVISOR = """
import os, signal, subprocess
child = subprocess.Popen(["sleep", "60"], process_group=0)
def heard(number, _):
    os.write(1, b"%d\\n" % number)
for number in (1, 2, 3, 10, 12, 15, 18, 28):
    signal.signal(number, heard)
os.write(1, b"%d\\n" % child.pid)
while True:
    signal.pause()
"""


@pytest.fixture
def supervisor(guarded):
    one = guarded(SUPERVISOR, mode="guard")
    one.child = int(one.line())
    return one


def test_signals_go_to_the_supervisor_alone(supervisor, tools):
    for number in (1, 10, 12, 28, 18, 2):
        supervisor.kill(number)
        assert supervisor.line() == str(number)
    # A signalled child would be a zombie now; busy or asleep, it lives.
    tools.until(lambda: tools.state(supervisor.child) == "S", "the child sleeps on")


def test_a_member_of_its_group_gets_nothing(guarded):
    program = """
import os, signal
if os.fork() == 0:
    signal.signal(10, lambda *_: os.write(1, b"child\\n"))
    os.write(1, b"ready\\n")
    while True: signal.pause()
signal.signal(10, lambda *_: os.write(1, b"supervisor\\n"))
signal.signal(12, lambda *_: os.write(1, b"done\\n"))
os.write(1, b"ready\\n")
while True: signal.pause()
"""
    payload = guarded(program, mode="guard")
    assert [payload.line(), payload.line()] == ["ready", "ready"]
    payload.kill(10)
    assert payload.line() == "supervisor"
    payload.kill(12)
    assert payload.line() == "done"


def test_job_control_stops_do_not_reach_it(supervisor, tools):
    # A suspended supervisor would freeze the mount.
    for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        supervisor.kill(number)
    supervisor.kill(10)
    assert supervisor.line() == "10"
    tools.until(lambda: tools.state(supervisor.payload) == "S", "the supervisor sleeps on")


def test_the_same_stop_delivered_twice_is_passed_on_once(supervisor):
    supervisor.kill(signal.SIGINT)
    assert supervisor.line() == "2"
    supervisor.kill(signal.SIGTERM)
    supervisor.kill(signal.SIGUSR1)
    assert supervisor.line() == "10"


def test_a_later_second_stop_is_passed_on(supervisor):
    supervisor.kill(signal.SIGINT)
    assert supervisor.line() == "2"
    time.sleep(0.3)  # Sooner it would be the same stop, delivered twice.
    supervisor.kill(signal.SIGTERM)
    assert supervisor.line() == "15"


def test_a_supervisor_that_stays_after_two_stops_is_killed(supervisor, tools):
    supervisor.kill(signal.SIGTERM)
    assert supervisor.line() == "15"
    time.sleep(0.3)
    before = time.monotonic()
    supervisor.kill(signal.SIGTERM)
    assert supervisor.line() == "15"
    code, out, _ = supervisor.wait(40)
    assert code == 137
    assert json.loads(out.splitlines()[-1])["stored"] is False
    assert 9.5 < time.monotonic() - before < 25
    assert tools.state(supervisor.child) is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_supervisor_leaves_nothing_running_and_no_doubt(supervisor, tools, number):
    os.kill(supervisor.payload, number)
    code, out, err = supervisor.wait()
    assert code == 128 + number
    assert tools.state(supervisor.child) is None
    verdict = json.loads(out.splitlines()[-1])
    assert (verdict["event"], verdict["exit_code"], verdict["stored"]) == ("verdict", code, False)
    assert verdict["uploads_pending"] is None, "nobody knows"
    assert f"killed by signal {int(number)}" in err


def test_a_panic_is_a_bug_of_ours(guarded):
    code, out, err = guarded(["sh", "-c", "exit 101"], mode="guard").wait()
    assert code == 70
    assert json.loads(out)["exit_code"] == 70
    assert "bug" in err


@pytest.mark.parametrize("code", [0, 69, 74])
def test_a_verdict_of_the_supervisor_is_passed_on_as_it_is(guarded, code):
    assert guarded(["sh", "-c", f"echo its verdict; exit {code}"], mode="guard").wait() == (code, "its verdict\n", "")


def test_the_supervisor_is_asked_to_stop_when_the_guardian_is_killed(supervisor, tools):
    pid = supervisor.payload
    os.kill(supervisor.guardian, signal.SIGKILL)
    try:
        assert supervisor.line() == "15"
    finally:
        for left in (supervisor.child, pid):
            os.kill(left, signal.SIGKILL)


def can_protect():
    return subprocess.run(["sh", "-c", "echo -1000 >/proc/self/oom_score_adj"], stderr=subprocess.DEVNULL).returncode == 0


@pytest.mark.skipif(not can_protect(), reason="lowering oom_score_adj needs CAP_SYS_RESOURCE")
def test_the_guardian_is_the_last_to_be_killed_for_memory_and_the_supervisor_unchanged(supervisor, tools):
    def adj(pid):
        return int(open(f"/proc/{pid}/oom_score_adj").read())

    tools.until(lambda: adj(supervisor.guardian) == -1000, "the guardian protects itself")
    assert adj(supervisor.payload) == adj(os.getpid())


def test_a_stuck_reader_of_its_output_does_not_hang_the_end(binary):
    # Nobody reads stdout or stderr, and both pipes are full.
    read, write = os.pipe()
    os.set_blocking(write, False)
    try:
        while os.write(write, b"x" * 4096):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(write, True)
    process = subprocess.Popen([binary, "guard", "--", "sh", "-c", "kill -9 $$"], stdin=subprocess.DEVNULL, stdout=write, stderr=write)
    assert process.wait(20) == 137
    os.close(read)
    os.close(write)
