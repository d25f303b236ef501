"""Which opens of an existing file destroy what is in it?

    truncation.py plain       literal `rclone nfsmount`: on kernels with NFSv3 atomic open most cases lose data
    truncation.py plain-fuse  literal `rclone mount`
    truncation.py tenant      `tenant-init run` with driver nfs: every case must keep its data

One result per case: what the file held before, what it must hold, what it holds through the mount and in the bucket.
"""

import os
import sqlite3
import sys
import tempfile
from pathlib import Path

from lib import rc
from lib.s3 import S3Server
from lib.tenant import Tenant
from lib.wait import wait_until
from vm.guestlib import DISK, PlainMount, emit, sh

OLD = "PRECIOUS\n"


def write(path, mode, text):
    with open(path, mode) as f:
        f.write(text)


def open_close(path, flags):
    os.close(os.open(path, flags, 0o644))


def stat_then_append(path):
    os.stat(path)
    write(path, "a", "x\n")


def read_then_append(path):
    path.read_text()
    write(path, "a", "x\n")


def exclusive(path):
    try:
        open_close(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return
    raise AssertionError("O_EXCL opened an existing file")


# name: (what is done to a file holding OLD that nobody has looked up yet, what it must hold afterwards)
CASES = {
    "append": (lambda p: write(p, "a", "x\n"), OLD + "x\n"),
    "shell_append": (lambda p: sh(f"echo x >> {p}"), OLD + "x\n"),
    "touch": (lambda p: sh(f"touch {p}"), OLD),
    "rdwr_creat": (lambda p: open_close(p, os.O_RDWR | os.O_CREAT), OLD),
    "wronly_creat": (lambda p: open_close(p, os.O_WRONLY | os.O_CREAT), OLD),
    "exclusive": (exclusive, OLD),
    "read_write": (lambda p: write(p, "r+", "p"), "pRECIOUS\n"),
    "stat_then_append": (stat_then_append, OLD + "x\n"),
    "read_then_append": (read_then_append, OLD + "x\n"),
    "write": (lambda p: write(p, "w", "new\n"), "new\n"),
    "shell_write": (lambda p: sh(f"echo new > {p}"), "new\n"),
    "truncating_creat": (lambda p: open_close(p, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), ""),
}


def prepare(s3):
    for name in CASES:
        s3.put(f"{name}.md", OLD)
    database = sqlite3.connect(s3.path / "sqlite.db")
    database.execute("create table t(a)")
    database.execute("insert into t values (1)")
    database.commit()
    database.close()


def run(mount: Path, s3: S3Server, rc_folder: Path):
    """Runs every case on the mount and reports each; the bucket is compared at the end."""
    expected = {}
    for name, (action, want) in CASES.items():
        path = mount / f"{name}.md"
        error = None
        try:
            action(path)
            seen = path.read_text()
        except (OSError, AssertionError) as e:
            error, seen = repr(e), None
        expected[f"{name}.md"] = want
        emit("case", name=name, want=want, seen=seen, kept=seen == want, error=error)

    database = sqlite3.connect(mount / "sqlite.db")
    try:
        rows = database.execute("select count(*) from t").fetchone()[0]
        emit("case", name="sqlite", want=1, seen=rows, kept=rows == 1, error=None)
    except sqlite3.Error as e:
        emit("case", name="sqlite", want=1, seen=None, kept=False, error=repr(e))
    database.close()

    # The kernel remembers that a name is not there; then somebody else makes it, and rclone learns of that. Refusing the
    # open is fine, losing what the other wrote is not.
    path = mount / "negative.md"
    os.path.exists(path)
    s3.put("negative.md", OLD)
    rc.call(rc.socket_below(rc_folder), "vfs/refresh")
    error = None
    try:
        write(path, "a", "x\n")
    except OSError as e:
        error = repr(e)
    emit("negative", error=error)

    lost = 0
    for i in range(60):
        write(mount / "t.tmp", "w", f"R{i}\n")
        os.replace(mount / "t.tmp", mount / "x.md")
        write(mount / "x.md", "a", "app\n")
        lost += (mount / "x.md").read_text() != f"R{i}\napp\n"
    expected["x.md"] = "R59\napp\n"
    emit("replace_then_append", rounds=60, lost=lost)

    lost = 0
    for i in range(60):
        write(mount / "u.tmp", "w", f"R{i}\n")
        os.replace(mount / "u.tmp", mount / "v.md")
        lost += (mount / "v.md").read_text() != f"R{i}\n"
    expected["v.md"] = "R59\n"
    emit("replace_then_read", rounds=60, lost=lost)
    return expected


def uploaded(s3, expected, seconds=30):
    """Waits until the bucket holds what it must; what differs after that time is the loss."""

    def differences():
        return {k: s3.read(k) if (s3.path / k).exists() else None for k, v in expected.items()
                if not (s3.path / k).exists() or s3.read(k) != v}

    try:
        wait_until(lambda: not differences(), seconds)
    except TimeoutError:
        pass
    emit("bucket", differences=differences(), negative_kept=OLD in s3.read("negative.md"))


def main(how):
    folder = Path(tempfile.mkdtemp(dir=DISK))
    s3 = S3Server(folder)
    prepare(s3)
    s3.start()
    if how == "tenant":
        tenant = Tenant(folder / "tenant", s3, app=["sleep", "infinity"], env={"TENANT_INIT_MOUNT__DRIVER": "nfs"})
        tenant.start().wait_ready()
        expected = run(tenant.mount, s3, tenant.folder)
        end = tenant.stop()
        emit("exit", code=end.code, verdict=end.verdict, seconds=end.seconds)
        uploaded(s3, expected, 0)
        if end.code != 0:
            print(tenant.log()[-4000:])
        tenant.clean_up()
    else:
        plain = PlainMount(s3, folder, "mount" if how == "plain-fuse" else "nfsmount").start()
        expected = run(plain.point, s3, folder)
        uploaded(s3, expected, 10)
        plain.stop()
    s3.stop()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tenant")
