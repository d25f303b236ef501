"""What is mounted, and getting rid of what a failed test left behind."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
MNT_DETACH = 2


def mountinfo():
    """Mount points and their file system types, oldest first; a dead mount under a newer one is listed too."""
    found = []
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            point = fields[4].encode().decode("unicode_escape")
            found.append((point, fields[fields.index("-") + 1]))
    return found


def mounted(path):
    """File system types of the mounts on this path, lowest first."""
    return [fstype for point, fstype in mountinfo() if point == str(path)]


def detach_below(folder):
    """Detaches every mount on or below the folder, hanging ones too; returns the paths that had one."""
    folder = os.path.realpath(folder)
    gone = []
    for _ in range(32):
        points = [p for p, _ in mountinfo() if p == folder or p.startswith(folder + "/")]
        if not points:
            break
        point = points[-1]
        if _libc.umount2(point.encode(), MNT_DETACH) != 0:
            break
        gone.append(point)
    return gone
