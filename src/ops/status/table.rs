//! The answer for people: a compact table, the verdict first.

use std::fmt::Write as _;
use std::io::{self, Write};

use jiff::Timestamp;

use crate::core::snapshot::{Dependency, Phase, Service, Snapshot};
use crate::ops::words::{bytes, count, elapsed_since, milliseconds, number, seconds};

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Prints the table.
pub(super) fn print(out: &mut impl Write, snapshot: &Snapshot, colour: bool) -> io::Result<()> {
    let paint = Paint(colour);
    let tenant = if snapshot.tenant.is_empty() {
        "tenant"
    } else {
        &snapshot.tenant
    };
    let ready = if snapshot.ready { "ready" } else { "not ready" };
    let words = match snapshot.phase {
        Phase::Ready if snapshot.ready => "ready".to_owned(),
        phase => format!("{}, {ready}", phase.name()),
    };
    let tint = match (snapshot.ready, snapshot.phase) {
        (true, Phase::Ready) => GREEN,
        (true, _) | (false, Phase::Starting | Phase::Stopping) => YELLOW,
        (false, _) => RED,
    };
    let verdict = format!("{BOLD}{tint}{words}{RESET}");
    let since = ago(&snapshot.since).map_or_else(String::new, |since| format!(" for {since}"));
    writeln!(
        out,
        "{}: {}{since}",
        clean(tenant),
        if colour { &verdict } else { &words }
    )?;
    for reason in &snapshot.reasons {
        writeln!(out, "  - {}", clean(reason))?;
    }
    let services = &snapshot.services;
    for (name, service) in [
        ("mount", &services.mount),
        ("index", &services.index),
        ("app", &services.app),
    ] {
        line(out, name, &paint.state(&service.state), &facts_of(service))?;
    }
    line(
        out,
        "bucket",
        &paint.reachable(&snapshot.storage),
        &facts_about(&snapshot.storage),
    )?;
    line(
        out,
        "database",
        &paint.reachable(&snapshot.database),
        &facts_about(&snapshot.database),
    )?;
    let lease = if snapshot.lease.held { "held" } else { "not held" };
    let epoch = snapshot
        .lease
        .epoch
        .map_or_else(String::new, |epoch| format!("epoch {epoch}"));
    line(out, "lease", &paint.pad(lease, ""), &epoch)?;
    let (waiting, facts) = waiting(snapshot);
    line(
        out,
        "not stored",
        &paint.pad(&waiting, if waiting == "nothing" { GREEN } else { YELLOW }),
        &facts,
    )?;
    operations(out, snapshot, paint)
}

fn line(out: &mut impl Write, name: &str, state: &str, facts: &str) -> io::Result<()> {
    writeln!(out, "{}", format!("{name:<11}{state} {facts}").trim_end())
}

fn facts_of(service: &Service) -> String {
    let mut facts = Vec::new();
    facts.extend(service.driver.as_deref().map(clean));
    facts.extend(service.pid.map(|pid| format!("pid {pid}")));
    if service.restarts > 0 {
        facts.push(count(service.restarts, "restart", "restarts"));
    }
    facts.extend(
        service
            .last_error
            .as_deref()
            .map(|error| format!("last failure: {}", clean(error))),
    );
    facts.join(", ")
}

fn facts_about(dependency: &Dependency) -> String {
    if dependency.reachable == Some(true) {
        return dependency.latency_ms.map_or_else(String::new, milliseconds);
    }
    let last = dependency
        .last_ok
        .as_deref()
        .and_then(ago)
        .map(|since| format!("last answer {since} ago"));
    let error = dependency.last_error.as_deref().map(clean);
    last.into_iter().chain(error).collect::<Vec<_>>().join(": ")
}

fn waiting(snapshot: &Snapshot) -> (String, String) {
    let (uploads, index) = (&snapshot.uploads, &snapshot.index);
    let mut what = Vec::new();
    let mut facts = Vec::new();
    if uploads.queued > 0 {
        what.push(count(uploads.queued, "file", "files"));
        let (size, oldest) = (bytes(uploads.bytes), seconds(uploads.oldest_seconds));
        facts.push(format!(
            "{size}, oldest {oldest}, {} uploading, {} failing",
            uploads.in_progress, uploads.failing
        ));
    }
    if index.outbox > 0 {
        what.push(count(index.outbox, "index change", "index changes"));
        facts.push(format!("index lag {}", seconds(index.lag_seconds)));
    }
    if what.is_empty() {
        ("nothing".to_owned(), String::new())
    } else {
        (what.join(", "), facts.join(", "))
    }
}

fn operations(out: &mut impl Write, snapshot: &Snapshot, paint: Paint) -> io::Result<()> {
    if snapshot.operations.is_empty() {
        return Ok(());
    }
    let mut operations: Vec<_> = snapshot.operations.iter().collect();
    operations.sort_by_key(|(name, operation)| (std::cmp::Reverse(operation.count), *name));
    let head = format!(
        "{:<14}{:>12}{:>9}{:>11}{:>11}",
        "operation", "count", "errors", "median", "99 %"
    );
    writeln!(out, "\n{}", paint.wrap(&head, DIM))?;
    for (name, operation) in operations {
        let (p50, p99) = (milliseconds(operation.p50_ms), milliseconds(operation.p99_ms));
        let (count, errors) = (number(operation.count), number(operation.errors));
        writeln!(out, "{:<14}{count:>12}{errors:>9}{p50:>11}{p99:>11}", clean(name))?;
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Paint(bool);

impl Paint {
    fn wrap(self, text: &str, tint: &str) -> String {
        if self.0 && !tint.is_empty() {
            format!("{tint}{text}{RESET}")
        } else {
            text.to_owned()
        }
    }

    /// Padded first: the escape sequences have no width.
    fn pad(self, text: &str, tint: &str) -> String {
        self.wrap(&format!("{text:<11}"), tint)
    }

    fn state(self, state: &str) -> String {
        let tint = match state {
            "ready" | "local" => GREEN,
            "failed" => RED,
            "stopped" | "waiting" => DIM,
            _ => YELLOW,
        };
        self.pad(&clean(state), tint)
    }

    fn reachable(self, dependency: &Dependency) -> String {
        match dependency.reachable {
            Some(true) => self.pad("reachable", GREEN),
            Some(false) => self.pad("unreachable", RED),
            None => self.pad("not checked", DIM),
        }
    }
}

fn ago(moment: &str) -> Option<String> {
    let then = moment.parse::<Timestamp>().ok()?;
    Some(elapsed_since(then, Timestamp::now()))
}

/// Text from elsewhere must not move the cursor or forge lines of this terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() {
            let _ = write!(out, "{}", c.escape_default());
        } else {
            out.push(c);
        }
        out
    })
}
