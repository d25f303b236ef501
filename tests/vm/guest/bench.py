"""`tenant-init bench` on an NFS mount, with basic-memory; its result is the file `bench.json` outside.

    scripts/vm-run.sh --out FOLDER --timeout 900 tests/vm/guest/bench.py [OPTIONS OF bench…]
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from lib.s3 import S3Server
from lib.tenant import Tenant
from vm.guestlib import DISK, emit

folder = Path(tempfile.mkdtemp(dir=DISK))
server = S3Server(folder).start()
tenant = Tenant(folder / "tenant", server, env={"TENANT_INIT_MOUNT__DRIVER": "nfs", "TENANT_INIT_APP__USER": "app"})
try:
    tenant.start().wait_ready(120)
    done = subprocess.run([tenant.program, "bench", "--json", *sys.argv[1:]], env=tenant.env, stdout=subprocess.PIPE, text=True)
    Path("/vm/out/bench.json").write_text(done.stdout)
    result = json.loads(done.stdout) if done.stdout else {}
    emit("bench", code=done.returncode, measured=[m["name"] for m in result.get("measures", [])],
         skipped=result.get("skipped"), left=[str(p) for p in tenant.mount.rglob("*bench*")], objects=server.objects())
    end = tenant.stop()
    emit("exit", code=end.code, stored=end.verdict["stored"])
finally:
    tenant.clean_up()
    server.kill()
