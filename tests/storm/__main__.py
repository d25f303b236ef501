"""Many storms, one after another, each by a random seed: `make storm MINUTES=60`. Prints a line for each and all of those that found something."""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lib import dispositions, mounts, vm

from .machines import Contained, Local
from .notes import NotesStorm
from .storm import Report, Storm


def here(kind):
    """A storm over a tenant as `kind` of `machines`."""

    def run(folder, seed, steps):
        storm = Storm(folder, seed, lambda env: kind(folder / "tenant", env, storm.ledger, seed), steps=steps)
        return storm.run()

    return run


def in_vm(folder, seed, steps):
    """The same storm inside a virtual machine of its own: an NFS mount."""
    run = vm.boot(folder, "run_storm.py", str(seed), str(steps), timeout=900)
    told = run.of("storm")
    if run.code or not told:
        return Report(seed, problems=[f"the machine ended with {run.code}; its console: {folder / 'console.log'}"])
    return Report(seed, problems=told[0]["problems"], acknowledged=told[0]["acknowledged"], said=told[0]["words"])


def with_notes(folder, seed, steps):
    """basic-memory with its bucket and its index database, in a container."""
    return NotesStorm(folder, seed, steps=steps).run()


KINDS = {"host": here(Local), "container": here(Contained), "vm": in_vm, "notes": with_notes}


def one(seed, kind, steps):
    """The report of one storm; its folder is kept when it found something."""
    folder = Path(tempfile.mkdtemp(prefix="storm-"))
    folder.chmod(0o755)
    report = KINDS[kind](folder, seed, steps)
    if not report.problems:
        mounts.detach_below(folder)
        shutil.rmtree(folder)
    return report, folder


def main():
    options = argparse.ArgumentParser(prog="storm", description=__doc__)
    options.add_argument("--minutes", type=float, default=10, help="begin no storm after this long (default: 10)")
    options.add_argument("--seed", help="one storm by this seed")
    options.add_argument("--steps", type=int, default=6, help="faults in a storm (default: 6)")
    options.add_argument("--where", choices=KINDS, default="host", help="where the tenant lives (default: host); notes: basic-memory and its index, in a container")
    given = options.parse_args()
    dispositions.undo_inherited()
    end = time.monotonic() + given.minutes * 60
    storms = acknowledged = bad = 0
    while (storms == 0 or time.monotonic() < end) and not (given.seed and storms):
        seed = given.seed or secrets.token_hex(4)
        report, folder = one(seed, given.where, given.steps)
        storms += 1
        acknowledged += report.acknowledged
        if report.problems:
            bad += 1
            print(f"{report.words()}\n  kept: {folder}\n  again: make storm SEED={seed} STORM_WHERE={given.where}", flush=True)
        else:
            print(report.words().splitlines()[0], flush=True)
    print(f"{storms} storms, {acknowledged} acknowledged operations, {bad} storms found something")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
