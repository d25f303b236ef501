use super::*;
use crate::core::action::Flow;
use crate::core::event::{Failure, MountHealth, Queue};
use crate::core::health::Clock;
use crate::core::snapshot::Phase;
use crate::core::verdict::Cause;
use crate::exit::Exit;

pub(super) fn outage() -> Event {
    Event::Storage(Err(Failure::new(Exit::Unavailable, "bucket notes: connection refused")))
}

pub(super) fn stuck() -> Event {
    Event::Mount(MountEvent::Health(MountHealth {
        stuck: Some("no answer within 5 s".into()),
        ..MountHealth::default()
    }))
}

pub(super) fn healthy(queue: Queue) -> Event {
    Event::Mount(MountEvent::Health(MountHealth {
        queue: Some(queue),
        ..MountHealth::default()
    }))
}

pub(super) fn kinds(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .map(|a| match a {
            Action::Prepare => "prepare",
            Action::LaunchMount { .. } => "launch",
            Action::Reconnect { .. } => "reconnect",
            Action::FetchKeys => "fetch-keys",
            Action::ProbeMount => "probe-mount",
            Action::ProbeStorage { .. } => "probe-storage",
            Action::TakeLease => "take-lease",
            Action::OpenIndex => "open-index",
            Action::RebuildIndex => "rebuild-index",
            Action::ShipIndex => "ship",
            Action::ReseedIndex => "reseed",
            Action::CompareIndex => "compare",
            Action::DropConnections => "drop-connections",
            Action::PauseMounter => "pause",
            Action::ResumeMounter => "resume",
            Action::Fence => "fence",
            Action::DrainIndex { .. } => "drain-index",
            Action::Uploads(Flow::Held) => "hold",
            Action::Uploads(Flow::Paced) => "pace",
            Action::Uploads(Flow::Easing) => "ease",
            Action::Uploads(Flow::Free) => "free",
            Action::ExpireQueue => "expire",
            Action::SetReadOnly(true) => "read-only",
            Action::SetReadOnly(false) => "writable",
            Action::StartApp => "start-app",
            Action::TerminateApp => "term-app",
            Action::KillApp => "kill-app",
            Action::FailCalls => "fail-calls",
            Action::Sync { .. } => "sync",
            Action::Unmount { .. } => "unmount",
            Action::Drain { .. } => "drain",
            Action::TerminateMounter => "term-mounter",
            Action::Say(..) => "say",
            Action::Finish(_) => "finish",
        })
        .collect()
}

/// Answers the stop phases one after another and says in which order they came.
pub(super) fn stop_order(life: &mut Life, first: Vec<Action>) -> Vec<&'static str> {
    let mut order = kinds(&first);
    while let Some(last) = order.last() {
        let next = match *last {
            "term-app" | "kill-app" => life.gone(),
            "sync" => life.end(PhaseEnd::Synced(Ok(()))),
            "reconnect" => life.on(Event::Mount(MountEvent::Reconnected)),
            "unmount" => life.end(PhaseEnd::Unmounted(Ok(()))),
            "drain" => life.end(PhaseEnd::Drained(Ok(()))),
            "term-mounter" => life.end(PhaseEnd::MounterGone),
            _ => break,
        };
        order.extend(kinds(&next));
    }
    order
}

#[test]
fn the_app_starts_only_on_a_ready_mount() {
    let mut life = Life::new(policy());
    assert_eq!(kinds(&life.done), ["prepare"]);
    assert_eq!(kinds(&life.prepared(Driver::Nfs)), ["launch"]);
    assert!(life.on(Event::Mount(MountEvent::Launched { pid: 10 })).is_empty());
    assert_eq!(life.state.phase(), Phase::Starting);
    assert_eq!(kinds(&life.on(Event::Mount(MountEvent::Ready))), ["start-app"]);
    assert_eq!(life.state.phase(), Phase::Starting);
    life.on(Event::App(AppEvent::Started { pid: 11 }));
    life.on(Event::App(AppEvent::Ready));
    assert_eq!(life.state.phase(), Phase::Ready);
    assert!(life.state.reasons().is_empty());
}

#[test]
fn stop_order_on_nfs_unmounts_before_the_drain_and_on_fuse_after_it() {
    for (driver, expected) in [
        (
            Driver::Nfs,
            ["term-app", "sync", "unmount", "drain", "term-mounter", "finish"],
        ),
        (
            Driver::Fuse,
            ["term-app", "sync", "drain", "unmount", "term-mounter", "finish"],
        ),
    ] {
        let mut life = Life::ready(driver, policy());
        let first = life.on(Event::StopSignal("SIGTERM"));
        assert_eq!(life.state.phase(), Phase::Stopping);
        assert_eq!(stop_order(&mut life, first), expected);
        assert!(life.state.is_stopped());
        assert_eq!(life.done.last(), Some(&Action::Finish(Cause::Signal("SIGTERM"))));
    }
}

#[test]
fn a_second_signal_while_stopping_skips_to_the_verdict() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::StopSignal("SIGTERM"));
    life.now += Duration::from_secs(3);
    assert_eq!(kinds(&life.on(Event::StopSignal("SIGTERM"))), ["kill-app", "finish"]);
    assert!(life.said.iter().any(|s| s.contains("second stop signal")));
}

#[test]
fn all_phases_share_one_deadline() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::StopSignal("SIGTERM"));
    assert_eq!(
        kinds(&life.pass(Duration::from_secs(65))),
        [] as [&str; 0],
        "the app has 60 % of the time"
    );
    assert_eq!(kinds(&life.pass(Duration::from_secs(2))), ["kill-app"]);
    life.gone();
    life.end(PhaseEnd::Synced(Ok(())));
    let drain = life.end(PhaseEnd::Unmounted(Ok(())));
    let Some(Action::Drain { within }) = drain.first() else {
        panic!("{drain:?}")
    };
    assert_eq!(*within, Duration::from_secs(110 - 67 - 2));
    assert_eq!(kinds(&life.pass(Duration::from_secs(43))), ["kill-app", "finish"]);
}

#[test]
fn a_stop_before_the_mount_is_ready_neither_syncs_nor_drains() {
    let mut life = Life::new(policy());
    life.prepared(Driver::Nfs);
    let first = life.on(Event::StopSignal("SIGINT"));
    assert_eq!(stop_order(&mut life, first), ["unmount", "term-mounter", "finish"]);
    let mut life = Life::new(policy());
    assert_eq!(kinds(&life.on(Event::StopSignal("SIGINT"))), ["finish"]);
}

#[test]
fn a_failure_at_the_start_is_final_and_keeps_its_code() {
    let mut life = Life::new(policy());
    life.prepared(Driver::Fuse);
    life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
    let failure = Failure::new(Exit::Config, "bucket notes does not exist");
    let first = life.on(Event::Mount(MountEvent::Failed(failure.clone())));
    assert_eq!(stop_order(&mut life, first), ["unmount", "term-mounter", "finish"]);
    assert_eq!(life.done.last(), Some(&Action::Finish(Cause::Failure(failure))));
}

#[test]
fn an_outage_degrades_keeps_the_app_and_spends_no_restart() {
    let mut life = Life::ready(Driver::Nfs, policy());
    assert_eq!(kinds(&life.on(outage())), ["hold"]);
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(life.state.reasons()[0].starts_with("storage_unreachable: bucket notes"));
    for _ in 0..20 {
        life.on(stuck());
    }
    assert_eq!(
        life.state.phase(),
        Phase::Degraded,
        "a silent bucket makes the mount look stuck: no restart for that"
    );
    assert!(!life.done.contains(&Action::TerminateApp));
    life.now += Duration::from_secs(60);
    assert_eq!(
        kinds(&life.on(Event::Storage(Ok(Duration::from_millis(9))))),
        ["probe-mount", "ease"]
    );
    life.on(healthy(Queue::default()));
    assert_eq!(life.state.phase(), Phase::Ready);
    let snapshot = life.state.snapshot(
        life.now,
        &Clock {
            started: jiff::Timestamp::UNIX_EPOCH,
        },
    );
    assert_eq!(snapshot.totals.outage_seconds["storage"], 60.0);
    assert_eq!(snapshot.services.mount.restarts, 0);
}

#[test]
fn an_outage_past_its_limit_ends_in_a_clean_stop() {
    let mut life = Life::ready(
        Driver::Nfs,
        Policy {
            outage_limit: Some(Duration::from_secs(60)),
            ..policy()
        },
    );
    life.on(outage());
    let mut stopped = false;
    for _ in 0..100 {
        let actions = life.pass(Duration::from_secs(1));
        if actions.contains(&Action::TerminateApp) {
            stopped = true;
            break;
        }
        if kinds(&actions).contains(&"probe-storage") {
            life.on(outage());
        }
        if actions.contains(&Action::ProbeMount) {
            life.on(healthy(Queue::default()));
        }
    }
    assert!(stopped);
    assert_eq!(life.now, Duration::from_secs(60));
}

#[test]
fn a_dead_mounter_is_replaced_on_a_clean_mount_point_and_the_app_restarted() {
    let mut life = Life::ready(Driver::Fuse, policy());
    assert_eq!(kinds(&life.mounter_died(10)), ["term-app"]);
    let actions = life.pass(Duration::from_secs(11));
    let at = |action| actions.iter().position(|done| *done == action);
    let (killed, failed) = (at(Action::KillApp), at(Action::FailCalls));
    assert!(killed.is_some(), "an app hanging in the dead mount is killed");
    assert!(killed < failed, "and does not see that its calls fail");
    assert_eq!(kinds(&life.gone()), ["unmount"]);
    assert_eq!(kinds(&life.end(PhaseEnd::Unmounted(Ok(())))), ["term-mounter"]);
    life.end(PhaseEnd::MounterGone);
    assert!(
        life.pass(Duration::from_secs(1))
            .iter()
            .any(|a| matches!(a, Action::LaunchMount { .. }))
    );
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert_eq!(kinds(&life.on(Event::Mount(MountEvent::Ready))), ["start-app"]);
    life.on(Event::App(AppEvent::Ready));
    assert_eq!(life.state.phase(), Phase::Ready);
    let snapshot = life.state.snapshot(
        life.now,
        &Clock {
            started: jiff::Timestamp::UNIX_EPOCH,
        },
    );
    assert_eq!(snapshot.services.mount.restarts_by_cause["exited"], 1);
}

#[test]
fn a_mount_that_keeps_failing_uses_up_its_budget() {
    let mut life = Life::ready(Driver::Fuse, policy());
    for _ in 0..3 {
        life.mounter_died(10);
        life.gone();
        life.end(PhaseEnd::Unmounted(Ok(())));
        life.end(PhaseEnd::MounterGone);
        life.pass(Duration::from_secs(31));
        life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
        life.on(Event::Mount(MountEvent::Ready));
        life.on(Event::App(AppEvent::Ready));
    }
    life.mounter_died(10);
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(matches!(life.done.last(), Some(Action::Finish(Cause::Failure(f))) if f.exit == Exit::Budget));
}

#[test]
fn a_stuck_mount_with_a_reachable_bucket_is_recovered_after_three_probes() {
    let mut life = Life::ready(Driver::Fuse, policy());
    life.on(Event::Storage(Ok(Duration::from_millis(5))));
    assert!(life.on(stuck()).is_empty());
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(life.on(stuck()).is_empty());
    assert_eq!(kinds(&life.on(stuck())), ["term-app"]);
}

#[test]
fn an_app_that_ends_is_restarted_or_ends_the_tenant_with_its_code() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let exited = || {
        Event::App(AppEvent::Exited {
            code: 3,
            words: "exit code 3".into(),
            out_of_memory: false,
        })
    };
    assert_eq!(
        kinds(&life.on(exited())),
        ["term-app"],
        "what is left of its group goes too"
    );
    assert!(life.gone().is_empty());
    assert!(life.state.reasons()[0].starts_with("app_down: exit code 3"));
    assert!(life.pass(Duration::from_secs(1)).contains(&Action::StartApp));

    let mut life = Life::ready(
        Driver::Nfs,
        Policy {
            restart: RestartPolicy::Never,
            ..policy()
        },
    );
    life.on(exited());
    let first = life.gone();
    assert_eq!(
        stop_order(&mut life, first),
        ["sync", "unmount", "drain", "term-mounter", "finish"]
    );
    assert!(matches!(
        life.done.last(),
        Some(Action::Finish(Cause::AppEnded { code: 3, .. }))
    ));
}

#[test]
fn late_uploads_make_it_not_ready() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(healthy(Queue {
        files: 2,
        oldest: Duration::from_secs(59),
        ..Queue::default()
    }));
    assert_eq!(life.state.phase(), Phase::Ready);
    life.on(healthy(Queue {
        files: 2,
        oldest: Duration::from_secs(61),
        ..Queue::default()
    }));
    assert!(life.state.reasons()[0].starts_with("uploads_late: 2 file(s)"));
}

#[test]
fn a_key_rejected_for_a_minute_ends_in_a_clean_stop_with_77() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let rejected = || Event::Storage(Err(Failure::new(Exit::Refused, "bucket notes refuses the key")));
    life.on(rejected());
    assert!(life.state.reasons()[0].starts_with("storage_rejected"));
    life.now += Duration::from_secs(61);
    assert!(life.on(rejected()).contains(&Action::TerminateApp));
}
