"""Does the truncation self-test see what plain `rclone nfsmount` does to files? And does it pass where files are safe?

Runs `tenant-init probe selftest` on mounts without guard and supervisor, and reports what it printed.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from lib.s3 import S3Server
from vm.guestlib import PlainMount, emit

folder = Path(tempfile.mkdtemp())
s3 = S3Server(folder).start()
s3.put("precious.md", "PRECIOUS\n")
for verb in ("nfsmount", "mount"):
    mount = PlainMount(s3, folder / verb, verb).start()
    done = subprocess.run(["tenant-init", "probe", "selftest", mount.point], capture_output=True, text=True, timeout=60)
    left = sorted(path.name for path in mount.point.iterdir())
    emit("selftest", verb=verb, code=done.returncode, report=json.loads(done.stdout or "{}"), left=left)
    mount.stop()
s3.stop()
