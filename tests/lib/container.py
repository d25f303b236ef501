"""The tenant image in a container: podman and runc, as `docker run` would do it."""

import contextlib
import json
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

from .tenant import Exit, descendants, get
from .wait import free_port, wait_until

IMAGE = os.environ.get("TENANT_INIT_IMAGE", "tenant-init:local")
SEMANTIC_IMAGE = "{0}-semantic:{2}".format(*IMAGE.rpartition(":"))
# runc: crun refuses hybrid cgroups. The limits: raising one needs a capability that a build machine may not have.
PODMAN = ["podman", "--runtime", "/usr/sbin/runc", "--cgroup-manager=cgroupfs"]
RUN = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:1024", "--network=host", "--no-healthcheck"]
MOUNTING = ["--device", "/dev/fuse", "--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"]


def run(*command, options=(), image=IMAGE, seconds=60):
    """`podman run --rm IMAGE command…` to its end: a CompletedProcess with text."""
    return subprocess.run([*PODMAN, "run", "--rm", *RUN, *options, image, *command],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=seconds)


def inspect(field, image=IMAGE):
    """One field of the image's configuration, parsed."""
    out = subprocess.run(["podman", "image", "inspect", "--format", "{{json .%s}}" % field, image],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out)


class Container:
    """A tenant in a container of its own. Its disk is new for every Container and is gone with it."""

    def __init__(self, s3=None, sqld=None, env=None, options=(), command=(), image=IMAGE):
        self.name = f"tenant-{uuid.uuid4().hex[:12]}"
        self.health_port, self.app_port = free_port(), free_port()
        self.env = {
            **(s3.env() if s3 else {}),
            **({"DATABASE_URL": sqld.url} if sqld else {}),
            "TENANT_INIT_HEALTH__LISTEN": f"127.0.0.1:{self.health_port}",
            "TENANT_INIT_APP__PORT": str(self.app_port),
            "TENANT_INIT_LOG__FORMAT": "json",
            **(env or {}),
        }
        self.options, self.command, self.image = list(options), list(command), image

    def start(self):
        variables = [part for name, value in self.env.items() for part in ("--env", f"{name}={value}")]
        done = subprocess.run([*PODMAN, "run", "--detach", "--name", self.name, *RUN, *MOUNTING, *variables,
                               *self.options, self.image, *self.command], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"podman run: {done.stderr}"
        return self

    def get(self, path, seconds=5):
        return get(f"http://127.0.0.1:{self.health_port}{path}", seconds)

    def status(self):
        return self.get("/status")[1]

    def mcp_url(self):
        return f"http://127.0.0.1:{self.app_port}/mcp"

    def state(self, field):
        return subprocess.run(["podman", "container", "inspect", "--format", "{{.State.%s}}" % field, self.name],
                              capture_output=True, text=True, check=True).stdout.strip()

    def running(self):
        return self.state("Running") == "true"

    def wait_ready(self, seconds=120):
        def ready():
            if not self.running():
                raise RuntimeError(f"the container ended with {self.state('ExitCode')}:\n{self.log()[-4000:]}")
            return self.get("/readyz")[0] == 200

        wait_until(ready, seconds, lambda: f"ready:\n{self.log()[-4000:]}", every=0.2)
        return self

    def exec(self, *command, options=(), seconds=60):
        """`podman exec`: a second process in the container."""
        return subprocess.run([*PODMAN, "exec", *options, self.name, *command], capture_output=True, text=True, timeout=seconds)

    def signal(self, name):
        """Sends its PID 1 a signal."""
        subprocess.run([*PODMAN, "kill", "--signal", name, self.name], capture_output=True, text=True, check=True, timeout=60)

    def freeze(self):
        """Every process of it stops where it is, as on a machine that is suspended; clocks go on."""
        pid = self.pid()
        assert pid > 0, f"the container has ended:\n{self.log()[-2000:]}"
        self.frozen = [pid, *descendants(pid)]
        for pid in self.frozen:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in reversed(self.frozen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def kill(self):
        """SIGKILL for everything in it: the machine is gone. Its disk, when it has one of its own, is not."""
        subprocess.run([*PODMAN, "kill", "--signal", "KILL", self.name], capture_output=True, text=True, check=True, timeout=60)
        wait_until(lambda: not self.running(), 30, "the container is dead")

    def stop(self, seconds=120):
        """SIGTERM as `docker stop --stop-timeout` sends it, and the end."""
        begin = time.monotonic()
        subprocess.run([*PODMAN, "stop", "--time", str(seconds), self.name], capture_output=True, text=True,
                       check=True, timeout=seconds + 60)
        return self._end(begin)

    def wait(self, seconds=60):
        """An end that nobody asked for."""
        begin = time.monotonic()
        wait_until(lambda: not self.running(), seconds, lambda: f"end of the container:\n{self.log()[-4000:]}", every=0.2)
        return self._end(begin)

    def _end(self, begin):
        seconds = time.monotonic() - begin
        stdout = self._logs()[0].strip().splitlines()
        try:
            last = json.loads(stdout[-1]) if stdout else None
        except ValueError:
            last = None
        verdict = last if isinstance(last, dict) and last.get("event") == "verdict" else None
        return Exit(int(self.state("ExitCode")), verdict, seconds, (self.log().strip().splitlines() or [""])[-1])

    def _logs(self):
        done = subprocess.run(["podman", "logs", self.name], capture_output=True, text=True, errors="replace")
        return done.stdout, done.stderr

    def log(self):
        """What it wrote on stderr."""
        return self._logs()[1]

    def pid(self):
        """Process id of its PID 1 as this machine sees it."""
        return int(self.state("Pid"))

    def remove(self):
        """Kills it if it runs, and throws its disk away."""
        subprocess.run([*PODMAN, "rm", "--force", "--time", "0", self.name], capture_output=True, timeout=60)


def image_root():
    """Folder that shows the image's files while the `with` block runs."""
    from contextlib import contextmanager

    @contextmanager
    def mounted():
        path = subprocess.run(["podman", "image", "mount", IMAGE], capture_output=True, text=True, check=True).stdout
        try:
            yield Path(path.split()[-1])
        finally:
            subprocess.run(["podman", "image", "unmount", IMAGE], capture_output=True)

    return mounted()
