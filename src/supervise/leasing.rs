//! The lease: taken, bound to the bucket, defended.
//!
//! It protects the files as much as the index, so it is taken whenever there is a database, also for another app than
//! basic-memory. The bucket keeps the database's identity (`.tenant-init/binding.json`): a tenant's bucket with another
//! tenant's database is refused before anything is written on either side.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::core::event::{Event, Failure, IndexEvent, LeaseRefusal, LeaseTaken};
use crate::exit::Exit;
use crate::index::{Granted, LeaseError, Remote, lease};
use crate::mount;
use crate::storage::Bucket;
use crate::supervise::effects::Shared;
use crate::supervise::identity;
use crate::supervise::indexing::{CALL, Indexing};

/// Giving the lease back is a courtesy to the next machine: not worth more of a stop's time.
pub(super) const RELEASE: Duration = Duration::from_secs(5);

/// Which database the bucket belongs to.
const BINDING: &str = ".tenant-init/binding.json";

/// The object of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Binding {
    version: u32,
    database_id: String,
}

impl Binding {
    /// What the bucket called `name` says; `None` when it is bound to no database yet.
    ///
    /// # Errors
    /// A bucket that does not answer, or an object that cannot be read.
    pub(super) async fn read(bucket: &Bucket, name: &str, remote: &Remote) -> Result<Option<Binding>, Failure> {
        let bytes = bucket
            .read_small(BINDING)
            .await
            .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
        let Some(bytes) = bytes else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let words = format!(
                "{BINDING} in bucket {name} cannot be read ({error}): it says which database the bucket belongs to. \
                 Delete it if you are sure that {} is this tenant's database",
                remote.url()
            );
            Failure::new(Exit::Refused, words)
        })
    }
}

/// `Action::TakeLease`
pub async fn take_lease(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let Some(indexing) = &tenant.index else { return };
    let started = Instant::now();
    let bound_to = indexing
        .binding
        .borrow()
        .as_ref()
        .map(|binding| binding.database_id.clone());
    let taken = ask(&shared.config.mount.cache_dir, indexing, bound_to.as_deref()).await;
    let latency = started.elapsed();
    let result = match taken {
        Ok(granted) => {
            tracing::info!(
                event = "lease_taken",
                epoch = granted.epoch,
                from = granted.previous.as_deref().unwrap_or("nobody"),
                expired = granted.expired,
                "the tenant's lease is ours (epoch {}){}",
                granted.epoch,
                match (&granted.previous, granted.expired) {
                    (Some(previous), true) => format!("; {previous} had not given it back"),
                    _ => String::new(),
                }
            );
            finish_lease(&shared, indexing, &tenant.bucket(), granted, latency).await
        }
        Err(LeaseError::Held { holder, expires_in }) => Err(LeaseRefusal::Held { holder, expires_in }),
        Err(error) => Err(LeaseRefusal::Failed(lease_failure(&error))),
    };
    indexing.answered.set(Instant::now());
    shared.send(Event::Index(IndexEvent::Lease(result)));
}

/// Asks for the lease, and keeps on the disk that it did: a grant whose answer is lost leaves an epoch that nobody knows to be
/// ours, and the next start would take it for another machine's.
async fn ask(cache_dir: &Path, indexing: &Indexing, bound_to: Option<&str>) -> Result<Granted, LeaseError> {
    let (remote, claimant) = (&indexing.remote, &indexing.claimant);
    if identity::waits_for_an_answer(cache_dir)
        && let Some(taken) = lease::last_taken(remote, CALL).await?
    {
        identity::heard(cache_dir, &claimant.holder, &taken);
    }
    identity::note_asked(cache_dir, true);
    let answer = lease::acquire(remote, claimant, bound_to, CALL).await;
    if let Err(LeaseError::Held { .. } | LeaseError::OtherTenant(_)) = &answer {
        identity::note_asked(cache_dir, false);
    }
    answer
}

async fn finish_lease(
    shared: &Shared,
    indexing: &Indexing,
    bucket: &Bucket,
    granted: Granted,
    latency: Duration,
) -> Result<LeaseTaken, LeaseRefusal> {
    let binding = Binding {
        version: 1,
        database_id: granted.database_id.clone(),
    };
    if indexing.binding.borrow().as_ref() != Some(&binding) {
        let bytes = serde_json::to_vec_pretty(&binding).unwrap_or_default();
        if let Err(error) = bucket.write_small(BINDING, bytes).await {
            // Not ours to keep if the bucket cannot be bound: the next start would not know either.
            drop(lease::release(&indexing.remote, granted.epoch, RELEASE).await);
            let words = format!("cannot note in the bucket which database it belongs to: {error}");
            return Err(LeaseRefusal::Failed(Failure::new(error.exit(), words)));
        }
        *indexing.binding.borrow_mut() = Some(binding);
    }
    let cache_dir = &shared.config.mount.cache_dir;
    if identity::another_machine_wrote_since(cache_dir, &granted.database_id, granted.epoch) {
        // What was to be deleted or uploaded then is not ours to decide any more.
        shared.mounter_ended.set(None);
        if let Some(tenant) = shared.tenant() {
            let failed = |error| {
                let words = format!("{}: the ledger cannot be written: {error}", cache_dir.display());
                LeaseRefusal::Failed(Failure::new(Exit::Machine, words))
            };
            tenant.ledger.forget(cache_dir).map_err(failed)?;
        }
        match mount::set_aside(cache_dir, &indexing.claimant.bucket, granted.epoch) {
            Ok(None) => {}
            Ok(Some(aside)) => tracing::error!(
                event = "writes_set_aside",
                files = aside.names.join(", "),
                "another machine has run this tenant since: {} file(s) that this disk had not uploaded are kept in {} and not uploaded, \
                 because they could replace newer ones: {}",
                aside.names.len(),
                aside.path.display(),
                aside.names.join(", ")
            ),
            Err(error) => {
                let words = format!(
                    "{} holds writes from before another machine ran this tenant, and they cannot be moved aside: {error}",
                    cache_dir.display()
                );
                return Err(LeaseRefusal::Failed(Failure::new(Exit::Machine, words)));
            }
        }
    }
    identity::note(cache_dir, &granted.database_id, granted.epoch);
    let taken = LeaseTaken {
        epoch: granted.epoch,
        latency,
        position: granted.position,
    };
    *indexing.granted.borrow_mut() = Some(granted);
    Ok(taken)
}

pub(super) fn lease_failure(error: &LeaseError) -> Failure {
    Failure::new(error.exit(), error.to_string())
}

/// `Action::Fence`
pub fn fence(shared: &Shared) {
    shared.fenced.set(true);
    if let Some(session) = shared.session()
        && let Some(guard) = session.guard()
    {
        guard.set_read_only(Some(mount::guard::ReadOnlyReason::LeaseLost));
    }
}
