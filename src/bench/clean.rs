//! The end of a run, however it came: nothing of it stays, neither on the mount nor in the bucket nor on local disk nor in
//! basic-memory's index.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::far::{Far, Witness, ask};
use super::notes;
use super::place::{self, Place};
use super::sides::blocking;
use super::steps::OurNotes;

/// For basic-memory to forget its notes.
const FORGET: Duration = Duration::from_secs(60);
/// For uploads that are under way: an upload that ends after its file was deleted would leave the object.
const UPLOADS: Duration = Duration::from_secs(30);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Looks at the bucket until it must be clean.
const SWEEPS: u32 = 10;

/// Removes everything; the result says what is left and why.
pub(super) async fn up(place: &Place, far: Option<&Far>, witness: &Witness, ours: Option<&OurNotes>) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(ours) = ours {
        let removed = timeout(FORGET, notes::remove(&ours.server, &ours.directory)).await;
        // The files are removed below in any case; its index may not know that.
        let reason = removed.unwrap_or_else(|_elapsed| Err("no answer".to_owned())).err();
        left.extend(reason.map(|reason| format!("notes in {} from basic-memory's index: {reason}", ours.directory)));
        ours.server.close().await;
    }
    uploads(witness).await;
    let mut folders = vec![place.folders.mount.as_path(), place.folders.local.as_path()];
    folders.extend(ours.map(|ours| ours.path.as_path()));
    for folder in folders {
        let path = folder.to_owned();
        let removed = blocking(move || Ok(place::remove(&path))).await;
        match removed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => left.push(format!("{}: {error}", folder.display())),
            Err(halt) => left.push(format!("{}: {halt}", folder.display())),
        }
    }
    let Some(far) = far else { return left };
    let mut prefixes = vec![far.clone()];
    if let Some(ours) = ours
        && let Ok(below) = ours.path.strip_prefix(&place.mount)
    {
        prefixes.push(far.beside(&below.to_string_lossy()));
    }
    for far in prefixes {
        if let Err(reason) = sweep(&far).await {
            left.push(reason);
        }
    }
    left
}

/// Waits until the tenant has nothing to upload, where it can be asked.
async fn uploads(witness: &Witness) {
    let Some(address) = witness.address() else { return };
    let deadline = Instant::now() + UPLOADS;
    while Instant::now() < deadline {
        match ask(address).await {
            Ok(snapshot) if snapshot.uploads.queued > 0 => sleep(PAUSE).await,
            _ => return,
        }
    }
}

/// Deletes what is left in the bucket until there is nothing.
async fn sweep(far: &Far) -> Result<(), String> {
    let words = |what: String| format!("objects below {} in the bucket: {what}", far.prefix());
    for _ in 0..SWEEPS {
        match far.sweep().await {
            Ok(0) => return Ok(()),
            Ok(_) => sleep(PAUSE).await,
            Err(error) => return Err(words(error.to_string())),
        }
    }
    Err(words("new ones keep appearing".to_owned()))
}
