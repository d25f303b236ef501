//! Lease and index in virtual time.

use super::*;
use crate::core::event::{Backlog, Failure, IndexEvent, IndexOpened, LeaseRefusal, LeaseTaken, ShipFailure, Shipped};
use crate::core::snapshot::{Phase, Snapshot};
use crate::core::verdict::Cause;
use crate::exit::Exit;

const LATENCY: Duration = Duration::from_millis(20);

fn with_database(driver: Driver) -> Event {
    Event::Prepared(Ok(Prepared {
        tenant: "acme".into(),
        driver,
        has_database: true,
        has_index: true,
        found_pending: 0,
        keys_valid_for: None,
    }))
}

fn taken() -> Event {
    Event::Index(IndexEvent::Lease(Ok(LeaseTaken {
        epoch: 4,
        latency: LATENCY,
        position: 90,
    })))
}

fn held() -> Event {
    Event::Index(IndexEvent::Lease(Err(LeaseRefusal::Held {
        holder: "machine-a".into(),
        expires_in: Duration::from_secs(20),
    })))
}

fn opened() -> Event {
    Event::Index(IndexEvent::Opened(Ok(IndexOpened { reseed: None })))
}

fn shipped() -> Event {
    Event::Index(IndexEvent::Shipped(
        Ok(Shipped {
            position: 91,
            latency: Some(LATENCY),
        }),
        Backlog::default(),
    ))
}

fn failed(failure: ShipFailure) -> Event {
    let backlog = Backlog {
        transactions: 3,
        oldest: Some(Duration::from_secs(1)),
    };
    Event::Index(IndexEvent::Shipped(Err(failure), backlog))
}

fn down() -> ShipFailure {
    ShipFailure::Down(Failure::new(Exit::Unavailable, "the index database is unreachable"))
}

fn snapshot(life: &Life) -> Snapshot {
    let clock = crate::core::health::Clock {
        started: jiff::Timestamp::UNIX_EPOCH,
    };
    life.state.snapshot(life.now, &clock)
}

/// A ready tenant with an index in a database, everything shipped.
fn ready(driver: Driver) -> Life {
    let mut life = Life::new(policy());
    life.on(with_database(driver));
    life.on(taken());
    life.on(Event::Mount(MountEvent::Launched { pid: 10 }));
    life.on(Event::Mount(MountEvent::Ready));
    life.on(opened());
    life.on(shipped());
    life.on(Event::App(AppEvent::Started { pid: 11 }));
    life.on(Event::App(AppEvent::Ready));
    assert_eq!(life.state.phase(), Phase::Ready);
    life.done.clear();
    life
}

#[test]
fn the_lease_comes_before_the_mount_and_the_app_after_mount_and_index() {
    for index_first in [true, false] {
        let mut life = Life::new(policy());
        assert_eq!(life.on(with_database(Driver::Nfs)), [Action::TakeLease]);
        let both = life.on(taken());
        assert!(
            matches!(both[..], [Action::LaunchMount { .. }, Action::OpenIndex]),
            "{both:?}"
        );
        let (first, second) = if index_first {
            (opened(), Event::Mount(MountEvent::Ready))
        } else {
            (Event::Mount(MountEvent::Ready), opened())
        };
        assert!(!life.on(first).contains(&Action::StartApp));
        assert!(life.on(second).contains(&Action::StartApp));
        assert_eq!(snapshot(&life).lease.epoch, Some(4));
    }
}

#[test]
fn a_start_waits_for_another_machines_lease_and_says_for_whose() {
    let mut life = Life::new(policy());
    life.on(with_database(Driver::Nfs));
    life.on(held());
    assert!(life.state.reasons()[0].contains("lease_waiting: another machine (machine-a)"));
    for _ in 0..100 {
        let asked = life.pass(Duration::from_secs(1));
        assert!(asked.contains(&Action::TakeLease), "{asked:?}");
        life.on(held());
    }
    assert_eq!(
        life.said.iter().filter(|words| words.contains("machine-a")).count(),
        1,
        "said once"
    );
    life.pass(Duration::from_secs(1));
    let launched = life.on(taken());
    // The time spent waiting is not taken from the mount's.
    assert_eq!(
        launched[0],
        Action::LaunchMount {
            within: policy().start_timeout
        }
    );
}

#[test]
fn a_lease_that_is_never_given_back_ends_the_start_with_77() {
    let mut life = Life::new(policy());
    life.on(with_database(Driver::Nfs));
    for _ in 0..400 {
        life.on(held());
        life.pass(Duration::from_secs(1));
    }
    let Some(Action::Finish(Cause::Failure(failure))) = life.done.last() else {
        panic!("{:?}", life.done.last())
    };
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.words.contains("machine-a"));
    assert!(
        !life
            .done
            .iter()
            .any(|action| matches!(action, Action::LaunchMount { .. }))
    );
}

#[test]
fn a_commit_is_shipped_at_once_and_what_comes_meanwhile_goes_together() {
    let mut life = ready(Driver::Fuse);
    life.on(Event::Index(IndexEvent::Written));
    assert_eq!(life.pass(Duration::from_millis(100)), [Action::ShipIndex]);
    for _ in 0..20 {
        life.on(Event::Index(IndexEvent::Written));
    }
    assert!(
        !life.pass(Duration::from_millis(500)).contains(&Action::ShipIndex),
        "one request at a time"
    );
    life.on(shipped());
    assert_eq!(life.pass(Duration::from_millis(100)), [Action::ShipIndex]);
}

#[test]
fn without_changes_only_the_lease_is_renewed() {
    let mut life = ready(Driver::Fuse);
    let mut requests = 0;
    for _ in 0..60 {
        if life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            requests += 1;
            life.on(shipped());
        }
    }
    assert_eq!(requests, 6, "every third of 30 s");
}

#[test]
fn an_outage_of_the_database_degrades_and_what_waits_is_shipped_when_it_is_back() {
    let mut life = ready(Driver::Fuse);
    life.on(Event::Index(IndexEvent::Written));
    life.pass(Duration::from_millis(100));
    life.on(failed(down()));
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(life.state.reasons()[0].starts_with("database_unreachable"));
    let mut tries = 0;
    for _ in 0..100 {
        life.on(Event::Index(IndexEvent::Written));
        if life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            tries += 1;
            life.on(failed(down()));
        }
    }
    assert!((45..=51).contains(&tries), "{tries} tries in 100 s");
    assert_eq!(snapshot(&life).index.outbox, 3);
    assert!(!life.done.contains(&Action::TerminateApp));
    life.pass(Duration::from_secs(2));
    life.on(shipped());
    assert_eq!(life.state.phase(), Phase::Ready);
    assert_eq!(snapshot(&life).index.outbox, 0);
    assert!(snapshot(&life).totals.outage_seconds["database"] > 90.0);
}

#[test]
fn changes_that_wait_too_long_are_a_reason() {
    let mut life = ready(Driver::Fuse);
    life.pass(Duration::from_secs(10));
    life.on(Event::Index(IndexEvent::Shipped(
        Ok(Shipped {
            position: 91,
            latency: Some(LATENCY),
        }),
        Backlog {
            transactions: 3,
            oldest: Some(Duration::from_secs(61)),
        },
    )));
    assert!(life.state.reasons()[0].starts_with("index_lagging: 3 transaction(s)"));
}

#[test]
fn a_token_refused_for_a_minute_ends_in_a_clean_stop_with_77() {
    let mut life = ready(Driver::Fuse);
    let refused = || failed(ShipFailure::Down(Failure::new(Exit::Refused, "the token was rejected")));
    life.pass(Duration::from_secs(10));
    life.on(refused());
    assert!(life.state.reasons()[0].starts_with("database_rejected"));
    let mut stopped = false;
    for _ in 0..70 {
        if life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            stopped |= life.on(refused()).contains(&Action::TerminateApp);
        }
    }
    assert!(stopped);
}

#[test]
fn an_outage_in_between_puts_off_a_refusal_and_does_not_forgive_it() {
    let mut life = ready(Driver::Fuse);
    let refused = || failed(ShipFailure::Down(Failure::new(Exit::Refused, "the token was rejected")));
    let mut stopped_at = None;
    // Of every ten seconds the server is gone for four.
    for second in 0..200 {
        if stopped_at.is_none() && life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            let event = if second % 10 < 6 { refused() } else { failed(down()) };
            if life.on(event).contains(&Action::TerminateApp) {
                stopped_at = Some(second);
            }
        }
    }
    assert!(
        stopped_at.is_some_and(|second| (60..=120).contains(&second)),
        "{stopped_at:?}"
    );

    // One answer that is good, and the minute begins anew.
    let mut life = ready(Driver::Fuse);
    for second in 0..100 {
        if life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            let event = if second % 50 < 45 { refused() } else { shipped() };
            assert!(!life.on(event).contains(&Action::TerminateApp), "{second}");
        }
    }
}

#[test]
fn a_machine_that_lost_its_lease_uploads_nothing_more() {
    for driver in [Driver::Nfs, Driver::Fuse] {
        let mut life = ready(driver);
        life.pass(Duration::from_secs(10));
        let first = life.on(failed(ShipFailure::Fenced {
            holder: "machine-b".into(),
        }));
        assert_eq!(first, [Action::Fence, Action::TerminateMounter]);
        let next = life.end(PhaseEnd::MounterGone);
        assert_eq!(
            next,
            [Action::TerminateApp, Action::KillApp],
            "its mount is gone: no grace"
        );
        assert!(matches!(life.gone()[..], [Action::Unmount { .. }]));
        life.end(PhaseEnd::Unmounted(Ok(())));
        let Some(Action::Finish(Cause::Failure(failure))) = life.done.last() else {
            panic!("{:?}", life.done)
        };
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.words.contains("machine-b"));
        assert!(!life.done.iter().any(|a| matches!(
            a,
            Action::Drain { .. } | Action::DrainIndex { .. } | Action::Sync { .. }
        )));
    }
}

#[test]
fn what_cannot_be_replayed_is_seeded_again_and_never_tried_for_ever() {
    let mut life = ready(Driver::Fuse);
    let broken = || ShipFailure::Broken {
        cause: "replay",
        words: "no such table: entity".into(),
    };
    life.pass(Duration::from_secs(10));
    life.on(failed(broken()));
    assert_eq!(life.state.phase(), Phase::Degraded);
    assert!(life.state.reasons()[0].starts_with("index_diverged: no such table"));
    let due = life.pass(Duration::from_secs(1));
    assert!(due.contains(&Action::ReseedIndex) && !due.contains(&Action::ShipIndex));
    life.on(Event::Index(IndexEvent::Reseeded(Ok(120))));
    life.pass(Duration::from_millis(100));
    life.on(shipped());
    assert_eq!(life.state.phase(), Phase::Ready);
    assert_eq!(snapshot(&life).services.index.restarts_by_cause["replay"], 1);

    // A database that cannot be filled either is asked less and less often.
    let mut tries = 0;
    life.pass(Duration::from_secs(10));
    life.on(failed(broken()));
    for _ in 0..600 {
        if life.pass(Duration::from_secs(1)).contains(&Action::ReseedIndex) {
            tries += 1;
            life.on(Event::Index(IndexEvent::Reseeded(Err(broken()))));
        }
    }
    assert!(tries <= 10, "{tries} tries in 10 min");
}

#[test]
fn an_app_that_never_becomes_ready_gets_a_new_index_once() {
    let mut life = Life::new(policy());
    life.on(with_database(Driver::Nfs));
    life.on(taken());
    life.on(Event::Mount(MountEvent::Ready));
    life.on(opened());
    let mut fail = || {
        life.on(Event::App(AppEvent::Exited {
            code: 1,
            words: "exit code 1".into(),
            out_of_memory: false,
        }));
        life.gone()
    };
    fail();
    fail();
    assert_eq!(fail(), []);
    life.pass(Duration::from_secs(5));
    let mut life = Life::new(Policy {
        restart_budget: 20,
        ..policy()
    });
    life.on(with_database(Driver::Nfs));
    life.on(taken());
    life.on(Event::Mount(MountEvent::Ready));
    life.on(opened());
    let mut rebuilds = 0;
    for _ in 0..8 {
        life.on(Event::App(AppEvent::Exited {
            code: 1,
            words: "exit code 1".into(),
            out_of_memory: false,
        }));
        if life.gone().contains(&Action::RebuildIndex) {
            rebuilds += 1;
            assert!(
                life.pass(Duration::from_secs(5)).iter().all(|a| *a != Action::StartApp),
                "not without its index"
            );
            assert!(life.on(opened()).contains(&Action::StartApp));
        }
        life.pass(Duration::from_secs(31));
    }
    assert_eq!(rebuilds, 1);
}

#[test]
fn a_stop_ships_what_waits_and_gives_the_lease_back_after_the_uploads() {
    for driver in [Driver::Nfs, Driver::Fuse] {
        let mut life = ready(driver);
        life.on(Event::StopSignal("SIGTERM"));
        life.gone();
        life.end(PhaseEnd::Synced(Ok(())));
        let last = match driver {
            Driver::Nfs => {
                life.end(PhaseEnd::Unmounted(Ok(())));
                life.end(PhaseEnd::Drained(Ok(())))
            }
            Driver::Fuse => {
                life.end(PhaseEnd::Drained(Ok(())));
                life.end(PhaseEnd::Unmounted(Ok(())))
            }
        };
        assert!(matches!(last[..], [Action::DrainIndex { .. }]), "{last:?}");
        assert_eq!(life.end(PhaseEnd::IndexDrained(Ok(()))), [Action::TerminateMounter]);
        life.end(PhaseEnd::MounterGone);
        assert!(life.state.is_stopped());
    }
}

#[test]
fn a_lease_that_arrives_during_a_stop_is_given_back_too() {
    let mut life = Life::new(policy());
    life.on(with_database(Driver::Nfs));
    assert!(matches!(life.on(Event::StopSignal("SIGTERM"))[..], [Action::Finish(_)]));
}

#[test]
fn a_full_check_waits_until_everything_is_shipped_and_repairs_what_it_finds() {
    let mut life = ready(Driver::Fuse);
    life.on(Event::Index(IndexEvent::Written));
    assert_eq!(life.pass(Duration::from_millis(100)), [Action::ShipIndex]);
    assert_eq!(life.on(Event::CheckIndex), []);
    life.on(Event::Index(IndexEvent::Shipped(
        Ok(Shipped {
            position: 91,
            latency: Some(LATENCY),
        }),
        Backlog {
            transactions: 1,
            oldest: None,
        },
    )));
    assert_eq!(life.pass(Duration::from_millis(100)), [Action::ShipIndex]);
    life.on(shipped());
    assert!(life.pass(Duration::from_secs(10)).contains(&Action::CompareIndex));
    let difference = ShipFailure::Broken {
        cause: "diverged",
        words: "table entity: row 7 differs".into(),
    };
    life.on(Event::Index(IndexEvent::Compared(Err(difference))));
    assert!(life.pass(Duration::from_secs(1)).contains(&Action::ReseedIndex));
}

#[test]
fn a_long_restore_does_not_cost_the_lease() {
    let mut life = Life::new(policy());
    life.on(with_database(Driver::Fuse));
    life.on(taken());
    let mut renewals = 0;
    for _ in 0..60 {
        if life.pass(Duration::from_secs(1)).contains(&Action::ShipIndex) {
            renewals += 1;
            life.on(shipped());
        }
    }
    assert_eq!(renewals, 6, "every third of 30 s while the index opens");
}
