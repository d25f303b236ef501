//! Credentials: the bundle a tenant runs on and the three sources it can come from.
//!
//! [`fetch`] asks the source that the configuration names (`env`, `file`, `broker`) and checks the answer in one place
//! (`validate`), whoever gave it. Secrets live in `SecretString`; no error, log line or `Debug` here repeats what a
//! source said. Variables are read from the [`Environment`] that is passed in, each also as `NAME_FILE` (`secret`).

mod broker;
mod bundle;
mod database_url;
mod env;
mod error;
mod file;
mod secret;
mod validate;
mod watch;

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use secrecy::SecretString;

use crate::config::{Config, Credentials, Environment};

pub(crate) use broker::retry_after;
pub(crate) use bundle::{check as check_text, render};
pub use error::{CredentialsError, Fault, Origin};
pub(crate) use file::read as read_file;
pub(crate) use secret::read as read_secret;
pub use watch::{FileWatch, watch_file};

/// Everything secret a tenant needs. `Debug` prints no secret (secrecy redacts).
#[derive(Debug, Clone)]
pub struct Bundle {
    /// The tenant this bundle was made for.
    pub tenant_id: Option<String>,
    /// The bucket and its key.
    pub storage: Storage,
    /// The index database, when the tenant has one.
    pub index: Option<Index>,
    /// When the keys stop working.
    pub expires_at: Option<jiff::Timestamp>,
}

/// The bucket and its key.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Bucket name.
    pub bucket: String,
    /// `http(s)://host[:port]` of the S3 service, without a slash at the end.
    pub endpoint: String,
    /// Signing region. Default `auto`.
    pub region: String,
    /// Access key id. Not secret by itself, but never logged.
    pub access_key_id: SecretString,
    /// Secret key.
    pub secret_access_key: SecretString,
}

/// The index database.
#[derive(Debug, Clone)]
pub struct Index {
    /// `libsql://…`, `https://…` or `http://…` without the token and without a slash at the end.
    pub url: String,
    /// JWT; `None` for a server without authentication.
    pub auth_token: Option<SecretString>,
}

/// Gets the tenant's bundle from the configured source; for a local mount without the index.
///
/// Bounded: the broker by `credentials.timeout`, the other sources by the local disk.
///
/// # Errors
/// See [`CredentialsError`]; [`CredentialsError::exit`] has the exit code.
pub async fn fetch(config: &Config, environment: &Environment) -> Result<Bundle, CredentialsError> {
    let mut bundle = fetch_whole(config, environment).await?;
    if config.mount.local.is_some() {
        // The tenant's own machine has the lease. Somebody who only looks at the files must neither take it nor wait for it.
        bundle.index = None;
    }
    Ok(bundle)
}

/// The bucket that the bundle in `file` names, as far as it can be read. Everything that may be wrong with a bundle is for
/// [`fetch`] to say. Nothing is waited for: a pipe has no answer.
#[must_use]
pub fn bucket_in(file: &Path) -> Option<String> {
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(file).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(bundle::LARGEST).read_to_end(&mut bytes).ok()?;
    let bundle: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
    Some(bundle.get("storage")?.get("bucket")?.as_str()?.to_owned())
}

async fn fetch_whole(config: &Config, environment: &Environment) -> Result<Bundle, CredentialsError> {
    let tenant = config.tenant.id.as_deref();
    match &config.credentials {
        Credentials::Env => env::read(config, environment).await,
        Credentials::File(path) => file::read(path, tenant).await,
        Credentials::Broker {
            url,
            audience,
            timeout,
            fly_api,
        } => {
            let broker = broker::Broker {
                url,
                audience,
                timeout: *timeout,
                fly_api,
            };
            broker::fetch(&broker, tenant, environment).await
        }
    }
}

/// Variables that carry credentials, or say where they are. A child's allow-list must never hold one of them.
#[must_use]
pub fn scrub_environment_names() -> &'static [&'static str] {
    &[
        "AWS_ACCESS_KEY_ID",
        "AWS_ACCESS_KEY_ID_FILE",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SECRET_ACCESS_KEY_FILE",
        "AWS_SESSION_TOKEN",
        "AWS_SESSION_TOKEN_FILE",
        "DATABASE_URL",
        "DATABASE_URL_FILE",
        "TURSO_DATABASE_URL",
        "TURSO_DATABASE_URL_FILE",
        "TURSO_AUTH_TOKEN",
        "TURSO_AUTH_TOKEN_FILE",
        "TENANT_CREDENTIALS_URL",
        "TENANT_CREDENTIALS_TOKEN",
        "TENANT_CREDENTIALS_TOKEN_FILE",
    ]
}

#[cfg(test)]
mod tests {
    use super::bucket_in;

    #[test]
    fn the_bucket_is_looked_for_in_a_file_of_a_bundles_size_and_never_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("bundle.json");
        let text = r#"{"version":1,"storage":{"bucket":"notes"}}"#;
        std::fs::write(&file, text).unwrap();
        assert_eq!(bucket_in(&file).as_deref(), Some("notes"));
        std::fs::write(&file, format!("{}{text}", " ".repeat(1 << 20))).unwrap();
        assert_eq!(bucket_in(&file), None);
        let pipe = dir.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert_eq!(bucket_in(&pipe), None);
        assert_eq!(bucket_in(dir.path()), None);
    }
}
