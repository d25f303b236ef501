"""`tenant-init check`: one line per precondition, what to do about it, the exit code of a start, and nothing changed."""

import contextlib
import json
import os
import pty
import re
import subprocess
import time
from dataclasses import dataclass

import pytest

from lib.troubles import TROUBLES
from lib.wait import free_port

NAMES = ["credentials", "tenant", "key", "bucket", "clock", "index database", "rclone", "fusermount3", "app", "app user",
         "kernel", "mount driver", "capabilities", "mountpoint", "cache directory", "cache space", "run directory",
         "app directory", "health port", "app port"]


@dataclass
class Checked:
    code: int
    text: str
    seconds: float

    @property
    def lines(self):
        return self.text.splitlines()

    def line(self, name):
        """The line of this precondition: its mark, and the rest."""
        [found] = [line for line in self.lines if re.match(rf"[✓✗!-] {re.escape(name)}  ", line)]
        return found[0], found

    def advice(self, name):
        return self.lines[self.lines.index(self.line(name)[1]) + 1].strip()


def check(tenant, *arguments, prefix=(), env=()):
    environment = {**tenant.env, "TENANT_INIT_APP__COMMAND": "sleep infinity", **dict(env)}
    begin = time.monotonic()
    done = subprocess.run([*prefix, tenant.program, "check", *arguments], env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert not done.stderr, done.stderr
    return Checked(done.returncode, done.stdout, time.monotonic() - begin)


def everything_below(folder):
    return sorted(os.path.join(parent, name) for parent, folders, files in os.walk(folder) for name in folders + files)


@pytest.fixture
def tenant(make_tenant, s3_server):
    return make_tenant(s3_server, env={"TENANT_INIT_MOUNT__DRIVER": "fuse"})


def test_each_precondition_has_its_line(tenant):
    checked = check(tenant)
    assert checked.code == 0, checked.text
    assert [line[2:].split("  ")[0] for line in checked.lines if re.match("[✓✗!-] ", line)][:len(NAMES)] == NAMES
    assert checked.line("bucket")[0] == "✓" and checked.line("key")[0] == "✓"
    assert checked.lines[-1].startswith("✓ Everything a start needs is here")
    assert checked.seconds < 5


def test_nothing_is_changed(tenant, s3_server, tmp_path):
    before = everything_below(tmp_path)
    assert check(tenant).code == 0
    assert everything_below(tmp_path) == before
    assert s3_server.objects(own=True) == {}


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_trouble_has_its_exit_code_and_words(trouble, tenant, s3_server):
    with trouble.arrange(tenant, s3_server) as prefix:
        checked = check(tenant, prefix=prefix)
    assert checked.code == trouble.code, checked.text
    assert checked.seconds < 15
    last = checked.lines[-1]
    assert last.startswith(f"✗ A start would fail with exit code {trouble.code}: ") and trouble.words in last, checked.text
    assert not re.search(r"\bready\b", checked.text)
    failed = [line for line in checked.lines[:-1] if line.startswith("✗")]
    assert failed
    for line in failed:
        assert checked.lines[checked.lines.index(line) + 1].strip().startswith("→ "), f"no advice below: {line}"
    assert s3_server.secret not in checked.text and s3_server.key_id not in checked.text


def test_every_failure_is_listed_at_once(tenant):
    env = {"BUCKET_NAME": "nothing-here", "TENANT_INIT_APP__USER": "no-such-user", "TENANT_INIT_MOUNT__RCLONE": "/etc/passwd"}
    checked = check(tenant, env=env)
    assert checked.code == 78
    assert [name for name in NAMES if checked.line(name)[0] == "✗"] == ["bucket", "rclone", "app user"]
    assert checked.lines[-1].endswith("(and 2 more)")


def test_missing_credentials_are_listed_and_the_rest_is_still_checked(tenant):
    del tenant.env["AWS_ACCESS_KEY_ID"], tenant.env["BUCKET_NAME"]
    checked = check(tenant)
    assert checked.code == 78
    mark, line = checked.line("credentials")
    assert mark == "✗" and "AWS_ACCESS_KEY_ID" in line and "BUCKET_NAME" in line
    assert checked.line("bucket")[0] == "-" and checked.line("rclone")[0] == "✓"


def test_an_old_rclone_is_named(tenant, tmp_path):
    old = tmp_path / "rclone-old"
    old.write_text("#!/bin/sh\necho rclone v1.60.1-DEV\n")
    old.chmod(0o755)
    checked = check(tenant, env={"TENANT_INIT_MOUNT__RCLONE": str(old)})
    assert checked.code == 71
    assert "1.60.1-DEV" in checked.line("rclone")[1] and "install rclone 1.75" in checked.advice("rclone")


def test_a_database_that_is_down_stops_a_start(tenant, sqld):
    up = check(tenant, env={"DATABASE_URL": sqld.url})
    assert up.code == 0 and up.line("index database")[0] == "✓", up.text
    down = check(tenant, env={"DATABASE_URL": f"libsql://127.0.0.1:{free_port()}?tls=0"})
    assert down.code == 69, down.text
    mark, line = down.line("index database")
    assert mark == "✗" and "connection refused" in line


def test_everything_that_hangs_at_once_still_ends_in_time(tenant, s3_server, sqld):
    s3_server.suspend()
    sqld.suspend()
    try:
        checked = check(tenant, env={"DATABASE_URL": sqld.url})
    finally:
        s3_server.resume()
        sqld.resume()
    assert checked.code == 69 and checked.seconds < 12, checked.text


def test_json_says_the_same(tenant):
    tenant.env["BUCKET_NAME"] = "nothing-here"
    checked = check(tenant, "--json")
    assert checked.code == 78
    findings = json.loads(checked.text)
    assert [finding["name"] for finding in findings] == NAMES
    by_name = {finding["name"]: finding for finding in findings}
    assert by_name["bucket"]["outcome"] == "failed" and by_name["bucket"]["exit_code"] == 78
    assert by_name["bucket"]["advice"]
    assert by_name["key"] == {**by_name["key"], "outcome": "ok", "exit_code": None, "advice": None}
    assert all(isinstance(finding["ms"], int) for finding in findings)


def on_a_terminal(tenant, **env):
    """What `check` writes when its output is a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen([tenant.program, "check"], env={**tenant.env, "TERM": "xterm", **env},
                               stdin=its, stdout=its, stderr=its)
    os.close(its)
    text = b""
    with open(ours, "rb", buffering=0) as terminal:
        # A terminal whose other side is closed reads as an error, not as an end.
        with contextlib.suppress(OSError):
            while part := terminal.read(65536):
                text += part
    process.wait(60)
    return text.decode()


def test_colour_is_for_terminals_only(tenant):
    assert "\x1b[32m✓" in on_a_terminal(tenant)
    assert "\x1b[" not in on_a_terminal(tenant, NO_COLOR="1")
    assert "\x1b[" not in check(tenant).text


def test_beside_a_running_tenant_its_own_port_and_mount_are_no_failures(running_tenant):
    checked = check(running_tenant, env={"TENANT_INIT_MOUNT__DRIVER": "fuse"})
    assert checked.code == 0, checked.text
    mark, line = checked.line("health port")
    assert mark == "!" and "a tenant-init that runs here" in line
    assert "mounted by the tenant-init that runs here" in checked.line("mountpoint")[1]
