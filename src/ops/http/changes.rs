//! `POST /changes`: object notifications of the bucket (Tigris: Object Notifications, webhook).
//!
//! The sender repeats a notification up to three times until it gets a 200, within 10 s each. So an answer other than
//! 200 is how we push back, and 200 means the changes are in our queue. What it sends is untrusted: the token is
//! checked before the body is read, the body is bounded, and a notification that is not exactly as documented is
//! refused as a whole.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Shared, error};

/// Bytes of a notification. An event is about 300 bytes.
const MAX_BODY: usize = 1024 * 1024;

/// Bytes of an object's key (S3: Creating object key names).
const MAX_KEY: usize = 1024;

/// The webhook's secret and where its changes go.
#[derive(Debug)]
pub struct Webhook {
    /// What the sender shows: a bearer token, or the password of basic authentication (any user name).
    pub token: SecretString,
    /// One batch per notification. Bounded: when it is full the sender is told to come back.
    pub changes: mpsc::Sender<Vec<Change>>,
}

/// One object that changed. Comes from outside: whoever reads it checks that `bucket` is the tenant's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// The bucket's name.
    pub bucket: String,
    /// The object's key, not empty, at most 1024 bytes.
    pub key: String,
    /// The object's `ETag`, without quotes, when the sender told it.
    pub etag: Option<String>,
    /// Bytes, when the sender told it.
    pub size: Option<u64>,
    /// RFC 3339, when it happened.
    pub time: String,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Created or overwritten.
    Put,
    /// Deleted.
    Delete,
}

#[derive(Deserialize)]
struct Notification {
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    event_name: String,
    event_time: String,
    bucket: String,
    object: Object,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Object {
    key: String,
    size: Option<u64>,
    e_tag: Option<String>,
}

/// 200 when queued, 400 malformed, 401 wrong token, 404 no webhook, 413 too large, 503 queue full.
pub(super) async fn receive(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response {
    let Some(webhook) = shared
        .sources
        .webhook
        .as_ref()
        .filter(|webhook| !webhook.changes.is_closed())
    else {
        return error(StatusCode::NOT_FOUND, "no webhook is configured");
    };
    if !authorized(request.headers(), &webhook.token) {
        tracing::warn!(
            event = "webhook_refused",
            "a change notification came with a wrong token or none"
        );
        return (
            [(WWW_AUTHENTICATE, "Bearer")],
            error(StatusCode::UNAUTHORIZED, "wrong token"),
        )
            .into_response();
    }
    let Ok(body) = to_bytes(request.into_body(), MAX_BODY).await else {
        return error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is not complete or is larger than 1 MiB",
        );
    };
    let changes = match parse(&body) {
        Ok(changes) => changes,
        Err(why) => return error(StatusCode::BAD_REQUEST, &why),
    };
    let accepted = changes.len();
    match webhook.changes.try_send(changes) {
        Ok(()) => Json(json!({ "accepted": accepted })).into_response(),
        Err(TrySendError::Closed(_)) => error(StatusCode::NOT_FOUND, "no webhook is configured"),
        Err(TrySendError::Full(_)) => {
            let busy = error(
                StatusCode::SERVICE_UNAVAILABLE,
                "too many changes are waiting; send it again",
            );
            ([(RETRY_AFTER, "2")], busy).into_response()
        }
    }
}

/// Compares digests, so that neither content nor length of the token can be learned from the time it takes.
fn authorized(headers: &HeaderMap, token: &SecretString) -> bool {
    let Some((scheme, credentials)) = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    let shown = match scheme.to_ascii_lowercase().as_str() {
        "bearer" => credentials.trim().as_bytes().to_vec(),
        "basic" => {
            let Ok(pair) = STANDARD.decode(credentials.trim()) else {
                return false;
            };
            let Some(colon) = pair.iter().position(|&byte| byte == b':') else {
                return false;
            };
            pair[colon + 1..].to_vec()
        }
        _ => return false,
    };
    let expected = Sha256::digest(token.expose_secret().as_bytes());
    Sha256::digest(shown).as_slice().ct_eq(expected.as_slice()).into()
}

/// The changes of a notification. Event names we do not know are left out: the sender may add some.
fn parse(body: &[u8]) -> Result<Vec<Change>, String> {
    let notification: Notification =
        serde_json::from_slice(body).map_err(|error| format!("not a notification: {error}"))?;
    let mut changes = Vec::with_capacity(notification.events.len());
    for event in notification.events {
        let kind = match event.event_name.as_str() {
            "OBJECT_CREATED_PUT" => ChangeKind::Put,
            "OBJECT_DELETED" => ChangeKind::Delete,
            _ => continue,
        };
        let key = event.object.key;
        if key.is_empty() || key.len() > MAX_KEY || key.contains('\0') {
            return Err("not a notification: an object's key is empty, too long or holds a NUL".to_owned());
        }
        let etag = event.object.e_tag.map(|etag| etag.trim_matches('"').to_owned());
        let (bucket, size, time) = (event.bucket, event.object.size, event.event_time);
        changes.push(Change {
            kind,
            bucket,
            key,
            etag,
            size,
            time,
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_documented_example_is_understood() {
        let body = br#"{"events":[
            {"eventVersion":"1","eventSource":"tigris","eventName":"OBJECT_CREATED_PUT","eventTime":"2026-01-02T03:04:05Z",
             "bucket":"b","object":{"key":"notes/a b.md","size":3,"eTag":"\"abc\""}},
            {"eventVersion":"1","eventSource":"tigris","eventName":"OBJECT_DELETED","eventTime":"2026-01-02T03:04:06Z",
             "bucket":"b","object":{"key":"old.md"}},
            {"eventVersion":"1","eventSource":"tigris","eventName":"SOMETHING_NEW","eventTime":"2026-01-02T03:04:07Z",
             "bucket":"b","object":{"key":"x"}}]}"#;
        let changes = parse(body).unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(
            (changes[0].kind, changes[0].key.as_str()),
            (ChangeKind::Put, "notes/a b.md")
        );
        assert_eq!((changes[0].etag.as_deref(), changes[0].size), (Some("abc"), Some(3)));
        assert_eq!(
            (changes[1].kind, changes[1].etag.as_deref()),
            (ChangeKind::Delete, None)
        );
    }

    #[test]
    fn anything_else_is_refused_as_a_whole() {
        let good = r#"{"eventName":"OBJECT_DELETED","eventTime":"t","bucket":"b","object":{"key":"k"}}"#;
        let long = good.replace("\"k\"", &format!("\"{}\"", "k".repeat(1025)));
        for bad in [
            "",
            "[]",
            "null",
            r#"{"Events":[]}"#,
            r#"{"events":{}}"#,
            r#"{"events":[{}]}"#,
            &format!(r#"{{"events":[{good},{}]}}"#, good.replace("\"k\"", "\"\"")),
            &format!(r#"{{"events":[{}]}}"#, good.replace("\"k\"", "\"a\\u0000b\"")),
            &format!(r#"{{"events":[{}]}}"#, good.replace("\"k\"", "7")),
            &format!(r#"{{"events":[{long}]}}"#),
            &format!(r#"{{"events":[{good}]}}x"#),
            &format!("{}{}", r#"{"events":"#, "[".repeat(100_000)),
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "accepted {bad:.80}");
        }
        assert!(parse(format!(r#"{{"events":[{good}]}}"#).as_bytes()).is_ok());
    }

    #[test]
    fn the_token_is_accepted_as_bearer_and_as_password() {
        let token = SecretString::from("s3cret:with colon");
        let allowed = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            authorized(&headers, &token)
        };
        assert!(allowed("Bearer s3cret:with colon"));
        assert!(allowed("bearer s3cret:with colon"));
        assert!(allowed(&format!(
            "Basic {}",
            STANDARD.encode("anyone:s3cret:with colon")
        )));
        assert!(!allowed("Bearer s3cret"));
        assert!(!allowed("Bearer "));
        assert!(!allowed("Basic s3cret:with colon"));
        assert!(!allowed(&format!("Basic {}", STANDARD.encode("s3cret"))));
        assert!(!allowed("Digest s3cret:with colon"));
        assert!(!authorized(&HeaderMap::new(), &token));
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse(&body);
        }
    }
}
