//! The ports a tenant listens on: free, or taken by whom?
//!
//! A port is tried by listening on it for a moment with nobody told, which changes nothing and is the only answer that
//! counts: the address may be wrong, or the port below 1024.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Finding, Scope};
use crate::app::command;
use crate::config::Config;
use crate::exit::Exit;

const HEALTH: &str = "health port";
const APP: &str = "app port";

/// A process on this machine that takes longer to answer is no healthy tenant-init.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Ports {
    /// A tenant-init answers on our health port.
    pub(super) tenant_runs: bool,
    pub(super) findings: Vec<Finding>,
}

pub(super) async fn check(config: &Config, scope: Scope) -> Ports {
    let started = Instant::now();
    let listen = config.health.listen;
    let shown = listen.to_string();
    let (tenant_runs, health) = match scope {
        // A start listens there before it asks anything, so that its checks can be looked at.
        Scope::Start => (false, Finding::ok(HEALTH, format!("{shown}, listening already"))),
        Scope::Check => {
            let tried = try_listen(listen);
            let in_use = tried.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
            let tenant_runs = in_use && is_tenant_init(listen).await;
            (
                tenant_runs,
                judge(HEALTH, "health.listen", &shown, listen.port(), tried, tenant_runs),
            )
        }
    };
    let health = health.since(started);

    let started = Instant::now();
    let app = if command::is_basic_memory(config) {
        let shown = format!("{}:{}", config.app.host, config.app.port);
        match resolve(&config.app.host, config.app.port) {
            Some(address) => judge(
                APP,
                "app.port",
                &shown,
                config.app.port,
                try_listen(address),
                tenant_runs,
            ),
            None => Finding::failed(
                APP,
                Exit::Config,
                format!("app.host {:?} is not an address of this machine", config.app.host),
                "set app.host to 127.0.0.1",
            ),
        }
    } else {
        Finding::skipped(APP, "only basic-memory has one")
    };
    Ports {
        tenant_runs,
        findings: vec![health, app.since(started)],
    }
}

fn try_listen(address: SocketAddr) -> io::Result<()> {
    TcpListener::bind(address).map(drop)
}

/// No name lookup: an address to listen on is a number, or the one name that every machine has.
fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    let address = match host {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        number => number.parse().ok()?,
    };
    Some(SocketAddr::new(address, port))
}

fn judge(name: &'static str, key: &str, shown: &str, port: u16, tried: io::Result<()>, tenant_runs: bool) -> Finding {
    let error = match tried {
        Ok(()) => return Finding::ok(name, format!("{shown} is free")),
        Err(error) => error,
    };
    let another = format!("set {key} to another port");
    match error.kind() {
        ErrorKind::AddrInUse if tenant_runs => Finding::warning(
            name,
            format!("{shown} is already in use by a tenant-init that runs here"),
            format!("stop it before another start, or {another}"),
        ),
        ErrorKind::AddrInUse => {
            let holder = holder(port).unwrap_or_else(|| "another process".to_owned());
            let detail = format!("{shown} is already in use by {holder}");
            Finding::failed(name, Exit::Machine, detail, format!("stop that process, or {another}"))
        }
        ErrorKind::AddrNotAvailable => {
            let detail = format!("{shown} is not an address of this machine");
            Finding::failed(name, Exit::Config, detail, format!("correct {key}"))
        }
        ErrorKind::PermissionDenied => {
            let detail = format!("no right to listen on {shown} (ports below 1024 need CAP_NET_BIND_SERVICE)");
            Finding::failed(name, Exit::Machine, detail, another)
        }
        _ => Finding::failed(
            name,
            Exit::Machine,
            format!("cannot listen on {shown}: {error}"),
            another,
        ),
    }
}

/// Does `GET /status` answer like tenant-init?
async fn is_tenant_init(listen: SocketAddr) -> bool {
    let loopback = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let ask = async {
        let mut stream = TcpStream::connect((loopback, listen.port())).await?;
        stream
            .write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.take(256 * 1024).read_to_end(&mut answer).await?;
        io::Result::Ok(answer)
    };
    let Ok(Ok(answer)) = tokio::time::timeout(ANSWER_TIMEOUT, ask).await else {
        return false;
    };
    let text = String::from_utf8_lossy(&answer);
    text.contains("\"phase\"") && text.contains("\"uploads\"")
}

/// `NAME (pid N)`: who listens on the port, found by the socket's inode (proc_pid_fd(5), proc_net_tcp). Only for words.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .find_map(|table| listener_inode(&std::fs::read_to_string(table).ok()?, port))?;
    let socket = format!("socket:[{inode}]");
    let holds = |process: &Path| {
        std::fs::read_dir(process.join("fd"))
            .into_iter()
            .flatten()
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target.as_os_str() == socket.as_str()))
    };
    // Besides processes there is `self`, which would be found first and say nothing.
    let is_process = |path: &Path| {
        path.file_name()
            .is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit))
    };
    let process = std::fs::read_dir("/proc")
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| is_process(path) && holds(path))?;
    let name = std::fs::read_to_string(process.join("comm")).ok()?;
    Some(format!(
        "{} (pid {})",
        name.trim(),
        process.file_name()?.to_string_lossy()
    ))
}

/// The inode of the socket that listens (state 0A) on the port.
fn listener_inode(table: &str, port: u16) -> Option<String> {
    let wanted = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == "0A";
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use super::super::Outcome;
    use super::*;

    #[test]
    fn a_taken_port_names_who_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let finding = judge(HEALTH, "health.listen", "x", address.port(), try_listen(address), false);
        assert_eq!(finding.outcome, Outcome::Failed(Exit::Machine));
        // Not this very id: a child that another test is just starting holds the socket as well until its exec.
        let pid = finding
            .detail
            .split_once("(pid ")
            .and_then(|(_, rest)| rest.strip_suffix(')'))
            .unwrap();
        assert!(pid.parse::<u32>().is_ok(), "{finding:?}");
        let free = SocketAddr::from(([127, 0, 0, 1], 0));
        assert_eq!(judge(HEALTH, "k", "x", 0, try_listen(free), false).outcome, Outcome::Ok);
    }

    #[test]
    fn an_address_of_another_machine_is_a_configuration_error() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 80));
        assert_eq!(
            judge(HEALTH, "k", "x", 80, try_listen(elsewhere), false).outcome,
            Outcome::Failed(Exit::Config)
        );
        assert_eq!(resolve("example.com", 1), None);
        assert_eq!(resolve("localhost", 1), Some(SocketAddr::from(([127, 0, 0, 1], 1))));
    }

    #[tokio::test]
    async fn only_a_tenant_init_counts_as_one() {
        for (body, expected) in [
            (r#"{"phase":"ready","uploads":{}}"#, true),
            ("<html>", false),
            ("", false),
        ] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                stream
                    .write_all(format!("HTTP/1.1 200 OK\r\n\r\n{body}").as_bytes())
                    .await
                    .unwrap();
            };
            assert_eq!(tokio::join!(is_tenant_init(address), serve).0, expected, "{body}");
        }
    }

    #[test]
    fn the_listener_is_told_from_its_connections() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:2328 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 20 4 30 10 -1\n\
             1: 0100007F:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 22 1 0 100 0 0 10 0\n";
        assert_eq!(listener_inode(table, 9000).as_deref(), Some("22"));
        assert_eq!(listener_inode(table, 9001), None);
    }
}
