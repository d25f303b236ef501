//! Against a real HTTP server on loopback: what each answer means, how often we ask, and that nothing leaks.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};

use super::{Broker, fetch};
use crate::config::Environment;
use crate::credentials::{Bundle, CredentialsError};
use crate::exit::Exit;

const TOKEN: &str = "tok_0123456789abcdef";
const BUNDLE: &str = r#"{"version":1,"tenant_id":"acme","storage":{"bucket":"tenant-acme","endpoint":"https://t3.storage.dev",
    "access_key_id":"tid_abc","secret_access_key":"tsec_abc"}}"#;

/// A server that gives its answers in order, the last one for ever, and keeps the requests.
struct Server {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

/// An answer as bytes; `None` never answers.
type Answer = Option<Vec<u8>>;

fn answer(status: &str, headers: &str, body: &str) -> Answer {
    let mut bytes = Vec::new();
    write!(
        bytes,
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .unwrap();
    Some(bytes)
}

async fn serve(answers: Vec<Answer>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/tenants/acme", listener.local_addr().unwrap());
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (seen, mut number) = (requests.clone(), 0);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answers[number.min(answers.len() - 1)].clone();
            number += 1;
            tokio::spawn(exchange(stream, answer, seen.clone()));
        }
    });
    Server { url, requests }
}

/// One request and one answer. Every answer closes the connection, so that each attempt is a connection.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: Answer, seen: Arc<Mutex<Vec<String>>>) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next()?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => request.extend_from_slice(&chunk[..n]),
            _ => return,
        }
    }
    seen.lock()
        .unwrap()
        .push(String::from_utf8_lossy(&request).into_owned());
    match answer {
        Some(bytes) => {
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
        }
        None => std::future::pending().await,
    }
}

/// Fetches with a given token.
async fn ask(server: &Server, timeout: Duration) -> Result<Bundle, CredentialsError> {
    let environment: Environment = [("TENANT_CREDENTIALS_TOKEN", TOKEN)].into_iter().collect();
    let broker = Broker {
        url: &server.url,
        audience: "aud",
        timeout,
        fly_api: Path::new("/nonexistent"),
    };
    let result = fetch(&broker, Some("acme"), &environment).await;
    if let Err(error) = &result {
        let shown = format!("{error} {error:?}");
        for secret in [TOKEN, "tsec", "tid_abc", "/v1/tenants"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    result
}

async fn exit_of(answers: Vec<Answer>, timeout: Duration) -> (Exit, String, usize) {
    let server = serve(answers).await;
    let error = ask(&server, timeout).await.unwrap_err();
    let asked = server.requests.lock().unwrap().len();
    (error.exit(), error.to_string(), asked)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_bundle_is_fetched_with_the_bearer_token() {
    let server = serve(vec![answer("200 OK", "", BUNDLE)]).await;
    let bundle = ask(&server, 5 * SECOND).await.unwrap();
    assert_eq!(bundle.storage.bucket, "tenant-acme");
    let requests = server.requests.lock().unwrap();
    assert!(
        requests[0].starts_with("GET /v1/tenants/acme HTTP/1.1\r\n"),
        "{requests:?}"
    );
    assert!(
        requests[0].contains(&format!("authorization: Bearer {TOKEN}\r\n")),
        "{requests:?}"
    );
}

#[tokio::test]
async fn final_answers_are_not_asked_for_twice() {
    let huge = "x".repeat(70_000);
    for (given, exit, what) in [
        (answer("401 Unauthorized", "", "tsec"), Exit::Refused, "answered 401"),
        (
            answer("403 Forbidden", "", "tsec"),
            Exit::Refused,
            "does not accept TENANT_CREDENTIALS_TOKEN",
        ),
        (
            answer("404 Not Found", "", "tsec"),
            Exit::Config,
            "no bundle at this URL",
        ),
        (answer("418 I'm a teapot", "", "tsec"), Exit::Config, "answered 418"),
        (answer("204 No Content", "", ""), Exit::Config, "answered 204"),
        (
            answer("302 Found", "location: http://127.0.0.1:1/tsec\r\n", ""),
            Exit::Config,
            "a redirect",
        ),
        (answer("200 OK", "", "<html>tsec</html>"), Exit::Config, "is not JSON"),
        (
            answer("200 OK", "", r#"{"version":1,"storage":"tsec"}"#),
            Exit::Config,
            "storage: is not an object",
        ),
        (
            answer("200 OK", "", &BUNDLE.replace("\"acme\"", "\"other\"")),
            Exit::Refused,
            "another tenant",
        ),
        (answer("200 OK", "", &huge), Exit::Config, "larger than 64 KiB"),
    ] {
        let (code, text, asked) = exit_of(vec![given], 5 * SECOND).await;
        assert_eq!(code, exit, "{text}");
        assert!(text.contains(what), "{what} is not in {text}");
        assert_eq!(asked, 1, "{text}");
    }
}

#[tokio::test]
async fn an_endless_body_is_cut_off() {
    let chunk = format!("{:x}\r\n{}\r\n", 4096, "x".repeat(4096));
    let body = format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}",
        chunk.repeat(32)
    );
    let (exit, text, _) = exit_of(vec![Some(body.into_bytes())], 5 * SECOND).await;
    assert_eq!(exit, Exit::Config);
    assert!(text.contains("larger than 64 KiB"), "{text}");
}

#[tokio::test]
async fn a_passing_failure_is_tried_again() {
    let failures = [
        answer("500 Internal Server Error", "", "tsec"),
        answer("503 Service Unavailable", "", ""),
        answer("429 Too Many Requests", "", ""),
        // Closed in the middle of the body.
        Some(b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec()),
        Some(Vec::new()),
    ];
    for failure in failures {
        let server = serve(vec![failure, answer("200 OK", "", BUNDLE)]).await;
        assert!(ask(&server, 10 * SECOND).await.is_ok());
        assert_eq!(server.requests.lock().unwrap().len(), 2);
    }
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let server = serve(vec![
        answer("429 Too Many Requests", "retry-after: 1\r\n", ""),
        answer("200 OK", "", BUNDLE),
    ])
    .await;
    let start = Instant::now();
    ask(&server, 10 * SECOND).await.unwrap();
    assert!(start.elapsed() >= SECOND, "{:?}", start.elapsed());
    // A wish past the deadline ends the attempt at once: waiting could not help.
    let start = Instant::now();
    let (exit, text, asked) = exit_of(
        vec![answer("429 Too Many Requests", "retry-after: 60\r\n", "")],
        5 * SECOND,
    )
    .await;
    assert_eq!((exit, asked), (Exit::Unavailable, 1), "{text}");
    assert!(start.elapsed() < 4 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_lasting_failure_ends_at_the_deadline() {
    let start = Instant::now();
    let (exit, text, asked) = exit_of(vec![answer("500 Internal Server Error", "", "")], 2 * SECOND).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(text.contains("answered 500"), "{text}");
    assert!(asked >= 2, "asked {asked} times");
    assert!(start.elapsed() < 4 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_silent_server_costs_no_more_than_the_timeout() {
    let start = Instant::now();
    let (exit, text, _) = exit_of(vec![None], SECOND).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(text.contains("no answer in time"), "{text}");
    assert!(start.elapsed() < 3 * SECOND, "{:?}", start.elapsed());
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let server = Server {
        url: format!("http://127.0.0.1:{port}/v1/tenants/acme"),
        requests: Arc::default(),
    };
    let error = ask(&server, SECOND).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("Connection refused"), "{error}");
}

/// Fetches with a token from a Fly machine API that gives `answers`.
async fn ask_fly(answers: Vec<Answer>) -> (Result<Bundle, CredentialsError>, Vec<String>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api");
    let listener = UnixListener::bind(&socket).unwrap();
    let fly: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = fly.clone();
    let api = tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else {
                break;
            };
            exchange(stream, answers[number.min(answers.len() - 1)].clone(), seen.clone()).await;
        }
    });
    let server = serve(vec![
        answer("503 Service Unavailable", "", ""),
        answer("200 OK", "", BUNDLE),
    ])
    .await;
    let broker = Broker {
        url: &server.url,
        audience: "https://broker.example",
        timeout: 10 * SECOND,
        fly_api: &socket,
    };
    let result = fetch(&broker, None, &Environment::default()).await;
    api.abort();
    let (fly, requests) = (fly.lock().unwrap().clone(), server.requests.lock().unwrap().clone());
    (result, fly, requests)
}

#[tokio::test]
async fn without_a_token_the_fly_machine_api_makes_one_for_all_attempts() {
    let jwt = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln";
    let unavailable = answer("503 Service Unavailable", "", "");
    let (result, fly, requests) = ask_fly(vec![unavailable, answer("200 OK", "", &format!("{jwt}\n"))]).await;
    assert_eq!(result.unwrap().storage.bucket, "tenant-acme");
    assert_eq!((fly.len(), requests.len()), (2, 2));
    assert!(fly[1].starts_with("POST /v1/tokens/oidc HTTP/1.1\r\n"), "{fly:?}");
    assert!(fly[1].ends_with(r#"{"aud":"https://broker.example"}"#), "{fly:?}");
    assert!(
        requests
            .iter()
            .all(|request| request.contains(&format!("authorization: Bearer {jwt}\r\n"))),
        "{requests:?}"
    );
}

#[tokio::test]
async fn a_fly_machine_api_that_gives_no_token() {
    for (given, exit, what) in [
        (answer("403 Forbidden", "", "tsec"), Exit::Refused, "answered 403"),
        (answer("400 Bad Request", "", "tsec"), Exit::Config, "answered 400"),
        (answer("200 OK", "", "tsec"), Exit::Config, "not a token"),
    ] {
        let (result, _, requests) = ask_fly(vec![given]).await;
        let error = result.unwrap_err();
        assert_eq!(error.exit(), exit);
        assert!(
            error.to_string().contains(what) && !error.to_string().contains("tsec"),
            "{error}"
        );
        assert!(requests.is_empty());
    }
}

#[tokio::test]
async fn neither_token_nor_fly_says_what_to_set() {
    let server = serve(vec![answer("200 OK", "", BUNDLE)]).await;
    let broker = Broker {
        url: &server.url,
        audience: "a",
        timeout: SECOND,
        fly_api: Path::new("/nonexistent/api"),
    };
    let error = fetch(&broker, None, &Environment::default()).await.unwrap_err();
    assert_eq!(error.exit(), Exit::Config);
    assert!(
        error.to_string().contains("TENANT_CREDENTIALS_TOKEN: is not set"),
        "{error}"
    );
    assert!(server.requests.lock().unwrap().is_empty());
}

/// With TLS, against a server that speaks something else: the TLS stack is there, and its failure is one to wait out.
#[tokio::test]
async fn a_server_without_tls_is_not_available() {
    let mut server = serve(vec![answer("200 OK", "", BUNDLE)]).await;
    server.url = server.url.replace("http://", "https://");
    let error = ask(&server, SECOND).await.unwrap_err();
    match error.exit() {
        Exit::Unavailable => assert!(error.to_string().contains("no "), "{error}"),
        // A machine without any CA certificate.
        exit => assert!(
            exit == Exit::Config && error.to_string().contains("CA certificates"),
            "{error}"
        ),
    }
}
