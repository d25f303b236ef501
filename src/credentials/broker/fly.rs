//! A Fly OIDC token, so that a machine needs no stored secret to ask for its own.
//!
//! `POST /v1/tokens/oidc {"aud": …}` on the unix socket `/.fly/api` answers with a JWT that names the machine
//! (<https://fly.io/docs/security/openid-connect/>).

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use secrecy::SecretString;
use tokio::time::Instant;

use super::super::error::Fault;
use super::TOKEN;
use super::http::{self, Failure};
use crate::config::syntax;

const OBJECT: &str = "the Fly OIDC token";
const LARGEST: u64 = 16 * 1024;

/// A token for `audience`.
pub(super) async fn token(socket: &Path, audience: &str, deadline: Instant) -> Result<SecretString, Failure> {
    let is_socket = tokio::fs::metadata(socket)
        .await
        .is_ok_and(|metadata| metadata.file_type().is_socket());
    if !is_socket {
        let what = format!("is not set, and there is no Fly machine API at {}", socket.display());
        let todo = format!("set it or {TOKEN}_FILE; on Fly the API is at /.fly/api");
        return Err(Failure::Wrong(Fault::new(TOKEN, what, todo)));
    }
    let builder = http::without_certificates(http::builder()).unix_socket(socket);
    let client = http::built(builder).map_err(Failure::Wrong)?;
    let request = client
        .post("http://localhost/v1/tokens/oidc")
        .json(&serde_json::json!({ "aud": audience }))
        .timeout(http::attempt_timeout(deadline));
    let response = http::send(OBJECT, request).await?;
    let status = response.status().as_u16();
    let fault = |what: String| Fault::new(OBJECT, what, format!("check Fly's status, or set {TOKEN}"));
    match status {
        200..=299 => {
            let body = http::body(OBJECT, response, LARGEST).await?;
            parse(&body).ok_or_else(|| Failure::Wrong(fault("the answer is not a token".to_owned())))
        }
        401 | 403 => Err(Failure::Refused(fault(format!("Fly's machine API answered {status}")))),
        429 | 500..=599 => {
            let after = http::retry_after(response.headers());
            Err(Failure::Again {
                fault: fault(format!("Fly's machine API answered {status}")),
                after,
            })
        }
        _ => Err(Failure::Wrong(fault(format!("Fly's machine API answered {status}")))),
    }
}

/// A JWT (RFC 7519): three parts with dots between them.
fn parse(body: &[u8]) -> Option<SecretString> {
    let text = std::str::from_utf8(body).ok()?.trim();
    let parts: Vec<_> = text.split('.').collect();
    let good = parts.len() == 3
        && parts
            .iter()
            .all(|part| !part.is_empty() && syntax::is_printable(part) && !part.contains(' '));
    good.then(|| SecretString::from(text))
}
