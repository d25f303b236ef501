"""Where a storm's tenant lives: as a process of this machine (or of the virtual one), or in a container."""

import contextlib
import os
import shutil
import signal
import subprocess
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

    def retire(self):
        """Its disk, its log and what it left mounted stay, as the next life would find them."""

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
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def thaw(self):
        for pid in reversed(self.frozen):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


class OnDisk(Container):
    """In a container of the image. `disk` is a folder of this machine, and stays when the container is gone."""

    def __init__(self, disk, env, options=(), **kwargs):
        self.disk = Path(disk)
        self.disk.mkdir(parents=True, exist_ok=True)
        super().__init__(env=env, options=["--volume", f"{self.disk}:/var/lib/tenant-init", *options], **kwargs)

    def root_pid(self):
        return self.pid()

    def ready(self):
        return self.get("/readyz")[0] == 200

    def terminate(self):
        with contextlib.suppress(subprocess.CalledProcessError):  # it has ended by itself
            self.signal("TERM")

    def kill(self):
        with contextlib.suppress(subprocess.CalledProcessError):
            super().kill()

    def retire(self):
        self.clean_up()

    def clean_up(self):
        # Its log goes with it otherwise. The port is different in each life.
        (self.disk.parent / f"err-{self.health_port}").write_text(self.log())
        self.remove()


class Contained(OnDisk):
    """With the writer as its app; the ledger's folder is of this machine."""

    def __init__(self, disk, env, ledger, seed):
        command = ["run", "--", "/opt/basic-memory/bin/python", "/storm/writer.py", "/data", f"/ledger/{ledger.name}", str(seed)]
        super().__init__(disk, env | RESTART, ["--volume", f"{ledger.parent}:/ledger", "--volume", f"{WRITER.parent}:/storm:ro"],
                         command=command)


class WithNotes(OnDisk):
    """With basic-memory, as the image has it."""

    def __init__(self, disk, env, database_url):
        super().__init__(disk, {**env, "DATABASE_URL": database_url, "TENANT_INIT_INDEX__LEASE_TTL": "5s"})
