//! The life after a supervisor's death: nothing but the end of what it left.

use super::life::{healthy, kinds, outage, stop_order};
use super::*;
use crate::core::event::{Failure, IndexEvent, IndexOpened, LeaseTaken, Queue};
use crate::core::orphaned::Died;
use crate::core::snapshot::Phase;
use crate::core::verdict::Cause;
use crate::exit::Exit;

const LEFT: Duration = Duration::from_secs(60);

fn orphaned(stops: u32) -> Life {
    let died = Died {
        words: "killed by signal 9".into(),
        code: 137,
        stops,
    };
    Life::beginning(State::orphaned(policy(), died, LEFT))
}

fn unreachable() -> Failure {
    Failure::new(Exit::Unavailable, "bucket notes: connection refused")
}

fn cause(life: &Life) -> &Cause {
    match life.done.last() {
        Some(Action::Finish(cause)) => cause,
        other => panic!("{other:?} is no end"),
    }
}

#[test]
fn it_mounts_stores_and_ends_and_never_starts_the_app() {
    for driver in [Driver::Nfs, Driver::Fuse] {
        let mut life = orphaned(0);
        assert_eq!(life.state.phase(), Phase::Stopping);
        assert!(life.state.reasons()[0].starts_with("stopping: killed by signal 9"));
        assert_eq!(kinds(&life.prepared(driver)), ["launch"]);
        life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
        life.pass(Duration::from_secs(1));
        let first = life.on(Event::Mount(MountEvent::Ready));
        let order = stop_order(&mut life, first);
        let expected = match driver {
            Driver::Nfs => ["sync", "unmount", "drain", "term-mounter", "finish"],
            Driver::Fuse => ["sync", "drain", "unmount", "term-mounter", "finish"],
        };
        assert_eq!(order, expected);
        let (code, words) = (137, "killed by signal 9".into());
        assert_eq!(cause(&life), &Cause::Died { code, words });
        assert!(!life.done.contains(&Action::StartApp));
        assert!((life.state.stop_seconds(life.now) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn a_bucket_that_does_not_answer_is_waited_for_until_the_time_is_over() {
    let mut life = orphaned(0);
    let mut tries = 0;
    while life.now + Duration::from_secs(2) < LEFT {
        assert!(life.on(Event::Prepared(Err(unreachable()))).is_empty());
        assert_eq!(kinds(&life.pass(Duration::from_secs(1))), ["prepare"]);
        tries += 1;
    }
    assert!(tries > 50);
    life.pass(LEFT);
    assert!(life.state.is_stopped());
    assert!(matches!(cause(&life), Cause::Died { code: 137, .. }));
}

#[test]
fn what_no_waiting_mends_ends_it_with_both_reasons() {
    let mut life = orphaned(0);
    life.on(Event::Prepared(Err(Failure::new(Exit::Refused, "the key is rejected"))));
    let words = "killed by signal 9; what it left: the key is rejected".into();
    assert_eq!(cause(&life), &Cause::Died { code: 137, words });
}

#[test]
fn a_launch_that_fails_is_tried_again() {
    let mut life = orphaned(0);
    life.prepared(Driver::Fuse);
    for _ in 0..3 {
        let gone = Failure::new(Exit::Machine, "rclone ended before the mount was ready");
        assert_eq!(kinds(&life.on(Event::Mount(MountEvent::Failed(gone)))), ["unmount"]);
        life.end(PhaseEnd::Unmounted(Ok(())));
        life.end(PhaseEnd::MounterGone);
        assert!(kinds(&life.pass(Duration::from_secs(4))).contains(&"launch"));
    }
    life.on(Event::Mount(MountEvent::Failed(Failure::new(Exit::Machine, "again"))));
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(life.state.is_stopped());
}

#[test]
fn the_index_is_shipped_and_one_that_cannot_be_opened_holds_up_the_files_only_for_a_while() {
    for opens in [true, false] {
        let mut life = orphaned(0);
        life.on(Event::Prepared(Ok(Prepared {
            has_database: true,
            ..a_tenant(Driver::Nfs)
        })));
        let taken = LeaseTaken {
            epoch: 2,
            latency: Duration::from_millis(3),
            position: 1,
        };
        life.on(Event::Index(IndexEvent::Lease(Ok(taken))));
        assert!(
            !kinds(&life.on(Event::Mount(MountEvent::Ready))).contains(&"sync"),
            "not without the index"
        );
        let first = if opens {
            life.on(Event::Index(IndexEvent::Opened(Ok(IndexOpened { reseed: None }))))
        } else {
            life.pass(LEFT / 2)
        };
        assert!(kinds(&first).contains(&"sync"), "{first:?}");
        life.end(PhaseEnd::Synced(Ok(())));
        life.end(PhaseEnd::Unmounted(Ok(())));
        assert_eq!(kinds(&life.end(PhaseEnd::Drained(Ok(())))), ["drain-index"]);
    }
}

#[test]
fn the_second_stop_signal_of_both_lives_means_time_is_up() {
    for stops in [0, 1] {
        let mut life = orphaned(stops);
        life.prepared(Driver::Fuse);
        if stops == 0 {
            assert!(life.on(Event::StopSignal("SIGTERM")).is_empty());
        }
        life.on(Event::StopSignal("SIGTERM"));
        assert!(life.state.is_stopped());
        assert!(matches!(cause(&life), Cause::Died { .. }));
    }
}

#[test]
fn a_stop_between_two_rclones_waits_for_the_next_one_to_store_what_is_left() {
    let mut life = Life::ready(Driver::Fuse, policy());
    assert_eq!(kinds(&life.mounter_died(10)), ["term-app"]);
    assert!(life.on(Event::StopSignal("SIGTERM")).is_empty());
    assert_eq!(life.state.phase(), Phase::Stopping);
    assert_eq!(kinds(&life.gone()), ["unmount"]);
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(kinds(&life.pass(Duration::from_secs(4))).contains(&"launch"));
    let first = life.on(Event::Mount(MountEvent::Ready));
    let order = stop_order(&mut life, first);
    assert_eq!(order, ["sync", "drain", "unmount", "term-mounter", "finish"]);
    assert_eq!(cause(&life), &Cause::Signal("SIGTERM"));
}

#[test]
fn and_not_after_a_second_signal_or_for_a_bucket_that_has_nothing_to_get() {
    for second in [true, false] {
        let mut life = Life::ready(Driver::Fuse, policy());
        if !second {
            life.on(outage());
        }
        life.mounter_died(10);
        life.on(Event::StopSignal("SIGTERM"));
        if second {
            life.on(Event::StopSignal("SIGTERM"));
        } else {
            stop_order(&mut life, vec![Action::TerminateApp]);
        }
        assert!(life.state.is_stopped());
    }
}

#[test]
fn nothing_is_read_only_when_there_is_no_app_to_write() {
    let mut life = orphaned(0);
    life.prepared(Driver::Nfs);
    life.on(Event::Mount(MountEvent::Ready));
    life.on(healthy(Queue {
        files: 9,
        bytes: 9 << 30,
        oldest: Duration::from_secs(9999),
        ..Queue::default()
    }));
    assert!(!life.done.iter().any(|action| matches!(action, Action::SetReadOnly(_))));
}
