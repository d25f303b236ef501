//! Source `env`: the names that the platforms set.
//!
//! `fly storage create` sets `BUCKET_NAME`, `AWS_ENDPOINT_URL_S3` and the key; the bucket's address is ordinary
//! configuration (`storage.*`), the rest is read here.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::error::{CredentialsError, Fault, Origin};
use super::{Bundle, Index, Storage, database_url, secret, validate};
use crate::config::{Config, Environment};

/// The bundle that the environment makes.
pub(super) async fn read(config: &Config, environment: &Environment) -> Result<Bundle, CredentialsError> {
    let mut reader = Reader {
        environment,
        faults: Vec::new(),
    };
    let bucket = reader.address(config.storage.bucket.as_ref(), "BUCKET_NAME", "storage.bucket");
    let endpoint = reader.address(
        config.storage.endpoint.as_ref(),
        "AWS_ENDPOINT_URL_S3",
        "storage.endpoint",
    );
    let access_key_id = reader.needed("AWS_ACCESS_KEY_ID").await;
    let secret_access_key = reader.needed("AWS_SECRET_ACCESS_KEY").await;
    reader.no_session_token().await;
    let index = reader.index().await;
    if !reader.faults.is_empty() {
        return Err(CredentialsError::Wrong {
            origin: Origin::Environment,
            faults: reader.faults,
        });
    }
    let storage = Storage {
        bucket,
        endpoint,
        region: config.storage.region.clone(),
        access_key_id,
        secret_access_key,
    };
    let bundle = Bundle {
        tenant_id: config.tenant.id.clone(),
        storage,
        index,
        expires_at: None,
    };
    let tenant = config.tenant.id.as_deref();
    validate::check(
        bundle,
        &validate::ENVIRONMENT,
        Origin::Environment,
        tenant,
        Timestamp::now(),
    )
}

/// Reads variables and remembers every one that is missing or wrong.
struct Reader<'a> {
    environment: &'a Environment,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn address(&mut self, value: Option<&String>, name: &str, key: &str) -> String {
        if value.is_none() {
            let todo = format!("set it, or {key} (on Fly, `fly storage create` sets it)");
            self.faults.push(Fault::new(name, "is not set", todo));
        }
        value.cloned().unwrap_or_default()
    }

    async fn secret(&mut self, name: &str) -> Option<SecretString> {
        secret::read(self.environment, name).await.unwrap_or_else(|fault| {
            self.faults.push(fault);
            None
        })
    }

    async fn needed(&mut self, name: &str) -> SecretString {
        let before = self.faults.len();
        let value = self.secret(name).await;
        if value.is_none() && self.faults.len() == before {
            self.faults.push(Fault::new(
                name,
                "is not set",
                format!("set it, or {name}_FILE to a file that holds it"),
            ));
        }
        value.unwrap_or_default()
    }

    async fn no_session_token(&mut self) {
        if self.secret("AWS_SESSION_TOKEN").await.is_some() {
            let what = "is set, but temporary keys in variables cannot be renewed";
            let todo = "use a permanent key, or credentials.source `file` or `broker`";
            self.faults.push(Fault::new("AWS_SESSION_TOKEN", what, todo));
        }
    }

    /// The index from `DATABASE_URL`, or from `TURSO_DATABASE_URL`; the token from the URL, or from `TURSO_AUTH_TOKEN`.
    async fn index(&mut self) -> Option<Index> {
        let before = self.faults.len();
        let plain = self.url("DATABASE_URL").await;
        let turso = self.url("TURSO_DATABASE_URL").await;
        let token = self.secret("TURSO_AUTH_TOKEN").await;
        if self.faults.len() > before {
            return None;
        }
        let (name, index) = match (plain, turso) {
            (None, None) if token.is_some() => {
                let todo = "set TURSO_DATABASE_URL, or take the token away";
                self.faults
                    .push(Fault::new("TURSO_AUTH_TOKEN", "is set without a database", todo));
                return None;
            }
            (None, None) => return None,
            (Some(plain), Some(turso)) if plain.url != turso.url => {
                let what = "names another database than TURSO_DATABASE_URL";
                self.faults.push(Fault::new("DATABASE_URL", what, "set one of the two"));
                return None;
            }
            (Some(plain), Some(turso)) => (
                "DATABASE_URL",
                self.one_token("TURSO_DATABASE_URL", plain, turso.auth_token),
            ),
            (Some(plain), None) => ("DATABASE_URL", plain),
            (None, Some(turso)) => ("TURSO_DATABASE_URL", turso),
        };
        Some(self.one_token(name, index, token))
    }

    async fn url(&mut self, name: &str) -> Option<Index> {
        let url = self.secret(name).await?;
        match database_url::parse(url.expose_secret()) {
            Ok(index) => Some(index),
            Err(what) => {
                self.faults.push(Fault::new(name, what, database_url::ALLOWED));
                None
            }
        }
    }

    /// `index` with `token`. Two different tokens are a mistake that only shows much later, as a database that refuses.
    fn one_token(&mut self, name: &str, mut index: Index, token: Option<SecretString>) -> Index {
        match (&index.auth_token, token) {
            (Some(ours), Some(other)) if ours.expose_secret() != other.expose_secret() => {
                let what = "comes with another token than the one elsewhere in the environment";
                let todo = "give the token once: in the URL (authToken) or in TURSO_AUTH_TOKEN";
                self.faults.push(Fault::new(name, what, todo));
            }
            (None, token) => index.auth_token = token,
            _ => {}
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::super::{Bundle, CredentialsError, fetch};
    use crate::config::{self, Environment, Sources};
    use crate::exit::Exit;

    const STORAGE: [(&str, &str); 4] = [
        ("BUCKET_NAME", "tenant-acme"),
        ("AWS_ENDPOINT_URL_S3", "https://fly.storage.tigris.dev"),
        ("AWS_ACCESS_KEY_ID", "tid_abc"),
        ("AWS_SECRET_ACCESS_KEY", "tsec_abc"),
    ];

    async fn with(variables: &[(&str, &str)]) -> Result<Bundle, CredentialsError> {
        let environment: Environment = variables.iter().copied().collect();
        let sources = Sources {
            environment: environment.clone(),
            ..Sources::default()
        };
        fetch(&config::load(&sources).unwrap(), &environment).await
    }

    async fn and(more: &[(&str, &str)]) -> Result<Bundle, CredentialsError> {
        with(&[&STORAGE[..], more].concat()).await
    }

    #[tokio::test]
    async fn what_fly_sets_is_enough() {
        let bundle = with(&STORAGE).await.unwrap();
        assert_eq!(bundle.storage.bucket, "tenant-acme");
        assert_eq!(bundle.storage.endpoint, "https://fly.storage.tigris.dev");
        assert_eq!(bundle.storage.region, "auto");
        assert_eq!(bundle.storage.access_key_id.expose_secret(), "tid_abc");
        assert_eq!(bundle.storage.secret_access_key.expose_secret(), "tsec_abc");
        assert!(bundle.index.is_none());
    }

    #[tokio::test]
    async fn everything_missing_is_listed_at_once() {
        let error = with(&[]).await.unwrap_err();
        assert_eq!(error.exit(), Exit::Config);
        for (name, _) in STORAGE {
            assert!(
                error.to_string().contains(&format!("\n  {name}: is not set")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn both_ways_to_name_the_index() {
        let url = and(&[("DATABASE_URL", "libsql://db.turso.io?authToken=a.b.c")])
            .await
            .unwrap()
            .index
            .unwrap();
        let pair = [
            ("TURSO_DATABASE_URL", "libsql://db.turso.io"),
            ("TURSO_AUTH_TOKEN", "a.b.c"),
        ];
        let pair = and(&pair).await.unwrap().index.unwrap();
        for index in [url, pair] {
            assert_eq!(index.url, "libsql://db.turso.io");
            assert_eq!(index.auth_token.unwrap().expose_secret(), "a.b.c");
        }
    }

    #[tokio::test]
    async fn contradictions_are_errors() {
        for (more, what) in [
            (
                &[("DATABASE_URL", "libsql://a"), ("TURSO_DATABASE_URL", "libsql://b")][..],
                "another database",
            ),
            (
                &[
                    ("DATABASE_URL", "libsql://a?authToken=tsec1"),
                    ("TURSO_AUTH_TOKEN", "tsec2"),
                ],
                "another token",
            ),
            (&[("TURSO_AUTH_TOKEN", "tsec1")], "without a database"),
            (&[("DATABASE_URL", "postgres://u:tsec1@h/d")], "postgres database"),
            (&[("AWS_SESSION_TOKEN", "tsec1")], "cannot be renewed"),
            (&[("AWS_SECRET_ACCESS_KEY_FILE", "/x")], "set one of the two"),
        ] {
            let error = and(more).await.unwrap_err();
            assert_eq!(error.exit(), Exit::Config);
            assert!(
                error.to_string().contains(what) && !error.to_string().contains("tsec"),
                "{error}"
            );
        }
        let agree = [
            ("DATABASE_URL", "libsql://a?authToken=t"),
            ("TURSO_DATABASE_URL", "libsql://a"),
            ("TURSO_AUTH_TOKEN", "t"),
        ];
        assert!(and(&agree).await.is_ok());
    }

    proptest! {
        /// Any text in any secret variable: neither the error nor `Debug` of the bundle repeats it.
        #[test]
        fn no_secret_is_ever_printed(secret in "[ -~]{20,60}", at in 0_usize..6) {
            let name = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL", "TURSO_DATABASE_URL",
                "TURSO_AUTH_TOKEN", "AWS_SESSION_TOKEN"][at];
            let mut variables = STORAGE.to_vec();
            variables.retain(|(other, _)| *other != name);
            variables.push((name, &secret));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let result = runtime.block_on(with(&variables));
            let shown = match &result {
                Ok(bundle) => format!("{bundle:?}"),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains(&secret), "{}", shown);
        }
    }
}
