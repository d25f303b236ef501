"""The exit code is the payload's, and a payload that cannot be started is explained."""

import os
import signal

import pytest


@pytest.mark.parametrize("code", [0, 1, 42, 127, 255])
def test_exit_code_is_the_payloads(guarded, pid1, code):
    assert guarded(["sh", "-c", f"exit {code}"], pid1=pid1).wait()[0] == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 32, 33, 34, 64])
def test_death_by_signal_is_128_and_its_number(guarded, pid1, number):
    payload = f"import ctypes, os; ctypes.CDLL(None).kill(os.getpid(), {int(number)})"
    assert guarded(payload, pid1=pid1).wait()[0] == 128 + number


@pytest.mark.parametrize("name, advice", [("/no/such/file", "no such file"), ("no-such-program", "PATH"), ("", "PATH")])
def test_not_found_is_127(guarded, name, advice):
    code, out, err = guarded([name]).wait()
    assert code == 127
    assert out == ""
    assert err.startswith(f'tenant-init: cannot start "{name}": ') and advice in err
    assert err.count("\n") == 1


def test_missing_interpreter_is_127_and_says_so(guarded, tmp_path):
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    code, _, err = guarded([str(script)]).wait()
    assert code == 127
    assert "#!" in err


def test_directory_is_126(guarded):
    code, _, err = guarded(["/etc"]).wait()
    assert code == 126
    assert "directory" in err


def test_not_executable_is_126(guarded, tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("echo hello\n")
    code, _, err = guarded([str(plain)]).wait()
    assert code == 126
    assert "chmod +x" in err


def test_script_without_interpreter_line_runs_in_the_shell(guarded, tmp_path):
    script = tmp_path / "script"
    script.write_text('echo "$0 $1"\n')
    script.chmod(0o755)
    assert guarded([str(script), "x y"]).wait()[:2] == (0, f"{script} x y\n")


def test_arguments_arrive_byte_for_byte(guarded):
    awkward = [b"", b"two words", b"--", b"-x", b"--help", b"\xff\xfe", "grüße".encode(), b"a\nb", b"$HOME", b"'\""]
    code, out, _ = guarded([b"printf", b"%s|", *awkward]).wait_bytes()
    assert code == 0
    assert out == b"".join(arg + b"|" for arg in awkward)


def test_fifty_thousand_arguments_arrive(guarded):
    code, out, _ = guarded(["sh", "-c", "echo $#", "sh", *["x"] * 50_000]).wait()
    assert (code, out) == (0, "50000\n")


def test_a_script_without_interpreter_line_may_have_many_arguments_too(guarded, tmp_path):
    script = tmp_path / "script"
    script.write_text("echo $#\n")
    script.chmod(0o755)
    assert guarded([str(script), *["x"] * 50_000]).wait()[:2] == (0, "50000\n")


def test_dashes_are_optional(binary):
    assert os.spawnv(os.P_WAIT, binary, [binary, "exec", "sh", "-c", "exit 9"]) == 9


def test_no_command_is_a_usage_error(binary):
    assert os.spawnv(os.P_WAIT, binary, [binary, "exec"]) == 64
    assert os.spawnv(os.P_WAIT, binary, [binary, "exec", "--"]) == 64
    assert os.spawnv(os.P_WAIT, binary, [binary, "exec", "--no-such-option", "sh"]) == 64


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_no_free_process_is_126_with_advice(binary, tmp_path):
    import resource
    import shutil
    import subprocess

    # Root has no limit of processes, so another user tries; it must be able to reach the program.
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:2]:
        parent.chmod(0o755)
    copy = shutil.copy(binary, tmp_path / "tenant-init")
    done = subprocess.run(
        [copy, "exec", "--", "true"],
        user=54321,
        group=54321,
        extra_groups=[],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NPROC, (0, 0)),
    )
    assert done.returncode == 126
    assert "no new process" in done.stderr
