//! `Action::Uploads`: see `mount::Hold`.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::core::action::Flow;
use crate::mount::Hold;
use crate::supervise::effects::Shared;

/// Shortest and longest time between two looks at the queue.
const LOOK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(300));
/// Looking may take this part of the time, however long the queue is.
const SHARE: u32 = 10;

/// Lets uploads flow as `flow` says from now on.
pub async fn regulate(shared: Rc<Shared>, flow: Flow) {
    let turn = shared.flow.get() + 1;
    shared.flow.set(turn);
    let session = shared.session();
    if let Some(guard) = session.as_ref().and_then(|session| session.guard()) {
        guard.set_away(flow == Flow::Held);
    }
    // One at a time: a look that is under way could put off what is made due here.
    let mut kept = shared.hold.lock().await;
    let mut hold = kept.take().unwrap_or_else(|| Hold::new(Instant::now()));
    match flow {
        Flow::Held => hold = Hold::new(Instant::now()),
        Flow::Paced => hold = Hold::paced(Instant::now()),
        Flow::Easing => hold.ease(Instant::now()),
        Flow::Free => {
            if let Some(session) = shared.session()
                && let Err(error) = session.expire_queue().await
            {
                tracing::warn!(
                    event = "hold_ended",
                    "uploads that were put off wait up to a minute: {error}"
                );
            }
            return;
        }
    }
    // A file that was just written is due after `write_back`: it must be found before.
    let longest = if flow == Flow::Easing { LOOK.0 } else { LOOK.1 };
    let look = (shared.config.mount.write_back / 3).clamp(LOOK.0, longest);
    while shared.flow.get() == turn && !shared.ending.get() {
        let began = Instant::now();
        if let Some(session) = shared.session() {
            match session.hold(&mut hold).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => tracing::debug!(event = "hold", "the upload queue cannot be held back: {error}"),
            }
        }
        tokio::time::sleep(look.max(began.elapsed() * (SHARE - 1))).await;
    }
    *kept = Some(hold);
}
