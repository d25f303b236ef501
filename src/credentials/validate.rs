//! The checks that every bundle passes, whatever source it came from.

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use super::Bundle;
use super::error::{CredentialsError, Fault, Origin};
use crate::config::syntax;

/// What the parts of a bundle are called where it came from.
pub(super) struct Names {
    pub bucket: &'static str,
    pub endpoint: &'static str,
    pub region: &'static str,
    pub access_key_id: &'static str,
    pub secret_access_key: &'static str,
    pub auth_token: &'static str,
}

/// Names in a JSON bundle.
pub(super) const BUNDLE: Names = Names {
    bucket: "storage.bucket",
    endpoint: "storage.endpoint",
    region: "storage.region",
    access_key_id: "storage.access_key_id",
    secret_access_key: "storage.secret_access_key",
    auth_token: "index.auth_token",
};

/// Names in the environment.
pub(super) const ENVIRONMENT: Names = Names {
    bucket: "BUCKET_NAME",
    endpoint: "AWS_ENDPOINT_URL_S3",
    region: "AWS_REGION",
    access_key_id: "AWS_ACCESS_KEY_ID",
    secret_access_key: "AWS_SECRET_ACCESS_KEY",
    auth_token: "TURSO_AUTH_TOKEN",
};

/// Longest access key and secret that we take.
const LONGEST_KEY: usize = 512;
/// Longest token: it travels in a header, and servers take about 8 KiB of those.
const LONGEST_TOKEN: usize = 8 * 1024;

/// `bundle` when everything in it can be used, and used by `tenant`.
pub(super) fn check(
    mut bundle: Bundle,
    names: &Names,
    origin: Origin,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<Bundle, CredentialsError> {
    let faults = faults(&bundle, names);
    if !faults.is_empty() {
        return Err(CredentialsError::Wrong { origin, faults });
    }
    // A wrong tenant is said before an old bundle: it is the mistake that would mix two tenants' data.
    if let (Some(ours), Some(theirs)) = (tenant, &bundle.tenant_id)
        && ours != theirs
    {
        let fault = Fault::new(
            "tenant_id",
            format!("the bundle is for another tenant than tenant.id ({ours})"),
            "give this machine its own tenant's credentials, or correct TENANT_ID",
        );
        return Err(CredentialsError::Refused { origin, fault });
    }
    if let Some(expires_at) = bundle.expires_at.filter(|expires_at| *expires_at <= now) {
        let fault = Fault::new(
            "expires_at",
            format!("the bundle expired at {expires_at} (it is {now:.0} here)"),
            "issue a new one, or correct this machine's clock",
        );
        return Err(CredentialsError::Refused { origin, fault });
    }
    bundle
        .storage
        .endpoint
        .truncate(bundle.storage.endpoint.trim_end_matches('/').len());
    bundle.tenant_id = bundle.tenant_id.or_else(|| tenant.map(str::to_owned));
    Ok(bundle)
}

fn faults(bundle: &Bundle, names: &Names) -> Vec<Fault> {
    let storage = &bundle.storage;
    let mut faults = Vec::new();
    let mut need = |good: bool, object: &str, allowed: &str| {
        if !good {
            faults.push(Fault::new(object, "is not well-formed", format!("allowed: {allowed}")));
        }
    };
    need(syntax::is_bucket(&storage.bucket), names.bucket, syntax::BUCKET);
    need(syntax::is_endpoint(&storage.endpoint), names.endpoint, syntax::ENDPOINT);
    need(syntax::is_region(&storage.region), names.region, syntax::REGION);
    let key = "printable ASCII without spaces, up to 512 characters";
    need(is_key(&storage.access_key_id, LONGEST_KEY), names.access_key_id, key);
    need(
        is_key(&storage.secret_access_key, LONGEST_KEY),
        names.secret_access_key,
        key,
    );
    if let Some(id) = &bundle.tenant_id {
        need(syntax::is_tenant_id(id), "tenant_id", syntax::TENANT_ID);
    }
    if let Some(token) = bundle.index.as_ref().and_then(|index| index.auth_token.as_ref()) {
        let allowed = "printable ASCII without spaces, up to 8192 characters";
        need(is_key(token, LONGEST_TOKEN), names.auth_token, allowed);
    }
    faults
}

fn is_key(secret: &SecretString, longest: usize) -> bool {
    let text = secret.expose_secret();
    (1..=longest).contains(&text.len()) && syntax::is_printable(text) && !text.contains(' ')
}
