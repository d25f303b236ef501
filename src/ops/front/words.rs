//! The words of the front end, made of what the supervisor publishes. Pure: time is text, and nothing is written here.

use crate::core::snapshot::{Phase, Snapshot};
use crate::core::verdict::Verdict;
use crate::mount::DrainProgress;
use crate::ops::words;

/// Names in the last words.
const NAMES: usize = 10;
/// Behind a name in a verdict: what is left to do is a deletion.
const DELETED: &str = " (to be deleted)";

/// What is said about the mount itself.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Where the files are.
    pub path: String,
    /// Where what is not sent yet is kept.
    pub cache: String,
    pub read_only: bool,
}

/// What to show now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The line that changes.
    pub line: String,
    pub news: Option<News>,
}

/// Something has changed that is worth a line of its own.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub words: String,
    /// Also where there is a line that changes.
    pub stays: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Connected,
    Offline,
    Refused,
    Repairing,
    Stopping,
}

/// What was told so far.
#[derive(Debug)]
pub(super) struct Story {
    place: Place,
    state: State,
    /// When `state` began.
    since: String,
    mounted: bool,
    queued: u64,
    /// When the last file was stored.
    sent: Option<String>,
    /// Files waited when the connection came back, and it was not said yet that they are stored.
    owed: bool,
}

impl Story {
    pub(super) fn new(place: Place) -> Story {
        Story {
            place,
            state: State::Starting,
            since: String::new(),
            mounted: false,
            queued: 0,
            sent: None,
            owed: false,
        }
    }

    /// Takes the newest picture, at `now` (a time of day).
    pub(super) fn look(&mut self, snapshot: &Snapshot, drain: Option<&DrainProgress>, now: &str) -> Told {
        let before = self.state;
        let queued = snapshot.uploads.queued;
        self.state = state(snapshot);
        if self.state != before {
            now.clone_into(&mut self.since);
        }
        if queued == 0 && self.queued > 0 && self.state == State::Connected {
            self.sent = Some(now.to_owned());
        }
        self.queued = queued;
        let words = self.words(snapshot, drain);
        let news = self.news(before, &words, snapshot);
        let line = match self.state {
            State::Starting | State::Repairing | State::Stopping => words,
            _ => format!("{words} | {}", self.place.path),
        };
        Told { line, news }
    }

    fn words(&self, snapshot: &Snapshot, drain: Option<&DrainProgress>) -> String {
        let uploads = &snapshot.uploads;
        let (path, since) = (&self.place.path, &self.since);
        let waiting = match uploads.queued {
            0 => String::new(),
            files => format!("; {}", wait(files, uploads.bytes)),
        };
        match self.state {
            State::Starting => format!("connecting to the bucket and mounting {path}"),
            State::Connected if self.place.read_only => "connected, read-only".to_owned(),
            State::Connected if uploads.read_only => {
                format!("connected, but nothing more can be written here for now{waiting}")
            }
            State::Connected if uploads.failing > 0 => {
                let why = reason(snapshot, &["uploads_failing", "uploads_late", "storage_slow_down"]);
                let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
                format!("connected, but the bucket does not take every file; tried again{why}{waiting}")
            }
            State::Connected if uploads.queued > 0 => {
                format!("connected, sending {}", files(uploads.queued, uploads.bytes))
            }
            State::Connected => match &self.sent {
                Some(time) => format!("connected, everything is stored (last at {time})"),
                None => "connected, everything is stored".to_owned(),
            },
            State::Offline if self.place.read_only => {
                format!("offline since {since}: what you have read before is still here")
            }
            State::Offline => format!(
                "offline since {since}: your changes are kept here and sent when the connection is back{waiting}"
            ),
            State::Refused => {
                let why = reason(snapshot, &["storage_rejected"]).unwrap_or_default();
                format!("the bucket refuses us since {since}: {why}. Your changes are kept here{waiting}")
            }
            State::Repairing => {
                let why = snapshot.services.mount.last_error.as_deref().unwrap_or("it was lost");
                if snapshot.storage.reachable == Some(false) {
                    format!("offline, and {path} is away until the connection is back ({why}){waiting}")
                } else {
                    format!("{path} is being mounted again ({why}){waiting}")
                }
            }
            State::Stopping => stopping(snapshot, drain),
        }
    }

    fn news(&mut self, before: State, words: &str, snapshot: &Snapshot) -> Option<News> {
        let (connected, waits) = (self.state == State::Connected, self.queued > 0);
        let say = |words: String, stays: bool| Some(News { words, stays });
        if connected && !self.mounted {
            self.mounted = true;
            let driver = snapshot.services.mount.driver.as_deref().unwrap_or_default();
            let mode = if self.place.read_only { ", read-only" } else { "" };
            let path = &self.place.path;
            return say(
                format!("{path} is mounted ({driver}{mode}). Ctrl-C stores what is left and unmounts it"),
                true,
            );
        }
        if self.state == State::Stopping && !self.mounted {
            // The last words say why.
            return None;
        }
        if self.state != before {
            self.owed = connected && waits;
            return match (self.state, before) {
                (State::Connected, State::Offline) => say(words.replacen("connected", "connected again", 1), false),
                _ => say(words.to_owned(), false),
            };
        }
        if connected && self.owed && !waits {
            self.owed = false;
            return say("everything is stored".to_owned(), false);
        }
        None
    }
}

fn state(snapshot: &Snapshot) -> State {
    match (snapshot.phase, snapshot.services.mount.state.as_str()) {
        (Phase::Stopping | Phase::Stopped, _) => State::Stopping,
        (_, "waiting" | "starting") => State::Starting,
        _ if reason(snapshot, &["storage_rejected"]).is_some() => State::Refused,
        // In an outage too: then it takes as long as that.
        (_, "recovering") => State::Repairing,
        // It answers, and is obeyed.
        _ if reason(snapshot, &["storage_slow_down"]).is_some() => State::Connected,
        _ if snapshot.storage.reachable == Some(false) => State::Offline,
        _ => State::Connected,
    }
}

/// The words behind the first of these reasons.
fn reason(snapshot: &Snapshot, codes: &[&str]) -> Option<String> {
    codes.iter().find_map(|code| {
        let behind = |reason: &String| Some(reason.strip_prefix(code)?.strip_prefix(": ")?.to_owned());
        snapshot.reasons.iter().find_map(behind)
    })
}

fn stopping(snapshot: &Snapshot, drain: Option<&DrainProgress>) -> String {
    let (count, bytes) = match drain {
        Some(drain) => (drain.files as u64, drain.bytes),
        None => (snapshot.uploads.queued, snapshot.uploads.bytes),
    };
    let again = "Ctrl-C again ends at once, and the next mount sends them";
    match (count, snapshot.storage.reachable) {
        (0, _) => "stopping: unmounting".to_owned(),
        (_, Some(false)) => format!("stopping, but offline: {}. {again}", wait(count, bytes)),
        _ => format!("stopping: sending {}. {again}", files(count, bytes)),
    }
}

fn files(count: u64, bytes: u64) -> String {
    format!("{} ({})", words::count(count, "file", "files"), words::bytes(bytes))
}

/// `3 files (1.2 MB) wait`
fn wait(count: u64, bytes: u64) -> String {
    format!("{} {}", files(count, bytes), if count == 1 { "waits" } else { "wait" })
}

/// The last words. `mounted`: something is still there.
pub(super) fn end(verdict: &Verdict, place: &Place, mounted: bool) -> String {
    let Place { path, cache, read_only } = place;
    let asked = verdict.reason.starts_with("SIG");
    let mut lines = Vec::new();
    if !asked {
        lines.push(format!("tenant-init: {}", verdict.reason));
    }
    let deleted = |name: &&String| name.ends_with(DELETED);
    let (deletions, files): (Vec<_>, Vec<_>) = verdict.uploads_pending.iter().partition(deleted);
    if !files.is_empty() {
        let (count, named) = (files.len(), list(&files));
        let are = if count == 1 { "is" } else { "are" };
        lines.push(format!(
            "{} {are} not in the bucket: {named}",
            words::count(count as u64, "file", "files")
        ));
    }
    if !deletions.is_empty() {
        let (count, named) = (deletions.len(), list(&deletions));
        let are = if count == 1 { "is" } else { "are" };
        let named = named.replace(DELETED, "");
        lines.push(format!(
            "{} {are} deleted here and may still be in the bucket: {named}",
            words::count(count as u64, "file", "files")
        ));
    }
    let gone = match mounted {
        false => format!("{path} is unmounted"),
        true => format!(
            "{path} could not be unmounted: close what uses it, then fusermount3 -u {path} (as root: umount {path})"
        ),
    };
    let next = if *read_only {
        "the next `tenant-init mount` of this bucket without --read-only"
    } else {
        "the next `tenant-init mount` of this bucket"
    };
    match (files.is_empty(), deletions.is_empty()) {
        (true, true) if asked && *read_only => lines.push(gone),
        (true, true) if asked => {
            let joined = if mounted { "but" } else { "and" };
            lines.push(format!("everything is stored, {joined} {gone}"));
        }
        (true, true) => {}
        _ => {
            // When nobody asked, it may be somebody else's.
            if mounted && asked {
                lines.push(gone);
            }
            let they = if files.len() == 1 { "It is" } else { "They are" };
            lines.push(match files.is_empty() {
                true => format!("{next} deletes there what is left"),
                false => format!("{they} kept in {cache}; {next} sends what is there"),
            });
        }
    }
    lines.join("\n")
}

/// The first of `names`.
fn list(names: &[&String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(|name| name.as_str()).collect();
    let more = names.len().saturating_sub(NAMES);
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::verdict::{Cause, decide};
    use crate::ops::testing;

    fn place() -> Place {
        Place {
            path: "/home/u/notes".into(),
            cache: "/home/u/.cache/x".into(),
            read_only: false,
        }
    }

    fn picture(reachable: bool, queued: u64) -> Snapshot {
        let mut snapshot = testing::healthy();
        snapshot.phase = Phase::Ready;
        snapshot.reasons.clear();
        snapshot.services.mount.state = "ready".into();
        snapshot.services.mount.driver = Some("fuse".into());
        snapshot.storage.reachable = Some(reachable);
        snapshot.uploads.queued = queued;
        snapshot.uploads.failing = 0;
        snapshot.uploads.read_only = false;
        snapshot.uploads.bytes = 1000 * queued;
        snapshot
    }

    fn news(told: &Told) -> &str {
        told.news.as_ref().map_or("", |news| &news.words)
    }

    #[test]
    fn an_outage_in_plain_words() {
        let mut story = Story::new(place());
        let told = story.look(&picture(true, 0), None, "14:00");
        assert!(news(&told).starts_with("/home/u/notes is mounted (fuse)"), "{told:?}");
        assert_eq!(told.line, "connected, everything is stored | /home/u/notes");
        let told = story.look(&picture(true, 2), None, "14:01");
        assert_eq!(told.line, "connected, sending 2 files (2.0 kB) | /home/u/notes");
        assert_eq!(told.news, None);
        let told = story.look(&picture(false, 0), None, "14:02");
        let offline = "offline since 14:02: your changes are kept here and sent when the connection is back";
        assert_eq!(news(&told), offline);
        let told = story.look(&picture(false, 1), None, "14:05");
        assert_eq!(told.line, format!("{offline}; 1 file (1.0 kB) waits | /home/u/notes"));
        assert_eq!(told.news, None, "one line for one outage");
        let told = story.look(&picture(true, 1), None, "14:06");
        assert_eq!(news(&told), "connected again, sending 1 file (1.0 kB)");
        let told = story.look(&picture(true, 0), None, "14:07");
        assert_eq!(news(&told), "everything is stored");
        assert_eq!(
            told.line,
            "connected, everything is stored (last at 14:07) | /home/u/notes"
        );
    }

    #[test]
    fn a_mount_that_is_away_is_said_to_be_away_in_an_outage_too() {
        let mut story = Story::new(place());
        story.look(&picture(true, 0), None, "14:00");
        story.look(&picture(false, 0), None, "14:01");
        let mut lost = picture(false, 1);
        lost.services.mount.state = "recovering".into();
        lost.services.mount.last_error = Some("a rename failed".into());
        let told = story.look(&lost, None, "14:02");
        let away =
            "offline, and /home/u/notes is away until the connection is back (a rename failed); 1 file (1.0 kB) waits";
        assert_eq!((told.line.as_str(), news(&told)), (away, away));
        lost.storage.reachable = Some(true);
        let told = story.look(&lost, None, "14:03");
        assert!(
            told.line.starts_with("/home/u/notes is being mounted again"),
            "{told:?}"
        );
    }

    #[test]
    fn deletions_and_a_mount_that_stays_are_named_as_what_they_are() {
        let say = |names: &[&str], mounted: bool| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            end(
                &decide(&Cause::Signal("SIGINT"), true, names, 0, 0.0),
                &place(),
                mounted,
            )
        };
        assert_eq!(
            say(&["x.md (to be deleted)"], false),
            "1 file is deleted here and may still be in the bucket: x.md\n\
             the next `tenant-init mount` of this bucket deletes there what is left"
        );
        let both = say(&["a.md", "x.md (to be deleted)", "y.md (to be deleted)"], false);
        assert!(
            both.starts_with("1 file is not in the bucket: a.md\n2 files are deleted here"),
            "{both}"
        );
        assert!(
            both.ends_with("sends what is there") && !both.contains("unmounted"),
            "{both}"
        );
        let stays = say(&[], true);
        assert!(
            stays.starts_with("everything is stored, but /home/u/notes could not be unmounted"),
            "{stays}"
        );
        assert!(!stays.contains("is unmounted"), "{stays}");
        let failed = Cause::Failure(crate::core::event::Failure::new(
            crate::exit::Exit::Machine,
            "another has it",
        ));
        let others = end(&decide(&failed, false, vec![], 0, 0.0), &place(), true);
        assert_eq!(others, "tenant-init: another has it");
        let left = say(&["a.md"], true);
        assert!(
            left.contains("could not be unmounted") && left.contains("It is kept in"),
            "{left}"
        );
    }

    #[test]
    fn a_stop_says_what_is_still_being_sent() {
        let mut story = Story::new(place());
        let mut snapshot = picture(true, 3);
        snapshot.phase = Phase::Stopping;
        let told = story.look(&snapshot, None, "14:00");
        assert!(
            told.line
                .starts_with("stopping: sending 3 files (3.0 kB). Ctrl-C again"),
            "{told:?}"
        );
        let drain = DrainProgress {
            files: 1,
            bytes: 10,
            uploading: 1,
            failing: 0,
            names: vec!["a.md".into()],
        };
        let told = story.look(&snapshot, Some(&drain), "14:00");
        assert!(told.line.starts_with("stopping: sending 1 file (10 B)."), "{told:?}");
        snapshot.storage.reachable = Some(false);
        let told = story.look(&snapshot, Some(&drain), "14:00");
        assert!(
            told.line.starts_with("stopping, but offline: 1 file (10 B) waits."),
            "{told:?}"
        );
    }

    #[test]
    fn the_last_words_name_what_is_left_and_where_it_is() {
        let said = |cause: &Cause, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            end(&decide(cause, true, names, 0, 0.0), &place(), false)
        };
        let asked = Cause::Signal("SIGINT");
        assert_eq!(
            said(&asked, &[]),
            "everything is stored, and /home/u/notes is unmounted"
        );
        let one = said(&asked, &["a.md"]);
        assert!(
            one.starts_with("1 file is not in the bucket: a.md\nIt is kept in /home/u/.cache/x;"),
            "{one}"
        );
        let many = said(&asked, &["a"; 12]);
        assert!(
            many.starts_with("12 files are not") && many.contains("a and 2 more\nThey are"),
            "{many}"
        );
        let failed = Cause::Failure(crate::core::event::Failure::new(crate::exit::Exit::Machine, "no fuse"));
        assert_eq!(said(&failed, &[]), "tenant-init: no fuse");
    }
}
