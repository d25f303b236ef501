//! New keys as an effect: ask the source, try what it has, put it where the present ones are.
//!
//! A bundle may bring new keys, never another tenant, bucket or database: those are what this life was checked and mounted
//! for. A key that does not open the bucket is not taken, so that a mistake in a rotation changes nothing.

use std::rc::Rc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};

use crate::config::{Credentials, Environment};
use crate::core::event::{Event, Failure, KeysAnswer};
use crate::credentials::{self, Bundle, Storage};
use crate::exit::Exit;
use crate::storage::{Bucket, Timeouts};
use crate::supervise::Keys;
use crate::supervise::effects::Shared;
use crate::supervise::prepare::Tenant;

/// `Action::FetchKeys`
pub async fn fetch(shared: Rc<Shared>) {
    let Some(tenant) = shared.tenant() else { return };
    let answer = match &shared.keys {
        // Made by ourselves for this life.
        Keys::Given(_) => Ok(KeysAnswer::default()),
        Keys::Configured => match credentials::fetch(&shared.config, &Environment::process()).await {
            Ok(fresh) => take(&tenant, fresh).await,
            Err(error) => {
                let words = format!("there are no new keys, the present ones are kept: {error}");
                Err(Failure::new(error.exit(), words))
            }
        },
    };
    shared.send(Event::Keys(answer));
}

async fn take(tenant: &Tenant, fresh: Bundle) -> Result<KeysAnswer, Failure> {
    let present = tenant.bundle.borrow().clone();
    if let Some(what) = other_tenant(&present, &fresh) {
        let words = format!(
            "the new keys are for another {what} than this tenant was started for; the present ones are kept. Start the tenant again to move it"
        );
        return Err(Failure::new(Exit::Refused, words));
    }
    let storage = !same_key(&present.storage, &fresh.storage);
    if storage {
        let bucket = Bucket::connect(&fresh.storage, Timeouts::REPEATED)
            .map_err(|error| Failure::new(error.exit(), error.to_string()))?;
        if let Err(error) = bucket.probe().await {
            let words = format!("the new key is not taken yet: {error}");
            return Err(Failure::new(error.exit(), words));
        }
        *tenant.bucket.borrow_mut() = bucket;
    }
    let token = |bundle: &Bundle| bundle.index.as_ref().and_then(|index| index.auth_token.clone());
    let index = !same_secret(token(&present).as_ref(), token(&fresh).as_ref());
    if index && let Some(indexing) = &tenant.index {
        indexing.remote.set_token(token(&fresh));
    }
    let answer = KeysAnswer {
        storage,
        index,
        valid_for: valid_for(&fresh),
    };
    *tenant.bundle.borrow_mut() = fresh;
    Ok(answer)
}

/// What of the fresh bundle belongs to somebody else.
fn other_tenant(present: &Bundle, fresh: &Bundle) -> Option<&'static str> {
    let url = |bundle: &Bundle| bundle.index.as_ref().map(|index| index.url.clone());
    if fresh.tenant_id != present.tenant_id {
        Some("tenant")
    } else if fresh.storage.bucket != present.storage.bucket {
        Some("bucket")
    } else if fresh.storage.endpoint != present.storage.endpoint {
        Some("S3 endpoint")
    } else if url(fresh) != url(present) {
        Some("index database")
    } else {
        None
    }
}

fn same_key(a: &Storage, b: &Storage) -> bool {
    a.region == b.region
        && same_secret(Some(&a.access_key_id), Some(&b.access_key_id))
        && same_secret(Some(&a.secret_access_key), Some(&b.secret_access_key))
}

fn same_secret(a: Option<&SecretString>, b: Option<&SecretString>) -> bool {
    a.map(ExposeSecret::expose_secret) == b.map(ExposeSecret::expose_secret)
}

/// `Action::DropConnections`
pub fn drop_connections(shared: &Shared) {
    let Some(tenant) = shared.tenant() else { return };
    let storage = tenant.bundle.borrow().storage.clone();
    // It was connected with the same values before; a failure now would show at the next request.
    if let Ok(bucket) = Bucket::connect(&storage, Timeouts::REPEATED) {
        *tenant.bucket.borrow_mut() = bucket;
    }
    if let Some(indexing) = &tenant.index {
        indexing.remote.reset();
        // The clock of `answered` stands still while the machine sleeps: the lease must be asked for, not remembered.
        let long_ago = Instant::now().checked_sub(indexing.claimant.ttl);
        indexing.answered.set(long_ago.unwrap_or_else(Instant::now));
    }
}

/// How long the keys of `bundle` work from now; `None` when nobody said so.
pub fn valid_for(bundle: &Bundle) -> Option<Duration> {
    let left = bundle.expires_at?.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

/// Tells the core whenever the file with the keys has new contents. Ends with the process.
pub async fn watch(shared: Rc<Shared>) {
    let Credentials::File(path) = &shared.config.credentials else {
        return;
    };
    let mut watch = credentials::watch_file(path).await;
    loop {
        watch.changed().await;
        shared.send(Event::AskKeys("credentials.file has changed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Index;

    fn bundle() -> Bundle {
        Bundle {
            tenant_id: Some("acme".into()),
            storage: Storage {
                bucket: "notes".into(),
                endpoint: "http://127.0.0.1:9000".into(),
                region: "auto".into(),
                access_key_id: "AKIDEXAMPLE".to_owned().into(),
                secret_access_key: "SECRETEXAMPLE".to_owned().into(),
            },
            index: Some(Index {
                url: "http://127.0.0.1:8080".into(),
                auth_token: Some("TOKEN".to_owned().into()),
            }),
            expires_at: None,
        }
    }

    #[test]
    fn new_keys_are_taken_for_the_same_tenant_only() {
        let present = bundle();
        assert_eq!(other_tenant(&present, &bundle()), None);
        let mut fresh = bundle();
        fresh.storage.secret_access_key = "OTHER".to_owned().into();
        assert_eq!(other_tenant(&present, &fresh), None);
        assert!(!same_key(&present.storage, &fresh.storage));
        fresh.storage.bucket = "theirs".into();
        assert_eq!(other_tenant(&present, &fresh), Some("bucket"));
        let moved = Bundle {
            index: None,
            ..bundle()
        };
        assert_eq!(other_tenant(&present, &moved), Some("index database"));
    }
}
