//! The NFS guard alone, in front of an rclone that is started by hand: a test tool.
//!
//! ```text
//! guard UPSTREAM_PORT
//! ```
//! Prints `port N` and serves. Commands on standard input, one a line, each answered by one line: `hold`, `release`,
//! `read-only`, `full`, `writable`, `upstream PORT`, `stats`, `operations` (a JSON object), `quit`.

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tenant_init::mount::guard::{Guard, Handle, Observer, ReadOnlyReason};

/// What was seen of one operation.
#[derive(Default)]
struct Measured {
    microseconds: Vec<u128>,
    errors: BTreeMap<&'static str, u64>,
}

#[derive(Default)]
struct Operations(Mutex<BTreeMap<&'static str, Measured>>);

impl Observer for Operations {
    fn operation(&self, name: &'static str, elapsed: Duration, error: Option<&'static str>) {
        let mut operations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = operations.entry(name).or_default();
        measured.microseconds.push(elapsed.as_micros());
        if let Some(error) = error {
            *measured.errors.entry(error).or_default() += 1;
        }
    }

    fn refused(&self, name: &'static str, error: &'static str) {
        let mut operations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let measured = operations.entry(name).or_default();
        *measured.errors.entry(error).or_default() += 1;
    }
}

impl Operations {
    /// Counts, median and 99th percentile since the last time asked.
    fn take(&self) -> Value {
        let operations = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let summary = operations.into_iter().map(|(name, measured)| {
            let (mut times, errors) = (measured.microseconds, measured.errors);
            times.sort_unstable();
            let at = |part: usize| {
                times
                    .get(times.len() * part / 100)
                    .or(times.last())
                    .copied()
                    .unwrap_or_default()
            };
            (
                name.to_owned(),
                json!({"count": times.len(), "p50_us": at(50), "p99_us": at(99), "errors": errors}),
            )
        });
        Value::Object(summary.collect())
    }
}

fn upstream(port: &str) -> Result<SocketAddr, Box<dyn Error>> {
    Ok((Ipv4Addr::LOCALHOST, port.parse::<u16>()?).into())
}

fn obey(command: &str, handle: &Handle, operations: &Operations) -> Result<Value, Box<dyn Error>> {
    match command {
        "hold" => handle.hold(),
        "release" => handle.release(),
        "read-only" => handle.set_read_only(Some(ReadOnlyReason::LeaseLost)),
        "full" => handle.set_read_only(Some(ReadOnlyReason::CacheFull)),
        "writable" => handle.set_read_only(None),
        "quit" => handle.shutdown(),
        "stats" => {
            let oldest = handle.oldest().map(|oldest| oldest.as_secs_f64());
            let stuck = handle.stuck(Duration::from_secs(1));
            return Ok(json!({
                "in_flight": handle.in_flight(), "stuck": stuck, "oldest": oldest, "paths": handle.paths(),
            }));
        }
        "operations" => return Ok(operations.take()),
        _ => match command.strip_prefix("upstream ") {
            Some(port) => handle.set_upstream(upstream(port)?),
            None => return Err(format!("unknown command {command:?}").into()),
        },
    }
    Ok(json!("ok"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let port = std::env::args().nth(1).ok_or("usage: guard UPSTREAM_PORT")?;
    let operations = Arc::new(Operations::default());
    let guard = Guard::bind(Arc::clone(&operations) as Arc<dyn Observer>, Arc::new(())).await?;
    let handle = guard.handle();
    println!("port {}", guard.port());
    std::thread::spawn(move || {
        for command in std::io::stdin().lines().map_while(Result::ok) {
            match obey(command.trim(), &handle, &operations) {
                Ok(answer) => println!("{answer}"),
                Err(error) => println!("{}", json!({"error": error.to_string()})),
            }
        }
    });
    guard.run(upstream(&port)?).await;
    Ok(())
}
