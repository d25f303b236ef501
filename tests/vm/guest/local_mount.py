"""`tenant-init mount` on a computer whose kernel has NFS, as root: first to write, then read-only."""

import os
import subprocess
import tempfile
from pathlib import Path

from lib.local import LocalMount
from lib.s3 import S3Server
from vm.guestlib import DISK, emit

folder = Path(tempfile.mkdtemp(dir=DISK))
s3 = S3Server(folder).start()
s3.put("theirs.md", "from the bucket")


def life(part, *arguments, work):
    # FUSE is preferred where it works.
    local = LocalMount(folder / part, s3, arguments=arguments, env={"TENANT_INIT_MOUNT__DRIVER": "nfs"})
    try:
        local.start().wait_ready(60)
        found = work(local)
        end = local.stop()
        emit(part, **found, driver="nfs" if "is mounted (nfs" in local.log() else "other", code=end.code, words=end.last_line,
             mounts=local.mounts(), bucket={name: s3.read(name) for name in s3.objects()})
    finally:
        print(local.log()[-3000:])
        local.clean_up()


def write(local):
    local.write("mine.md", "from here")
    mode = os.stat(local.mount / "mine.md").st_mode & 0o777
    return {"read": local.read("theirs.md"), "mode": mode}


def refused(local):
    words = [subprocess.run(["sh", "-c", script], env={**os.environ, "M": str(local.mount)}, capture_output=True, text=True).stderr
             for script in ('echo x > "$M/new.md"', 'echo x >> "$M/theirs.md"', 'rm "$M/theirs.md"', 'mkdir "$M/folder"')]
    return {"read": local.read("theirs.md"), "refused": all("Read-only file system" in said for said in words)}


life("write", work=write)
life("look", "--read-only", work=refused)
s3.stop()
