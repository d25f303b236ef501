//! What a child of the supervisor becomes before it is executed: another user, no core dumps, its place in the order in which the
//! kernel kills for memory, clean signals.
//!
//! The supervisor starts `tenant-init launch [OPTIONS] -- CMD ARGS…` with an ordinary `Command`, which gives the child its environment,
//! pipes and process group. A fresh process of ours then does here what between fork and exec in a process with threads
//! would be `unsafe` and hard to report on, and becomes CMD: the pid stays, nothing remains in between.
//!
//! * All dispositions become default and the mask empty, 32 and 33 included: Rust's runtime ignores SIGPIPE, the supervisor
//!   ignores job-control stops, and neither is the child's business.
//! * `--user` needs root. Otherwise a warning says who the command runs as, and it is started all the same: on a developer's machine
//!   there is only one user, and `check` reports it.
//! * `--own-output` leaves the command two more descriptors: reading ends of the pipes that its stdout and stderr are. When the
//!   supervisor dies, its last lines must not kill it (SIGPIPE) before it has written its files. Before the change of user: these pipes
//!   are ours.
//! * `--directory` is entered here and not before the exec of this program, which the supervisor waits for: the directory may be on an
//!   NFS mount whose guard is a task of that very thread.
//! * `--parent-death-signal` is off unless asked for: a mounter that died with the supervisor would take what it has not stored yet
//!   along. It suits probes, which mean nothing once nobody waits for them. Set after the change of user, which clears it, and it is
//!   tied to the thread that started us, so the supervisor must start such children from a thread that lives as long as it does.
#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{self, Gid, Group, Uid, User};

use super::inherited::set_all_default;
use super::spawn::Program;
use super::{say, signals};

/// What to change before the command is executed. The default changes nothing but signals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `NAME`, `UID`, `NAME:GROUP` or `UID:GID`. A name brings its groups from the group database along.
    pub user: Option<String>,
    /// From -1000 (never killed for memory) to 1000 (killed first): proc_pid_oom_score_adj(5). Lowering it needs CAP_SYS_RESOURCE;
    /// without that it stays as it is, with a warning.
    pub oom_score_adj: Option<i32>,
    /// No core dump, which would hold secrets.
    pub no_core: bool,
    /// Programs with the set-user-ID bit give no rights: PR_SET_NO_NEW_PRIVS(2const).
    pub no_new_privs: bool,
    /// Permission bits that new files do not get, as in umask(2).
    pub umask: Option<u32>,
    /// stdout and stderr do not break when nobody reads them any more.
    pub own_output: bool,
    /// Working directory; otherwise that of the supervisor.
    pub directory: Option<PathBuf>,
    /// Signal that the command gets when the supervisor dies: PR_SET_PDEATHSIG(2const).
    pub parent_death_signal: Option<i32>,
}

/// Why the command was not executed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The options make no sense. Only tenant-init itself writes them.
    #[error("launch: {0}; this is a bug in tenant-init")]
    Usage(String),
    /// No such user or group.
    #[error("cannot start {command:?} as {user:?}: no such {what}; add it to {file}, or set another app.user")]
    Unknown {
        /// What was to be started.
        command: OsString,
        /// As whom.
        user: String,
        /// `user` or `group`.
        what: &'static str,
        /// Where they are listed.
        file: &'static str,
    },
    /// A system call failed.
    #[error("cannot start {command:?}: {what}: {errno}")]
    Prepare {
        /// What was to be started.
        command: OsString,
        /// What was being done.
        what: String,
        /// Why it failed.
        errno: Errno,
    },
    /// execve(2) failed.
    #[error("cannot start {command:?}: {why}")]
    Exec {
        /// What was to be started.
        command: OsString,
        /// Why not, and what to do.
        why: String,
        /// 127 if there is no such program, else 126.
        code: u8,
    },
}

impl Error {
    /// The exit code: 127 not found, 126 not executable, 70 for a bug of ours.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Error::Usage(_) => crate::exit::Exit::Bug.code(),
            Error::Unknown { .. } | Error::Prepare { .. } => 126,
            Error::Exec { code, .. } => *code,
        }
    }

    /// Explains why `command` could not be executed.
    pub(super) fn exec(command: &OsStr, error: &io::Error) -> Self {
        let path = Path::new(command);
        let searched = !command.as_bytes().contains(&b'/');
        let (code, why) = match error.raw_os_error() {
            Some(libc::ENOENT) if searched => (
                127,
                "no such program in PATH; check the name and PATH, or give the full path".to_owned(),
            ),
            Some(libc::ENOENT) if path.exists() => (
                127,
                "it exists, but the program that is to run it does not: check its first line (#!) or, for a binary, \
                 its loader (ldd shows it; an image with another C library lacks it)"
                    .to_owned(),
            ),
            Some(libc::ENOENT) => (127, "no such file; check the path".to_owned()),
            Some(libc::EACCES) if path.is_dir() => (126, "it is a directory; give the path of a program".to_owned()),
            Some(libc::EACCES) => (
                126,
                format!(
                    "permission denied for uid {}; make it executable (chmod +x), its directories searchable, and its \
                     file system not mounted noexec",
                    Uid::effective()
                ),
            ),
            Some(libc::ENOEXEC) => (126, "not a program for this machine; check its architecture".to_owned()),
            _ => (126, error.to_string()),
        };
        Error::Exec {
            command: command.to_owned(),
            why,
            code,
        }
    }
}

/// `tenant-init launch ARGS…`: parses, then [`exec`]. Returns the exit code, because only failure returns.
pub fn main(args: impl Iterator<Item = OsString>) -> u8 {
    let error = match parse(args) {
        Ok((options, command)) => exec(&options, &command),
        Err(error) => error,
    };
    say::stderr(format_args!("{error}"));
    error.code()
}

fn parse(mut args: impl Iterator<Item = OsString>) -> Result<(Options, Vec<OsString>), Error> {
    let mut options = Options::default();
    loop {
        let Some(arg) = args.next() else {
            return Err(Error::Usage("no command after --".into()));
        };
        let name = arg.to_str().unwrap_or_default();
        match name {
            "--" => break,
            "--no-core" => options.no_core = true,
            "--no-new-privs" => options.no_new_privs = true,
            "--own-output" => options.own_output = true,
            "--user" => options.user = Some(value(name, &mut args)?),
            "--oom-score-adj" => options.oom_score_adj = Some(number(name, &mut args, 10)?),
            "--umask" => options.umask = Some(number(name, &mut args, 8)?.unsigned_abs()),
            "--directory" => options.directory = Some(args.next().map(PathBuf::from).ok_or_else(|| missing(name))?),
            "--parent-death-signal" => options.parent_death_signal = Some(number(name, &mut args, 10)?),
            _ => return Err(Error::Usage(format!("unknown option {arg:?}"))),
        }
    }
    let command: Vec<OsString> = args.collect();
    if command.is_empty() {
        Err(Error::Usage("no command after --".into()))
    } else {
        Ok((options, command))
    }
}

fn value(name: &str, args: &mut impl Iterator<Item = OsString>) -> Result<String, Error> {
    args.next()
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| missing(name))
}

fn missing(name: &str) -> Error {
    Error::Usage(format!("{name} needs a value"))
}

fn number(name: &str, args: &mut impl Iterator<Item = OsString>, radix: u32) -> Result<i32, Error> {
    let text = value(name, args)?;
    i32::from_str_radix(&text, radix).map_err(|_| Error::Usage(format!("{name} needs a number, not {text:?}")))
}

impl Options {
    /// The arguments that [`main`] turns into these options again, up to and including `--`.
    #[must_use]
    pub fn to_args(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut pair = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                args.extend([name.into(), value.into()]);
            }
        };
        pair("--user", self.user.clone());
        pair("--oom-score-adj", self.oom_score_adj.map(|n| n.to_string()));
        pair("--umask", self.umask.map(|n| format!("{n:o}")));
        pair("--parent-death-signal", self.parent_death_signal.map(|n| n.to_string()));
        if let Some(directory) = &self.directory {
            args.extend(["--directory".into(), directory.into()]);
        }
        if self.no_core {
            args.push("--no-core".into());
        }
        if self.no_new_privs {
            args.push("--no-new-privs".into());
        }
        if self.own_output {
            args.push("--own-output".into());
        }
        args.push("--".into());
        args
    }
}

/// Becomes `command` with `options`. Returns only when that failed.
pub fn exec(options: &Options, command: &[OsString]) -> Error {
    let name = command.first().cloned().unwrap_or_default();
    let program = match Program::new(command) {
        Ok(program) => program,
        Err(error) => return Error::exec(&name, &error.into()),
    };
    match prepare(options, &name) {
        Ok(()) => Error::exec(&name, &program.exec()),
        Err(error) => error,
    }
}

fn prepare(options: &Options, command: &OsStr) -> Result<(), Error> {
    let failed = |what: &str| {
        let (command, what) = (command.to_owned(), what.to_owned());
        move |errno| Error::Prepare { command, what, errno }
    };
    if let Some(adj) = options.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", adj.to_string())
    {
        say::stderr(format_args!(
            "warning: {command:?} keeps its oom_score_adj, {adj} could not be set: {error}"
        ));
    }
    if options.own_output {
        keep_reading_end(libc::STDOUT_FILENO);
        keep_reading_end(libc::STDERR_FILENO);
    }
    if let Some(directory) = &options.directory {
        unistd::chdir(directory).map_err(failed(&format!("entering {}", directory.display())))?;
    }
    if options.no_core {
        setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(failed("forbidding core dumps"))?;
    }
    if let Some(bits) = options.umask {
        umask(Mode::from_bits_truncate(bits));
    }
    if let Some(user) = &options.user {
        become_user(&Identity::find(user, command)?, command)?;
    }
    if options.no_new_privs {
        nix::sys::prctl::set_no_new_privs().map_err(failed("setting no_new_privs"))?;
    }
    if let Some(signal) = options.parent_death_signal {
        // SAFETY: takes one integer.
        let set = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal, 0, 0, 0) };
        Errno::result(set).map_err(failed("asking for a signal at the supervisor's death"))?;
    }
    set_all_default();
    signals::set_mask(0);
    Ok(())
}

/// Bytes of output that nobody reads before the command stops at it: the most that an ordinary user may ask for.
const OUTPUT_ROOM: i32 = 1 << 20;

/// Opens the other end of the pipe that `fd` is, for the command to inherit. What is no pipe does not break.
fn keep_reading_end(fd: i32) {
    let path = format!("/proc/self/fd/{fd}");
    let is_pipe = std::fs::metadata(&path).is_ok_and(|file| file.file_type().is_fifo());
    // Not O_CLOEXEC, that is what it is for.
    if is_pipe && let Ok(end) = open(path.as_str(), OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()) {
        // Where that is not allowed there is room for less.
        let _ = fcntl(&end, FcntlArg::F_SETPIPE_SZ(OUTPUT_ROOM));
        // The command's from now on.
        let _ = end.into_raw_fd();
    }
}

/// A user, looked up.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    /// Absent for a number that is in no database: such a user has no other groups.
    name: Option<CString>,
    uid: Uid,
    gid: Gid,
}

impl Identity {
    fn find(spec: &str, command: &OsStr) -> Result<Self, Error> {
        let unknown = |what, file| Error::Unknown {
            command: command.to_owned(),
            user: spec.to_owned(),
            what,
            file,
        };
        let (user, group) = spec
            .split_once(':')
            .map_or((spec, None), |(user, group)| (user, Some(group)));
        let number = user.parse().ok().map(Uid::from_raw);
        let found = match number {
            Some(uid) => User::from_uid(uid),
            None => User::from_name(user),
        };
        let mut identity = match (found.ok().flatten(), number) {
            (Some(user), _) => Self {
                name: CString::new(user.name).ok(),
                uid: user.uid,
                gid: user.gid,
            },
            (None, Some(uid)) => Self {
                name: None,
                uid,
                gid: Gid::from_raw(uid.as_raw()),
            },
            (None, None) => return Err(unknown("user", "/etc/passwd")),
        };
        if let Some(group) = group {
            identity.gid = match group.parse() {
                Ok(gid) => Gid::from_raw(gid),
                Err(_) => match Group::from_name(group) {
                    Ok(Some(group)) => group.gid,
                    _ => return Err(unknown("group", "/etc/group")),
                },
            };
        }
        Ok(identity)
    }
}

fn become_user(identity: &Identity, command: &OsStr) -> Result<(), Error> {
    let Identity { name, uid, gid } = identity;
    let current = (Uid::current(), Uid::effective(), Gid::current());
    if !current.1.is_root() {
        if current != (*uid, *uid, *gid) {
            say::stderr(format_args!(
                "warning: {command:?} runs as uid {} instead of {uid}: only root can change the user",
                current.1
            ));
        }
        return Ok(());
    }
    let failed = |what: String| {
        let command = command.to_owned();
        move |errno| Error::Prepare { command, what, errno }
    };
    // Groups first: afterwards there is no right to set them.
    match name {
        Some(name) => unistd::initgroups(name, *gid),
        None => unistd::setgroups(&[*gid]),
    }
    .map_err(failed("setting its groups (needs CAP_SETGID)".into()))?;
    unistd::setresgid(*gid, *gid, *gid).map_err(failed(format!("changing to group {gid} (needs CAP_SETGID)")))?;
    unistd::setresuid(*uid, *uid, *uid).map_err(failed(format!("changing to user {uid} (needs CAP_SETUID)")))
}

/// The program that launches: this one.
#[must_use]
pub fn program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_survive_the_command_line() {
        let options = Options {
            user: Some("nobody".into()),
            oom_score_adj: Some(-500),
            no_core: true,
            no_new_privs: true,
            umask: Some(0o027),
            own_output: true,
            directory: Some("/srv".into()),
            parent_death_signal: Some(libc::SIGKILL),
        };
        let command: Vec<OsString> = vec!["sh".into(), "--user".into(), "--".into()];
        let args = options.to_args().into_iter().chain(command.clone());
        assert_eq!(parse(args).unwrap(), (options, command));
    }

    #[test]
    fn a_bad_command_line_is_told_apart() {
        for (args, word) in [
            (&["--usr", "x", "--", "sh"][..], "--usr"),
            (&["--user"], "value"),
            (&["--umask", "9", "--", "sh"], "number"),
            (&["--no-core", "--"], "no command"),
            (&["--no-core"], "no command"),
        ] {
            let error = parse(args.iter().map(OsString::from)).unwrap_err();
            assert!(error.to_string().contains(word), "{args:?}: {error}");
        }
    }

    #[test]
    fn users_are_found_by_name_number_and_group() {
        let find = |spec| Identity::find(spec, OsStr::new("app"));
        let root = find("root").unwrap();
        assert_eq!((root.uid.as_raw(), root.gid.as_raw()), (0, 0));
        assert_eq!(find("0").unwrap(), root);
        let unlisted = find("54321").unwrap();
        assert_eq!(
            (unlisted.name, unlisted.uid.as_raw(), unlisted.gid.as_raw()),
            (None, 54321, 54321)
        );
        assert_eq!(find("54321:7").unwrap().gid.as_raw(), 7);
        assert!(find("no-such-user").unwrap_err().to_string().contains("no such user"));
        assert!(
            find("root:no-such-group")
                .unwrap_err()
                .to_string()
                .contains("no such group")
        );
    }
}
