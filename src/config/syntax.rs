//! What single values may look like. Pure checks, shared by the configuration and the credential bundle.
//!
//! Each check comes with its rule in words. The words go into errors; the value never does.

use std::net::IpAddr;

use reqwest::Url;

/// Syntax of a tenant id.
pub(crate) const TENANT_ID: &str = "1 to 128 letters, digits and `.`, `_`, `:`, `-`";
/// Syntax of a bucket name.
pub(crate) const BUCKET: &str =
    "3 to 63 lower-case letters, digits, `-` and `.`, beginning and ending with a letter or digit, not an IP address";
/// Syntax of an S3 endpoint.
pub(crate) const ENDPOINT: &str = "http(s)://HOST[:PORT] without path, query or user name";
/// Syntax of a signing region.
pub(crate) const REGION: &str = "1 to 64 letters, digits and `-`; `auto` for Tigris";
/// Syntax of the broker's URL.
pub(crate) const BROKER_URL: &str = "https://HOST[:PORT]/PATH without user name and fragment (http:// only for this machine: localhost, 127.0.0.0/8, [::1])";
/// Syntax of an OIDC audience.
pub(crate) const AUDIENCE: &str = "1 to 512 printable ASCII characters";
/// Syntax of a listen host.
pub(crate) const HOST: &str = "an IP address or a host name";
/// Syntax of a user.
pub(crate) const USER: &str =
    "a user name (up to 32 letters, digits, `.`, `_`, `-`, not beginning with `-` or `.`) or a numeric id";
/// Syntax of a variable's name.
pub(crate) const VARIABLE: &str = "letters, digits and `_`, not beginning with a digit";

fn all(text: &str, length: std::ops::RangeInclusive<usize>, extra: &str) -> bool {
    length.contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

/// Whether `text` is a tenant id.
pub(crate) fn is_tenant_id(text: &str) -> bool {
    all(text, 1..=128, "._:-")
}

/// Whether `text` is a bucket name that every S3 service accepts
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>).
pub(crate) fn is_bucket(text: &str) -> bool {
    all(text, 3..=63, "-.")
        && !text.chars().any(|c| c.is_ascii_uppercase())
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
        && !text.contains("..")
        && text.parse::<IpAddr>().is_err()
}

/// Whether `text` is the root of an HTTP service.
pub(crate) fn is_endpoint(text: &str) -> bool {
    text.parse::<Url>().is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.host_str().is_some_and(|host| !host.is_empty())
            && has_no_user(&url)
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
    })
}

/// Whether `text` is a region.
pub(crate) fn is_region(text: &str) -> bool {
    all(text, 1..=64, "-")
}

/// Whether a bearer token may be sent to `text`: only encrypted, or without leaving this machine.
pub(crate) fn is_broker_url(text: &str) -> bool {
    text.parse::<Url>().is_ok_and(|url| {
        (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(&url)))
            && url.host_str().is_some_and(|host| !host.is_empty())
            && has_no_user(&url)
            && url.fragment().is_none()
    })
}

/// Whether `url` names this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether `url` carries neither a user name nor a password.
pub(crate) fn has_no_user(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none()
}

/// Whether `text` can be an OIDC audience.
pub(crate) fn is_audience(text: &str) -> bool {
    is_printable(text) && (1..=512).contains(&text.len())
}

/// Whether `text` can be listened on.
pub(crate) fn is_host(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok() || (all(text, 1..=253, ".-") && !text.starts_with(['-', '.']))
}

/// Whether `text` is a user name (useradd(8), with capital letters and dots) or a numeric id.
pub(crate) fn is_user(text: &str) -> bool {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse::<u32>().is_ok_and(|id| id < u32::MAX);
    }
    all(text, 1..=32, "._-") && !text.starts_with(['-', '.'])
}

/// Whether `text` can name a variable of the environment.
pub(crate) fn is_variable(text: &str) -> bool {
    all(text, 1..=256, "_") && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// Whether `text` is printable ASCII (spaces included).
pub(crate) fn is_printable(text: &str) -> bool {
    text.bytes().all(|b| (0x20..=0x7e).contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names() {
        for good in ["abc", "tenant-1", "a.b.c", "0ab", &"a".repeat(63)] {
            assert!(is_bucket(good), "{good}");
        }
        for bad in [
            "ab",
            "Abc",
            "-ab",
            "ab-",
            "a..b",
            "10.0.0.1",
            "a_b",
            "a/b",
            "",
            &"a".repeat(64),
        ] {
            assert!(!is_bucket(bad), "{bad}");
        }
    }

    #[test]
    fn endpoints() {
        for good in ["https://t3.storage.dev", "http://127.0.0.1:9000/", "http://[::1]:9000"] {
            assert!(is_endpoint(good), "{good}");
        }
        for bad in [
            "t3.storage.dev",
            "ftp://h",
            "https://u:p@h",
            "https://h/path",
            "https://h?x=1",
            "https://",
            "",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
    }

    #[test]
    fn a_token_is_never_sent_in_clear_to_another_machine() {
        for good in [
            "https://broker.example/v1/t",
            "http://127.0.0.1:1/",
            "http://localhost/b",
            "http://[::1]:8/",
        ] {
            assert!(is_broker_url(good), "{good}");
        }
        for bad in [
            "http://broker.example/",
            "http://10.0.0.1/",
            "https://u:p@h/",
            "file:///etc/x",
            "https://h/#f",
            "x",
        ] {
            assert!(!is_broker_url(bad), "{bad}");
        }
    }

    #[test]
    fn users() {
        for good in ["app", "0", "1000", "_x", "A.b-c"] {
            assert!(is_user(good), "{good}");
        }
        for bad in ["", "-x", ".x", "a b", "a:b", "4294967295", "99999999999", "a/b"] {
            assert!(!is_user(bad), "{bad}");
        }
    }
}
