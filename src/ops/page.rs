//! `GET /`: the picture for people, one self-contained page.
//!
//! The server renders all of it, so there is one renderer, the words are tested here, and the page works without
//! JavaScript. With JavaScript the page asks for itself again every second and changes only what differs: the reader's
//! place, a selection, and what a screen reader has already said stay as they are.
//!
//! Values such as errors of children come from outside. `maud` escapes every one of them, and the content security
//! policy allows exactly the style and the script below, by their digests.

use std::sync::LazyLock;

use axum::http::HeaderValue;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use crate::core::snapshot::{Dependency, Operation, Phase, Service, Snapshot};
use crate::ops::words::{bytes, count, elapsed_since, milliseconds, number, seconds};

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// How a state looks: the class of its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Busy,
    Warn,
    Bad,
    Off,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Busy => "busy",
            Tone::Warn => "warn",
            Tone::Bad => "bad",
            Tone::Off => "off",
        }
    }

    /// The icon in the browser's tab: the state without opening the tab. The colours are those of the style sheet.
    fn icon(self) -> String {
        let colour = match self {
            Tone::Good => "1a7f4b",
            Tone::Busy => "2563eb",
            Tone::Warn => "c27803",
            Tone::Bad => "d1242f",
            Tone::Off => "6b7280",
        };
        format!(
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' \
             r='7' fill='%23{colour}'/%3E%3C/svg%3E"
        )
    }
}

/// The whole page for the picture as it is now.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    render_at(snapshot, Timestamp::now())
}

/// The policy to send with the page: its own style and script, requests to where it came from, nothing else.
#[must_use]
pub fn content_security_policy() -> HeaderValue {
    static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
        let digest = |text: &str| STANDARD.encode(Sha256::digest(text.as_bytes()));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            digest(STYLE),
            digest(SCRIPT)
        );
        HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
    });
    POLICY.clone()
}

fn render_at(snapshot: &Snapshot, now: Timestamp) -> String {
    let (tone, headline, meaning) = verdict(snapshot);
    let tenant = if snapshot.tenant.is_empty() {
        "tenant"
    } else {
        &snapshot.tenant
    };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (headline) " · " (tenant) }
                link rel="icon" href=(tone.icon());
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    p.tenant { (tenant) }
                    p.version { "tenant-init " (snapshot.version) }
                }
                p #connection role="alert" {}
                main {
                    (banner(snapshot, now, tone, headline, meaning))
                    div.columns {
                        div { (services(snapshot)) (dependencies(snapshot, now)) }
                        div { (waiting(snapshot)) (elsewhere(snapshot)) }
                    }
                    (operations(snapshot))
                }
                footer {
                    p { "As of " (time_of_day(now)) ". " span #live hidden { "Refreshed every second." } }
                    p { a href="/status" { "JSON" } " · " a href="/metrics" { "Metrics" } " · " a href="/readyz" { "Ready?" } }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    };
    page.into_string()
}

/// Tone, headline and what it means for whoever looks.
fn verdict(snapshot: &Snapshot) -> (Tone, &'static str, &'static str) {
    match (snapshot.phase, snapshot.ready) {
        (Phase::Ready, true) => (Tone::Good, "Healthy", "Everything works."),
        (Phase::Ready, false) => (
            Tone::Bad,
            "Not ready",
            "The services run, but no traffic should be sent here.",
        ),
        (Phase::Degraded, true) => (
            Tone::Warn,
            "Degraded",
            "The app works, but something it depends on does not.",
        ),
        (Phase::Degraded, false) => (
            Tone::Bad,
            "Degraded, not ready",
            "The app runs, but no traffic should be sent here until this is over.",
        ),
        (Phase::Starting, _) => (Tone::Busy, "Starting", "Not ready for traffic yet."),
        (Phase::Stopping, _) => (
            Tone::Busy,
            "Stopping",
            "What is not stored yet is being stored; then it ends.",
        ),
        (Phase::Stopped, _) => (Tone::Off, "Stopped", "Nothing runs here any more."),
    }
}

fn banner(snapshot: &Snapshot, now: Timestamp, tone: Tone, headline: &str, meaning: &str) -> Markup {
    html! {
        section.banner.(tone.class()) aria-label="Verdict" {
            div role="status" aria-live="polite" {
                h1 { span.light aria-hidden="true" {} (headline) }
                p.meaning { (meaning) }
                @if !snapshot.reasons.is_empty() {
                    ul.reasons { @for reason in &snapshot.reasons { (self::reason(reason)) } }
                }
            }
            @if let Some(words) = waiting_in_words(snapshot) { p.stored { (words) } }
            p.since { "In this state for " (ago(&snapshot.since, now)) (since(&snapshot.since)) "." }
        }
    }
}

/// A reason is `code: words`; people read the words, the code leads to the runbook.
fn reason(reason: &str) -> Markup {
    let (code, words) = reason.split_once(": ").unwrap_or(("", reason));
    html! { li { (words) @if !code.is_empty() { " " code { (code) } } } }
}

fn services(snapshot: &Snapshot) -> Markup {
    let all = [
        ("Mount", &snapshot.services.mount),
        ("Index", &snapshot.services.index),
        ("App", &snapshot.services.app),
    ];
    html! {
        section.card aria-labelledby="services" {
            h2 #services { "Services" }
            ul.services { @for (name, service) in all { (self::service(name, service)) } }
        }
    }
}

fn service(name: &str, service: &Service) -> Markup {
    let tone = match service.state.as_str() {
        "ready" | "local" => Tone::Good,
        "degraded" | "recovering" => Tone::Warn,
        "failed" => Tone::Bad,
        "stopped" | "waiting" => Tone::Off,
        _ => Tone::Busy,
    };
    html! {
        li {
            span.name { (name) @if let Some(driver) = &service.driver { " " small { (driver) } } }
            span.facts {
                @if let Some(pid) = service.pid { span { "pid " (pid) } }
                @if service.restarts > 0 { span { (count(service.restarts, "restart", "restarts")) } }
            }
            span.pill.(tone.class()) { @if service.state.is_empty() { "unknown" } @else { (service.state) } }
            @if let Some(error) = &service.last_error { span.error { "Last failure: " (error) } }
        }
    }
}

/// What would be lost with this machine now. Nothing while it starts: what an earlier life left in the cache is not
/// counted before the mount is ready. Stands outside of the live region because it changes all the time.
fn waiting_in_words(snapshot: &Snapshot) -> Option<String> {
    let (uploads, index) = (&snapshot.uploads, &snapshot.index);
    let files = format!("{} ({})", count(uploads.queued, "file", "files"), bytes(uploads.bytes));
    let changes = count(index.outbox, "index change", "index changes");
    let (what, many) = match (uploads.queued, index.outbox) {
        (0, 0) if snapshot.phase == Phase::Starting => return None,
        (0, 0) => return Some("No acknowledged write is waiting to be stored.".to_owned()),
        (queued, 0) => (files, queued > 1),
        (0, outbox) => (changes, outbox > 1),
        _ => (format!("{files} and {changes}"), true),
    };
    let oldest = seconds(uploads.oldest_seconds.max(index.lag_seconds));
    let are = if many { "are" } else { "is" };
    Some(format!("{what} {are} waiting to be stored, the oldest for {oldest}."))
}

/// Writes that would be lost with this machine: the figure this program exists for.
fn waiting(snapshot: &Snapshot) -> Markup {
    let (uploads, index) = (&snapshot.uploads, &snapshot.index);
    html! {
        section.card aria-labelledby="waiting" {
            h2 #waiting { "Not stored yet" }
            dl {
                div { dt { "Files" } dd { (number(uploads.queued)) } }
                @if uploads.queued > 0 {
                    div { dt { "Size" } dd { (bytes(uploads.bytes)) } }
                    div { dt { "Oldest waits" } dd { (seconds(uploads.oldest_seconds)) } }
                    div { dt { "Uploading now" } dd { (number(uploads.in_progress)) } }
                    @if uploads.failing > 0 { div.warn { dt { "Failing" } dd { (number(uploads.failing)) } } }
                }
                div { dt { "Index changes" } dd { (number(index.outbox)) } }
                @if index.outbox > 0 { div { dt { "Index lag" } dd { (seconds(index.lag_seconds)) } } }
                @if let Some(position) = index.position { div { dt { "Index position" } dd { (number(position)) } } }
            }
        }
    }
}

fn dependencies(snapshot: &Snapshot, now: Timestamp) -> Markup {
    html! {
        section.card aria-labelledby="dependencies" {
            h2 #dependencies { "Depends on" }
            ul.services {
                (dependency("Bucket", &snapshot.storage, now))
                (dependency("Database", &snapshot.database, now))
            }
        }
    }
}

fn dependency(name: &str, dependency: &Dependency, now: Timestamp) -> Markup {
    let (tone, state) = match dependency.reachable {
        Some(true) => (Tone::Good, "reachable"),
        Some(false) => (Tone::Bad, "unreachable"),
        None => (Tone::Off, "not checked"),
    };
    html! {
        li {
            span.name { (name) }
            span.facts {
                @if dependency.reachable == Some(true) {
                    @if let Some(latency) = dependency.latency_ms { span { (milliseconds(latency)) } }
                } @else if let Some(last_ok) = &dependency.last_ok {
                    span { "last answer " (ago(last_ok, now)) " ago" }
                }
            }
            span.pill.(tone.class()) { (state) }
            @if dependency.reachable == Some(false) {
                @if let Some(error) = &dependency.last_error { span.error { (error) } }
            }
        }
    }
}

fn elsewhere(snapshot: &Snapshot) -> Markup {
    let (lease, changes) = (&snapshot.lease, &snapshot.changes);
    let seen: Vec<String> = changes
        .seen
        .iter()
        .map(|(kind, seen)| format!("{} {kind}", number(*seen)))
        .collect();
    html! {
        section.card aria-labelledby="elsewhere" {
            h2 #elsewhere { "Other machines" }
            dl {
                div {
                    dt { "Single-writer lease" }
                    dd { @if lease.held { "held" } @else { "not held" } @if let Some(epoch) = lease.epoch { ", epoch " (number(epoch)) } }
                }
                div { dt { "Bucket watched for changes" } dd { @if changes.watching { "yes" } @else { "no" } } }
                @if !changes.seen.is_empty() { div { dt { "Changes seen" } dd { (seen.join(", ")) } } }
            }
        }
    }
}

/// The busiest first.
fn operations(snapshot: &Snapshot) -> Markup {
    let mut operations: Vec<(&String, &Operation)> = snapshot.operations.iter().collect();
    operations.sort_by_key(|(name, operation)| (std::cmp::Reverse(operation.count), *name));
    html! {
        section.card aria-labelledby="operations" {
            h2 #operations { "Operations on the mount" }
            @if operations.is_empty() {
                p.quiet { "None yet." }
            } @else {
                table {
                    thead {
                        tr {
                            th scope="col" { "Operation" }
                            th scope="col" { "Count" }
                            th scope="col" { "Errors" }
                            th scope="col" { abbr title="half of them were faster" { "Median" } }
                            th scope="col" { abbr title="99 of 100 were faster" { "99 %" } }
                        }
                    }
                    tbody {
                        @for (name, operation) in operations {
                            tr {
                                th scope="row" { (name) }
                                td { (number(operation.count)) }
                                td { (number(operation.errors)) }
                                td { (milliseconds(operation.p50_ms)) }
                                td { (milliseconds(operation.p99_ms)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How long ago an RFC 3339 moment was; the moment itself when it cannot be read.
fn ago(moment: &str, now: Timestamp) -> Markup {
    let words = moment
        .parse::<Timestamp>()
        .map_or_else(|_| moment.to_owned(), |then| elapsed_since(then, now));
    html! { time datetime=(moment) title=(moment) { (words) } }
}

/// The moment on the clock, when it can be read; a phone has no pointer to hover with.
fn since(moment: &str) -> String {
    let then = moment.parse::<Timestamp>();
    then.map_or_else(
        |_| String::new(),
        |then| format!(", since {}", then.strftime("%Y-%m-%d %H:%M UTC")),
    )
}

fn time_of_day(now: Timestamp) -> Markup {
    html! { time datetime=(now) { (now.strftime("%H:%M:%S")) " UTC" } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{degraded, healthy, starting};

    fn at(snapshot: &Snapshot) -> String {
        render_at(snapshot, "2026-01-02T04:00:05Z".parse().unwrap())
    }

    #[test]
    fn one_look_says_healthy_or_not_and_why() {
        let page = at(&healthy());
        assert!(page.contains("<title>Healthy · acme</title>"));
        assert!(page.contains("No acknowledged write is waiting to be stored."));
        assert!(
            page.contains(">1 h 0 min</time>, since 2026-01-02 03:00 UTC."),
            "since when"
        );
        let page = at(&degraded());
        assert!(page.contains("Degraded, not ready"));
        let waiting = "12 files (5.4 MB) and 3 index changes are waiting to be stored, the oldest for 1 min 13 s.";
        assert!(page.contains(waiting));
        assert!(
            page.contains(
                "the bucket does not answer: connection refused (since 14 s) <code>storage_unreachable</code>"
            )
        );
        assert!(page.contains("<dd>5.4 MB</dd>") && page.contains("<dd>1 min 13 s</dd>"));
        assert!(page.contains("Last failure: rclone was killed by signal 9"));
        assert!(page.contains("last answer <time") && page.contains(">56 min 0 s</time> ago"));
        let page = at(&starting());
        assert!(page.contains("Not ready for traffic yet."));
        assert!(
            !page.contains("No acknowledged write"),
            "nobody has looked into the cache yet"
        );
    }

    #[test]
    fn each_phase_has_its_words() {
        let mut snapshot = healthy();
        let mut headlines = std::collections::BTreeSet::new();
        for phase in Phase::ALL {
            snapshot.phase = phase;
            headlines.insert(verdict(&snapshot).1);
        }
        assert_eq!(headlines.len(), Phase::ALL.len());
        snapshot.phase = Phase::Ready;
        snapshot.ready = false;
        assert_eq!(verdict(&snapshot).0, Tone::Bad);
    }

    #[test]
    fn what_comes_from_outside_is_text_only() {
        let mut snapshot = degraded();
        let attack = "<script>alert(1)</script>\"'&";
        snapshot.tenant = attack.into();
        snapshot.since = attack.into();
        snapshot.reasons = vec![attack.into(), format!("{attack}: {attack}")];
        snapshot.services.app.state = attack.into();
        snapshot.services.app.last_error = Some(attack.into());
        snapshot.services.mount.driver = Some(attack.into());
        snapshot.storage.last_error = Some(attack.into());
        snapshot.storage.last_ok = Some(attack.into());
        snapshot.operations.insert(attack.into(), Operation::default());
        snapshot.changes.seen.insert(attack.into(), 1);
        let page = at(&snapshot);
        assert!(!page.contains("<script>alert"), "{page}");
        assert_eq!(page.matches("<script>").count(), 1);
    }

    #[test]
    fn the_policy_names_the_digests_of_what_is_sent() {
        let page = at(&healthy());
        let policy = content_security_policy();
        let policy = policy.to_str().unwrap();
        for tag in ["style", "script"] {
            let (_, rest) = page.split_once(&format!("<{tag}>")).unwrap();
            let (sent, _) = rest.split_once(&format!("</{tag}>")).unwrap();
            let digest = STANDARD.encode(Sha256::digest(sent.as_bytes()));
            assert!(
                policy.contains(&format!("{tag}-src 'sha256-{digest}'")),
                "{tag} not allowed by {policy}"
            );
        }
        assert!(
            !page.contains("style=") && !page.contains("onclick"),
            "the policy would refuse inline attributes"
        );
        assert!(
            !page.contains("http://") || page.matches("http://").count() == 1,
            "only the icon's XML namespace"
        );
    }
}
