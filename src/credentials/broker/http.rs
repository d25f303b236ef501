//! HTTP as the broker source needs it: bounded in time and size, no proxy, no redirect, errors without URLs.

use std::error::Error;
use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder, RequestBuilder, Response, Url};
use tokio::time::Instant;

use super::super::error::Fault;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// Trying again cannot help.
    Wrong(Fault),
    /// We were refused.
    Refused(Fault),
    /// It may pass by itself.
    Again {
        fault: Fault,
        /// The server's wish (`Retry-After`).
        after: Option<Duration>,
    },
}

/// A client for `url`.
pub(super) fn client(url: &Url) -> Result<Client, Fault> {
    let builder = builder();
    let builder = if url.scheme() == "https" {
        builder
    } else {
        without_certificates(builder)
    };
    built(builder)
}

/// Common to every client. Proxies are off: reqwest would take one from variables that nobody meant for the broker.
pub(super) fn builder() -> ClientBuilder {
    // reqwest is built without a TLS provider and takes the process's. Installing fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("tenant-init/", env!("CARGO_PKG_VERSION")))
}

/// Plain HTTP must work on a machine without CA certificates, whose absence fails the builder.
pub(super) fn without_certificates(builder: ClientBuilder) -> ClientBuilder {
    builder.tls_certs_only(std::iter::empty())
}

pub(super) fn built(builder: ClientBuilder) -> Result<Client, Fault> {
    builder.build().map_err(|error| {
        let what = format!("no HTTP client can be made: {}", causes(&error));
        Fault::new("TLS", what, "install the CA certificates (Debian: ca-certificates)")
    })
}

/// What is left for one attempt.
pub(super) fn attempt_timeout(deadline: Instant) -> Duration {
    ATTEMPT_TIMEOUT.min(deadline.saturating_duration_since(Instant::now()))
}

/// Sends `request` for `object`.
pub(super) async fn send(object: &str, request: RequestBuilder) -> Result<Response, Failure> {
    request.send().await.map_err(|error| failure(object, error))
}

/// The body of `response`, at most `limit` bytes.
pub(super) async fn body(object: &str, mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
    let too_large = || {
        let what = format!("the answer is larger than {} KiB", limit / 1024);
        Failure::Wrong(Fault::new(
            object,
            what,
            "check that TENANT_CREDENTIALS_URL is the URL of a bundle",
        ))
    };
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| failure(object, error))? {
        body.extend_from_slice(&chunk);
        if body.len() as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(body)
}

fn failure(object: &str, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if error.is_builder() {
        let what = format!("the request cannot be made: {}", causes(&error));
        return Failure::Wrong(Fault::new(object, what, "check TENANT_CREDENTIALS_URL"));
    }
    let what = if error.is_timeout() {
        "no answer in time".to_owned()
    } else if error.is_connect() {
        format!("no connection: {}", causes(&error))
    } else {
        format!("the connection broke: {}", causes(&error))
    };
    Failure::Again {
        fault: Fault::new(object, what, "check the network and the broker, then start again"),
        after: None,
    }
}

/// The innermost cause says what happened ("Connection refused"); reqwest's own words only say where.
fn causes(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// `Retry-After`: seconds or a date (RFC 9110, 10.2.3). Nonsense counts as absent.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        // A day is as good as for ever, and cannot overflow an Instant.
        return Some(Duration::from_secs(seconds.min(86_400)));
    }
    let then = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    let wait = then.duration_since(Timestamp::now());
    Some(
        Duration::try_from(wait)
            .unwrap_or_default()
            .min(Duration::from_secs(86_400)),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::header::{HeaderMap, RETRY_AFTER};

    use super::retry_after;

    fn of(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers)
    }

    #[test]
    fn seconds_dates_and_nonsense() {
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("18446744073709551615"), Some(Duration::from_secs(86_400)));
        assert_eq!(of("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(of("Sat, 06 Nov 2094 08:49:37 GMT"), Some(Duration::from_secs(86_400)));
        assert_eq!(of("soon"), None);
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
