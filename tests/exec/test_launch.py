"""`launch`: what a child of the supervisor becomes before it is executed."""

import os
import pwd
import subprocess

import pytest

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="changing the user needs root")


@pytest.fixture
def launch(binary):
    def run(*args, **kwargs):
        return subprocess.run([binary, "launch", *args], capture_output=True, text=True, **kwargs)

    return run


def test_signals_start_clean_whatever_the_supervisor_had(launch):
    import signal

    def dirty():
        for number in range(1, 65):
            if number not in (9, 19, 32, 33):
                signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))

    done = launch("--", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status", preexec_fn=dirty)
    assert done.stdout.split() == ["SigBlk:", "0" * 16, "SigIgn:", "0" * 16]


def test_it_becomes_the_command(binary):
    process = subprocess.Popen([binary, "launch", "--", "sh", "-c", "echo $$"], stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0] == f"{process.pid}\n"


@needs_root
@pytest.mark.parametrize("spec, uid, gid", [("nobody", 65534, None), ("54321", 54321, 54321), ("nobody:54321", 65534, 54321)])
def test_user_and_groups(launch, spec, uid, gid):
    gid = pwd.getpwnam("nobody").pw_gid if gid is None else gid
    done = launch("--user", spec, "--", "grep", "-E", "^(Uid|Gid|Groups|CapEff)", "/proc/self/status")
    fields = {line.split(":")[0]: line.split(":")[1].split() for line in done.stdout.splitlines()}
    assert fields["Uid"] == [str(uid)] * 4
    assert fields["Gid"] == [str(gid)] * 4
    assert set(fields["Groups"]) == {str(gid)}, "no group of ours is kept"
    assert fields["CapEff"] == ["0" * 16]


def test_an_unknown_user_is_126_and_says_what_to_do(launch):
    done = launch("--user", "no-such-user", "--", "true")
    assert done.returncode == 126
    assert 'no such user' in done.stderr and "/etc/passwd" in done.stderr


@needs_root
def test_without_root_it_warns_and_goes_on(launch, binary, tmp_path):
    done = subprocess.run(["setpriv", "--reuid", "54321", "--clear-groups", binary, "launch", "--user", "nobody", "--", "id", "-u"], capture_output=True, text=True)
    if done.returncode == 127:
        pytest.skip("another user cannot reach the program here")
    assert done.stdout == "54321\n"
    assert "warning" in done.stderr and "only root" in done.stderr


def test_limits_privileges_umask_and_memory_order(launch):
    done = launch("--no-core", "--no-new-privs", "--umask", "027", "--oom-score-adj", "500", "--", "sh", "-c", "ulimit -c; grep NoNewPrivs /proc/self/status; umask; cat /proc/self/oom_score_adj")
    assert done.stdout.split() == ["0", "NoNewPrivs:", "1", "0027", "500"]


def test_parent_death_signal(binary, tools):
    parent = subprocess.Popen(["sh", "-c", f"{binary} launch --parent-death-signal 9 -- sh -c 'echo $$; exec sleep 60'; :"], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    tools.until(lambda: tools.state(child) in (None, "Z"), "the child dies with its parent")
    parent.stdout.close()


def test_not_found_and_not_executable(launch):
    assert launch("--", "no-such-program").returncode == 127
    assert launch("--", "/etc").returncode == 126


def test_a_wrong_command_line_is_a_bug(launch):
    done = launch("--no-such-option", "--", "true")
    assert done.returncode == 70
    assert "--no-such-option" in done.stderr
