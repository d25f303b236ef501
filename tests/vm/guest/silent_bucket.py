"""A silent bucket on nfs: `tests/faults/silence.py` inside the machine.

    silent_bucket.py MINUTES DROP [quick]
"""

import sys
import tempfile
from pathlib import Path

from faults.silence import QUICK, markdown, measure
from vm.guestlib import DISK, emit

minutes, drop = float(sys.argv[1]), sys.argv[2]
folder = Path(tempfile.mkdtemp(dir=DISK))
env = {"TENANT_INIT_MOUNT__DRIVER": "nfs", **(QUICK if "quick" in sys.argv else {})}
result = measure(folder, minutes, drop, env)
emit("silence", result=result)
print(markdown("nfs", drop, minutes, result))
