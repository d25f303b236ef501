//! What is to be done, from what was found. Pure: no request, no clock, no file.
//!
//! The order is what makes an interruption harmless. A bucket and its marker come before everything that has our names,
//! a secret before the policy that makes it worth something, a bundle last. Removing goes the other way.

use super::error::ProvisionError;
use crate::exit::Exit;

/// Whose bucket it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// There is no bucket.
    Missing,
    /// It has no marker. An empty one, too, may be somebody's.
    Unmarked,
    /// This tenant's.
    Ours,
    /// Another tenant's, or a marker that we cannot read.
    Other(String),
}

/// What the policy of our name allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Allows {
    /// There is no policy.
    Missing,
    /// The tenant's bucket, and nothing else.
    OneBucket,
    /// Something else.
    Else,
}

/// A key with our name, or with the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: String,
    /// It has the policy.
    pub(super) attached: bool,
    /// It has our name: we have made it.
    pub(super) ours: bool,
    /// It was not made just now: that a policy is attached may be seen late.
    pub(super) settled: bool,
}

/// What a file of ours holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    /// The key's id; its secret is there, too.
    pub(super) key: String,
    /// There is a token for the database, and the database has not refused it.
    pub(super) token: bool,
    /// The bucket has refused the key. Asked only of the bundle in its place.
    pub(super) refused: bool,
}

/// All that there is of a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) owner: Owner,
    /// The bucket holds files that are not tenant-init's own.
    pub(super) files: bool,
    pub(super) policy: Allows,
    pub(super) keys: Vec<Key>,
    /// Why the service's word that a key does not have the policy is not taken for true.
    pub(super) doubt: Option<String>,
    pub(super) database: bool,
    /// `FILE.pending`.
    pub(super) pending: Option<Held>,
    /// `FILE`.
    pub(super) bundle: Option<Held>,
}

impl Found {
    fn key(&self, held: &Held) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == held.key)
    }

    /// A key that was made and is not in its place yet.
    fn begun(&self) -> Option<(&Held, &Key)> {
        let held = self.pending.as_ref()?;
        Some((held, self.key(held)?))
    }

    /// The key of the bundle, when it still exists.
    fn current(&self) -> Option<(&Held, &Key)> {
        let held = self.bundle.as_ref()?;
        Some((held, self.key(held)?))
    }

    /// Keys of ours that never opened anything: they never had the policy, and nobody has their secret. None while that is
    /// not certain: one that is deleted for something that the service did not say may be the one in use.
    pub(super) fn unusable(&self) -> Vec<&Key> {
        let kept = [self.begun(), self.current()].map(|held| held.map(|(_, key)| key.id.as_str()));
        let unusable = |key: &&Key| key.ours && !key.attached && key.settled && !kept.contains(&Some(&key.id));
        self.keys.iter().filter(unusable).collect()
    }
}

/// One thing to do. Doing it again is harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    CreateBucket,
    MarkBucket,
    CreatePolicy,
    CreateDatabase,
    /// And keep its secret in the pending file.
    CreateKey,
    /// To this key; `None`: the one that was just made.
    AttachPolicy(Option<String>),
    /// And the one in the pending file is forgotten before.
    InvalidateTokens,
    /// And keep it in the pending file.
    MintToken,
    /// Bucket and database are asked with the pending bundle.
    TryOut,
    /// The pending bundle gets into its place.
    PlaceBundle,
    DetachPolicy(String),
    DeleteKey(String),
    /// No key has the policy any more: else somebody may still write.
    CheckDetached,
    DeleteFiles,
    DeleteDatabase,
    DeletePolicy,
    /// With our own objects in it, the marker last.
    DeleteBucket,
}

impl Step {
    /// In words; `name` is what the tenant's things are called.
    pub(super) fn words(&self, name: &str) -> String {
        match self {
            Step::CreateBucket => format!("make the bucket {name}"),
            Step::MarkBucket => format!("mark the bucket {name} as this tenant's"),
            Step::CreatePolicy => format!("make the policy {name}, which opens this bucket only"),
            Step::CreateDatabase => format!("make the database {name}"),
            Step::CreateKey => "make an access key, its secret into the pending file".to_owned(),
            Step::AttachPolicy(None) => format!("attach the policy {name} to the new key"),
            Step::AttachPolicy(Some(key)) => format!("attach the policy {name} to the key {key}"),
            Step::InvalidateTokens => format!("end all tokens of the database {name}"),
            Step::MintToken => format!("make a token for the database {name}"),
            Step::TryOut => "try the new bundle: bucket and database".to_owned(),
            Step::PlaceBundle => "put the new bundle into its place".to_owned(),
            Step::DetachPolicy(key) => format!("take the policy {name} from the key {key}, which was not made here"),
            Step::DeleteKey(key) => format!("delete the key {key}"),
            Step::CheckDetached => format!("see that no key has the policy {name} any more"),
            Step::DeleteFiles => format!("delete ALL FILES in the bucket {name}"),
            Step::DeleteDatabase => format!("delete the database {name}"),
            Step::DeletePolicy => format!("delete the policy {name}"),
            Step::DeleteBucket => format!("delete the bucket {name}"),
        }
    }
}

/// Why there is no plan, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    why: String,
    todo: &'static str,
    /// It is about the bucket's marker, which the tenant's key can write.
    about_marker: bool,
}

impl Refusal {
    /// `keys`: what the tenant's keys are called.
    pub(super) fn into_error(self, what: String, keys: &str) -> ProvisionError {
        let mut todo = self.todo.to_owned();
        if self.about_marker {
            todo.push_str(&format!(
                ". Who has a leaked key can have written that: to end it at once, delete the keys called {keys}, and no other, \
                 in the console (docs/PROVISIONING.md, \"A leaked key\")"
            ));
        }
        ProvisionError::new(Exit::Refused, what, self.why, todo)
    }
}

fn refuse<T>(why: impl Into<String>, todo: &'static str) -> Result<T, Refusal> {
    Err(Refusal {
        why: why.into(),
        todo,
        about_marker: false,
    })
}

const UNDERWAY: &str = "give `rotate` again without --finish: it goes on with the new key";

/// Makes what is missing. Empty when nothing is.
pub(super) fn create(found: &Found, adopt: bool) -> Result<Vec<Step>, Refusal> {
    check_owner(found, adopt)?;
    let mut steps = vec![];
    if found.owner == Owner::Missing {
        steps.push(Step::CreateBucket);
    }
    if found.owner != Owner::Ours {
        steps.push(Step::MarkBucket);
    }
    match found.policy {
        Allows::Missing => steps.push(Step::CreatePolicy),
        Allows::OneBucket => {}
        Allows::Else => return too_wide(),
    }
    if !found.database {
        steps.push(Step::CreateDatabase);
    }
    match found.current() {
        // Without its database the token of the bundle is worth nothing; without the policy any key is refused.
        Some((held, key)) if held.token && found.database && !(key.attached && held.refused) => {
            if !key.attached {
                steps.push(Step::AttachPolicy(Some(key.id.clone())));
            }
            discard(found, &mut steps);
        }
        _ => renew(found, false, &mut steps),
    }
    Ok(steps)
}

/// A new key and a new token in a new bundle. The old key works until it is revoked, old tokens until `invalidate`.
pub(super) fn rotate(found: &Found, revoke_old: bool, invalidate: bool) -> Result<Vec<Step>, Refusal> {
    check_complete(found)?;
    let mut steps = vec![];
    renew(found, invalidate, &mut steps);
    if revoke_old {
        let new = found.begun().map(|(_, key)| key.id.clone());
        revoke_others(found, new.as_deref(), &mut steps);
    }
    Ok(steps)
}

/// Deletes every key of ours but the bundle's.
pub(super) fn finish(found: &Found) -> Result<Vec<Step>, Refusal> {
    check_complete(found)?;
    if found.begun().is_some() {
        return refuse(
            "a rotation was begun and has not put its bundle into its place",
            UNDERWAY,
        );
    }
    match found.current() {
        Some((held, key)) if key.attached && !held.refused => {
            let mut steps = vec![];
            revoke_others(found, Some(&key.id), &mut steps);
            Ok(steps)
        }
        _ => refuse(
            "the bundle's key does not open the bucket, so the others may be the ones in use",
            "name the bundle that the tenant runs on with --bundle, or give `rotate` without --finish",
        ),
    }
}

/// Removes everything. Nobody may write any more before anything is deleted; the marker goes last.
pub(super) fn delete(found: &Found, with_files: bool, adopt: bool) -> Result<Vec<Step>, Refusal> {
    check_owner(found, adopt)?;
    if found.files && !with_files {
        return refuse(
            "the bucket holds the tenant's files",
            "save them first; `delete --yes --with-files` deletes them, too",
        );
    }
    let mut steps = vec![];
    for key in &found.keys {
        let id = key.id.clone();
        steps.push(if key.ours {
            Step::DeleteKey(id)
        } else {
            Step::DetachPolicy(id)
        });
    }
    if found.policy != Allows::Missing && (found.files || found.database) {
        steps.push(Step::CheckDetached);
    }
    if found.files {
        steps.push(Step::DeleteFiles);
    }
    if found.database {
        steps.push(Step::DeleteDatabase);
    }
    match found.policy {
        Allows::Missing => {}
        Allows::OneBucket => steps.push(Step::DeletePolicy),
        Allows::Else => return too_wide(),
    }
    if found.owner != Owner::Missing {
        steps.push(Step::DeleteBucket);
    }
    Ok(steps)
}

fn renew(found: &Found, invalidate: bool, steps: &mut Vec<Step>) {
    let begun = found.begun();
    match begun {
        None => steps.extend([Step::CreateKey, Step::AttachPolicy(None)]),
        Some((_, key)) if !key.attached => steps.push(Step::AttachPolicy(Some(key.id.clone()))),
        Some(_) => {}
    }
    if invalidate {
        steps.push(Step::InvalidateTokens);
    }
    if invalidate || !found.database || !begun.is_some_and(|(held, _)| held.token) {
        steps.push(Step::MintToken);
    }
    steps.extend([Step::TryOut, Step::PlaceBundle]);
    // Last: what is deleted by mistake was not the only key.
    discard(found, steps);
}

fn discard(found: &Found, steps: &mut Vec<Step>) {
    if found.doubt.is_none() {
        steps.extend(found.unusable().into_iter().map(|key| Step::DeleteKey(key.id.clone())));
    }
}

fn revoke_others(found: &Found, new: Option<&str>, steps: &mut Vec<Step>) {
    for key in found.keys.iter().filter(|key| key.ours && Some(key.id.as_str()) != new) {
        let step = Step::DeleteKey(key.id.clone());
        if !steps.contains(&step) {
            steps.push(step);
        }
    }
}

/// May what is there be this tenant's?
fn check_owner(found: &Found, adopt: bool) -> Result<(), Refusal> {
    const ADOPT: &str = "if it is this tenant's, give the command again with --adopt; else choose another name";
    let others = found.policy != Allows::Missing || !found.keys.is_empty() || found.database;
    let refused = match &found.owner {
        Owner::Ours => return Ok(()),
        Owner::Other(tenant) => refuse(
            format!("the bucket belongs to {tenant}"),
            "choose another name: two tenants never share a bucket",
        ),
        _ if adopt => return Ok(()),
        Owner::Unmarked => refuse(
            "there is a bucket of this name and nothing in it says whose it is",
            ADOPT,
        ),
        Owner::Missing if others => refuse(
            "there is a policy, a key or a database of this name, but no bucket that says whose they are",
            ADOPT,
        ),
        Owner::Missing => return Ok(()),
    };
    refused.map_err(|refusal| Refusal {
        // Without a key of ours none can have leaked.
        about_marker: found.keys.iter().any(|key| key.ours),
        ..refusal
    })
}

fn check_complete(found: &Found) -> Result<(), Refusal> {
    check_owner(found, false)?;
    match found.policy {
        Allows::Else => too_wide(),
        Allows::OneBucket if found.owner == Owner::Ours && found.database => Ok(()),
        _ => refuse(
            "the tenant is not complete",
            "give `create` first: it makes what is missing",
        ),
    }
}

fn too_wide<T>() -> Result<T, Refusal> {
    refuse(
        "the policy of this name does not open the tenant's bucket alone",
        "look at it in the console; delete it there if it is not needed, then give the command again",
    )
}

#[cfg(test)]
mod tests;
