"""The supervisor is killed, in each phase of a tenant's life: the app is stopped, what is unsent is uploaded, the mount is gone,
the verdict is written, the exit code is right.

Each phase is held by a fault or by an app that waits, so the signal hits it there and nowhere else.
"""

import os
import signal
import time

from contextlib import suppress

import pytest

from lib.mounts import mounted
from lib.stage import HeldRclone, slow_broker
from lib.wait import wait_until

LATER = {"TENANT_INIT_MOUNT__WRITE_BACK": "60s"}  # nothing is uploaded by itself
BOTH = [signal.SIGKILL, signal.SIGABRT]


@pytest.fixture(params=BOTH, ids=["SIGKILL", "SIGABRT"])
def number(request):
    return request.param


def unsent_files_of_an_earlier_life(patient, count=5):
    patient.ready(**LATER)
    patient.burst(count, "earlier")
    patient.tenant.kill()
    patient.tenant.clean_up()
    assert patient.s3.objects() == {}


# -- the start --


def test_before_the_credentials_are_there(patient, number):
    with slow_broker() as (url, asked):
        patient.start(TENANT_CREDENTIALS_URL=url, TENANT_CREDENTIALS_TOKEN="tokenexample")
        assert asked.wait(20)
        begin = time.monotonic()
        patient.kill(number)
        patient.stored(128 + number)
        assert time.monotonic() - begin < 20, "the broker is not waited for: there is nothing to store"


def test_while_the_mounter_is_launched(patient, number, tmp_path):
    held = HeldRclone(tmp_path)
    patient.start(**held.env())
    held.await_held()
    patient.kill(number)
    patient.stored(128 + number)


def test_while_the_mount_becomes_ready(patient, number, tmp_path):
    unsent_files_of_an_earlier_life(patient)
    held = HeldRclone(tmp_path)
    patient.start(**held.env())
    held.await_held()
    patient.proxy.silent()
    held.release()
    patient.reason("mount_starting")
    wait_until(lambda: "rclone" in str(mounted(patient.tenant.mount)) or list(patient.tenant.folder.glob("run/mount/rc.sock")), 20)
    patient.kill(number)
    patient.proxy.ok()
    patient.stored(128 + number)


def test_while_the_files_of_an_earlier_life_are_adopted(patient):
    unsent_files_of_an_earlier_life(patient, 20)
    patient.start(**LATER)
    patient.said("opened the files that the rclone before left unsent")
    patient.kill()
    patient.stored(137)
    patient.next_life()


# -- at work --


def test_running_with_nothing_to_store(patient, number):
    patient.ready()
    patient.kill(number)
    patient.stored(128 + number)
    patient.next_life()


def test_with_a_burst_of_unsent_files(patient, number):
    patient.ready(**LATER)
    patient.burst(30)
    patient.kill(number)
    patient.stored(128 + number)
    patient.next_life()


def test_the_apps_last_words_are_stored(patient):
    """Like basic-memory, which answers before the file is written and writes it when it is told to stop."""
    late = "sleep 0.5; for i in 1 2 3; do echo last words > late-\\$i.md; done; exit 0"
    patient.ready(app=["sh", "-c", f'trap "{late}" TERM; echo armed; while :; do sleep 0.1; done'])
    patient.said('"armed"')
    patient.kill()
    patient.written = {f"late-{n}.md": "last words\n" for n in (1, 2, 3)}
    patient.stored(137)


def test_an_app_that_does_not_end_is_killed_in_time(patient):
    app = ["sh", "-c", 'trap "" TERM; echo armed; while :; do sleep 0.1; done']
    patient.ready(app=app, TENANT_INIT_LIMITS__STOP_TIMEOUT="5s")
    patient.said('"armed"')
    patient.write("kept.md")
    patient.kill()
    patient.stored(137)


def test_degraded_and_the_bucket_stays_away(patient, number):
    patient.ready(TENANT_INIT_LIMITS__STOP_TIMEOUT="5s")
    patient.proxy.refuse()
    patient.reason("storage_unreachable")
    patient.burst(5)
    patient.kill(number)
    end = patient.ended(74)
    assert (end.verdict["stored"], end.verdict["uploads_pending"]) == (False, sorted(patient.written))
    assert f"killed by signal {int(number)}" in end.verdict["reason"]
    patient.proxy.ok()
    patient.next_life()
    assert "note-04.md" in patient.tenant.log(), "the next start says what it found"


def test_degraded_and_the_bucket_comes_back_meanwhile(patient):
    patient.ready()
    patient.proxy.refuse()
    patient.reason("storage_unreachable")
    patient.burst(5)
    patient.kill()
    patient.recovering()
    patient.proxy.ok()
    patient.stored(137)


def test_while_a_dead_rclone_is_replaced(patient, number):
    """On fuse the app is stopped for that, and this one takes its time."""
    app = ["sh", "-c", 'trap "" TERM; echo armed; while :; do sleep 0.1; done']
    patient.ready(app=app, TENANT_INIT_LIMITS__STOP_TIMEOUT="7s", **LATER)
    patient.said('"armed"')
    patient.burst(5)
    os.kill(patient.tenant.service_pid("mount"), signal.SIGKILL)
    patient.reason("mount_recovering")
    patient.kill(number)
    patient.stored(128 + number)


def test_with_an_rclone_that_hangs(patient):
    patient.ready(**LATER)
    patient.burst(5)
    os.kill(patient.tenant.service_pid("mount"), signal.SIGSTOP)
    patient.kill()
    patient.stored(137)


# -- the stop --


def test_in_a_stop_while_the_app_ends(patient, number):
    late = "echo ending; sleep 1; echo last words > late.md; exit 0"
    patient.ready(app=["sh", "-c", f'trap "{late}" TERM; echo armed; while :; do sleep 0.1; done'])
    patient.said('"armed"')
    patient.tenant.process.signal(signal.SIGTERM)
    patient.said('"ending"')
    patient.kill(number)
    patient.written = {"late.md": "last words\n"}
    patient.stored(128 + number)


def test_in_a_stop_during_the_drain(patient, number):
    patient.ready(**LATER)
    patient.burst(5)
    patient.proxy.silent()
    patient.tenant.process.signal(signal.SIGTERM)
    patient.said('"event":"draining"')
    patient.kill(number)
    patient.proxy.ok()
    patient.stored(128 + number)


def test_in_a_stop_during_the_unmount(patient):
    """Somebody looks at a file: the plain unmount is tried for a while."""
    patient.ready()
    patient.burst(2)
    reader = os.open(patient.tenant.mount / "note-01.md", os.O_RDONLY)
    try:
        patient.tenant.process.signal(signal.SIGTERM)
        patient.said('"event":"drained"')
        patient.kill()
        patient.stored(137)
    finally:
        with suppress(OSError):  # its mount is gone
            os.close(reader)


def test_in_a_stop_while_the_mounter_ends(patient):
    """It cannot: it hangs. (Somebody reads, so that its mount is not gone before it does.)"""
    patient.ready(TENANT_INIT_LIMITS__STOP_TIMEOUT="8s")
    patient.burst(2)
    mounter = patient.tenant.service_pid("mount")
    reader = os.open(patient.tenant.mount / "note-01.md", os.O_RDONLY)
    try:
        patient.tenant.process.signal(signal.SIGTERM)
        patient.said('"event":"drained"')
        os.kill(mounter, signal.SIGSTOP)
        wait_until(lambda: patient.tenant.mounts() == ["tmpfs"], 20, "the mount is taken away")
        patient.kill()
        patient.stored(137)
    finally:
        with suppress(OSError):  # its mount is gone
            os.close(reader)


# -- the recovery itself --


def test_a_second_stop_signal_means_time_is_up(patient):
    patient.ready()
    patient.proxy.silent()
    patient.burst(3)
    patient.tenant.process.signal(signal.SIGTERM)
    patient.said('"event":"draining"')
    patient.kill()
    patient.said('"event":"mount_cleared"')
    time.sleep(0.3)  # sooner it would be the same stop, delivered twice
    begin = time.monotonic()
    patient.tenant.process.signal(signal.SIGTERM)
    end = patient.ended(74)
    assert time.monotonic() - begin < 20, "the deadline of a stop is 110 s"
    assert end.verdict["uploads_pending"] == sorted(patient.written)
    patient.proxy.ok()
    patient.next_life()


def test_a_recovery_that_is_killed_too_leaves_nothing_running(patient):
    patient.ready()
    patient.proxy.silent()
    patient.burst(3)
    patient.kill()
    os.kill(patient.recovering(), signal.SIGKILL)
    end = patient.tenant.wait(60)
    assert (end.code, end.verdict["stored"], end.verdict["uploads_pending"]) == (137, False, None), end
    patient.proxy.ok()
    patient.next_life()


def test_nobody_else_can_start_it(patient, binary):
    import subprocess

    words = [binary, "recover", "--guardian=1", "--code=137", "--stops=0", "--died=not at all", "--directory=/"]
    patient.ready()
    done = subprocess.run([*words, "--", "sleep"], env=patient.tenant.env, capture_output=True, text=True, timeout=20)
    assert done.returncode == 64 and "guardian" in done.stderr
    assert patient.tenant.ready()
