use std::net::SocketAddr;
use std::time::Instant;

use secrecy::SecretString;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use super::*;
use crate::exit::Exit;
use crate::ops::status::{Options, tell};
use crate::ops::testing::{degraded, healthy, starting};

/// A served endpoint on a port of its own, and the supervisor's side of it.
struct Endpoint {
    address: SocketAddr,
    snapshots: watch::Sender<Arc<Snapshot>>,
    metrics: Arc<Metrics>,
    pings: mpsc::Receiver<oneshot::Sender<()>>,
    stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<io::Result<()>>,
}

impl Endpoint {
    async fn start(snapshot: Snapshot, webhook: Option<Webhook>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (snapshots, snapshot) = watch::channel(Arc::new(snapshot));
        let metrics = Arc::new(Metrics::default());
        let (ping, pings) = mpsc::channel(8);
        let (stop, stopped) = oneshot::channel();
        let sources = Sources {
            snapshot,
            metrics: Arc::clone(&metrics),
            ping,
            webhook,
        };
        let server = tokio::spawn(serve(listener, sources, async { drop(stopped.await) }));
        Endpoint {
            address,
            snapshots,
            metrics,
            pings,
            stop: Some(stop),
            server,
        }
    }

    fn publish(&self, snapshot: Snapshot) {
        self.snapshots.send_replace(Arc::new(snapshot));
    }

    async fn get(&self, path: &str) -> Answer {
        request(
            self.address,
            &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        )
        .await
    }

    async fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}");
        request(self.address, &format!("{head}Content-Length: {length}\r\n\r\n{body}")).await
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .unwrap_or(0);
        Answer {
            status,
            head: head.to_ascii_lowercase(),
            body: body.to_owned(),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends raw bytes and reads until the server closes.
async fn request(address: SocketAddr, text: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(text.as_bytes()).await;
    let mut bytes = Vec::new();
    let _ = timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes))
        .await
        .expect("no end of the answer");
    Answer::parse(&bytes)
}

/// Polls until `done` or 10 s.
async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done().await {
        assert!(Instant::now() < deadline, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn readyz_is_exactly_ready_and_reasons() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let answer = endpoint.get("/readyz").await;
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (200, r#"{"ready":true,"reasons":[]}"#)
    );
    endpoint.publish(degraded());
    let answer = endpoint.get("/readyz").await;
    assert_eq!(answer.status, 503);
    let reasons = Value::from(degraded().reasons);
    assert_eq!(answer.json(), json!({ "ready": false, "reasons": reasons }));
}

#[tokio::test]
async fn startupz_latches() {
    let endpoint = Endpoint::start(starting(), None).await;
    assert_eq!(endpoint.get("/startupz").await.status, 503);
    endpoint.publish(healthy());
    assert_eq!(endpoint.get("/startupz").await.status, 200);
    endpoint.publish(degraded());
    assert_eq!(endpoint.get("/readyz").await.status, 503);
    assert_eq!(endpoint.get("/startupz").await.json(), json!({ "started": true }));
}

#[tokio::test]
async fn startupz_sees_a_ready_that_nobody_asked_about() {
    let endpoint = Endpoint::start(starting(), None).await;
    endpoint.publish(healthy());
    // Any request lets the endpoint run once in between.
    endpoint.get("/status").await;
    endpoint.publish(degraded());
    assert_eq!(endpoint.get("/startupz").await.status, 200);
}

#[tokio::test]
async fn livez_asks_the_loop() {
    let mut endpoint = Endpoint::start(healthy(), None).await;
    let address = endpoint.address;
    let asking = tokio::spawn(async move { request(address, "GET /livez HTTP/1.0\r\n\r\n").await });
    endpoint.pings.recv().await.unwrap().send(()).unwrap();
    assert_eq!(asking.await.unwrap().status, 200);
    // The loop stands still: it does not take the question.
    let started = Instant::now();
    let answer = endpoint.get("/livez").await;
    assert_eq!((answer.status, answer.json()), (503, json!({ "live": false })));
    assert!(
        (900..3000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );
    // The loop is gone.
    endpoint.pings.close();
    while endpoint.pings.recv().await.is_some() {}
    assert_eq!(endpoint.get("/livez").await.status, 503);
}

/// The contract of `/status`: other programs rely on each of these names.
#[tokio::test]
async fn status_fields_are_the_contract() {
    let endpoint = Endpoint::start(degraded(), None).await;
    endpoint
        .metrics
        .operations
        .operation("lookup", Duration::from_micros(80), Some("NFS3ERR_NOENT"));
    let answer = endpoint.get("/status").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/json"));
    let mut paths = Vec::new();
    fn walk(path: String, value: &Value, paths: &mut Vec<String>) {
        match value.as_object() {
            Some(object) if !object.is_empty() => {
                object
                    .iter()
                    .for_each(|(name, value)| walk(format!("{path}.{name}"), value, paths));
            }
            _ => paths.push(path),
        }
    }
    walk(String::new(), &answer.json(), &mut paths);
    let golden: Vec<&str> = include_str!("status_fields.txt").lines().collect();
    assert_eq!(
        paths, golden,
        "the fields of /status are a contract; see docs/METRICS.md"
    );
    assert_eq!(answer.json()["phase"], "degraded");
    assert_eq!(answer.json()["operations"]["lookup"]["errors"], 1);
}

#[tokio::test]
async fn metrics_negotiate_their_format() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let answer = endpoint.get("/metrics").await;
    assert!(
        answer
            .head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        answer.head
    );
    assert!(answer.body.ends_with("# EOF\n"));
    let answer = endpoint
        .send("GET", "/metrics", "Accept: text/plain;version=0.0.4\r\n", "")
        .await;
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        answer.head
    );
    assert!(answer.body.contains("tenant_ready 1.0\n"));
}

#[tokio::test]
async fn the_page_is_served_with_its_policy() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let answer = endpoint.get("/").await;
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: text/html; charset=utf-8"),
        "{}",
        answer.head
    );
    assert!(answer.head.contains("script-src 'sha256-"), "{}", answer.head);
    assert!(answer.body.contains("<h1>"));
}

#[tokio::test]
async fn every_answer_is_protected() {
    let endpoint = Endpoint::start(healthy(), None).await;
    for path in ["/", "/readyz", "/startupz", "/status", "/metrics", "/nothing", "/livez"] {
        let head = endpoint.get(path).await.head;
        for header in [
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "content-security-policy: default-src 'none'",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
    }
}

#[tokio::test]
async fn other_methods_and_paths_are_refused_in_few_words() {
    let endpoint = Endpoint::start(healthy(), None).await;
    for path in ["/", "/readyz", "/startupz", "/status", "/metrics"] {
        let answer = endpoint.send("HEAD", path, "", "").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""), "HEAD {path}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
            let answer = endpoint.send(method, path, "", "").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
            assert!(answer.json()["error"].is_string());
        }
    }
    for path in ["/nothing", "/status/", "/../etc/passwd", "/changes", "/%00", "//"] {
        let answer = endpoint.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].is_string() && answer.body.len() < 200);
    }
    assert_eq!(
        endpoint.send("POST", "/changes", "", "{}").await.status,
        404,
        "no webhook without a token"
    );
}

const EVENTS: &str = r#"{"events":[{"eventVersion":"1","eventSource":"tigris","eventName":"OBJECT_CREATED_PUT",
    "eventTime":"2026-01-02T03:04:05Z","bucket":"b","object":{"key":"a.md","size":1,"eTag":"e"}}]}"#;
const TOKEN: &str = "Authorization: Bearer t0ken\r\n";

#[tokio::test]
async fn changes_are_queued_or_pushed_back() {
    let (changes, mut queue) = mpsc::channel(1);
    let webhook = Webhook {
        token: SecretString::from("t0ken"),
        changes,
    };
    let endpoint = Endpoint::start(healthy(), Some(webhook)).await;
    for (headers, body, status) in [
        ("", EVENTS, 401),
        ("Authorization: Bearer wrong\r\n", EVENTS, 401),
        (TOKEN, "not json", 400),
        (TOKEN, r#"{"events":[{"eventName":"OBJECT_DELETED"}]}"#, 400),
        (TOKEN, EVENTS, 200),
        (TOKEN, EVENTS, 503),
    ] {
        let answer = endpoint.send("POST", "/changes", headers, body).await;
        assert_eq!(answer.status, status, "{headers}{body}: {answer:?}");
        assert!(!answer.body.contains("t0ken"));
    }
    assert_eq!(queue.recv().await.unwrap()[0].key, "a.md");
    assert_eq!(
        endpoint.send("POST", "/changes", TOKEN, EVENTS).await.status,
        200,
        "room again"
    );
    assert_eq!(endpoint.send("GET", "/changes", TOKEN, "").await.status, 405);
    let large = format!("{EVENTS}{}", " ".repeat(1024 * 1024));
    assert_eq!(endpoint.send("POST", "/changes", TOKEN, &large).await.status, 413);
    drop(queue);
    assert_eq!(
        endpoint.send("POST", "/changes", TOKEN, EVENTS).await.status,
        404,
        "nobody reads them any more"
    );
}

#[tokio::test]
async fn hostile_requests_get_an_error_and_the_endpoint_goes_on() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let many: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(100_000));
    let large = format!("GET / HTTP/1.1\r\nHost: x\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{many}\r\n");
    for text in [
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET\r\n\r\n",
        "\r\n\r\n\0\0\0\0",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &long,
        &large,
        &many,
    ] {
        let answer = request(endpoint.address, text).await;
        // 0: closed without an answer, or reset while still sending.
        assert!(matches!(answer.status, 0 | 400..=499), "{text:.20}: {answer:?}");
    }
    assert_eq!(endpoint.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_client_that_sends_its_request_slowly_is_cut_off() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let started = Instant::now();
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let mut closed = [0; 256];
    // One byte now and then, never the end of the headers.
    let drip = async {
        for byte in b"GET /status HTTP/1.1\r\nHost: ".iter().chain([b'x'].iter().cycle()) {
            if stream.write_all(&[*byte]).await.is_err() {
                return;
            }
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_millis(100), stream.read(&mut closed)).await {
                return;
            }
        }
    };
    timeout(HEADER_TIMEOUT * 3, drip).await.expect("never cut off");
    assert!(
        started.elapsed() >= HEADER_TIMEOUT - Duration::from_millis(100),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn two_hundred_clients_at_once_are_all_answered() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let mut clients = JoinSet::new();
    for n in 0..200 {
        let address = endpoint.address;
        let path = ["/readyz", "/status", "/metrics", "/"][n % 4];
        clients.spawn(async move {
            request(
                address,
                &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
            )
            .await
            .status
        });
    }
    let statuses = clients.join_all().await;
    assert!(statuses.iter().all(|&status| status == 200), "{statuses:?}");
}

#[tokio::test]
async fn silent_connections_cannot_keep_a_health_check_out() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(endpoint.address).await.unwrap());
    }
    let started = Instant::now();
    assert_eq!(endpoint.get("/readyz").await.status, 200);
    assert!(
        started.elapsed() < HEADER_TIMEOUT,
        "only after the silent ones had timed out: {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_not_waited_for() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let mut deaf = TcpStream::connect(endpoint.address).await.unwrap();
    let ask = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(50);
    // Pipelined requests until the server no longer takes any: its answers fill both socket buffers.
    let flood = async { while deaf.write_all(ask.as_bytes()).await.is_ok() {} };
    assert!(
        timeout(Duration::from_secs(2), flood).await.is_err(),
        "the server must stop reading from it"
    );
    let started = Instant::now();
    assert_eq!(endpoint.get("/readyz").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn keep_alive_serves_more_than_one_request() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET /startupz HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut bytes = vec![0; 4096];
        let mut read = 0;
        while !String::from_utf8_lossy(&bytes[..read]).ends_with("{\"started\":true}") {
            let n = stream.read(&mut bytes[read..]).await.unwrap();
            assert!(n > 0, "closed");
            read += n;
        }
    }
}

#[tokio::test]
async fn shutdown_finishes_requests_and_frees_the_port() {
    let mut endpoint = Endpoint::start(healthy(), None).await;
    let idle = TcpStream::connect(endpoint.address).await.unwrap();
    let address = endpoint.address;
    let asking = tokio::spawn(async move { request(address, "GET /livez HTTP/1.0\r\n\r\n").await });
    let question = endpoint.pings.recv().await.unwrap();
    endpoint.stop.take().unwrap().send(()).unwrap();
    eventually("the port is free", || async {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    question.send(()).unwrap();
    assert_eq!(asking.await.unwrap().status, 200, "a request in flight is answered");
    timeout(Duration::from_secs(5), endpoint.server)
        .await
        .expect("waits for idle connections")
        .unwrap()
        .unwrap();
    drop(idle);
}

async fn run_status(address: SocketAddr, json: bool, wait: Option<Duration>) -> (Exit, String, String) {
    let (mut out, mut progress) = (Vec::new(), Vec::new());
    let options = Options {
        listen: address,
        json,
        wait,
    };
    let exit = tell(&options, false, &mut out, &mut progress).await;
    (
        exit,
        String::from_utf8(out).unwrap(),
        String::from_utf8(progress).unwrap(),
    )
}

#[tokio::test]
async fn status_command_reads_the_endpoint() {
    let endpoint = Endpoint::start(healthy(), None).await;
    let (exit, out, progress) = run_status(endpoint.address, false, None).await;
    assert_eq!((exit, progress.as_str()), (Exit::Stored, ""));
    assert!(out.starts_with("acme: ready"), "{out}");
    endpoint.publish(degraded());
    let (exit, out, _) = run_status(endpoint.address, true, None).await;
    assert_eq!(exit, Exit::Unavailable, "it runs but is not ready");
    assert_eq!(
        serde_json::from_str::<Snapshot>(&out).unwrap().reasons,
        degraded().reasons
    );
}

#[tokio::test]
async fn status_command_waits_until_ready() {
    let endpoint = Endpoint::start(starting(), None).await;
    let address = endpoint.address;
    let waiting = tokio::spawn(async move { run_status(address, false, Some(Duration::from_secs(30))).await });
    eventually("it asked", || async { endpoint.snapshots.receiver_count() > 0 }).await;
    endpoint.get("/status").await;
    endpoint.publish(healthy());
    let (exit, out, _) = timeout(Duration::from_secs(10), waiting)
        .await
        .expect("did not notice")
        .unwrap();
    assert_eq!(exit, Exit::Stored);
    assert!(out.starts_with("acme: ready"));
    endpoint.publish(starting());
    let (exit, out, progress) = run_status(address, false, Some(Duration::from_millis(600))).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(out.starts_with("acme: starting, not ready"), "{out}");
    assert_eq!(progress.lines().count(), 1, "the same news is told once: {progress}");
    assert!(progress.contains("waiting: starting: mount_starting"), "{progress}");
}

#[tokio::test]
async fn status_command_says_why_there_is_no_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (exit, out, progress) = run_status(address, false, None).await;
    assert_eq!((exit, out.as_str()), (Exit::Unavailable, ""));
    assert!(progress.contains("does not answer within 2s"), "{progress}");
    let foreign = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                .await
                .unwrap();
        }
    });
    let (exit, _, progress) = run_status(address, false, None).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(progress.contains("is not a tenant-init"), "{progress}");
    foreign.abort();
    let _ = foreign.await;
    let (exit, _, progress) = run_status(address, true, None).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(progress.contains("Is tenant-init running"), "{progress}");
}
