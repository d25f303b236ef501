//! `libsql://host[:port]?authToken=…&tls=0|1` → address and token.
//!
//! The grammar is that of libSQL's own clients (libsql-client-ts, `config.ts`), where unknown parameters are errors too.
//! The Rust crate takes address and token apart from each other, so the token never stays in a URL here.

use reqwest::Url;
use secrecy::SecretString;

use super::Index;
use crate::config::syntax;

/// What is allowed, for errors.
pub(super) const ALLOWED: &str = "use libsql://HOST[:PORT]?authToken=…, or https://, http://, wss://, ws://";

/// Splits `text`. The error says what is wrong without repeating it.
pub(super) fn parse(text: &str) -> Result<Index, String> {
    let mut url: Url = text.parse().map_err(|_| "is not a URL".to_owned())?;
    let scheme = url.scheme().to_owned();
    if !matches!(scheme.as_str(), "libsql" | "https" | "http" | "wss" | "ws") {
        return Err(match scheme.as_str() {
            "postgres" | "postgresql" | "mysql" | "sqlite" | "file" => {
                format!("is a {scheme} database, but the index lives in libSQL (Turso)")
            }
            _ => "has a scheme that is not libSQL's".to_owned(),
        });
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    if !syntax::has_no_user(&url) {
        return Err("holds a user name or password: libSQL takes a token (authToken)".to_owned());
    }
    if url.fragment().is_some() {
        return Err("holds a fragment (#…)".to_owned());
    }
    let parameters = Parameters::of(&url)?;
    let plain_scheme = scheme_for(&scheme, parameters.tls, url.port())?;
    url.set_query(None);
    let address = url
        .as_str()
        .strip_prefix(scheme.as_str())
        .unwrap_or_default()
        .trim_end_matches('/')
        .to_owned();
    Ok(Index {
        url: format!("{plain_scheme}{address}"),
        auth_token: parameters.auth_token,
    })
}

#[derive(Default)]
struct Parameters {
    auth_token: Option<SecretString>,
    tls: Option<bool>,
}

impl Parameters {
    fn of(url: &Url) -> Result<Self, String> {
        let mut parameters = Self::default();
        for (name, value) in url.query_pairs() {
            let twice = match name.as_ref() {
                "authToken" if value.is_empty() => false,
                "authToken" if !syntax::is_printable(&value) || value.contains(' ') => {
                    return Err("has an authToken that is not a token".to_owned());
                }
                "authToken" => parameters
                    .auth_token
                    .replace(SecretString::from(value.as_ref()))
                    .is_some(),
                "tls" => {
                    let tls = match value.as_ref() {
                        "0" => false,
                        "1" => true,
                        _ => return Err("has a tls parameter that is neither 0 nor 1".to_owned()),
                    };
                    parameters.tls.replace(tls).is_some()
                }
                // Its name may be a mistyped authToken, which says enough; but it may also be the token itself.
                _ => return Err("has a parameter other than authToken and tls".to_owned()),
            };
            if twice {
                return Err("has a parameter twice".to_owned());
            }
        }
        Ok(parameters)
    }
}

/// The scheme for the HTTP protocol that we speak; `libsql` means https to the libsql crate.
fn scheme_for(scheme: &str, tls: Option<bool>, port: Option<u16>) -> Result<&'static str, String> {
    match (scheme, tls) {
        ("libsql", Some(false)) if port.is_none() => Err("has tls=0 but no port".to_owned()),
        ("libsql", Some(false)) => Ok("http"),
        ("libsql", _) => Ok("libsql"),
        ("https" | "wss", Some(false)) => Err(format!("has tls=0 although {scheme} is encrypted")),
        ("https" | "wss", _) => Ok("https"),
        (_, Some(true)) => Err(format!("has tls=1 although {scheme} is not encrypted")),
        _ => Ok("http"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::parse;

    fn token(text: &str) -> Option<String> {
        parse(text)
            .unwrap()
            .auth_token
            .map(|token| token.expose_secret().to_owned())
    }

    #[test]
    fn every_form_of_the_contract() {
        for (given, url) in [
            ("libsql://db-org.turso.io", "libsql://db-org.turso.io"),
            ("libsql://db-org.turso.io/?authToken=a.b.c", "libsql://db-org.turso.io"),
            ("libsql://127.0.0.1:8080?tls=0", "http://127.0.0.1:8080"),
            ("libsql://h:8080?tls=1&authToken=x", "libsql://h:8080"),
            ("wss://h", "https://h"),
            ("ws://h:1", "http://h:1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://h/ns/a", "https://h/ns/a"),
        ] {
            assert_eq!(parse(given).unwrap().url, url, "{given}");
        }
        assert_eq!(token("libsql://h?authToken=a.b-c_d"), Some("a.b-c_d".to_owned()));
        assert_eq!(token("libsql://h?authToken=a%2Eb"), Some("a.b".to_owned()));
        assert_eq!(token("libsql://h?authToken="), None);
    }

    #[test]
    fn other_databases_and_unknown_parameters_are_refused() {
        for (given, what) in [
            ("postgres://u:tsec@h/db", "postgres database"),
            ("h:8080", "scheme"),
            ("tsec", "not a URL"),
            ("libsql://", "no host"),
            ("libsql://u:tsec@h", "user name"),
            ("libsql://h?token=tsec", "parameter other"),
            ("libsql://h?tsec", "parameter other"),
            ("libsql://h?authToken=tsec&authToken=tsec", "twice"),
            ("libsql://h?tls=0", "no port"),
            ("libsql://h?tls=tsec", "neither 0 nor 1"),
            ("https://h?tls=0", "encrypted"),
            ("http://h?tls=1", "not encrypted"),
            ("libsql://h#tsec", "fragment"),
            ("libsql://h?authToken=tsec%0A", "not a token"),
        ] {
            let error = parse(given).unwrap_err();
            assert!(error.contains(what), "{given}: {error}");
            assert!(!error.contains("tsec"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn the_token_is_taken_out_and_never_shown(token in "[A-Za-z0-9_.-]{16,60}", host in "[a-z]{1,10}") {
            let index = parse(&format!("libsql://{host}.example?authToken={token}")).unwrap();
            let shown = format!("{index:?}");
            prop_assert!(!shown.contains(&token));
            let split = index.auth_token.unwrap();
            prop_assert_eq!(split.expose_secret(), token);
        }
    }
}
