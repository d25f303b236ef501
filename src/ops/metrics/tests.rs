use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ops::testing::{degraded, healthy, starting};

fn expose(snapshot: Snapshot, format: Format) -> String {
    let metrics = Arc::new(Metrics::default());
    metrics.operations.operation("read", Duration::from_micros(120), None);
    metrics
        .operations
        .operation("lookup", Duration::from_millis(3), Some("NFS3ERR_NOENT"));
    metrics.change_visible(Duration::from_millis(800));
    metrics.orphans_reaped(3);
    metrics.expose(&Arc::new(snapshot), format).unwrap()
}

/// The contract: every family with its type, in the classic format, whose names are those of the samples.
#[test]
fn exactly_the_documented_families() {
    let text = expose(degraded(), Format::Classic);
    let families: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert_eq!(
        families,
        [
            "tenant_ready gauge",
            "tenant_phase gauge",
            "tenant_service_restarts_total counter",
            "tenant_orphans_reaped_total counter",
            "tenant_resumes_total counter",
            "tenant_outage_seconds_total counter",
            "tenant_mount_operation_seconds histogram",
            "tenant_mount_operation_errors_total counter",
            "tenant_uploads_queued gauge",
            "tenant_uploads_queued_bytes gauge",
            "tenant_uploads_oldest_seconds gauge",
            "tenant_upload_failures_total counter",
            "tenant_mount_read_only gauge",
            "tenant_cache_room_bytes gauge",
            "tenant_index_outbox_transactions gauge",
            "tenant_index_lag_seconds gauge",
            "tenant_lease_held gauge",
            "tenant_storage_probe_seconds gauge",
            "tenant_database_probe_seconds gauge",
            "tenant_storage_slow_downs_total counter",
            "tenant_remote_changes_total counter",
            "tenant_remote_change_visible_seconds histogram",
        ]
    );
    let documented = include_str!("../../../docs/METRICS.md");
    for family in families {
        let name = family.split(' ').next().unwrap();
        assert!(
            documented.contains(&format!("`{name}")),
            "docs/METRICS.md says nothing about {name}"
        );
    }
}

#[test]
fn values_come_from_the_picture_and_the_measurements() {
    let text = expose(degraded(), Format::OpenMetrics);
    for line in [
        "tenant_ready 0.0",
        "tenant_phase{phase=\"degraded\"} 1.0",
        "tenant_phase{phase=\"ready\"} 0.0",
        "tenant_service_restarts_total{service=\"mount\",cause=\"stuck\"} 1",
        "tenant_orphans_reaped_total 3",
        "tenant_outage_seconds_total{dependency=\"storage\"} 14.5",
        "tenant_outage_seconds_total{dependency=\"database\"} 0.0",
        "tenant_mount_operation_seconds_bucket{le=\"0.0001\",operation=\"read\"} 0",
        "tenant_mount_operation_seconds_bucket{le=\"0.0002\",operation=\"read\"} 1",
        "tenant_mount_operation_seconds_bucket{le=\"+Inf\",operation=\"read\"} 1",
        "tenant_mount_operation_seconds_count{operation=\"lookup\"} 1",
        "tenant_mount_operation_errors_total{operation=\"lookup\",error=\"NFS3ERR_NOENT\"} 1",
        "tenant_uploads_queued 12.0",
        "tenant_uploads_queued_bytes 5400000.0",
        "tenant_uploads_oldest_seconds 73.4",
        "tenant_upload_failures_total 19",
        "tenant_index_outbox_transactions 3.0",
        "tenant_index_lag_seconds 2.5",
        "tenant_lease_held 1.0",
        "tenant_storage_probe_seconds 0.01825",
        "tenant_remote_changes_total{kind=\"create\"} 3",
        "tenant_remote_change_visible_seconds_sum 0.8",
    ] {
        assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_probe_that_never_succeeded_has_no_sample() {
    let text = expose(starting(), Format::OpenMetrics);
    assert!(text.contains("# TYPE tenant_storage_probe_seconds gauge"));
    assert!(
        !text
            .lines()
            .any(|line| line.starts_with("tenant_storage_probe_seconds"))
    );
}

#[test]
fn the_lease_has_a_sample_only_where_there_is_one() {
    let mut snapshot = healthy();
    snapshot.lease = crate::core::snapshot::Lease::default();
    let waiting = expose(snapshot.clone(), Format::OpenMetrics);
    assert!(waiting.lines().any(|line| line == "tenant_lease_held 0.0"), "{waiting}");
    snapshot.services.index.driver = Some("local".into());
    let alone = expose(snapshot, Format::OpenMetrics);
    assert!(!alone.lines().any(|line| line.starts_with("tenant_lease_held")));
}

#[test]
fn label_values_cannot_break_a_line() {
    let mut snapshot = healthy();
    snapshot.changes.seen.insert("a\"b\\c\nd".into(), 1);
    let text = expose(snapshot, Format::OpenMetrics);
    assert!(
        text.contains(r#"tenant_remote_changes_total{kind="a\"b\\c\nd"} 1"#),
        "{text}"
    );
}

#[test]
fn the_number_of_series_is_bounded() {
    let mut snapshot = healthy();
    for n in 0..10_000 {
        snapshot.changes.seen.insert(format!("kind{n}"), 1);
        snapshot.services.app.restarts_by_cause.insert(format!("cause{n}"), 1);
    }
    let text = expose(snapshot, Format::OpenMetrics);
    assert!(text.lines().count() < 400, "{} lines", text.lines().count());
}

#[test]
fn format_is_what_the_scraper_asks_for() {
    // Prometheus 2 and 3, the reference client's old default, curl, a browser.
    let new = "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    assert_eq!(Format::negotiate(Some(new)), Format::OpenMetrics);
    assert_eq!(
        Format::negotiate(Some("text/plain;version=0.0.4;q=0.3,*/*;q=0.1")),
        Format::Classic
    );
    assert_eq!(Format::negotiate(Some("*/*")), Format::OpenMetrics);
    assert_eq!(Format::negotiate(None), Format::OpenMetrics);
    assert_eq!(
        Format::negotiate(Some("text/html,application/xhtml+xml,*/*;q=0.8")),
        Format::Classic
    );
}

#[test]
fn the_classic_format_has_no_openmetrics_lines() {
    let text = expose(degraded(), Format::Classic);
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    let help = "# HELP tenant_outage_seconds_total Time a dependency was unreachable\n# TYPE tenant_outage_seconds_total counter\ntenant_outage_seconds_total{";
    assert!(text.contains(help), "{text}");
}
