//! When the child leads a session of its own (setsid(2)), and what that changes.
//!
//! A process that exits makes the kernel ask whether its process group is now orphaned. When its parent is in the same session but
//! another group, which is every orphan we adopt from a child that has only a group of its own, the kernel walks that group past
//! all its zombies, with interrupts off and under the lock of all processes: ten thousand that die at once then take twice as long.
//! In a session of its own the question is answered by one comparison. (`kill_orphaned_pgrp` in the kernel's exit.c.)
//!
//! With a controlling terminal, job control needs us and `exec`'s child in one session. The supervisor needs no terminal.

use std::fs;

use super::inherited::bit;
use super::stop::Mode;

/// Job-control stops. The supervisor ignores them: it may write to a terminal that is not its own, and must never stand still.
pub(super) const STOPS: u64 = bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);

/// Whether the child gets a session of its own.
pub(super) fn wanted(mode: Mode, has_terminal: bool) -> bool {
    mode == Mode::Supervisor || !has_terminal
}

/// The signal that does in another session what `signal` would do in ours: the kernel never lets SIGTSTP, SIGTTIN or SIGTTOU stop a
/// group that has nobody in its session to continue it, so a child that has not chosen otherwise is stopped with SIGSTOP.
pub(super) fn stop_for(child: libc::pid_t, signal: i32) -> i32 {
    if STOPS & bit(signal) != 0 && has_default(child, signal) {
        libc::SIGSTOP
    } else {
        signal
    }
}

/// True when `pid` neither ignores nor handles `signal` (proc_pid_status(5)); false when there is no /proc to ask.
fn has_default(pid: libc::pid_t, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
        return false;
    };
    let chosen = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigIgn:").or_else(|| line.strip_prefix("SigCgt:")))
        .filter_map(|set| u64::from_str_radix(set.trim(), 16).ok())
        .fold(0, |all, set| all | set);
    chosen & bit(signal) == 0
}
