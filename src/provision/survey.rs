//! Looks at what there is of a tenant. Changes nothing.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::ExposeSecret;

use super::error::ProvisionError;
use super::files::Files;
use super::iam::{self, Iam, Policy};
use super::plan::{Allows, Found, Held, Key, Owner};
use super::settings::Settings;
use super::turso::{Database, Turso};
use super::{marker, names};
use crate::credentials::Bundle;
use crate::exit::Exit;
use crate::storage::{Bucket, Holds, Timeouts};

/// For an administrator who waits.
const PATIENT: Timeouts = Timeouts {
    connect: Duration::from_secs(5),
    attempt: Duration::from_secs(15),
    operation: Duration::from_secs(60),
    attempts: 5,
};

/// For this long after a key was made it may be listed without the policy that it has.
const SETTLING: Duration = Duration::from_secs(120);

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
        let keys = self.iam.keys().await?.into_iter().map(|key| Key {
            attached: attached.contains(&key.id),
            ours: key.name == self.key_name,
            settled: is_settled(&key.created, Timestamp::now()),
            id: key.id,
        });
        let database = self.turso.database(&self.name).await?;
        Ok(Seen {
            found: Found {
                owner,
                files,
                policy: allows,
                keys: keys.filter(|key| key.attached || key.ours).collect(),
                database: database.is_some(),
                pending: pending.as_ref().map(held),
                bundle: bundle.as_ref().map(held),
            },
            policy,
            database,
            pending,
            bundle,
        })
    }

    /// Whose the bucket is, and whether it holds files.
    async fn owner(&self) -> Result<(Owner, bool), ProvisionError> {
        let failed = |error| ProvisionError::bucket(format!("looking at the bucket {}", self.name), &error);
        let holds = match self.bucket.holds().await.map_err(failed)? {
            None => return Ok((Owner::Missing, false)),
            Some(holds) => holds,
        };
        let owner = match self.bucket.read_small(marker::OBJECT).await.map_err(failed)? {
            None => Owner::Unmarked {
                empty: holds == Holds::Nothing,
            },
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

/// A key whose age is not known counts as old: its name is enough.
fn is_settled(created: &str, now: Timestamp) -> bool {
    match created.parse::<Timestamp>() {
        Ok(then) => now.duration_since(then).unsigned_abs() >= SETTLING,
        Err(_) => true,
    }
}

fn held(bundle: &Bundle) -> Held {
    Held {
        key: bundle.storage.access_key_id.expose_secret().to_owned(),
        token: bundle.index.is_some(),
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
            ("", true),
        ] {
            assert_eq!(is_settled(created, now), settled, "{created}");
        }
    }
}
