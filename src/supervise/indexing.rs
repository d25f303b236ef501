//! The tenant's database, and the local index file: opened, watched, put aside. What is decided is `core::index`'s, the work
//! is `crate::index`'s. The lease is `leasing`'s, the outbox `shipping`'s.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::app::command;
use crate::config::Config;
use crate::core::event::{Event, Failure, IndexEvent, IndexOpened};
use crate::credentials::Bundle;
use crate::exit::Exit;
use crate::index::{self, Claimant, Granted, How, OpenError, Opened, Remote, ShipLimits, Shipper, open};
use crate::storage::Bucket;
use crate::supervise::effects::Shared;
use crate::supervise::identity;
use crate::supervise::leasing::Binding;
use crate::supervise::prepare;

/// One request to the database may take this long.
pub(super) const CALL: Duration = Duration::from_secs(10);

/// The tenant's database and what we hold of it.
pub struct Indexing {
    pub(super) remote: Remote,
    pub(super) claimant: Claimant,
    /// What the bucket says, once it was asked.
    pub(super) binding: RefCell<Option<Binding>>,
    pub(super) granted: RefCell<Option<Granted>>,
    /// `None` before the local file is open, and for an app whose index we do not keep.
    pub(super) shipper: tokio::sync::Mutex<Option<Shipper>>,
    /// basic-memory's database file; `None` for another app.
    pub(super) path: Option<PathBuf>,
    watcher: RefCell<Option<JoinHandle<()>>>,
    /// The last answer of the database.
    pub(super) answered: Cell<Instant>,
}

impl Indexing {
    /// Reads the bucket's binding. `None` without a database.
    ///
    /// # Errors
    /// A bucket that does not answer, or a binding that cannot be read.
    pub async fn prepare(
        config: &Config,
        bundle: &Bundle,
        remote: Option<Remote>,
        bucket: &Bucket,
    ) -> Result<Option<Indexing>, Failure> {
        let Some(remote) = remote else {
            return Ok(None);
        };
        let binding = Binding::read(bucket, &bundle.storage.bucket, &remote).await?;
        Ok(Some(Indexing {
            remote,
            claimant: Claimant {
                tenant: prepare::tenant_id(config, bundle),
                bucket: bundle.storage.bucket.clone(),
                holder: identity::holder(&config.mount.cache_dir),
                ttl: config.index.lease_ttl,
            },
            binding: RefCell::new(binding),
            granted: RefCell::default(),
            shipper: tokio::sync::Mutex::default(),
            path: command::is_basic_memory(config).then(|| command::index_file(config)),
            watcher: RefCell::default(),
            answered: Cell::new(Instant::now()),
        }))
    }

    /// What is committed locally and not in the database. 0 where nothing is kept there.
    pub async fn pending(&self) -> u64 {
        let Some(path) = self.path.as_deref().filter(|path| path.exists()) else {
            return 0;
        };
        let pending = match self.shipper.lock().await.as_ref() {
            Some(shipper) => shipper.pending(),
            // Never opened in this life: what an earlier one left, perhaps with some that is in the database already.
            None => index::pending(path, 0),
        };
        match pending {
            Ok(pending) => pending.transactions,
            Err(error) => {
                tracing::error!(
                    event = "index_unreadable",
                    "cannot tell what of the index is not stored: {error}"
                );
                1
            }
        }
    }

    pub(super) fn epoch(&self) -> Option<u64> {
        self.granted.borrow().as_ref().map(|granted| granted.epoch)
    }

    pub(super) fn stop_watching(&self) {
        if let Some(watcher) = self.watcher.borrow_mut().take() {
            watcher.abort();
        }
    }
}

/// `Action::OpenIndex`
pub async fn open_index(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let Some(indexing) = &tenant.index else { return };
    let granted = indexing.granted.borrow().clone();
    let (Some(path), Some(granted)) = (&indexing.path, granted) else {
        return;
    };
    let result = match prepare_directory(&shared, tenant.owner) {
        Ok(()) => open::open(path, tenant.owner, &indexing.remote, &granted, CALL).await,
        Err(failure) => return shared.send(Event::Index(IndexEvent::Opened(Err(failure)))),
    };
    let result = opened(&shared, indexing, result).await;
    shared.send(Event::Index(IndexEvent::Opened(result)));
}

/// `Action::RebuildIndex`
pub async fn rebuild_index(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let path = command::index_file(&shared.config);
    let aside = match index::put_aside(&path) {
        Ok(aside) => aside,
        Err(error) => {
            let words = format!("the broken index {} cannot be put aside: {error}", path.display());
            let failure = Failure::new(Exit::Machine, words);
            return shared.send(Event::Index(IndexEvent::Opened(Err(failure))));
        }
    };
    tracing::warn!(
        event = "index_put_aside",
        "the index that the app could not start on is kept as {}",
        aside.display()
    );
    let result = match &tenant.index {
        // Without a database basic-memory makes its own file.
        None => Ok(IndexOpened { reseed: None }),
        Some(indexing) => {
            let granted = indexing.granted.borrow().clone();
            let Some(granted) = granted else { return };
            let why = "the app could not start on the index it had";
            let made = open::rebuild(&path, tenant.owner, &indexing.remote, &granted, why).await;
            opened(&shared, indexing, made).await
        }
    };
    shared.send(Event::Index(IndexEvent::Opened(result)));
}

fn prepare_directory(shared: &Shared, owner: (u32, u32)) -> Result<(), Failure> {
    let directory = &shared.config.app.config_dir;
    super::application::make_directory(directory, owner).map_err(|error| {
        let words = format!(
            "cannot make {}: {error}. app.config_dir must be a writable local directory",
            directory.display()
        );
        Failure::new(Exit::Config, words)
    })
}

async fn opened(
    shared: &Rc<Shared>,
    indexing: &Indexing,
    result: Result<Opened, OpenError>,
) -> Result<IndexOpened, Failure> {
    let opened = result.map_err(|error| Failure::new(error.exit(), error.to_string()))?;
    indexing.answered.set(Instant::now());
    let (event, words, reseed) = described(&opened);
    tracing::info!(
        event,
        position = opened.position,
        milliseconds = opened.took.as_millis() as u64,
        "{words}"
    );
    if opened.discarded > 0 {
        tracing::warn!(
            event = "index_discarded",
            transactions = opened.discarded,
            "{} transaction(s) of this disk's index were never shipped and another machine has written since: they are dropped, \
             the notes themselves are indexed again",
            opened.discarded
        );
    }
    let granted = indexing.granted.borrow().clone();
    let (Some(path), Some(granted)) = (&indexing.path, granted) else {
        return Ok(IndexOpened { reseed });
    };
    if shared.config.app.semantic_search {
        embed_what_is_not(path).await;
    }
    let limits = ShipLimits {
        outbox_bytes: shared.config.index.outbox_max_bytes,
        ..ShipLimits::default()
    };
    let shipper = Shipper::new(
        indexing.remote.clone(),
        path,
        &granted,
        &opened,
        shared.config.index.lease_ttl,
        limits,
    );
    *indexing.shipper.lock().await = Some(shipper);
    indexing.stop_watching();
    let watcher = tokio::task::spawn_local(watch(Rc::clone(shared), path.clone()));
    *indexing.watcher.borrow_mut() = Some(watcher);
    Ok(IndexOpened { reseed })
}

/// Has basic-memory embed the notes of an index that came without embeddings.
async fn embed_what_is_not(path: &Path) {
    match index::mark_missing_embeddings(path).await {
        Ok(0) => {}
        Ok(notes) => tracing::info!(
            event = "index_without_embeddings",
            notes,
            "{notes} note(s) have no embeddings on this disk: they are computed in the background, until then a search finds them by words"
        ),
        Err(error) => tracing::warn!(
            event = "index_without_embeddings",
            "notes that have no embeddings yet are found only by words ({error}); 'basic-memory reindex --embeddings' computes them"
        ),
    }
}

fn described(opened: &Opened) -> (&'static str, String, Option<String>) {
    let seconds = opened.took.as_secs_f64();
    match &opened.how {
        How::Continued { queued } => (
            "index_continued",
            format!("the local index is continued; {queued} change(s) wait for the database"),
            None,
        ),
        How::Restored { rows } => (
            "index_restored",
            format!("the index was restored from the database: {rows} row(s) in {seconds:.2} s"),
            None,
        ),
        How::Fresh => ("index_fresh", "the index is new and empty".into(), None),
        How::Rebuild(why) => (
            "index_rebuilt",
            format!("{why}: the index is built anew from the notes"),
            Some(why.clone()),
        ),
        How::Reseed(why) => (
            "index_continued",
            format!("the local index is continued; {why}"),
            Some(why.clone()),
        ),
    }
}

/// Tells the core whenever the app has committed.
async fn watch(shared: Rc<Shared>, path: PathBuf) {
    let mut watch = match index::watch::Watch::new(&path) {
        Ok(watch) => watch,
        Err(error) => {
            tracing::error!(
                event = "index_unwatched",
                "changes of the index are shipped only with the lease's renewal, because its file cannot be watched: {error}"
            );
            return;
        }
    };
    loop {
        if let Err(error) = watch.written().await {
            tracing::error!(
                event = "index_unwatched",
                "the index file is no longer watched: {error}"
            );
            return;
        }
        shared.send(Event::Index(IndexEvent::Written));
    }
}
