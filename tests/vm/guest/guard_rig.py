"""A mount through the NFS guard alone: `rclone nfsmount` behind `examples/guard.rs`, no supervisor."""

import json
import os
import subprocess
from pathlib import Path

from lib import rc
from lib.mounts import detach_below, mounted
from lib.proc import Process
from lib.wait import free_port, wait_until

GUARD = "/vm/out/guard"
MOUNT_OPTIONS = "nolock,vers=3,hard,nocto,actimeo=30"


class Guard:
    """The guard as a process, and its commands."""

    def __init__(self, folder, upstream):
        self.errors = open(Path(folder) / "guard.err", "a+")
        self.process = subprocess.Popen([GUARD, str(upstream)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True, bufsize=1)
        self.port = int(self.process.stdout.readline().split()[1])

    def tell(self, command):
        self.process.stdin.write(command + "\n")
        return json.loads(self.process.stdout.readline())

    def stats(self):
        return self.tell("stats")

    def cpu(self):
        """Seconds of processor time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss(self):
        """Resident memory and its peak in KiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return [int(line.split()[1]) for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM"))][::-1]

    def log(self):
        self.errors.seek(0)
        return self.errors.read()

    def kill(self):
        self.process.kill()
        self.process.wait()


class GuardedMount:
    """`mount.point` is the bucket of `s3`, through `mount.guard`; with guard=False past it, for comparison."""

    def __init__(self, s3, folder, name="guarded", guard=True):
        self.folder = Path(folder) / name
        self.point = self.folder / "mnt"
        self.point.mkdir(parents=True)
        self.s3 = s3
        self.server_port = free_port()
        self.guard = Guard(self.folder, self.server_port) if guard else None
        self.port = self.guard.port if guard else self.server_port
        self.rclone = Process("rclone", self.folder)

    def start(self, *flags, options=MOUNT_OPTIONS):
        self.rclone.spawn(
            ["rclone", "nfsmount", f"T:{self.s3.bucket}", self.point, "--addr", f"127.0.0.1:{self.server_port}",
             "-o", f"{options},port={self.port},mountport={self.port}", "--vfs-cache-mode", "full",
             "--cache-dir", self.folder / "cache", "--nfs-cache-type", "disk", "--nfs-cache-dir", self.folder / "handles",
             "--use-server-modtime", "--vfs-write-back", "1s", "--rc", "--rc-no-auth",
             "--rc-addr", f"unix://{self.folder / 'rc.sock'}", *flags],
            env={**os.environ, **self.s3.rclone_env()},
        )
        wait_until(lambda: mounted(self.point), 30, lambda: f"mount: {self.rclone.stderr()[-800:]}")
        return self

    def changed_elsewhere(self, name, text):
        """Somebody else makes an object, and rclone is told to list the bucket again."""
        self.s3.put(name, text)
        rc.call(rc.socket_below(self.folder), "vfs/refresh")

    def stop(self):
        detach_below(self.folder)
        self.rclone.kill()
        if self.guard:
            self.guard.kill()
