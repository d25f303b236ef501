"""Signal dispositions and the signal mask by raw system calls: the C library refuses signals 32 and 33, which it keeps for itself."""

import ctypes
import os

NR = {"x86_64": (13, 14), "aarch64": (134, 135)}  # rt_sigaction, rt_sigprocmask
SIG_IGN = 1
SIG_SETMASK = 2
KERNEL_SET = 8  # sizeof(sigset_t) as the kernel has it


def install(mask, ignored):
    """Every signal gets its default action but those `ignored`; exactly `mask` is blocked. For the moment before an exec."""
    _sigaction(range(1, 65), ignored)
    _set_mask(mask)


def undo_inherited():
    """What this process's parent had ignored or blocked becomes the default again; handlers of its own stay.

    Runners differ: `nohup` ignores SIGHUP, and a program that was started by Rust's or Node's own spawn has 32 and 33 ignored. What
    the tests start must not inherit that, since tenant-init would faithfully pass it on.
    """
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    ignored = int(fields["SigIgn"], 16)
    # Python itself ignores SIGPIPE and SIGXFSZ, and gives its children the default back.
    ours = {13, 25}
    _sigaction([number for number in range(1, 65) if ignored >> (number - 1) & 1 and number not in ours], ())
    _set_mask(())


def _sigaction(numbers, ignored):
    libc = ctypes.CDLL(None)
    for number in numbers:
        action = (ctypes.c_uint64 * 5)(SIG_IGN if number in ignored else 0)
        libc.syscall(NR[os.uname().machine][0], number, action, None, KERNEL_SET)


def _set_mask(mask):
    blocked = ctypes.c_uint64(sum(1 << (number - 1) for number in mask))
    ctypes.CDLL(None).syscall(NR[os.uname().machine][1], SIG_SETMASK, ctypes.byref(blocked), None, KERNEL_SET)
