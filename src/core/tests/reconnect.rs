//! A lost rclone on nfs: replaced while the app goes on, or else the mount is made anew.

use super::life::{healthy, kinds, stop_order, stuck};
use super::*;
use crate::core::event::{Backlog, Failure, IndexEvent, LeaseTaken, MountHealth, Queue, ShipFailure};
use crate::core::health::Clock;
use crate::core::policy::{HUNG_PAUSE, RECONNECT_LIMIT, RECONNECT_PAUSE};
use crate::core::snapshot::{Phase, Snapshot};
use crate::core::verdict::Cause;
use crate::exit::Exit;

fn ready() -> Life {
    Life::ready(Driver::Nfs, policy())
}

fn reconnected(life: &mut Life, pid: u32) -> Vec<Action> {
    life.on(Event::Mount(MountEvent::Launched { pid }));
    life.on(Event::Mount(MountEvent::Reconnected))
}

fn failed(life: &mut Life, exit: Exit) -> Vec<Action> {
    life.on(Event::Mount(MountEvent::ReconnectFailed(Failure::new(exit, "words"))))
}

fn snapshot(life: &Life) -> Snapshot {
    let started = jiff::Timestamp::UNIX_EPOCH;
    life.state.snapshot(life.now, &Clock { started })
}

#[test]
fn a_dead_rclone_is_replaced_at_once_and_the_app_is_left_alone() {
    let mut life = ready();
    let actions = life.mounter_died(10);
    assert!(
        matches!(actions[..], [Action::Reconnect { fresh: true, gently: false, within }] if within == RECONNECT_LIMIT)
    );
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(life.state.reasons()[0].starts_with("mount_reconnecting: rclone ended"));
    assert_eq!(snapshot(&life).services.mount.state, "recovering");
    assert_eq!(snapshot(&life).services.app.state, "ready");
    life.pass(Duration::from_millis(400));
    assert_eq!(kinds(&reconnected(&mut life, 20)), ["expire"]);
    assert_eq!(life.state.phase(), Phase::Ready);
    let mount = snapshot(&life).services.mount;
    assert_eq!(
        (mount.state.as_str(), mount.pid, mount.restarts_by_cause["exited"]),
        ("ready", Some(20), 1)
    );
    assert!(life.said.iter().any(|said| said.contains("back after 0.40 s")));
    assert!(!life.done.contains(&Action::TerminateApp));
}

#[test]
fn late_news_of_the_rclone_before_is_no_news() {
    let mut life = ready();
    life.mounter_died(10);
    assert!(life.mounter_died(10).is_empty());
    reconnected(&mut life, 20);
    assert!(life.mounter_died(10).is_empty());
    assert_eq!(life.state.phase(), Phase::Ready);
    assert_eq!(kinds(&life.mounter_died(20)), ["reconnect"]);
}

#[test]
fn a_hung_rclone_with_a_reachable_bucket_is_replaced_too() {
    let mut life = ready();
    life.on(Event::Storage(Ok(Duration::from_millis(5))));
    assert!(life.on(stuck()).is_empty());
    assert!(life.on(stuck()).is_empty());
    assert_eq!(kinds(&life.on(stuck())), ["reconnect"]);
    assert!(life.on(stuck()).is_empty(), "the answer to an older probe");
    reconnected(&mut life, 20);
    assert_eq!(snapshot(&life).services.mount.restarts_by_cause["stuck"], 1);
    assert_eq!(life.state.phase(), Phase::Ready);
}

#[test]
fn an_rclone_that_does_not_come_back_is_tried_again_and_then_the_mount_is_made_anew() {
    let mut life = ready();
    life.mounter_died(10);
    let mut tries = 0;
    let actions = loop {
        life.pass(Duration::from_secs(3));
        let actions = failed(&mut life, Exit::Machine);
        if !actions.is_empty() {
            break actions;
        }
        tries += 1;
        assert_eq!(kinds(&life.pass(RECONNECT_PAUSE)), ["reconnect"]);
        assert!(matches!(life.done.last(), Some(Action::Reconnect { fresh: true, .. })));
        life.done.pop();
    };
    assert!((2..5).contains(&tries), "{tries}");
    assert_eq!(kinds(&actions), ["term-app"]);
    assert!(life.state.reasons()[0].starts_with("mount_recovering"));
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(
        life.pass(Duration::from_secs(2))
            .iter()
            .any(|a| matches!(a, Action::LaunchMount { .. }))
    );
}

#[test]
fn waiting_uploads_give_a_new_rclone_more_time() {
    let mut life = ready();
    let files = 100;
    life.on(healthy(Queue {
        files,
        ..Queue::default()
    }));
    let actions = life.mounter_died(10);
    assert!(
        matches!(actions[..], [Action::Reconnect { within, .. }] if within == RECONNECT_LIMIT + Duration::from_secs(5))
    );
}

#[test]
fn an_outage_is_waited_for_with_the_rclone_that_is_there() {
    let mut life = ready();
    life.mounter_died(10);
    life.on(Event::Mount(MountEvent::Launched { pid: 20 }));
    for _ in 0..60 {
        life.pass(Duration::from_secs(10));
        assert!(failed(&mut life, Exit::Unavailable).is_empty());
        let tries: Vec<_> = life
            .pass(RECONNECT_PAUSE)
            .into_iter()
            .filter(|a| matches!(a, Action::Reconnect { .. }))
            .collect();
        assert!(
            matches!(tries[..], [Action::Reconnect { fresh: false, .. }]),
            "{tries:?}"
        );
    }
    reconnected(&mut life, 20);
    assert_eq!(life.state.phase(), Phase::Ready);
    assert_eq!(snapshot(&life).services.mount.restarts, 1);
}

#[test]
fn a_key_that_is_refused_is_waited_for_with_a_mount_made_anew() {
    let mut life = ready();
    life.mounter_died(10);
    let actions = failed(&mut life, Exit::Refused);
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(actions.contains(&Action::TerminateApp), "{actions:?}");
}

#[test]
fn a_stop_meanwhile_lets_the_app_finish_and_stores_everything() {
    let mut life = ready();
    life.mounter_died(10);
    let first = life.on(Event::StopSignal("SIGTERM"));
    assert_eq!(kinds(&first), ["term-app"]);
    assert!(reconnected(&mut life, 20).iter().all(|a| *a == Action::ExpireQueue));
    let order = stop_order(&mut life, first);
    assert_eq!(
        order,
        ["term-app", "sync", "unmount", "drain", "term-mounter", "finish"]
    );
}

#[test]
fn the_drain_of_a_stop_waits_for_the_rclone_that_is_on_its_way() {
    for succeeds in [true, false] {
        let mut life = ready();
        life.mounter_died(10);
        life.on(Event::StopSignal("SIGTERM"));
        assert_eq!(kinds(&life.gone()), ["sync"]);
        assert!(life.end(PhaseEnd::Synced(Ok(()))).is_empty(), "not without an rclone");
        let actions = if succeeds {
            reconnected(&mut life, 20)
        } else {
            failed(&mut life, Exit::Machine)
        };
        assert_eq!(kinds(&actions).last(), Some(&"unmount"));
        let order = stop_order(&mut life, actions);
        assert_eq!(order[order.len() - 4..], ["unmount", "drain", "term-mounter", "finish"]);
    }
}

#[test]
fn an_rclone_that_dies_while_the_app_is_stopping_is_replaced_and_one_that_dies_later_is_not() {
    let mut life = ready();
    life.on(Event::StopSignal("SIGTERM"));
    assert_eq!(kinds(&life.mounter_died(10)), ["reconnect"]);
    failed(&mut life, Exit::Machine);
    assert_eq!(kinds(&life.pass(RECONNECT_PAUSE)), ["reconnect"]);
    reconnected(&mut life, 20);
    assert_eq!(kinds(&life.gone()), ["sync"]);
    life.end(PhaseEnd::Synced(Ok(())));
    assert!(life.mounter_died(20).is_empty());
}

#[test]
fn one_that_keeps_dying_uses_up_its_budget() {
    let mut life = ready();
    for pid in [10, 11, 12] {
        assert_eq!(kinds(&life.mounter_died(pid)), ["reconnect"]);
        reconnected(&mut life, pid + 1);
    }
    life.mounter_died(13);
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(matches!(life.done.last(), Some(Action::Finish(Cause::Failure(f))) if f.exit == Exit::Budget));
}

#[test]
fn a_mount_that_is_gone_is_made_anew() {
    let mut life = ready();
    let lost = Event::Mount(MountEvent::Lost("the mount is gone from the mount table".into()));
    assert_eq!(kinds(&life.on(lost)), ["term-app"]);
}

fn hung() -> Event {
    Event::Mount(MountEvent::Health(MountHealth {
        stuck: Some("rclone does not answer rc/noop".into()),
        hung: true,
        ..MountHealth::default()
    }))
}

#[test]
fn an_rclone_that_is_proven_to_hang_is_replaced_after_two_looks_whatever_the_bucket_does() {
    let mut life = ready();
    life.on(super::life::outage());
    assert!(life.on(hung()).is_empty());
    assert!(
        kinds(&life.pass(HUNG_PAUSE)).contains(&"probe-mount"),
        "the second look follows soon"
    );
    assert_eq!(kinds(&life.on(hung())), ["reconnect"]);
    assert_eq!(snapshot(&life).services.mount.restarts_by_cause["stuck"], 1);
}

#[test]
fn a_proof_counts_only_with_another_right_after_it() {
    let mut life = ready();
    for _ in 0..5 {
        assert!(life.on(hung()).is_empty());
        assert!(life.on(healthy(Queue::default())).is_empty());
    }
    life.on(super::life::outage());
    for _ in 0..5 {
        assert!(life.on(hung()).is_empty());
        assert!(life.on(stuck()).is_empty(), "it may be busy, or wait for the bucket");
    }
    assert!(life.on(hung()).is_empty());
    life.on(Event::Resumed(crate::core::clocks::Away {
        stalled: Duration::from_secs(9),
        asleep: Duration::ZERO,
    }));
    assert!(
        life.on(hung()).is_empty(),
        "what was seen before the machine slept is no proof"
    );
}

#[test]
fn on_fuse_a_restart_costs_more_and_needs_more_proof() {
    let mut life = Life::ready(Driver::Fuse, policy());
    assert!(life.on(hung()).is_empty());
    assert!(life.on(hung()).is_empty());
    assert_eq!(kinds(&life.on(hung())), ["term-app"]);
}

#[test]
fn a_call_that_waits_brings_the_next_look_forward_but_not_again_and_again() {
    let mut life = ready();
    life.pass(Duration::from_secs(2));
    life.on(healthy(Queue::default()));
    life.pass(Duration::from_millis(1500));
    assert_eq!(kinds(&life.on(Event::Mount(MountEvent::Slow))), ["probe-mount"]);
    assert!(life.on(Event::Mount(MountEvent::Slow)).is_empty(), "one is under way");
    life.on(healthy(Queue::default()));
    assert!(life.on(Event::Mount(MountEvent::Slow)).is_empty());
    assert_eq!(kinds(&life.pass(Duration::from_secs(1))), ["probe-mount"]);
}

#[test]
fn an_rclone_that_works_is_replaced_gently_once_and_then_as_a_dead_one() {
    let mut life = ready();
    life.on(Event::AskKeys("SIGHUP"));
    life.on(Event::Keys(Ok(crate::core::event::KeysAnswer {
        storage: true,
        ..Default::default()
    })));
    life.now += Duration::from_secs(1);
    let actions = life.on(healthy(Queue::default()));
    assert!(
        matches!(
            actions[..],
            [
                ..,
                Action::Reconnect {
                    fresh: true,
                    gently: true,
                    ..
                }
            ]
        ),
        "{actions:?}"
    );
    failed(&mut life, Exit::Machine);
    let again = life.pass(RECONNECT_PAUSE);
    assert!(
        again.iter().any(|a| matches!(
            a,
            Action::Reconnect {
                fresh: true,
                gently: false,
                ..
            }
        )),
        "{again:?}"
    );
    reconnected(&mut life, 20);
    assert_eq!(snapshot(&life).services.mount.restarts_by_cause["keys"], 1);
    assert_eq!(life.state.phase(), Phase::Ready);
}

#[test]
fn a_lease_that_is_lost_while_the_stop_waits_for_an_rclone_still_ends_that_rclone() {
    let mut life = Life::new(policy());
    life.on(Event::Prepared(Ok(Prepared {
        has_database: true,
        has_index: false,
        ..a_tenant(Driver::Nfs)
    })));
    life.on(Event::Index(IndexEvent::Lease(Ok(LeaseTaken {
        epoch: 1,
        latency: Duration::from_millis(3),
        position: 0,
    }))));
    life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
    life.on(Event::Mount(MountEvent::Ready));
    life.on(Event::StopSignal("SIGTERM"));
    life.mounter_died(10);
    life.gone();
    life.end(PhaseEnd::Synced(Ok(())));
    let fenced = Err(ShipFailure::Fenced { holder: "b".into() });
    let actions = life.on(Event::Index(IndexEvent::Shipped(fenced, Backlog::default())));
    assert!(kinds(&actions).contains(&"term-mounter"), "{actions:?}");
    assert!(reconnected(&mut life, 20).is_empty(), "not the end yet");
    assert!(!life.state.is_stopped());
}
