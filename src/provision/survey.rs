//! Looks at what there is of a tenant. Changes nothing.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::error::ProvisionError;
use super::files::Files;
use super::iam::{self, Entity, Iam, Policy};
use super::plan::{Allows, Found, Held, Key, Owner};
use super::settings::Settings;
use super::turso::{Database, Turso};
use super::{marker, names};
use crate::credentials::{Bundle, Storage};
use crate::exit::Exit;
use crate::index::{IndexError, Remote};
use crate::storage::{Bucket, Holds, StorageError, Timeouts};

/// For an administrator who waits.
const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    attempt: Duration::from_secs(15),
    operation: Duration::from_secs(60),
    attempts: 5,
};

/// For this long after a key was made it may be listed without the policy that it has.
const SETTLING: Duration = Duration::from_secs(120);

/// So often a key or a token of ours is refused before that is believed, with this pause.
const REFUSALS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// The services, and what the tenant's things are called there.
pub(super) struct Tenant {
    pub(super) id: String,
    /// Of bucket, policy and database.
    pub(super) name: String,
    /// Of its keys.
    pub(super) key_name: String,
    pub(super) bucket: Bucket,
    pub(super) iam: Iam,
    pub(super) turso: Turso,
}

/// What there is: for the plan, and for doing it.
pub(super) struct Seen {
    pub(super) found: Found,
    pub(super) policy: Option<Policy>,
    pub(super) database: Option<Database>,
    pub(super) pending: Option<Bundle>,
    pub(super) bundle: Option<Bundle>,
    /// Why it is not known whether the bundle in its place works.
    pub(super) trouble: Option<ProvisionError>,
}

/// What the keys of the tenant `name` are called: a name that nobody gives by hand, because such keys may be deleted.
pub(super) fn key_name(name: &str) -> String {
    format!("{name}-tenant-provision")
}

impl Tenant {
    pub(super) fn new(settings: &Settings, id: &str) -> Result<Tenant, ProvisionError> {
        let name = names::of(&settings.prefix, id, &settings.organization)?;
        Ok(Tenant {
            id: id.to_owned(),
            key_name: key_name(&name),
            bucket: bucket(settings, &name)?,
            iam: Iam::new(settings)?,
            turso: Turso::new(settings)?,
            name,
        })
    }

    /// Asks all services, and reads the files if there are any.
    pub(super) async fn look(&self, files: Option<&Files>) -> Result<Seen, ProvisionError> {
        let (mut pending, mut bundle) = (None, None);
        if let Some(files) = files {
            pending = files.pending(&self.id).await?;
            bundle = files.bundle(&self.id).await?;
            for found in [&pending, &bundle].into_iter().flatten() {
                self.check_bucket(found, files)?;
            }
        }
        let (owner, files) = self.owner().await?;
        let policies = self.iam.policies().await?;
        let policy = policies.into_iter().find(|policy| policy.name == self.name);
        let (mut allows, mut attached) = (Allows::Missing, vec![]);
        if let Some(policy) = &policy {
            let limited = iam::is_limited_to(&self.iam.document(policy).await?, &self.name);
            allows = if limited { Allows::OneBucket } else { Allows::Else };
            attached = self.iam.attached(policy).await?;
        }
        let known = self.iam.keys().await?.into_iter().map(|key| Key {
            attached: false,
            ours: key.name == self.key_name,
            settled: is_settled(&key.created, Timestamp::now()),
            id: key.id,
        });
        let (keys, mut doubt) = attach(
            known.collect(),
            attached,
            policy.as_ref().and_then(|policy| policy.attachments),
        );
        let database = self.turso.database(&self.name).await?;
        let mut seen = Seen {
            found: Found {
                owner,
                files,
                policy: allows,
                keys,
                doubt: None,
                database: database.is_some(),
                pending: pending.as_ref().map(held),
                bundle: bundle.as_ref().map(held),
            },
            policy,
            database,
            pending,
            bundle,
            trouble: None,
        };
        self.try_files(&mut seen, &mut doubt).await;
        seen.found.doubt = doubt;
        Ok(seen)
    }

    /// Asks bucket and database with what the files hold, as the tenant does: a key or a token may be there and refused.
    async fn try_files(&self, seen: &mut Seen, doubt: &mut Option<String>) {
        let found = &mut seen.found;
        if let (Some(bundle), Some(held), true) = (&seen.bundle, &mut found.bundle, found.owner != Owner::Missing) {
            match refuses_key(&bundle.storage).await {
                Ok(refused) => held.refused = refused,
                Err(error) => {
                    let what = format!("trying the bundle's key on the bucket {}", self.name);
                    seen.trouble = Some(ProvisionError::new(
                        error.exit(),
                        what,
                        error.to_string(),
                        error.advice(),
                    ));
                }
            }
            let works = !held.refused && seen.trouble.is_none();
            if works && !found.keys.iter().any(|key| key.id == held.key && key.attached) {
                *doubt = Some(format!(
                    "the bundle's key {} works, and is not among the keys of the policy",
                    held.key
                ));
            }
        }
        if !found.database {
            return;
        }
        for (bundle, held, in_place) in [
            (&seen.bundle, &mut found.bundle, true),
            (&seen.pending, &mut found.pending, false),
        ] {
            let (Some(bundle), Some(held)) = (bundle, held) else {
                continue;
            };
            match refuses_token(bundle).await {
                Ok(refused) => held.token = held.token && !refused,
                // The pending one is tried again before it gets into its place.
                Err(error) if in_place && seen.trouble.is_none() => {
                    let what = format!("trying the bundle's token on the database {}", self.name);
                    seen.trouble = Some(ProvisionError::new(
                        error.exit(),
                        what,
                        error.to_string(),
                        error.advice(),
                    ));
                }
                Err(_) => {}
            }
        }
    }

    /// Whose the bucket is, and whether it holds files.
    async fn owner(&self) -> Result<(Owner, bool), ProvisionError> {
        let failed = |error| ProvisionError::bucket(format!("looking at the bucket {}", self.name), &error);
        let holds = match self.bucket.holds().await.map_err(failed)? {
            None => return Ok((Owner::Missing, false)),
            Some(holds) => holds,
        };
        let owner = match self.bucket.read_small(marker::OBJECT).await.map_err(failed)? {
            None => Owner::Unmarked,
            Some(bytes) => match marker::read(&bytes) {
                Some(tenant) if tenant == self.id => Owner::Ours,
                Some(tenant) => Owner::Other(format!("the tenant {tenant:?}")),
                None => Owner::Other(format!(
                    "whoever wrote {} there, which is no marker of ours",
                    marker::OBJECT
                )),
            },
        };
        Ok((owner, holds == Holds::Files))
    }

    fn check_bucket(&self, found: &Bundle, files: &Files) -> Result<(), ProvisionError> {
        if found.storage.bucket == self.name {
            return Ok(());
        }
        Err(ProvisionError::new(
            Exit::Refused,
            format!("using the bundle {}", files.path().display()),
            format!("it is for the bucket {}, not for {}", found.storage.bucket, self.name),
            "move it away, name another file with --bundle, or correct TENANT_PROVISION_PREFIX",
        ))
    }
}

/// The bucket `name`, for the administrator; without a name: all of them.
pub(super) fn bucket(settings: &Settings, name: &str) -> Result<Bucket, ProvisionError> {
    Bucket::connect(&settings.storage(name), PATIENT)
        .map_err(|error| ProvisionError::bucket(format!("asking {}", settings.s3), &error))
}

/// Which keys matter: those of ours and those that have the policy, which `count` have in the service's words. And why the
/// list of those is not to be believed, if it is not.
fn attach(mut keys: Vec<Key>, attached: Vec<Entity>, count: Option<usize>) -> (Vec<Key>, Option<String>) {
    let mut doubt = count.filter(|count| *count != attached.len()).map(|count| {
        let listed = attached.len();
        format!("the service says that {count} keys have the policy, and lists {listed}")
    });
    for Entity(ids) in attached {
        match keys.iter_mut().find(|key| ids.contains(&key.id)) {
            Some(key) => key.attached = true,
            None => {
                doubt.get_or_insert_with(|| {
                    format!("{} has the policy, and is not in the list of keys", ids.join(" or "))
                });
                // It can be taken off by its id, whatever it is. Which of the two texts that is, is not known.
                keys.extend(ids.into_iter().map(|id| Key {
                    id,
                    attached: true,
                    ours: false,
                    settled: true,
                }));
            }
        }
    }
    keys.retain(|key| key.attached || key.ours);
    (keys, doubt)
}

/// Does the bucket refuse this key? A refusal counts when it is repeated: a new key may take a moment.
async fn refuses_key(storage: &Storage) -> Result<bool, StorageError> {
    let bucket = Bucket::connect(storage, Timeouts::START)?;
    for _ in 0..REFUSALS {
        match bucket.probe().await {
            Ok(_) => return Ok(false),
            Err(StorageError::Rejected { .. }) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Does the database refuse the bundle's token?
async fn refuses_token(bundle: &Bundle) -> Result<bool, IndexError> {
    let Some(index) = &bundle.index else { return Ok(false) };
    let remote = Remote::connect(index)?;
    for _ in 0..REFUSALS {
        match remote.probe(Remote::PROBE_TIMEOUT).await {
            Ok(_) => return Ok(false),
            Err(IndexError::Rejected { .. }) => tokio::time::sleep(PAUSE).await,
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// A key whose age is not known counts as new: nothing is deleted on a guess.
fn is_settled(created: &str, now: Timestamp) -> bool {
    match created.parse::<Timestamp>() {
        Ok(then) => now.duration_since(then).unsigned_abs() >= SETTLING,
        Err(_) => false,
    }
}

fn held(bundle: &Bundle) -> Held {
    Held {
        key: bundle.storage.access_key_id.expose_secret().to_owned(),
        token: bundle.index.is_some(),
        refused: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_settled_when_it_is_two_minutes_away_from_now() {
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        for (created, settled) in [
            ("2026-01-01T00:00:00Z", true),
            ("2026-01-01T00:00:01Z", false),
            ("2026-01-01T00:02:30Z", false),
            ("", false),
            ("yesterday", false),
        ] {
            assert_eq!(is_settled(created, now), settled, "{created}");
        }
    }

    fn keys(ids: &[&str]) -> Vec<Key> {
        let key = |id: &&str| Key {
            id: (*id).to_owned(),
            attached: false,
            ours: true,
            settled: true,
        };
        ids.iter().map(key).collect()
    }

    fn entities(ids: &[&[&str]]) -> Vec<Entity> {
        let entity = |ids: &&[&str]| Entity(ids.iter().map(|id| (*id).to_owned()).collect());
        ids.iter().map(entity).collect()
    }

    #[test]
    fn a_list_of_attached_keys_is_believed_when_it_agrees_with_the_rest() {
        let both = entities(&[&["tid_one", "a name"], &["a name", "tid_two"]]);
        for count in [Some(2), None] {
            let (keys, doubt) = attach(keys(&["tid_one", "tid_two", "tid_three"]), both.clone(), count);
            assert_eq!(doubt, None);
            assert_eq!(
                keys.iter().map(|key| key.attached).collect::<Vec<_>>(),
                [true, true, false]
            );
        }
        let (_, doubt) = attach(keys(&["tid_one"]), vec![], Some(1));
        assert!(doubt.unwrap().contains("1 keys have the policy, and lists 0"));
        let (_, doubt) = attach(keys(&["tid_one", "tid_two"]), both, Some(3));
        assert!(doubt.is_some());
    }

    #[test]
    fn what_has_the_policy_and_is_in_no_list_can_be_taken_off_and_is_not_ours() {
        let (keys, doubt) = attach(keys(&["tid_one"]), entities(&[&["tid_hidden", "its name"]]), Some(1));
        assert!(doubt.unwrap().contains("tid_hidden"));
        let hidden: Vec<_> = keys
            .iter()
            .filter(|key| !key.ours && key.attached)
            .map(|key| key.id.as_str())
            .collect();
        assert_eq!(hidden, ["tid_hidden", "its name"]);
        assert!(keys.iter().any(|key| key.id == "tid_one" && !key.attached));
    }
}
