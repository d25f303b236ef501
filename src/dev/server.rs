//! A server that `dev` runs: started, waited for, started again when it ends, stopped at the end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::net::TcpStream;
use tokio::process::Child;
use tokio::task::JoinHandle;

use crate::core::backoff::{Backoff, Verdict};
use crate::core::event::Failure;
use crate::exit::Exit;
use crate::process::{self, Ended, Group, Spec};

/// A running server.
pub struct Server {
    group: Rc<Cell<Group>>,
    keeper: JoinHandle<()>,
}

impl Server {
    /// Starts it and returns when its port accepts connections.
    ///
    /// # Errors
    /// When the port is taken, the program cannot be started or ends, or nothing listens within `patience`.
    pub async fn start(spec: Spec, port: u16, patience: Duration) -> Result<Server, Failure> {
        let name = spec.name;
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            let words = format!(
                "port {port} on this machine is taken, {name} cannot use it. Stop what listens there or set another port (dev.s3_port, dev.database_port)"
            );
            return Err(Failure::new(Exit::Machine, words));
        }
        let cannot = |error: std::io::Error| Failure::new(Exit::Machine, format!("cannot start {name}: {error}"));
        let (mut child, group) = process::spawn(&spec).map_err(cannot)?;
        let listening = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            ended = child.wait() => {
                let words = ended.map_or_else(|error| error.to_string(), |status| Ended::from(status).words);
                return Err(Failure::new(Exit::Machine, format!("{name} ended at once ({words}); its lines above say why")));
            }
            waited = tokio::time::timeout(patience, listening) => {
                if waited.is_err() {
                    group.signal(Signal::SIGKILL);
                    let words = format!("{name} did not listen on port {port} within {} s", patience.as_secs());
                    return Err(Failure::new(Exit::Machine, words));
                }
            }
        }
        let group = Rc::new(Cell::new(group));
        let keeper = tokio::task::spawn_local(keep(spec, child, Rc::clone(&group)));
        Ok(Server { group, keeper })
    }

    /// Ends it: TERM, and KILL after two seconds.
    pub async fn stop(self) {
        self.keeper.abort();
        let group = self.group.get();
        group.signal(Signal::SIGTERM);
        if tokio::time::timeout(Duration::from_secs(2), group.empty())
            .await
            .is_err()
        {
            group.signal(Signal::SIGKILL);
        }
    }
}

/// Starts the server again whenever it ends.
async fn keep(spec: Spec, mut child: Child, group: Rc<Cell<Group>>) {
    let mut backoff = Backoff::new(u32::MAX, Duration::from_secs(300), 0);
    let zero = Instant::now();
    let mut started = zero;
    loop {
        let words = child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| Ended::from(status).words);
        let Verdict::Retry(delay) = backoff.failed("exited", zero.elapsed(), started.elapsed(), true) else {
            return;
        };
        tracing::warn!(
            event = "dev",
            "{} ended ({words}); it is started again in {:.1} s",
            spec.name,
            delay.as_secs_f64()
        );
        tokio::time::sleep(delay).await;
        started = Instant::now();
        match process::spawn(&spec) {
            Ok((again, its_group)) => {
                child = again;
                group.set(its_group);
            }
            Err(error) => tracing::error!(event = "dev", "cannot start {}: {error}", spec.name),
        }
    }
}
