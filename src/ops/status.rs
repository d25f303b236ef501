//! `tenant-init status`: asks the running instance and says what it answered, for people or as JSON.
//!
//! The exit code is what scripts and container health checks read: 0 only when the tenant is ready, 69 otherwise,
//! whether it is not ready, does not answer, or does not run.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::header::{CONNECTION, HOST};
use axum::http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use crate::core::snapshot::Snapshot;
use crate::exit::Exit;
use crate::ops::log::colours;

mod table;

/// One question and its answer take at most this long. The answer comes from memory: longer means stuck.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Time between two questions of `--wait`.
const POLL: Duration = Duration::from_millis(250);

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// What was asked for on the command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// `health.listen` of the instance; an unspecified address means this machine.
    pub listen: SocketAddr,
    /// Print the answer as it came.
    pub json: bool,
    /// Ask again until it is ready, for this long.
    pub wait: Option<Duration>,
}

/// Why there is no answer. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// Nothing listens, or not for us.
    #[error("nothing answers on {0}: {1}. Is tenant-init running, and is `health.listen` the same for both?")]
    Connect(SocketAddr, #[source] io::Error),
    /// Something listens and is silent.
    #[error("{0} accepts connections and does not answer within {TIMEOUT:?}: the supervisor is stuck or stopped")]
    Silent(SocketAddr),
    /// It does not speak HTTP, or broke off.
    #[error("{0} does not answer as a health endpoint: {1}. Does another program use this port?")]
    Protocol(SocketAddr, #[source] hyper::Error),
    /// It speaks HTTP and is something else.
    #[error("{0} is not a tenant-init, or is of another version: {1}")]
    Foreign(SocketAddr, String),
}

/// Asks and prints to `out`, which is stdout: coloured when that is a terminal. Progress and failures go to stderr.
/// [`Exit::Stored`] (0) when the tenant is ready, else [`Exit::Unavailable`] (69). Must run inside a tokio runtime with
/// time and network.
pub async fn status(options: &Options, out: &mut impl Write) -> Exit {
    tell(options, colours(&io::stdout()), out, &mut io::stderr()).await
}

pub(super) async fn tell(options: &Options, colour: bool, out: &mut impl Write, progress: &mut impl Write) -> Exit {
    let address = reachable(options.listen);
    let deadline = Instant::now() + options.wait.unwrap_or_default();
    let mut said = String::new();
    let answer = loop {
        let answer = ask(address).await;
        let news = match &answer {
            Ok((snapshot, _)) if snapshot.ready => break answer,
            Ok((snapshot, _)) => format!("{}: {}", snapshot.phase.name(), snapshot.reasons.join("; ")),
            Err(error) => error.to_string(),
        };
        if Instant::now() + POLL >= deadline {
            break answer;
        }
        if news != said {
            let _ = writeln!(progress, "waiting: {}", table::clean(&news));
            said = news;
        }
        sleep(POLL).await;
    };
    match answer {
        Ok((snapshot, body)) => {
            let printed = if options.json {
                print_json(out, &body)
            } else {
                table::print(out, &snapshot, colour)
            };
            // A closed pipe (`status | head -1`) is the reader's choice and no reason for another exit code.
            let _ = printed.and_then(|()| out.flush());
            if snapshot.ready {
                Exit::Stored
            } else {
                Exit::Unavailable
            }
        }
        Err(error) => {
            let _ = writeln!(progress, "tenant-init status: {error}");
            Exit::Unavailable
        }
    }
}

fn print_json(out: &mut impl Write, body: &[u8]) -> io::Result<()> {
    out.write_all(body)?;
    out.write_all(b"\n")
}

/// Where to connect to reach a listener on this machine.
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// One question; `address` as [`reachable`] gives it.
///
/// # Errors
/// See [`StatusError`].
pub(crate) async fn ask(address: SocketAddr) -> Result<(Snapshot, Bytes), StatusError> {
    let (status, body) = get(address, "/status").await?;
    if status != StatusCode::OK {
        return Err(StatusError::Foreign(address, format!("it answers {status}")));
    }
    let snapshot = serde_json::from_slice(&body).map_err(|error| StatusError::Foreign(address, error.to_string()))?;
    Ok((snapshot, body))
}

/// `GET path`, once, on its own connection.
async fn get(address: SocketAddr, path: &str) -> Result<(StatusCode, Bytes), StatusError> {
    let exchange = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| StatusError::Connect(address, error))?;
        let broken = |error| StatusError::Protocol(address, error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let request = Request::get(path)
            .header(HOST, address.to_string())
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| StatusError::Foreign(address, error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(broken)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            let body = body.map_err(|error| StatusError::Foreign(address, error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection must be driven for the answer to arrive; its own result adds nothing to the answer's.
        let (answer, _) = tokio::join!(answer, connection);
        answer
    };
    timeout(TIMEOUT, exchange)
        .await
        .unwrap_or(Err(StatusError::Silent(address)))
}

#[cfg(test)]
mod tests;
