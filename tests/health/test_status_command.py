"""`tenant-init status`: words for people, JSON and an exit code for scripts."""

import json
import os
import signal
import subprocess


def status(tenant, *arguments, seconds=60):
    return subprocess.run([tenant.program, "status", *arguments], env=tenant.env, capture_output=True, text=True,
                          timeout=seconds)


def test_a_ready_tenant_is_0(running_tenant):
    done = status(running_tenant)
    assert done.returncode == 0, done.stderr
    assert ": ready" in done.stdout.splitlines()[0] and "\x1b" not in done.stdout
    assert any(line.startswith("mount") for line in done.stdout.splitlines())
    done = status(running_tenant, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["ready"] is True


def test_no_tenant_is_69_and_says_what_to_look_at(make_tenant, s3_server):
    done = status(make_tenant(s3_server))
    assert done.returncode == 69 and done.stdout == ""
    assert "Is tenant-init running" in done.stderr


def test_wait_spans_the_start(make_tenant, s3_server):
    tenant = make_tenant(s3_server).start()
    done = status(tenant, "--wait", "60", seconds=90)
    assert done.returncode == 0, done.stderr
    assert tenant.ready()


def test_a_stopped_supervisor_is_69_within_seconds(running_tenant):
    pid = running_tenant.supervisor_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        done = status(running_tenant, seconds=20)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.returncode == 69 and "does not answer" in done.stderr
