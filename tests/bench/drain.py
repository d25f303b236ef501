"""How long a stop takes over the bare upload of the same files. Prints a table; asserts nothing.

In turns in one run: a tenant writes files and is stopped before rclone has begun to upload them; `rclone copy` of the same
files to the same server, with the same number of transfers. Both over the same link: a veth pair whose speed is limited,
or a proxy that adds a round trip time. Root is needed for the veth pair; without it only the unlimited link is measured.

    scripts/bench-drain.sh [--rounds 5] [--links fast,20ms,100mbit]
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lib import mounts  # noqa: E402
from lib.faultproxy import FaultProxy  # noqa: E402
from lib.s3 import S3Server, rclone  # noqa: E402
from lib.tenant import Tenant  # noqa: E402

# Name, how many, bytes of each.
LOADS = {"400 notes of 2 kB": (400, 2_000), "8 files of 4 MB": (8, 4_000_000)}
TRANSFERS = 8  # the default of mount.transfers
NAMESPACE, ADDRESS, PEER = "tenantbench", "10.213.7.2", "10.213.7.1"


class Shaped:
    """A network namespace at the end of a veth pair that takes and gives so many bits a second."""

    def __init__(self, rate):
        self.rate = rate

    def __enter__(self):
        self.__exit__()
        tbf = ["root", "tbf", "rate", self.rate, "burst", "64kb", "latency", "200ms"]
        for command in (
            ["ip", "netns", "add", NAMESPACE],
            ["ip", "link", "add", "tbench0", "type", "veth", "peer", "name", "tbench1", "netns", NAMESPACE],
            ["ip", "addr", "add", f"{PEER}/30", "dev", "tbench0"],
            ["ip", "link", "set", "tbench0", "up"],
            [*self.inside, "ip", "addr", "add", f"{ADDRESS}/30", "dev", "tbench1"],
            [*self.inside, "ip", "link", "set", "tbench1", "up"],
            ["tc", "qdisc", "add", "dev", "tbench0", *tbf],
            [*self.inside, "tc", "qdisc", "add", "dev", "tbench1", *tbf],
        ):
            subprocess.run(command, check=True)
        return self

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "del", NAMESPACE], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "del", "tbench0"], stderr=subprocess.DEVNULL)

    inside = ["ip", "netns", "exec", NAMESPACE]


def link(name, folder, rooms):
    """A server at the end of a link of that name, as clients reach it."""
    if name.endswith("mbit"):
        rooms.enter_context(Shaped(name))
        s3 = S3Server(folder, host=ADDRESS, prefix=Shaped.inside)
        # Waiting for it from here works over the link.
        s3.start()
    else:
        s3 = S3Server(folder)
        s3.start()
        if name.endswith("ms"):
            proxy = rooms.enter_context(FaultProxy(s3.port, rtt_ms=int(name.removesuffix("ms"))))
            s3.port = proxy.port
    rooms.callback(s3.kill)
    return s3


def write(folder, count, size):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number}.bin").write_bytes(os.urandom(size))


def check(s3, prefix, count, size):
    found = [length for key, length in s3.objects().items() if key.startswith(prefix + "/")]
    assert found == [size] * count, f"{prefix}: {len(found)} of {count} files are in the bucket"


def drain(folder, s3, name, count, size):
    """Seconds from the signal to the exit, and of that what the tenant says of itself."""
    # Longer than the writing takes: the stop finds all of them in the queue.
    tenant = Tenant(folder, s3, app=["sleep", "infinity"], env={"TENANT_INIT_MOUNT__WRITE_BACK": "50s"})
    try:
        tenant.start().wait_ready()
        write(tenant.mount / name, count, size)
        end = tenant.stop()
        assert end.code == 0 and end.verdict["stored"], (end, tenant.log()[-2000:])
        check(s3, name, count, size)
        return end.seconds, end.verdict["seconds"]
    finally:
        tenant.clean_up()
        mounts.detach_below(folder)
        shutil.rmtree(folder)


def bare(folder, s3, name, count, size):
    """Seconds that rclone takes for the same files from local disk, its start included."""
    write(folder, count, size)
    argv = [rclone(), "copy", folder, f"T:{s3.bucket}/{name}", "--transfers", str(TRANSFERS), "--s3-no-check-bucket",
            "--no-check-dest", "--no-traverse", "--use-server-modtime", "--log-level", "ERROR"]
    begin = time.monotonic()
    subprocess.run([str(a) for a in argv], env={**os.environ, **s3.rclone_env()}, check=True)
    took = time.monotonic() - begin
    check(s3, name, count, size)
    shutil.rmtree(folder)
    return took


def start():
    """Seconds that rclone takes to do nothing."""
    begin = time.monotonic()
    subprocess.run([rclone(), "version", "--check=false"], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="stops and uploads of each kind (default: 5)")
    parser.add_argument("--links", default="fast,20ms,100mbit", help="which links (default: all)")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]}; rclone's own start: {statistics.median(start() for _ in range(5)):.2f} s")
    print(f"{'link':<9} {'files':<19} {'bare upload':>12} {'stop':>8} {'verdict':>8} {'over bare, median of pairs (range)':>36}", flush=True)
    for name in options.links.split(","):
        with tempfile.TemporaryDirectory() as place, ExitStack() as rooms:
            place = Path(place)
            s3 = link(name, place, rooms)
            for words, (count, size) in LOADS.items():
                bares, stops, verdicts = [], [], []
                for number in range(options.rounds):
                    run = f"{count}-{number}"
                    for what in ("bare", "stop") if number % 2 else ("stop", "bare"):
                        if what == "bare":
                            bares.append(bare(place / "source", s3, f"bare-{run}", count, size))
                        else:
                            took, verdict = drain(place / "tenant", s3, f"stop-{run}", count, size)
                            stops.append(took)
                            verdicts.append(verdict)
                    print(f"{name}, {words}: round {number + 1}: stop {stops[-1]:.2f} s, bare {bares[-1]:.2f} s", file=sys.stderr)
                over = sorted(s - b for s, b in zip(stops, bares))
                median = statistics.median
                print(f"{name:<9} {words:<19} {median(bares):>10.2f} s {median(stops):>6.2f} s {median(verdicts):>6.2f} s "
                      f"{median(over):>22.2f} s ({over[0]:.2f} to {over[-1]:.2f})", flush=True)


if __name__ == "__main__":
    main()
