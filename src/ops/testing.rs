//! Pictures of tenants for the tests of this module.

use std::collections::BTreeMap;

use crate::core::snapshot::{
    Changes, Dependency, IndexState, Lease, Operation, Phase, Service, Services, Snapshot, Totals, Uploads,
};

fn service(state: &str, pid: u32) -> Service {
    Service {
        state: state.into(),
        pid: Some(pid),
        ..Service::default()
    }
}

fn reachable(latency_ms: f64) -> Dependency {
    Dependency {
        reachable: Some(true),
        latency_ms: Some(latency_ms),
        last_ok: Some("2026-01-02T03:04:05Z".into()),
        last_error: None,
    }
}

/// Everything works.
pub fn healthy() -> Snapshot {
    Snapshot {
        version: "0.1.0".into(),
        tenant: "acme".into(),
        phase: Phase::Ready,
        ready: true,
        reasons: Vec::new(),
        since: "2026-01-02T03:00:00Z".into(),
        services: Services {
            mount: Service {
                driver: Some("nfs".into()),
                ..service("ready", 41)
            },
            index: Service {
                driver: Some("libsql".into()),
                pid: None,
                ..service("ready", 0)
            },
            app: service("ready", 42),
        },
        uploads: Uploads::default(),
        index: IndexState {
            outbox: 0,
            lag_seconds: 0.0,
            position: Some(1234),
        },
        storage: reachable(18.25),
        database: reachable(21.5),
        lease: Lease {
            held: true,
            epoch: Some(7),
        },
        operations: BTreeMap::new(),
        changes: Changes {
            watching: true,
            seen: BTreeMap::from([("create".into(), 3), ("delete".into(), 1)]),
        },
        totals: Totals::default(),
    }
}

/// The bucket cannot be reached; writes wait.
pub fn degraded() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.phase = Phase::Degraded;
    snapshot.ready = false;
    snapshot.reasons = vec![
        "storage_unreachable: the bucket does not answer: connection refused (since 14 s)".into(),
        "uploads_too_old: the oldest upload waits for 73 s".into(),
    ];
    snapshot.services.mount = Service {
        state: "degraded".into(),
        restarts: 2,
        restarts_by_cause: BTreeMap::from([("exit".into(), 1), ("stuck".into(), 1)]),
        last_error: Some("rclone was killed by signal 9".into()),
        ..snapshot.services.mount
    };
    snapshot.uploads = Uploads {
        queued: 12,
        in_progress: 4,
        bytes: 5_400_000,
        oldest_seconds: 73.4,
        failing: 5,
        failures_total: 19,
        read_only: false,
        room_bytes: Some(3_000_000_000),
    };
    snapshot.index = IndexState {
        outbox: 3,
        lag_seconds: 2.5,
        position: Some(1231),
    };
    snapshot.storage.reachable = Some(false);
    snapshot.storage.last_error = Some("connection refused".into());
    snapshot.totals.outage_seconds = BTreeMap::from([("storage".into(), 14.5)]);
    snapshot.operations = BTreeMap::from([
        (
            "read".into(),
            Operation {
                count: 18_423,
                errors: 0,
                p50_ms: 0.18,
                p99_ms: 2.4,
            },
        ),
        (
            "write".into(),
            Operation {
                count: 2_100,
                errors: 3,
                p50_ms: 0.32,
                p99_ms: 11.9,
            },
        ),
    ]);
    snapshot
}

/// Before the first ready.
pub fn starting() -> Snapshot {
    let mut snapshot = healthy();
    snapshot.phase = Phase::Starting;
    snapshot.ready = false;
    snapshot.reasons = vec!["mount_starting: waiting for rclone to answer".into()];
    snapshot.services.mount.state = "starting".into();
    snapshot.services.index = Service {
        state: "waiting".into(),
        ..Service::default()
    };
    snapshot.services.app = Service {
        state: "waiting".into(),
        ..Service::default()
    };
    snapshot.storage = Dependency::default();
    snapshot.database = Dependency::default();
    snapshot.lease = Lease::default();
    snapshot
}
