"""The table of faults: what an app sees under tenant-init, and under the entry point that people write today. `make faults`."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from lib import dispositions, mounts, vm

from .scenarios import FAULTS, SUBJECTS, Row, run


def scenarios(seconds, only):
    """(fault, seconds) in the order of the table."""
    for fault in FAULTS:
        if only and not any(word in fault.name for word in only):
            continue
        # One length each is enough for a start, and for a disk or a key.
        lengths = seconds if fault.name.startswith("bucket: ") else [30 if fault.name == "key revoked" else 10]
        for length in lengths if fault.lasts else [0]:
            yield fault, length


def measure(driver, seconds, only, jobs, tell, where=None, subjects=SUBJECTS):
    """All rows on this machine; `tell` gets each as soon as it is known. Both subjects of a fault suffer at the same time."""
    folder = Path(tempfile.mkdtemp(prefix="faults-", dir=where))
    folder.chmod(0o755)

    def both(number, fault, length):
        with ThreadPoolExecutor(2) as pair:
            rows = list(pair.map(lambda kind: run(kind, fault, length, driver, folder / f"{number}-{kind.name}"), subjects))
        for row in rows:
            tell(row)

    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(both, n, *one) for n, one in enumerate(scenarios(seconds, only))]:
            done.result()
    mounts.detach_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


def in_machine(seconds, only, jobs, folder):
    """The same in the virtual machine, whose kernel has NFS. All rows."""
    arguments = ["--seconds", ",".join(map(str, seconds)), "--jobs", str(jobs), *[part for word in only for part in ("--only", word)]]
    count = len(list(scenarios(seconds, only)))
    # A scenario takes its length and at most three minutes; most take one.
    timeout = 600 + sum(length + 100 for _, length in scenarios(seconds, only)) // min(jobs, count)
    booted = vm.boot(folder, "fault_table.py", *arguments, timeout=timeout).checked()
    return [Row(**{key: value for key, value in found.items() if key != "event"}) for found in booted.of("row")]


def seconds(value, digits=1):
    return "" if value is None else f"{value:.{digits}f} s"


def pause(row):
    if row.pause is None:
        return "-"
    return f"{row.pause:.1f} s" if row.ends else f"**for good** (> {row.pause:.0f} s)"


def errors(row):
    shown = ", ".join(f"{count} {name}" for name, count in sorted(row.errors.items()))
    return shown or "none"


def lost(row):
    if row.failed:
        return "?"
    count = f"**{len(row.lost)}**" if row.lost else "0"
    return count + (f" ({row.named} named)" if row.named else "") + (f", {len(row.wrong)} read wrong" if row.wrong else "")


def restarts(row):
    return ", ".join(f"{name} {count}" for name, count in row.restarts.items()) or "0"


def state(row):
    """Time to degraded and to ready."""
    if row.subject == "shell":
        return "never says", "never says"
    if row.pause is None:
        return "-", "-"
    if row.stayed:
        return "stays ready", "-"
    return seconds(row.degraded), seconds(row.ready) or "not ready"


COLUMNS = ["fault", "lasts", "", "errors at the app", "longest pause", "degraded after", "ready after", "all stored after", "lost writes",
           "restarts"]


def markdown(rows):
    order = {(fault.name, subject.name): n for n, (fault, subject) in enumerate((f, s) for f in FAULTS for s in SUBJECTS)}
    by_fault = {fault.name: n for n, fault in enumerate(FAULTS)}
    rows = sorted(rows, key=lambda row: (by_fault[row.fault], row.seconds, order[row.fault, row.subject]))
    lines = []
    for driver in sorted({row.driver for row in rows}, reverse=True):
        lines += [f"\n### {driver}\n", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        before = None
        for row in (row for row in rows if row.driver == driver):
            same = before == (row.fault, row.seconds)
            before = (row.fault, row.seconds)
            cells = ["" if same else row.fault, "" if same or not row.seconds else f"{row.seconds:g} s", row.subject]
            if row.failed:
                cells += [f"not measured ({row.failed.split(':')[0]})", *[""] * (len(COLUMNS) - 4)]
            else:
                # Before a start there is nothing to store.
                stored = "-" if row.fault.startswith("start") else seconds(row.stored) or "-"
                cells += [errors(row), pause(row), *state(row), stored, lost(row), restarts(row)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    options = argparse.ArgumentParser(prog="faults", description=__doc__)
    options.add_argument("--where", default="host,vm", help="host: fuse on this machine, vm: nfs in the virtual one (default: both)")
    options.add_argument("--seconds", default="10,60", help="how long drops of the bucket last (default: 10,60)")
    options.add_argument("--only", action="append", default=[], help="faults with this in their name (repeatable)")
    options.add_argument("--jobs", type=int, default=4, help="faults at the same time (default: 4)")
    options.add_argument("--json", type=Path, help="write the rows there too")
    options.add_argument("--render", type=Path, nargs="+", help="measure nothing, print the table of such files")
    given = options.parse_args()
    rows, lengths = [], [float(part) for part in given.seconds.split(",")]
    began = time.monotonic()

    def tell(row):
        rows.append(row)
        said = row.failed or f"errors {row.errors}, pause {pause(row)}, degraded {seconds(row.degraded)}, ready {seconds(row.ready)}, lost {len(row.lost)}"
        print(f"{time.monotonic() - began:5.0f} s  {row.driver} {row.fault} {row.seconds:g} s, {row.subject}: {said}", file=sys.stderr, flush=True)

    if given.render:
        rows = [Row(**row) for path in given.render for row in json.loads(path.read_text())]
    else:
        dispositions.undo_inherited()
        if "host" in given.where:
            measure("fuse", lengths, given.only, given.jobs, tell)
        if "vm" in given.where:
            with tempfile.TemporaryDirectory(prefix="faults-vm-") as folder:
                for row in in_machine(lengths, given.only, given.jobs, Path(folder)):
                    tell(row)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    print(markdown(rows))


if __name__ == "__main__":
    main()
