//! Copies in the bucket that nobody has told of.
//!
//! A stored file is renamed by a copy in the bucket. When rclone is ended meanwhile, the copy may be carried out a moment later,
//! over a file that had the new name, and nothing in rclone's log speaks of it. The next rclone would take that for a change that
//! somebody else has made, and throw away what it has cached. (Found by a storm: a4081fb2.) So for a minute after the end of an
//! rclone, and once after that, before a folder is read again or the next rclone lists the bucket, what has come into the bucket
//! in that time with this cache's mark, and is not as the cache has it, goes into the ledger, which puts it right.
//!
//! Only what has come in that time: later the cache may well have what a file had before it was replaced. A rename that rclone
//! has told of is in the ledger for as long, and is left alone. One that somebody else makes in the bucket within that minute,
//! of a file that was uploaded from here over one that is cached here, looks the same and is undone.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::core::audit::{self, Cached};
use crate::mount::{Ledger, cached};
use crate::storage::StorageError;
use crate::supervise::effects::Shared;
use crate::supervise::prepare::Tenant;

/// How long what an rclone has sent can arrive after its end.
pub const WINDOW: Duration = Duration::from_secs(60);
/// The last look has to come within this time after that: the ledger does not remember renames for longer.
const LAST_LOOK: Duration = Duration::from_secs(60);
/// Of larger files only the size is compared: reading them takes too long.
const SUMMED: u64 = 4 << 20;

/// A copy that was on its way at the end of an rclone may have been carried out this much earlier.
const BEFORE: SignedDuration = SignedDuration::from_secs(10);

/// … and after it: the window, with a machine that was down for a part of it.
const ARRIVAL: SignedDuration = SignedDuration::from_secs(10 + 60 + 60);

/// The end of an rclone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    noticed: Instant,
    at: Timestamp,
}

impl Ended {
    /// Just now.
    pub fn now() -> Ended {
        Ended {
            noticed: Instant::now(),
            at: Timestamp::now(),
        }
    }

    /// That of an earlier life with this cache, which did not live to see it: when it wrote something down for the last time.
    /// None when that is long ago: nothing of it arrives any more.
    pub fn before(cache_dir: &Path, bucket: &str) -> Option<Ended> {
        let at = Ledger::last_written(cache_dir, bucket)?;
        let ago = Duration::try_from(Timestamp::now().duration_since(at)).ok()?;
        (ago < WINDOW + LAST_LOOK).then(|| Ended { at, ..Ended::now() })
    }
}

/// The last look, when its time has come.
pub async fn last(shared: &Shared, tenant: &Rc<Tenant>) {
    if shared
        .mounter_ended
        .get()
        .is_some_and(|ended| ended.noticed.elapsed() >= WINDOW)
    {
        look(shared, tenant).await;
    }
}

/// Lists the bucket, if it is time for that, and has the ledger look at what may be such a copy. False when the bucket did not
/// answer. A read-only mount has nothing on its way.
pub async fn look(shared: &Shared, tenant: &Rc<Tenant>) -> bool {
    if shared.config.mount.is_read_only() {
        return true;
    }
    let Some(ended) = shared.mounter_ended.get() else {
        return true;
    };
    let since = ended.noticed.elapsed();
    let forget = || {
        if shared.mounter_ended.get() == Some(ended) {
            shared.mounter_ended.set(None);
        }
    };
    if since >= WINDOW + LAST_LOOK {
        forget();
        return true;
    }
    match compare(shared, tenant, ended.at).await {
        Ok(()) => {
            if since >= WINDOW {
                forget();
            }
            true
        }
        Err(error) => {
            tracing::debug!(
                event = "suspected",
                "the cache cannot be compared with the bucket: {error}"
            );
            false
        }
    }
}

async fn compare(shared: &Shared, tenant: &Rc<Tenant>, ended: Timestamp) -> Result<(), StorageError> {
    let began = Instant::now();
    let bucket = tenant.bucket();
    let listed = bucket.objects().await?;
    let (cache_dir, name, sums) = (
        shared.config.mount.cache_dir.clone(),
        bucket.name().to_owned(),
        tenant.ledger.compares_sums(),
    );
    let compared = tokio::task::spawn_blocking(move || {
        let differs = |(key, size, etag): &(String, u64, String)| {
            let sum = sums && *size <= SUMMED && audit::is_md5(etag);
            match cached::cached(&cache_dir, &name, key, sum) {
                Ok(Cached::Whole { size: here, md5 }) => here != *size || md5.is_some_and(|md5| md5 != *etag),
                _ => false,
            }
        };
        listed.into_iter().filter(differs).map(|(key, ..)| key).collect()
    });
    let differing: Vec<String> = compared.await.unwrap_or_default();
    for key in &differing {
        let Some(head) = bucket.head(key).await? else { continue };
        let skew = bucket.clock_skew().unwrap_or_default();
        let from = ended + skew - BEFORE;
        let in_time = (from..=from + ARRIVAL).contains(&head.modified);
        if in_time && head.author.as_deref() == Some(tenant.ledger.author().as_str()) {
            tenant.ledger.doubt(key, Timestamp::now());
        }
    }
    tracing::debug!(
        event = "suspected",
        milliseconds = began.elapsed().as_millis() as u64,
        differing = differing.len(),
        "after the end of an rclone the cache was compared with the bucket"
    );
    Ok(())
}
