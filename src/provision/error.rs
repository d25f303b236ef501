//! Why a tenant could not be made, renewed or removed.

use crate::credentials::{CredentialsError, Fault};
use crate::exit::Exit;
use crate::index::IndexError;
use crate::storage::StorageError;

/// What failed, for which object; why; what to do. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}\n  {todo}")]
pub(super) struct ProvisionError {
    pub(super) exit: Exit,
    /// The step and its object.
    pub(super) what: String,
    pub(super) why: String,
    pub(super) todo: String,
}

impl ProvisionError {
    pub(super) fn new(
        exit: Exit,
        what: impl Into<String>,
        why: impl Into<String>,
        todo: impl Into<String>,
    ) -> ProvisionError {
        ProvisionError {
            exit,
            what: what.into(),
            why: why.into(),
            todo: todo.into(),
        }
    }

    /// The bucket, asked with the administrator's key, did not do `what`.
    pub(super) fn bucket(what: impl Into<String>, error: &StorageError) -> ProvisionError {
        let todo = match error {
            StorageError::Rejected { .. } => {
                "check TIGRIS_ADMIN_ACCESS_KEY_ID and TIGRIS_ADMIN_SECRET_ACCESS_KEY: the key must be an administrator's. \
                 If it is, somebody else has a bucket of this name: choose another TENANT_PROVISION_PREFIX"
                    .to_owned()
            }
            _ => error.advice(),
        };
        ProvisionError::new(error.exit(), what, error.to_string(), todo)
    }

    /// The new bundle was tried and does not open the bucket.
    pub(super) fn tried_bucket(what: impl Into<String>, error: &StorageError) -> ProvisionError {
        let todo = "give the command again: it goes on with this key. If that does not help, look at the key and its policy \
                    in the console";
        ProvisionError::new(error.exit(), what, error.to_string(), todo)
    }

    /// The new bundle was tried and does not open the database.
    pub(super) fn tried_database(what: impl Into<String>, error: &IndexError) -> ProvisionError {
        let todo = "give the command again: it goes on with this token";
        ProvisionError::new(error.exit(), what, error.to_string(), todo)
    }
}

impl From<Fault> for ProvisionError {
    fn from(fault: Fault) -> ProvisionError {
        ProvisionError::new(Exit::Config, fault.object, fault.what, fault.todo)
    }
}

/// A bundle of ours that cannot be read.
impl From<CredentialsError> for ProvisionError {
    fn from(error: CredentialsError) -> ProvisionError {
        let todo = "move the file away, or name another one with --bundle";
        ProvisionError::new(error.exit(), "reading the bundle", error.to_string(), todo)
    }
}
