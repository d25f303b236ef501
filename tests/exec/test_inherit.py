"""The payload is started exactly as the guardian was; the guardian keeps nothing of it."""

import os
import random
import resource
import subprocess

import pytest

from lib import dispositions

def prepare(mask, ignored):
    """What a child does before its exec: exactly these signals blocked and ignored."""
    return lambda: dispositions.install(mask, ignored)


def both(binary, payload, **kwargs):
    """What `payload` prints without and with the guardian."""
    runs = [subprocess.run(prefix + payload, capture_output=True, text=True, **kwargs) for prefix in ([], [binary, "exec", "--"])]
    assert [run.returncode for run in runs] == [0, 0], [run.stderr for run in runs]
    return [run.stdout for run in runs]


@pytest.mark.parametrize(
    "mask, ignored",
    [
        ((), ()),
        ((), (13,)),
        ((13,), ()),
        ((), (32, 33)),
        ((32, 33), ()),
        ((17,), (17,)),
        ((20, 21, 22), (20, 21, 22)),
        ((), (7, 11)),
        (tuple(set(range(1, 65)) - {9, 19}), tuple(set(range(1, 65)) - {9, 19})),
        *[(tuple(random.Random(n).sample(range(1, 65), 20)), tuple(random.Random(n + 9).sample(range(1, 65), 20))) for n in range(5)],
    ],
)
def test_mask_and_dispositions_are_exactly_as_given(binary, mask, ignored):
    # Not grep: it changes what happens at SIGSEGV.
    bare, guarded = (
        [line.split() for line in text.splitlines() if line.startswith(("SigBlk", "SigIgn"))]
        for text in both(binary, ["cat", "/proc/self/status"], preexec_fn=prepare(mask, ignored))
    )
    assert guarded == bare
    assert bare == [
        [name, f"{sum(1 << (number - 1) for number in numbers if number not in (9, 19)):016x}"]
        for name, numbers in (("SigBlk:", mask), ("SigIgn:", ignored))
    ]


def test_exit_code_survives_an_ignored_sigchld(binary):
    assert subprocess.run([binary, "exec", "--", "sh", "-c", "exit 5"], preexec_fn=prepare((), (17,))).returncode == 5


def test_a_hangup_that_nohup_ignores_does_not_end_the_payload(guarded, tools):
    payload = guarded(["sleep", "60"], preexec_fn=prepare((), (1,)))
    payload.payload
    payload.kill(1)
    payload.kill(15)
    assert payload.wait()[0] == 143


def test_descriptors_are_exactly_as_given(binary):
    read, write = os.pipe()
    high = os.dup2(read, 200)
    bare, guarded = both(binary, ["sh", "-c", "for f in /proc/$$/fd/*; do echo ${f##*/} $(readlink $f | sed s/:.*//); done; cat /proc/$$/fdinfo/200 | head -2"], pass_fds=(read, write, high), stdin=subprocess.DEVNULL)
    assert guarded == bare
    assert "200 pipe" in bare
    for fd in (read, write, high):
        os.close(fd)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_descriptors_stay_closed(binary, tmp_path, closed):
    seen = []
    for prefix in ("", f"{binary} exec -- "):
        out = tmp_path / "out"
        script = f"for fd in 0 1 2; do [ -e /proc/$$/fd/$fd ] && echo $fd; done > {out}; true"
        subprocess.run(["sh", "-c", f"exec {prefix}sh -c '{script}' {closed}"], stdin=subprocess.DEVNULL, check=True)
        seen.append(out.read_text())
    assert seen[0] == seen[1]


def test_environment_limits_umask_and_priorities_are_as_given(binary, tmp_path):
    def odd():
        os.umask(0o137)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, 654))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 1000))

    script = "env | grep -v ^_= | sort; umask; nice; cat /proc/self/limits /proc/self/oom_score_adj; pwd"
    env = {"PATH": os.environ["PATH"], "ODD": "a=b\nc", "EMPTY": ""}
    bare, guarded = both(binary, ["sh", "-c", script], preexec_fn=odd, env=env, cwd=tmp_path)
    assert guarded == bare
    assert str(tmp_path) in bare and "0137" in bare


def test_without_a_terminal_the_payload_leads_a_session(guarded, pid1, tools):
    payload = guarded(["sleep", "60"], pid1=pid1)
    child = payload.payload
    _, _, group, session = tools.stat(child)[:4]
    assert (int(group), int(session)) == (child, child)


def test_a_broken_pipe_ends_the_payload_quietly(binary):
    done = subprocess.run(["sh", "-c", f"{binary} exec -- yes | head -1"], capture_output=True, text=True)
    assert done.stdout == "y\n"
    assert done.stderr == ""


def test_the_guardian_keeps_no_descriptor_and_no_directory(guarded, pid1, tmp_path, tools):
    read, write = os.pipe()
    payload = guarded(["sleep", "60"], pid1=pid1, cwd=tmp_path, pass_fds=(read, write))
    child, guardian = payload.payload, payload.guardian
    tools.until(lambda: sorted(os.listdir(f"/proc/{guardian}/fd")) == ["0", "1", "2"], "the guardian closes what it does not need")
    tools.until(lambda: os.readlink(f"/proc/{guardian}/cwd") == "/", "the guardian leaves its directory")
    assert os.readlink(f"/proc/{child}/cwd") == str(tmp_path)
    assert os.path.exists(f"/proc/{child}/fd/{write}")
    os.close(read)
    os.close(write)


def test_the_guardian_is_small_and_sleeps(guarded, pid1, tools):
    import time

    payload = guarded(["sleep", "60"], pid1=pid1)
    payload.payload
    guardian = payload.guardian
    tools.until(lambda: tools.state(guardian) == "S", "the guardian sleeps")
    tools.until(lambda: os.readlink(f"/proc/{guardian}/cwd") == "/", "the guardian has settled")
    before = tools.status(guardian)
    time.sleep(1.5)  # That nothing happens can only be seen by waiting.
    after = tools.status(guardian)
    assert int(after["VmRSS"].split()[0]) <= 3072
    assert after["Threads"] == "1"
    assert after["voluntary_ctxt_switches"] == before["voluntary_ctxt_switches"]
