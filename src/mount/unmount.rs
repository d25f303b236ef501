//! Taking mounts off a path until the mount table says it is clean.
//!
//! A new mount stacks on a dead one, and taking it away brings the dead one back; so one umount is never enough. Plain
//! umount first, as it flushes; MNT_DETACH when somebody holds the mount or its server does not answer.

use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::{Instant, sleep};

use super::error::MountError;
use super::mountinfo::{self, Entry, Kind as Whose};
use super::probe::Kind;
use super::prober::{ProbeError, Prober};

/// MNT_DETACH never blocks; this is for the process around it.
const DETACH_LIMIT: Duration = Duration::from_secs(5);

/// Time between two tries of a busy mount.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// More mounts than this on one path means that unmounting does not work.
const ROUNDS: usize = 64;

/// What was taken off a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Each mount found, top first: `fuse.rclone from tenant:notes`.
    pub found: Vec<String>,
    /// Why some of them had to be detached instead of unmounted; `None` when none had.
    pub detached: Option<String>,
}

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// Leave the barrier in place.
    pub keep_barrier: bool,
    /// How long a plain umount may be tried; zero detaches at once.
    pub patience: Duration,
}

/// Takes every mount of ours off `path`.
///
/// # Errors
/// `Busy` when a foreign mount is on it, `Unmount` when one would not go.
pub(super) async fn clear(path: &Path, prober: &Prober, extent: Extent) -> Result<Cleared, MountError> {
    let failed = |why: String| MountError::Unmount {
        path: path.to_owned(),
        why,
    };
    let deadline = Instant::now() + extent.patience;
    let mut cleared = Cleared::default();
    for _ in 0..ROUNDS {
        let Some(top) = top(path)? else {
            return Ok(cleared);
        };
        match top.kind() {
            Whose::Barrier if extent.keep_barrier => return Ok(cleared),
            Whose::Foreign => {
                return Err(MountError::Busy {
                    path: path.to_owned(),
                    fstype: top.fstype,
                    source_name: top.source,
                });
            }
            Whose::Barrier | Whose::Tenant => {}
        }
        cleared.found.push(format!("{} from {}", top.fstype, top.source));
        if let Err(why) = plainly(path, prober, deadline).await {
            match prober.run(Kind::Detach, path, DETACH_LIMIT).await {
                // EINVAL: it went away by itself in between.
                Ok(_)
                | Err(ProbeError::Failed {
                    errno: Some(libc::EINVAL),
                    ..
                }) => {}
                Err(error) => return Err(failed(format!("plain umount: {why}; detaching: {error}"))),
            }
            if !why.is_empty() {
                cleared.detached = Some(why);
            }
        }
    }
    Err(failed(format!(
        "{ROUNDS} mounts were taken off and there are still more"
    )))
}

/// Tries a plain umount until the deadline; says why it did not work (nothing, when there was no time to try).
async fn plainly(path: &Path, prober: &Prober, deadline: Instant) -> Result<(), String> {
    let mut why = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(why);
        }
        match prober.run(Kind::Unmount, path, left).await {
            Ok(_) => return Ok(()),
            Err(ProbeError::Failed { errno: Some(errno), .. }) if errno == Errno::EINVAL as i32 => return Ok(()),
            Err(ProbeError::Failed {
                errno: Some(errno),
                error,
                ..
            }) if errno == Errno::EBUSY as i32 => {
                why = format!("still in use ({error})");
                sleep(BUSY_PAUSE.min(left)).await;
            }
            // The last try is cut short by the deadline: what the one before it saw says more.
            Err(error) => return Err(if why.is_empty() { error.to_string() } else { why }),
        }
    }
}

/// The top-most mount on `path`.
fn top(path: &Path) -> Result<Option<Entry>, MountError> {
    let entries = mountinfo::at(path).map_err(|source| MountError::Path {
        path: path.to_owned(),
        source,
    })?;
    Ok(entries.into_iter().next_back())
}
