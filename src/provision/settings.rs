//! The administrator's credentials and the services' addresses: from the environment, never from arguments, which
//! anyone on the machine can read.

use secrecy::SecretString;

use super::error::ProvisionError;
use super::names;
use crate::config::{Environment, syntax};
use crate::credentials;
use crate::exit::Exit;

/// Who asks whom.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) prefix: String,
    /// The S3 service, for us and in the bundle.
    pub(super) s3: String,
    pub(super) iam: String,
    pub(super) region: String,
    pub(super) key_id: SecretString,
    pub(super) secret: SecretString,
    pub(super) turso: String,
    pub(super) token: SecretString,
    pub(super) organization: String,
    pub(super) group: String,
    /// `libsql`; `http` where the databases have no TLS.
    pub(super) scheme: String,
}

/// For `--help`.
pub(super) const HELP: &str = "\
Environment (a secret NAME also as NAME_FILE, the path of a file that holds it):
  TIGRIS_ADMIN_ACCESS_KEY_ID, TIGRIS_ADMIN_SECRET_ACCESS_KEY
                           an administrator's key of the Tigris organization
  TURSO_API_TOKEN          a token of the Turso Platform API
  TURSO_ORGANIZATION       the organization's slug
  TURSO_GROUP              where databases are made [default: default]
  TENANT_PROVISION_PREFIX  begins every name [default: tenant]; bucket names are unique among all customers of Tigris
  TIGRIS_ENDPOINT_S3       [default: https://t3.storage.dev]; also the bundle's endpoint
  TIGRIS_ENDPOINT_IAM      [default: https://iam.storage.dev]
  TIGRIS_REGION            [default: auto]
  TURSO_ENDPOINT_API       [default: https://api.turso.tech]
  TURSO_DATABASE_SCHEME    [default: libsql]; http: for a server without TLS

Exit codes:
  0   done, or nothing to do
  64  wrong command line, or a name that cannot be one
  69  a service did not answer, or asks to come back later
  70  a bug in tenant-provision
  71  this machine cannot do it: no CA certificates, stdout is closed
  77  a service refused the credentials, or what was found does not allow it: somebody else's, files, incomplete
  78  wrong environment, a file that cannot be used, or an answer that no retry will change";

impl Settings {
    /// # Errors
    /// The first variable that is missing or wrong.
    pub(super) async fn read(environment: &Environment) -> Result<Settings, ProvisionError> {
        let settings = Settings {
            prefix: text(environment, "TENANT_PROVISION_PREFIX", Some("tenant"))?,
            s3: endpoint(environment, "TIGRIS_ENDPOINT_S3", "https://t3.storage.dev")?,
            iam: private_endpoint(environment, "TIGRIS_ENDPOINT_IAM", "https://iam.storage.dev")?,
            region: text(environment, "TIGRIS_REGION", Some("auto"))?,
            key_id: secret(environment, "TIGRIS_ADMIN_ACCESS_KEY_ID").await?,
            secret: secret(environment, "TIGRIS_ADMIN_SECRET_ACCESS_KEY").await?,
            turso: private_endpoint(environment, "TURSO_ENDPOINT_API", "https://api.turso.tech")?,
            token: secret(environment, "TURSO_API_TOKEN").await?,
            organization: text(environment, "TURSO_ORGANIZATION", None)?,
            group: text(environment, "TURSO_GROUP", Some("default"))?,
            scheme: text(environment, "TURSO_DATABASE_SCHEME", Some("libsql"))?,
        };
        let plain = [
            ("TENANT_PROVISION_PREFIX", &settings.prefix),
            ("TURSO_ORGANIZATION", &settings.organization),
            ("TURSO_GROUP", &settings.group),
        ];
        for (name, value) in plain {
            if !names::is_plain(value) {
                return Err(wrong(
                    name,
                    "cannot be part of a name",
                    &format!("allowed: {}", names::RULE),
                ));
            }
        }
        if !syntax::is_region(&settings.region) {
            return Err(wrong("TIGRIS_REGION", "is not a region", syntax::REGION));
        }
        if !matches!(settings.scheme.as_str(), "libsql" | "https" | "http") {
            return Err(wrong(
                "TURSO_DATABASE_SCHEME",
                "is not known",
                "allowed: libsql, https, http",
            ));
        }
        Ok(settings)
    }

    /// The bucket `name`, for the administrator.
    pub(super) fn storage(&self, bucket: &str) -> credentials::Storage {
        credentials::Storage {
            bucket: bucket.to_owned(),
            endpoint: self.s3.clone(),
            region: self.region.clone(),
            access_key_id: self.key_id.clone(),
            secret_access_key: self.secret.clone(),
        }
    }
}

async fn secret(environment: &Environment, name: &str) -> Result<SecretString, ProvisionError> {
    credentials::read_secret(environment, name).await?.ok_or_else(|| {
        wrong(
            name,
            "is not set",
            &format!("set it, or {name}_FILE; --help says what it is"),
        )
    })
}

fn text(environment: &Environment, name: &str, default: Option<&str>) -> Result<String, ProvisionError> {
    let value = environment
        .get(name)
        .map_err(|_| wrong(name, "is not UTF-8", "set it to plain ASCII text"))?;
    value
        .or(default)
        .map(str::to_owned)
        .ok_or_else(|| wrong(name, "is not set", "set it; --help says what it is"))
}

fn endpoint(environment: &Environment, name: &str, default: &str) -> Result<String, ProvisionError> {
    let url = text(environment, name, Some(default))?;
    if syntax::is_endpoint(&url) {
        Ok(url.trim_end_matches('/').to_owned())
    } else {
        Err(wrong(name, "is no address of a service", syntax::ENDPOINT))
    }
}

/// Of a service that gets the administrator's token or gives a new secret: nobody may read along.
fn private_endpoint(environment: &Environment, name: &str, default: &str) -> Result<String, ProvisionError> {
    let url = endpoint(environment, name, default)?;
    if syntax::is_broker_url(&url) {
        Ok(url)
    } else {
        Err(wrong(
            name,
            "would send secrets unencrypted",
            "allowed: https://, or http:// to this machine",
        ))
    }
}

fn wrong(name: &str, why: &str, todo: &str) -> ProvisionError {
    ProvisionError::new(Exit::Config, name, why, todo)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 4] = [
        ("TIGRIS_ADMIN_ACCESS_KEY_ID", "tid_admin"),
        ("TIGRIS_ADMIN_SECRET_ACCESS_KEY", "tsec_admin"),
        ("TURSO_API_TOKEN", "token"),
        ("TURSO_ORGANIZATION", "org"),
    ];

    #[tokio::test]
    async fn only_credentials_and_the_organization_have_no_default() {
        let settings = Settings::read(&GOOD.into_iter().collect()).await.unwrap();
        assert_eq!(settings.s3, "https://t3.storage.dev");
        assert_eq!(
            (settings.prefix.as_str(), settings.group.as_str()),
            ("tenant", "default")
        );
        for (missing, _) in GOOD {
            let rest = GOOD.into_iter().filter(|(name, _)| *name != missing).collect();
            let error = Settings::read(&rest).await.err().unwrap();
            assert_eq!((error.exit, error.what.as_str()), (Exit::Config, missing));
        }
    }

    #[tokio::test]
    async fn what_is_wrong_is_named_and_not_repeated() {
        for (name, value) in [
            ("TIGRIS_ENDPOINT_IAM", "https://user:hunter2@host"),
            ("TURSO_ENDPOINT_API", "https://host/hunter2"),
            ("TIGRIS_ENDPOINT_IAM", "http://hunter2.example"),
            ("TURSO_ENDPOINT_API", "http://hunter2.example"),
            ("TENANT_PROVISION_PREFIX", "Hunter2"),
            ("TURSO_DATABASE_SCHEME", "hunter2"),
            ("TIGRIS_REGION", "hunter2!"),
            ("TURSO_API_TOKEN", " hunter2"),
        ] {
            let some = GOOD.into_iter().filter(|(known, _)| *known != name);
            let error = Settings::read(&some.chain([(name, value)]).collect())
                .await
                .err()
                .unwrap();
            assert!(error.to_string().contains(name), "{error}");
            assert!(!error.to_string().to_lowercase().contains("hunter2"), "{error}");
        }
    }
}
