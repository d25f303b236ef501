"""What the index costs: basic-memory's tools on a local SQLite file, with tenant-init's index, and statement by statement.

One run, interleaved, in the tenant image: the same machine, the same moment, the same notes. The network to the database is
made slow by a proxy in this process. Prints a table for people, progress on stderr, with `--json` everything as JSON.

    scripts/bench-index.sh [--samples 15] [--rtt 0,20,100] [--variants local,ours,naive] [--json FILE]
"""

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from lib.container import Container  # noqa: E402
from lib.faultproxy import FaultProxy  # noqa: E402
from lib.mcp import McpClient, McpError  # noqa: E402
from lib.s3 import S3Server  # noqa: E402
from lib.sqld import Sqld  # noqa: E402
from lib.wait import wait_until  # noqa: E402

CALLS = ["write_note", "read_note", "search_notes", "edit_note"]
VARIANTS = {
    "local": "local SQLite file, no database",
    "ours": "local SQLite file, shipped to the database",
    "naive": "remote database, every statement a request",
}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Variant:
    """One way to keep the index: its own bucket, database, proxy and container."""

    def __init__(self, name, place, rooms):
        self.name = name
        folder = Path(place) / name
        folder.mkdir()
        self.s3 = S3Server(folder)
        self.s3.start()
        rooms.callback(self.s3.kill)
        self.proxy, self.env, self.options = None, {}, []
        if name != "local":
            sqld = Sqld(folder)
            sqld.start()
            rooms.callback(sqld.kill)
            self.proxy = rooms.enter_context(FaultProxy(sqld.port))
        if name == "ours":
            self.env = {"DATABASE_URL": sqld.url_at(self.proxy.port)}
        if name == "naive":
            self.env = {"TENANT_INIT_APP__PASS_ENVIRONMENT": "PYTHONPATH NAIVE_REMOTE_URL", "PYTHONPATH": "/naive",
                        "NAIVE_REMOTE_URL": f"http://127.0.0.1:{self.proxy.port}"}
            self.options = ["--volume", f"{HERE / 'naive_remote.py'}:/naive/sitecustomize.py:ro"]
        self.rooms, self.container, self.mcp = rooms, None, None
        self.times = {}  # (rtt, call) -> milliseconds
        self.requests = {}  # (rtt, call) -> requests to the database, those of the background included
        self.failures = []

    def start(self):
        """A new machine; seconds until it is ready."""
        self.container = Container(self.s3, env=self.env, options=self.options)
        self.rooms.callback(self.container.remove)
        begin = time.monotonic()
        self.container.start().wait_ready(300)
        ready = time.monotonic() - begin
        self.mcp = McpClient(self.container.mcp_url(), seconds=300)
        self.mcp.__enter__()
        return ready

    def boot(self, word):
        """Stops, and starts on a new machine: seconds until ready, and until the search finds what was there before."""
        end = self.container.stop()
        assert end.code == 0, end
        self.container.remove()
        begin = time.monotonic()
        ready = self.start()
        wait_until(lambda: found(self.mcp, word), 300, f"{self.name}: {word} is found", every=0.02)
        took = time.monotonic() - begin
        if self.name == "ours" and '"index_restored"' not in self.container.log():
            self.failures.append("the index was not restored from the database: these boots are something else")
        return ready, took

    def measure(self, rtt, call, **arguments):
        before = self.proxy.counters if self.proxy else None
        begin = time.perf_counter()
        try:
            self.mcp.call(call, **arguments)
        except (McpError, OSError) as error:
            self.failures.append(f"{call} at {rtt} ms: {error}")
            return
        self.times.setdefault((rtt, call), []).append((time.perf_counter() - begin) * 1000)
        if before:
            self.requests.setdefault((rtt, call), []).append(self.proxy.counters.since(before).requests)


def found(mcp, word):
    try:
        return word.capitalize() in mcp.call("search_notes", query=word)
    except McpError:
        return False


def p95(values):
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]


def measure(variants, options):
    """All calls at every round trip time, a round of each variant after the other."""
    for rtt in options.rtt:
        for variant in variants:
            if variant.proxy:
                variant.proxy.rtt_ms = rtt
        for number in range(options.samples):
            for variant in variants:
                # The naive one takes seconds for a call; its few samples are spread over the whole run.
                share = options.naive_samples if variant.name == "naive" else options.samples
                if number * share // options.samples == (number + 1) * share // options.samples:
                    continue
                title, word = f"Round {rtt} {number}", f"word{rtt}x{number}"
                identifier = f"bench/round-{rtt}-{number}"
                text = f"# {title}\nA note about {word}.\n\n- [fact] it was measured #bench\n- relates_to [[Seed1]]"
                variant.measure(rtt, "write_note", title=title, directory="bench", content=text)
                variant.measure(rtt, "read_note", identifier=identifier)
                variant.measure(rtt, "search_notes", query=word)
                variant.measure(rtt, "edit_note", identifier=identifier, operation="append", content="\nOne more line.")
            say(f"{rtt} ms: round {number + 1} of {options.samples}")


def boots(variants, options):
    """Seconds of each boot on a new machine with an existing tenant, at every round trip time."""
    taken = {}
    for rtt in options.rtt if options.boots else []:
        for number in range(options.boots):
            for variant in variants:
                if variant.name == "naive" or (variant.name == "local" and rtt != options.rtt[0]):
                    continue
                if variant.proxy:
                    variant.proxy.rtt_ms = rtt
                taken.setdefault(f"{variant.name} {rtt}", []).append(variant.boot("seed3"))
            say(f"{rtt} ms: boot {number + 1} of {options.boots}")
    return taken


def seed(variant, notes):
    """Notes that are there before anything is measured."""
    for number in range(notes):
        title, friend = f"Seed{number}", f"Seed{number // 2}"
        variant.mcp.call("write_note", title=title, directory="seed",
                         content=f"# {title}\nSomething about {title}.\n\n- [fact] number {number}\n- relates_to [[{friend}]]")
    # What is still on its way to the bucket would be measured with the first rounds.
    wait_until(lambda: variant.container.status()["uploads"]["queued"] == 0, 300,
               lambda: f"the notes are uploaded: {variant.container.status()['uploads']}", every=0.5)


def report(variants, options, boot_times, failed):
    calls = []
    base = next((v for v in variants if v.name == "local"), None)
    for rtt in options.rtt:
        for call in CALLS:
            for variant in variants:
                times = variant.times.get((rtt, call))
                if not times:
                    continue
                median = statistics.median(times)
                local = statistics.median(base.times[rtt, call]) if base and (rtt, call) in base.times else None
                requests = variant.requests.get((rtt, call))
                calls.append({"rtt_ms": rtt, "call": call, "variant": variant.name, "samples": len(times),
                              "median_ms": round(median, 1), "p95_ms": round(p95(times), 1),
                              "ratio_to_local": round(median / local, 2) if local else None,
                              "requests": statistics.median(requests) if requests else 0,
                              "times_ms": [round(t, 1) for t in times]})
    starts = []
    for name, times in boot_times.items():
        variant, rtt = name.split()
        ready, finds = zip(*times)
        starts.append({"variant": variant, "rtt_ms": int(rtt), "samples": len(times),
                       "ready_s": round(statistics.median(ready), 2), "ready_max_s": round(max(ready), 2),
                       "found_s": round(statistics.median(finds), 2), "found_max_s": round(max(finds), 2)})
    return {"cpus": os.cpu_count(), "load": os.getloadavg()[0], "notes": options.notes, "calls": calls, "boots": starts,
            "failures": failed + [f"{v.name}: {f}" for v in variants for f in v.failures]}


def show(result):
    print(f"{'RTT':>4}  {'call':<13} {'variant':<7} {'median':>9} {'p95':>9} {'of local':>9} {'requests':>9} {'n':>4}")
    last = None
    for row in result["calls"]:
        if last not in (None, (row["rtt_ms"], row["call"])):
            print()
        last = row["rtt_ms"], row["call"]
        ratio = f"{row['ratio_to_local']:.2f} x" if row["ratio_to_local"] else "-"
        print(f"{row['rtt_ms']:>4}  {row['call']:<13} {row['variant']:<7} {row['median_ms']:>6.0f} ms {row['p95_ms']:>6.0f} ms "
              f"{ratio:>9} {row['requests']:>9.0f} {row['samples']:>4}")
    if result["boots"]:
        print(f"\n{'RTT':>4}  {'existing tenant, new machine':<29} {'ready':>9} {'found':>9} {'n':>4}")
        for row in result["boots"]:
            print(f"{row['rtt_ms']:>4}  {row['variant']:<29} {row['ready_s']:>7.2f} s {row['found_s']:>7.2f} s {row['samples']:>4}")
    for failure in result["failures"]:
        print(f"failed: {failure}")
    for name, words in VARIANTS.items():
        print(f"{name}: {words}")


def options_of_the_command_line():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rtt", type=_numbers, default=[0, 20, 100], help="added round trip times in ms (default: 0,20,100)")
    parser.add_argument("--samples", type=int, default=15, help="rounds at each of them (default: 15)")
    parser.add_argument("--naive-samples", type=int, default=3, help="of these, with the naive one, which takes minutes (default: 3)")
    parser.add_argument("--variants", default="local,ours,naive", help="which (default: all three)")
    parser.add_argument("--boots", type=int, default=3, help="boots on a new machine at each round trip time (default: 3)")
    parser.add_argument("--notes", type=int, default=20, help="notes that are there before (default: 20)")
    parser.add_argument("--json", metavar="FILE", help="writes everything measured there, `-` for stdout instead of the table")
    options = parser.parse_args()
    options.naive_samples = min(options.naive_samples, options.samples)
    if unknown := set(options.variants.split(",")) - set(VARIANTS):
        parser.error(f"no variant {', '.join(unknown)}")
    return options


def _numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    options = options_of_the_command_line()
    with tempfile.TemporaryDirectory() as place, ExitStack() as rooms:
        variants, failed = [Variant(name, place, rooms) for name in options.variants.split(",")], []
        for variant in variants:
            say(f"{variant.name}: ready after {variant.start():.1f} s, writing {options.notes} notes")
            seed(variant, options.notes)
            # Otherwise a variant that silently uses a local file would look very good.
            if variant.proxy and variant.proxy.counters.requests == 0:
                failed.append(f"{variant.name}: no request ever reached the database, these are times of a local file")
        measure(variants, options)
        boot_times = boots(variants, options)
        result = report(variants, options, boot_times, failed)
    if options.json == "-":
        print(json.dumps(result, indent=1))
        return
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    show(result)


if __name__ == "__main__":
    main()
