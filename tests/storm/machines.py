"""Where a storm's tenant lives: as a process of this machine (or of the virtual one), or in a container."""

import os
import shutil
import signal
from pathlib import Path

from lib.container import Container
from lib.tenant import Tenant, descendants

WRITER = Path(__file__).with_name("writer.py")
# The app runs as a user who may not look into the home of the one who runs the tests.
PYTHON = next(path for path in ("/usr/bin/python3", "/opt/basic-memory/bin/python") if os.access(path, os.X_OK))
# A writer that is killed is part of the storm.
RESTART = {"TENANT_INIT_APP__RESTART": "always"}


class Local(Tenant):
    """On this machine, with whatever driver it has."""

    def __init__(self, folder, env, ledger, seed, **kwargs):
        mount = Path(folder) / "data"
        writer = shutil.copy(WRITER, ledger.parent)
        app = [PYTHON, writer, str(mount), str(ledger), str(seed)]
        super().__init__(folder, app=app, env=env | RESTART, **kwargs)
        # A new log for each life, so that what an earlier one said stays readable.
        self.process.out, self.process.err = (Path(folder) / f"{name}-{self.health_port}" for name in ("out", "err"))

    def root_pid(self):
        return self.process.pid

    def running(self):
        return self.process.running()

    def terminate(self):
        if self.running():
            self.process.signal(signal.SIGTERM)

    def freeze(self):
        self.frozen = [self.process.pid, *descendants(self.process.pid)]
        for pid in self.frozen:
            os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in reversed(self.frozen):
            os.kill(pid, signal.SIGCONT)


class Contained(Container):
    """In a container of the image; `disk` and the ledger's folder are of this machine."""

    def __init__(self, disk, env, ledger, seed):
        disk = Path(disk)
        disk.mkdir(parents=True, exist_ok=True)
        options = ["--volume", f"{disk}:/var/lib/tenant-init", "--volume", f"{ledger.parent}:/ledger",
                   "--volume", f"{WRITER.parent}:/storm:ro"]
        command = ["run", "--", "/opt/basic-memory/bin/python", "/storm/writer.py", "/data", f"/ledger/{ledger.name}", str(seed)]
        super().__init__(env=env | RESTART, options=options, command=command)

    def root_pid(self):
        return self.pid()

    def ready(self):
        return self.get("/readyz")[0] == 200

    def terminate(self):
        if self.running():
            self.signal("TERM")

    def clean_up(self):
        self.remove()
