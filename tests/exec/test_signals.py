"""Every signal reaches the payload and its group; being asked twice to stop never hangs."""

import ctypes
import os
import random
import signal
import time

import pytest

# Cannot be caught, or is ours, or stops (its own test below).
NOT_PLAIN = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
# The C library keeps these two for itself, so Python cannot have a handler for them.
HIDDEN = {32, 33}

# Prints each signal it gets; `ready` first. Written through os.write: a handler may run in the middle of a print.
LISTENER = """
import os, signal
def heard(number, _):
    os.write(1, b"%d\\n" % number)
for number in range(1, 65):
    if number not in (9, 17, 19, 32, 33):
        signal.signal(number, heard)
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def test_every_signal_reaches_the_payload(guarded, pid1):
    payload = guarded(LISTENER, pid1=pid1)
    assert payload.line() == "ready"
    for number in range(1, 65):
        if number not in NOT_PLAIN | HIDDEN:
            payload.kill(number)
            assert payload.line() == str(number)


@pytest.mark.parametrize("number", sorted(HIDDEN))
def test_signals_the_c_library_hides_reach_the_payload_too(guarded, pid1, number):
    payload = guarded(["sleep", "60"], pid1=pid1)
    payload.payload
    ctypes.CDLL(None).kill(payload.guardian, number)
    assert payload.wait()[0] == 128 + number


def test_term_and_int_end_a_payload_that_does_not_care(guarded, pid1):
    for number in (signal.SIGTERM, signal.SIGINT):
        payload = guarded(["sleep", "60"], pid1=pid1)
        payload.payload
        payload.kill(number)
        assert payload.wait()[0] == 128 + number


def test_a_payload_that_handles_term_decides_its_code(guarded, pid1):
    payload = guarded(["sh", "-c", 'trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done'], pid1=pid1)
    assert payload.line() == "ready"
    payload.kill(signal.SIGTERM)
    assert payload.wait()[0] == 7


def test_signals_reach_the_whole_group(guarded, pid1):
    program = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: (os.write(1, b"%d\\n" % os.getpid()), os._exit(0)))
child = os.fork()
os.write(1, b"ready\\n")
if child: os.wait()
while True: signal.pause()
"""
    payload = guarded(program, pid1=pid1)
    assert [payload.line(), payload.line()] == ["ready", "ready"]
    payload.kill(signal.SIGTERM)
    assert len(set(payload.wait()[1].split())) == 2


def test_stop_and_continue(guarded, pid1, tools):
    payload = guarded(["sleep", "60"], pid1=pid1)
    child = payload.payload
    for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        payload.kill(number)
        tools.until(lambda: tools.state(child) == "T", "the payload stops")
        payload.kill(signal.SIGCONT)
        tools.until(lambda: tools.state(child) == "S", "the payload goes on")


def test_a_payload_that_handles_the_stop_gets_the_signal_itself(guarded, pid1):
    program = "import signal; signal.signal(signal.SIGTSTP, lambda *_: print('asked', flush=True)); print('ready', flush=True)\nwhile True: signal.pause()"
    payload = guarded(program, pid1=pid1)
    assert payload.line() == "ready"
    payload.kill(signal.SIGTSTP)
    assert payload.line() == "asked"


QUEUE_LISTENER = """
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
wanted = ctypes.c_uint64(((1 << 64) - 1) & ~((1 << 31) - 1))
info = (ctypes.c_int * 32)()
mask = ctypes.c_uint64((1 << 64) - 1)
libc.syscall(14, 2, ctypes.byref(mask), None, 8) if os.uname().machine == "x86_64" else libc.syscall(135, 2, ctypes.byref(mask), None, 8)
os.write(1, b"ready\\n")
wait = 128 if os.uname().machine == "x86_64" else 137
while True:
    number = libc.syscall(wait, ctypes.byref(wanted), info, None, 8)
    os.write(1, b"%d %d\\n" % (number, info[6]))
"""


def test_queued_signals_keep_their_value_and_order_and_none_is_lost(guarded, pid1):
    payload = guarded(QUEUE_LISTENER, pid1=pid1)
    assert payload.line() == "ready"
    libc = ctypes.CDLL(None, use_errno=True)
    guardian = payload.guardian
    for value in range(500):
        assert libc.sigqueue(guardian, 40, ctypes.c_void_p(value)) == 0
    assert [payload.line() for _ in range(500)] == [f"40 {value}" for value in range(500)]


def test_a_burst_of_mixed_signals_arrives_complete(guarded):
    # Real-time signals are queued, so each one sent is one received.
    payload = guarded(QUEUE_LISTENER)
    assert payload.line() == "ready"
    rng = random.Random(20)
    sent = [rng.randint(35, 64) for _ in range(1000)]
    for number in sent:
        os.kill(payload.guardian, number)
    heard = [int(payload.line().split()[0]) for _ in sent]
    assert sorted(heard) == sorted(sent)


IGNORES_TERM = """
import os, signal
signal.signal(signal.SIGTERM, lambda *_: os.write(1, b"term\\n"))
signal.signal(signal.SIGINT, lambda *_: os.write(1, b"int\\n"))
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""


def test_a_second_term_kills_a_payload_that_stays(guarded, pid1):
    payload = guarded(IGNORES_TERM, pid1=pid1)
    assert payload.line() == "ready"
    payload.kill(signal.SIGTERM)
    assert payload.line() == "term"
    time.sleep(0.3)  # Sooner it would be the same stop, delivered twice.
    before = time.monotonic()
    payload.kill(signal.SIGTERM)
    assert payload.line() == "term", "the second one is passed on as well"
    code, _, err = payload.wait()
    assert code == 137
    assert "asked twice" in err
    assert 2.9 < time.monotonic() - before < 8


def test_int_and_term_at_once_do_not_kill(guarded):
    payload = guarded(IGNORES_TERM)
    assert payload.line() == "ready"
    # The same stop twice, and an interrupt again and again, are no reason to kill: wait longer than the grace.
    payload.kill(signal.SIGTERM)
    payload.kill(signal.SIGTERM)
    end = time.monotonic() + 4
    while time.monotonic() < end:
        payload.kill(signal.SIGINT)
        time.sleep(0.3)
    assert payload.process.poll() is None
    os.kill(payload.payload, signal.SIGKILL)
    assert payload.wait()[0] == 137


@pytest.mark.parametrize("seed", range(40))
def test_a_payload_that_exits_while_signals_fly(guarded, seed):
    rng = random.Random(seed)
    code = rng.randint(0, 99)
    delay = rng.random() * 0.05
    payload = guarded(f"import signal, time\nfor n in (1, 10, 12, 28): signal.signal(n, signal.SIG_IGN)\nprint('ready', flush=True)\nend = time.monotonic() + {delay}\nwhile time.monotonic() < end: pass\nraise SystemExit({code})")
    assert payload.line() == "ready"
    while payload.process.poll() is None:
        payload.process.send_signal(rng.choice([signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH]))
    assert payload.wait()[0] == code
