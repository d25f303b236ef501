//! Findings for people (one line each, what to do below) and for programs (one JSON array).

use std::io::{self, Write};

use serde::Serialize;

use super::{Finding, Outcome, verdict};

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Lines without colour: a pipe, a file, or `NO_COLOR` is set.
    Plain,
    /// Lines with colour, for a terminal.
    Colour,
    /// One JSON array.
    Json,
}

impl Style {
    /// `no_color`: the variable `NO_COLOR` is set and not empty (<https://no-color.org>).
    #[must_use]
    pub fn pick(json: bool, terminal: bool, no_color: bool) -> Style {
        match (json, terminal && !no_color) {
            (true, _) => Style::Json,
            (false, true) => Style::Colour,
            (false, false) => Style::Plain,
        }
    }
}

/// A finding as `check --json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    /// `ok|warning|failed|skipped`
    outcome: &'a str,
    /// What this failure alone would end a start with.
    exit_code: Option<u8>,
    detail: &'a str,
    advice: Option<&'a str>,
    ms: u64,
}

/// Writes every finding, and after lines for people a summary that ends with the verdict.
///
/// # Errors
/// When `out` cannot be written to.
pub fn render(findings: &[Finding], out: &mut dyn Write, style: Style) -> io::Result<()> {
    match style {
        Style::Json => json(findings, out),
        Style::Plain => lines(findings, out, false),
        Style::Colour => lines(findings, out, true),
    }
}

fn json(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let lines: Vec<Line<'_>> = findings
        .iter()
        .map(|finding| Line {
            name: finding.name,
            outcome: mark(finding.outcome).word,
            exit_code: match finding.outcome {
                Outcome::Failed(exit) => Some(exit.code()),
                _ => None,
            },
            detail: &finding.detail,
            advice: finding.advice.as_deref(),
            ms: finding.millis,
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &lines)?;
    writeln!(out)
}

struct Mark {
    word: &'static str,
    sign: &'static str,
    colour: &'static str,
}

fn mark(outcome: Outcome) -> Mark {
    match outcome {
        Outcome::Ok => Mark {
            word: "ok",
            sign: "✓",
            colour: "\x1b[32m",
        },
        Outcome::Warning => Mark {
            word: "warning",
            sign: "!",
            colour: "\x1b[33m",
        },
        Outcome::Failed(_) => Mark {
            word: "failed",
            sign: "✗",
            colour: "\x1b[1;31m",
        },
        Outcome::Skipped => Mark {
            word: "skipped",
            sign: "-",
            colour: "\x1b[2m",
        },
    }
}

fn lines(findings: &[Finding], out: &mut dyn Write, colour: bool) -> io::Result<()> {
    let paint = |text: &str, code: &str| {
        if colour {
            format!("{code}{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    };
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or_default();
    for finding in findings {
        let mark = mark(finding.outcome);
        let name = format!("{:width$}", finding.name);
        let detail = match finding.outcome {
            Outcome::Skipped => paint(&finding.detail, mark.colour),
            _ => finding.detail.clone(),
        };
        writeln!(out, "{} {name}  {detail}", paint(mark.sign, mark.colour))?;
        if let Some(advice) = &finding.advice {
            writeln!(out, "  {:width$}  {}", "", paint(&format!("→ {advice}"), "\x1b[36m"))?;
        }
    }
    let count = |wanted: &str| {
        findings
            .iter()
            .filter(|finding| mark(finding.outcome).word == wanted)
            .count()
    };
    let (failed, warnings) = (count("failed"), count("warning"));
    writeln!(out)?;
    match verdict(findings) {
        Some((exit, why)) => {
            let more = if failed > 1 {
                format!(" (and {} more)", failed - 1)
            } else {
                String::new()
            };
            let sign = paint("✗", mark(Outcome::Failed(exit)).colour);
            writeln!(
                out,
                "{sign} A start would fail with exit code {}: {why}{more}",
                exit.code()
            )
        }
        None => {
            let noted = match warnings {
                0 => String::new(),
                1 => ", with 1 warning".to_owned(),
                more => format!(", with {more} warnings"),
            };
            writeln!(
                out,
                "{} Everything a start needs is here{noted}",
                paint("✓", mark(Outcome::Ok).colour)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("key", "accepted"),
            Finding::failed("bucket", Exit::Config, "bucket notes does not exist", "create it"),
            Finding::warning("clock", "40 s behind", "set it"),
            Finding::skipped("tenant", "none"),
        ]
    }

    fn rendered(findings: &[Finding], style: Style) -> String {
        let mut out = Vec::new();
        render(findings, &mut out, style).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_each_advice_below_and_a_last_line_that_says_it_all() {
        let expected = "\
✓ key     accepted
✗ bucket  bucket notes does not exist
          → create it
! clock   40 s behind
          → set it
- tenant  none

✗ A start would fail with exit code 78: bucket notes does not exist; create it
";
        assert_eq!(rendered(&findings(), Style::Plain), expected);
    }

    #[test]
    fn colour_only_adds_escapes() {
        let coloured = rendered(&findings(), Style::Colour);
        assert!(coloured.contains("\x1b[1;31m✗\x1b[0m bucket"), "{coloured}");
        let plain = regex_free_strip(&coloured);
        assert_eq!(plain, rendered(&findings(), Style::Plain));
    }

    fn regex_free_strip(text: &str) -> String {
        let mut parts = text.split('\x1b');
        let mut plain = parts.next().unwrap().to_owned();
        parts.for_each(|part| plain.push_str(part.split_once('m').unwrap().1));
        plain
    }

    #[test]
    fn json_is_an_array_of_the_same_findings() {
        let parsed: serde_json::Value = serde_json::from_str(&rendered(&findings(), Style::Json)).unwrap();
        assert_eq!(parsed[1]["name"], "bucket");
        assert_eq!(parsed[1]["outcome"], "failed");
        assert_eq!(parsed[1]["exit_code"], 78);
        assert_eq!(parsed[1]["advice"], "create it");
        assert_eq!(parsed[0]["exit_code"], serde_json::Value::Null);
        assert_eq!(parsed[3]["outcome"], "skipped");
    }

    #[test]
    fn a_success_counts_its_warnings() {
        let text = rendered(&[Finding::ok("a", "b"), Finding::warning("c", "d", "e")], Style::Plain);
        assert!(
            text.ends_with("✓ Everything a start needs is here, with 1 warning\n"),
            "{text}"
        );
    }

    #[test]
    fn no_color_and_pipes_are_plain() {
        assert_eq!(Style::pick(false, true, false), Style::Colour);
        assert_eq!(Style::pick(false, true, true), Style::Plain);
        assert_eq!(Style::pick(false, false, false), Style::Plain);
        assert_eq!(Style::pick(true, true, false), Style::Json);
    }
}
