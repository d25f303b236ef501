//! The one picture of a tenant that everyone reads: HTTP, metrics, `status`. Published after each step, never changed
//! in place. Field names and values are the contract of design section 9.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole of `GET /status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Version of tenant-init.
    pub version: String,
    /// Tenant id; empty when none was given.
    pub tenant: String,
    /// Where in its life the tenant is.
    pub phase: Phase,
    /// May traffic be sent here?
    pub ready: bool,
    /// Why not ready, or what is degraded: `code: words`. Codes are listed in `docs/RUNBOOK.md`.
    pub reasons: Vec<String>,
    /// RFC 3339, when `phase` was entered.
    pub since: String,
    /// The services.
    pub services: Services,
    /// Writes acknowledged to the app and not yet in the bucket.
    pub uploads: Uploads,
    /// The index and its way to the database.
    pub index: IndexState,
    /// The bucket, as the last probe saw it.
    pub storage: Dependency,
    /// The index database, as the last probe saw it.
    pub database: Dependency,
    /// The single-writer lease.
    pub lease: Lease,
    /// Mount operations by name.
    pub operations: BTreeMap<String, Operation>,
    /// Changes made elsewhere.
    pub changes: Changes,
    /// Seconds each dependency was unreachable since the start, and how many orphans were reaped (metrics only).
    pub totals: Totals,
}

/// Where in its life a tenant is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Not ready for the first time yet, or recovering a service.
    Starting,
    /// Everything works.
    Ready,
    /// Works, but something it depends on does not.
    Degraded,
    /// Asked to stop, or giving up; draining.
    Stopping,
    /// Only the verdict is left.
    Stopped,
}

impl Phase {
    /// All phases, for the `tenant_phase` metric.
    pub const ALL: [Phase; 5] = [
        Phase::Starting,
        Phase::Ready,
        Phase::Degraded,
        Phase::Stopping,
        Phase::Stopped,
    ];

    /// The name used in `/status` and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Degraded => "degraded",
            Phase::Stopping => "stopping",
            Phase::Stopped => "stopped",
        }
    }
}

/// The three services of a tenant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Services {
    /// The mounter (rclone) and the mount.
    pub mount: Service,
    /// The index.
    pub index: Service,
    /// The app.
    pub app: Service,
}

/// One service.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// `waiting|starting|ready|degraded|recovering|stopping|stopped|failed`; for the index also `local`.
    pub state: String,
    /// Its process, when it has one.
    pub pid: Option<u32>,
    /// `nfs|fuse` for the mount, `local|libsql` for the index.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub driver: Option<String>,
    /// Restarts since the start, all causes.
    pub restarts: u64,
    /// Restarts by cause (metrics).
    #[serde(default)]
    pub restarts_by_cause: BTreeMap<String, u64>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

/// The upload queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Uploads {
    /// Files waiting or being uploaded.
    pub queued: u64,
    /// Of these, being uploaded now.
    pub in_progress: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Seconds since the oldest of them was queued.
    pub oldest_seconds: f64,
    /// Of these, tried and failed at least once.
    pub failing: u64,
    /// Failed upload attempts seen since the start (metrics).
    #[serde(default)]
    pub failures_total: u64,
    /// Is the mount read-only because they do not get through?
    #[serde(default)]
    pub read_only: bool,
    /// Bytes of room for new writes on the cache's disk; `None` before the first look.
    #[serde(default)]
    pub room_bytes: Option<u64>,
}

/// The index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexState {
    /// Transactions committed locally and not yet in the database.
    pub outbox: u64,
    /// Age of the oldest of them in seconds.
    pub lag_seconds: f64,
    /// Sequence number of the last transaction in the database.
    pub position: Option<u64>,
}

/// A service elsewhere that the tenant depends on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dependency {
    /// Did the last probe succeed? `None` before the first one, or when the tenant has no such dependency.
    pub reachable: Option<bool>,
    /// How long the last successful probe took, in milliseconds.
    pub latency_ms: Option<f64>,
    /// RFC 3339, the last success.
    pub last_ok: Option<String>,
    /// The last failure in words.
    pub last_error: Option<String>,
}

/// The single-writer lease.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Lease {
    /// Do we hold it?
    pub held: bool,
    /// Our epoch.
    pub epoch: Option<u64>,
}

/// One kind of mount operation.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// How many.
    pub count: u64,
    /// Of these, answered with an error.
    pub errors: u64,
    /// Median in milliseconds.
    pub p50_ms: f64,
    /// 99th percentile in milliseconds.
    pub p99_ms: f64,
}

/// Changes made elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Is the bucket watched?
    pub watching: bool,
    /// Changes seen by kind.
    pub seen: BTreeMap<String, u64>,
}

/// Counters that only the metrics show.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Seconds unreachable, by dependency.
    pub outage_seconds: BTreeMap<String, f64>,
    /// How often this machine came back from a suspension or a long stall.
    #[serde(default)]
    pub resumes: u64,
    /// Answers of the bucket's store that asked us to slow down.
    #[serde(default)]
    pub slow_downs: u64,
}
