//! Changes made elsewhere in the bucket: found by listing it now and then, and shown by reading those folders again.
//!
//! rclone can do that by itself: a folder that it has read some time ago it reads again when somebody looks (`--dir-cache-time`).
//! But it does so in an outage, too, and then what everybody knows is in the folder, and could have from the cache, waits for
//! the bucket and fails. So it is told to remember for ever, and the folders that have changed are read again from here.
//!
//! Only those that somebody else has changed: rclone knows its own doing, and a folder that it is reading when the bucket
//! falls silent is locked until that has failed and unknown afterwards (1.75.2, `Dir.readDir`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::storage::{Bucket, Folders, StorageError};
use crate::supervise::auditing;
use crate::supervise::effects::Shared;

/// A large bucket is listed less often: this long for each request that it takes.
const PER_REQUEST: Duration = Duration::from_secs(3);

/// A bucket that is listed in this time is small. (A request is for a thousand files.)
const SMALL: Duration = Duration::from_secs(2);
/// A new rclone behind the guard reads all folders if that takes no longer than this.
const TINY: Duration = Duration::from_millis(300);
/// A start waits this long to learn that.
const LISTING_PATIENCE: Duration = Duration::from_millis(500);

/// A listing can show an upload before rclone's log does, on a machine that is busy: this long.
const HEARD_OF: Duration = Duration::from_secs(1);

/// A listing under way.
pub type Listing = JoinHandle<Result<(Folders, u32), StorageError>>;

/// Begins the first listing, as early as the bucket is known.
pub fn first(shared: &Rc<Shared>, bucket: &Bucket) -> Listing {
    let (shared, bucket) = (Rc::clone(shared), bucket.clone());
    tokio::task::spawn_local(async move {
        let began = Instant::now();
        let listed = bucket.folders().await;
        if listed.is_ok() {
            // Set already when the tenant is prepared a second time.
            let _ = shared.listing_took.set(began.elapsed());
        }
        listed
    })
}

/// Is the bucket small enough for rclone to read all its folders before the app may look?
pub async fn is_small(shared: &Shared) -> bool {
    let took = tokio::time::timeout(LISTING_PATIENCE, shared.listing_took.wait()).await;
    took.is_ok_and(|took| *took <= SMALL)
}

/// … while the app waits?
pub fn is_tiny(shared: &Shared) -> bool {
    shared.listing_took.get().is_some_and(|took| *took <= TINY)
}

/// Runs to the end of the process.
pub async fn watch(shared: Rc<Shared>, first: Listing) {
    let interval = shared.config.mount.refresh_interval;
    let first = first.await.ok().and_then(Result::ok);
    // What rclone reads from now on is as new as this. If it was there before, nobody knows what has changed between its
    // look and ours: then all folders count as changed.
    let in_time = shared.session().is_none();
    let mut known = first
        .filter(|_| in_time)
        .map(|(folders, _)| folders)
        .unwrap_or_default();
    let mut pause = interval;
    loop {
        tokio::time::sleep(pause).await;
        let (Some(tenant), Some(_)) = (shared.tenant(), shared.session()) else {
            continue;
        };
        let began = Instant::now();
        let before = tenant.ledger.unsettled();
        match tenant.bucket().folders().await {
            Ok((mut folders, requests)) => {
                pause = interval.max(PER_REQUEST * requests);
                // The listing may show them with or without what was done here.
                for name in before.iter().chain(&tenant.ledger.unsettled()) {
                    folders.put_back(name, &known);
                }
                let mut changed = folders.changed(&known, &shared.own_changes.borrow());
                if !changed.is_empty() {
                    tokio::time::sleep(HEARD_OF).await;
                    for name in &tenant.ledger.unsettled() {
                        folders.put_back(name, &known);
                    }
                    changed = folders.changed(&known, &shared.own_changes.borrow());
                }
                tracing::debug!(
                    event = "relisted",
                    requests,
                    changed = changed.len(),
                    "the bucket was listed"
                );
                for folder in &changed {
                    auditing::stale(&shared, folder);
                }
                known = folders;
                shared.own_changes.borrow_mut().forget_before(began);
            }
            Err(error) => tracing::debug!(event = "relisted", "the bucket cannot be listed: {error}"),
        }
    }
}
