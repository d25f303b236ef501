"""What the guard costs: the same operations on a mount through it and on one past it, in turns in one run.

    guard_latency.py [ROUNDS]

Opens with O_CREAT are preceded by a stat, so that plain rclone does not lose data and both do the same work.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from guard_rig import GuardedMount
from lib.s3 import S3Server
from lib.wait import wait_until
from vm.guestlib import emit

TEXT = "x" * 2000


def write(path, mode="w"):
    with open(path, mode) as f:
        f.write(TEXT)


def replace(path):
    write(f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


def append(path):
    os.stat(path)
    write(path, "a")


OPERATIONS = {
    "create": lambda d, i: write(d / f"c{i}.md"),
    "reread": lambda d, i: (d / "read.md").read_text(),
    "stat": lambda d, i: os.stat(d / "read.md"),
    # A name that nobody has asked for: always one LOOKUP.
    "lookup": lambda d, i: (d / f"absent{i}.md").exists(),
    "statvfs": lambda d, i: os.statvfs(d),
    "replace": lambda d, i: replace(d / "replaced.md"),
    "append": lambda d, i: append(d / "appended.md"),
    "list": lambda d, i: os.listdir(d / "list"),
    "remove": lambda d, i: os.unlink(d / f"c{i}.md"),
}


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    folder = Path(tempfile.mkdtemp())
    s3 = S3Server(folder)
    s3.start()
    mounts = {name: GuardedMount(s3, folder, name, guard=name == "guarded").start("--vfs-write-back", "10m")
              for name in ("plain", "guarded")}
    for name, mount in mounts.items():
        work = mount.point / name
        (work / "list").mkdir(parents=True)
        for n in ("read", "replaced", "appended"):
            write(work / f"{n}.md")
        for i in range(50):
            write(work / f"list/{i}.md")
    guard = mounts["guarded"].guard
    guard.tell("operations")
    cpu, calls = guard.cpu(), 0
    times = {name: {op: [] for op in OPERATIONS} for name in mounts}
    for i in range(rounds):
        for op, action in OPERATIONS.items():
            for name in sorted(mounts, reverse=i % 2 == 0):
                at = mounts[name].point / name
                start = time.perf_counter()
                action(at, i)
                times[name][op].append((time.perf_counter() - start) * 1e6)
    operations = guard.tell("operations")
    calls = sum(o["count"] for o in operations.values())
    cpu = guard.cpu() - cpu
    for op in OPERATIONS:
        plain, guarded = (statistics.median(times[name][op]) for name in ("plain", "guarded"))
        emit("latency", operation=op, plain_us=round(plain), guarded_us=round(guarded), added_us=round(guarded - plain))
    emit("cost", calls=calls, guard_cpu_us_per_call=round(cpu / calls * 1e6), rss_kib=guard.rss(), rpc=operations)

    for name in ("plain", "guarded", "plain", "guarded"):
        path = mounts[name].point / f"{name}.bin"
        block = os.urandom(1 << 20)
        start = time.perf_counter()
        with open(path, "wb") as f:
            for _ in range(30):
                f.write(block)
        wrote = time.perf_counter() - start
        Path("/proc/sys/vm/drop_caches").write_text("3")
        start = time.perf_counter()
        path.read_bytes()
        read = time.perf_counter() - start
        emit("throughput", mount=name, write_mib_s=round(30 / wrote, 1), read_mib_s=round(30 / read, 1))
        path.unlink()
    emit("memory", rss_kib=guard.rss())
    wait_until(lambda: guard.stats()["in_flight"] == 0, 10)
    for mount in mounts.values():
        mount.stop()
    s3.stop()


if __name__ == "__main__":
    main()
