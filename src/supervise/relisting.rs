//! Changes made elsewhere in the bucket: found by listing it now and then, and shown by reading those folders again.
//!
//! rclone can do that by itself: a folder that it has read some time ago it reads again when somebody looks (`--dir-cache-time`).
//! But it does so in an outage, too, and then what everybody knows is in the folder, and could have from the cache, waits for
//! the bucket and fails. So it is told to remember for ever, and the folders that have changed are read again from here.

use std::rc::Rc;
use std::time::Duration;

use crate::mount::RcError;
use crate::storage::Folders;
use crate::supervise::auditing;
use crate::supervise::effects::Shared;

/// A large bucket is listed less often: this long for each request that it takes.
const PER_REQUEST: Duration = Duration::from_secs(3);

/// Runs from the first look at the bucket to the end of the process.
pub async fn watch(shared: Rc<Shared>) {
    let interval = shared.config.mount.refresh_interval;
    // What has changed between rclone's first look and ours is not known: at the first time all folders count as changed.
    let mut known = Folders::default();
    let mut pause = interval;
    loop {
        tokio::time::sleep(pause).await;
        let (Some(tenant), Some(_)) = (shared.tenant(), shared.session()) else {
            continue;
        };
        match tenant.bucket().folders().await {
            Ok((folders, requests)) => {
                pause = interval.max(PER_REQUEST * requests);
                let mut changed = folders.changed(&known);
                changed.retain(|name| name != ".tenant-init" && !name.starts_with(".tenant-init/"));
                tracing::debug!(
                    event = "relisted",
                    requests,
                    changed = changed.len(),
                    "the bucket was listed"
                );
                if read_again(&shared, changed).await {
                    known = folders;
                }
            }
            Err(error) => tracing::debug!(event = "relisted", "the bucket cannot be listed: {error}"),
        }
    }
}

/// Now, while the bucket answers: whoever looks into a folder waits while it is being read. False when it stopped answering.
async fn read_again(shared: &Shared, changed: Vec<String>) -> bool {
    let (Some(tenant), Some(session)) = (shared.tenant(), shared.session()) else {
        return false;
    };
    for folder in changed {
        if tenant
            .ledger
            .deletions()
            .iter()
            .any(|(name, _)| auditing::folder(name) == folder)
        {
            // Not before those are carried out, and then by whoever does that.
            shared.stale_folders.borrow_mut().insert(folder);
        } else if let Err(error @ RcError::Silent { .. }) = session.refresh(&folder).await {
            tracing::debug!(event = "relisted", folder, "the folder cannot be read again: {error}");
            return false;
        }
    }
    true
}
