"""What a silent bucket costs those who don't need it: the same operations on two mounts in turns, one of which has no bucket any more.

Both tenants are alike and on this machine; in each round every operation is done once on each, in changing order. Prints the
median, the 99th percentile and the longest of each, in milliseconds. `--minutes` says how long the silence lasts.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lib import dispositions, mounts
from lib.tenant import Tenant
from lib.wait import wait_until

from .sky import DROPS, Sky

FILES, FOLDERS = 40, 4
TEXT = "word " * 400


def write(path, text=TEXT):
    with open(path, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace(path):
    write(f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def append(path):
    with open(path, "a") as file:
        file.write("one more line\n")


# Nothing is remembered for longer than this: attributes by the kernel, folders by rclone.
QUICK = {"TENANT_INIT_MOUNT__ATTRIBUTE_TIMEOUT": "1s", "TENANT_INIT_MOUNT__REFRESH_INTERVAL": "1s"}

OPERATIONS = {
    "read, cached": lambda at, n: (at / f"known-{n % FOLDERS}/read-{n % FILES}.md").read_text(),
    "stat": lambda at, n: os.stat(at / f"known-{n % FOLDERS}/read-{n % FILES}.md"),
    "list, known": lambda at, n: os.listdir(at / f"known-{n % FOLDERS}"),
    "statvfs": lambda at, n: os.statvfs(at),
    "new file": lambda at, n: write(at / f"known-{n % FOLDERS}/new-{n}.md"),
    "replace": lambda at, n: replace(at / f"known-{n % FOLDERS}/replaced-{n % 7}.md"),
    "overwrite": lambda at, n: write(at / f"known-{n % FOLDERS}/overwritten-{n % 7}.md"),
    "append": lambda at, n: append(at / f"known-{n % FOLDERS}/appended-{n % 7}.md"),
    "new folder": lambda at, n: os.mkdir(at / f"folder-{n}"),
}


class Side:
    """One tenant whose files are all known and cached."""

    def __init__(self, name, folder, env=None):
        self.name, self.sky = name, Sky(folder / "sky").start()
        for number in range(FILES):
            for known in range(FOLDERS):
                self.sky.server.put(f"known-{known}/read-{number}.md", TEXT)
        self.tenant = Tenant(folder / "tenant", app=["sleep", "infinity"], env={**self.sky.env(), **(env or {})})
        self.tenant.start(prefix=self.sky.prefix).wait_ready(120)
        # Its mounts are in a namespace of its own.
        self.at = Path(f"/proc/{self.tenant.supervisor_pid()}/root{self.tenant.mount}")
        for known in range(FOLDERS):
            folder = self.at / f"known-{known}"
            for number in range(7):
                for kind in ("replaced", "overwritten", "appended"):
                    write(folder / f"{kind}-{number}.md")
            for file in folder.iterdir():
                file.read_text()
        list(self.at.iterdir())
        wait_until(lambda: self.tenant.status()["uploads"]["queued"] == 0, 60)

    def close(self):
        self.tenant.clean_up()
        self.sky.close()


def rounds(sides, seconds, start=0, tell=None):
    """{side: {operation: [seconds]}} of as many rounds as there is time for."""
    took = {side.name: {name: [] for name in OPERATIONS} for side in sides}
    end, number = time.monotonic() + seconds, start
    while time.monotonic() < end:
        for name, operation in OPERATIONS.items():
            for side in sides if number % 2 else reversed(sides):
                began = time.perf_counter()
                operation(side.at, number)
                took[side.name][name].append(time.perf_counter() - began)
        number += 1
        if tell and number % 50 == 0:
            tell(number)
        time.sleep(0.02)
    return took


def measure(folder, minutes, drop, env=None, tell=None):
    """{side: {operation: {p50, p99, longest, count}}} in milliseconds."""
    sides = [Side("healthy", folder / "a", env), Side("silent", folder / "b", env)]
    try:
        rounds(sides, 5)
        DROPS[drop](sides[1].sky)
        wait_until(lambda: not sides[1].tenant.ready(), 30)
        took = rounds(sides, minutes * 60, 1000, tell)
        return {side: {name: summary(times) for name, times in operations.items()} for side, operations in took.items()}
    finally:
        for side in sides:
            side.close()


def summary(times):
    cuts = statistics.quantiles(times, n=100)
    return {"p50": 1000 * statistics.median(times), "p99": 1000 * cuts[98], "longest": 1000 * max(times), "count": len(times)}


def markdown(driver, drop, minutes, result):
    lines = [f"{driver}, bucket: {drop}, {minutes:g} min, {result['silent']['stat']['count']} of each (ms)", "",
             "| | healthy p50 | p99 | longest | silent p50 | p99 | longest |", "|---|---|---|---|---|---|---|"]
    for name in OPERATIONS:
        cells = [f"{result[side][name][key]:.1f}" for side in ("healthy", "silent") for key in ("p50", "p99", "longest")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(prog="silence", description=__doc__)
    options.add_argument("--minutes", type=float, default=3)
    options.add_argument("--drop", default="blackhole", choices=DROPS)
    options.add_argument("--driver", default="auto", help="nfs or fuse (default: what this machine has)")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    dispositions.undo_inherited()
    folder = Path(tempfile.mkdtemp(prefix="silence-", dir=os.environ.get("SILENCE_FOLDER")))
    folder.chmod(0o755)
    env = {"TENANT_INIT_MOUNT__DRIVER": given.driver}
    result = measure(folder, given.minutes, given.drop, env, lambda n: print(f"round {n}", file=sys.stderr, flush=True))
    mounts.detach_below(folder)
    shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result, indent=1) if given.json else markdown(given.driver, given.drop, given.minutes, result))


if __name__ == "__main__":
    main()
