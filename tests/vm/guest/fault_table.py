"""The table of faults on nfs: `tests/faults` inside the machine, one result for each row.

    fault_table.py --seconds 10,60 --jobs 3 [--only WORD] [--tenant-only]
"""

import argparse
from dataclasses import asdict

from faults.__main__ import measure
from faults.scenarios import SUBJECTS
from faults.subjects import Supervised
from vm.guestlib import DISK, emit

options = argparse.ArgumentParser()
options.add_argument("--seconds")
options.add_argument("--jobs", type=int)
options.add_argument("--only", action="append", default=[])
options.add_argument("--tenant-only", action="store_true")
given = options.parse_args()
measure("nfs", [float(part) for part in given.seconds.split(",")], given.only, given.jobs, lambda row: emit("row", **asdict(row)), DISK,
        (Supervised,) if given.tenant_only else SUBJECTS)
