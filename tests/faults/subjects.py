"""What is put to the test: the same app under tenant-init, and under the entry point that people write today.

Both have a platform above them that starts a container again on its disk when it has ended, after 1, 2, 4, … 10 s.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from lib.mounts import detach_below
from lib.proc import Process
from lib.s3 import rclone
from lib.tenant import Tenant, children, cmdline, descendants
from lib.wait import wait_until
from storm import ledger
from storm.machines import PYTHON, WRITER

APP = Path(__file__).with_name("app.py")
# What a platform gives a container for its end before it kills it.
STOP_SECONDS = 120
# In a mount namespace: aborts what waits for a dead NFS server and takes the mount away. Else the container's end waits for ever.
LET_GO = "import ctypes, sys; [ctypes.CDLL(None).umount2(sys.argv[1].encode(), 3) for _ in range(3)]"

# As in countless Dockerfiles and gists, with a cache and, for nfs, the options without which it does not mount here.
ENTRYPOINT = """#!/bin/sh
rclone {verb} tenant:{bucket} {mount} {options}--vfs-cache-mode full &
sleep 3
exec {app}
"""
VERBS = {"nfs": ("nfsmount", "-o nolock,vers=3 "), "fuse": ("mount", "")}


class Subject:
    """One container with its disk. Subclasses: `launch`, `root` (the process whose death is the container's end)."""

    def __init__(self, folder, sky, driver, seed, cache=None):
        self.folder, self.sky, self.driver = Path(folder), sky, driver
        self.folder.mkdir(parents=True)
        self.mount = self.folder / "data"
        self.mount.mkdir()
        self.cache = Path(cache or self.folder / "cache")
        self.cache.mkdir(exist_ok=True)
        notes = self.folder / "notes"
        notes.mkdir()
        notes.chmod(0o777)
        for file in (WRITER, APP):
            shutil.copy(file, notes)
        self.ledger = notes / "ledger.jsonl"
        self.command = [PYTHON, str(notes / APP.name), str(self.mount), str(self.ledger), str(seed)]
        for parent in [self.folder, *self.folder.parents]:
            if not parent.stat().st_mode & 0o001:
                parent.chmod(parent.stat().st_mode | 0o111)
        self.restarts, self.ends, self.wanted = 0, [], False
        self.env = dict(sky.env())

    # -- the platform --

    def start(self):
        self.wanted = True
        self.launch()
        self.keeper = threading.Thread(target=self._keep, daemon=True)
        self.keeper.start()

    def _keep(self):
        delay = 1
        while self.wanted:
            if self.process.running():
                time.sleep(0.05)
                continue
            self.ends.append(self.process.process.returncode)
            until = time.monotonic() + delay
            while self.wanted and time.monotonic() < until:
                time.sleep(0.05)
            if self.wanted:
                delay = min(2 * delay, 10)
                self.restarts += 1
                self.launch()

    def stop(self):
        """TERM, and KILL when the time is up, as a platform does it."""
        self.wanted = False
        self.keeper.join()
        if self.process.running():
            root = self.root()
            if root is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(root, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not self.process.running(), STOP_SECONDS)
        self.clean_up()

    def clean_up(self):
        self.wanted = False
        for pid in [*descendants(self.process.pid), self.process.pid] if self.process.process else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # Its end may hang in the kernel, as that of any container with a dead NFS mount may.
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self.process.process:
                self.process.process.wait(10)
        detach_below(self.folder)

    def begins(self):
        """The fault begins now: what was before does not count."""
        self.restarts, self.ends = 0, []

    # -- its processes --

    def below(self, is_it):
        if not self.process.running():
            return None
        return next((pid for pid in descendants(self.process.pid) if is_it(cmdline(pid).split(b"\0"))), None)

    def app(self):
        # Others have the app's command among their arguments.
        return self.below(lambda words: words[0] == PYTHON.encode())

    def mounter(self):
        return self.below(lambda words: words[0].endswith(b"rclone"))

    def signal_app(self, number):
        pid = self.app()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    # -- what came of it --

    def lines(self):
        return self.ledger.read_text(errors="replace").splitlines() if self.ledger.exists() else []

    def story(self):
        return ledger.read(self.lines())

    def lost(self):
        """What was acknowledged and is not in the bucket, in words."""
        story = self.story()
        story.wrong.clear()
        return ledger.differences(story, self.sky.contents)


class Supervised(Subject):
    """Under tenant-init."""

    name = "tenant-init"

    def __init__(self, *args, env=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.tenant = Tenant(self.folder, app=self.command, env={
            **self.env, "TENANT_INIT_MOUNT__DRIVER": self.driver, "TENANT_INIT_MOUNT__CACHE_DIR": str(self.cache),
            "TENANT_INIT_APP__RESTART": "always", **(env or {})})
        self.process = self.tenant.process
        self.lives = 0
        self.services = {"mount": {}, "app": {}}  # restarts of each life

    def launch(self):
        self.lives += 1
        self.process.out, self.process.err = (self.folder / f"life-{self.lives}.{kind}" for kind in ("out", "err"))
        self.tenant.env |= {key: value for key, value in self.env.items() if key in self.sky.env()}
        self.tenant.start(prefix=self.sky.prefix)

    def root(self):
        return self.process.pid

    def supervisor(self):
        with contextlib.suppress(LookupError):
            return self.tenant.supervisor_pid()

    def look(self):
        """Is it ready? False too when nobody answers. Notes the restarts on the way."""
        try:
            code, status = self.tenant.get("/status", 2)
        except (OSError, ValueError):
            return False
        if code != 200:
            return False
        for service, by_life in self.services.items():
            by_life[self.lives] = status["services"][service]["restarts"]
        return status["ready"]

    def restarted(self):
        counts = {name: sum(by_life.values()) for name, by_life in self.services.items()} | {"container": self.restarts}
        return {name: count for name, count in counts.items() if count}


    def named(self):
        """Files that the last verdict names as not stored."""
        verdict = self.tenant.verdict()
        # A guardian whose supervisor has died knows of none.
        return len(verdict["uploads_pending"] or []) if verdict else None


class Scripted(Subject):
    """`rclone … & sleep 3; exec app` under tini, in namespaces as a container has them."""

    name = "shell"

    def __init__(self, *args, **kwargs):
        kwargs.pop("env", None)
        super().__init__(*args, **kwargs)
        self.process = Process("shell", self.folder)

    def launch(self):
        # What a killed container had mounted is gone with its mount namespace.
        verb, options = VERBS[self.driver]
        script = self.folder / "entrypoint.sh"
        script.write_text(ENTRYPOINT.format(verb=verb, options=options, bucket=self.sky.server.bucket, mount=self.mount,
                                            app=" ".join(self.command)))
        home = self.folder / "home"
        (home / ".cache").mkdir(parents=True, exist_ok=True)
        cache = home / ".cache/rclone"
        if not cache.is_symlink():
            cache.symlink_to(self.cache)
        remote = {"TYPE": "s3", "PROVIDER": "Other", "ENDPOINT": self.env["AWS_ENDPOINT_URL_S3"],
                  "ACCESS_KEY_ID": self.env["AWS_ACCESS_KEY_ID"], "SECRET_ACCESS_KEY": self.env["AWS_SECRET_ACCESS_KEY"]}
        env = {"PATH": os.path.dirname(rclone()) + ":" + os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8",
               **{f"RCLONE_CONFIG_TENANT_{key}": value for key, value in remote.items()}}
        own = ["unshare", "--pid", "--mount", "--mount-proc", "--propagation", "private", "--fork", "--kill-child"]
        self.process.spawn(["tini", "--", "sh", script], env=env, prefix=[*own, *self.sky.prefix])

    def root(self):
        """tini, the first process of its namespace."""
        below = children(self.process.pid)
        return below[0] if below else None

    def supervisor(self):
        return self.root()

    def clean_up(self):
        self.wanted = False
        for pid in descendants(self.process.pid) if self.process.process else []:
            with contextlib.suppress(subprocess.SubprocessError):
                subprocess.run(["nsenter", "-t", str(pid), "-m", sys.executable, "-c", LET_GO, self.mount], timeout=10, capture_output=True)
        super().clean_up()

    def look(self):
        return None

    def restarted(self):
        return {"container": self.restarts} if self.restarts else {}

    def named(self):
        return None
