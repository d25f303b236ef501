"""The image: what is in it, what its arguments mean, and that it works on a read-only root."""

import os
import subprocess
import sys

import pytest

from lib import container

COMPILERS = ["cc", "gcc", "g++", "ld", "as", "make", "cargo", "rustc", "pip", "pip3", "uv"]
# Everything that writes goes to these; the image itself is never written to.
READ_ONLY = ["--read-only", "--tmpfs", "/run", "--tmpfs", "/tmp", "--tmpfs", "/var/lib/tenant-init"]


@pytest.fixture(scope="module")
def root():
    with container.image_root() as path:
        yield path


def test_versions():
    done = container.run("sh", "-c", "rclone version; basic-memory --version; python3 --version")
    assert done.returncode == 0, done.stderr
    assert "rclone v1.75.2" in done.stdout
    assert "0.24.1" in done.stdout
    assert "Python 3.13" in done.stdout


def test_python_records_the_index_and_nothing_else():
    program = """
import sqlite3
for name, tables in (("memory.db", True), ("other.db", True), ("sub/memory.db", False)):
    path = "/tmp/" + name
    __import__("os").makedirs(__import__("os").path.dirname(path), exist_ok=True)
    made = __import__("_sqlite3").Connection(path)
    if tables:
        made.execute("CREATE TABLE _tenant_init_outbox(id INTEGER PRIMARY KEY)")
    made.close()
    print(type(sqlite3.connect(path)).__name__)
"""
    done = container.run("/opt/basic-memory/bin/python", "-c", program)
    assert done.stdout.split() == ["RecordingConnection", "Connection", "Connection"], done.stderr


def test_python_does_not_run_where_recording_is_required_and_impossible():
    # Empty: podman would copy the image's files into it.
    hidden = ["--tmpfs", "/opt/basic-memory/lib/python3.13/site-packages/tenant_index:notmpcopyup"]
    command = ["/opt/basic-memory/bin/python", "-c", "print('runs')"]
    done = container.run(*command, options=hidden)
    assert done.stdout.strip() == "runs" and "the index is not recorded" in done.stderr
    done = container.run(*command, options=[*hidden, "--env", "TENANT_INDEX_REQUIRED=1"])
    assert done.returncode == 70 and done.stdout == "", done


def test_both_drivers_have_their_helper():
    done = container.run("bash", "-c", "command -v mount.nfs fusermount3")
    assert done.stdout.split() == ["/usr/sbin/mount.nfs", "/usr/bin/fusermount3"]


def test_no_compiler_and_no_installer(root):
    found = [f"{folder}/{name}" for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/basic-memory/bin")
             for name in COMPILERS if (root / folder / name).exists()]
    assert found == []
    assert list((root / "opt/basic-memory").glob("lib/python*/site-packages/pip")) == []


def test_no_caches_and_no_build_secrets(root):
    assert not list((root / "var/lib/apt/lists").glob("*"))
    assert not list((root / "var/cache/apt").glob("*.bin"))
    assert not (root / "root/.cache").exists()
    assert not (root / "run/secrets").exists() or not list((root / "run/secrets").iterdir())


def test_bytecode_is_compiled(root):
    """A read-only root can't keep it, and importing basic-memory is most of a start."""
    packages = next((root / "opt/basic-memory").glob("lib/python*/site-packages/basic_memory"))
    sources = list(packages.rglob("*.py"))
    compiled = list(packages.rglob("*.pyc"))
    assert len(sources) > 50
    assert len(compiled) >= len(sources)


def test_the_mount_point_is_empty_and_writable_by_nobody(root):
    assert list((root / "data").iterdir()) == []
    assert (root / "data").stat().st_mode & 0o222 == 0


def test_the_app_has_a_user_of_its_own():
    done = container.run("id", "app")
    assert done.stdout.startswith("uid=1000(app) gid=1000(app)")


def test_configuration():
    assert container.inspect("Config.Entrypoint") == ["/usr/local/bin/entrypoint"]
    assert container.inspect("Config.StopSignal") in ("SIGTERM", "15")
    assert container.inspect("HealthCheck.Test") == ["CMD", "/usr/local/bin/tenant-init", "status"]
    assert not container.inspect("Config.Cmd")
    assert "AWS" not in " ".join(container.inspect("Config.Env"))


# -- what arguments mean --


def test_a_shell():
    done = container.run("bash", "-c", "echo $BASHPID $PPID; exit 7")
    assert done.returncode == 7
    # A child of tenant-init, which is PID 1 and reaps for it.
    assert done.stdout.split()[1] == "1"


def test_a_command_that_does_not_exist():
    assert container.run("no-such-command").returncode == 127


def test_an_option_goes_to_tenant_init():
    done = container.run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("tenant-init ")


def test_a_subcommand_goes_to_tenant_init():
    done = container.run("exec", "--", "sh", "-c", "exit 3")
    assert done.returncode == 3


def test_no_arguments_run_the_tenant():
    """Without any credentials that is a wrong configuration, said at once."""
    done = container.run()
    assert done.returncode in (77, 78), done.stderr
    assert "BUCKET_NAME" in done.stdout + done.stderr


def test_a_release_command_is_a_program():
    """Fly keeps the entrypoint and puts the release command in place of CMD: never a second tenant."""
    done = container.run("sh", "-c", "echo released; exit 4", options=["--env", "RELEASE_COMMAND=1"])
    assert (done.returncode, done.stdout.strip()) == (4, "released")
    done = container.run("tenant-init", "--version", options=["--env", "RELEASE_COMMAND=1"])
    assert done.stdout.startswith("tenant-init ")


def test_tenant_init_is_pid_1():
    done = container.run("sh", "-c", "readlink /proc/1/exe")
    assert done.stdout.strip() == "/usr/local/bin/tenant-init"


def test_the_health_check_fails_without_a_tenant():
    done = container.run("tenant-init", "status", options=["--env", "TENANT_INIT_HEALTH__LISTEN=127.0.0.1:1"])
    assert done.returncode != 0


# -- read-only --


def test_basic_memory_starts_on_a_read_only_root():
    done = container.run("sh", "-c", "HOME=/tmp basic-memory --version && touch /opt/x",
                         options=READ_ONLY)
    assert "0.24.1" in done.stdout
    assert "Read-only file system" in done.stderr


def test_a_tenant_runs_on_a_read_only_root(s3_server, make_container):
    tenant = make_container(s3_server, options=READ_ONLY).start().wait_ready()
    # What the root's own layer would hold: nothing may have been written there.
    changes = subprocess.run(["podman", "diff", tenant.name], capture_output=True, text=True, check=True).stdout
    written = [line for line in changes.splitlines()
               if not line.split(" ", 1)[1].startswith(("/run", "/tmp", "/var", "/data", "/etc", "/dev", "/proc", "/sys"))]
    assert written == []
    end = tenant.stop()
    assert (end.code, end.verdict["stored"]) == (0, True)


# -- the entrypoint script by itself --


@pytest.mark.parametrize("arguments, expected", [
    ([], "run"),
    (["run"], "run"),
    (["check", "--json"], "check --json"),
    (["dev"], "dev"),
    (["--help"], "--help"),
    (["exec", "--", "ls"], "exec -- ls"),
    (["bash"], "exec -- bash"),
    (["ls", "-l", "two words"], "exec -- ls -l two words"),
    (["supervise"], "exec -- supervise"),
])
def test_entrypoint(tmp_path, arguments, expected):
    """The script hands everything over unchanged and is replaced by tenant-init."""
    said = _entrypoint(tmp_path, arguments)
    assert said == expected


def test_entrypoint_in_a_release_machine(tmp_path):
    assert _entrypoint(tmp_path, ["check"], RELEASE_COMMAND="1") == "exec -- check"


def _entrypoint(tmp_path, arguments, **env):
    stand_in = tmp_path / "tenant-init"
    stand_in.write_text(f"#!{sys.executable}\nimport os, sys\nprint(os.getpid(), *sys.argv[1:])\n")
    stand_in.chmod(0o755)
    script = tmp_path / "entrypoint"
    source = os.path.join(os.path.dirname(__file__), "../../entrypoint")
    script.write_text(open(source).read().replace("init=/usr/local/bin/tenant-init", f"init={stand_in}"))
    process = subprocess.Popen(["sh", script, *arguments], stdout=subprocess.PIPE, text=True, env={**os.environ, **env})
    out, _ = process.communicate(timeout=20)
    pid, _, rest = out.strip().partition(" ")
    assert int(pid) == process.pid, "it did not exec: signals would go to the shell"
    return rest
