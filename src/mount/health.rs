//! One round of looking at a running mount, and what it means.
//!
//! Three witnesses: the process, rclone's remote control (which takes no lock of the file system), and a child process
//! that asks the mount itself. A mount that does not answer while rclone does has two very different causes, a dead
//! bucket or a broken mounter, and only the first must be sat out; so then, and only then, rclone is asked for the bucket.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitStatus;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::time::timeout;

use super::guard;
use super::mountinfo::{self, Kind as Whose};
use super::probe::Kind;
use super::prober::ProbeError;
use super::rc::{RcError, StorageFault};
use super::session::Session;

/// `rc/noop` takes under a millisecond, in an outage too.
const RC_LIMIT: Duration = Duration::from_secs(1);

/// A timer that fires this late says that the machine has no time for us.
const LATE: Duration = Duration::from_millis(500);

/// What one round found.
#[derive(Debug, Clone, PartialEq)]
pub struct Health {
    /// What it means.
    pub verdict: Verdict,
    /// How long `rc/noop` took.
    pub rc: Option<Duration>,
    /// How long statvfs on the mount took.
    pub statvfs: Option<Duration>,
    /// The evidence in words; empty when all is well.
    pub detail: String,
    /// rclone hangs, and that is proven by this round alone: see [`Session::health`].
    pub hung: bool,
}

/// What a round means for the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The mount answers.
    Ok,
    /// The mount does not answer because the bucket does not. Sit it out: a restart would not help.
    StorageSlow {
        /// The first round that saw it.
        since: Instant,
    },
    /// The mount does not answer although rclone and the bucket do. Restart.
    Stuck {
        /// The first round that saw it.
        since: Instant,
    },
    /// rclone runs and does not answer. Restart if it lasts.
    MounterHung {
        /// The first round that saw it.
        since: Instant,
    },
    /// rclone has ended, or its mount is gone or dead. Restart.
    MounterDead,
}

/// Since when what is wrong is wrong.
#[derive(Debug, Default)]
pub(super) struct Memory {
    since: Option<Instant>,
}

/// What the witnesses said.
struct Evidence {
    exited: Option<ExitStatus>,
    mounted: bool,
    rc: Result<Duration, RcError>,
    statvfs: Result<Duration, ProbeError>,
    /// A call has been waiting in the guard for longer than the limit.
    blocked: Option<Duration>,
    /// Asked only when the mount does not answer.
    storage: Option<Result<(), StorageFault>>,
}

impl Session {
    /// Looks once. `limit` is for the child process; a round takes at most twice that.
    ///
    /// An rclone that hangs is proven in a second: neither its remote control answers nor its NFS server on a connection of
    /// its own (on FUSE: the mount), which a silent bucket has no part in; none of its threads waits for a processor or a
    /// disk, so it is not the machine that is too slow for it; and our own clock was in time, so it was not for us either.
    pub async fn health(&self, limit: Duration) -> Health {
        let start = Instant::now();
        let inner = &self.0;
        let noop = async { inner.rc.noop(RC_LIMIT).await.map(|()| start.elapsed()) };
        let door = async {
            match inner.nfs_port() {
                Some(port) => matches!(timeout(RC_LIMIT, ping(port)).await, Ok(Ok(()))),
                None => false,
            }
        };
        let doors = async { tokio::join!(noop, door) };
        let mut statvfs = pin!(inner.prober.run(Kind::Statvfs, &inner.path, limit));
        let mut doors = pin!(doors);
        let mut seen = None;
        let (rc, answered) = loop {
            tokio::select! {
                found = &mut doors => break found,
                result = &mut statvfs, if seen.is_none() => seen = Some(result),
            }
        };
        let silent = matches!(rc, Err(RcError::Silent { .. })) && !answered && !matches!(seen, Some(Ok(_)));
        let in_time = start.elapsed() < RC_LIMIT + LATE;
        let hung = silent && in_time && self.exit_status().is_none() && rests(self.pid());
        let statvfs = match seen {
            Some(result) => result,
            // The child is killed with the call: it would not come back.
            None if hung => Err(ProbeError::Stuck(start.elapsed())),
            None => statvfs.await,
        };
        let blocked = inner.link.as_ref().and_then(|link| link.stuck(limit));
        let silent = matches!(statvfs, Err(ProbeError::Stuck(_))) || blocked.is_some();
        let storage = if silent && rc.is_ok() {
            Some(inner.rc.storage(&inner.bucket, limit).await)
        } else {
            None
        };
        // Without a mount table nothing can be said about the mount; then the other witnesses decide.
        let mounted =
            mountinfo::at(&inner.path).map_or(true, |found| found.iter().any(|entry| entry.kind() == Whose::Tenant));
        let evidence = Evidence {
            exited: self.exit_status(),
            mounted,
            rc,
            statvfs,
            blocked,
            storage,
        };
        let mut memory = inner.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let health = judge(evidence, &mut memory, Instant::now());
        Health {
            hung: hung && matches!(health.verdict, Verdict::MounterHung { .. }),
            ..health
        }
    }
}

async fn ping(port: u16) -> std::io::Result<()> {
    guard::ping(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await
}

/// Do all threads of a process sleep? One that runs, or would if there was a processor for it (R), or waits for a disk (D),
/// may be slow for that reason. A process that is stopped rests.
fn rests(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    let mut states = threads
        .flatten()
        .filter_map(|thread| state_in(&std::fs::read_to_string(thread.path().join("stat")).ok()?));
    states.all(|state| !matches!(state, 'R' | 'D'))
}

/// The state in a line of `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses may hold anything.
fn state_in(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Pure: evidence in, verdict out.
fn judge(evidence: Evidence, memory: &mut Memory, now: Instant) -> Health {
    let since = *memory.since.get_or_insert(now);
    let Evidence {
        exited,
        mounted,
        rc,
        statvfs,
        blocked,
        storage,
    } = evidence;
    let (verdict, detail) = if let Some(status) = exited {
        (Verdict::MounterDead, format!("rclone ended: {status}"))
    } else if !mounted {
        (
            Verdict::MounterDead,
            "the mount is gone from the mount table".to_owned(),
        )
    } else {
        match (&rc, &statvfs, &storage) {
            (Err(error), ..) => (Verdict::MounterHung { since }, error.to_string()),
            (
                Ok(_),
                Err(ProbeError::Failed {
                    errno: Some(errno),
                    error,
                    ..
                }),
                _,
            ) if is_dead(*errno) => (Verdict::MounterDead, format!("the mount is dead: {error}")),
            (Ok(_), Err(ProbeError::Broken(error)), _) => {
                // Says nothing about the mount: this machine could not run the probe.
                memory.since = None;
                (Verdict::Ok, format!("no probe: {error}"))
            }
            (Ok(_), probe, Some(Err(fault))) => {
                let words = match fault {
                    StorageFault::Rejected(why) | StorageFault::BucketMissing(why) | StorageFault::Unreachable(why) => {
                        why
                    }
                };
                (
                    Verdict::StorageSlow { since },
                    format!("{}; bucket: {words}", describe(probe, blocked)),
                )
            }
            (Ok(_), Ok(_), None) => {
                memory.since = None;
                (Verdict::Ok, String::new())
            }
            // Blocked calls with a mount that answers, and a bucket that answers again: they are on their way.
            (Ok(_), Ok(_), Some(Ok(()))) => (Verdict::StorageSlow { since }, describe(&statvfs, blocked)),
            (Ok(_), Err(_), _) => (Verdict::Stuck { since }, describe(&statvfs, blocked)),
        }
    };
    Health {
        verdict,
        rc: rc.ok(),
        statvfs: statvfs.ok(),
        detail,
        hung: false,
    }
}

fn is_dead(errno: i32) -> bool {
    [Errno::ENOTCONN, Errno::ESTALE, Errno::ECONNABORTED]
        .iter()
        .any(|dead| *dead as i32 == errno)
}

fn describe(probe: &Result<Duration, ProbeError>, blocked: Option<Duration>) -> String {
    match (probe, blocked) {
        (Err(error), _) => format!("statvfs on the mount: {error}"),
        (Ok(_), Some(time)) => format!("a call has been waiting for {:.1} s", time.as_secs_f64()),
        (Ok(_), None) => "the mount answers".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const QUICK: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(5);

    fn well() -> Evidence {
        Evidence {
            exited: None,
            mounted: true,
            rc: Ok(QUICK),
            statvfs: Ok(QUICK),
            blocked: None,
            storage: None,
        }
    }

    fn verdict(evidence: Evidence) -> Verdict {
        judge(evidence, &mut Memory::default(), Instant::now()).verdict
    }

    fn stuck() -> Result<Duration, ProbeError> {
        Err(ProbeError::Stuck(LONG))
    }

    #[test]
    fn each_kind_of_trouble_has_its_verdict() {
        assert_eq!(verdict(well()), Verdict::Ok);
        assert_eq!(
            verdict(Evidence {
                exited: Some(ExitStatus::from_raw(9)),
                ..well()
            }),
            Verdict::MounterDead
        );
        assert_eq!(
            verdict(Evidence {
                mounted: false,
                ..well()
            }),
            Verdict::MounterDead
        );
        let silent = RcError::Silent {
            call: "rc/noop",
            why: "timeout".into(),
        };
        assert!(matches!(
            verdict(Evidence {
                rc: Err(silent),
                ..well()
            }),
            Verdict::MounterHung { .. }
        ));
        let gone = ProbeError::Failed {
            step: "statvfs".into(),
            errno: Some(libc::ENOTCONN),
            error: "not connected".into(),
            emptied: false,
        };
        assert_eq!(
            verdict(Evidence {
                statvfs: Err(gone),
                ..well()
            }),
            Verdict::MounterDead
        );
    }

    #[test]
    fn a_stuck_mount_is_the_buckets_fault_only_when_the_bucket_is_down() {
        let down = Some(Err(StorageFault::Unreachable("timeout".into())));
        assert!(matches!(
            verdict(Evidence {
                statvfs: stuck(),
                storage: down.clone(),
                ..well()
            }),
            Verdict::StorageSlow { .. }
        ));
        assert!(matches!(
            verdict(Evidence {
                statvfs: stuck(),
                storage: Some(Ok(())),
                ..well()
            }),
            Verdict::Stuck { .. }
        ));
        assert!(matches!(
            verdict(Evidence {
                blocked: Some(LONG),
                storage: down,
                ..well()
            }),
            Verdict::StorageSlow { .. }
        ));
    }

    #[test]
    fn a_process_that_is_stopped_rests_and_one_that_computes_does_not() {
        assert_eq!(state_in("12 (a) R 9 (b) S 7 12"), Some('S'));
        let mut busy = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(busy.id()).unwrap());
        let seen = |wanted: bool| {
            (0..1000).any(|_| {
                std::thread::sleep(Duration::from_millis(5));
                rests(busy.id()) == wanted
            })
        };
        assert!(seen(false), "it computes");
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert!(seen(true), "it is stopped");
        busy.kill().unwrap();
        busy.wait().unwrap();
    }

    #[test]
    fn trouble_keeps_its_beginning_until_it_is_over() {
        let (start, mut memory) = (Instant::now(), Memory::default());
        judge(
            Evidence {
                statvfs: stuck(),
                storage: Some(Ok(())),
                ..well()
            },
            &mut memory,
            start,
        );
        let later = judge(
            Evidence {
                statvfs: stuck(),
                storage: Some(Ok(())),
                ..well()
            },
            &mut memory,
            start + LONG,
        );
        assert_eq!(later.verdict, Verdict::Stuck { since: start });
        judge(well(), &mut memory, start + LONG);
        let again = judge(
            Evidence {
                statvfs: stuck(),
                storage: Some(Ok(())),
                ..well()
            },
            &mut memory,
            start + 2 * LONG,
        );
        assert_eq!(
            again.verdict,
            Verdict::Stuck {
                since: start + 2 * LONG
            }
        );
    }
}
