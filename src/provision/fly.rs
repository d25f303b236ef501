//! The lines that `fly secrets import` reads: the same secrets as in the bundle, under the names of the source `env`.

use secrecy::{ExposeSecret, SecretString};

use crate::credentials::Bundle;

/// `NAME=VALUE`, one a line. A secret.
pub(super) fn lines(bundle: &Bundle) -> SecretString {
    let storage = &bundle.storage;
    let mut lines = vec![
        ("TENANT_ID", bundle.tenant_id.as_deref().unwrap_or_default()),
        ("BUCKET_NAME", &storage.bucket),
        ("AWS_ENDPOINT_URL_S3", &storage.endpoint),
        ("AWS_REGION", &storage.region),
        ("AWS_ACCESS_KEY_ID", storage.access_key_id.expose_secret()),
        ("AWS_SECRET_ACCESS_KEY", storage.secret_access_key.expose_secret()),
    ];
    if let Some(index) = &bundle.index {
        lines.push(("TURSO_DATABASE_URL", &index.url));
        if let Some(token) = &index.auth_token {
            lines.push(("TURSO_AUTH_TOKEN", token.expose_secret()));
        }
    }
    let lines = lines.iter().map(|(name, value)| format!("{name}={value}\n"));
    lines.collect::<String>().into()
}
