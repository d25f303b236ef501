//! Credentials and preconditions, and the probes of what the tenant depends on.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;

use crate::app::command;
use crate::app::projects::{self, Saved};
use crate::config::{Config, Environment};
use crate::core::audit::Wanted;
use crate::core::event::{Driver, Event, Failure, Prepared};
use crate::core::policy::STORAGE_PATIENCE;
use crate::credentials::{self, Bundle};
use crate::exit::Exit;
use crate::index::Remote;
use crate::mount::{self, Entry, Ledger};
use crate::preflight::{self, Outcome, Scope};
use crate::storage::{Bucket, StorageError, Timeouts};
use crate::supervise::effects::Shared;
use crate::supervise::indexing::Indexing;
use crate::supervise::relisting::Listing;
use crate::supervise::suspecting::Ended;
use crate::supervise::{Keys, finish, identity, keys, relisting, warm};

/// See `probe_storage`.
const ANSWERS_FIRST: Duration = Duration::from_millis(50);

/// What is known of the tenant once its preconditions hold.
pub struct Tenant {
    /// Replaced when there are new keys.
    pub bundle: RefCell<Bundle>,
    /// The same bucket with the newest key: see `bucket()`.
    pub(super) bucket: RefCell<Bucket>,
    /// The index database and the lease, if the tenant has one.
    pub index: Option<Indexing>,
    pub driver: Driver,
    /// uid and gid that own the files of the mount: the app's.
    pub owner: (u32, u32),
    /// The list of projects that the bucket has, as far as we know.
    projects: RefCell<Option<Saved>>,
    /// What the bucket must have, as far as nobody has seen it there.
    pub ledger: Ledger,
}

impl Tenant {
    /// The bucket, opened with the newest key.
    pub fn bucket(&self) -> Bucket {
        self.bucket.borrow().clone()
    }

    /// The list of projects the bucket remembers; `None` for a new tenant.
    pub async fn saved_projects(&self) -> Result<Option<Saved>, Failure> {
        let Some(bytes) = self
            .bucket()
            .read_small(projects::OBJECT)
            .await
            .map_err(|e| Failure::new(e.exit(), e.to_string()))?
        else {
            return Ok(None);
        };
        match serde_json::from_slice::<Saved>(&bytes) {
            Ok(saved) => {
                *self.projects.borrow_mut() = Some(saved.clone());
                Ok(Some(saved))
            }
            Err(error) => {
                tracing::warn!(
                    event = "projects_unreadable",
                    "{} in the bucket is not readable ({error}): starting with the project main",
                    projects::OBJECT
                );
                Ok(None)
            }
        }
    }

    /// Keeps `saved` in the bucket unless it is there already. A failure is tried again at the next look.
    pub async fn save_projects(&self, saved: Saved) {
        if self.projects.borrow().as_ref() == Some(&saved) {
            return;
        }
        let Ok(bytes) = serde_json::to_vec_pretty(&saved) else {
            return;
        };
        match self.bucket().write_small(projects::OBJECT, bytes).await {
            Ok(()) => *self.projects.borrow_mut() = Some(saved),
            Err(error) => tracing::warn!(
                event = "projects_not_saved",
                "the list of projects is not in the bucket yet: {error}"
            ),
        }
    }
}

/// `Action::Prepare`
pub async fn prepare(shared: Rc<Shared>) {
    warm::begin(&shared);
    let result = match examine(&shared).await {
        Ok((tenant, prepared, listing)) => {
            *shared.tenant.borrow_mut() = Some(Rc::new(tenant));
            tokio::task::spawn_local(keys::watch(Rc::clone(&shared)));
            tokio::task::spawn_local(relisting::watch(Rc::clone(&shared), listing));
            Ok(prepared)
        }
        Err(failure) => Err(failure),
    };
    shared.send(Event::Prepared(result));
}

async fn examine(shared: &Rc<Shared>) -> Result<(Tenant, Prepared, Listing), Failure> {
    let config = &shared.config;
    let bundle = match &shared.keys {
        Keys::Given(bundle) => (**bundle).clone(),
        Keys::Configured => credentials::fetch(config, &Environment::process())
            .await
            .map_err(|error| Failure::new(error.exit(), error.to_string()))?,
    };
    *shared.bucket.borrow_mut() = Some(bundle.storage.bucket.clone());
    may_use_cache(config)?;
    let earlier = finish::found(config, &bundle.storage.bucket);
    if earlier.cut_short {
        let ended = Ended::before(&config.mount.cache_dir, &bundle.storage.bucket);
        shared.mounter_ended.set(ended);
    }
    tracing::info!(
        event = "credentials",
        bucket = bundle.storage.bucket,
        endpoint = bundle.storage.endpoint,
        "credentials found"
    );
    let bucket = Bucket::connect(&bundle.storage, Timeouts::REPEATED)
        .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
    let listing = relisting::first(shared, &bucket);
    let remote = bundle
        .index
        .as_ref()
        .map(Remote::connect)
        .transpose()
        .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
    // The checks also open the connections that are used next.
    let (findings, index) = tokio::join!(
        preflight::run(config, Ok(&bundle), remote.as_ref(), Scope::Start),
        Indexing::prepare(config, &bundle, remote.clone(), &bucket),
    );
    for finding in &findings {
        if let Outcome::Warning = finding.outcome {
            let advice = finding.advice.as_deref().unwrap_or_default();
            tracing::warn!(event = "check", check = finding.name, "{}; {advice}", finding.detail);
        }
    }
    if let Some((exit, words)) = preflight::verdict(&findings) {
        return Err(Failure::new(exit, words));
    }
    let local = config.mount.local.is_some();
    let (driver, why) = mount::choose(config.mount.driver, &mount::Kernel::read(), local)
        .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
    tracing::info!(event = "driver", driver = driver.name(), "mounting with {why}");
    let index = index?;
    let prepared = Prepared {
        tenant: tenant_id(config, &bundle),
        driver,
        has_database: index.is_some(),
        has_index: command::is_basic_memory(config),
        found_pending: earlier.unsent,
        keys_valid_for: keys::valid_for(&bundle),
    };
    let ledger = Ledger::load(&config.mount.cache_dir, &bundle.storage.bucket);
    let tenant = Tenant {
        owner: owner(config)?,
        bundle: RefCell::new(bundle),
        bucket: RefCell::new(bucket),
        index,
        driver,
        projects: RefCell::default(),
        ledger,
    };
    Ok((tenant, prepared, listing))
}

/// May a local mount use its cache directory? Asked early, and again when nobody else can change it any more.
pub(super) fn may_use_cache(config: &Config) -> Result<(), Failure> {
    let (mount, shown) = (&config.mount, config.mount.cache_dir.display());
    let refused = |words: String| Err(Failure::new(Exit::Config, words));
    if mount.local.is_some() && identity::held_a_lease(&mount.cache_dir) {
        // What it has not sent yet may be older than what another machine of the tenant has written since. A tenant asks the lease.
        return refused(format!(
            "{shown} is the cache directory of a tenant that `tenant-init run` has served here: a local mount needs another one. Set \
             TENANT_INIT_MOUNT__CACHE_DIR, or take mount.cache_dir out of the configuration file"
        ));
    }
    // In its own cache directory nothing can be anybody's write.
    if !mount.is_read_only() || mount.has_own_cache() || !(finish::anything_left(config) || is_unsettled(config)) {
        return Ok(());
    }
    refused(format!(
        "{shown} has files that may have to be uploaded, and a read-only mount uploads nothing. If they are of a mount that writes, start that \
         once without --read-only and stop it. For a read-only mount, leave mount.cache_dir unset: then it has a cache directory of its own"
    ))
}

/// Are there names in the cache directory of which it is not certain that the bucket has them as they were left here?
fn is_unsettled(config: &Config) -> bool {
    let kept = |entry: &Entry| matches!(entry.wanted, Wanted::Uploaded | Wanted::Doubtful);
    let ledgers = Ledger::load_all(&config.mount.cache_dir);
    ledgers.iter().any(|ledger| {
        let unsure = ledger.unsure(Timestamp::now());
        !ledger.unsettled().is_empty() || unsure.iter().any(|(_, entry)| kept(entry))
    })
}

/// The tenant's id, from whoever names it; empty when nobody does. Preflight has seen that they do not contradict.
pub(super) fn tenant_id(config: &Config, bundle: &Bundle) -> String {
    let configured = config.tenant.id.clone();
    configured.or_else(|| bundle.tenant_id.clone()).unwrap_or_default()
}

/// Whoever typed `sudo tenant-init mount`.
fn behind_sudo() -> Option<(u32, u32)> {
    let id = |name| std::env::var(name).ok()?.parse().ok();
    Some((id("SUDO_UID")?, id("SUDO_GID")?))
}

/// Who owns the files: the app's user when we may change to it, else ourselves. Of a local mount: whoever asked for it.
fn owner(config: &Config) -> Result<(u32, u32), Failure> {
    use nix::unistd::{User, getegid, geteuid};
    if config.mount.local.is_some() && geteuid().is_root() {
        return Ok(behind_sudo().unwrap_or((0, 0)));
    }
    if !geteuid().is_root() {
        return Ok((geteuid().as_raw(), getegid().as_raw()));
    }
    let name = &config.app.user;
    let found = match name.parse::<u32>() {
        Ok(uid) => User::from_uid(uid.into()),
        Err(_) => User::from_name(name),
    };
    match found {
        Ok(Some(user)) => Ok((user.uid.as_raw(), user.gid.as_raw())),
        Ok(None) => Err(Failure::new(
            Exit::Config,
            format!(
                "app.user = {name}: there is no such user. Create it (useradd {name}) or set app.user to one that exists"
            ),
        )),
        Err(error) => Err(Failure::new(
            Exit::Machine,
            format!("app.user = {name}: cannot look the user up: {error}"),
        )),
    }
}

/// `Action::ProbeStorage`
pub async fn probe_storage(shared: Rc<Shared>, well: bool) {
    let Some(tenant) = shared.tenant() else { return };
    let pulse = tenant.bucket().pulse(well);
    let mut probing = std::pin::pin!(pulse.ask());
    let patience = async {
        tokio::time::sleep(STORAGE_PATIENCE).await;
        // A process that was not scheduled for a while finds its timers and its answers at the same time: answers first.
        tokio::time::sleep(ANSWERS_FIRST).await;
    };
    let answered = tokio::select! {
        biased;
        result = &mut probing => Some(result),
        () = patience => None,
    };
    let result = match answered {
        Some(result) => result,
        None => {
            let error = pulse.silent(STORAGE_PATIENCE);
            shared.send(Event::StorageSilent(Failure::new(error.exit(), error.to_string())));
            probing.await
        }
    };
    shared.send(Event::Storage(match result {
        Ok(probe) => Ok(probe.latency),
        // A machine that was frozen wakes up with an old clock. That passes; it says nothing about the key.
        Err(error @ StorageError::Clock { .. }) => Err(Failure::new(Exit::Unavailable, error.to_string())),
        Err(error @ StorageError::SlowDown { .. }) => Err(Failure::slow_down(error.to_string())),
        Err(error) => Err(Failure::new(error.exit(), error.to_string())),
    }));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::config::{Local, Sources, load};

    fn config(cache: &Path, own: bool, read_only: bool) -> Config {
        let cache_dir = cache.to_str().unwrap();
        let local = Some(Local::new(Some("notes"), read_only));
        let environment = [("HOME", "/home/u"), ("TENANT_INIT_MOUNT__CACHE_DIR", cache_dir)];
        let environment = environment.into_iter().collect();
        let mut config = load(&Sources {
            uid: 1000,
            environment,
            local,
            ..Sources::default()
        })
        .unwrap();
        config.mount.local.as_mut().unwrap().own_cache = own;
        config
    }

    fn code(config: &Config) -> Option<u8> {
        may_use_cache(config).err().map(|failure| failure.exit.code())
    }

    #[test]
    fn a_read_only_mount_refuses_what_may_be_anothers_write_and_not_its_own_leavings() {
        let cache = tempfile::tempdir().unwrap();
        let refused = || {
            assert_eq!(code(&config(cache.path(), true, true)), None, "its own place");
            assert_eq!(code(&config(cache.path(), false, false)), None, "it sends them");
            code(&config(cache.path(), false, true))
        };
        assert_eq!(refused(), None);
        let journal = cache.path().join("ledger-notes.jsonl");
        let line = |wanted: &str, more: &str| {
            let line = format!(r#"{{"name":"a.md","wanted":"{wanted}","since":"2026-01-01T00:00:00Z"{more}}}"#);
            fs::write(&journal, line).unwrap();
        };
        line("uploaded", "");
        assert_eq!(refused(), Some(78), "nobody has seen it in the bucket");
        line("absent", "");
        assert_eq!(refused(), Some(78), "nobody has seen it gone");
        line("uploaded", r#","seen":true,"risk":"2096-01-01T00:00:00Z""#);
        assert_eq!(refused(), Some(78), "an older content may still arrive");
        line("copied", r#","seen":true,"risk":"2096-01-01T00:00:00Z""#);
        assert_eq!(refused(), None);
        let meta = cache.path().join("vfsMeta/tenant/notes/torn.md");
        let file = cache.path().join("vfs/tenant/notes/torn.md");
        for (path, text) in [(meta, ""), (file, "torn")] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        assert_eq!(refused(), Some(78));
    }

    #[test]
    fn the_cache_directory_of_a_tenant_with_a_lease_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        identity::note(cache.path(), "database", 3);
        for read_only in [false, true] {
            assert_eq!(code(&config(cache.path(), false, read_only)), Some(78));
        }
        let mut tenant = config(cache.path(), false, false);
        tenant.mount.local = None;
        assert_eq!(code(&tenant), None);
    }
}
