//! Starting the one child exactly as we were started.
//!
//! `std::process::Command` cannot be used: it leaves signals 32 and 33 ignored, and its fork copies page tables the size of
//! the whole program. The child here is made like `posix_spawn` makes it: `clone` with `CLONE_VM | CLONE_VFORK` on its own
//! stack, so nothing is copied, the parent waits until exec has succeeded or failed, and the reason of a failure is simply left in
//! memory. In between, the child calls only async-signal-safe functions and allocates nothing.
#![allow(unsafe_code)]

use std::ffi::{CString, NulError, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use super::inherited::Inherited;
use super::{signals, terminal};

/// Stack of the child: execvp(3) may use two paths of up to 64 KiB each, and one pointer per argument for a script without `#!`.
const STACK: usize = 192 * 1024;

/// A program, its arguments and environment, in the form execve(2) takes.
pub(super) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Option<Vec<CString>>,
}

impl Program {
    /// `command[0]` is looked up in PATH when it has no slash. An empty `command` is an empty name, which is never found.
    pub(super) fn new(command: &[OsString]) -> Result<Self, NulError> {
        let mut args = command
            .iter()
            .map(|arg| CString::new(arg.as_bytes()))
            .collect::<Result<Vec<_>, _>>()?;
        if args.is_empty() {
            args.push(CString::default());
        }
        Ok(Self {
            path: args[0].clone(),
            args,
            env: None,
        })
    }

    /// Shows as `name` in process lists instead of as its path.
    pub(super) fn named(mut self, name: CString) -> Self {
        self.args[0] = name;
        self
    }

    /// Our environment with `name` set to `value`.
    pub(super) fn with_env(mut self, name: &str, value: &str) -> Self {
        let entry = |name: OsString, value: OsString| {
            let mut entry = name.into_vec();
            entry.push(b'=');
            entry.extend(value.into_vec());
            CString::new(entry).ok()
        };
        let mut env: Vec<CString> = std::env::vars_os()
            .filter(|(key, _)| key != name)
            .filter_map(|(key, value)| entry(key, value))
            .collect();
        env.extend(entry(name.into(), value.into()));
        self.env = Some(env);
        self
    }

    /// Replaces this process. Returns only when that failed.
    pub(super) fn exec(&self) -> io::Error {
        let argv = pointers(&self.args);
        let env = self.env.as_ref().map(|env| pointers(env));
        // SAFETY: both arrays end with a null and point to strings owned by `self`; the path too is owned by `self`.
        unsafe { libc::execvpe(self.path.as_ptr(), argv.as_ptr(), envp(env.as_deref())) };
        io::Error::last_os_error()
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

unsafe extern "C" {
    /// environ(7).
    static environ: *const *const libc::c_char;
}

fn envp(own: Option<&[*const libc::c_char]>) -> *const *const libc::c_char {
    match own {
        Some(env) => env.as_ptr(),
        // SAFETY: read on the only thread of the process; nothing changes the environment meanwhile.
        None => unsafe { environ },
    }
}

/// How the child is to be started.
pub(super) struct Start {
    /// The signal mask to leave it with.
    pub(super) mask: u64,
    /// Dispositions and closed descriptors to leave it with.
    pub(super) inherited: Inherited,
    /// Give it a session of its own, not only a process group: see [`super::session`].
    pub(super) own_session: bool,
    /// Make its group the foreground group of this terminal.
    pub(super) terminal: Option<RawFd>,
    /// Send it this signal when we die: prctl(2), `PR_SET_PDEATHSIG`.
    pub(super) parent_death: Option<i32>,
}

/// Why there is no child.
#[derive(Debug)]
pub(super) enum StartError {
    /// There was no process to be had: the limit of processes or memory is reached.
    Clone(io::Error),
    /// The program could not be executed.
    Exec(io::Error),
}

struct Plan<'a> {
    start: &'a Start,
    path: *const libc::c_char,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    parent: libc::pid_t,
    errno: AtomicI32,
}

/// Starts `program` in its own process group, or session, and returns its pid once it runs. Every signal must be blocked.
pub(super) fn start(program: &Program, start: &Start) -> Result<libc::pid_t, StartError> {
    let argv = pointers(&program.args);
    let env = program.env.as_ref().map(|env| pointers(env));
    let plan = Plan {
        start,
        path: program.path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp(env.as_deref()),
        parent: nix::unistd::getpid().as_raw(),
        errno: AtomicI32::new(0),
    };
    // In units of 16 bytes, because that is how the stack pointer must be aligned.
    let mut stack: Vec<u128> = Vec::with_capacity((STACK + size_of_val(&argv[..])) / size_of::<u128>());
    // SAFETY: the pointer is one past the end of the allocation, aligned to 16, and the stack grows down into it. The parent does
    // not run until the child has called execve or exited (CLONE_VFORK), so `stack`, `plan` and all it points to outlive the child's
    // use of them and are never used by both at once. All signals are blocked, so no handler runs on either side.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        libc::clone(child, top.cast(), flags, (&raw const plan).cast_mut().cast())
    };
    if pid < 0 {
        return Err(StartError::Clone(io::Error::last_os_error()));
    }
    match plan.errno.load(Ordering::Relaxed) {
        0 => Ok(pid),
        errno => {
            // SAFETY: waits for our own child, which has exited; the status is not wanted.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err(StartError::Exec(io::Error::from_raw_os_error(errno)))
        }
    }
}

/// Runs in the child, on its own stack but in the parent's memory.
extern "C" fn child(plan: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `start` passes a pointer to its `Plan`, which lives until this process has execed or exited.
    let plan = unsafe { &*plan.cast_const().cast::<Plan<'_>>() };
    // SAFETY: plain system calls. setsid and setpgid of oneself fail only for the leader of a group or session, which a new child is not.
    let own = unsafe {
        if plan.start.own_session {
            libc::setsid();
        } else {
            libc::setpgid(0, 0);
        }
        libc::getpid()
    };
    if let Some(tty) = plan.start.terminal {
        terminal::give(tty, own);
    }
    plan.start.inherited.restore();
    if let Some(signal) = plan.start.parent_death {
        // SAFETY: plain system calls. If the parent died before the request was in place, nobody would ever tell.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0);
            if libc::getppid() != plan.parent {
                libc::kill(own, signal);
            }
        }
    }
    // Handlers of the runtime are gone by now, so no signal that is let through can run code in the parent's memory.
    signals::set_mask(plan.start.mask);
    // SAFETY: see `Program::exec`.
    unsafe { libc::execvpe(plan.path, plan.argv, plan.envp) };
    plan.errno.store(
        io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO),
        Ordering::Relaxed,
    );
    127
}
