//! Why there is no bundle. An error says which source, which object in it, what is wrong and what to do; it never
//! repeats what the source said, because that is where the secrets are.

use std::fmt;
use std::path::PathBuf;

use crate::exit::Exit;

/// Where a bundle comes from, as it may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Variables.
    Environment,
    /// A file.
    File(PathBuf),
    /// A broker: scheme, host and port. The path may identify the tenant, the query may be a secret.
    Broker(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Environment => write!(f, "the environment"),
            Origin::File(path) => write!(f, "the file {}", path.display()),
            Origin::Broker(origin) => write!(f, "the broker {origin}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The variable, the field, the step.
    pub object: String,
    /// What is wrong with it, without its value.
    pub what: String,
    /// What to do.
    pub todo: String,
}

impl Fault {
    pub(super) fn new(object: impl Into<String>, what: impl Into<String>, todo: impl Into<String>) -> Self {
        Self {
            object: object.into(),
            what: what.into(),
            todo: todo.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.what, self.todo)
    }
}

/// There is no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    /// Something is missing or malformed: exit code 78. All of it is listed.
    #[error("credentials from {origin} are wrong:{}", list(.faults))]
    Wrong {
        /// The source.
        origin: Origin,
        /// Everything that is wrong.
        faults: Vec<Fault>,
    },
    /// The source refused us, or the bundle is not for this tenant, or has expired: exit code 77.
    #[error("credentials from {origin} are refused:{}", list(std::slice::from_ref(.fault)))]
    Refused {
        /// The source.
        origin: Origin,
        /// Why.
        fault: Fault,
    },
    /// The source did not answer, or said that it cannot now: exit code 69.
    #[error("credentials from {origin} are not available:{}", list(std::slice::from_ref(.fault)))]
    Unavailable {
        /// The source.
        origin: Origin,
        /// The last failure.
        fault: Fault,
    },
}

impl CredentialsError {
    /// The exit code that this error means at start.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            CredentialsError::Wrong { .. } => Exit::Config,
            CredentialsError::Refused { .. } => Exit::Refused,
            CredentialsError::Unavailable { .. } => Exit::Unavailable,
        }
    }
}

fn list(faults: &[Fault]) -> String {
    match faults {
        [fault] => format!(" {fault}"),
        faults => faults.iter().map(|fault| format!("\n  {fault}")).collect(),
    }
}
