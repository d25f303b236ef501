//! What the user of `tenant-init mount` sees: on a terminal one line that changes, elsewhere a line when something has changed,
//! and the last words.

mod words;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::core::snapshot::Snapshot;
use crate::core::verdict::Verdict;
use crate::mount::{DrainProgress, mountinfo};
use crate::ops::log::Lines;
use crate::ops::screen;
use words::{Place, Story};

/// The line changes at most this often.
const PAUSE: Duration = Duration::from_millis(250);

/// The last words are said where nothing of the front end is left but this.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Everything from now on goes to `lines`.
pub fn open(lines: Lines) {
    // Set already: in this process there is only one.
    let _ = LINES.set(lines);
}

/// Shows a life until it ends.
pub async fn show(
    config: Arc<Config>,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut draining: watch::Receiver<Option<DrainProgress>>,
) {
    let Some(lines) = LINES.get() else { return };
    let live = screen::is_live();
    let mut story = Story::new(place(&config));
    let mut shown = String::new();
    loop {
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let drain = draining.borrow_and_update().clone();
        let told = story.look(&snapshot, drain.as_ref(), &time());
        if live && told.line != shown {
            lines.status(&told.line);
            shown = told.line;
        }
        if let Some(news) = told.news.filter(|news| !live || news.stays) {
            lines.say(&news.words);
        }
        tokio::time::sleep(PAUSE).await;
        let ended = tokio::select! {
            changed = snapshots.changed() => changed.is_err(),
            changed = draining.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// The last words.
pub fn end(config: &Config, verdict: &Verdict) {
    if let Some(lines) = LINES.get() {
        lines.status("");
        lines.say(&words::end(verdict, &place(config), is_mounted(config)));
    }
}

/// Has something of ours stayed on the directory?
fn is_mounted(config: &Config) -> bool {
    let found = mountinfo::resolve(&config.mount.path).and_then(|path| mountinfo::at(&path));
    found.is_ok_and(|found| found.iter().any(|entry| entry.kind() != mountinfo::Kind::Foreign))
}

fn place(config: &Config) -> Place {
    Place {
        path: config.mount.path.display().to_string(),
        cache: config.mount.cache_dir.display().to_string(),
        read_only: config.mount.local.as_ref().is_some_and(|local| local.read_only),
    }
}

/// The time of day as the user's clock shows it.
fn time() -> String {
    jiff::ZonedDateTime::now().strftime("%H:%M").to_string()
}
