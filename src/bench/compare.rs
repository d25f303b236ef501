//! This result against an earlier one.
//!
//! Machines differ and the same machine is not the same twice, so a measure with a local counterpart is judged by its ratio
//! to it: both sides were measured in the same moment. The others can only be judged by their time. A change counts when
//! the 95 % intervals of the two do not touch and it is more than a tenth; with fewer than six samples, whose interval is
//! only their range, more than half.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::measure::Measure;
use super::report::{Measured, VERSION};
use super::stats::Summary;

/// A smaller change is noise or does not matter.
const MATTERS: f64 = 1.1;
/// The same for measures with few samples.
const MATTERS_FEW: f64 = 1.5;
/// Below this the interval of a median is its range.
const FEW: usize = 6;
/// With fewer nothing is said.
const FEWEST: usize = 3;

/// An earlier result, as far as it is needed.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    program: String,
    at: String,
    measures: Vec<Past>,
}

/// One measure of it.
#[derive(Debug, Clone)]
struct Past {
    name: Measure,
    mount: Summary,
    local: Option<Summary>,
}

/// Against the earlier result.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// When the earlier run began.
    pub at: String,
    /// Version of tenant-init then.
    pub program: String,
    /// What both have.
    pub changes: Vec<Change>,
    /// Slower than then.
    pub slower: Vec<Measure>,
    /// Faster than then.
    pub faster: Vec<Measure>,
    /// Measured then and not now.
    pub missing: Vec<Measure>,
}

/// One measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Which one.
    pub name: Measure,
    /// What `before` and `now` are.
    pub by: By,
    /// Then.
    pub before: f64,
    /// Now.
    pub now: f64,
    /// What follows.
    pub verdict: Verdict,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// The ratio to local disk.
    Ratio,
    /// The median in milliseconds.
    Milliseconds,
}

/// What a change means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// More than the noise.
    Slower,
    /// Less than the noise.
    Faster,
    /// Within the noise.
    Same,
    /// Too few samples to say.
    Unknown,
}

/// Reads an earlier result.
///
/// # Errors
/// In words.
pub(super) fn read(file: &Path) -> Result<Earlier, String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Earlier, String> {
    const NOT_OURS: &str = "not a result of `tenant-init bench --json`";
    let raw: Value = serde_json::from_slice(text).map_err(|error| format!("{NOT_OURS} ({error})"))?;
    let (Some(version), Some(measures)) = (raw["version"].as_u64(), raw["measures"].as_array()) else {
        return Err(NOT_OURS.to_owned());
    };
    if version != u64::from(VERSION) {
        return Err(format!(
            "a result of version {version}, this tenant-init reads {VERSION}"
        ));
    }
    let word = |name: &str| raw[name].as_str().unwrap_or("?").to_owned();
    Ok(Earlier {
        program: word("program"),
        at: word("at"),
        // Another version of tenant-init may have measured what we do not know.
        measures: measures.iter().filter_map(past).collect(),
    })
}

fn past(value: &Value) -> Option<Past> {
    Some(Past {
        name: Measure::named(value["name"].as_str()?)?,
        mount: summary(&value["mount"])?,
        local: summary(&value["local"]),
    })
}

fn summary(value: &Value) -> Option<Summary> {
    let time = |name: &str| value[name].as_f64().filter(|time| *time > 0.0);
    Some(Summary {
        samples: usize::try_from(value["samples"].as_u64()?).ok()?,
        median_ms: time("median_ms")?,
        low_ms: time("low_ms")?,
        high_ms: time("high_ms")?,
        p95_ms: time("p95_ms")?,
        p99_ms: time("p99_ms")?,
    })
}

/// Compares what both have. `asked`: was the measure asked for in this run?
pub(super) fn compare(earlier: &Earlier, now: &[Measured], asked: impl Fn(Measure) -> bool) -> Comparison {
    let mut comparison = Comparison {
        at: earlier.at.clone(),
        program: earlier.program.clone(),
        changes: Vec::new(),
        slower: Vec::new(),
        faster: Vec::new(),
        missing: Vec::new(),
    };
    for before in &earlier.measures {
        let Some(now) = now.iter().find(|now| now.name == before.name) else {
            if asked(before.name) {
                comparison.missing.push(before.name);
            }
            continue;
        };
        let change = change(before, now);
        match change.verdict {
            Verdict::Slower => comparison.slower.push(change.name),
            Verdict::Faster => comparison.faster.push(change.name),
            Verdict::Same | Verdict::Unknown => {}
        }
        comparison.changes.push(change);
    }
    comparison
}

/// A value that is known to lie between two others.
struct Between {
    low: f64,
    value: f64,
    high: f64,
    samples: usize,
}

impl Between {
    fn ratio(mount: &Summary, local: &Summary) -> Between {
        Between {
            low: mount.low_ms / local.high_ms,
            value: mount.median_ms / local.median_ms,
            high: mount.high_ms / local.low_ms,
            samples: mount.samples.min(local.samples),
        }
    }

    fn time(mount: &Summary) -> Between {
        Between {
            low: mount.low_ms,
            value: mount.median_ms,
            high: mount.high_ms,
            samples: mount.samples,
        }
    }
}

fn change(before: &Past, now: &Measured) -> Change {
    let (by, then, this) = match (&before.local, &now.local) {
        (Some(then), Some(this)) => (
            By::Ratio,
            Between::ratio(&before.mount, then),
            Between::ratio(&now.mount, this),
        ),
        _ => (
            By::Milliseconds,
            Between::time(&before.mount),
            Between::time(&now.mount),
        ),
    };
    Change {
        name: now.name,
        by,
        before: then.value,
        now: this.value,
        verdict: verdict(&then, &this),
    }
}

fn verdict(before: &Between, now: &Between) -> Verdict {
    let samples = before.samples.min(now.samples);
    let matters = if samples < FEW { MATTERS_FEW } else { MATTERS };
    if samples < FEWEST {
        Verdict::Unknown
    } else if now.low > before.high && now.value > before.value * matters {
        Verdict::Slower
    } else if now.high < before.low && now.value * matters < before.value {
        Verdict::Faster
    } else {
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(samples: usize, median: f64) -> Summary {
        Summary {
            samples,
            median_ms: median,
            low_ms: median * 0.97,
            high_ms: median * 1.03,
            p95_ms: median * 2.0,
            p99_ms: median * 3.0,
        }
    }

    fn measured(samples: usize, mount: f64, local: Option<f64>) -> Measured {
        Measured {
            name: Measure::Create,
            what: "create",
            mount: around(samples, mount),
            local: local.map(|local| around(samples, local)),
            ratio: local.map(|local| mount / local),
        }
    }

    fn past(measured: &Measured) -> Past {
        Past {
            name: measured.name,
            mount: measured.mount,
            local: measured.local,
        }
    }

    fn said(before: Measured, now: Measured) -> Verdict {
        change(&past(&before), &now).verdict
    }

    #[test]
    fn a_slower_machine_is_no_regression() {
        assert_eq!(
            said(measured(100, 4.0, Some(0.1)), measured(100, 8.0, Some(0.2))),
            Verdict::Same
        );
        assert_eq!(
            said(measured(100, 4.0, Some(0.1)), measured(100, 8.0, Some(0.1))),
            Verdict::Slower
        );
        assert_eq!(
            said(measured(100, 4.0, Some(0.1)), measured(100, 2.0, Some(0.1))),
            Verdict::Faster
        );
    }

    #[test]
    fn a_change_within_the_noise_or_of_a_few_percent_is_none() {
        assert_eq!(said(measured(100, 4.0, None), measured(100, 4.3, None)), Verdict::Same);
        assert_eq!(
            said(measured(100, 4.0, None), measured(100, 4.9, None)),
            Verdict::Slower
        );
        // Both sides vary: the ratio is less sure than either.
        assert_eq!(
            said(measured(100, 4.0, Some(1.0)), measured(100, 4.4, Some(1.0))),
            Verdict::Same
        );
    }

    #[test]
    fn few_samples_say_little_and_two_nothing() {
        assert_eq!(said(measured(4, 4.0, None), measured(4, 5.0, None)), Verdict::Same);
        assert_eq!(said(measured(4, 4.0, None), measured(4, 8.0, None)), Verdict::Slower);
        assert_eq!(
            said(measured(2, 4.0, None), measured(100, 80.0, None)),
            Verdict::Unknown
        );
    }

    #[test]
    fn only_what_was_asked_for_can_be_missing() {
        let earlier = Earlier {
            program: "0.1.0".into(),
            at: String::new(),
            measures: vec![past(&measured(100, 4.0, None))],
        };
        assert_eq!(compare(&earlier, &[], |_| true).missing, [Measure::Create]);
        assert_eq!(compare(&earlier, &[], |_| false).missing, []);
        let comparison = compare(&earlier, &[measured(100, 9.0, None)], |_| true);
        assert_eq!((comparison.slower, comparison.missing), (vec![Measure::Create], vec![]));
    }

    #[test]
    fn what_is_no_result_is_refused_and_unknown_measures_are_left_out() {
        assert!(parse(b"[]").unwrap_err().contains("not a result"));
        assert!(parse(b"{}").unwrap_err().contains("not a result"));
        let known = serde_json::to_string(&measured(9, 1.0, None)).unwrap();
        let text = |version: u32| {
            format!(r#"{{"version":{version},"program":"9","at":"","measures":[{known},{{"name":"teleport"}}]}}"#)
        };
        assert_eq!(parse(text(1).as_bytes()).unwrap().measures.len(), 1);
        assert!(parse(text(2).as_bytes()).unwrap_err().contains("version 2"));
    }
}
