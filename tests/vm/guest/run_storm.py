"""One storm (tests/storm) over a tenant on an NFS mount, in this machine.

    run_storm.py SEED STEPS

What a storm that found something leaves (ledger, logs, the cache directory's list) is put beside the results.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from storm.machines import Local
from storm.storm import Storm
from vm.guestlib import DISK, emit

seed, steps = sys.argv[1], int(sys.argv[2])
folder = Path(tempfile.mkdtemp(dir=DISK))
folder.chmod(0o755)


def make(env):
    return Local(folder / "tenant", {**env, "TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app"}, storm.ledger, seed)


storm = Storm(folder, seed, make, steps=steps)
report = storm.run()
print(report.words())
emit("storm", seed=seed, words=report.words(), acknowledged=report.acknowledged, problems=report.problems)
if report.problems:
    kept = Path("/vm/out/kept")
    shutil.copytree(folder / "ledger", kept / "ledger")
    for log in [*folder.glob("tenant/err-*"), *folder.glob("tenant/out-*")]:
        shutil.copy(log, kept)
