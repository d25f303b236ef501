//! Is basic-memory answering?
//!
//! It has no health route. Its server listens only after migrations and project reconciliation are through, and then
//! answers a GET without a session with 400 "Missing session ID": that answer is the sign.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// One try: the server is on this machine.
const PATIENCE: Duration = Duration::from_secs(2);

/// Returns when basic-memory on `port` of this machine has answered. Waits for ever: the caller bounds it.
pub async fn answered(host: &str, port: u16) {
    loop {
        if let Ok(Some(_)) = tokio::time::timeout(PATIENCE, ask(host, port)).await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One GET, by hand: a client with its pool and TLS for one status line on loopback would be the larger part.
async fn ask(host: &str, port: u16) -> Option<()> {
    let host = match host {
        "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        other => other,
    };
    let mut stream = TcpStream::connect((host, port)).await.ok()?;
    let request = format!(
        "GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: application/json, text/event-stream\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut head = [0u8; 12];
    stream.read_exact(&mut head).await.ok()?;
    // 400: no session yet. 406: a version that looks at Accept first. Both come from the MCP server itself.
    matches!(&head[9..12], b"400" | b"406").then_some(())
}
