"""What a user sees on a terminal: one line that changes, and the last words."""

import os
import pty
import re
import select
import time

from lib.wait import wait_until


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, argv, env):
        self.text = ""
        self.pid, self.keys = pty.fork()
        if self.pid == 0:
            os.execvpe(argv[0], argv, env)

    def shows(self, pattern, seconds=30):
        """Reads until it shows what matches, after what was matched before."""
        deadline = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready = select.select([self.keys], [], [], max(0, deadline - time.monotonic()))[0]
            assert ready, f"does not show {pattern!r} within {seconds} s: {self.text[-2000:]!r}"
            try:
                self.text += os.read(self.keys, 4096).decode(errors="replace")
            except OSError:
                raise AssertionError(f"ended without {pattern!r}: {self.text[-2000:]!r}") from None
        self.text = self.text[found.end():]

    def types(self, keys):
        os.write(self.keys, keys)

    def end(self):
        """The exit code."""
        try:
            while chunk := os.read(self.keys, 4096):
                self.text += chunk.decode(errors="replace")
        except OSError:
            pass  # Linux says EIO when the last one has closed the terminal
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_one_line_changes_and_ctrl_c_stores_everything(make_mount, s3_server):
    local = make_mount(s3_server)
    argv = [str(word) for word in local.command()]
    terminal = Terminal(argv, {**local.env, "TERM": "xterm"})
    terminal.shows(r"is mounted \(fuse\)\. Ctrl-C stores what is left and unmounts it\r\n")
    terminal.shows(r"\x1b\[\?7lconnected, everything is stored \| ")
    local.write("mine.md", "from here")
    terminal.shows(r"\r\x1b\[K\x1b\[\?7lconnected, sending 1 file \(9 B\)")
    terminal.shows(r"\r\x1b\[K\x1b\[\?7lconnected, everything is stored \(last at \d\d:\d\d\)")
    s3_server.kill()
    terminal.shows(r"\r\x1b\[K\x1b\[\?7loffline since \d\d:\d\d: your changes are kept here")
    local.write("late.md", "offline")
    terminal.shows("; 1 file .*waits")
    s3_server.start()
    terminal.shows("connected, everything is stored")
    local.write("last.md", "at the end")
    terminal.types(b"\x03")
    terminal.shows(r"\r\x1b\[K.*everything is stored, and .* is unmounted\r\n")
    assert terminal.end() == 0
    assert '"verdict"' not in terminal.text, "JSON is for programs"
    assert s3_server.objects().keys() == {"mine.md", "late.md", "last.md"}
    wait_until(lambda: local.mounts() == [], 5)
