//! Receiving and passing on signals, for all 64 of them.
//!
//! Every signal is blocked, and one `rt_sigtimedwait` takes them one by one: no handler runs, so there is nothing to be
//! async-signal-safe about, and a blocked signal reaches even PID 1, for which the kernel otherwise drops what has no
//! handler (pid_namespaces(7)). Raw system calls, because the C library silently leaves 32 and 33 out of every set.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

use super::inherited::SIGSET_BYTES;

/// Blocks every signal and returns the mask that was set before.
pub(super) fn block_all() -> u64 {
    change_mask(libc::SIG_BLOCK, u64::MAX)
}

/// Replaces the mask. Async-signal-safe.
pub(super) fn set_mask(mask: u64) {
    change_mask(libc::SIG_SETMASK, mask);
}

/// Lets the signals in `mask` through.
pub(super) fn unblock(mask: u64) {
    change_mask(libc::SIG_UNBLOCK, mask);
}

fn change_mask(how: i32, mask: u64) -> u64 {
    let mut old = 0u64;
    // SAFETY: the kernel reads 8 bytes from `mask` and writes 8 bytes to `old`; both live until the call returns.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            how,
            &raw const mask,
            &raw mut old,
            SIGSET_BYTES,
        )
    };
    old
}

/// Where a signal came from (`si_code` in sigaction(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The kernel: a key on the terminal, a hang-up, a timer, a child.
    Kernel,
    /// A process, by kill(2) or tgkill(2).
    Process(libc::pid_t),
    /// A process, with a value: sigqueue(3).
    Queue(libc::pid_t),
}

/// One signal taken from the queue.
#[derive(Clone, Copy)]
pub(super) struct Signal {
    info: libc::siginfo_t,
}

impl Signal {
    pub(super) fn number(&self) -> i32 {
        self.info.si_signo
    }

    pub(super) fn origin(&self) -> Origin {
        // SAFETY: for these three codes the kernel fills in si_pid.
        let sender = || unsafe { self.info.si_pid() };
        match self.info.si_code {
            libc::SI_USER | libc::SI_TKILL => Origin::Process(sender()),
            libc::SI_QUEUE => Origin::Queue(sender()),
            _ => Origin::Kernel,
        }
    }
}

/// Waits for any signal: for ever, or for at most `timeout`. `None` when the time is over or the wait was interrupted (a
/// stop and continue of this process), so a caller looks at its clock again.
pub(super) fn wait(timeout: Option<Duration>) -> Option<Signal> {
    wait_for(u64::MAX, timeout)
}

/// Takes one pending signal of `mask` without waiting.
pub(super) fn take(mask: u64) -> Option<Signal> {
    wait_for(mask, Some(Duration::ZERO))
}

fn wait_for(mask: u64, timeout: Option<Duration>) -> Option<Signal> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let limit = timeout.map(|t| libc::timespec {
        tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(t.subsec_nanos() as i32),
    });
    let limit = limit.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: all three pointers are null (allowed for the timeout) or point to live objects of the type the kernel expects.
    let got = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const mask,
            info.as_mut_ptr(),
            limit,
            SIGSET_BYTES,
        )
    };
    if got <= 0 {
        return None;
    }
    // SAFETY: on success the kernel has filled it in; and zeroed is a valid siginfo_t, too.
    let info = unsafe { info.assume_init() };
    Some(Signal { info })
}

/// Sends `signal` to process `pid`. False when it does not exist (any more).
pub(super) fn send(pid: libc::pid_t, signal: i32) -> bool {
    // SAFETY: kill(2) takes two integers; `pid` is a child we have not reaped, so it cannot name someone else.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Sends `signal` to process group `group`. False when it has no members.
pub(super) fn send_group(group: libc::pid_t, signal: i32) -> bool {
    // SAFETY: as above; 0 and 1 would mean "our own group" and "everyone", so they are refused.
    group > 1 && unsafe { libc::kill(-group, signal) == 0 }
}

/// Sends `signal` to our own process group, ourselves included.
pub(super) fn send_own_group(signal: i32) {
    // SAFETY: kill(2) takes two integers.
    unsafe { libc::kill(0, signal) };
}

/// Passes on a queued signal with its value and its first sender, as sigqueue(3) delivered it to us.
pub(super) fn requeue(pid: libc::pid_t, signal: &Signal) -> bool {
    // SAFETY: the kernel reads one siginfo_t, which it made itself; SI_QUEUE is a code it accepts from a process.
    unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, signal.number(), &raw const signal.info) == 0 }
}

/// One child that changed state, from waitpid(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It exited; the code it gave.
    Exited(libc::pid_t, u8),
    /// It was killed by this signal.
    Killed(libc::pid_t, i32),
    /// It was stopped by this signal (job control).
    Stopped(libc::pid_t, i32),
    /// Children exist, none has news.
    Quiet,
    /// There are no children at all.
    NoChildren,
}

/// Reaps one child, or tells of one stop. Never waits.
pub(super) fn next_change() -> Change {
    loop {
        let mut status = 0;
        // SAFETY: the kernel writes one int to `status`. No other code in this process waits for children.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::WUNTRACED) };
        return match pid {
            0 => Change::Quiet,
            // With WNOHANG the call cannot be interrupted, so this is ECHILD.
            ..0 => Change::NoChildren,
            pid if libc::WIFEXITED(status) => Change::Exited(pid, (libc::WEXITSTATUS(status) & 0xff) as u8),
            pid if libc::WIFSIGNALED(status) => Change::Killed(pid, libc::WTERMSIG(status)),
            pid if libc::WIFSTOPPED(status) => Change::Stopped(pid, libc::WSTOPSIG(status)),
            _ => continue,
        };
    }
}

/// Closes every descriptor from `first` on.
pub(super) fn close_from(first: libc::c_uint) {
    // SAFETY: called once the child runs, when the guardian holds no object that owns a descriptor above stderr.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) };
    if closed != 0 {
        // A kernel before 5.9, or a sandbox without the call.
        for fd in first..65_536 {
            // SAFETY: as above.
            unsafe { libc::close(fd as libc::c_int) };
        }
    }
}
