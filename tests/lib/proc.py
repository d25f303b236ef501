"""Child processes of tests: started with their output in a file, and certainly gone at the end."""

import os
import signal
import subprocess


class Process:
    """A program in its own session with stdout and stderr in files. `stop` and `kill` may be called at any time."""

    def __init__(self, name, folder):
        self.name = name
        self.out = folder / f"{name}.out"
        self.err = folder / f"{name}.err"
        self.process = None

    def spawn(self, argv, env=None, prefix=(), **kwargs):
        """Starts `argv` (after `prefix`, for example `ip netns exec NAME`); output is appended to the files."""
        assert self.process is None or self.process.poll() is not None, f"{self.name} runs already"
        with open(self.out, "ab") as out, open(self.err, "ab") as err:
            self.process = subprocess.Popen(
                [str(a) for a in (*prefix, *argv)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=env, start_new_session=True, **kwargs,
            )
        return self

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        self.process.send_signal(number)

    def stop(self, seconds=10):
        """SIGTERM, then SIGKILL for the whole session; returns the exit code."""
        if self.process is None:
            return None
        if self.running():
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        return self.process.returncode

    def kill(self):
        """SIGKILL for the process and its group."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def suspend(self):
        """SIGSTOP: alive and silent, as a server behind a network that drops packets."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stdout(self):
        return self.out.read_text(errors="replace") if self.out.exists() else ""

    def stderr(self):
        return self.err.read_text(errors="replace") if self.err.exists() else ""
