//! Compares with the bucket what the ledger says it must have, and puts right what is not so. `core::audit` decides.
//!
//! One request for each upload and each deletion; many at a time, and none any more once the bucket fails to answer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use crate::core::audit::{self, Cached, Finding, Object, Wanted};
use crate::mount::{Entry, Ledger, RcError, Session, cached, folder_of};
use crate::storage::{Bucket, Head, Placed, StorageError};
use crate::supervise::effects::Shared;
use crate::supervise::prepare::Tenant;
use crate::supervise::suspecting;

/// A store's `Date` has whole seconds, and an upload that was cancelled by the deletion may still land a moment later.
const CLOCK_PRECISION: SignedDuration = SignedDuration::from_secs(2);
/// A deletion is looked at after this: an upload that it cancelled has landed by then, as a rule.
const CANCELLED_UPLOAD: SignedDuration = SignedDuration::from_secs(2);
/// A copy in the bucket that has landed is told of by rclone within this time, as a rule.
const RENAME: Duration = Duration::from_secs(1);
/// A folder that is to be read again waits this long for uploads and deletions that may still arrive in it.
const PATIENCE: Duration = Duration::from_secs(20);
/// Names looked at at a time, once the bucket has answered for one.
const AT_ONCE: usize = 32;
/// After a bucket that did not answer.
const PAUSE: Duration = Duration::from_secs(5);
/// A launch waits this long for what may have been copied …
const SUSPECTED_LIMIT: Duration = Duration::from_secs(2);
/// … and this long for what is still to be deleted in the bucket.
const LAUNCH_LIMIT: Duration = Duration::from_secs(5);

/// What is due, with each look at the mount.
pub async fn look(shared: &Shared) {
    let too_soon = shared.audit_failed.get().is_some_and(|at| at.elapsed() < PAUSE);
    if too_soon || shared.auditing.replace(true) {
        return keep(shared);
    }
    let now = Timestamp::now();
    if let Some(tenant) = shared.tenant() {
        let mut due = tenant.ledger.due(now);
        due.retain(|(_, entry)| entry.wanted != Wanted::Absent || entry.since <= now - CANCELLED_UPLOAD);
        let answered = audit(shared, &tenant, due, RENAME).await;
        shared.audit_failed.set((!answered).then(Instant::now));
        for name in tenant.ledger.take_removed() {
            shared.own_changes.borrow_mut().saw(&name, None, Instant::now());
        }
        if answered {
            suspecting::last(shared, &tenant).await;
            read_again(shared, &tenant).await;
        }
    }
    shared.auditing.set(false);
    keep(shared);
}

/// Everything that may not be as it must, after the last upload of a stop.
pub async fn all(shared: &Shared) {
    if let Some(tenant) = shared.tenant() {
        suspecting::look(shared, &tenant).await;
        let all = || audit(shared, &tenant, tenant.ledger.unsure(Timestamp::now()), Duration::ZERO);
        all().await;
        // Once more what was put right only now.
        all().await;
    }
}

/// Deletions, before an rclone lists the bucket: what it forgot would be seen again.
pub async fn deletions(shared: &Shared) {
    if let Some(tenant) = shared.tenant() {
        audit(shared, &tenant, tenant.ledger.absent(Timestamp::now()), Duration::ZERO).await;
    }
}

/// [`deletions`], and what the bucket has in place of a cached file, which the next rclone would throw away then.
pub async fn before_a_listing(shared: &Shared) {
    in_time(deletions(shared)).await;
    let Some(tenant) = shared.tenant() else { return };
    // In a large bucket the folders that are read again have their own look.
    let _ = tokio::time::timeout(SUSPECTED_LIMIT, suspecting::look(shared, &tenant)).await;
    let doubtful = tenant.ledger.doubtful(Timestamp::now());
    if !doubtful.is_empty() {
        // Nothing can be listed before; a large file takes as long as it takes.
        audit(shared, &tenant, doubtful, Duration::ZERO).await;
    }
}

/// Files that must not be listed: the bucket may have something else, and nobody has been able to look.
pub fn doubted(shared: &Shared) -> Vec<String> {
    shared
        .tenant()
        .map(|tenant| tenant.ledger.doubted())
        .unwrap_or_default()
}

/// One of these for a launch, which does not wait for ever.
pub async fn in_time(work: impl Future<Output = ()>) {
    if tokio::time::timeout(LAUNCH_LIMIT, work).await.is_err() {
        tracing::warn!(
            event = "deletion_waits",
            "the bucket is slow: what is still to be deleted there may be seen until it is"
        );
    }
}

/// Keeps the journal in order.
pub fn keep(shared: &Shared) {
    let cache_dir = &shared.config.mount.cache_dir;
    if let Some(tenant) = shared.tenant()
        && let Err(error) = tenant.ledger.tidy(cache_dir)
        && cache_dir.is_dir()
    {
        tracing::error!(
            event = "ledger",
            "cannot keep the list of uploads and deletions for the next start in {}: {error}",
            cache_dir.display()
        );
    }
}

/// `pause`: as long a rename may be under way that nobody has told of. False when the bucket did not answer. For a read-only mount
/// nothing is put right: the bucket is as it is.
async fn audit(shared: &Shared, tenant: &Rc<Tenant>, names: Vec<(String, Entry)>, pause: Duration) -> bool {
    if shared.config.mount.is_read_only() {
        return true;
    }
    let mut waiting = names.into_iter();
    let mut asking = tokio::task::JoinSet::new();
    let mut most = 1;
    loop {
        while asking.len() < most
            && let Some((name, entry)) = waiting.next()
        {
            let (tenant, cache_dir) = (Rc::clone(tenant), shared.config.mount.cache_dir.clone());
            let session = shared.session();
            asking.spawn_local(async move {
                let audited = Audit {
                    ledger: tenant.ledger.clone(),
                    bucket: tenant.bucket(),
                    session,
                    cache_dir,
                    pause,
                    name,
                    entry,
                };
                let done = audited.run().await;
                (audited.name, done)
            });
        }
        match asking.join_next().await {
            Some(Ok((name, Ok(seen)))) => {
                most = AT_ONCE;
                match seen {
                    // rclone may have listed the folder meanwhile.
                    Seen::Changed => stale(shared, folder_of(&name)),
                    Seen::Own(object) => {
                        let object = object.as_ref().map(|head| (head.size, head.etag.as_str()));
                        shared.own_changes.borrow_mut().saw(&name, object, Instant::now());
                    }
                    Seen::Other => {}
                }
            }
            Some(Ok((name, Err(error)))) => {
                if error.is_about_the_name() && tenant.bucket().probe().await.is_ok() {
                    tracing::error!(
                        event = "object_unanswerable",
                        object = name,
                        "{name} cannot be compared with the bucket: {error}"
                    );
                    tenant.ledger.abandon(&name, Timestamp::now());
                    continue;
                }
                // There is no use in asking for the rest.
                tracing::debug!(event = "audit_waits", object = name, "{error}");
                return false;
            }
            _ => return true,
        }
    }
}

/// What an audit of a name came to.
enum Seen {
    /// The bucket is as this machine has left it: with this object, or none.
    Own(Option<Head>),
    /// The bucket was changed.
    Changed,
    Other,
}

/// One name.
struct Audit {
    ledger: Ledger,
    bucket: Bucket,
    session: Option<Session>,
    cache_dir: std::path::PathBuf,
    pause: Duration,
    name: String,
    entry: Entry,
}

impl Audit {
    async fn run(&self) -> Result<Seen, StorageError> {
        let (name, entry) = (self.name.as_str(), &self.entry);
        let cached = match entry.wanted {
            Wanted::Absent => Cached::Not,
            Wanted::Uploaded | Wanted::Copied | Wanted::Doubtful => self.cached().await,
        };
        if cached == Cached::Unsent {
            self.ledger.wait_for_upload(name, entry);
            return Ok(Seen::Other);
        }
        let head = self.bucket.head(name).await?;
        // The name may have been used again while the bucket was asked.
        if !self.ledger.stands(name, entry) {
            return Ok(Seen::Other);
        }
        let mut found = head.as_ref().map(|head| self.object(head));
        if let Some(object) = found.as_mut().filter(|object| !object.ours) {
            object.ours = self.is_copied_here(object).await?;
        }
        match audit::judge(entry.wanted, found.as_ref(), &cached, entry.may_be_lost()) {
            Finding::AsWanted => {
                let whole = matches!(cached, Cached::Whole { .. });
                if entry.wanted == Wanted::Copied && whole && !entry.seen {
                    self.ledger.remember_copy(name, entry, Timestamp::now());
                } else {
                    self.ledger.settle(name, entry, Timestamp::now());
                }
                let own = found.as_ref().is_none_or(|object| object.ours);
                Ok(if own { Seen::Own(head) } else { Seen::Other })
            }
            Finding::Later => Ok(Seen::Other),
            Finding::Delete => self.delete(head.as_ref()).await,
            Finding::Restore(replaces) => {
                self.ledger.found_wrong(name);
                // Asked after the bucket was: what uploaded the object that was seen there has left the queue by now, or is in it.
                if self.rclone_is_at_it().await {
                    return Ok(Seen::Other);
                }
                self.restore(replaces.as_deref(), &cached).await
            }
            Finding::Elsewhere => {
                tracing::info!(
                    event = "changed_elsewhere",
                    object = name,
                    "{name} was changed elsewhere right after it was changed here; that stays as it is"
                );
                self.ledger.give_up(name, entry, Timestamp::now());
                Ok(Seen::Other)
            }
            Finding::Lost => {
                tracing::warn!(
                    event = "object_missing",
                    object = name,
                    "{name} was uploaded and is not in the bucket, and the cache has no copy of it: it was deleted elsewhere, or is lost"
                );
                self.ledger.settle(name, entry, Timestamp::now());
                if entry.removal() {
                    // What took it away was sent from here: the verdict names it, once.
                    self.ledger.found_wrong(name);
                }
                Ok(Seen::Other)
            }
        }
    }

    /// `found`: what is to go.
    async fn delete(&self, found: Option<&Head>) -> Result<Seen, StorageError> {
        let (name, entry) = (self.name.as_str(), &self.entry);
        if !self.pause.is_zero() {
            // A file may be on its way to this name (a rename, which is a copy in the bucket); rclone says so when it is done.
            tokio::time::sleep(self.pause).await;
            if self.bucket.head(name).await?.as_ref() != found {
                return Ok(Seen::Other);
            }
        }
        let Some(begun) = self.ledger.begin(name, entry, true, Timestamp::now()) else {
            return Ok(Seen::Other);
        };
        self.bucket.delete(name).await?;
        tracing::info!(
            event = "deletion_settled",
            object = name,
            "deleted in the bucket what rclone had left there: {name}"
        );
        self.ledger.answered(name, &begun, entry, Timestamp::now());
        self.ledger.settle(name, entry, Timestamp::now());
        Ok(Seen::Changed)
    }

    async fn restore(&self, replaces: Option<&str>, cached: &Cached) -> Result<Seen, StorageError> {
        let (name, entry) = (self.name.as_str(), &self.entry);
        if entry.wanted == Wanted::Doubtful && !self.pause.is_zero() {
            // The rename that it is doubted for may be tried once more; rclone says so when it is done.
            tokio::time::sleep(self.pause).await;
            if self.bucket.head(name).await?.as_ref().map(|head| head.etag.as_str()) != replaces {
                return Ok(Seen::Other);
            }
        }
        let Some(begun) = self.ledger.begin(name, entry, false, Timestamp::now()) else {
            return Ok(Seen::Other);
        };
        let file = cached::path(&self.cache_dir, self.bucket.name(), name);
        let placed = self
            .bucket
            .put_file(name, &file, replaces, &self.ledger.author())
            .await?;
        self.ledger.answered(name, &begun, entry, Timestamp::now());
        let Placed::Stored { etag } = placed else {
            // The next look says what is there by now.
            return Ok(Seen::Other);
        };
        let had = replaces.map_or("nothing", |_| "an older content");
        tracing::warn!(
            event = "upload_restored",
            object = name,
            "{name} was uploaded, and the bucket had {had} under its name: uploaded again"
        );
        if let Cached::Whole { md5: Some(md5), .. } = cached
            && *md5 != etag
            && audit::is_md5(&etag)
            && self.cached().await == *cached
        {
            self.ledger.etags_are_no_sums();
        }
        self.ledger.restored(name, entry, Timestamp::now());
        Ok(Seen::Changed)
    }

    /// Has rclone an upload under this name that it has not verified yet? (A stored file that is renamed over one that is
    /// uploaded does not end that upload.) If the object changes before it has, it takes its upload for one gone wrong, and
    /// removes what is there.
    async fn rclone_is_at_it(&self) -> bool {
        let Some(session) = &self.session else { return false };
        match session.queue().await {
            Ok(queue) => queue.items.iter().any(|item| item.name == self.name),
            Err(_) => session.exit_status().is_none(),
        }
    }

    /// A copy that a failed rename has made has the mark of whoever uploaded its source.
    async fn is_copied_here(&self, object: &Object) -> Result<bool, StorageError> {
        let Some(source) = self.ledger.source(&self.name) else {
            return Ok(false);
        };
        if let Some(head) = self.bucket.head(&source).await? {
            return Ok((head.size, &head.etag) == (object.size, &object.etag));
        }
        let Cached::Whole { size, md5 } = self.cached_of(source).await else {
            return Ok(false);
        };
        Ok(size == object.size && md5.is_some_and(|md5| md5 == object.etag))
    }

    async fn cached(&self) -> Cached {
        self.cached_of(self.name.clone()).await
    }

    async fn cached_of(&self, name: String) -> Cached {
        let (cache_dir, bucket) = (self.cache_dir.clone(), self.bucket.name().to_owned());
        let md5 = self.ledger.compares_sums();
        let read = tokio::task::spawn_blocking(move || cached::cached(&cache_dir, &bucket, &name, md5)).await;
        match read.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            Ok(cached) => cached,
            Err(error) => {
                tracing::debug!(
                    event = "audit",
                    object = self.name,
                    "the cached file cannot be read: {error}"
                );
                Cached::Not
            }
        }
    }

    fn object(&self, head: &Head) -> Object {
        // The store's clock counts; a later object is somebody's new one.
        let skew = self.bucket.clock_skew().unwrap_or_default() + CLOCK_PRECISION;
        Object {
            size: head.size,
            etag: head.etag.clone(),
            ours: head.author.as_deref() == Some(self.ledger.author().as_str()),
            before: head.modified <= self.entry.since + skew,
        }
    }
}

/// `folder` is not in the bucket as rclone has it.
pub(super) fn stale(shared: &Shared, folder: &str) {
    let mut folders = shared.stale_folders.borrow_mut();
    folders.entry(folder.to_owned()).or_insert_with(Instant::now);
}

/// Reads again the folders in which objects were changed behind rclone's back. It forgets what it knew of them, deleted names
/// included, and throws away what is cached of a file that has another object now: so not while something may arrive there that
/// nobody wants.
async fn read_again(shared: &Shared, tenant: &Rc<Tenant>) {
    let mut answers = false;
    let folders = shared.stale_folders.borrow().clone();
    if !folders.is_empty() && !suspecting::look(shared, tenant).await {
        return;
    }
    for (folder, since) in folders {
        let Some(session) = shared.session() else { return };
        let risks = tenant.ledger.at_risk(&folder, Timestamp::now());
        let deletions = risks
            .iter()
            .any(|(_, entry)| entry.wanted == Wanted::Absent && !entry.seen);
        let waits = risks.iter().any(|(_, entry)| entry.waits(Timestamp::now()));
        if deletions || waits || (!risks.is_empty() && since.elapsed() < PATIENCE) {
            continue;
        }
        // Attempts have failed again and again. Then it must be right at least as it is now.
        let names: Vec<_> = risks.iter().map(|(name, _)| name.clone()).collect();
        if !audit(shared, tenant, risks, RENAME).await || names.iter().any(|name| tenant.ledger.is_wrong(name)) {
            continue;
        }
        // Whoever looks into the folder waits while it is being read, and if the bucket falls silent then, for long.
        answers = answers || tenant.bucket().probe().await.is_ok();
        if !answers {
            return;
        }
        shared.stale_folders.borrow_mut().remove(&folder);
        // A folder that is gone cannot be refreshed, and need not be.
        if let Err(error) = session.refresh(&folder).await
            && !error.is_not_there()
        {
            tracing::debug!(event = "relisted", folder, "the folder cannot be read again: {error}");
            stale(shared, &folder);
            if matches!(error, RcError::Silent { .. }) {
                return;
            }
        }
    }
}
