//! What went wrong with the index database, and what it means for the tenant.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::Target;
use crate::exit::Exit;
use crate::storage::network::{self, Reason};

/// Why the index database cannot be used. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The token is wrong, expired, or for another database.
    #[error("the token for the index database {url} was rejected ({said})")]
    Rejected {
        /// The database.
        url: String,
        /// The server's own words, or the HTTP status.
        said: String,
    },
    /// No usable answer now; a later try may work.
    #[error("the index database {url} is unreachable: {reason}")]
    Unreachable {
        /// The database.
        url: String,
        /// Why.
        reason: Reason,
    },
    /// An answer that no retry will change.
    #[error("{url} is not the index database: {reason}")]
    Misconfigured {
        /// The database.
        url: String,
        /// Why.
        reason: String,
    },
    /// No URL that libSQL speaks.
    #[error("the index database URL {url:?} is not libsql://, https:// or http://")]
    BadUrl {
        /// As configured, without user information and query.
        url: String,
    },
    /// `https`, and nothing to trust.
    #[error("the index database {url} needs TLS, but {reason}")]
    NoCertificates {
        /// The database.
        url: String,
        /// Why there are none.
        reason: String,
    },
}

impl IndexError {
    /// The exit code that a start which fails with this deserves.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            IndexError::Rejected { .. } => Exit::Refused,
            IndexError::Unreachable { .. } => Exit::Unavailable,
            IndexError::Misconfigured { .. } | IndexError::BadUrl { .. } => Exit::Config,
            IndexError::NoCertificates { .. } => Exit::Machine,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            IndexError::Rejected { .. } => {
                "make a new token for this database (turso db tokens create NAME) and give it as TURSO_AUTH_TOKEN \
                 or authToken"
                    .to_owned()
            }
            IndexError::Unreachable { reason, .. } => reason.advice(),
            IndexError::Misconfigured { .. } => {
                "check DATABASE_URL (or TURSO_DATABASE_URL): turso db show NAME --url prints it".to_owned()
            }
            IndexError::BadUrl { .. } => "set DATABASE_URL to a URL such as libsql://NAME-ORG.turso.io".to_owned(),
            IndexError::NoCertificates { .. } => network::CERTIFICATES_ADVICE.to_owned(),
        }
    }
}

pub(super) fn silent(target: &Target, limit: Duration) -> IndexError {
    IndexError::Unreachable {
        url: target.url.clone(),
        reason: Reason::Silent(limit),
    }
}

pub(super) fn not_libsql(target: &Target) -> IndexError {
    IndexError::Misconfigured {
        url: target.url.clone(),
        reason: "it answers, but not like a libSQL server".to_owned(),
    }
}

/// Judges the text of a libsql error. An answer with a status reads `… status=401 Unauthorized, body=…`.
pub(super) fn classify(text: &str, target: &Target, limit: Duration) -> IndexError {
    let secret = target.token.as_ref().map_or("", |token| token.expose_secret());
    let text = network::redact(text, &[secret]);
    let url = target.url.clone();
    if let Some((status, body)) = answer(&text) {
        let said = said(body).unwrap_or_else(|| format!("status {status}"));
        return match status {
            401 | 403 => IndexError::Rejected { url, said },
            429 | 500.. => IndexError::Unreachable {
                url,
                reason: Reason::Failing(format!("with status {status}")),
            },
            _ => IndexError::Misconfigured {
                url,
                reason: format!("it answered with status {status} ({said})"),
            },
        };
    }
    if text.contains("http error") {
        return IndexError::Unreachable {
            url,
            reason: Reason::from_text(&text, &target.host, limit, limit),
        };
    }
    if text.contains("json error") || text.contains("unexpected response") {
        return not_libsql(target);
    }
    // The server took the token and the request, and could not run `SELECT 1`.
    IndexError::Unreachable {
        url,
        reason: Reason::Failing(network::shorten(&format!("with an error: {text}"))),
    }
}

/// Status and body out of `status=401 Unauthorized, body=…`.
fn answer(text: &str) -> Option<(u16, &str)> {
    let rest = text.split_once("status=")?.1;
    let status = rest.get(..3)?.parse().ok()?;
    let body = rest.split_once("body=").map_or("", |(_, body)| body);
    Some((status, body.trim_end_matches('`')))
}

/// The server's words out of a body such as `{"error":"…"}`.
fn said(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    Some(network::shorten(json.get("error")?.as_str()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target {
            url: "https://notes.turso.io".into(),
            host: "notes.turso.io".into(),
            token: Some("TOKENEXAMPLE".to_owned().into()),
        }
    }

    #[test]
    fn every_answer_has_its_exit_code() {
        for (text, exit) in [
            (
                "Hrana: `api error: `status=401 Unauthorized, body={\"error\":\"expired\"}``",
                Exit::Refused,
            ),
            ("Hrana: `api error: `status=403 Forbidden, body=``", Exit::Refused),
            (
                "Hrana: `api error: `status=404 Not Found, body=page not found``",
                Exit::Config,
            ),
            (
                "Hrana: `api error: `status=503 Service Unavailable, body=``",
                Exit::Unavailable,
            ),
            ("Hrana: `json error: `expected value at line 1 column 1``", Exit::Config),
            ("Hrana: `http error: `connection error: whatever``", Exit::Unavailable),
            (
                "Hrana: `stream error: `Error { message: \"disk I/O error\" }``",
                Exit::Unavailable,
            ),
        ] {
            let error = classify(text, &target(), Database::PROBE_TIMEOUT);
            assert_eq!(error.exit(), exit, "{text}: {error}");
            assert!(error.to_string().contains("notes.turso.io"), "{error}");
            assert!(!error.advice().is_empty());
        }
    }

    use super::super::Database;

    #[test]
    fn the_servers_words_are_kept_and_the_token_is_not() {
        let text = "Hrana: `api error: `status=401 Unauthorized, body={\"error\":\"token TOKENEXAMPLE has expired\"}``";
        let error = classify(text, &target(), Database::PROBE_TIMEOUT);
        assert!(error.to_string().contains("token [redacted] has expired"), "{error}");
        assert!(!format!("{error:?}").contains("TOKENEXAMPLE"));
    }
}
