//! The guardian's life: prepare, start the child, pass on signals and reap until the child is gone.

use std::ffi::OsString;
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::unistd::getpid;

use super::inherited::{Inherited, bit, set_default};
use super::orphans::{Counter, FD_VAR, Shared};
use super::session::STOPS;
use super::signals::{Change, Origin, Signal};
use super::spawn::{Program, Start, StartError};
use super::stop::{Due, Mode, Stop};
use super::terminal::Terminal;
use super::{aftermath, is_ourselves, launch, memory, say, session, signals, spawn, terminal};

/// `recover`, in two parts: between them goes what only its time tells.
#[derive(Debug, Clone)]
pub struct Recovery {
    /// Program, subcommand and options.
    pub before: Vec<OsString>,
    /// `-- APP…`, or nothing.
    pub after: Vec<OsString>,
}

/// How the child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this code.
    Exited(u8),
    /// By this signal.
    Killed(i32),
    /// Not at all: it hangs in the kernel, where even SIGKILL does not reach it.
    Stuck,
}

impl Ended {
    /// The code a shell would report.
    pub(super) fn code(self) -> u8 {
        match self {
            Ended::Exited(code) => code,
            Ended::Killed(signal) => 128 + u8::try_from(signal & 0x7f).unwrap_or(0),
            Ended::Stuck => 128 + libc::SIGKILL as u8,
        }
    }
}

pub(super) struct Guardian {
    pub(super) mode: Mode,
    pub(super) child: libc::pid_t,
    /// What is started when the supervisor has died.
    pub(super) recovery: Option<Recovery>,
    /// The signal mask we were started with.
    mask: u64,
    /// In a PID namespace of our own: when we exit, the kernel kills what is left.
    pub(super) pid1: bool,
    started: Instant,
    pub(super) stop: Stop,
    /// A job-control stop was passed on, and no SIGCONT since.
    asked_to_pause: bool,
    /// The child leads a session of its own.
    own_session: bool,
    orphans: Option<Shared>,
}

/// Runs `command` under guard. See [`super::exec`] and [`super::guard_supervisor`].
pub(super) fn guard(mode: Mode, command: &[OsString], recovery: Option<Recovery>) -> u8 {
    let mask = signals::block_all();
    let pid1 = getpid().as_raw() == 1;
    // With SIGCHLD ignored, as a careless parent may leave it, the kernel would throw exit codes away.
    set_default(libc::SIGCHLD);
    if !pid1 && let Err(error) = nix::sys::prctl::set_child_subreaper(true) {
        say::stderr(format_args!(
            "cannot adopt orphans ({error}); zombies may be left to the parent of this process"
        ));
    }
    let terminal = (mode == Mode::Exec).then(Terminal::open).flatten();
    let has_terminal = terminal.is_some();
    let own_session = session::wanted(mode, has_terminal);
    let (child, orphans) = match start(mode, command, mask, own_session, terminal) {
        Ok(started) => started,
        Err(code) => return code,
    };
    settle(mode);

    let mut guardian = Guardian {
        mode,
        child,
        recovery,
        mask,
        pid1,
        started: Instant::now(),
        stop: Stop::new(mode),
        asked_to_pause: false,
        own_session,
        orphans,
    };
    let ended = guardian.watch();
    if has_terminal && !pid1 {
        terminal::take_back(child);
    }
    aftermath::finish(&mut guardian, ended)
}

/// Starts the child. On failure says why, and returns the exit code.
fn start(
    mode: Mode,
    command: &[OsString],
    mask: u64,
    own_session: bool,
    terminal: Option<Terminal>,
) -> Result<(libc::pid_t, Option<Shared>), u8> {
    let name = command.first().cloned().unwrap_or_default();
    let failed = |error: &io::Error| {
        let failure = launch::Error::exec(&name, error);
        say::stderr(format_args!("{failure}"));
        failure.code()
    };
    let mut program = Program::new(command).map_err(|_| failed(&io::Error::from_raw_os_error(libc::EINVAL)))?;
    let counter = (mode == Mode::Supervisor).then(Counter::create).flatten();
    let mut inherited = Inherited::captured();
    if mode == Mode::Supervisor {
        inherited = inherited.ignoring(STOPS);
        if let Some(counter) = &counter {
            program = program.with_env(FD_VAR, &counter.fd().to_string());
        }
        if is_ourselves(&name) {
            program = program.named(c"tenant-init".into());
        }
    }
    let start = Start {
        mask,
        inherited,
        own_session,
        terminal: terminal.as_ref().filter(|tty| tty.is_ours()).map(Terminal::fd),
        parent_death: (mode == Mode::Supervisor).then_some(libc::SIGTERM),
    };
    match spawn::start(&program, &start) {
        Ok(child) => Ok((child, counter.map(Counter::shared))),
        Err(StartError::Exec(error)) => Err(failed(&error)),
        Err(StartError::Clone(error)) => {
            say::stderr(format_args!(
                "cannot start {name:?}: no new process: {error}; raise the limit of processes (pids cgroup, ulimit -u) or memory"
            ));
            Err(126)
        }
    }
}

/// Lets go of what only the child needs: open files would keep pipes and disks busy, a working directory its file system, and
/// pages of code memory.
fn settle(mode: Mode) {
    signals::close_from(3);
    // `/` always exists; if not, nothing depends on it.
    let _ = nix::unistd::chdir("/");
    memory::release_program_pages();
    if mode == Mode::Supervisor {
        // The kernel should sooner kill anything else than what ends the rest in order. Needs CAP_SYS_RESOURCE; without it we are an
        // unlikely choice anyway, being small.
        let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    }
}

impl Guardian {
    /// Time since the child was started.
    pub(super) fn clock(&self) -> Duration {
        self.started.elapsed()
    }

    /// Starts another child in the place of the one that has ended, and returns how that ends; `None` when it cannot be
    /// started.
    pub(super) fn replace_child(&mut self, command: &[OsString]) -> Option<Ended> {
        // A stop signal that comes before it has handlers must wait, not end it.
        let mask = [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGHUP]
            .into_iter()
            .fold(self.mask, |mask, signal| mask | bit(signal));
        let (child, _) = start(self.mode, command, mask, self.own_session, None).ok()?;
        self.child = child;
        Some(self.watch())
    }

    /// Until the child has ended.
    fn watch(&mut self) -> Ended {
        loop {
            let now = self.clock();
            match self.stop.due(now) {
                Some(Due::Kill) => {
                    say::stderr(format_args!(
                        "pid {} was asked twice to stop and still runs: killing it",
                        self.child
                    ));
                    signals::send_group(self.child, libc::SIGKILL);
                    signals::send(self.child, libc::SIGKILL);
                }
                Some(Due::GiveUp) => return Ended::Stuck,
                None => {}
            }
            let Some(signal) = signals::wait(self.stop.patience(now)) else {
                continue;
            };
            if signal.number() == libc::SIGCHLD {
                if let (Some(ended), _) = self.reap() {
                    return ended;
                }
            } else {
                self.pass_on(&signal);
            }
        }
    }

    /// Reaps all there is to reap. Returns how the child ended, if it did now, and whether any process is left.
    pub(super) fn reap(&mut self) -> (Option<Ended>, bool) {
        let mut ended = None;
        loop {
            match signals::next_change() {
                Change::Exited(pid, code) if pid == self.child => ended = Some(Ended::Exited(code)),
                Change::Killed(pid, signal) if pid == self.child => ended = Some(Ended::Killed(signal)),
                Change::Exited(..) | Change::Killed(..) => {
                    if let Some(orphans) = &self.orphans {
                        orphans.increment();
                    }
                }
                Change::Stopped(pid, signal) if pid == self.child && self.mode == Mode::Exec => {
                    terminal::stop_with_child(pid, signal, self.pid1, self.asked_to_pause);
                }
                Change::Stopped(..) => {}
                Change::Quiet => return (ended, true),
                Change::NoChildren => return (ended, false),
            }
        }
    }

    fn pass_on(&mut self, signal: &Signal) {
        let number = signal.number();
        let from_process = match signal.origin() {
            // Our own: SIGPIPE, from a message nobody reads any more.
            Origin::Process(pid) if pid == getpid().as_raw() => return,
            Origin::Process(_) | Origin::Queue(_) => true,
            Origin::Kernel => false,
        };
        let same_stop = self.stop.signal(number, from_process, self.clock());
        match self.mode {
            Mode::Supervisor if same_stop || STOPS & bit(number) != 0 => {}
            Mode::Supervisor => {
                if !matches!(signal.origin(), Origin::Queue(_)) || !signals::requeue(self.child, signal) {
                    signals::send(self.child, number);
                }
            }
            Mode::Exec => {
                if number == libc::SIGCONT {
                    self.asked_to_pause = false;
                    terminal::hand_on(self.child);
                } else if STOPS & bit(number) != 0 {
                    self.asked_to_pause = true;
                }
                // Only real-time signals are sent for the sake of their value; and a value cannot be sent to a group.
                let number = match self.own_session {
                    true => session::stop_for(self.child, number),
                    false => number,
                };
                let queued = number >= libc::SIGRTMIN() && matches!(signal.origin(), Origin::Queue(_));
                let delivered =
                    (queued && signals::requeue(self.child, signal)) || signals::send_group(self.child, number);
                if !delivered {
                    // It joined another group.
                    signals::send(self.child, number);
                }
            }
        }
    }
}
