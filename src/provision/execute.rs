//! Does the steps of a plan, one after the other.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::time::Instant;

use super::error::ProvisionError;
use super::files::Files;
use super::iam::Policy;
use super::marker;
use super::plan::Step;
use super::settings::Settings;
use super::survey::{self, Seen, Tenant};
use super::turso::Database;
use crate::credentials::{Bundle, Index};
use crate::exit::Exit;
use crate::index::Remote;
use crate::storage::{Bucket, Holds, Made, OWN_OBJECTS, Timeouts};

/// How long a new key and a new database may take until they work.
const SETTLE: Duration = Duration::from_secs(45);
const PAUSE: Duration = Duration::from_secs(1);
/// The object that a new key writes, reads and deletes.
const TRIED: &str = ".tenant-init/tenant-provision-tries-the-key";

/// What the steps have in their hands.
pub(super) struct Work<'a> {
    tenant: &'a Tenant,
    settings: &'a Settings,
    /// Not needed for removing.
    files: Option<&'a Files>,
    policy: Option<Policy>,
    /// Keys that have it.
    attached: Vec<String>,
    database: Option<Database>,
    pending: Option<Bundle>,
}

impl<'a> Work<'a> {
    pub(super) fn new(tenant: &'a Tenant, settings: &'a Settings, files: Option<&'a Files>, seen: Seen) -> Work<'a> {
        Work {
            tenant,
            settings,
            files,
            policy: seen.policy,
            attached: seen
                .found
                .keys
                .into_iter()
                .filter(|key| key.attached)
                .map(|key| key.id)
                .collect(),
            database: seen.database,
            pending: seen.pending,
        }
    }

    /// # Errors
    /// What failed. Giving the command again goes on there.
    pub(super) async fn step(&mut self, step: &Step) -> Result<(), ProvisionError> {
        let (tenant, name) = (self.tenant, self.tenant.name.as_str());
        let failed = |error| ProvisionError::bucket(step.words(name), &error);
        match step {
            Step::CreateBucket => match tenant.bucket.create().await.map_err(failed)? {
                Made::Ours => {}
                // An earlier attempt may have been served, and its answer lost.
                Made::Taken => {
                    let all = survey::bucket(self.settings, "")?.all().await.map_err(failed)?;
                    if !all.iter().any(|bucket| bucket == name) {
                        return Err(taken(step.words(name)));
                    }
                }
            },
            Step::MarkBucket => {
                let marker = marker::write(&tenant.id);
                tenant
                    .bucket
                    .write_small(marker::OBJECT, marker)
                    .await
                    .map_err(failed)?;
            }
            Step::CreatePolicy => self.policy = Some(tenant.iam.create_policy(name, name).await?),
            Step::CreateDatabase => self.database = Some(tenant.turso.create(name).await?),
            Step::CreateKey => {
                let (id, secret) = tenant.iam.create_key(&tenant.key_name).await?;
                let mut storage = self.settings.storage(name);
                storage.access_key_id = id.into();
                storage.secret_access_key = secret;
                self.keep(
                    step,
                    Bundle {
                        tenant_id: Some(tenant.id.clone()),
                        storage,
                        index: None,
                        expires_at: None,
                    },
                )?;
            }
            Step::AttachPolicy(key) => {
                let key = match key {
                    Some(key) => key.clone(),
                    None => self.pending(step)?.storage.access_key_id.expose_secret().to_owned(),
                };
                tenant.iam.attach(&key, self.policy(step)?).await?;
            }
            Step::InvalidateTokens => {
                // Else an interruption here would leave a token that is worth nothing and looks like one.
                if let Some(pending) = self.pending.clone() {
                    self.keep(step, Bundle { index: None, ..pending })?;
                }
                tenant.turso.invalidate(name).await?;
            }
            Step::MintToken => {
                let database = self.database.as_ref().ok_or_else(|| self.bug(step))?;
                let url = tenant.turso.url(database);
                let token = tenant.turso.mint(name).await?;
                let index = Some(Index {
                    url,
                    auth_token: Some(token),
                });
                self.keep(
                    step,
                    Bundle {
                        index,
                        ..self.pending(step)?.clone()
                    },
                )?;
            }
            Step::TryOut => try_out(self.pending(step)?).await?,
            Step::PlaceBundle => self.files(step)?.place(&tenant.id, self.pending(step)?).await?,
            Step::DetachPolicy(key) => tenant.iam.detach(key, self.policy(step)?).await?,
            Step::DeleteKey(key) => {
                if let Some(policy) = &self.policy
                    && self.attached.contains(key)
                {
                    tenant.iam.detach(key, policy).await?;
                }
                tenant.iam.delete_key(key).await?;
            }
            Step::CheckDetached => self.check_detached(step).await?,
            Step::DeleteFiles => {
                tenant.bucket.delete_all("", marker::OBJECT).await.map_err(failed)?;
            }
            Step::DeleteDatabase => tenant.turso.delete(name).await?,
            Step::DeletePolicy => tenant.iam.delete_policy(self.policy(step)?).await?,
            Step::DeleteBucket => {
                tenant
                    .bucket
                    .delete_all(OWN_OBJECTS, marker::OBJECT)
                    .await
                    .map_err(failed)?;
                // With files in it the bucket would stay, and must not stay without its marker.
                if tenant.bucket.holds().await.map_err(failed)? == Some(Holds::Files) {
                    let todo = "find out who writes, then give the command again with --with-files";
                    return Err(ProvisionError::new(
                        Exit::Refused,
                        step.words(name),
                        "files have come meanwhile",
                        todo,
                    ));
                }
                tenant.bucket.delete(marker::OBJECT).await.map_err(failed)?;
                tenant.bucket.remove().await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// A list may be late by some seconds; files and database are deleted when it and the count agree that nobody is left.
    async fn check_detached(&self, step: &Step) -> Result<(), ProvisionError> {
        let until = Instant::now() + SETTLE;
        let tenant = self.tenant;
        loop {
            let policies = tenant.iam.policies().await?;
            let Some(policy) = policies.into_iter().find(|policy| policy.name == tenant.name) else {
                return Ok(());
            };
            let listed = tenant.iam.attached(&policy).await?.len();
            let counted = policy.attachments.unwrap_or(listed);
            if (listed, counted) == (0, 0) {
                return Ok(());
            }
            if Instant::now() > until {
                let why = format!("the service counts {counted} keys that have it, and lists {listed}");
                let todo =
                    "take it from them in the console, then give the command again: files and database are still there";
                return Err(ProvisionError::new(Exit::Refused, step.words(&tenant.name), why, todo));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// On the disk before anything else is done with it.
    fn keep(&mut self, step: &Step, bundle: Bundle) -> Result<(), ProvisionError> {
        self.files(step)?.keep(&bundle)?;
        self.pending = Some(bundle);
        Ok(())
    }

    fn files(&self, step: &Step) -> Result<&Files, ProvisionError> {
        self.files.ok_or_else(|| self.bug(step))
    }

    fn pending(&self, step: &Step) -> Result<&Bundle, ProvisionError> {
        self.pending.as_ref().ok_or_else(|| self.bug(step))
    }

    fn policy(&self, step: &Step) -> Result<&Policy, ProvisionError> {
        self.policy.as_ref().ok_or_else(|| self.bug(step))
    }

    /// A step whose plan has forgotten what it needs.
    fn bug(&self, step: &Step) -> ProvisionError {
        let what = step.words(&self.tenant.name);
        ProvisionError::new(Exit::Bug, what, "the plan is in the wrong order", "report this")
    }
}

fn taken(what: String) -> ProvisionError {
    ProvisionError::new(
        Exit::Refused,
        what,
        "another customer has a bucket of this name",
        "choose another TENANT_PROVISION_PREFIX: bucket names are unique among all customers",
    )
}

/// Asks bucket and database as the tenant will. New ones may take a moment.
async fn try_out(bundle: &Bundle) -> Result<(), ProvisionError> {
    let until = Instant::now() + SETTLE;
    let what = format!("trying the new key on the bucket {}", bundle.storage.bucket);
    loop {
        let tried = match Bucket::connect(&bundle.storage, Timeouts::REPEATED) {
            Ok(bucket) => bucket.try_out(TRIED).await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(()) => break,
            Err(error) if Instant::now() > until => return Err(ProvisionError::tried_bucket(what, &error)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    let Some(index) = &bundle.index else { return Ok(()) };
    let what = format!("trying the new token on the database {}", index.url);
    loop {
        let tried = match Remote::connect(index) {
            Ok(remote) => remote.probe(Remote::PROBE_TIMEOUT).await,
            Err(error) => Err(error),
        };
        match tried {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until + SETTLE => return Err(ProvisionError::tried_database(what, &error)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
