//! `GET /metrics`: the names fixed in `docs/METRICS.md`, in OpenMetrics text.
//!
//! Nothing is counted twice. Whatever the [`Snapshot`] knows is read from it at scrape time by a collector; only what
//! happens too often to pass through it (operations, changes becoming visible) is recorded live. Label values come
//! from closed sets, and [`LABELS`] bounds them even if a set turns out not to be closed.

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::core::snapshot::{Phase, Service, Snapshot};
use crate::ops::operations::{Histogram, Operations, Reading};

/// Time series of one label that are shown at most; the scrape stays small whatever a map holds.
const LABELS: usize = 32;

/// Dependencies that always have a series, so that `increase()` sees their first outage too.
const DEPENDENCIES: [&str; 2] = ["database", "storage"];

/// What is measured live. One per process, shared with whoever measures.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Operations on the mount; the NFS guard's observer.
    pub operations: Arc<Operations>,
    change_visible: Histogram,
    orphans_reaped: AtomicU64,
}

impl Metrics {
    /// A change made elsewhere is now visible on the mount, `elapsed` after it was made.
    pub fn change_visible(&self, elapsed: Duration) {
        self.change_visible.record(elapsed);
    }

    /// `count` more processes that were not our children were reaped.
    pub fn orphans_reaped(&self, count: u64) {
        self.orphans_reaped.fetch_add(count, Relaxed);
    }

    /// The whole exposition. Fails only if a value cannot be written as text, which would be a bug.
    pub fn expose(self: &Arc<Self>, snapshot: &Arc<Snapshot>, format: Format) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("tenant");
        registry.register_collector(Box::new(Scrape {
            snapshot: Arc::clone(snapshot),
            metrics: Arc::clone(self),
        }));
        let mut exposition = String::with_capacity(32 * 1024);
        text::encode(&mut exposition, &registry)?;
        Ok(match format {
            Format::OpenMetrics => exposition,
            Format::Classic => classic(&exposition),
        })
    }
}

/// The two text formats scrapers ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0, what we write unless asked for the other.
    OpenMetrics,
    /// The Prometheus text format 0.0.4 of scrapers from before 2018; a browser can show it.
    Classic,
}

impl Format {
    /// Chooses by the request's `Accept` header.
    #[must_use]
    pub fn negotiate(accept: Option<&str>) -> Self {
        let accept = accept.unwrap_or_default();
        let plain_only = accept.contains("text/") && !accept.contains("application/openmetrics-text");
        if plain_only {
            Format::Classic
        } else {
            Format::OpenMetrics
        }
    }

    /// The `Content-Type` to answer with.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Format::Classic => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// OpenMetrics names a counter's family without `_total`, the classic format with it; `UNIT` and `EOF` are new. The
/// encoder writes `HELP` right before `TYPE`, so one line of memory is enough.
fn classic(exposition: &str) -> String {
    let mut out = String::with_capacity(exposition.len());
    let mut help = None;
    for line in exposition.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
            continue;
        }
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let total = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                let _ = writeln!(out, "# HELP {name}{total} {words}");
            }
            let _ = writeln!(out, "# TYPE {name}{total} {kind}");
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// One scrape: the picture, the live measurements, and how to write them.
#[derive(Debug)]
struct Scrape {
    snapshot: Arc<Snapshot>,
    metrics: Arc<Metrics>,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(&mut encoder);
        self.state(&mut out)?;
        self.mount(&mut out)?;
        self.storing(&mut out)?;
        self.elsewhere(&mut out)
    }
}

impl Scrape {
    fn state(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let snapshot = &self.snapshot;
        let ready = u8::from(snapshot.ready);
        out.gauge(
            "ready",
            None,
            "1 while traffic may be sent to this tenant",
            [([], f64::from(ready))],
        )?;
        let phases = Phase::ALL.map(|phase| ([("phase", phase.name())], f64::from(u8::from(phase == snapshot.phase))));
        out.gauge(
            "phase",
            None,
            "1 for the phase the tenant is in, 0 for the others",
            phases,
        )?;
        let services = &snapshot.services;
        let restarts = [
            ("mount", &services.mount),
            ("index", &services.index),
            ("app", &services.app),
        ]
        .into_iter()
        .flat_map(|(name, service)| restarts(name, service));
        out.counter("service_restarts", None, "Restarts of a service, by cause", restarts)?;
        let orphans = self.metrics.orphans_reaped.load(Relaxed);
        out.counter(
            "orphans_reaped",
            None,
            "Processes reaped that others left behind",
            [([], orphans)],
        )?;
        let help = "Returns from a suspension or a stall of more than 5 s";
        out.counter("resumes", None, help, [([], snapshot.totals.resumes)])?;
        let outages = &snapshot.totals.outage_seconds;
        let unknown = DEPENDENCIES
            .iter()
            .filter(|name| !outages.contains_key(**name))
            .map(|name| (*name, 0.0));
        let outages = outages
            .iter()
            .take(LABELS)
            .map(|(name, seconds)| (name.as_str(), *seconds))
            .chain(unknown);
        let outages = outages.map(|(name, seconds)| ([("dependency", name)], seconds));
        out.counter(
            "outage",
            Some(Unit::Seconds),
            "Time a dependency was unreachable",
            outages,
        )
    }

    fn mount(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let operations = &self.metrics.operations;
        let latencies = operations
            .histograms()
            .map(|(name, reading)| ([("operation", name)], reading));
        let help = "Time to answer an operation on the mount";
        out.histogram("mount_operation", help, latencies)?;
        let errors = operations
            .errors()
            .map(|(name, error, count)| ([("operation", name), ("error", error)], count));
        let help = "Operations on the mount answered with an error";
        out.counter("mount_operation_errors", None, help, errors)
    }

    #[allow(clippy::cast_precision_loss, reason = "counts and bytes stay far below 2^53")]
    fn storing(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let uploads = &self.snapshot.uploads;
        let help = "Files acknowledged to the app and not yet in the bucket";
        out.gauge("uploads_queued", None, help, [([], uploads.queued as f64)])?;
        out.gauge(
            "uploads_queued",
            Some(Unit::Bytes),
            "Size of these files",
            [([], uploads.bytes as f64)],
        )?;
        let help = "Time since the oldest of these files was queued";
        out.gauge(
            "uploads_oldest",
            Some(Unit::Seconds),
            help,
            [([], uploads.oldest_seconds)],
        )?;
        out.counter(
            "upload_failures",
            None,
            "Upload attempts that failed",
            [([], uploads.failures_total)],
        )?;
        let read_only = f64::from(u8::from(uploads.read_only));
        let help = "1 while the mount is read-only because uploads do not get through or the cache is full";
        out.gauge("mount_read_only", None, help, [([], read_only)])?;
        let room = uploads.room_bytes.map(|bytes| ([], bytes as f64));
        let help = "Room for new writes on the disk of the cache; none before the first look";
        out.gauge("cache_room", Some(Unit::Bytes), help, room)?;
        let index = &self.snapshot.index;
        let help = "Transactions committed locally and not yet in the database";
        out.gauge("index_outbox_transactions", None, help, [([], index.outbox as f64)])?;
        out.gauge(
            "index_lag",
            Some(Unit::Seconds),
            "Age of the oldest of them",
            [([], index.lag_seconds)],
        )?;
        // A tenant without an index database has no lease that it could lose.
        let lease = &self.snapshot.lease;
        let leased = lease.held || self.snapshot.services.index.driver.as_deref() == Some("libsql");
        let held = leased.then(|| ([], f64::from(u8::from(lease.held))));
        let help = "1 while this machine holds the tenant's lease; none without an index database";
        out.gauge("lease_held", None, help, held)
    }

    fn elsewhere(&self, out: &mut Families<'_, '_>) -> fmt::Result {
        let probe = |latency_ms: Option<f64>| latency_ms.map(|milliseconds| ([], milliseconds / 1e3));
        let help = "How long the last successful probe of the bucket took; none before the first";
        out.gauge(
            "storage_probe",
            Some(Unit::Seconds),
            help,
            probe(self.snapshot.storage.latency_ms),
        )?;
        let help = "How long the last successful probe of the database took; none before the first";
        out.gauge(
            "database_probe",
            Some(Unit::Seconds),
            help,
            probe(self.snapshot.database.latency_ms),
        )?;
        let slow_downs = self.snapshot.totals.slow_downs;
        let help = "Answers of the bucket's store that asked us to slow down";
        out.counter("storage_slow_downs", None, help, [([], slow_downs)])?;
        let seen = self.snapshot.changes.seen.iter().take(LABELS);
        let seen = seen.map(|(kind, count)| ([("kind", kind.as_str())], *count));
        out.counter("remote_changes", None, "Changes made elsewhere that were seen", seen)?;
        let visible = [([], self.metrics.change_visible.read())];
        out.histogram(
            "remote_change_visible",
            "Time from a change made elsewhere to its visibility here",
            visible,
        )
    }
}

type Label<'a> = (&'a str, &'a str);

fn restarts<'a>(name: &'a str, service: &'a Service) -> impl Iterator<Item = ([Label<'a>; 2], u64)> {
    let causes = service.restarts_by_cause.iter().take(LABELS);
    causes.map(move |(cause, count)| ([("service", name), ("cause", cause.as_str())], *count))
}

/// Writes metric families: a descriptor and then its samples. A sample without labels is written without braces, as
/// people expect to read it.
struct Families<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Families<'_, '_> {
    fn gauge<'s, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'s>; N], impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            match N {
                0 => family.encode_gauge(&value)?,
                _ => family.encode_family(&labels)?.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn counter<'s, const N: usize>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'s>; N], impl EncodeCounterValue)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            let no_exemplar = None::<&Exemplar<NoLabelSet, f64>>;
            match N {
                0 => family.encode_counter(&value, no_exemplar)?,
                _ => family.encode_family(&labels)?.encode_counter(&value, no_exemplar)?,
            }
        }
        Ok(())
    }

    /// In seconds.
    fn histogram<'s, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = ([Label<'s>; N], Reading)>,
    ) -> fmt::Result
    where
        [Label<'s>; N]: EncodeLabelSet,
    {
        let mut family = self
            .0
            .encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, reading) in samples {
            let (sum, count, buckets) = (reading.sum_seconds(), reading.count(), reading.buckets());
            match N {
                0 => family.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
                _ => family
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
