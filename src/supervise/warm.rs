//! The app's interpreter, started while the tenant is still being prepared, so that loading it costs no time of its own.
//!
//! Loading what basic-memory needs takes seconds, and needs neither keys, nor files, nor the index. The adapter
//! (`adapter/src/tenant_index/warm.py`) does that before the first line of basic-memory runs, and then waits on its stdin for one
//! byte: the word that everything is there. Without the word (we have died, or the start was called off) it ends. So the
//! rule that the app runs only on a mount that has passed every check stays true.
//!
//! Only the first start of a life, and only where the adapter is installed: it is the adapter that waits.

use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};

use crate::app::command;
use crate::process::{self, Group};
use crate::supervise::application;
use crate::supervise::effects::Shared;

/// The word.
const GO: &[u8] = b"1";

/// An interpreter that waits.
pub struct Warm {
    child: Child,
    group: Group,
    gate: ChildStdin,
}

/// Starts one, if that is possible here and not done yet.
pub fn begin(shared: &Shared) {
    if shared.served.get() || shared.warm.borrow().is_some() || !command::can_wait(&shared.config) {
        return;
    }
    let mut spec = application::spec(shared, true);
    spec.environment.push((command::WAIT.into(), "stdin".into()));
    spec.stdin = true;
    match process::spawn(&spec) {
        Ok((mut child, group)) => {
            if let Some(gate) = child.stdin.take() {
                tracing::debug!(
                    event = "app_warm",
                    pid = child.id(),
                    "the app's interpreter is being loaded"
                );
                shared.warm.replace(Some(Warm { child, group, gate }));
            }
        }
        // The ordinary start says it better.
        Err(error) => tracing::debug!(event = "app_warm", "the app's interpreter cannot be started: {error}"),
    }
}

/// Lets it go on as the app; `None` when there is none that could.
pub async fn go_on(shared: &Shared) -> Option<(Child, Group)> {
    let mut warm = shared.warm.take()?;
    let waits = matches!(warm.child.try_wait(), Ok(None));
    if waits && warm.gate.write_all(GO).await.is_ok() {
        return Some((warm.child, warm.group));
    }
    tracing::warn!(
        event = "app_warm",
        "the app's interpreter, which was started early, has ended: started anew"
    );
    end(warm).await;
    None
}

/// The start was called off.
pub async fn call_off(shared: &Shared) {
    let warm = shared.warm.take();
    if let Some(warm) = warm {
        end(warm).await;
    }
}

async fn end(mut warm: Warm) {
    // It has done nothing that could be worth a gentle end.
    warm.group.signal(Signal::SIGKILL);
    drop(warm.child.wait().await);
    warm.group.empty().await;
}
