use super::life::{healthy, kinds, outage};
use super::*;
use crate::core::clocks::Away;
use crate::core::event::{Backlog, Failure, IndexEvent, IndexOpened, LeaseTaken, Queue, ShipFailure, Shipped};
use crate::exit::Exit;

fn away(stalled: u64, asleep: u64) -> Event {
    Event::Resumed(Away {
        stalled: Duration::from_secs(stalled),
        asleep: Duration::from_secs(asleep),
    })
}

fn shipped() -> Event {
    let shipped = Shipped {
        position: 1,
        latency: Some(Duration::from_millis(3)),
    };
    Event::Index(IndexEvent::Shipped(Ok(shipped), Backlog::default()))
}

/// Ready, with the lease, proven just now.
fn with_lease() -> Life {
    let mut life = Life::new(policy());
    life.on(Event::Prepared(Ok(Prepared {
        has_database: true,
        ..a_tenant(Driver::Nfs)
    })));
    life.on(Event::Index(IndexEvent::Lease(Ok(LeaseTaken {
        epoch: 1,
        latency: Duration::from_millis(3),
        position: 0,
    }))));
    life.on(Event::Index(IndexEvent::Opened(Ok(IndexOpened { reseed: None }))));
    life.on(shipped());
    life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
    life.on(Event::Mount(MountEvent::Ready));
    life.on(Event::App(AppEvent::Ready));
    life.on(shipped());
    assert!(life.state.reasons().is_empty(), "{:?}", life.state.reasons());
    life.done.clear();
    life
}

fn reasons(life: &Life) -> String {
    life.state.reasons().join("; ")
}

#[test]
fn everything_is_asked_at_once_and_ready_again_when_it_has_answered() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.now += Duration::from_secs(8);
    let actions = kinds(&life.on(away(7, 0)));
    for action in ["drop-connections", "probe-storage", "probe-mount"] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    assert!(
        reasons(&life).starts_with("resumed: away for 7 s"),
        "{}",
        reasons(&life)
    );
    life.on(Event::Storage(Ok(Duration::from_millis(3))));
    assert!(reasons(&life).starts_with("resumed"));
    life.on(healthy(Queue::default()));
    assert_eq!(reasons(&life), "");
    assert_eq!(life.state.snapshot_at(life.now).totals.resumes, 1);
}

#[test]
fn a_short_absence_keeps_the_lease_and_rclone_running() {
    let mut life = with_lease();
    life.now += Duration::from_secs(10);
    let actions = kinds(&life.on(away(0, 15)));
    assert!(actions.contains(&"ship") && !actions.contains(&"pause"), "{actions:?}");
    life.on(Event::Storage(Ok(Duration::from_millis(3))));
    life.on(healthy(Queue::default()));
    assert!(reasons(&life).starts_with("resumed"), "the lease has not answered");
    assert!(!kinds(&life.on(shipped())).contains(&"resume"));
    assert_eq!(reasons(&life), "");
}

#[test]
fn a_lease_that_may_have_ended_is_not_assumed() {
    let mut life = with_lease();
    life.now += Duration::from_secs(10);
    let actions = kinds(&life.on(away(0, 21)));
    assert!(actions.contains(&"pause") && actions.contains(&"ship"), "{actions:?}");
    assert!(reasons(&life).starts_with("lease_unproven"), "{}", reasons(&life));
    // rclone does not answer, being stopped: no reason to replace it.
    life.on(Event::Storage(Ok(Duration::from_millis(3))));
    for _ in 0..9 {
        life.on(Event::Mount(MountEvent::Health(crate::core::event::MountHealth {
            stuck: Some("rclone does not answer".into()),
            ..Default::default()
        })));
    }
    assert!(!life.done.contains(&Action::TerminateApp));
    // The database does not answer: still not assumed.
    let down = ShipFailure::Down(Failure::new(Exit::Unavailable, "no answer"));
    life.on(Event::Index(IndexEvent::Shipped(Err(down), Backlog::default())));
    assert!(reasons(&life).contains("lease_unproven"));
    assert!(!life.done.contains(&Action::ResumeMounter));
    life.pass(Duration::from_secs(3));
    assert!(kinds(&life.on(shipped())).contains(&"resume"));
    life.on(healthy(Queue::default()));
    assert_eq!(reasons(&life), "");
}

#[test]
fn a_lease_that_was_taken_meanwhile_ends_it_and_rclone_never_goes_on() {
    let mut life = with_lease();
    life.on(away(0, 3600));
    let fenced = ShipFailure::Fenced { holder: "heir".into() };
    let actions = kinds(&life.on(Event::Index(IndexEvent::Shipped(Err(fenced), Backlog::default()))));
    assert_eq!(actions, ["fence", "term-mounter"]);
    assert!(!life.done.contains(&Action::ResumeMounter));
}

#[test]
fn a_stop_lets_rclone_go_on() {
    let mut life = with_lease();
    life.now += Duration::from_secs(61);
    life.on(away(60, 0));
    let actions = kinds(&life.on(Event::StopSignal("SIGTERM")));
    assert_eq!(actions, ["resume", "term-app"]);
}

#[test]
fn a_stall_is_not_the_apps_slowness_and_no_stuck_mount() {
    let mut life = Life::new(policy());
    life.prepared(Driver::Nfs);
    life.on(Event::Mount(MountEvent::Ready));
    life.now += Duration::from_secs(150);
    let actions = kinds(&life.on(away(140, 0)));
    assert!(!actions.contains(&"term-app"), "{actions:?}");
    life.pass(Duration::from_secs(109));
    assert!(!life.done.contains(&Action::TerminateApp));
}

#[test]
fn keys_that_expired_in_the_sleep_are_asked_for_at_once() {
    let mut life = Life::new(policy());
    life.on(Event::Prepared(Ok(Prepared {
        keys_valid_for: Some(Duration::from_secs(3600)),
        ..a_tenant(Driver::Nfs)
    })));
    life.on(Event::Mount(MountEvent::Ready));
    assert!(kinds(&life.on(away(0, 3600))).contains(&"fetch-keys"));
}

#[test]
fn a_store_that_has_had_enough_is_asked_no_more_often_and_not_flooded_afterwards() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let slow = || Event::Storage(Err(Failure::slow_down("the store asks us to slow down: 503 SlowDown")));
    life.on(slow());
    assert!(reasons(&life).starts_with("storage_slow_down"), "{}", reasons(&life));
    let mut asked = 0;
    for _ in 0..100 {
        if kinds(&life.pass(Duration::from_secs(1))).contains(&"probe-storage") {
            asked += 1;
            life.on(slow());
        }
        life.on(healthy(Queue::default()));
    }
    assert!(
        (9..=12).contains(&asked),
        "no more often than without any trouble, not {asked} times in 100 s"
    );
    assert_eq!(life.state.snapshot_at(life.now).totals.slow_downs, asked + 1);
    assert!(!kinds(&life.on(Event::Storage(Ok(Duration::from_millis(3))))).contains(&"expire"));
    assert_eq!(reasons(&life), "");
    life.on(outage());
    assert!(reasons(&life).starts_with("storage_unreachable"));
}

#[test]
fn an_app_that_was_killed_for_memory_is_told_from_one_that_crashed() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::App(AppEvent::Exited {
        code: 137,
        words: "out of memory: the kernel killed it".into(),
        out_of_memory: true,
    }));
    life.gone();
    let app = life.state.snapshot_at(life.now).services.app;
    assert_eq!(app.restarts_by_cause.get("oom"), Some(&1));
    assert_eq!(app.restarts_by_cause.get("exited"), None);
    assert!(app.last_error.is_some_and(|words| words.contains("out of memory")));
}
