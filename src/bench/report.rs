//! A result: what was measured, what was not and why, on what machine. It is what `--json` prints and `--compare` reads.

use nix::unistd::{SysconfVar, sysconf};
use serde::Serialize;

use super::compare::Comparison;
use super::measure::Measure;
use super::place::Place;
use super::sides::Samples;
use super::stats::Summary;

/// Version of the format. A field may be added without a new one.
pub const VERSION: u32 = 1;

/// Everything.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// Version of tenant-init.
    pub program: String,
    /// RFC 3339, when the run began.
    pub at: String,
    /// The machine.
    pub machine: Machine,
    /// File system type of the mount: `nfs`, `fuse.rclone`, …
    pub mount: String,
    /// File system type of the local disk.
    pub local: String,
    /// `--samples`.
    pub samples: usize,
    /// What was measured.
    pub measures: Vec<Measured>,
    /// What was not.
    pub skipped: Vec<Skipped>,
    /// What a reader of the numbers should know.
    pub remarks: Vec<String>,
    /// With `--compare`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
}

/// What the numbers depend on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Machine {
    /// Kernel release.
    pub kernel: String,
    /// Processors.
    pub cpus: usize,
    /// Memory in MB.
    pub memory_mb: u64,
    /// Load of the last minute when the run began.
    pub load: f64,
}

/// One measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// Which one.
    pub name: Measure,
    /// For people.
    pub what: &'static str,
    /// On the mount.
    pub mount: Summary,
    /// On local disk; `None` when there is nothing to compare with.
    pub local: Option<Summary>,
    /// Median on the mount over median on local disk.
    pub ratio: Option<f64>,
}

/// What was not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Skipped {
    /// Which one.
    pub name: Measure,
    /// Why not.
    pub reason: String,
}

impl Report {
    /// A report without measures.
    pub(super) fn begin(place: &Place, samples: usize) -> Report {
        let mut remarks = Vec::new();
        if matches!(place.local_type.as_str(), "tmpfs" | "ramfs") {
            remarks.push("the local disk is memory (tmpfs): ratios are higher than on a disk".to_owned());
        }
        if matches!(place.local_type.as_str(), "nfs" | "nfs4") || place.local_type.starts_with("fuse") {
            remarks.push(format!(
                "the local disk is {}: ratios are lower than on a disk",
                place.local_type
            ));
        }
        Report {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            at: jiff::Timestamp::now()
                .round(jiff::Unit::Second)
                .unwrap_or_default()
                .to_string(),
            machine: Machine::read(),
            mount: place.entry.fstype.clone(),
            local: place.local_type.clone(),
            samples,
            measures: Vec::new(),
            skipped: Vec::new(),
            remarks,
            comparison: None,
        }
    }

    /// Takes the samples of one measure; its line for people. Nothing without samples on the mount.
    pub(super) fn add(&mut self, name: Measure, samples: &Samples) -> Option<&Measured> {
        let mount = Summary::of(&samples.mount)?;
        let local = Summary::of(&samples.local);
        let ratio = local
            .map(|local| mount.median_ms / local.median_ms)
            .filter(|ratio| ratio.is_finite());
        let measured = Measured {
            name,
            what: name.what(),
            mount,
            local,
            ratio,
        };
        // In the order of the table, whatever order they were measured in.
        let index = self.measures.partition_point(|known| known.name < name);
        self.measures.insert(index, measured);
        self.measures.get(index)
    }

    /// Notes that something was not measured; the first reason stays.
    pub(super) fn skip(&mut self, name: Measure, reason: impl Into<String>) {
        let known = self.skipped.iter().any(|skipped| skipped.name == name);
        if !known && !self.measures.iter().any(|measured| measured.name == name) {
            let reason = reason.into();
            let index = self.skipped.partition_point(|known| known.name < name);
            self.skipped.insert(index, Skipped { name, reason });
        }
    }
}

impl Machine {
    fn read() -> Machine {
        let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let total = text("/proc/meminfo").lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
        });
        Machine {
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpus: sysconf(SysconfVar::_NPROCESSORS_ONLN)
                .ok()
                .flatten()
                .and_then(|count| usize::try_from(count).ok())
                .unwrap_or_default(),
            memory_mb: total.unwrap_or_default() / 1000,
            load: text("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        }
    }
}
