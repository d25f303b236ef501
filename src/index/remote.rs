//! The database over HTTP: one call is one `POST /v3/pipeline` with one batch of statements and a close.
//!
//! The protocol is Hrana 3 (types from `libsql-hrana`). A batch's steps can depend on each other, so that a whole
//! transaction, with its fence and its rollback, is one round trip; nothing is left open on the server afterwards.
//! Every call has a time limit of its own. Answers are bounded in size and their shape is checked before anyone looks
//! into them.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libsql_hrana::proto::{
    Batch, BatchCond, BatchResult, BatchStep, BatchStreamReq, CloseStreamReq, Error, PipelineReqBody, PipelineRespBody,
    Row, Stmt, StmtResult, StreamRequest, StreamResponse, StreamResult, Value,
};
use reqwest::Client;
use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};

use super::error::{self, IndexError};
use crate::credentials;
use crate::storage::network;

/// sqld answers with at most 10 MB of values; JSON makes more of it.
const LARGEST_ANSWER: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a successful probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// From the request to its answer, a new connection included.
    pub latency: Duration,
}

/// The index database and its token. Cheap to clone: clones share their connections.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    /// Replaced by `reset`, so that no call uses a connection from before.
    client: Mutex<Client>,
    pipeline: reqwest::Url,
    target: Target,
}

/// What a message may say, and the secret it must not.
pub(super) struct Target {
    /// Without user information and query.
    pub(super) url: String,
    pub(super) host: String,
    pub(super) tls: bool,
    /// Replaced by `set_token`.
    pub(super) token: Mutex<Option<SecretString>>,
}

impl Target {
    /// The newest token.
    pub(super) fn token(&self) -> Option<SecretString> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// How long a probe may take before the database counts as unreachable.
    pub const PROBE_TIMEOUT: Duration = Duration::from_secs(6);

    /// Prepares the client. Sends nothing; for an `https` URL it reads the machine's CA certificates (10 ms).
    ///
    /// # Errors
    /// [`IndexError::BadUrl`] and [`IndexError::NoCertificates`].
    pub fn connect(index: &credentials::Index) -> Result<Remote, IndexError> {
        let bad = || IndexError::BadUrl {
            url: network::without_userinfo(&index.url),
        };
        let url = index.url.replacen("libsql://", "https://", 1);
        let endpoint = network::Endpoint::parse(&url).ok_or_else(bad)?;
        let mut pipeline = reqwest::Url::parse(&endpoint.shown).map_err(|_| bad())?;
        pipeline
            .path_segments_mut()
            .map_err(|()| bad())?
            .pop_if_empty()
            .extend(["v3", "pipeline"]);
        let target = Target {
            url: endpoint.shown,
            host: endpoint.host,
            tls: endpoint.tls,
            token: Mutex::new(index.auth_token.clone()),
        };
        let client = client(&target)?;
        Ok(Remote(Arc::new(Inner {
            client: Mutex::new(client),
            pipeline,
            target,
        })))
    }

    /// The URL, without user information and query.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.target.url
    }

    /// Every clone uses this token from now on; a request under way keeps the one it was made with.
    pub fn set_token(&self, token: Option<SecretString>) {
        *self.0.target.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    /// Drops every pooled connection: after a suspension or a change of network they lead nowhere.
    pub fn reset(&self) {
        if let Ok(fresh) = client(&self.0.target) {
            *self.0.client.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }

    /// Runs `SELECT 1`: proves token, database and network. Returns within `limit`.
    ///
    /// # Errors
    /// An [`IndexError`] that says which of them failed; [`IndexError::exit`] is the exit code it deserves.
    pub async fn probe(&self, limit: Duration) -> Result<Probe, IndexError> {
        let started = Instant::now();
        let answer = self.batch(vec![step(Stmt::new("SELECT 1", false))], limit).await?;
        match answer.error(0) {
            None => Ok(Probe {
                latency: started.elapsed(),
            }),
            Some(error) => Err(self.failed(error)),
        }
    }

    /// Runs `steps` in one request. For steps that every libSQL server can run.
    ///
    /// # Errors
    /// No answer, or an error for the whole request; what became of each step is in the [`Answer`].
    pub(crate) async fn batch(&self, steps: Vec<BatchStep>, limit: Duration) -> Result<Answer, IndexError> {
        self.call(steps, limit).await?.map_err(|error| self.failed(&error))
    }

    /// Runs `steps` in one request. For steps that somebody else wrote: the server reads all of them before it runs any,
    /// and its words about one that it cannot read are the inner error.
    ///
    /// # Errors
    /// No usable answer.
    pub(crate) async fn call(
        &self,
        steps: Vec<BatchStep>,
        limit: Duration,
    ) -> Result<Result<Answer, Error>, IndexError> {
        let count = steps.len();
        let body = PipelineReqBody {
            baton: None,
            requests: vec![
                StreamRequest::Batch(BatchStreamReq {
                    batch: Batch {
                        steps,
                        replication_index: None,
                    },
                }),
                StreamRequest::Close(CloseStreamReq {}),
            ],
        };
        let target = &self.0.target;
        // Values that JSON cannot carry never get here (`value`).
        let body = serde_json::to_vec(&body).map_err(|_| error::not_libsql(target))?;
        let (status, answer) = tokio::time::timeout(limit, self.post(body, limit))
            .await
            .map_err(|_elapsed| error::silent(target, limit))??;
        match status {
            200 => {}
            413 => return Ok(Err(about("REQUEST_TOO_LARGE", "the request is too large"))),
            _ => return Err(error::status(status, &answer, target)),
        }
        let answer: PipelineRespBody = match serde_json::from_slice(&answer) {
            Ok(answer) => answer,
            Err(_) if is_pipeline(&answer) => {
                let words = "the answer holds a value that cannot be read, perhaps an infinite number";
                return Ok(Err(about("UNREADABLE", words)));
            }
            Err(_) => return Err(error::not_libsql(target)),
        };
        match answer.results.into_iter().next() {
            Some(StreamResult::Ok {
                response: StreamResponse::Batch(batch),
            }) => Answer::checked(batch.result, count)
                .map(Ok)
                .ok_or_else(|| error::not_libsql(target)),
            Some(StreamResult::Error { error }) => Ok(Err(error)),
            _ => Err(error::not_libsql(target)),
        }
    }

    /// Status and body.
    async fn post(&self, body: Vec<u8>, limit: Duration) -> Result<(u16, Vec<u8>), IndexError> {
        let Inner { pipeline, target, .. } = &*self.0;
        let client = self.0.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = client
            .post(pipeline.clone())
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .timeout(limit)
            .body(body);
        if let Some(token) = target.token() {
            request = request.bearer_auth(token.expose_secret());
        }
        let broken = |error| error::broken(error, target, CONNECT_TIMEOUT.min(limit), limit);
        let mut response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            if answer.len() + chunk.len() > LARGEST_ANSWER {
                return Err(error::not_libsql(target));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok((status, answer))
    }

    /// What an error of a step means when the step itself cannot be to blame.
    pub(crate) fn failed(&self, error: &Error) -> IndexError {
        error::said_by_server(error, &self.0.target)
    }

    /// The server's words for a message: one short line without our token.
    pub(crate) fn words(&self, error: &Error) -> String {
        error::words(error, &self.0.target)
    }

    /// An answer whose content is none that tenant-init writes.
    pub(crate) fn nonsense(&self, what: impl Into<String>) -> IndexError {
        IndexError::Misconfigured {
            url: self.url().to_owned(),
            reason: what.into(),
        }
    }
}

/// It is an answer, but one with a value that the protocol's types do not know: sqld sends an infinite number as `null`.
fn is_pipeline(answer: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(answer).is_ok_and(|answer| answer["results"].is_array())
}

/// An error in the server's form: about what was sent, not about the server.
fn about(code: &str, message: &str) -> Error {
    Error {
        message: message.into(),
        code: code.into(),
    }
}

/// A client that trusts the machine's certificates, uses no proxy and follows no redirect.
fn client(target: &Target) -> Result<Client, IndexError> {
    // reqwest is built without a TLS provider and takes the process's. Installing fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let without = |reason| IndexError::NoCertificates {
        url: target.url.clone(),
        reason,
    };
    let mut builder = Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .user_agent(concat!("tenant-init/", env!("CARGO_PKG_VERSION")));
    if target.tls {
        network::certificates().map_err(without)?;
    } else {
        // Plain HTTP must work on a machine without CA certificates, whose absence fails the builder.
        builder = builder.tls_certs_only(std::iter::empty());
    }
    builder.build().map_err(|error| without(network::chain(&error)))
}

/// A step that always runs.
pub(crate) fn step(stmt: Stmt) -> BatchStep {
    BatchStep { condition: None, stmt }
}

/// A step that runs when step `after` did.
pub(crate) fn step_after(stmt: Stmt, after: usize) -> BatchStep {
    BatchStep {
        condition: Some(BatchCond::Ok { step: index(after) }),
        stmt,
    }
}

/// A step that runs when step `after` failed or did not run.
pub(crate) fn step_unless(stmt: Stmt, after: usize) -> BatchStep {
    BatchStep {
        condition: Some(BatchCond::Not {
            cond: Box::new(BatchCond::Ok { step: index(after) }),
        }),
        stmt,
    }
}

fn index(step: usize) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}

/// A statement without rows in its answer.
pub(crate) fn run(sql: impl Into<String>, args: Vec<Value>) -> Stmt {
    Stmt {
        args,
        ..Stmt::new(sql, false)
    }
}

/// A statement with rows in its answer.
pub(crate) fn ask(sql: impl Into<String>, args: Vec<Value>) -> Stmt {
    Stmt {
        args,
        ..Stmt::new(sql, true)
    }
}

/// What became of each step: a result, an error, or neither when its condition did not hold.
pub(crate) struct Answer(BatchResult);

impl Answer {
    fn checked(result: BatchResult, steps: usize) -> Option<Answer> {
        (result.step_results.len() == steps && result.step_errors.len() == steps).then_some(Answer(result))
    }

    pub(crate) fn ok(&self, step: usize) -> Option<&StmtResult> {
        self.0.step_results.get(step)?.as_ref()
    }

    pub(crate) fn error(&self, step: usize) -> Option<&Error> {
        self.0.step_errors.get(step)?.as_ref()
    }

    /// The first step that failed.
    pub(crate) fn first_error(&self) -> Option<(usize, &Error)> {
        let mut errors = self.0.step_errors.iter().enumerate();
        errors.find_map(|(step, error)| Some((step, error.as_ref()?)))
    }

    /// The rows of a step; none when it did not run.
    pub(crate) fn rows(&mut self, step: usize) -> Vec<Row> {
        let result = self.0.step_results.get_mut(step).and_then(Option::as_mut);
        result
            .map(|result| std::mem::take(&mut result.rows))
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn index(url: &str) -> credentials::Index {
        credentials::Index {
            url: url.into(),
            auth_token: Some("TOKENEXAMPLE".to_owned().into()),
        }
    }

    #[test]
    fn a_url_of_another_kind_is_a_configuration_error() {
        for url in ["", "db.turso.io", "postgres://host/db", "file:index.db"] {
            let error = Remote::connect(&index(url)).unwrap_err();
            assert_eq!(error.exit(), Exit::Config, "{url}: {error}");
        }
    }

    #[test]
    fn debug_shows_no_token() {
        let remote = Remote::connect(&index("http://x:TOKENEXAMPLE@127.0.0.1:1?authToken=TOKENEXAMPLE")).unwrap();
        let shown = format!("{remote:?} {}", remote.url());
        assert!(!shown.contains("TOKENEXAMPLE"), "{shown}");
    }

    #[test]
    fn the_pipeline_is_below_the_configured_path() {
        for (url, pipeline) in [
            ("http://h:1", "http://h:1/v3/pipeline"),
            ("http://h:1/", "http://h:1/v3/pipeline"),
            ("http://h/db/", "http://h/db/v3/pipeline"),
        ] {
            assert_eq!(Remote::connect(&index(url)).unwrap().0.pipeline.as_str(), pipeline);
        }
    }
}
