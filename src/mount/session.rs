//! One life of the mounter: start rclone, watch it, stop it.
//!
//! rclone runs in a process group of its own (its helpers `mount.nfs` and `fusermount3` die with it), with an environment
//! of its own and no controlling end: if we die, it goes on serving and uploading, and the next start finds it by its
//! lock. A task owns the child and publishes its exit; so a `Session` is a cheap handle that any task may use at any time.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

use super::adopt;
use super::barrier::Barrier;
use super::claim::Claim;
use super::command::{self, NfsPorts, RunFiles, Spec};
use super::discard::discard;
use super::error::MountError;
use super::guard::{Handle, Observer};
use super::health::Memory;
use super::ledger::Ledger;
use super::link::Link;
use super::log::{self, FailedRename, LogTail};
use super::mend;
use super::pending::{self, Pending};
use super::prober::Prober;
use super::queue::Tracker;
use super::rc::Rc;
use super::renames::Renames;
use super::unmount::{self, Extent};
use crate::config::Mount;
use crate::core::event::Driver;
use crate::credentials::Storage;

/// A helper of rclone that has outlived it may hold its log open: then this is waited, no longer.
const LOG_END: Duration = Duration::from_millis(500);
/// Between two looks at the calls that are under way.
const CALLS_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of log that nobody reads before rclone stops at it: the most that an ordinary user may ask for.
const LOG_ROOM: i32 = 1 << 20;

/// What a mounter is started with.
#[derive(Clone)]
pub struct Plan {
    /// `mount.*`
    pub mount: Mount,
    /// The bucket and its key.
    pub storage: Storage,
    /// Chosen by [`super::choose`].
    pub driver: Driver,
    /// Owner of all files: the app's user.
    pub uid: u32,
    /// Group of all files.
    pub gid: u32,
    /// What the bucket must have.
    pub ledger: Ledger,
    /// How readily the kernel kills rclone for memory (-1000 to 1000, proc_pid_oom_score_adj(5)); `None` inherits ours.
    pub oom_score_adj: Option<i16>,
    /// Is told of every operation on an NFS mount. (On FUSE nothing of ours sees them.)
    pub observer: Arc<dyn Observer>,
}

/// One life of the mounter. Clones are handles to the same life.
#[derive(Debug, Clone)]
pub struct Session(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) driver: Driver,
    pub(super) path: PathBuf,
    pub(super) cache_dir: PathBuf,
    pub(super) bucket: String,
    /// rclone's delay; longer than configured in a life that began with unsent files.
    pub(super) write_back: Duration,
    /// `mount.write_back`; rclone's may be longer, see `adopt`.
    pub(super) wanted_write_back: Duration,
    /// Nothing can be written, so there is nothing to try out.
    pub(super) read_only: bool,
    /// The files that were unsent when it began …
    pub(super) found: Vec<Pending>,
    /// … have been taken up, see `adopt`.
    pub(super) adopted: AtomicBool,
    pub(super) started: Instant,
    pub(super) rc: Rc,
    pub(super) prober: Arc<Prober>,
    pub(super) barrier: Arc<Barrier>,
    pub(super) log: LogTail,
    pub(super) link: Option<Arc<Link>>,
    pub(super) tracker: Mutex<Tracker>,
    pub(super) memory: Mutex<Memory>,
    joined: Mutex<Option<Instant>>,
    pid: u32,
    exit: watch::Receiver<Option<ExitStatus>>,
    run: RunFiles,
    nfs: Option<Served>,
}

/// What an rclone behind the guard was started with.
#[derive(Debug, Clone)]
struct Served {
    /// Where it listens.
    port: u16,
    /// Its handle cache.
    handles: PathBuf,
}

impl Inner {
    /// Where rclone serves NFS; `None` on FUSE.
    pub(super) fn nfs_port(&self) -> Option<u16> {
        self.nfs.as_ref().map(|nfs| nfs.port)
    }

    /// Has rclone ended?
    pub(super) fn has_ended(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// The mounter's directory for files of a moment.
    pub(super) fn run_dir(&self) -> &Path {
        &self.run.dir
    }

    /// Has rclone read all directories? If not, the guard doubts it when it calls something absent.
    pub(super) fn has_read(&self, all: bool) {
        if let Some(link) = &self.link {
            link.handle().set_unread(!all);
        }
    }

    /// Sends the calls that wait in the guard to this rclone.
    pub(super) fn join(&self) {
        if let (Some(link), Some(nfs)) = (&self.link, &self.nfs) {
            link.join(nfs.port);
            *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
    }
}

impl Session {
    /// Starts rclone for `plan` on what `claim` holds. Returns as soon as the process runs; see [`Session::ready`].
    ///
    /// # Errors
    /// When the configuration cannot be written, a port is missing, the cache is in use, a dead mount would not go or
    /// rclone cannot be executed.
    pub async fn launch(claim: &Claim, plan: Plan) -> Result<Session, MountError> {
        let lock = claim.mounter_lock().await?;
        // A mount of a mounter that died would come back from under the new one.
        let extent = Extent {
            keep_barrier: true,
            patience: Duration::ZERO,
        };
        unmount::clear(&claim.path, &claim.prober, extent).await?;
        Session::start(claim, plan, lock, None).await
    }

    /// Returns when a call has been waiting for rclone for this long; then again not before as much time has passed. Never on
    /// FUSE, where calls are not seen.
    pub async fn call_waits(&self, limit: Duration) {
        match &self.0.link {
            Some(link) => link.handle().call_waits(limit).await,
            None => std::future::pending().await,
        }
    }

    /// Holds the calls that come from now on, and waits for those that rclone has, at most for `limit`.
    pub async fn finish_calls(&self, limit: Duration) {
        let Some(link) = &self.0.link else { return };
        link.part();
        let began = Instant::now();
        while link.handle().under_way() > 0 && began.elapsed() < limit {
            tokio::time::sleep(CALLS_PAUSE).await;
        }
    }

    /// Starts another rclone behind the guard of this one; the mount stays. This one is killed if it still runs. Calls wait
    /// until [`Session::rejoin`].
    ///
    /// # Errors
    /// As for [`Session::launch`]; also on FUSE, where a mount ends with its rclone.
    pub async fn relaunch(&self, claim: &Claim, plan: Plan) -> Result<Session, MountError> {
        let Some(link) = self.0.link.clone() else {
            return Err(MountError::NotBehindGuard);
        };
        link.part();
        if self.exit_status().is_none() {
            self.signal_group(Signal::SIGKILL);
        }
        self.exited().await;
        let lock = claim.mounter_lock().await?;
        Session::start(claim, plan, lock, Some(link)).await
    }

    async fn start(claim: &Claim, plan: Plan, lock: File, present: Option<Arc<Link>>) -> Result<Session, MountError> {
        let started = Instant::now();
        let mounted = present.is_some();
        let run = RunFiles::below(&plan.mount.run_dir)?;
        write_configuration(&run, &plan.storage)?;
        plan.ledger.open(&claim.cache_dir).map_err(|source| MountError::Cache {
            path: claim.cache_dir.clone(),
            source,
        })?;
        let found = if plan.mount.is_read_only() {
            discard(&claim.cache_dir, Some(&plan.storage.bucket)).await?;
            Vec::new()
        } else {
            mend_cache(&claim.cache_dir, &plan.storage.bucket, &plan.ledger).await?
        };
        let write_back = plan.mount.write_back;
        let mount = Mount {
            cache_dir: claim.cache_dir.clone(),
            write_back: adopt::delay(write_back, found.len()),
            ..plan.mount
        };
        let (link, nfs) = match plan.driver {
            Driver::Nfs => {
                let port = Link::free_port()?;
                let link = match present {
                    Some(link) => link,
                    None => {
                        let renames = Renames::new(&mount.cache_dir, &plan.storage.bucket);
                        Arc::new(Link::open(Arc::clone(&plan.observer), renames, port).await?)
                    }
                };
                let handles = fresh_handles(&mount.cache_dir)?;
                (Some(link), Some(Served { port, handles }))
            }
            Driver::Fuse => (None, None),
        };
        if !mounted {
            claim.barrier.open()?;
        }
        let arguments = command::arguments(&Spec {
            driver: plan.driver,
            bucket: &plan.storage.bucket,
            endpoint: &plan.storage.endpoint,
            path: &claim.path,
            mount: &mount,
            run: &run,
            uid: plan.uid,
            gid: plan.gid,
            allow_other: geteuid().is_root() || (mount.local.is_none() && others_allowed()),
            nfs: link.as_ref().zip(nfs.as_ref()).map(|(link, nfs)| NfsPorts {
                rclone: nfs.port,
                guard: link.port(),
                handles: &nfs.handles,
            }),
            mounted,
            author: &plan.ledger.author(),
        });
        let read_only = mount.is_read_only();
        let log = LogTail::new(plan.ledger.clone());
        let spawn_failed = |source| MountError::Spawn {
            program: mount.rclone.clone(),
            source,
        };
        // rclone keeps a reading end of its own log: if we die it must not die of its next line.
        let (lines, to_us) = io::pipe().map_err(spawn_failed)?;
        // Where that is not allowed it has room for fewer lines then.
        let _ = fcntl(&lines, FcntlArg::F_SETPIPE_SZ(LOG_ROOM));
        let mut child = Command::new(&mount.rclone)
            .args(arguments)
            .env_clear()
            .envs(command::environment(std::env::vars_os(), &run))
            .current_dir("/")
            .stdin(Stdio::from(lock))
            .stdout(Stdio::from(lines.try_clone().map_err(spawn_failed)?))
            .stderr(Stdio::from(to_us))
            .process_group(0)
            .spawn()
            .map_err(spawn_failed)?;
        let pid = child.id().unwrap_or_default();
        claim.record_mounter(pid);
        if let Some(score) = plan.oom_score_adj {
            set_oom_score(pid, score);
        }
        let reading = match pipe::Receiver::from_owned_fd(lines.into()) {
            Ok(lines) => Some(tokio::spawn(log::forward(lines, log.clone()))),
            Err(error) => {
                tracing::warn!(%error, "rclone's log cannot be read");
                None
            }
        };
        let (publish, exit) = watch::channel(None);
        tokio::spawn(async move {
            // Waiting fails only if somebody else reaped the child; then it has ended, and how is lost.
            let status = child.wait().await.unwrap_or_else(|_| ExitStatus::from_raw(0xff00));
            // Its last lines tell what it has not done: they are read before anyone acts on its end.
            if let Some(reading) = reading {
                let _ = timeout(LOG_END, reading).await;
            }
            publish.send_replace(Some(status));
        });
        let rc = Rc::new(&run.socket).map_err(|error| MountError::Run {
            path: run.socket.clone(),
            source: io::Error::other(error.to_string()),
        })?;
        if let Some(link) = &link {
            link.renames().follow(&rc, &log);
        }
        let inner = Arc::new(Inner {
            driver: plan.driver,
            path: claim.path.clone(),
            cache_dir: mount.cache_dir,
            bucket: plan.storage.bucket,
            write_back: mount.write_back,
            wanted_write_back: write_back,
            read_only,
            found,
            adopted: AtomicBool::new(false),
            started,
            rc,
            prober: Arc::clone(&claim.prober),
            barrier: Arc::clone(&claim.barrier),
            log,
            link,
            tracker: Mutex::default(),
            memory: Mutex::default(),
            joined: Mutex::default(),
            pid,
            exit,
            run,
            nfs,
        });
        Ok(Session(inner))
    }

    /// How long after `began` the calls that waited in the guard went on; zero when they did not.
    #[must_use]
    pub fn joined_after(&self, began: Instant) -> Duration {
        let joined = *self.0.joined.lock().unwrap_or_else(PoisonError::into_inner);
        joined.map_or(Duration::ZERO, |joined| joined.saturating_duration_since(began))
    }

    /// rclone's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// How the files are mounted.
    #[must_use]
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    /// The NFS guard's controls; none on FUSE.
    #[must_use]
    pub fn guard(&self) -> Option<&Handle> {
        self.0.link.as_deref().map(Link::handle)
    }

    /// Upload attempts that failed in this life.
    #[must_use]
    pub fn upload_failures(&self) -> u64 {
        self.0.log.upload_failures()
    }

    /// Of these, because the store asked to slow down.
    #[must_use]
    pub fn slow_downs(&self) -> u64 {
        self.0.log.slow_downs()
    }

    /// Sends rclone a signal.
    pub fn signal(&self, signal: Signal) {
        if self.exit_status().is_none() {
            self.signal_group(signal);
        }
    }

    /// Why the last upload that failed did, in rclone's words.
    #[must_use]
    pub fn upload_failure(&self) -> Option<String> {
        self.0.log.upload_failure()
    }

    /// rclone's last serious log lines.
    #[must_use]
    pub fn last_words(&self) -> Vec<String> {
        self.0.log.serious()
    }

    /// The exit status, when rclone has ended.
    #[must_use]
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.0.exit.borrow()
    }

    /// Waits for rclone to end. Cancel safe.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.0.exit.clone();
        // The sender lives until the child is reaped, so an error here cannot be seen before a value.
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or_else(|| ExitStatus::from_raw(0xff00))
    }

    /// Waits until rclone is not to be trusted with its files any more: when a rename has failed. It finds the file under its
    /// old name then, takes it for one of the new name, and would store there what is written to it. On NFS the guard puts
    /// that right; but not what [`FailedRename::leaves_files_mixed_up`]. Says what happened, in words. Cancel safe.
    pub async fn crooked(&self) -> String {
        let counts: fn(&FailedRename) -> bool = match self.0.driver {
            Driver::Fuse => |_| true,
            Driver::Nfs => FailedRename::leaves_files_mixed_up,
        };
        self.0.log.failed_rename(counts).await
    }

    /// Ends rclone: TERM to its group, KILL after `limit`; then removes the key's file and the socket. rclone drops its
    /// upload queue at once (the files stay in the cache), so drain first.
    pub async fn terminate(&self, limit: Duration) -> ExitStatus {
        let status = match self.signal_and_wait(Signal::SIGTERM, limit).await {
            Some(status) => status,
            None => {
                tracing::warn!(pid = self.0.pid, "rclone does not end on SIGTERM: killing it");
                self.signal_group(Signal::SIGKILL);
                self.exited().await
            }
        };
        // A helper of rclone (mount.nfs on a silent server) may be left in the group.
        self.signal_group(Signal::SIGKILL);
        if let Some(link) = &self.0.link {
            link.handle().shutdown();
        }
        for file in [&self.0.run.config, &self.0.run.socket] {
            remove(fs::remove_file(file), file);
        }
        if let Some(Served { handles, .. }) = &self.0.nfs {
            remove(fs::remove_dir_all(handles), handles);
        }
        status
    }

    async fn signal_and_wait(&self, signal: Signal, limit: Duration) -> Option<ExitStatus> {
        if self.exit_status().is_none() {
            self.signal_group(signal);
        }
        timeout(limit, self.exited()).await.ok()
    }

    fn signal_group(&self, signal: Signal) {
        if let Ok(group) = i32::try_from(self.0.pid)
            && group > 1
        {
            // ESRCH: all of them are gone, as wanted.
            let _ = killpg(Pid::from_raw(group), signal);
        }
    }
}

fn remove(result: io::Result<()>, path: &Path) {
    if let Err(error) = result
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "left behind");
    }
}

/// Saves what a killed rclone would make the next one delete, and says so. Returns the unsent files.
async fn mend_cache(cache_dir: &Path, bucket: &str, ledger: &Ledger) -> Result<Vec<Pending>, MountError> {
    let (directory, name) = (cache_dir.to_owned(), bucket.to_owned());
    let unproven = ledger.unproven(Timestamp::now()).into_iter().collect();
    let mending = tokio::task::spawn_blocking(move || {
        let mended = mend::mend(&directory, &name, &unproven)?;
        Ok((mended, pending::unsent(&directory, &name)?))
    })
    .await;
    let (mended, unsent) = mending
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| MountError::Cache {
            path: cache_dir.to_owned(),
            source,
        })?;
    if !mended.requeued.is_empty() {
        let files = mended.requeued.join(", ");
        tracing::warn!(
            files,
            "rclone ended before it was certain that these files are stored; they are sent (again)"
        );
    }
    if !mended.set_aside.is_empty() {
        let (files, rescued) = (mended.set_aside.join(", "), cache_dir.join("rescued"));
        tracing::error!(
            files,
            rescued = %rescued.display(),
            "rclone was killed while it changed these partly cached files; what was cached of them is set aside"
        );
    }
    Ok(unsent)
}

/// Writes the key's file anew and makes room for the socket: rclone does not start over one that a killed rclone left.
fn write_configuration(run: &RunFiles, storage: &Storage) -> Result<(), MountError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| MountError::Run { path, source }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&run.dir)
        .map_err(failed(&run.dir))?;
    for file in [&run.socket, &run.config] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(file)(error)),
            _ => {}
        }
    }
    let text = command::configuration(storage)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&run.config)
        .and_then(|mut file: File| file.write_all(text.as_bytes()))
        .map_err(failed(&run.config))
}

/// An empty directory for the NFS handle cache. On the cache's disk, as it grows with the number of files. A handle in it
/// is no more than a path: one of an earlier life could lead to another file. Earlier directories are removed, but not
/// while somebody waits: they have a file for each handle.
fn fresh_handles(cache_dir: &Path) -> Result<PathBuf, MountError> {
    let failed = |source: io::Error| MountError::Cache {
        path: cache_dir.to_owned(),
        source,
    };
    let parent = cache_dir.join("handles");
    let earlier: Vec<PathBuf> = fs::read_dir(&parent)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .collect();
    tokio::task::spawn_blocking(move || {
        for handles in earlier {
            remove(fs::remove_dir_all(&handles), &handles);
        }
    });
    let handles = parent.join(format!("{:016x}", fastrand::u64(..)));
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&handles)
        .map_err(failed)?;
    Ok(handles)
}

/// May users other than root make a mount that others can see (fuse.conf in mount.fuse3(8))?
fn others_allowed() -> bool {
    fs::read_to_string("/etc/fuse.conf").is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"))
}

fn set_oom_score(pid: u32, score: i16) {
    if let Err(error) = fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string()) {
        tracing::warn!(%error, score, "rclone's oom_score_adj cannot be set: under memory pressure it may die before the app");
    }
}
