//! The JSON bundle, version 1.
//!
//! It comes from a file or from a broker and is trusted with nothing: unknown fields and versions are refused, all
//! mistakes are listed with the path of the field, and no error repeats any of the text. That is why it is taken apart
//! by hand and not by serde's derive, whose errors stop at the first mistake and quote the value.

use std::fmt::Write;
use std::path::Path;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::error::{CredentialsError, Fault, Origin};
use super::{Bundle, Index, Storage, database_url, validate};
use crate::config::closest;

/// No bundle is larger: it has a dozen short fields.
pub(super) const LARGEST: u64 = 64 * 1024;

const TODO: &str = "see docs/CONFIG.md for the bundle's form";

/// `bundle` as the text that [`parse`] reads. A secret: for a file that only its owner reads.
pub(crate) fn render(bundle: &Bundle) -> SecretString {
    let storage = &bundle.storage;
    let index = bundle.index.as_ref().map(|index| {
        let token = index.auth_token.as_ref().map(ExposeSecret::expose_secret);
        json!({"url": index.url, "auth_token": token})
    });
    let value = json!({
        "version": 1,
        "tenant_id": bundle.tenant_id,
        "storage": {
            "bucket": storage.bucket,
            "endpoint": storage.endpoint,
            "region": storage.region,
            "access_key_id": storage.access_key_id.expose_secret(),
            "secret_access_key": storage.secret_access_key.expose_secret(),
        },
        "index": index,
        "expires_at": bundle.expires_at.map(|time| time.to_string()),
    });
    format!("{value:#}\n").into()
}

/// The bundle in `text`.
pub(super) fn parse(
    text: &[u8],
    origin: Origin,
    tenant: Option<&str>,
    now: Timestamp,
) -> Result<Bundle, CredentialsError> {
    match read(text) {
        Ok(bundle) => validate::check(bundle, &validate::BUNDLE, origin, tenant, now),
        Err(faults) => Err(CredentialsError::Wrong { origin, faults }),
    }
}

/// Would `text`, as the file `path`, be a bundle?
pub(crate) fn check(text: &[u8], path: &Path) -> Result<(), CredentialsError> {
    parse(text, Origin::File(path.to_owned()), None, Timestamp::now()).map(drop)
}

fn read(text: &[u8]) -> Result<Bundle, Vec<Fault>> {
    let value: Value = serde_json::from_slice(text).map_err(|error| {
        // serde_json's own message may quote the text; the place is enough.
        let what = format!("is not JSON (line {}, column {})", error.line(), error.column());
        vec![Fault::new("the bundle", what, TODO)]
    })?;
    let Value::Object(mut fields) = value else {
        return Err(vec![Fault::new("the bundle", "is not a JSON object", TODO)]);
    };
    match fields.get("version").map(Value::as_u64) {
        Some(Some(1)) => {}
        Some(_) => {
            // Another version's fields would only produce misleading errors.
            return Err(vec![Fault::new(
                "version",
                "is not 1",
                "this tenant-init knows version 1 only",
            )]);
        }
        None => return Err(vec![Fault::new("version", "is missing", TODO)]),
    }
    let mut reader = Reader::default();
    reader.known("", &fields, &["version", "tenant_id", "storage", "index", "expires_at"]);
    let bundle = Bundle {
        tenant_id: reader.text(&mut fields, "", "tenant_id"),
        expires_at: reader.timestamp(&mut fields),
        storage: reader.storage(&mut fields),
        index: reader.index(&mut fields),
    };
    if reader.faults.is_empty() {
        Ok(bundle)
    } else {
        Err(reader.faults)
    }
}

/// Takes fields out of objects and remembers what was wrong. A wrong field reads as absent.
#[derive(Default)]
struct Reader {
    faults: Vec<Fault>,
}

impl Reader {
    fn wrong(&mut self, path: String, what: impl Into<String>) {
        self.faults.push(Fault::new(path, what, TODO));
    }

    /// Refuses fields that are not in `names`. Their own names are not shown: in a malformed bundle they may be keys.
    fn known(&mut self, parent: &str, fields: &Map<String, Value>, names: &[&str]) {
        for name in fields.keys().filter(|name| !names.contains(&name.as_str())) {
            let mut what = "has an unknown field".to_owned();
            if let Some(meant) = closest(name, names.iter().copied()) {
                // Writing to a String cannot fail.
                let _ = write!(what, ", did you mean `{meant}`?");
            }
            let _ = write!(what, " (its fields: {})", names.join(", "));
            self.wrong(
                if parent.is_empty() {
                    "the bundle".to_owned()
                } else {
                    parent.to_owned()
                },
                what,
            );
        }
    }

    fn object(&mut self, fields: &mut Map<String, Value>, name: &str) -> Option<Map<String, Value>> {
        match fields.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::Object(inner)) => Some(inner),
            Some(_) => {
                self.wrong(name.to_owned(), "is not an object");
                None
            }
        }
    }

    fn text(&mut self, fields: &mut Map<String, Value>, parent: &str, name: &str) -> Option<String> {
        match fields.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                self.wrong(path(parent, name), "is not text");
                None
            }
        }
    }

    fn needed(&mut self, fields: &mut Map<String, Value>, parent: &str, name: &str) -> String {
        let before = self.faults.len();
        let text = self.text(fields, parent, name);
        if text.is_none() && self.faults.len() == before {
            self.wrong(path(parent, name), "is missing");
        }
        text.unwrap_or_default()
    }

    fn storage(&mut self, fields: &mut Map<String, Value>) -> Storage {
        let before = self.faults.len();
        let inner = self.object(fields, "storage");
        if inner.is_none() && self.faults.len() == before {
            self.wrong("storage".to_owned(), "is missing");
        }
        let Some(mut inner) = inner else { return nothing() };
        self.known(
            "storage",
            &inner,
            &["bucket", "endpoint", "region", "access_key_id", "secret_access_key"],
        );
        Storage {
            bucket: self.needed(&mut inner, "storage", "bucket"),
            endpoint: self.needed(&mut inner, "storage", "endpoint"),
            region: self
                .text(&mut inner, "storage", "region")
                .unwrap_or_else(|| "auto".to_owned()),
            access_key_id: self.needed(&mut inner, "storage", "access_key_id").into(),
            secret_access_key: self.needed(&mut inner, "storage", "secret_access_key").into(),
        }
    }

    fn index(&mut self, fields: &mut Map<String, Value>) -> Option<Index> {
        let mut inner = self.object(fields, "index")?;
        self.known("index", &inner, &["url", "auth_token"]);
        let url = self.needed(&mut inner, "index", "url");
        let token = self
            .text(&mut inner, "index", "auth_token")
            .filter(|token| !token.is_empty());
        if url.is_empty() {
            return None;
        }
        match database_url::parse(&url) {
            Ok(index) if index.auth_token.is_some() && token.is_some() => {
                self.wrong(
                    "index.url".to_owned(),
                    "holds an authToken and index.auth_token is set too",
                );
                None
            }
            Ok(index) => Some(Index {
                auth_token: index.auth_token.or(token.map(SecretString::from)),
                ..index
            }),
            Err(what) => {
                self.faults.push(Fault::new("index.url", what, database_url::ALLOWED));
                None
            }
        }
    }

    fn timestamp(&mut self, fields: &mut Map<String, Value>) -> Option<Timestamp> {
        let text = self.text(fields, "", "expires_at")?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(
                "expires_at".to_owned(),
                "is not an RFC 3339 time, such as 2030-01-01T00:00:00Z",
            );
        }
        parsed
    }
}

fn nothing() -> Storage {
    Storage {
        bucket: String::new(),
        endpoint: String::new(),
        region: String::new(),
        access_key_id: String::new().into(),
        secret_access_key: String::new().into(),
    }
}

fn path(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;
    use serde_json::{Value, json};

    use super::super::error::{CredentialsError, Origin};
    use super::{Bundle, parse, render};
    use crate::exit::Exit;

    fn good() -> Value {
        json!({
            "version": 1, "tenant_id": "acme",
            "storage": {"bucket": "tenant-acme", "endpoint": "https://t3.storage.dev/", "region": "auto",
                        "access_key_id": "tid_abc", "secret_access_key": "tsec_abc"},
            "index": {"url": "libsql://db.turso.io", "auth_token": "a.b.c"},
            "expires_at": "2030-01-01T00:00:00Z"
        })
    }

    fn read(bundle: &Value, tenant: Option<&str>) -> Result<Bundle, CredentialsError> {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        parse(
            bundle.to_string().as_bytes(),
            Origin::File("/b.json".into()),
            tenant,
            now,
        )
    }

    #[test]
    fn a_full_bundle() {
        let bundle = read(&good(), Some("acme")).unwrap();
        assert_eq!(bundle.tenant_id.as_deref(), Some("acme"));
        assert_eq!(bundle.storage.endpoint, "https://t3.storage.dev");
        assert_eq!(bundle.storage.secret_access_key.expose_secret(), "tsec_abc");
        let index = bundle.index.unwrap();
        assert_eq!(index.url, "libsql://db.turso.io");
        assert_eq!(index.auth_token.unwrap().expose_secret(), "a.b.c");
        assert_eq!(bundle.expires_at.unwrap().to_string(), "2030-01-01T00:00:00Z");
    }

    #[test]
    fn what_is_written_is_read() {
        for absent in ["", "tenant_id", "index", "expires_at"] {
            let mut bundle = good();
            bundle["storage"]["endpoint"] = json!("https://t3.storage.dev");
            if !absent.is_empty() {
                bundle[absent] = Value::Null;
            }
            let rendered = render(&read(&bundle, None).unwrap());
            assert_eq!(serde_json::from_str::<Value>(rendered.expose_secret()).unwrap(), bundle);
        }
    }

    #[test]
    fn optional_fields_may_be_absent_or_null() {
        let mut bundle = good();
        for name in ["tenant_id", "index", "expires_at"] {
            bundle[name] = Value::Null;
        }
        bundle["storage"].as_object_mut().unwrap().remove("region");
        let bundle = read(&bundle, Some("acme")).unwrap();
        assert_eq!(bundle.tenant_id.as_deref(), Some("acme"));
        assert_eq!(bundle.storage.region, "auto");
        assert!(bundle.index.is_none() && bundle.expires_at.is_none());
    }

    #[test]
    fn another_tenant_and_an_old_bundle_are_refused() {
        let error = read(&good(), Some("other")).unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert!(error.to_string().contains("another tenant"), "{error}");
        let mut bundle = good();
        bundle["expires_at"] = json!("2025-12-31T23:59:59Z");
        let error = read(&bundle, Some("acme")).unwrap_err();
        assert_eq!(error.exit(), Exit::Refused);
        assert!(
            error
                .to_string()
                .contains("expired at 2025-12-31T23:59:59Z (it is 2026-01-01T00:00:00Z here)"),
            "{error}"
        );
    }

    #[test]
    fn every_mistake_is_listed_with_its_path() {
        let bundle = json!({
            "version": 1, "tenant": "x", "storage": {"bucket": 7, "endpoint": "https://h", "secret_acess_key": "tsec_abc"},
            "index": {"url": "postgres://tsec_abc@h"}, "expires_at": "tomorrow"
        });
        let error = read(&bundle, None).unwrap_err();
        assert_eq!(error.exit(), Exit::Config);
        let text = error.to_string();
        for part in [
            "the bundle: has an unknown field",
            "storage: has an unknown field, did you mean `secret_access_key`?",
            "storage.bucket: is not text",
            "storage.access_key_id: is missing",
            "storage.secret_access_key: is missing",
            "index.url: is a postgres database",
            "expires_at: is not an RFC 3339 time",
        ] {
            assert!(text.contains(part), "{part} is not in: {text}");
        }
        assert!(!text.contains("tsec_abc"), "{text}");
    }

    #[test]
    fn other_versions_and_other_documents() {
        for (bundle, what) in [
            (json!({"version": 2, "secrets": {}}), "version: is not 1"),
            (json!({"version": "1"}), "version: is not 1"),
            (json!({"storage": {}}), "version: is missing"),
            (json!(["tsec_abc"]), "not a JSON object"),
            (json!({"version": 1}), "storage: is missing"),
            (json!({"version": 1, "storage": []}), "storage: is not an object"),
        ] {
            let text = read(&bundle, None).unwrap_err().to_string();
            assert!(text.contains(what) && !text.contains("tsec"), "{text}");
        }
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let error = parse(b"{\"version\": tsec_abc", Origin::Environment, None, now)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("is not JSON (line 1") && !error.contains("tsec"),
            "{error}"
        );
    }

    proptest! {
        /// Whatever one field is replaced by, the error does not repeat it.
        #[test]
        fn no_error_repeats_the_bundle(secret in "[A-Za-z0-9+/=!_]{20,40}", at in 0_usize..12, odd in 0_usize..4) {
            let mut bundle = good();
            let pointers = ["/version", "/tenant_id", "/storage", "/storage/bucket", "/storage/endpoint",
                "/storage/region", "/storage/access_key_id", "/storage/secret_access_key", "/index", "/index/url",
                "/index/auth_token", "/expires_at"];
            let value = [json!(secret), json!([secret]), json!({secret.clone(): 1}), json!(format!("{secret}\n"))];
            *bundle.pointer_mut(pointers[at]).unwrap() = value[odd].clone();
            match read(&bundle, Some("acme")) {
                Err(error) => {
                    prop_assert!(!error.to_string().contains(&secret), "{error}");
                    let shown = format!("{error:?}");
            prop_assert!(!shown.contains(&secret));
                }
                Ok(bundle) if pointers[at].contains("key") || pointers[at].contains("token") => {
                    let shown = format!("{bundle:?}");
            prop_assert!(!shown.contains(&secret));
                }
                Ok(_) => {}
            }
        }

        #[test]
        fn any_bytes_are_answered_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let now = "2026-01-01T00:00:00Z".parse().unwrap();
            prop_assert!(parse(&bytes, Origin::Environment, None, now).is_err());
        }
    }
}
