//! The end of a run, however it came: nothing of it stays, neither on the mount nor in the bucket nor on local disk nor in
//! basic-memory's index.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::far::{Far, Witness, ask};
use super::notes;
use super::place::{self, Place};
use super::steps::OurNotes;
use super::stop::Stop;

/// For basic-memory to forget its notes.
const FORGET: Duration = Duration::from_secs(60);
/// For uploads that are under way: an upload that ends after its file was deleted would leave the object.
const UPLOADS: Duration = Duration::from_secs(30);
/// The same for a mount that nobody can be asked about. Plain rclone forgets the object of a replaced file that is deleted
/// before its upload.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Looks at the bucket until it must be clean.
const SWEEPS: u32 = 10;

/// Removes everything; the result says what is left and why. `stop` is not asked: this is what it waits for.
pub(super) fn up(
    stop: &Stop,
    place: &Place,
    far: Option<&Far>,
    witness: &Witness,
    ours: Option<&OurNotes>,
) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(ours) = ours {
        let removed = async {
            let removed = timeout(FORGET, notes::remove(&ours.server, &ours.directory)).await;
            ours.server.close().await;
            removed.unwrap_or_else(|_elapsed| Err("no answer".to_owned()))
        };
        // The files are removed below in any case; its index may not know that.
        let reason = stop.finish(Box::pin(removed)).and_then(Result::err);
        left.extend(reason.map(|reason| format!("notes in {} from basic-memory's index: {reason}", ours.directory)));
    }
    uploads(stop, witness);
    let mut folders = vec![place.folders.mount.as_path(), place.folders.local.as_path()];
    folders.extend(ours.map(|ours| ours.path.as_path()));
    for folder in folders {
        if let Err(error) = place::remove(folder) {
            left.push(format!("{}: {error}", folder.display()));
        }
    }
    let Some(far) = far else { return left };
    let mut prefixes = vec![far.clone()];
    if let Some(ours) = ours
        && let Ok(below) = ours.path.strip_prefix(&place.mount)
    {
        prefixes.push(far.beside(&below.to_string_lossy()));
    }
    left.extend(prefixes.iter().filter_map(|far| sweep(stop, far).err()));
    left
}

/// Waits until the tenant has nothing to upload.
fn uploads(stop: &Stop, witness: &Witness) {
    let Some(address) = witness.address() else {
        stop.finish(Box::pin(sleep(SETTLE)));
        return;
    };
    let deadline = Instant::now() + UPLOADS;
    while Instant::now() < deadline {
        match stop.finish(ask(address)) {
            Some(Ok(snapshot)) if snapshot.uploads.queued > 0 => stop.finish(Box::pin(sleep(PAUSE))),
            _ => return,
        };
    }
}

/// Deletes what is left in the bucket until there is nothing.
fn sweep(stop: &Stop, far: &Far) -> Result<(), String> {
    let words = |what: String| format!("objects below {} in the bucket: {what}", far.prefix());
    for _ in 0..SWEEPS {
        match stop.finish(far.sweep()) {
            Some(Ok(0)) | None => return Ok(()),
            Some(Ok(_)) => stop.finish(Box::pin(sleep(PAUSE))),
            Some(Err(error)) => return Err(words(error.to_string())),
        };
    }
    Err(words("new ones keep appearing".to_owned()))
}
