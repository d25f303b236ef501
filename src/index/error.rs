//! What went wrong with the index database, and what it means for the tenant.

use std::time::Duration;

use secrecy::ExposeSecret;

use super::remote::Target;
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

/// No answer: no connection, or a broken one.
pub(super) fn broken(error: reqwest::Error, target: &Target, connect: Duration, limit: Duration) -> IndexError {
    let error = error.without_url();
    let reason = if error.is_connect() && error.is_timeout() {
        Reason::NoConnection(connect)
    } else if error.is_timeout() {
        Reason::Silent(limit)
    } else {
        Reason::from_text(&network::chain(&error), &target.host, connect, limit)
    };
    IndexError::Unreachable {
        url: target.url.clone(),
        reason,
    }
}

/// An answer with a status other than 200.
pub(super) fn status(status: u16, body: &[u8], target: &Target) -> IndexError {
    let url = target.url.clone();
    let text = std::str::from_utf8(body).map(|text| redacted(text, target));
    let said = text
        .as_ref()
        .ok()
        .and_then(|text| said(text))
        .unwrap_or_else(|| format!("status {status}"));
    match status {
        401 | 403 => IndexError::Rejected { url, said },
        429 | 500.. => {
            let unlike = if text.is_err() {
                ", and not like a libSQL server"
            } else {
                ""
            };
            IndexError::Unreachable {
                url,
                reason: Reason::Failing(format!("with status {status}{unlike}")),
            }
        }
        _ => IndexError::Misconfigured {
            url,
            reason: format!("it answered with status {status} ({said})"),
        },
    }
}

/// The server took token and request, and could not do what needs nothing but a working server.
pub(super) fn said_by_server(error: &libsql_hrana::proto::Error, target: &Target) -> IndexError {
    IndexError::Unreachable {
        url: target.url.clone(),
        reason: Reason::Failing(format!("with an error: {}", words(error, target))),
    }
}

/// The server's words: one short line without our token.
pub(super) fn words(error: &libsql_hrana::proto::Error, target: &Target) -> String {
    network::shorten(&format!("{} ({})", redacted(&error.message, target), error.code))
}

/// The server could not do it now; trying again may help. Everything else is about the statement.
pub(super) fn is_outage(error: &libsql_hrana::proto::Error) -> bool {
    const CODES: [&str; 13] = [
        "BUSY",
        "LOCKED",
        "TIMEOUT",
        "EXPIRED",
        "IOERR",
        "FULL",
        "INTERRUPT",
        "NOMEM",
        "BLOCKED",
        "CANTOPEN",
        "PROTOCOL",
        "READONLY",
        "INTERNAL",
    ];
    let code = error.code.to_uppercase();
    CODES.iter().any(|part| code.contains(part))
}

fn redacted(text: &str, target: &Target) -> String {
    let token = target.token();
    let secret = token.as_ref().map_or("", |token| token.expose_secret());
    network::redact(text, &[secret])
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
            tls: true,
            token: Some(secrecy::SecretString::from("TOKENEXAMPLE".to_owned())).into(),
        }
    }

    #[test]
    fn every_answer_has_its_exit_code() {
        for (code, body, exit) in [
            (401, "{\"error\":\"expired\"}", Exit::Refused),
            (403, "", Exit::Refused),
            (404, "page not found", Exit::Config),
            (301, "", Exit::Config),
            (429, "", Exit::Unavailable),
            (503, "", Exit::Unavailable),
        ] {
            let error = status(code, body.as_bytes(), &target());
            assert_eq!(error.exit(), exit, "{code}: {error}");
            assert!(error.to_string().contains("notes.turso.io"), "{error}");
            assert!(!error.advice().is_empty());
        }
    }

    #[test]
    fn a_server_that_is_busy_is_not_a_statement_that_is_wrong() {
        let error = |code: &str| libsql_hrana::proto::Error {
            message: "no".into(),
            code: code.into(),
        };
        for code in [
            "SQLITE_BUSY",
            "STREAM_EXPIRED",
            "TRANSACTION_TIMEOUT",
            "SQLITE_IOERR_FSYNC",
            "SQL_WRITE_BLOCKED",
        ] {
            assert!(is_outage(&error(code)), "{code}");
        }
        for code in [
            "SQLITE_CONSTRAINT",
            "SQLITE_UNKNOWN",
            "SQL_PARSE_ERROR",
            "ARGS_INVALID",
            "",
        ] {
            assert!(!is_outage(&error(code)), "{code}");
        }
    }

    #[test]
    fn the_servers_words_are_kept_and_the_token_is_not() {
        let body = b"{\"error\":\"token TOKENEXAMPLE has expired\"}";
        let error = status(401, body, &target());
        assert!(error.to_string().contains("token [redacted] has expired"), "{error}");
        assert!(!format!("{error:?}").contains("TOKENEXAMPLE"));
    }
}
