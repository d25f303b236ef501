//! A result for people.

use std::io::{self, Write};

use super::compare::{By, Change, Comparison, Verdict};
use super::report::{Measured, Report};
use super::stats::Summary;

const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const RESET: &str = "\x1b[0m";

/// Prints everything; `colour` for a terminal.
pub(super) fn print(out: &mut dyn Write, report: &Report, colour: bool) -> io::Result<()> {
    let machine = &report.machine;
    writeln!(
        out,
        "{} against {}; kernel {}, {} processors, {} MB, load {}; tenant-init {}, {}",
        report.mount,
        report.local,
        machine.kernel,
        machine.cpus,
        machine.memory_mb,
        machine.load,
        report.program,
        report.at
    )?;
    if !report.measures.is_empty() {
        writeln!(out)?;
        let head = format!(
            "{:<34}{:>9}{:>9}{:>9}  {:>10}{:>9}{:>9}  {:>7}{:>6}",
            "", "mount", "95 %", "99 %", "local disk", "95 %", "99 %", "ratio", "n"
        );
        writeln!(out, "{}", paint(&head, BOLD, colour))?;
    }
    for measured in &report.measures {
        writeln!(out, "{}", row(measured))?;
    }
    if !report.skipped.is_empty() {
        writeln!(out, "\nnot measured:")?;
        for (names, reason) in by_reason(report) {
            writeln!(out, "  {}", paint(&format!("{names}: {reason}"), DIM, colour))?;
        }
    }
    for remark in &report.remarks {
        writeln!(out, "note: {remark}")?;
    }
    match &report.comparison {
        Some(comparison) => compared(out, comparison, colour),
        None => Ok(()),
    }
}

/// What is said when a measure is done.
pub(super) fn line(measured: &Measured) -> String {
    let mount = milliseconds(measured.mount.median_ms);
    let local = measured.local.map_or_else(String::new, |local| {
        let ratio = measured
            .ratio
            .map_or_else(String::new, |ratio| format!(", {}", times(ratio)));
        format!(", local disk {}{ratio}", milliseconds(local.median_ms))
    });
    let samples = measured.mount.samples;
    format!("{}: mount {mount}{local} (median of {samples})", measured.what)
}

fn row(measured: &Measured) -> String {
    let three = |summary: &Summary| [summary.median_ms, summary.p95_ms, summary.p99_ms].map(milliseconds);
    let [median, p95, p99] = three(&measured.mount);
    let [local, local95, local99] = measured
        .local
        .as_ref()
        .map_or_else(|| ["-", "", ""].map(str::to_owned), three);
    let ratio = measured.ratio.map_or_else(|| "-".to_owned(), times);
    format!(
        "{:<34}{median:>9}{p95:>9}{p99:>9}  {local:>10}{local95:>9}{local99:>9}  {ratio:>7}{:>6}",
        measured.what, measured.mount.samples
    )
}

/// Measures with the same reason in one line.
fn by_reason(report: &Report) -> Vec<(String, &str)> {
    let mut reasons: Vec<(String, &str)> = Vec::new();
    for skipped in &report.skipped {
        match reasons.iter_mut().find(|(_, reason)| *reason == skipped.reason) {
            Some((names, _)) => {
                names.push_str("; ");
                names.push_str(skipped.name.what());
            }
            None => reasons.push((skipped.name.what().to_owned(), &skipped.reason)),
        }
    }
    reasons
}

fn compared(out: &mut dyn Write, comparison: &Comparison, colour: bool) -> io::Result<()> {
    writeln!(
        out,
        "\nagainst the result of {} (tenant-init {}):",
        comparison.at, comparison.program
    )?;
    for change in &comparison.changes {
        let (word, code) = match change.verdict {
            Verdict::Slower => ("SLOWER", RED),
            Verdict::Faster => ("faster", GREEN),
            Verdict::Same => ("same", ""),
            Verdict::Unknown => ("too few samples to say", DIM),
        };
        let word = if code.is_empty() {
            word.to_owned()
        } else {
            paint(word, code, colour)
        };
        writeln!(out, "  {:<34}{:>22}  {word}", change.name.what(), values(change))?;
    }
    for name in &comparison.missing {
        writeln!(out, "  {:<34}{:>22}  not measured this time", name.what(), "")?;
    }
    let count = |count: usize, word: &str| format!("{count} {word}");
    writeln!(
        out,
        "{}, {}, of {}",
        count(comparison.slower.len(), "slower"),
        count(comparison.faster.len(), "faster"),
        count(comparison.changes.len(), "compared")
    )
}

fn values(change: &Change) -> String {
    let shown = match change.by {
        By::Ratio => times,
        By::Milliseconds => milliseconds,
    };
    format!("{} -> {}", shown(change.before), shown(change.now))
}

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour {
        format!("{code}{text}{RESET}")
    } else {
        text.to_owned()
    }
}

/// `1.04x`, `35x`.
fn times(ratio: f64) -> String {
    if ratio < 9.995 {
        format!("{ratio:.2}x")
    } else {
        format!("{ratio:.0}x")
    }
}

/// Two to three digits: `4.1 us`, `240 us`, `3.2 ms`, `98 ms`, `1.2 s`.
fn milliseconds(value: f64) -> String {
    let scaled = |value: f64, unit: &str| {
        let decimals = usize::from(value < 9.95);
        format!("{value:.decimals$} {unit}")
    };
    match value {
        v if v < 0.9995 => scaled(v * 1e3, "us"),
        v if v < 999.5 => scaled(v, "ms"),
        v => scaled(v / 1e3, "s"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::measure::Measure;
    use super::super::report::{Machine, Skipped};
    use super::*;

    fn report() -> Report {
        let summary = Summary::of(&[0.0041, 0.0042, 3.0]).unwrap();
        let measured = |name: Measure, local| Measured {
            name,
            what: name.what(),
            mount: Summary::of(&[1500.0, 3.2, 98.4]).unwrap(),
            local,
            ratio: Some(12.3),
        };
        let skipped = |name| Skipped {
            name,
            reason: "no MCP server".to_owned(),
        };
        Report {
            version: 1,
            program: "0.1.0".into(),
            at: "2026-01-01T00:00:00Z".into(),
            machine: Machine {
                kernel: "7.2".into(),
                cpus: 2,
                memory_mb: 4000,
                load: 0.1,
            },
            mount: "nfs".into(),
            local: "ext4".into(),
            samples: 3,
            measures: vec![
                measured(Measure::Create, Some(summary)),
                measured(Measure::BurstStore, None),
            ],
            skipped: vec![skipped(Measure::NoteWrite), skipped(Measure::NoteRead)],
            remarks: vec!["a remark".into()],
            comparison: None,
        }
    }

    fn printed(colour: bool) -> String {
        let mut out = Vec::new();
        print(&mut out, &report(), colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_fit_a_wide_terminal() {
        let text = printed(false);
        let rows: Vec<&str> = text.lines().skip(2).take(3).collect();
        let width = rows.first().unwrap().len();
        assert!(width <= 110, "{width}");
        assert!(rows.iter().all(|row| row.len() == width), "{text}");
        assert!(
            text.contains("4.2 us") && text.contains("98 ms") && text.contains("1.5 s"),
            "{text}"
        );
        assert!(!text.contains('\x1b') && printed(true).contains('\x1b'));
    }

    #[test]
    fn a_reason_is_said_once() {
        let text = printed(false);
        assert!(text.contains("write_note; read_note: no MCP server"), "{text}");
    }

    #[test]
    fn numbers_have_two_to_three_digits() {
        assert_eq!(
            [0.0009, 0.00994, 0.24, 0.9996, 9.96, 98.4, 999.6, 61_000.0].map(milliseconds),
            [
                "0.9 us", "9.9 us", "240 us", "1.0 ms", "10 ms", "98 ms", "1.0 s", "61 s"
            ]
        );
        assert_eq!([0.95, 1.041, 9.99, 35.4].map(times), ["0.95x", "1.04x", "9.99x", "35x"]);
    }
}
