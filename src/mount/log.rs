//! rclone's log lines become events of ours: target `rclone`, the level it gave, at a bounded rate.
//!
//! The pipe must always be read: a full pipe would stop rclone in the middle of an upload. So this task reads whatever
//! comes, and only what it passes on is limited. It also keeps the last serious lines, to say why rclone ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::sync::watch;

use super::ledger::Ledger;

/// Longer lines are cut into pieces of this many bytes.
const LINE_MAX: u64 = 16 * 1024;

/// Lines passed on at once and per second.
const BURST: f64 = 200.0;
const RATE: f64 = 20.0;

/// Serious lines kept.
const TAIL: usize = 8;

/// What rclone said so far that still matters.
#[derive(Debug, Clone, Default)]
pub struct LogTail {
    tail: Arc<Mutex<Tail>>,
    ledger: Ledger,
    /// Renames of files that failed in the last minute; the last one is the last.
    failed_renames: Arc<watch::Sender<Vec<FailedRename>>>,
}

/// The bucket counts as failing for this long after rclone has said so.
const LATELY: Duration = Duration::from_secs(5);

/// Two attempts of one rename are not further apart.
const ATTEMPTS: Duration = Duration::from_secs(60);

/// A rename of a file that failed.
#[derive(Debug, Clone)]
pub(super) struct FailedRename {
    /// The name that it was to get (path in the bucket).
    to: String,
    why: String,
    at: Instant,
    /// The attempt before failed without an answer.
    unanswered_before: bool,
}

impl FailedRename {
    /// The copy in the bucket was not what rclone thinks that the file is (it had met an upload, or somebody else's change): it
    /// may have taken the object away. Or the file is not there any more because an attempt before, whose answer was lost,
    /// has moved it.
    pub(super) fn leaves_files_mixed_up(&self) -> bool {
        self.why.contains("corrupted on transfer") || (self.unanswered_before && self.why.contains("NoSuchKey"))
    }

    /// The store, or the way to it, was at fault: no answer, an answer that says so, or too many requests.
    fn passes(&self) -> bool {
        const WORDS: [&str; 4] = [
            "StatusCode: 0,",
            "StatusCode: 5",
            "StatusCode: 429",
            "deadline exceeded",
        ];
        WORDS.iter().any(|word| self.why.contains(word))
    }
}

#[derive(Debug, Default)]
struct Tail {
    serious: VecDeque<String>,
    upload_failures: u64,
    upload_failure: Option<String>,
    slow_downs: u64,
    failed: Option<Instant>,
}

impl LogTail {
    /// What the log says of files goes to `ledger`.
    pub(super) fn new(ledger: Ledger) -> LogTail {
        LogTail {
            tail: Arc::default(),
            ledger,
            failed_renames: Arc::default(),
        }
    }

    /// The last lines that were errors, or no JSON at all (usage errors), oldest first.
    #[must_use]
    pub fn serious(&self) -> Vec<String> {
        self.with(|tail| tail.serious.iter().cloned().collect())
    }

    /// Upload attempts that failed since the start.
    #[must_use]
    pub fn upload_failures(&self) -> u64 {
        self.with(|tail| tail.upload_failures)
    }

    /// Failed uploads whose reason was that the store asks to slow down.
    #[must_use]
    pub fn slow_downs(&self) -> u64 {
        self.with(|tail| tail.slow_downs)
    }

    /// Why the last upload that failed did.
    #[must_use]
    pub fn upload_failure(&self) -> Option<String> {
        self.with(|tail| tail.upload_failure.clone())
    }

    /// Waits for a rename of a file to fail that `counts`; the name it was to get, and why. Cancel safe.
    pub(super) async fn failed_rename(&self, counts: fn(&FailedRename) -> bool) -> String {
        let mut failed = self.failed_renames.subscribe();
        match failed.wait_for(|failed| failed.iter().any(counts)).await {
            Ok(failed) => {
                let found = failed.iter().find(|failed| counts(failed));
                found
                    .map(|failed| format!("{}: {}", failed.to, failed.why))
                    .unwrap_or_default()
            }
            // It is part of what is borrowed here.
            Err(_) => std::future::pending().await,
        }
    }

    /// Has the last rename to that name failed for a reason that passes?
    pub(super) fn may_be_renamed_later(&self, to: &str) -> bool {
        let failed = self.failed_renames.borrow();
        failed
            .iter()
            .rfind(|failed| failed.to == to)
            .is_some_and(FailedRename::passes)
    }

    /// Has the bucket failed rclone within the last seconds?
    pub(super) fn was_failed(&self) -> bool {
        self.with(|tail| tail.failed.is_some_and(|at| at.elapsed() < LATELY))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Tail) -> T) -> T {
        work(&mut self.tail.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, line: &Line) {
        self.ledger
            .note(&line.message, line.object.as_deref(), jiff::Timestamp::now());
        if let (Some(why), Some(object)) = (line.message.strip_prefix("File.Rename error: "), &line.object) {
            self.failed_renames.send_modify(|failed| {
                failed.retain(|failed| failed.at.elapsed() < ATTEMPTS);
                let before = failed.extract_if(.., |failed| failed.to == *object).last();
                failed.push(FailedRename {
                    to: object.clone(),
                    why: why.to_owned(),
                    at: Instant::now(),
                    unanswered_before: before.is_some_and(|before| before.passes()),
                });
            });
        }
        self.with(|tail| {
            if let Some(why) = failed_upload(&line.message) {
                tail.upload_failures += 1;
                tail.slow_downs += u64::from(asks_to_slow_down(&why));
                tail.upload_failure = Some(why);
            }
            if line.message.contains("operation error S3") {
                tail.failed = Some(Instant::now());
            }
            if line.level >= Level::Error {
                if tail.serious.len() == TAIL {
                    tail.serious.pop_front();
                }
                tail.serious.push_back(line.message.clone());
            }
        });
    }
}

/// rclone's words for why an upload failed; `None` for any other line. Shortened: S3 errors carry request ids and hosts.
fn failed_upload(message: &str) -> Option<String> {
    let rest = message.split_once("vfs cache: failed to upload try")?.1;
    let why = rest.split_once(": ").map_or(rest, |(_, why)| why);
    Some(why.chars().take(200).collect())
}

/// S3 says 503 SlowDown, others 429. A 503 without a reason is a store with a problem, not one that has had enough.
fn asks_to_slow_down(why: &str) -> bool {
    const WORDS: [&str; 4] = ["SlowDown", "StatusCode: 429", "TooManyRequests", "Throttling"];
    WORDS.iter().any(|word| why.contains(word))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

#[derive(Debug, PartialEq)]
struct Line {
    level: Level,
    message: String,
    object: Option<String>,
}

#[derive(Deserialize)]
struct Json {
    level: String,
    msg: String,
    object: Option<String>,
}

/// Reads lines until the pipe is closed. Runs as a task of its own.
pub(super) async fn forward(pipe: impl AsyncRead + Unpin, tail: LogTail) {
    let mut reader = BufReader::new(pipe);
    let mut limit = Limit {
        tokens: BURST,
        last: Instant::now(),
        dropped: 0,
    };
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        match (&mut reader).take(LINE_MAX).read_until(b'\n', &mut bytes).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Some(line) = parse(text.trim_end()) {
            tail.note(&line);
            if limit.allows(Instant::now()) {
                emit(&line, std::mem::take(&mut limit.dropped));
            }
        }
    }
}

fn emit(line: &Line, dropped: u64) {
    if dropped > 0 {
        tracing::warn!(target: "rclone", dropped, "too many log lines: some were left out");
    }
    let (object, message) = (line.object.as_deref(), line.message.as_str());
    match line.level {
        Level::Debug => tracing::debug!(target: "rclone", object, "{message}"),
        Level::Info => tracing::info!(target: "rclone", object, "{message}"),
        Level::Warning => tracing::warn!(target: "rclone", object, "{message}"),
        Level::Error => tracing::error!(target: "rclone", object, "{message}"),
    }
}

/// One line, or `None` for what is harmless at every mount.
fn parse(text: &str) -> Option<Line> {
    // The kernel asks every NFS server for ACLs (program 100227); rclone has none, and logs an error.
    if text.is_empty() || text.contains("No handler for 100227") {
        return None;
    }
    let Ok(json) = serde_json::from_str::<Json>(text) else {
        // Usage errors and Go panics are plain text.
        return Some(Line {
            level: Level::Error,
            message: text.to_owned(),
            object: None,
        });
    };
    let level = match json.level.as_str() {
        "debug" | "info" => Level::Debug,
        "notice" => Level::Info,
        "warning" => Level::Warning,
        _ => Level::Error,
    };
    // A refused remote-control call is ours, and whoever made it reports it.
    let echo = json.msg.starts_with("rc: \"") || json.msg.starts_with("error listing");
    // The kernel asks by its old handle once when a file was renamed over or removed, and then by name.
    let echo = echo || json.msg.starts_with("Stale handle");
    let message = json.msg.trim_end().to_owned();
    Some(Line {
        level: if echo { Level::Debug } else { level },
        message,
        object: json.object,
    })
}

/// A token bucket.
struct Limit {
    tokens: f64,
    last: Instant,
    dropped: u64,
}

impl Limit {
    fn allows(&mut self, now: Instant) -> bool {
        let earned = now.saturating_duration_since(self.last).as_secs_f64() * RATE;
        self.tokens = (self.tokens + earned).min(BURST);
        self.last = now;
        if self.tokens < 1.0 {
            self.dropped += 1;
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_mapped_and_noise_is_dropped() {
        let line = |level: &str, msg: &str| {
            parse(
                &serde_json::json!({ "time": "t", "level": level, "msg": msg, "object": "a.md", "source": "x.go:1" })
                    .to_string(),
            )
        };
        assert_eq!(line("notice", "hello\n").unwrap().level, Level::Info);
        assert_eq!(line("critical", "Fatal error: x").unwrap().level, Level::Error);
        assert_eq!(line("info", "x").unwrap().object.as_deref(), Some("a.md"));
        assert_eq!(line("error", "No handler for 100227.0"), None);
        assert_eq!(
            line("error", "rc: \"operations/list\": error: x").unwrap().level,
            Level::Debug
        );
        assert_eq!(line("error", "Stale handle \"x\": gone").unwrap().level, Level::Debug);
        assert_eq!(parse("Error: unknown flag: --x").unwrap().level, Level::Error);
        assert_eq!(parse(""), None);
    }

    #[tokio::test]
    async fn serious_lines_and_failed_uploads_are_kept() {
        let failed =
            r#"{"level":"error","msg":"vfs cache: failed to upload try #1, will retry in 2s: x","object":"a"}"#;
        let text = format!("{failed}\n{{\"level\":\"info\",\"msg\":\"fine\"}}\nplain words\nunterminated");
        let tail = LogTail::default();
        forward(text.as_bytes(), tail.clone()).await;
        assert_eq!(tail.upload_failures(), 1);
        assert_eq!(tail.upload_failure().as_deref(), Some("x"));
        let serious = tail.serious();
        assert_eq!(serious.len(), 3);
        assert_eq!(serious[1..], ["plain words", "unterminated"]);
    }

    #[tokio::test]
    async fn renames_that_failed_are_told_apart() {
        let failed = |to: &str, why: &str| {
            let line =
                serde_json::json!({ "level": "error", "msg": format!("File.Rename error: {why}"), "object": to });
            format!("{line}\n")
        };
        let (no_answer, gone) = (
            "operation error S3: DeleteObject, https response error StatusCode: 0, RequestID: , request send failed",
            "operation error S3: CopyObject, https response error StatusCode: 404, RequestID: X, api error NoSuchKey: x",
        );
        let tail = LogTail::default();
        assert!(!tail.was_failed() && !tail.may_be_renamed_later("a"));
        forward(failed("a", no_answer).as_bytes(), tail.clone()).await;
        assert!(tail.was_failed() && tail.may_be_renamed_later("a") && !tail.may_be_renamed_later("b"));
        // Somebody has deleted it; and in between another rename has failed.
        forward((failed("b", gone) + &failed("c", no_answer)).as_bytes(), tail.clone()).await;
        assert!(!tail.may_be_renamed_later("b"));
        let mixed_up = || tail.failed_rename(FailedRename::leaves_files_mixed_up);
        let waited = tokio::time::timeout(Duration::from_millis(20), mixed_up()).await;
        assert!(waited.is_err(), "nothing is mixed up yet");
        // It was done by the attempt before, whose answer was lost.
        forward(failed("a", gone).as_bytes(), tail.clone()).await;
        assert!(mixed_up().await.starts_with("a: "));
    }

    #[test]
    fn a_flood_is_limited_and_recovers() {
        let start = Instant::now();
        let mut limit = Limit {
            tokens: BURST,
            last: start,
            dropped: 0,
        };
        let passed = (0..1000).filter(|_| limit.allows(start)).count();
        assert_eq!((passed, limit.dropped), (200, 800));
        assert!(limit.allows(start + Duration::from_secs(1)));
    }
}
