"""What a start costs: from `podman run` until basic-memory answers, under tenant-init and bare, in turns, in one image.

bare        basic-memory executed by itself on a local disk that has its notes and its index
tenant      a new machine with an empty disk: credentials, lease, mount, index restored from the database, then basic-memory
restart     the same with the disk that the last start left
"Answers" is the first HTTP answer on basic-memory's own port; `ready` is the first 200 of /readyz.

    scripts/bench-start.sh [--rounds 11] [--notes 20] [--rtt 20] [--json FILE]
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib.container import IMAGE, PODMAN, RUN  # noqa: E402
from lib.faultproxy import FaultProxy  # noqa: E402
from lib.indexed import Machine  # noqa: E402
from lib.mcp import McpClient  # noqa: E402
from lib.s3 import S3Server  # noqa: E402
from lib.sqld import Sqld  # noqa: E402
from lib.wait import free_port, wait_until  # noqa: E402


def say(text):
    print(text, file=sys.stderr, flush=True)


def answers(port):
    with suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/mcp")
        return connection.getresponse().status > 0
    return False


def until_it_answers(port, begin):
    wait_until(lambda: answers(port), 120, f"basic-memory answers on port {port}", every=0.02)
    return time.monotonic() - begin


class Bare:
    """basic-memory with nothing around it."""

    def __init__(self, folder, notes):
        self.disk, self.notes = Path(folder), notes
        for part in ("app", "data/main"):
            (self.disk / part).mkdir(parents=True)
        subprocess.run(["chown", "-R", "1000:1000", self.disk], check=True)
        self.start()
        write(self.port, notes)
        self.remove()

    def start(self):
        self.name, self.port = f"bare-{free_port()}", free_port()
        begin = time.monotonic()
        subprocess.run([*PODMAN, "run", "--detach", "--name", self.name, *RUN, "--user", "app", "--entrypoint", "basic-memory",
                        "--env", "HOME=/disk/app", "--env", "BASIC_MEMORY_CONFIG_DIR=/disk/app", "--env", "BASIC_MEMORY_HOME=/disk/data/main",
                        "--env", "BASIC_MEMORY_PROJECT_ROOT=/disk/data", "--env", "BASIC_MEMORY_SEMANTIC_SEARCH_ENABLED=false",
                        "--volume", f"{self.disk}:/disk", IMAGE,
                        "mcp", "--transport", "streamable-http", "--host", "127.0.0.1", "--port", str(self.port)],
                       capture_output=True, check=True, timeout=60)
        return {"answers": until_it_answers(self.port, begin)}

    def remove(self):
        subprocess.run([*PODMAN, "stop", "--time", "20", self.name], capture_output=True, check=True, timeout=60)
        subprocess.run([*PODMAN, "rm", "--force", self.name], capture_output=True, check=True, timeout=60)


class Tenant:
    """A machine of the tenant; a new disk for each start, or always the same one."""

    def __init__(self, place, s3, database_url, keeps_disk):
        self.place, self.s3, self.database_url, self.keeps_disk = Path(place), s3, database_url, keeps_disk
        self.place.mkdir()
        self.number, self.machine = 0, None

    def start(self):
        self.number += not self.keeps_disk
        self.machine = Machine(self.place / str(self.number), self.s3, self.database_url)
        begin = time.monotonic()
        self.machine.start()
        took = {"answers": until_it_answers(self.machine.app_port, begin)}
        wait_until(lambda: self.machine.get("/readyz")[0] == 200, 120, self.machine.log, every=0.02)
        return took | {"ready": time.monotonic() - begin}

    def remove(self):
        wait_until(lambda: self.machine.status()["uploads"]["queued"] == 0, 60, "everything is uploaded")
        end = self.machine.stop()
        assert end.code == 0, end
        self.machine.remove()


def write(port, notes):
    with McpClient(f"http://127.0.0.1:{port}/mcp", seconds=120) as mcp:
        for number in range(notes):
            mcp.call("write_note", title=f"Note {number}", directory="notes", content=f"# Note {number}\nSomething about {number}.\n\n- [fact] number {number}")


def measure(options):
    with tempfile.TemporaryDirectory() as place, ExitStack() as rooms:
        s3, sqld = S3Server(Path(place) / "s3"), Sqld(Path(place))
        s3.start(), sqld.start()
        rooms.callback(s3.kill), rooms.callback(sqld.kill)
        bucket = rooms.enter_context(FaultProxy(s3.port))
        database = rooms.enter_context(FaultProxy(sqld.port))
        far = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket.port}"}
        kinds = {"bare": Bare(Path(place) / "bare", options.notes)}
        for name in ("tenant", "restart"):
            kinds[name] = Tenant(Path(place) / name, s3, sqld.url_at(database.port), name == "restart")
        say("the tenant's notes are written")
        kinds["restart"].start()
        write(kinds["restart"].machine.app_port, options.notes)
        kinds["restart"].remove()
        s3.env = lambda env=s3.env(): env | far
        bucket.rtt_ms = database.rtt_ms = options.rtt
        taken = {name: [] for name in kinds}
        for number in range(options.rounds):
            for name, kind in kinds.items():
                try:
                    taken[name].append(kind.start())
                finally:
                    kind.remove()
            say(f"round {number + 1} of {options.rounds}: " + ", ".join(f"{name} {taken[name][-1]['answers']:.2f} s" for name in kinds))
    return taken


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--notes", type=int, default=20)
    parser.add_argument("--rtt", type=int, default=20, help="to the bucket and the database, in ms")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    taken = measure(options)
    print(f"{'':<10} {'answers':>10} {'of bare':>9} {'(pairs)':>9} {'ready':>9}   n; {options.notes} notes, {options.rtt} ms, load {os.getloadavg()[0]:.1f}")
    bare = [start["answers"] for start in taken["bare"]]
    for name, starts in taken.items():
        times = [start["answers"] for start in starts]
        ratio = statistics.median(times) / statistics.median(bare)
        pairs = statistics.median(time / other for time, other in zip(times, bare))
        ready = f"{statistics.median(start['ready'] for start in starts):>7.2f} s" if "ready" in starts[0] else f"{'-':>9}"
        print(f"{name:<10} {statistics.median(times):>8.2f} s {ratio:>8.3f}x {pairs:>8.3f}x {ready} {len(times):>3}")
    if options.json:
        Path(options.json).write_text(json.dumps(taken, indent=1) + "\n")


if __name__ == "__main__":
    main()
