"""On a terminal: the payload can be a shell with job control, and Ctrl-C and Ctrl-Z do what they do without us."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest


class Screen:
    """A process whose controlling terminal is a pty."""

    def __init__(self, command):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.environ.update(PS1="READY> ", TERM="dumb", HISTFILE="")
                os.execvp(command[0], command)
            finally:
                os._exit(99)
        self.text = ""

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def expect(self, pattern, deadline=20):
        """Waits for `pattern` on the screen, and forgets what came before its end."""
        end = time.monotonic() + deadline
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                pytest.fail(f"{pattern!r} did not appear; the screen shows:\n{self.text}")
            try:
                self.text += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                pytest.fail(f"{pattern!r} did not appear before the end; the screen shows:\n{self.text}")
        self.text = self.text[found.end() :]
        return found

    def foreground(self):
        return os.tcgetpgrp(self.fd)

    def wait(self):
        """Exit code once the process is gone. Reads the screen, so that nothing blocks on it."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if select.select([self.fd], [], [], 0.01)[0]:
                try:
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
        pytest.fail(f"still running; the screen shows:\n{self.text}")

    def clean_up(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def screen():
    made = []

    def start(command):
        made.append(Screen(command))
        return made[-1]

    yield start
    for one in made:
        one.clean_up()


@pytest.fixture
def prefix(pid1, tools):
    return tools.NAMESPACE if pid1 else []


SHELL = ["bash", "--norc", "--noprofile", "-i"]
# Says when it reads: what is typed while the shell still edits lines is not a line for it.
CAT = "sh -c 'echo reads; exec cat'"


def test_a_shell_has_job_control(screen, binary, prefix):
    shell = screen([*prefix, binary, "exec", "--", *SHELL])
    shell.expect("READY> ")
    assert "no job control" not in shell.text
    shell.type(f"{CAT}\n")
    shell.expect("reads\r\n")
    shell.type("hello\n")
    shell.expect("hello\r\nhello\r\n")
    shell.type("\x1a")
    shell.expect(r"Stopped\s+sh(?s:.*)READY> ")
    shell.type("fg\n")
    shell.expect("cat'\r\n")
    shell.type("again\n")
    shell.expect("again\r\nagain\r\n")
    shell.type("\x03")
    shell.expect("READY> ")
    shell.type("echo code=$?\n")
    shell.expect("code=130")
    shell.type("exit 6\n")
    assert shell.wait() == 6


def test_many_interrupts_do_not_end_a_payload_that_handles_them(screen, binary, prefix):
    program = "import os, signal; signal.signal(2, lambda *_: os.write(1, b'[int]')); print('ready', flush=True)\nwhile True: signal.pause()"
    payload = screen([*prefix, binary, "exec", "--", "python3", "-Sc", program])
    payload.expect("ready")
    end = time.monotonic() + 4.5
    while time.monotonic() < end:
        payload.type("\x03")
        payload.expect(r"\[int\]")
        time.sleep(0.3)
    payload.type("\x1c")
    assert payload.wait() == 131


def test_an_interrupt_reaches_the_payload_once(screen, binary, prefix):
    program = "import os, signal; signal.signal(2, lambda *_: os.write(1, b'[int]')); signal.signal(3, lambda *_: os.write(1, b'[quit]')); print('ready', flush=True)\nwhile True: signal.pause()"
    payload = screen([*prefix, binary, "exec", "--", "python3", "-Sc", program])
    payload.expect("ready")
    payload.type("\x03")
    payload.expect(r"\[int\]")
    payload.type("\x1c")
    found = payload.expect(r"(?s)(.*)\[quit\]")
    assert "[int]" not in found[1]


def test_window_size_changes_reach_the_payload(screen, binary, prefix):
    program = "import os, signal; signal.signal(28, lambda *_: os.write(1, b'[%d]' % os.get_terminal_size().columns)); print('ready', flush=True)\nwhile True: signal.pause()"
    payload = screen([*prefix, binary, "exec", "--", "python3", "-Sc", program])
    payload.expect("ready")
    fcntl.ioctl(payload.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 123, 0, 0))
    payload.expect(r"\[123\]")


def test_ctrl_z_without_a_shell_above_does_not_hang_the_terminal(screen, binary, prefix):
    payload = screen([*prefix, binary, "exec", "--", "cat"])
    payload.type("one\n")
    payload.expect("one\r\none\r\n")
    payload.type("\x1a")
    payload.type("two\n")
    payload.expect("two\r\ntwo\r\n")
    payload.type("\x04")
    assert payload.wait() == 0


def test_ctrl_z_under_a_shell_gives_the_prompt_back_and_fg_goes_on(screen, binary):
    shell = screen(SHELL)
    shell.expect("READY> ")
    shell.type(f"{binary} exec -- {CAT}\n")
    shell.expect("reads\r\n")
    shell.type("one\n")
    shell.expect("one\r\none\r\n")
    for word in ("two", "three"):
        shell.type("\x1a")
        shell.expect(r"Stopped(?s:.*)READY> ")
        shell.type("fg\n")
        shell.expect("cat'\r\n")
        shell.type(f"{word}\n")
        shell.expect(f"{word}\r\n{word}\r\n")
    shell.type("\x04")
    shell.expect("READY> ")
    shell.type("echo code=$?\n")
    shell.expect("code=0")


def test_a_background_job_that_wants_the_terminal_stops_and_fg_gives_it(screen, binary):
    shell = screen(SHELL)
    shell.expect("READY> ")
    shell.type(f"{binary} exec -- cat &\n")
    shell.expect("READY> ")
    shell.type("\n")
    end = time.monotonic() + 20
    while True:
        shell.type("jobs\n")
        if "Stopped" in shell.expect(r"(?s)(Running|Stopped).*READY> ")[1]:
            break
        assert time.monotonic() < end, "the job did not stop"
        time.sleep(0.1)
    shell.type("fg\n")
    shell.expect("exec -- cat\r\n")
    shell.type("hello\n")
    shell.expect("hello\r\nhello\r\n")
    shell.type("\x04")
    shell.expect("READY> ")


def test_a_script_can_read_the_terminal_after_us(screen, binary):
    script = screen(["sh", "-c", f"{binary} exec -- true; echo after; read x; echo got $x"])
    script.expect("after")
    script.type("word\n")
    script.expect("got word")
    assert script.wait() == 0


def test_without_a_terminal_nothing_is_needed(binary):
    done = subprocess.run([binary, "exec", "--", "sh", "-c", "exit 4"], start_new_session=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 4


def test_a_payload_that_left_its_group_still_gets_signals(screen, binary):
    # In the same session, which it is with a terminal, joining the guardian's group is a way out of its own.
    program = "import os, signal; os.setpgid(0, os.getpgid(os.getppid())); print('ready', flush=True); signal.pause()"
    payload = screen([binary, "exec", "--", "python3", "-Sc", program])
    payload.expect("ready")
    os.kill(payload.pid, signal.SIGTERM)
    assert payload.wait() == 143
