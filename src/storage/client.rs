//! S3 over HTTP: a request is signed, sent within its times, tried again when that can help, and its answer is read whole.
//!
//! The signature is AWS Signature Version 4 in headers, as rclone makes it, so that a key or a clock that is wrong for one is
//! wrong for both. Paths are `endpoint/bucket/key`. A body is signed, too: the store refuses one that arrives damaged.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_sigv4::http_request::SignableBody;
use backon::{BackoffBuilder, ExponentialBuilder};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Method, Url};

use super::clock::Watch;
use super::sign::Signer;
use super::{StorageError, Target, error, filebody, network, xml};
use crate::credentials;

/// All but the unreserved characters of RFC 3986, as the signature asks for.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const PATH: &AsciiSet = &QUERY.remove(b'/');

/// No answer that is asked for here is longer: a page of a listing has a thousand names of at most 1 KiB.
const LARGEST: usize = 16 * 1024 * 1024;
/// Before the second attempt; then twice as long, with jitter.
const PAUSE: Duration = Duration::from_millis(200);

/// Requests to one bucket. Clones share their connections.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    /// `endpoint/bucket`, without a slash at its end.
    base: String,
    signer: Signer,
    clock: Watch,
}

/// What is asked.
#[derive(Clone)]
pub(super) struct Request<'a> {
    method: Method,
    /// None: it is about the bucket.
    key: Option<&'a str>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body,
    most: usize,
    more_time: Duration,
}

#[derive(Clone)]
enum Body {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// What was answered, whatever the status.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl<'a> Request<'a> {
    /// About the object `key`.
    pub(super) fn new(method: Method, key: &'a str) -> Request<'a> {
        Request {
            key: Some(key),
            ..Request::bucket(method)
        }
    }

    /// About the bucket as a whole.
    pub(super) fn bucket(method: Method) -> Request<'a> {
        Request {
            method,
            key: None,
            query: vec![],
            headers: vec![],
            body: Body::Bytes(vec![]),
            most: LARGEST,
            more_time: Duration::ZERO,
        }
    }

    pub(super) fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn bytes(mut self, bytes: Vec<u8>) -> Self {
        self.body = Body::Bytes(bytes);
        self
    }

    pub(super) fn file(mut self, path: &Path) -> Self {
        self.body = Body::File(path.to_owned());
        self
    }

    /// An answer with more bytes counts as broken off.
    pub(super) fn at_most(mut self, bytes: usize) -> Self {
        self.most = bytes;
        self
    }

    /// For what takes longer than a question.
    pub(super) fn more_time(mut self, more: Duration) -> Self {
        self.more_time = more;
        self
    }
}

impl Answer {
    pub(super) fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The value of a header; none when it is no text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    fn may_be_better_next_time(&self) -> bool {
        self.status == 429 || self.status >= 500
    }
}

impl Client {
    /// # Errors
    /// In words, when there can be no client: certificates that cannot be read.
    pub(super) fn new(
        storage: &credentials::Storage,
        endpoint: &network::Endpoint,
        connect: Duration,
        clock: Watch,
    ) -> Result<Client, String> {
        // reqwest is built without a TLS provider and takes the process's. Installing fails only if there is one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A proxy of the environment is asked, as rclone does.
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .connect_timeout(connect)
            .user_agent(concat!("tenant-init/", env!("CARGO_PKG_VERSION")));
        if !endpoint.tls {
            // Plain HTTP must work on a machine without CA certificates, whose absence fails the builder.
            builder = builder.tls_certs_only(std::iter::empty());
        }
        Ok(Client {
            http: builder.build().map_err(|error| network::chain(&error))?,
            base: format!("{}/{}", endpoint.shown, utf8_percent_encode(&storage.bucket, QUERY)),
            signer: Signer::s3(storage),
            clock,
        })
    }

    /// An answer with a status of success.
    ///
    /// # Errors
    /// What the store refused, and why there was no answer.
    pub(super) async fn done(&self, target: &Target, request: Request<'_>) -> Result<Answer, StorageError> {
        let answer = self.send(target, request).await?;
        if answer.is_good() {
            Ok(answer)
        } else {
            Err(self.refused(target, &answer))
        }
    }

    /// An answer of any status, after as many attempts as `target` allows.
    ///
    /// # Errors
    /// Why there was none.
    pub(super) async fn send(&self, target: &Target, request: Request<'_>) -> Result<Answer, StorageError> {
        let times = target.timeouts;
        let url = self.url(target, &request)?;
        let tried = async {
            let further = usize::try_from(times.attempts.saturating_sub(1)).unwrap_or(0);
            let pauses = ExponentialBuilder::new()
                .with_min_delay(PAUSE)
                .with_max_times(further)
                .with_jitter();
            let mut pauses = pauses.build();
            loop {
                let answer = self.attempt(target, &request, url.clone()).await;
                let again = answer.as_ref().map_or(true, Answer::may_be_better_next_time);
                match pauses.next() {
                    Some(pause) if again => tokio::time::sleep(pause).await,
                    _ => return answer,
                }
            }
        };
        tokio::time::timeout(times.operation + request.more_time, tried)
            .await
            .unwrap_or_else(|_| Err(error::silent(target)))
    }

    /// What it means that the store answered so.
    pub(super) fn refused(&self, target: &Target, answer: &Answer) -> StorageError {
        let said = xml::error(&answer.body);
        let (code, message) = said.map_or((None, None), |said| (Some(said.code), said.message));
        error::answer(
            answer.status,
            code.as_deref(),
            message.as_deref(),
            target,
            self.clock.skew(),
        )
    }

    async fn attempt(&self, target: &Target, request: &Request<'_>, url: Url) -> Result<Answer, StorageError> {
        let unsent = |why: String| error::misconfigured(target, &why);
        let unread = |_| error::cut_off(target);
        let mut http = reqwest::Request::new(request.method.clone(), url);
        for (name, value) in &request.headers {
            let value = HeaderValue::from_str(value).map_err(|_| unsent(format!("{name} cannot be sent")))?;
            http.headers_mut().insert(HeaderName::from_static(name), value);
        }
        match &request.body {
            Body::Bytes(bytes) => {
                self.signer
                    .sign(&mut http, SignableBody::Bytes(bytes))
                    .map_err(unsent)?;
                if !bytes.is_empty() {
                    *http.body_mut() = Some(bytes.clone().into());
                } else if request.method == Method::PUT {
                    http.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
                }
            }
            Body::File(path) => {
                let (body, sum) = filebody::open(path).await.map_err(unread)?;
                self.signer
                    .sign(&mut http, SignableBody::Precomputed(sum))
                    .map_err(unsent)?;
                *http.body_mut() = Some(reqwest::Body::wrap(body));
            }
        }
        *http.timeout_mut() = Some(target.timeouts.attempt + request.more_time);
        let broken = |failure| error::broken(failure, target);
        let mut answer = self.http.execute(http).await.map_err(broken)?;
        self.clock.saw(answer.headers());
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(broken)? {
            if body.len() + chunk.len() > request.most {
                return Err(error::cut_off(target));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status: answer.status().as_u16(),
            headers: std::mem::take(answer.headers_mut()),
            body,
        })
    }

    fn url(&self, target: &Target, request: &Request<'_>) -> Result<Url, StorageError> {
        let mut url = self.base.clone();
        if let Some(key) = request.key {
            if !has_url(key) {
                return Err(error::bad_key(target, key));
            }
            url.push('/');
            url.extend(utf8_percent_encode(key, PATH));
        }
        let path = url.clone();
        let path = path
            .split_once("://")
            .and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        for (at, (name, value)) in request.query.iter().enumerate() {
            url.push(if at == 0 { '?' } else { '&' });
            url.push_str(name);
            url.push('=');
            url.extend(utf8_percent_encode(value, QUERY));
        }
        let url = Url::parse(&url).map_err(|error| error::misconfigured(target, &error.to_string()))?;
        // What is signed is what the parser has made of it: it must not be another bucket or object.
        if path == Some(url.path()) {
            Ok(url)
        } else {
            Err(error::misconfigured(target, "its address would be another one"))
        }
    }
}

/// Is there a URL that means the object `key`? A parser takes out the segments `.` and `..`, and a listing's name may be
/// anything.
pub(super) fn has_url(key: &str) -> bool {
    !key.is_empty() && !key.split('/').any(|segment| matches!(segment, "." | ".."))
}
