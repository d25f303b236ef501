//! Network failures in words that a person understands, and what an endpoint URL says.
//!
//! The S3 client and the HTTP client of the index both give a chain of errors, whose types are private. Text is what
//! both have, so text is what is read; the tests produce each failure with a real socket, so that a new version of
//! either client that words it differently is noticed.

use std::fmt;
use std::time::Duration;

/// The parts of an `http(s)` URL that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// For messages: without user information.
    pub(crate) shown: String,
    /// Host name or address, without port.
    pub(crate) host: String,
    pub(crate) tls: bool,
}

impl Endpoint {
    /// `None` when this is not `http://host…` or `https://host…`.
    pub(crate) fn parse(url: &str) -> Option<Endpoint> {
        let parsed = reqwest::Url::parse(url).ok()?;
        let tls = match parsed.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Endpoint {
            shown: without_userinfo(url),
            host: parsed.host_str()?.to_owned(),
            tls,
        })
    }
}

/// The URL with `user:password@` and everything after the path taken out.
pub(crate) fn without_userinfo(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = authority.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{}", path.trim_end_matches('/'))
        }
        None => url.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

/// Checks that TLS has something to trust. A client built without any certificate fails each handshake with
/// "unknown issuer", which says nothing about what is missing.
///
/// # Errors
/// In words, why there are none.
pub(crate) fn certificates() -> Result<(), String> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        _ if !found.certs.is_empty() => Ok(()),
        Some(error) => Err(format!("this machine's CA certificates cannot be read ({error})")),
        None => Err("this machine has no CA certificates".to_owned()),
    }
}

/// What to do about missing certificates.
pub(crate) const CERTIFICATES_ADVICE: &str =
    "install the package ca-certificates, or point SSL_CERT_FILE at a PEM file that can be read";

/// Why there was no usable answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// Nothing listens there, or a firewall says no.
    Refused,
    /// No connection in time: packets are dropped.
    NoConnection(Duration),
    /// A connection, but no answer in time.
    Silent(Duration),
    /// The name has no address.
    Unresolved(String),
    /// No route to the address.
    NoRoute,
    /// The connection was closed before an answer came.
    Closed,
    /// The server's certificate is not trusted, with the verifier's words.
    Certificate(String),
    /// One side speaks TLS, the other does not.
    NotTls,
    /// The answer is not HTTP.
    NotHttp,
    /// The service answered that it cannot serve now, with its status and code.
    Failing(String),
    /// None of these: the innermost error as it is.
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Refused => write!(f, "connection refused"),
            Reason::NoConnection(limit) => write!(f, "no connection within {}", seconds(*limit)),
            Reason::Silent(limit) => write!(f, "no answer within {}", seconds(*limit)),
            Reason::Unresolved(host) => write!(f, "the name {host} does not resolve"),
            Reason::NoRoute => write!(f, "this machine has no route to it"),
            Reason::Closed => write!(f, "the connection was closed before an answer came"),
            Reason::Certificate(why) => write!(f, "its TLS certificate is not trusted ({why})"),
            Reason::NotTls => write!(f, "the port does not speak TLS"),
            Reason::NotHttp => write!(f, "the port does not speak HTTP"),
            Reason::Failing(answer) => write!(f, "it answered {answer}"),
            Reason::Other(text) => write!(f, "{text}"),
        }
    }
}

impl Reason {
    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            Reason::Refused => "check the endpoint's host and port, and that the service runs".to_owned(),
            Reason::NoConnection(_) | Reason::Silent(_) | Reason::NoRoute | Reason::Closed => {
                "check the network, the firewall and the endpoint; if the service is down, wait for it".to_owned()
            }
            Reason::Unresolved(_) => {
                "check the endpoint's spelling, and this machine's DNS (/etc/resolv.conf)".to_owned()
            }
            Reason::Certificate(_) => {
                format!("check the endpoint's host name and this machine's clock, or {CERTIFICATES_ADVICE}")
            }
            Reason::NotTls => "use http:// instead of https://, or the service's TLS port".to_owned(),
            Reason::NotHttp => "check the endpoint's port, and whether it needs https://".to_owned(),
            Reason::Failing(_) => "the service has a problem of its own: wait, and look at its status page".to_owned(),
            Reason::Other(_) => "check the endpoint and the network".to_owned(),
        }
    }

    /// Reads a printed error chain (`outer: … : innermost`).
    pub(crate) fn from_text(chain: &str, host: &str, connect: Duration, attempt: Duration) -> Reason {
        let text = chain.to_lowercase();
        let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
        if has(&["connection refused"]) {
            Reason::Refused
        } else if has(&[
            "dns error",
            "failed to lookup address",
            "name resolution",
            "name or service not known",
        ]) {
            Reason::Unresolved(host.to_owned())
        } else if has(&["network is unreachable", "no route to host", "host is unreachable"]) {
            Reason::NoRoute
        } else if has(&["invalid peer certificate", "certificate not valid", "unknownissuer"]) {
            Reason::Certificate(innermost(chain))
        } else if has(&["invalidcontenttype", "corrupt message", "wrong version number"]) {
            Reason::NotTls
        } else if has(&["connect timeout", "connection timed out"]) {
            Reason::NoConnection(connect)
        } else if has(&["timed out", "timeout", "deadline has elapsed"]) {
            Reason::Silent(attempt)
        } else if has(&[
            "connection reset",
            "broken pipe",
            "connection closed",
            "incompletemessage",
            "unexpected eof",
        ]) {
            Reason::Closed
        } else if has(&[
            "invalid http version",
            "invalid http status",
            "parse error",
            "invalid header",
        ]) {
            Reason::NotHttp
        } else {
            Reason::Other(innermost(chain))
        }
    }
}

/// Prints an error and its sources as `outer: … : innermost`, each text once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let link = error.to_string();
        if !text.ends_with(&link) {
            text.push_str(": ");
            text.push_str(&link);
        }
        next = error.source();
    }
    text
}

fn innermost(chain: &str) -> String {
    shorten(
        chain
            .rsplit(": ")
            .next()
            .unwrap_or(chain)
            .trim_end_matches(['`', ')', '"']),
    )
}

/// One line of at most 200 characters: servers may send pages.
pub(crate) fn shorten(text: &str) -> String {
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(200) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

/// Takes every secret out of a text that somebody else wrote.
pub(crate) fn redact(text: &str, secrets: &[&str]) -> String {
    secrets
        .iter()
        .filter(|secret| secret.len() >= 4)
        .fold(text.to_owned(), |text, secret| text.replace(secret, "[redacted]"))
}

/// `4 s`, `1.5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_password_and_query() {
        for (url, shown) in [
            ("https://t3.storage.dev", "https://t3.storage.dev"),
            ("http://user:pw@host:9000/", "http://host:9000"),
            ("https://host/path?authToken=abc#x", "https://host/path"),
            ("user:pw@host", "host"),
        ] {
            assert_eq!(without_userinfo(url), shown);
        }
    }

    #[test]
    fn a_secret_in_a_text_of_others_is_redacted() {
        assert_eq!(
            redact("key AKIDX is unknown", &["AKIDX", ""]),
            "key [redacted] is unknown"
        );
    }

    #[test]
    fn a_page_becomes_one_short_line() {
        let line = shorten(&"<html>\n\t".repeat(100));
        assert!(line.chars().count() <= 201 && !line.contains('\n'), "{line}");
    }
}
