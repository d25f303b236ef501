//! `Remote::probe`: the right exit code and words for each way an index database can fail.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tenant_init::credentials::Index;
use tenant_init::exit::Exit;
use tenant_init::index::{IndexError, Remote};

use crate::support::{self, Issuer};

async fn database(url: &str, token: Option<&str>) -> Remote {
    let index = Index {
        url: url.into(),
        auth_token: token.map(|token| token.to_owned().into()),
    };
    Remote::connect(&index).unwrap()
}

/// The failure, after checking what every failure has to keep to.
async fn failure(url: &str, token: &str) -> IndexError {
    let started = Instant::now();
    let database = database(url, Some(token)).await;
    let error = database.probe(Duration::from_secs(2)).await.unwrap_err();
    let shown = format!("{error} {error:?} {} {database:?}", error.advice());
    assert!(!shown.contains(token), "the token is shown: {shown}");
    assert!(error.to_string().contains(database.url()), "no URL in: {error}");
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "took {:?}: {error}",
        started.elapsed()
    );
    error
}

async fn failure_at(address: SocketAddr) -> IndexError {
    failure(&format!("http://{address}"), "TOKENEXAMPLE").await
}

#[tokio::test]
async fn tokens_good_and_bad() {
    let issuer = Issuer::new();
    let server = support::sqld(Some(&issuer.public()));
    let good = database(&server.url(), Some(&issuer.token(3600))).await;
    let first = good.probe(Remote::PROBE_TIMEOUT).await.unwrap();
    let second = good.probe(Remote::PROBE_TIMEOUT).await.unwrap();
    println!("database probe: first {:?}, then {:?}", first.latency, second.latency);

    for (what, token) in [
        ("another key", Issuer::new().token(3600)),
        ("expired", issuer.token(-3600)),
        ("not a token", "TOKENEXAMPLE".to_owned()),
    ] {
        let error = failure(&server.url(), &token).await;
        assert_eq!(error.exit(), Exit::Refused, "{what}: {error}");
        assert!(error.to_string().contains("was rejected"), "{what}: {error}");
    }
    let expired = failure(&server.url(), &issuer.token(-3600)).await;
    assert!(expired.to_string().to_lowercase().contains("expired"), "{expired}");

    let none = database(&server.url(), None).await;
    assert_eq!(
        none.probe(Remote::PROBE_TIMEOUT).await.unwrap_err().exit(),
        Exit::Refused
    );
}

#[tokio::test]
async fn a_server_without_authentication_needs_no_token() {
    let server = support::sqld(None);
    database(&server.url(), None)
        .await
        .probe(Remote::PROBE_TIMEOUT)
        .await
        .unwrap();
}

#[tokio::test]
async fn no_answer_has_its_words() {
    let failure = async |address| {
        let error = failure_at(address).await;
        (error.exit(), error.to_string())
    };
    support::no_answer_has_its_words("no answer within 2 s", failure).await;
}

#[tokio::test]
async fn the_name_does_not_resolve() {
    let error = failure("http://database.invalid:8080", "TOKENEXAMPLE").await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(
        error.to_string().contains("the name database.invalid does not resolve"),
        "{error}"
    );
}

#[tokio::test]
async fn the_service_is_busy() {
    let error = failure_at(support::answering(support::http(
        "503 Service Unavailable",
        "",
        "later",
    )))
    .await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("503"), "{error}");
}

#[tokio::test]
async fn something_else_answers() {
    let lost = support::http("404 Not Found", "", "no such page");
    let page = support::http("200 OK", "content-type: text/html\r\n", "<html>Welcome</html>");
    for answer in [lost, page] {
        let error = failure_at(support::answering(answer)).await;
        assert_eq!(error.exit(), Exit::Config, "{error}");
    }
}

#[tokio::test]
async fn an_error_page_that_is_not_text_is_survived() {
    let mut answer = b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\nconnection: close\r\n\r\n".to_vec();
    answer.extend([0xff, 0xfe]);
    let error = failure_at(support::answering(answer)).await;
    assert!(error.to_string().contains("not like a libSQL server"), "{error}");
}

#[tokio::test]
async fn tls_and_plain_are_mixed_up() {
    let plain = support::answering(support::http("400 Bad Request", "", "this is HTTP"));
    let error = failure(&format!("https://{plain}"), "TOKENEXAMPLE").await;
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
}
