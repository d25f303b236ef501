"""The faults of the table, and how one of them is done to one subject."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from lib.wait import wait_until

from storm.writer import digest

from .sky import DROPS, Sky
from .subjects import Scripted, Supervised

SUBJECTS = (Supervised, Scripted)
# Seconds: of steady work before the fault; at most after it until all is well again; at most for what is not stored then.
BEFORE, AFTER, QUIET = 3, 60, 60
START = 60
BURST = 200  # as in app.py
NEW_KEY = ("AKIDNEWEXAMPLE", "SECRETNEWEXAMPLE")
DISK_MIB, RESERVE_MIB = 64, 16


@dataclass(frozen=True)
class Fault:
    """`begin(subject)` brings it about; for those that last, `sky.heal` and `end` are their end."""

    name: str
    begin: Callable = lambda subject: None
    end: Callable = lambda subject: None
    lasts: bool = False
    before: Callable = lambda subject: None  # before the start
    stops: bool = False  # the subject is stopped by it
    healed: bool = True  # there is an end to it
    small_disk: bool = False


def _kill(what, number=signal.SIGKILL):
    def begin(subject):
        pid = getattr(subject, what)()
        if pid is not None:
            os.kill(pid, number)

    return begin


def _revoke(subject):
    server = subject.sky.server
    subject.old_key = (server.key_id, server.secret)
    server.kill()
    server.key_id, server.secret = NEW_KEY
    server.start()


def _allow(subject):
    server = subject.sky.server
    server.kill()
    server.key_id, server.secret = subject.old_key
    server.start()


def _fill(subject):
    with contextlib.suppress(OSError), open(subject.cache / "filler", "wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()


def _burst(subject):
    subject.signal_app(signal.SIGUSR1)
    wait_until(lambda: any('"burst"' in line for line in subject.lines()[-3:]), 60, "the burst", every=0.005)


def _wrong_key(subject):
    subject.env["AWS_SECRET_ACCESS_KEY"] = "WRONGSECRETEXAMPLE"


def _down(subject):
    subject.sky.proxy.refuse()


FAULTS = [
    Fault("rclone killed", _kill("mounter")),
    Fault("rclone hangs (SIGSTOP)", _kill("mounter", signal.SIGSTOP)),
    *(Fault(f"bucket: {name}", lambda subject, drop=drop: drop(subject.sky), lasts=True) for name, drop in DROPS.items()),
    Fault("bucket's server killed", lambda subject: subject.sky.server.kill(), lasts=True),
    Fault("key revoked", _revoke, _allow, lasts=True),
    Fault("cache disk full", _fill, lambda subject: (subject.cache / "filler").unlink(missing_ok=True), lasts=True, small_disk=True),
    Fault("app killed", _kill("app")),
    Fault("supervisor (shell: tini) killed", _kill("supervisor")),
    Fault(f"SIGTERM after a burst of {BURST} files", _burst, stops=True),
    Fault("start with the bucket down", before=_down, lasts=True),
    Fault("start with a wrong key", before=_wrong_key, lasts=True, healed=False),
]


@dataclass
class Row:
    """What one fault did to one subject. Times in seconds."""

    fault: str
    seconds: float  # how long it lasted; 0: it was over at once
    subject: str
    driver: str
    errors: dict = field(default_factory=dict)  # what the app's operations failed with, and how often
    pause: float | None = None  # the longest time in which no operation of the app was done
    ends: bool = True  # … and it came to an end
    degraded: float | None = None  # from the beginning of the fault
    ready: float | None = None  # from its end
    stayed: bool = False  # ready all the time
    stored: float | None = None  # from its end until the bucket had everything
    acknowledged: int = 0
    lost: list = field(default_factory=list)
    wrong: list = field(default_factory=list)  # what was read and never written
    named: int | None = None
    restarts: dict = field(default_factory=dict)
    codes: list = field(default_factory=list)  # exit codes of containers that ended by themselves
    failed: str | None = None  # the scenario itself


class Watch:
    """Asks the subject all the time whether it is ready."""

    def __init__(self, subject):
        self.subject, self.seen = subject, []  # (time, ready) whenever it changed
        self.going = True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def _watch(self):
        while self.going:
            ready = self.subject.look()
            if ready is None:
                return
            if not self.seen or self.seen[-1][1] != ready:
                self.seen.append((time.time(), ready))
            time.sleep(0.03)

    def stop(self):
        self.going = False
        self.thread.join()

    def well(self):
        """Ready, or nobody says."""
        return not self.seen or self.seen[-1][1]

    def degraded(self, since):
        """Seconds from `since` to the moment from which it was not ready; None when it stayed ready."""
        was = [ready for at, ready in self.seen if at <= since][-1:]
        if was == [False]:
            return 0.0
        return next((at - since for at, ready in self.seen if at > since and not ready), None)

    def ready(self, since):
        """Seconds from `since` to the moment from which it stayed ready; None when it did not."""
        return max(0.0, self.seen[-1][0] - since) if self.seen and self.seen[-1][1] else None


class Ledger:
    """What the app has noted so far. Reads on where it stopped."""

    def __init__(self, path):
        self.path, self.at = path, 0
        self.times = []  # (time, error or None) of everything that was done, or failed
        self.begun, self.history = {}, {}  # name: [(time, size, digest)], also of what failed and may have happened

    def read(self):
        if not self.path.exists():
            return self
        with open(self.path, "rb") as file:
            file.seek(self.at)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.at += len(line)
                with contextlib.suppress(ValueError):
                    self._take(json.loads(line))
        return self

    def _take(self, entry):
        at = entry["t"]
        if "begin" in entry:
            self.begun[entry["begin"]] = entry
        elif "ok" in entry or "code" in entry:
            begun = self.begun.pop(entry.get("ok") or entry["error"])
            self.history.setdefault(begun["name"], []).append((at, begun["size"], begun["sha"]))
            self.times.append((at, entry.get("code")))
        elif "done" in entry:
            self.times.append((at, None))
        elif "unreadable" in entry:
            self.times.append((at, f"read {entry['error']}"))
        elif "wrong" in entry:
            self.times.append((at, "wrong content"))

    def working(self, since, count=10):
        """Has the app done `count` things since, and none of the last ones failed?"""
        last = [error for at, error in self.read().times[-count:] if at >= since]
        return len(last) == count and not any(last)

    def stored(self, at, contents):
        """Is everything that was acknowledged before `at` in the bucket, or what replaced it?"""
        for name, states in self.read().history.items():
            first = max((n for n, state in enumerate(states) if state[0] <= at), default=None)
            if first is not None:
                data = contents(name)
                if data is None or (len(data), digest(data)) not in {state[1:] for state in states[first:]}:
                    return False
        return True

    def pause(self, since, until):
        """The longest time in which nothing was done, and whether it came to an end."""
        done = [at for at, error in self.read().times if error is None and at > since]
        points = [since, *done, until]
        gaps = [b - a for a, b in zip(points, points[1:])]
        return max(gaps), gaps[-1] < max(max(gaps), 2)


def run(kind, fault, seconds, driver, folder, seed=1):
    """One row."""
    row = Row(fault.name, seconds if fault.lasts else 0, kind.name, driver)
    folder = Path(folder)
    sky = Sky(folder / "sky").start()
    cache = None
    if fault.small_disk:
        cache = folder / "disk"
        cache.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "small", cache], check=True)
    env = {"TENANT_INIT_MOUNT__CACHE_MIN_FREE": f"{RESERVE_MIB}MiB"} if fault.small_disk else {}
    subject = kind(folder / "container", sky, driver, seed, cache, env=env)
    watch, notes = Watch(subject), Ledger(subject.ledger)
    try:
        _live(row, fault, seconds, subject, watch, notes)
    except (OSError, TimeoutError, subprocess.SubprocessError) as error:
        row.failed = f"{type(error).__name__}: {error}"[:2000]
    finally:
        subject.clean_up()
        watch.stop()
        sky.close()
        if fault.small_disk:
            subprocess.run(["umount", "--lazy", cache], check=False)
    return row


def _live(row, fault, seconds, subject, watch, notes):
    fault.before(subject)
    began = time.time()
    subject.start()
    if fault.before is Fault.before:
        wait_until(lambda: watch.well() and notes.working(0), START,
                   lambda: f"the app at work before the fault: {notes.times[-3:]} {subject.process.stderr()[-1500:]}")
        time.sleep(BEFORE)
        began = time.time()
        subject.begins()
    fault.begin(subject)
    over = time.time()
    if fault.stops:
        subject.stop()
    else:
        if fault.lasts:
            time.sleep(max(0, began + seconds - time.time()))
            over = time.time()
            if fault.healed:
                subject.sky.heal()
                fault.end(subject)
        _settle(row, fault, subject, watch, notes, over)
        now = time.time()
        row.pause, row.ends = notes.pause(began, now)
        if watch.seen:
            row.degraded = watch.degraded(began)
            row.stayed = row.degraded is None
            row.ready = None if row.stayed else watch.ready(over)
    errors = Counter(error for at, error in notes.read().times if error and at >= began)
    row.errors, row.restarts, row.codes = dict(errors), subject.restarted(), list(subject.ends)
    if not fault.stops:
        subject.signal_app(signal.SIGUSR2)
        if fault.healed:
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: not subject.lost(), QUIET, every=0.5)
        subject.stop()
    story = subject.story()
    row.acknowledged, row.wrong, row.lost = story.acknowledged, story.wrong[:5], subject.lost()
    row.named = subject.named()


def _settle(row, fault, subject, watch, notes, over):
    """Until the app works, the tenant is ready and everything is stored; or until it is clear that this will not be."""
    end = time.monotonic() + (AFTER if fault.healed else 5)
    # What comes at once may be noticed a little later only.
    since = over + (0 if fault.lasts else 5)
    while time.monotonic() < end:
        if row.stored is None and notes.stored(over, subject.sky.contents):
            row.stored = time.time() - over
        if row.stored is not None and watch.well() and notes.working(since):
            return
        time.sleep(0.1)
