//! The health endpoint: `/livez /readyz /startupz /status /metrics /` and the notification webhook `/changes`.
//!
//! Every answer comes from memory: the published [`Snapshot`], the live measurements, and for `/livez` one question to
//! the supervisor's loop. So an answer takes the same time whether the bucket is reachable or not, and a stuck
//! dependency cannot make the endpoint lie about liveness.
//!
//! It listens where anybody on the private network can reach it, so each resource a client can hold is bounded:
//! connections ([`slots`]), the time to send a request and to get its answer, the life of a connection, the size of
//! headers and bodies. `axum::serve` has none of these bounds; the connections are served with hyper directly.

mod changes;
mod slots;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::header::{HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub use self::changes::{Change, ChangeKind, Webhook};
use self::slots::Slots;
use crate::core::snapshot::Snapshot;
use crate::ops::metrics::{Format, Metrics};
use crate::ops::page;

/// A request's headers must be complete after this; an idle connection is closed after it too.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// A request must be answered after this, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection is asked to end after this; what a client that does not read its answer can hold at most.
const CONNECTION_LIFETIME: Duration = Duration::from_secs(60);

/// Open connections at shutdown get this long to finish.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The loop must answer `/livez` within this.
const PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a request's head (hyper's minimum for the buffer is 8 KiB).
const MAX_HEAD: usize = 16 * 1024;

/// Header lines of a request.
const MAX_HEADERS: usize = 64;

/// Pause after `accept` failed for want of a resource (EMFILE, ENOMEM), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the answers come from.
#[derive(Debug)]
pub struct Sources {
    /// The picture, published by the supervisor after each step.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
    /// What is measured live.
    pub metrics: Arc<Metrics>,
    /// The supervisor's loop answers each question it finds here; nothing else proves that it turns.
    pub ping: mpsc::Sender<oneshot::Sender<()>>,
    /// The webhook, when a token is configured and something reads the changes.
    pub webhook: Option<Webhook>,
}

/// What the handlers share.
#[derive(Debug)]
struct Shared {
    sources: Sources,
    /// Latched when the tenant was ready for the first time.
    started: AtomicBool,
}

impl Shared {
    /// The picture with the operations as they are now, rather than as of the last step.
    fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::clone(&self.sources.snapshot.borrow());
        snapshot.operations.extend(self.sources.metrics.operations.summary());
        snapshot
    }
}

/// Answers requests on `listener` until `shutdown` resolves, then gives open connections one second. Dropping the
/// future closes everything at once. Must run inside a tokio runtime with time and network.
///
/// # Errors
/// When the listener cannot be handed to the runtime. Failures later on are logged and waited out.
pub async fn serve(
    listener: std::net::TcpListener,
    sources: Sources,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let mut snapshots = sources.snapshot.clone();
    let shared = Arc::new(Shared {
        sources,
        started: AtomicBool::new(false),
    });
    let router = router(&shared);
    let slots = Arc::new(Slots::default());
    let mut connections = JoinSet::new();
    let (stop, stopping) = watch::channel(());
    let latch = async {
        if snapshots.wait_for(|snapshot| snapshot.ready).await.is_ok() {
            shared.started.store(true, Relaxed);
        }
    };
    let (mut shutdown, mut latch) = (pin!(shutdown), pin!(latch));
    let mut latched = false;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            () = &mut latch, if !latched => latched = true,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if slots.make_room(&mut connections).await {
                        connections.spawn(connection(stream, router.clone(), slots.enter(), stopping.clone()));
                    }
                }
                Err(error) => {
                    tracing::warn!(event = "http_accept_failed", %error, "health endpoint: cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    drop(listener);
    drop(stop);
    let _ = timeout(SHUTDOWN_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    Ok(())
}

/// Serves one connection until it ends, is too old, has to make room, or the endpoint stops.
async fn connection(stream: TcpStream, router: Router, slot: slots::Slot, mut stopping: watch::Receiver<()>) {
    // A request and its answer are one packet each: waiting to fill a segment only adds delay.
    let _ = stream.set_nodelay(true);
    let router = TowerToHyperService::new(router);
    let slot = Arc::new(slot);
    let activity = Arc::clone(&slot);
    let service = service_fn(move |request: Request<Incoming>| {
        let busy = activity.busy();
        let answer = timeout(REQUEST_TIMEOUT, router.call(request.map(Body::new)));
        async move {
            let answer = answer.await;
            drop(busy);
            let too_slow = || error(StatusCode::REQUEST_TIMEOUT, "the request took too long");
            Ok::<_, Infallible>(answer.map_or_else(|_| too_slow(), |Ok(response)| response))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors of a connection are the client's doing (reset, garbage, too slow) and of no interest to anyone.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = slot.evicted() => return,
        () = sleep(CONNECTION_LIFETIME) => {}
        _ = stopping.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(REQUEST_TIMEOUT, connection).await;
}

fn router(shared: &Arc<Shared>) -> Router {
    let mut router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/", get(index));
    if shared.sources.webhook.is_some() {
        router = router.route("/changes", post(changes::receive));
    }
    router
        .fallback(|| async { error(StatusCode::NOT_FOUND, "no such page; try /status") })
        .method_not_allowed_fallback(|| async { error(StatusCode::METHOD_NOT_ALLOWED, "not with this method") })
        .layer(axum::middleware::map_response(protect))
        .with_state(Arc::clone(shared))
}

/// A short JSON body for everything that is not an answer.
fn error(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

/// 503 unless `good`, with a body.
fn verdict(good: bool, body: serde_json::Value) -> Response {
    let status = if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(body)).into_response()
}

/// Nothing here may be kept by a cache, framed, sniffed as another type, or load anything from elsewhere.
async fn protect(mut response: Response) -> Response {
    const ALWAYS: [(HeaderName, HeaderValue); 3] = [
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    let headers = response.headers_mut();
    headers.extend(ALWAYS);
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(nothing);
    response
}

async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    let question = async {
        let (answer, answered) = oneshot::channel();
        shared.sources.ping.send(answer).await.ok()?;
        answered.await.ok()
    };
    let live = matches!(timeout(PING_TIMEOUT, question).await, Ok(Some(())));
    verdict(live, json!({ "live": live }))
}

async fn readyz(State(shared): State<Arc<Shared>>) -> Response {
    let snapshot = Arc::clone(&shared.sources.snapshot.borrow());
    verdict(
        snapshot.ready,
        json!({ "ready": snapshot.ready, "reasons": snapshot.reasons }),
    )
}

async fn startupz(State(shared): State<Arc<Shared>>) -> Response {
    let started = shared.started.load(Relaxed) || shared.sources.snapshot.borrow().ready;
    verdict(started, json!({ "started": started }))
}

async fn status(State(shared): State<Arc<Shared>>) -> Json<Snapshot> {
    Json(shared.snapshot())
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let format = Format::negotiate(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let snapshot = Arc::clone(&shared.sources.snapshot.borrow());
    match shared.sources.metrics.expose(&snapshot, format) {
        Ok(exposition) => ([(CONTENT_TYPE, format.content_type())], exposition).into_response(),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "a metric cannot be written as text"),
    }
}

async fn index(State(shared): State<Arc<Shared>>) -> Response {
    let policy = [(CONTENT_SECURITY_POLICY, page::content_security_policy())];
    (policy, Html(page::render(&shared.snapshot()))).into_response()
}

#[cfg(test)]
mod tests;
