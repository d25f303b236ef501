//! `Bucket::probe`: the right exit code and words for each way a bucket can fail.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tenant_init::credentials::Storage;
use tenant_init::exit::Exit;
use tenant_init::storage::{Bucket, StorageError, Timeouts};

use crate::support::{self, BUCKET, KEY_ID, SECRET};

fn storage(endpoint: &str, key_id: &str, secret: &str, bucket: &str) -> Storage {
    Storage {
        bucket: bucket.into(),
        endpoint: endpoint.into(),
        region: "auto".into(),
        access_key_id: key_id.to_owned().into(),
        secret_access_key: secret.to_owned().into(),
    }
}

/// The failure, after checking what every failure has to keep to.
async fn failure(storage: Storage) -> StorageError {
    let started = Instant::now();
    let bucket = Bucket::connect(&storage, Timeouts::START).unwrap();
    let error = bucket.probe().await.unwrap_err();
    let shown = format!("{error} {error:?} {} {bucket:?}", error.advice());
    assert!(
        !shown.contains(SECRET) && !shown.contains(KEY_ID),
        "a secret is shown: {shown}"
    );
    assert!(error.to_string().contains(&storage.bucket), "no bucket in: {error}");
    assert!(error.to_string().contains(&storage.endpoint), "no endpoint in: {error}");
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "took {:?}: {error}",
        started.elapsed()
    );
    error
}

async fn failure_at(address: SocketAddr) -> StorageError {
    failure(storage(&format!("http://{address}"), KEY_ID, SECRET, BUCKET)).await
}

#[tokio::test]
async fn the_right_key_opens_the_bucket_and_changes_nothing() {
    let server = support::s3();
    let bucket = Bucket::connect(&storage(&server.url(), KEY_ID, SECRET, BUCKET), Timeouts::START).unwrap();
    let first = bucket.probe().await.unwrap();
    let second = bucket.probe().await.unwrap();
    println!("bucket probe: first {:?}, then {:?}", first.latency, second.latency);
    assert!(first.latency > Duration::ZERO && first.latency < Duration::from_secs(4));
    assert!(bucket.clock_skew().unwrap().abs() < jiff::SignedDuration::from_secs(5));
    let objects = std::fs::read_dir(server.dir.path().join("data").join(BUCKET)).unwrap();
    assert_eq!(objects.count(), 0);
}

#[tokio::test]
async fn a_wrong_key_is_refused() {
    let server = support::s3();
    for (key_id, secret, code) in [
        (KEY_ID, "ANOTHERSECRET", "SignatureDoesNotMatch"),
        ("AKIDUNKNOWN", SECRET, "InvalidAccessKeyId"),
    ] {
        let error = failure(storage(&server.url(), key_id, secret, BUCKET)).await;
        assert_eq!(error.exit(), Exit::Refused, "{error}");
        assert!(error.to_string().contains(code), "{error}");
    }
}

#[tokio::test]
async fn a_missing_bucket_is_a_configuration_error() {
    let server = support::s3();
    let error = failure(storage(&server.url(), KEY_ID, SECRET, "nothing-here")).await;
    assert_eq!(error.exit(), Exit::Config, "{error}");
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test]
async fn no_answer_has_its_words() {
    let failure = async |address| {
        let error = failure_at(address).await;
        (error.exit(), error.to_string())
    };
    support::no_answer_has_its_words("no answer within 4 s", failure).await;
}

#[tokio::test]
async fn packets_are_dropped() {
    let hole = support::blackhole();
    let error = failure_at(hole.address).await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("no connection within 3 s"), "{error}");
}

#[tokio::test]
async fn the_name_does_not_resolve() {
    let error = failure(storage("http://bucket.invalid:9000", KEY_ID, SECRET, BUCKET)).await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(
        error.to_string().contains("the name bucket.invalid does not resolve"),
        "{error}"
    );
}

#[tokio::test]
async fn the_service_is_busy() {
    let slow = support::s3_error("503 Slow Down", "", "SlowDown");
    let error = failure_at(support::answering(slow)).await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("503 SlowDown"), "{error}");
    let page = support::http(
        "502 Bad Gateway",
        "content-type: text/html\r\n",
        "<html>bad gateway</html>",
    );
    let error = failure_at(support::answering(page)).await;
    assert_eq!(error.exit(), Exit::Unavailable, "{error}");
    assert!(error.to_string().contains("502"), "{error}");
}

#[tokio::test]
async fn tls_and_plain_are_mixed_up() {
    let plain = support::answering(support::http("400 Bad Request", "", "this is HTTP"));
    let error = failure(storage(&format!("https://{plain}"), KEY_ID, SECRET, BUCKET)).await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    let other = support::answering("SSH-2.0-OpenSSH_9.2\r\n");
    let error = failure_at(other).await;
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("does not speak HTTP"), "{error}");
}

#[tokio::test]
async fn something_else_answers() {
    let page = support::http(
        "200 OK",
        "content-type: text/html\r\n",
        "<html><body>Welcome to nginx!</body></html>",
    );
    let error = failure_at(support::answering(page)).await;
    assert_eq!(error.exit(), Exit::Config, "{error}");
}

#[tokio::test]
async fn a_wrong_clock_is_not_blamed_on_the_key() {
    let date = "date: Fri, 01 Jan 2100 00:00:00 GMT\r\n";
    let error = failure_at(support::answering(support::s3_error(
        "403 Forbidden",
        date,
        "RequestTimeTooSkewed",
    )))
    .await;
    assert_eq!(error.exit(), Exit::Refused);
    assert!(
        error.to_string().contains("clock is") && error.to_string().contains("days behind"),
        "{error}"
    );
    assert!(error.advice().contains("NTP"), "{}", error.advice());
}

#[tokio::test]
async fn the_clock_is_compared_even_when_the_probe_succeeds() {
    let ahead = jiff::Timestamp::now() + jiff::SignedDuration::from_mins(20);
    let date = ahead.strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n").to_string();
    let address = support::answering(support::empty_listing(&date));
    let bucket = Bucket::connect(
        &storage(&format!("http://{address}"), KEY_ID, SECRET, BUCKET),
        Timeouts::START,
    )
    .unwrap();
    bucket.probe().await.unwrap();
    let skew = bucket.clock_skew().unwrap();
    assert!(
        (skew - jiff::SignedDuration::from_mins(20)).abs() < jiff::SignedDuration::from_secs(5),
        "{skew:?}"
    );
}

fn watched(endpoint: &str, secret: &str) -> Bucket {
    Bucket::connect(&storage(endpoint, KEY_ID, secret, BUCKET), Timeouts::REPEATED).unwrap()
}

#[tokio::test]
async fn a_pulse_that_finds_something_wrong_says_what_it_is() {
    let server = support::s3();
    watched(&server.url(), SECRET).pulse(true).ask().await.unwrap();
    watched(&server.url(), SECRET).pulse(false).ask().await.unwrap();
    let error = watched(&server.url(), "ANOTHERSECRET")
        .pulse(true)
        .ask()
        .await
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Refused, "{error}");
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
    let error = watched("http://bucket.invalid", SECRET)
        .pulse(true)
        .ask()
        .await
        .unwrap_err();
    assert_eq!(error.exit(), Exit::Unavailable);
    assert!(error.to_string().contains("does not resolve"), "{error}");
}

#[tokio::test]
async fn a_pulse_that_is_not_answered_is_sent_again_and_the_first_answer_counts() {
    let server = support::s3();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bucket = watched(&format!("http://{}", listener.local_addr().unwrap()), SECRET);
    let port = server.url().rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let relay = tokio::spawn(async move {
        // The first connection is accepted and never answered, as by a network that was away when the question was sent.
        let (_silent, _) = listener.accept().await.unwrap();
        let (mut client, _) = listener.accept().await.unwrap();
        let mut upstream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        tokio::io::copy_bidirectional(&mut client, &mut upstream).await.ok();
    });
    let answer = bucket.pulse(true).ask().await.unwrap();
    assert!(answer.latency > Duration::from_millis(500), "{:?}", answer.latency);
    relay.abort();
}
