"""What scripts inside the tests' virtual machine use besides `lib`: results for the test outside, plain rclone mounts."""

import json
import os
import signal
import subprocess
from pathlib import Path

from lib.mounts import detach_below, mounted
from lib.proc import Process
from lib.s3 import S3Server
from lib.wait import wait_until

# The machine's disk (ext4). Not /tmp, which is memory, and nothing else of the root: hostfs gives every new file to root.
DISK = Path("/var/lib/tenant-init")
RESULTS = Path("/vm/out/results.jsonl")
os.environ.setdefault("SQLD", "/vm/parts/sqld")


def emit(event, **fields):
    """Hands one result to the test outside. On its disk when this returns, even if the kernel stops right after."""
    line = json.dumps({"event": event, **fields})
    print(line, flush=True)
    with open(RESULTS, "a") as f:
        f.write(line + "\n")
        f.flush()
        os.fsync(f.fileno())


def start_pid1():
    """Beside PID 1: everything it needs is there, the image's entrypoint may begin."""
    Path("/run/start-pid1").touch()


def stop_pid1(number=signal.SIGTERM):
    """Last act of a script beside PID 1: signals it, and the machine ends with it. Everything emitted is kept."""
    with open("/vm/out/exit-code", "w") as f:
        f.write("0\n")
        f.flush()
        os.fsync(f.fileno())
    os.kill(1, number)
    signal.pause()


def sh(command, **kwargs):
    """Runs a shell command that must succeed and returns its output."""
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True, **kwargs).stdout


class PlainMount:
    """`rclone nfsmount` (or `mount`) as a person would type it: no guard, no supervisor. What tenant-init improves on."""

    def __init__(self, s3: S3Server, folder, verb="nfsmount"):
        self.folder = Path(folder)
        self.point = self.folder / "plain"
        self.point.mkdir(parents=True, exist_ok=True)
        self.s3, self.verb = s3, verb
        self.process = Process("rclone", self.folder)

    def start(self):
        options = ["-o", "nolock,vers=3"] if self.verb == "nfsmount" else []
        self.process.spawn(
            ["rclone", self.verb, f"T:{self.s3.bucket}", self.point, *options, "--vfs-cache-mode", "full",
             "--cache-dir", self.folder / "plain-cache", "--vfs-write-back", "1s",
             "--rc", "--rc-no-auth", "--rc-addr", f"unix://{self.folder}/rc.sock"],
            env={**os.environ, **self.s3.rclone_env()},
        )
        wait_until(lambda: mounted(self.point), 30, lambda: f"plain mount: {self.process.stderr()[-800:]}")
        return self

    def stop(self):
        self.process.kill()
        detach_below(self.folder)
