//! A client for basic-memory's tools: MCP over streamable HTTP, as far as calling tools one after the other needs it.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use serde_json::{Value, json};

use super::stop::Later;

const PROTOCOL: &str = "2025-06-18";
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// A tool that takes longer does not work.
const PATIENCE: Duration = Duration::from_secs(60);
/// No tool answers with more.
const LARGEST: usize = 4 * 1024 * 1024;

/// One session with one server.
#[derive(Clone)]
pub(super) struct Mcp {
    client: Client,
    url: String,
    session: HeaderMap,
}

impl Mcp {
    /// Opens a session with the server on `host`:`port`.
    ///
    /// # Errors
    /// In words.
    pub(super) fn open(host: &str, port: u16) -> Later<'_, Result<Mcp, String>> {
        Box::pin(Mcp::opened(host, port))
    }

    async fn opened(host: &str, port: u16) -> Result<Mcp, String> {
        // As the broker's client does; plain HTTP needs no certificates either.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_certs_only(std::iter::empty())
            .build()
            .map_err(|error| error.to_string())?;
        let host = match host {
            "0.0.0.0" => "127.0.0.1",
            "::" => "[::1]",
            other => other,
        };
        let mut mcp = Mcp {
            client,
            url: format!("http://{host}:{port}/mcp"),
            session: HeaderMap::new(),
        };
        let hello = json!({
            "protocolVersion": PROTOCOL, "capabilities": {},
            "clientInfo": {"name": "tenant-init-bench", "version": env!("CARGO_PKG_VERSION")},
        });
        let answer = mcp
            .send(&json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello}))
            .await?;
        if let Some(session) = answer.headers().get(&SESSION) {
            mcp.session.insert(SESSION, session.clone());
        }
        let version = HeaderValue::from_static(PROTOCOL);
        mcp.session
            .insert(HeaderName::from_static("mcp-protocol-version"), version);
        result(answer).await?;
        mcp.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
            .await?;
        Ok(mcp)
    }

    /// Calls a tool: its text.
    ///
    /// # Errors
    /// In words, those of the tool included.
    pub(super) fn call<'a>(&'a self, tool: &'a str, arguments: Value) -> Later<'a, Result<String, String>> {
        Box::pin(self.called(tool, arguments))
    }

    async fn called(&self, tool: &str, arguments: Value) -> Result<String, String> {
        let params = json!({"name": tool, "arguments": arguments});
        let answer = self
            .send(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
            .await?;
        let result = result(answer).await?;
        let text: Vec<&str> = result["content"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|part| part["text"].as_str())
            .collect();
        let text = text.join("\n");
        // basic-memory reports most failures as ordinary text under a heading.
        let failed = text
            .lines()
            .next()
            .is_some_and(|first| first.starts_with('#') && (first.contains("Failed") || first.contains("Error")));
        if failed || result["isError"] == true {
            return Err(format!("{tool}: {}", shortened(&text)));
        }
        Ok(text)
    }

    /// Ends the session.
    pub(super) fn close(&self) -> Later<'_, ()> {
        // The server forgets it sooner or later anyway.
        Box::pin(async {
            let _ = self.client.delete(&self.url).headers(self.session.clone()).send().await;
        })
    }

    fn send<'a>(&'a self, message: &'a Value) -> Later<'a, Result<Response, String>> {
        Box::pin(self.sent(message))
    }

    async fn sent(&self, message: &Value) -> Result<Response, String> {
        let answer = self
            .client
            .post(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .headers(self.session.clone())
            .body(message.to_string())
            .send()
            .await
            .map_err(|error| format!("{}: {}", self.url, root(&error)))?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(format!("{} answers {}", self.url, answer.status()))
        }
    }
}

/// The innermost cause says what happened; reqwest's own words only say where.
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

fn shortened(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(200).collect()
}

/// The result in the answer, which is JSON or a stream of events that ends with it.
async fn result(mut answer: Response) -> Result<Value, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| root(&error))? {
        body.extend_from_slice(&chunk);
        if body.len() > LARGEST {
            return Err("the answer is too large".to_owned());
        }
    }
    message(&String::from_utf8_lossy(&body))
}

fn message(body: &str) -> Result<Value, String> {
    let mut messages: Vec<Value> = serde_json::from_str(body).into_iter().collect();
    messages.extend(events(body));
    for mut message in messages {
        if let Some(error) = message.get("error") {
            return Err(shortened(&error.to_string()));
        }
        if let Some(result) = message.get_mut("result") {
            return Ok(result.take());
        }
    }
    Err("the answer has no result".to_owned())
}

/// The data of server-sent events. Notifications come in events of their own before the answer.
fn events(body: &str) -> Vec<Value> {
    body.replace("\r\n", "\n")
        .split("\n\n")
        .filter_map(|event| {
            let data: Vec<&str> = event
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(|data| data.strip_prefix(' ').unwrap_or(data))
                .collect();
            serde_json::from_str(&data.join("\n")).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_found_after_notifications_and_as_plain_json() {
        let stream = "event: message\r\ndata: {\"method\":\"notifications/message\",\"params\":{}}\r\n\r\n\
                      event: message\r\ndata: {\"id\":1,\r\ndata: \"result\":{\"a\":1}}\r\n\r\n";
        assert_eq!(message(stream).unwrap(), json!({"a": 1}));
        assert_eq!(message(r#"{"id":1,"result":{"a":2}}"#).unwrap(), json!({"a": 2}));
        assert!(message("").unwrap_err().contains("no result"));
        assert!(
            message(r#"{"id":1,"error":{"code":-32602,"message":"bad"}}"#)
                .unwrap_err()
                .contains("bad")
        );
    }
}
