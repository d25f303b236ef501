//! What went wrong with the bucket, and what it means for the tenant.

use std::time::Duration;

use jiff::SignedDuration;
use secrecy::ExposeSecret;

use super::Target;
use super::network::{self, Reason};
use crate::exit::Exit;

/// Why the bucket cannot be used. Contains no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The service knows the key, or does not, and refuses it here.
    #[error("the key for bucket {bucket} at {endpoint} was rejected ({code})")]
    Rejected {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// The S3 error code, or the HTTP status when there was none.
        code: String,
    },
    /// The key may be fine: the signature carries our time, and our time is wrong.
    #[error("{endpoint} refused the signature for bucket {bucket} because this machine's clock is {wrong}")]
    Clock {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// `17 min behind` or, when the answer had no date, `wrong`.
        wrong: String,
    },
    /// The key is fine, the bucket is not there.
    #[error("bucket {bucket} does not exist at {endpoint}")]
    NoBucket {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
    },
    /// No usable answer now; a later try may work.
    #[error("bucket {bucket} is unreachable at {endpoint}: {reason}")]
    Unreachable {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// Why.
        reason: Reason,
    },
    /// It works, and has had enough of us for now.
    #[error("the store asks us to slow down: {endpoint} answered {code} for bucket {bucket}")]
    SlowDown {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// `503 SlowDown`, `429`, …
        code: String,
    },
    /// An answer that no retry will change: another region, a bad bucket name, not an S3 service.
    #[error("{endpoint} cannot serve bucket {bucket} as configured: {reason}")]
    Misconfigured {
        /// The bucket.
        bucket: String,
        /// The endpoint.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// No request can name this object: `.` and `..` are taken out of every URL, which then names something else.
    #[error(
        "no request to bucket {bucket} can name the object {key:?}: it is empty, or a part of it is \".\" or \"..\""
    )]
    BadKey {
        /// The bucket.
        bucket: String,
        /// The object's name.
        key: String,
    },
    /// The endpoint is no `http(s)` URL.
    #[error("the storage endpoint {endpoint:?} is not an http:// or https:// URL")]
    BadEndpoint {
        /// As configured, without user information.
        endpoint: String,
    },
    /// `https`, and nothing to trust.
    #[error("{endpoint} needs TLS, but {reason}")]
    NoCertificates {
        /// The endpoint.
        endpoint: String,
        /// Why there are none.
        reason: String,
    },
}

impl StorageError {
    /// If the bucket answers other requests, it will answer none with this name in another way.
    #[must_use]
    pub fn is_about_the_name(&self) -> bool {
        matches!(self, StorageError::Misconfigured { .. } | StorageError::BadKey { .. })
    }

    /// The exit code that a start which fails with this deserves.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            StorageError::Rejected { .. } | StorageError::Clock { .. } => Exit::Refused,
            StorageError::NoBucket { .. }
            | StorageError::Misconfigured { .. }
            | StorageError::BadKey { .. }
            | StorageError::BadEndpoint { .. } => Exit::Config,
            StorageError::Unreachable { .. } | StorageError::SlowDown { .. } => Exit::Unavailable,
            StorageError::NoCertificates { .. } => Exit::Machine,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn advice(&self) -> String {
        match self {
            StorageError::Rejected { code, .. } => match code.as_str() {
                "SignatureDoesNotMatch" => {
                    "the secret key does not belong to this access key id: check both for missing characters".to_owned()
                }
                "AccessDenied" | "403" => {
                    "give this key the right to list, read and write the bucket, or use another key".to_owned()
                }
                _ => {
                    "check the access key id and the secret key; a deleted or rotated key needs a new bundle".to_owned()
                }
            },
            StorageError::Clock { .. } => "set the clock (NTP), then start again; the key may be fine".to_owned(),
            StorageError::NoBucket { .. } => {
                "create the bucket, or correct its name (BUCKET_NAME) or the endpoint (AWS_ENDPOINT_URL_S3)".to_owned()
            }
            StorageError::Unreachable { reason, .. } => reason.advice(),
            StorageError::SlowDown { .. } => {
                "wait; if it goes on, lower mount.transfers or ask the provider for a higher rate".to_owned()
            }
            StorageError::Misconfigured { .. } => "check the endpoint, the region and the bucket's name".to_owned(),
            StorageError::BadKey { .. } => {
                "rename or delete this object with a tool that gives names in the body of a request, such as \
                 `aws s3api delete-objects`"
                    .to_owned()
            }
            StorageError::BadEndpoint { .. } => "set it to a URL such as https://fly.storage.tigris.dev".to_owned(),
            StorageError::NoCertificates { .. } => network::CERTIFICATES_ADVICE.to_owned(),
        }
    }
}

/// Codes that S3 services send when they do not accept the key. A 401 or 403 with any other code counts as well.
const REJECTED: &[&str] = &[
    "AccessDenied",
    "AccountProblem",
    "AllAccessDisabled",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "SignatureDoesNotMatch",
    "UnauthorizedAccess",
];

/// Codes of a store that works and limits our rate. A 429 with any other code counts as well.
const SLOW_DOWN: &[&str] = &[
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
    "RequestLimitExceeded",
];

/// Codes that ask for patience whatever the status is.
const BUSY: &[&str] = &["ServiceUnavailable", "InternalError", "RequestTimeout"];

fn unreachable(target: &Target, reason: Reason) -> StorageError {
    StorageError::Unreachable {
        bucket: target.bucket.clone(),
        endpoint: target.endpoint.clone(),
        reason,
    }
}

/// Something that no retry will change, in words that may be the service's.
pub(super) fn misconfigured(target: &Target, why: &str) -> StorageError {
    StorageError::Misconfigured {
        bucket: target.bucket.clone(),
        endpoint: target.endpoint.clone(),
        reason: network::shorten(redact(why, target).trim_end()),
    }
}

/// An object that has no URL.
pub(super) fn bad_key(target: &Target, key: &str) -> StorageError {
    StorageError::BadKey {
        bucket: target.bucket.clone(),
        key: network::shorten(key),
    }
}

/// An answer that no S3 service gives.
pub(super) fn no_s3(status: u16, target: &Target) -> StorageError {
    misconfigured(
        target,
        &format!("it answered with status {status}, but not like an S3 service"),
    )
}

/// No answer: no connection, or a broken one.
pub(super) fn broken(failure: reqwest::Error, target: &Target) -> StorageError {
    let failure = failure.without_url();
    let (connect, attempt) = (target.timeouts.connect, target.timeouts.attempt);
    let reason = if failure.is_connect() && failure.is_timeout() {
        Reason::NoConnection(connect)
    } else if failure.is_timeout() {
        Reason::Silent(attempt)
    } else {
        let chain = redact(&network::chain(&failure), target);
        Reason::from_text(&chain, &target.host, connect, attempt)
    };
    unreachable(target, reason)
}

/// No answer in all the time there was.
pub(super) fn silent(target: &Target) -> StorageError {
    unreachable(target, Reason::Silent(target.timeouts.attempt))
}

/// An answer that began and did not arrive whole.
pub(super) fn cut_off(target: &Target) -> StorageError {
    unreachable(target, Reason::Closed)
}

/// Judges an answer that is no success. Without a `code` its body was no S3 error: a proxy or load balancer in between.
pub(super) fn answer(
    status: u16,
    code: Option<&str>,
    message: Option<&str>,
    target: &Target,
    skew: Option<SignedDuration>,
) -> StorageError {
    let bucket = target.bucket.clone();
    let endpoint = target.endpoint.clone();
    let code = redact(code.unwrap_or_default(), target);
    let named = if code.is_empty() {
        status.to_string()
    } else {
        code.clone()
    };
    if code == "RequestTimeTooSkewed" {
        let wrong = skew.map_or_else(|| "wrong".to_owned(), describe_skew);
        return StorageError::Clock {
            bucket,
            endpoint,
            wrong,
        };
    }
    if SLOW_DOWN.contains(&code.as_str()) || status == 429 {
        let code = format!("{status} {code}").trim_end().to_owned();
        return StorageError::SlowDown { bucket, endpoint, code };
    }
    if BUSY.contains(&code.as_str()) || status >= 500 {
        return unreachable(
            target,
            Reason::Failing(format!("with status {status} {code}").trim_end().to_owned()),
        );
    }
    if REJECTED.contains(&code.as_str()) || status == 401 || status == 403 {
        return StorageError::Rejected {
            bucket,
            endpoint,
            code: named,
        };
    }
    if code == "NoSuchBucket" || status == 404 {
        return StorageError::NoBucket { bucket, endpoint };
    }
    if code.is_empty() {
        return no_s3(status, target);
    }
    misconfigured(target, &format!("it answered {named} {}", message.unwrap_or_default()))
}

fn redact(text: &str, target: &Target) -> String {
    let secrets = target.secrets.each_ref().map(|secret| secret.expose_secret());
    network::redact(text, &secrets)
}

/// `17 min behind`, `40 s ahead`: our clock against the bucket's.
pub(crate) fn describe_skew(skew: SignedDuration) -> String {
    let side = if skew.is_negative() { "ahead" } else { "behind" };
    let off: Duration = skew.unsigned_abs();
    match off.as_secs() {
        secs @ 0..120 => format!("{secs} s {side}"),
        secs @ 120..7200 => format!("{} min {side}", secs / 60),
        secs @ 7200..172_800 => format!("{} h {side}", secs / 3600),
        secs => format!("{} days {side}", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Timeouts;
    use super::*;

    fn target() -> Target {
        Target {
            bucket: "notes".into(),
            endpoint: "https://s3.example".into(),
            host: "s3.example".into(),
            timeouts: Timeouts::START,
            secrets: ["AKIDEXAMPLE".to_owned().into(), "SECRETEXAMPLE".to_owned().into()],
        }
    }

    /// Status and code as S3 services send them, and what each means for the start.
    #[test]
    fn every_answer_has_its_exit_code() {
        for (status, code, exit) in [
            (403, Some("InvalidAccessKeyId"), Exit::Refused),
            (403, Some("SignatureDoesNotMatch"), Exit::Refused),
            (403, Some("AccessDenied"), Exit::Refused),
            (403, Some("RequestTimeTooSkewed"), Exit::Refused),
            (403, None, Exit::Refused),
            (401, None, Exit::Refused),
            (400, Some("ExpiredToken"), Exit::Refused),
            (404, Some("NoSuchBucket"), Exit::Config),
            (404, None, Exit::Config),
            (301, Some("PermanentRedirect"), Exit::Config),
            (400, Some("AuthorizationHeaderMalformed"), Exit::Config),
            (400, Some("InvalidBucketName"), Exit::Config),
            (503, Some("SlowDown"), Exit::Unavailable),
            (500, None, Exit::Unavailable),
            (429, Some("TooManyRequests"), Exit::Unavailable),
        ] {
            let error = answer(status, code, None, &target(), None);
            assert_eq!(error.exit(), exit, "{status} {code:?}: {error}");
            let text = error.to_string();
            assert!(text.contains("notes") && text.contains("s3.example"), "{text}");
            assert!(!error.advice().is_empty());
        }
    }

    #[test]
    fn a_store_that_has_had_enough_is_told_from_one_that_is_down() {
        for (status, code) in [
            (503, Some("SlowDown")),
            (429, None),
            (429, Some("Odd")),
            (400, Some("Throttling")),
        ] {
            let error = answer(status, code, None, &target(), None);
            assert!(
                matches!(error, StorageError::SlowDown { .. }),
                "{status} {code:?}: {error}"
            );
            assert!(error.to_string().contains("asks us to slow down"));
        }
        let down = answer(503, None, None, &target(), None);
        assert!(matches!(down, StorageError::Unreachable { .. }), "{down}");
    }

    #[test]
    fn a_wrong_clock_has_its_own_words() {
        let skew = SignedDuration::from_secs(17 * 60 + 5);
        let error = answer(403, Some("RequestTimeTooSkewed"), None, &target(), Some(skew));
        assert!(
            error.to_string().contains("this machine's clock is 17 min behind"),
            "{error}"
        );
        assert!(error.advice().contains("NTP"));
    }

    #[test]
    fn what_the_server_echoes_is_redacted() {
        let echoed = Some("your key AKIDEXAMPLE / SECRETEXAMPLE is odd");
        let error = answer(400, Some("Odd"), echoed, &target(), None);
        let text = format!("{error} {error:?} {}", error.advice());
        assert!(
            !text.contains("AKIDEXAMPLE") && !text.contains("SECRETEXAMPLE"),
            "{text}"
        );
        assert!(text.contains("Odd"), "{text}");
    }

    #[test]
    fn skew_is_told_in_the_unit_that_fits() {
        for (seconds, words) in [
            (45, "45 s behind"),
            (-45, "45 s ahead"),
            (900, "15 min behind"),
            (-86_400, "24 h ahead"),
            (864_000, "10 days behind"),
        ] {
            assert_eq!(describe_skew(SignedDuration::from_secs(seconds)), words);
        }
    }
}
