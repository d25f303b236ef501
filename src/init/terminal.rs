//! Job control: who owns the terminal, and what a stopped payload means (tcsetpgrp(3), credentials(7), termios(3)).
//!
//! The payload gets its own process group, so that a signal reaches everything it started. The terminal sends its keys only
//! to the foreground group, so when that is ours, the payload's group is made the foreground one: `docker run -it IMAGE bash`
//! is then a shell with job control. The price is that Ctrl-Z no longer reaches us; [`stop_with_child`] pays it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::inherited::{bit, set_default};
use super::signals;

/// The controlling terminal, open for as long as this lives.
pub(super) struct Terminal {
    fd: RawFd,
    // Closes `/dev/tty`; none when `fd` is one of the standard descriptors.
    _owned: Option<OwnedFd>,
}

impl Terminal {
    /// Opens the controlling terminal; `None` when there is none.
    pub(super) fn open() -> Option<Self> {
        match open(
            "/dev/tty",
            OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC,
            Mode::empty(),
        ) {
            Ok(tty) => Some(Self {
                fd: tty.as_raw_fd(),
                _owned: Some(tty),
            }),
            // A minimal image may lack /dev/tty and still have a terminal as stdin.
            Err(nix::errno::Errno::ENOENT) => (0..3)
                .map(|fd| Self { fd, _owned: None })
                .find(|tty| tty.foreground().is_some()),
            Err(_) => None,
        }
    }

    /// The descriptor, for the child between clone and exec.
    pub(super) fn fd(&self) -> RawFd {
        self.fd
    }

    /// The foreground process group.
    fn foreground(&self) -> Option<libc::pid_t> {
        // SAFETY: an ioctl that writes one pid_t; fails for what is not our controlling terminal.
        let group = unsafe { libc::tcgetpgrp(self.fd) };
        (group >= 0).then_some(group)
    }

    /// True when our own process group is the foreground one.
    pub(super) fn is_ours(&self) -> bool {
        self.foreground() == Some(own_group())
    }

    /// Makes `group` the foreground process group. SIGTTOU must be blocked, else a background process is stopped by this.
    pub(super) fn give_to(&self, group: libc::pid_t) {
        give(self.fd, group);
    }
}

/// [`Terminal::give_to`], async-signal-safe.
pub(super) fn give(fd: RawFd, group: libc::pid_t) {
    // SAFETY: an ioctl that reads one pid_t. When it fails the payload runs in the background, which is all that can be done.
    unsafe { libc::tcsetpgrp(fd, group) };
}

fn own_group() -> libc::pid_t {
    nix::unistd::getpgrp().as_raw()
}

/// Gives the terminal back to our own group if the payload still has it, so that a script that goes on after us can read from it.
pub(super) fn take_back(child: libc::pid_t) {
    if let Some(tty) = Terminal::open()
        && tty.foreground() == Some(child)
    {
        tty.give_to(own_group());
    }
}

/// After SIGCONT: if the shell made us the foreground job (`fg`), hand that on to the payload.
pub(super) fn hand_on(child: libc::pid_t) {
    if let Some(tty) = Terminal::open()
        && tty.is_ours()
    {
        tty.give_to(child);
    }
}

/// The payload was stopped by `signal`. Does what would have happened had the terminal stopped us together with it.
///
/// * There is a shell above us that does job control: stop our whole group too, so that the shell gets its prompt back. When it
///   continues us, we continue the payload.
/// * There is none (PID 1, or nobody left who could continue us: an orphaned group, for which the kernel drops such stops):
///   then the payload would never have been stopped without us in between, so it is continued at once. Unless the stop came
///   through us (`asked`): whoever sent it can send SIGCONT too.
/// * A stop by SIGSTOP, or without a terminal, is not job control, and is left to whoever sent it.
pub(super) fn stop_with_child(child: libc::pid_t, signal: i32, pid1: bool, asked: bool) {
    if !matches!(signal, libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) {
        return;
    }
    let Some(tty) = Terminal::open() else { return };
    if !pid1 && stop_own_group(signal) {
        if tty.is_ours() {
            tty.give_to(child);
        }
        signals::send_group(child, libc::SIGCONT);
        return;
    }
    if signal != libc::SIGTSTP {
        // It wants the terminal. Without a foreground place to give, continuing it would only stop it again.
        if !tty.is_ours() {
            return;
        }
        tty.give_to(child);
    }
    if !asked {
        signals::send_group(child, libc::SIGCONT);
    }
}

/// Stops every process in our group, as the terminal would. Returns after SIGCONT with true; false when the kernel dropped the
/// stop because our group is orphaned.
fn stop_own_group(signal: i32) -> bool {
    // A shell without job control may have left it ignored.
    set_default(signal);
    // An old SIGCONT must not be mistaken for the answer.
    signals::take(bit(libc::SIGCONT));
    signals::send_own_group(signal);
    signals::unblock(bit(signal));
    // Here we are stopped.
    signals::block_all();
    // SIGCONT is blocked, so it waits here if it was sent.
    signals::take(bit(libc::SIGCONT)).is_some()
}
