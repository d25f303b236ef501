"""The network drops, in every way it can, for ten seconds: said at once, over at once, and nothing is lost or flooded.

All kinds at the same time, each with a tenant, a bucket and a network of its own. The times are the tenant's own, from its log.
"""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest

from lib import mounts, tenant
from lib.wait import wait_until

from .sky import DROPS, Sky

SECONDS = 10
# The contract, in seconds.
DEGRADED, READY = 5, 3


class Noise:
    """How late this machine wakes a thread up at the worst: what a tenant on it cannot be blamed for."""

    def __init__(self):
        self.worst, self.going = 0.0, True
        threading.Thread(target=self._measure, daemon=True).start()

    def _measure(self):
        while self.going:
            began = time.monotonic()
            time.sleep(0.02)
            self.worst = max(self.worst, time.monotonic() - began - 0.02)


@dataclass
class Told:
    """What one drop looked like."""

    degraded: float | None = None  # seconds from the drop
    ready: float | None = None  # from its end
    stored: float | None = None  # from its end until everything is in the bucket
    reasons: list = field(default_factory=list)
    slowest: float = 0.0  # of all operations on the mount while it lasted
    packets: int = 0  # sent to the bucket while it lasted
    requests: int = 0  # that arrived there
    services: dict = field(default_factory=dict)
    wrong: list = field(default_factory=list)
    code: int | None = None
    log: str = ""


def said(one, words, since):
    """Seconds from `since` to the first line of its log that begins with `words`; None when there is none."""
    for line in one.log().splitlines():
        try:
            entry = json.loads(line)
            at = datetime.fromisoformat(entry["time"]).timestamp()
        except (ValueError, KeyError):
            continue
        if at >= since and str(entry.get("message", "")).startswith(words):
            return at - since
    return None


def suffer(name, folder, binary, everyone):
    told, sky = Told(), Sky(folder)
    one = tenant.Tenant(folder / "tenant", app=["sleep", "infinity"], env=sky.start().env(), program=binary)
    try:
        one.start(prefix=sky.prefix).wait_ready(60)
        # Its mounts are in a namespace of its own.
        mount = Path(f"/proc/{one.supervisor_pid()}/root{one.mount}")
        files = {f"before-{n}.md": f"before {n}\n" for n in range(3)}
        for file, text in files.items():
            (mount / file).write_text(text)
        wait_until(lambda: set(sky.server.objects()) == set(files), 30)
        everyone.wait(60)
        packets, before, dropped = sky.wire.packets(), sky.proxy.counters, time.time()
        DROPS[name](sky)
        number = 0
        while (left := dropped + SECONDS - time.time()) > 0:
            began = time.monotonic()
            for file in (f"during-{number}.md", "before-0.md"):
                files[file] = f"{file} {number}\n"
                (mount / f".{file}.tmp").write_text(files[file])
                (mount / f".{file}.tmp").rename(mount / file)
            if (mount / "before-1.md").read_text() != files["before-1.md"] or len(list(mount.iterdir())) < 3:
                told.wrong.append("a file that was there before is not as it was")
            told.slowest = max(told.slowest, time.monotonic() - began)
            number += 1
            told.reasons = one.status()["reasons"]
            time.sleep(min(0.5, max(left, 0)))
        told.packets, told.requests = sky.wire.packets() - packets, sky.proxy.counters.since(before).requests
        back = time.time()
        sky.heal()
        wait_until(lambda: said(one, "ready again", back) is not None, 30, lambda: str(one.status()["reasons"]))
        wait_until(lambda: {f: sky.contents(f) for f in files} == {f: text.encode() for f, text in files.items()}, 60,
                   lambda: f"{sky.server.objects()} instead of {files}", every=0.1)
        told.stored = time.time() - back
        told.degraded, told.ready = said(one, "degraded: ", dropped), said(one, "ready again", back)
        told.services = one.status()["services"]
        told.code = one.stop().code
        told.wrong += [f for f in sky.server.objects() if f not in files]
    finally:
        told.log = one.log()
        one.clean_up()
        sky.close()
    return told


@pytest.fixture(scope="module")
def all_drops(tmp_path_factory, binary):
    folder = tmp_path_factory.mktemp("drops")
    everyone, noise = threading.Barrier(len(DROPS)), Noise()
    with ThreadPoolExecutor(len(DROPS)) as pool:
        running = {name: pool.submit(suffer, name, folder / str(n), binary, everyone) for n, name in enumerate(DROPS)}
    noise.going = False
    print(f"this machine woke up {noise.worst:.2f} s late at the worst")
    for name, run in running.items():
        if run.exception() is None:
            told = run.result()
            print(f"{name}: degraded after {told.degraded} s, ready {told.ready} s after its end, stored {told.stored:.2f} s after it, "
                  f"slowest operation {told.slowest:.3f} s, {told.packets} packets and {told.requests} requests; {told.reasons}")
    yield running, noise
    mounts.detach_below(folder)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", DROPS)
def test_a_drop_is_said_at_once_and_over_at_once(all_drops, name):
    running, noise = all_drops
    told, late = running[name].result(), 2 * noise.worst
    assert told.degraded is not None and told.degraded <= DEGRADED + late, told.log
    assert told.ready <= READY + late, told.log
    code = "storage_slow_down" if name == "503 SlowDown" else "storage_unreachable"
    assert [reason.split(":")[0] for reason in told.reasons] == [code]
    assert ("does not resolve" in told.reasons[0]) == (name == "DNS gone")
    assert told.wrong == [] and told.code == 0
    restarts = {service: told.services[service]["restarts"] for service in ("mount", "app")}
    assert restarts == {"mount": 0, "app": 0}
    # Two questions a second are the tenant's. The rest are rclone's uploads, of some twenty files.
    assert told.requests <= 2 * SECONDS + 60 and told.packets <= 60 * SECONDS
