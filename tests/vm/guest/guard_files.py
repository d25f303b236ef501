"""What a mount behind the guard keeps, seen by programs on it. One result per case.

Bring time: a minute on a free machine, three on a busy one.
"""

import ctypes
import errno
import hashlib
import multiprocessing
import os
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import truncation
from guard_rig import GuardedMount
from lib.s3 import S3Server
from lib.wait import wait_until
from vm.guestlib import emit, sh

OLD = truncation.OLD
libc = ctypes.CDLL(None, use_errno=True)
IN_MODIFY, IN_CLOSE_WRITE, IN_CREATE = 0x2, 0x8, 0x100


class Watch:
    """inotify events on a folder, as (mask, name)."""

    def __init__(self, folder):
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        libc.inotify_add_watch(self.fd, str(folder).encode(), IN_MODIFY | IN_CLOSE_WRITE | IN_CREATE)

    def events(self):
        found = []
        try:
            data = os.read(self.fd, 65536)
        except BlockingIOError:
            return found
        while data:
            _, mask, _, length = struct.unpack_from("iIII", data)
            found.append((mask, data[16:16 + length].rstrip(b"\0").decode()))
            data = data[16 + length:]
        return [[name for bit, name in ((IN_CREATE, "create"), (IN_MODIFY, "modify"), (IN_CLOSE_WRITE, "close_write"))
                 if mask & bit][0] + ":" + name for mask, name in found]


def error_of(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    return None


def negative(mount, s3):
    """The kernel holds a name for absent, somebody else makes the file, the app opens it with O_CREAT."""
    for name, action, want in (
        ("append", lambda p: truncation.write(p, "a", "x\n"), OLD + "x\n"),
        ("touch", lambda p: sh(f"touch {p}"), OLD),
        ("rdwr_creat", lambda p: os.close(os.open(p, os.O_RDWR | os.O_CREAT, 0o777)), OLD),
        ("truncate", lambda p: truncation.write(p, "w", "new\n"), "new\n"),
    ):
        path = mount.point / f"absent-{name}.md"
        assert not path.exists()
        mount.changed_elsewhere(path.name, OLD)
        error = error_of(lambda: action(path))
        seen = path.read_text() if not error else None
        emit("negative_case", name=name, want=want, seen=seen, error=error, mode=oct(path.stat().st_mode & 0o777))


def unlinked(mount, s3):
    """A file removed here and made again elsewhere: the kernel's negative entry comes from REMOVE."""
    path = mount.point / "removed.md"
    path.write_text("mine\n")
    path.unlink()
    wait_until(lambda: not (s3.path / path.name).exists(), 20)
    mount.changed_elsewhere(path.name, OLD)
    error = error_of(lambda: truncation.write(path, "a", "x\n"))
    emit("negative_case", name="after_unlink", want=OLD + "x\n", seen=None if error else path.read_text(), error=error,
         mode=None)


def modes(mount, s3):
    mount.changed_elsewhere("mode.md", OLD)
    before = oct((mount.point / "mode.md").stat().st_mode)
    mount.changed_elsewhere("mode2.md", OLD)
    os.close(os.open(mount.point / "mode2.md", os.O_RDWR | os.O_CREAT, 0o777))
    after = oct((mount.point / "mode2.md").stat().st_mode)
    os.close(os.open(mount.point / "mode3.md", os.O_RDWR | os.O_CREAT, 0o755))
    emit("modes", looked_up=before, opened=after, created=oct((mount.point / "mode3.md").stat().st_mode))


def events(mount, s3):
    """What a watcher sees when an existing file is appended to that nobody has looked up."""
    mount.changed_elsewhere("watched.md", OLD)
    watch = Watch(mount.point)
    truncation.write(mount.point / "watched.md", "a", "x\n")
    old = watch.events()
    truncation.write(mount.point / "fresh.md", "a", "x\n")
    new = watch.events()
    (mount.point / "later.md").exists()
    mount.changed_elsewhere("later.md", OLD)
    truncation.write(mount.point / "later.md", "a", "x\n")
    emit("events", existing=old, created=new, held_for_absent=watch.events())


def peers(mount):
    """The kernel's end of its connection to the guard, and an unprivileged program's try."""
    to = f"0100007F:{mount.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    kernel = [(int(f[1].split(":")[1], 16), int(f[7])) for f in lines if f[2] == to and f[3] == "01"]
    script = f"exec 3<>/dev/tcp/127.0.0.1/{mount.port} && ! timeout 10 head -c 1 <&3 | grep -q ."
    refused = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", "bash", "-c", script]).returncode == 0
    emit("peers", ports_and_uids=kernel, refused="refused a connection" in mount.guard.log() and refused)


def large(mount, s3):
    data = os.urandom(1 << 20)
    digest = hashlib.sha256()
    start = time.monotonic()
    with open(mount.point / "large.bin", "wb") as f:
        for i in range(50):
            block = data[i:] + data[:i]
            digest.update(block)
            f.write(block)
    wrote = time.monotonic() - start
    sh("echo 3 > /proc/sys/vm/drop_caches")
    start = time.monotonic()
    read = hashlib.sha256((mount.point / "large.bin").read_bytes()).hexdigest()
    took = time.monotonic() - start
    wait_until(lambda: (s3.path / "large.bin").stat().st_size == 50 << 20, 60)
    stored = hashlib.sha256((s3.path / "large.bin").read_bytes()).hexdigest()
    emit("large", read_back=read == digest.hexdigest(), stored=stored == digest.hexdigest(), write_seconds=wrote,
         read_seconds=took, rss_kib=mount.guard.rss())


def writer(folder, number, rounds):
    """Creates, appends, replaces, renames and removes in a folder shared with the others; returns what must be there."""
    expected = {}
    for i in range(rounds):
        name = f"w{number}-{i}.md"
        path = folder / name
        path.write_text(f"first {number} {i}\n")
        with open(path, "a") as f:
            f.write("appended\n")
        (folder / f"{name}.tmp").write_text(f"replaced {number} {i}\n")
        os.replace(folder / f"{name}.tmp", path)
        with open(path, "a") as f:
            f.write("again\n" * 500)
        if i % 3 == 0:
            os.rename(path, folder / f"r{name}")
            name = f"r{name}"
        if i % 7 == 6:
            os.unlink(folder / name)
        else:
            expected[name] = f"replaced {number} {i}\n" + "again\n" * 500
    return expected


def same_file(path, number):
    """One of eight that write their own blocks of one file."""
    with open(path, "r+b", buffering=0) as f:
        for block in range(40):
            f.seek((block * 8 + number) * 10_000)
            f.write(bytes([65 + number]) * 10_000)


def parallel(mount, s3):
    folder = mount.point / "parallel"
    folder.mkdir()
    with multiprocessing.Pool(8) as pool:
        results = pool.starmap(writer, [(folder, number, 8) for number in range(8)])
        path = folder / "shared.bin"
        path.write_bytes(b"")
        pool.starmap(same_file, [(path, number) for number in range(8)])
    expected = {name: text for result in results for name, text in result.items()}
    wrong = {name for name, text in expected.items() if (folder / name).read_text() != text}
    sh("echo 3 > /proc/sys/vm/drop_caches")
    shared = b"".join(bytes([65 + i % 8]) * 10_000 for i in range(320))
    there = set(os.listdir(folder)) - {"shared.bin"}

    def missing():
        at = s3.path / "parallel"
        return [name for name, text in expected.items() if not (at / name).exists() or (at / name).read_text() != text]

    try:
        wait_until(lambda: not missing(), 90)
    except TimeoutError:
        pass
    emit("parallel", files=len(expected), wrong=sorted(wrong), names_right=there == set(expected), not_stored=missing(),
         shared=path.read_bytes() == shared, paths=mount.guard.stats()["paths"])


def suspended(mount):
    """rclone stands still while eight programs write, then goes on."""
    folder = mount.point / "suspended"
    folder.mkdir()
    with multiprocessing.Pool(8) as pool:
        running = pool.starmap_async(writer, [(folder, number, 8) for number in range(8)])
        wait_until(lambda: len(os.listdir(folder)) > 5, 20)
        mount.rclone.suspend()
        wait_until(lambda: mount.guard.stats()["stuck"] > 0, 20)
        during = mount.guard.stats()
        mount.rclone.resume()
        results = running.get(120)
    expected = {name: text for result in results for name, text in result.items()}
    wrong = [name for name, text in expected.items() if (folder / name).read_text() != text]
    emit("suspended", during=during, wrong=wrong, after=mount.guard.stats())


def in_child(action):
    """Runs it in a process of its own, which may hang; gives the process."""
    process = multiprocessing.Process(target=action, daemon=True)
    process.start()
    return process


def blocked(mount, s3):
    """One read waits for a silent S3 server; everything that does not need S3 goes on, over one connection."""
    assert [p.name for p in (mount.point / "cold").iterdir()] == ["uncached.md"]
    (mount.point / "warm").mkdir()
    warm = mount.point / "warm/cached.md"
    warm.write_text(OLD)
    wait_until(lambda: (s3.path / "warm/cached.md").exists(), 90)
    s3.suspend()
    reader = in_child((mount.point / "cold/uncached.md").read_text)
    wait_until(lambda: mount.guard.stats()["stuck"] == 1, 20)
    times = {}
    for name, action in (
        ("statvfs", lambda: os.statvfs(mount.point)),
        ("stat_absent", lambda: (mount.point / "warm/nothing.md").exists()),
        ("read_cached", lambda: (sh("echo 3 > /proc/sys/vm/drop_caches"), warm.read_text())),
        ("create", lambda: (mount.point / "warm/new.md").write_text("new\n")),
        ("append", lambda: truncation.write(warm, "a", "x\n")),
    ):
        start = time.monotonic()
        child = in_child(action)
        child.join(5)
        times[name] = None if child.is_alive() else time.monotonic() - start
    stats = mount.guard.stats()
    s3.resume()
    reader.join(60)
    emit("blocked", seconds=times, stats=stats, reader_ended=not reader.is_alive(), warm=warm.read_text() == OLD + "x\n")


def refusing(mount):
    path = mount.point / "refusing.md"
    path.write_text(OLD)
    tell = mount.guard.tell
    tell("read-only")
    rofs = [error_of(lambda: path.write_text("x")), error_of(lambda: (mount.point / "new.md").write_text("x")),
            error_of(path.unlink), error_of(lambda: truncation.write(path, "a", "x")), path.read_text() == OLD]
    tell("full")
    full = [error_of(lambda: path.write_text("x")), error_of(lambda: truncation.write(path, "a", "x")),
            path.read_text() == OLD, error_of(path.unlink)]
    tell("writable")
    emit("refusing", read_only=rofs, full=full, writable=error_of(lambda: path.write_text("x")))


def held(mount):
    path = mount.point / "held.md"
    path.write_text(OLD)
    mount.guard.tell("hold")
    child = in_child(lambda: truncation.write(path, "a", "x\n"))
    wait_until(lambda: mount.guard.stats()["in_flight"] > 0, 20)
    waited = child.is_alive()
    mount.guard.tell("release")
    child.join(20)
    emit("held", waited=waited, ended=child.exitcode, kept=path.read_text() == OLD + "x\n")


def unmount(mount, s3):
    """An unmount that tells the server leaves rclone and its queue alone."""
    (mount.point / "last.md").write_text(OLD)
    sh(f"umount {mount.point}")
    # What umount.nfs sends where it finds no rpcbind in the way: MOUNT's UMNT, from root.
    call = struct.pack(">10I", 7, 0, 2, 100005, 3, 3, 0, 0, 0, 0) + struct.pack(">I", 1) + b"/\0\0\0"
    with socket.create_connection(("127.0.0.1", mount.port), 5) as s:
        s.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        answer = s.recv(100)
    wait_until(lambda: (s3.path / "last.md").exists(), 90)
    emit("unmount", answered=len(answer), rclone_running=mount.rclone.running(), stored=s3.read("last.md") == OLD)


def main():
    folder = Path(tempfile.mkdtemp())
    s3 = S3Server(folder)
    truncation.prepare(s3)
    s3.put("cold/uncached.md", OLD)
    s3.start()
    mount = GuardedMount(s3, folder).start()
    expected = truncation.run(mount.point, s3, mount.folder)
    truncation.uploaded(s3, expected, 20)
    for case in (lambda: peers(mount), lambda: negative(mount, s3), lambda: unlinked(mount, s3), lambda: modes(mount, s3),
                 lambda: events(mount, s3), lambda: large(mount, s3), lambda: parallel(mount, s3),
                 lambda: suspended(mount), lambda: refusing(mount), lambda: held(mount), lambda: blocked(mount, s3),
                 lambda: unmount(mount, s3)):
        try:
            case()
        except Exception:
            print(mount.rclone.stderr()[-3000:], mount.guard.log()[-3000:], mount.guard.stats())
            raise
    emit("guard", rss_kib=mount.guard.rss(), cpu=mount.guard.cpu(), operations=mount.guard.tell("operations"),
         log=mount.guard.log()[-3000:])
    mount.stop()
    s3.stop()


if __name__ == "__main__":
    main()
