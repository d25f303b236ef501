use super::life::{healthy, outage};
use super::*;
use crate::core::event::{MountHealth, Queue, Room};
use crate::core::pressure::BUSY_PATIENCE;

/// One file that waits, and room enough.
fn waiting(seconds: u64) -> Event {
    healthy(Queue {
        files: 1,
        oldest: Duration::from_secs(seconds),
        ..Queue::default()
    })
}

fn room(mebibytes: u64) -> Event {
    Event::Mount(MountEvent::Health(MountHealth {
        queue: Some(Queue::default()),
        room: Some(Room {
            available: mebibytes << 20,
            evictable: 0,
        }),
        ..MountHealth::default()
    }))
}

fn mode(read_only: bool, result: Result<(), String>) -> Event {
    Event::Mount(MountEvent::Mode { read_only, result })
}

/// A tenant whose app is a command, not basic-memory.
fn with_command(driver: Driver) -> Life {
    let mut life = Life::new(policy());
    life.on(Event::Prepared(Ok(Prepared {
        tenant: "acme".into(),
        driver,
        has_database: false,
        has_index: false,
        found_pending: 0,
        keys_valid_for: None,
    })));
    life.on(Event::Mount(MountEvent::Ready));
    life.on(Event::App(AppEvent::Ready));
    life
}

/// What was done, probes aside: they are due now and then.
fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let mut kinds = super::life::kinds(actions);
    kinds.retain(|kind| !kind.starts_with("probe"));
    kinds
}

fn codes(life: &Life) -> Vec<String> {
    let code = |reason: &String| reason.split(':').next().unwrap_or_default().to_owned();
    life.state.reasons().iter().map(code).collect()
}

#[test]
fn an_outage_makes_it_not_ready_then_read_only_and_writable_again_by_itself() {
    let mut life = with_command(Driver::Nfs);
    life.on(outage());
    assert!(kinds(&life.on(waiting(899))).is_empty());
    assert_eq!(codes(&life), ["uploads_late", "storage_unreachable"]);
    assert_eq!(kinds(&life.on(waiting(900))), ["read-only"]);
    life.on(mode(true, Ok(())));
    assert_eq!(codes(&life), ["uploads_late", "read_only", "storage_unreachable"]);
    assert!(life.state.snapshot_at(life.now).uploads.read_only);
    // The oldest is stored; what is left is younger, but not young enough.
    life.on(Event::Storage(Ok(Duration::from_millis(3))));
    assert!(kinds(&life.on(waiting(61))).is_empty());
    assert_eq!(kinds(&life.on(waiting(59))), ["writable"]);
    life.on(mode(false, Ok(())));
    assert!(life.state.reasons().is_empty(), "{:?}", life.state.reasons());
    assert!(
        !life.done.contains(&Action::TerminateApp),
        "the app sees an error, no more"
    );
}

#[test]
fn a_full_disk_is_not_ready_below_the_reserve_and_read_only_below_half_of_it() {
    let mut life = with_command(Driver::Nfs);
    life.on(room(256));
    assert!(life.state.reasons().is_empty());
    assert!(kinds(&life.on(room(255))).is_empty());
    assert_eq!(codes(&life), ["cache_disk_full"]);
    assert_eq!(kinds(&life.on(room(127))), ["read-only"]);
    life.on(mode(true, Ok(())));
    assert!(kinds(&life.on(room(200))).is_empty(), "not at the first free byte");
    assert_eq!(kinds(&life.on(room(256))), ["writable"]);
    life.on(mode(false, Ok(())));
    assert_eq!(codes(&life), ["cache_disk_full"]);
    life.on(room(320));
    assert!(life.state.reasons().is_empty());
}

#[test]
fn more_unsent_bytes_than_the_cache_may_have_are_refused() {
    let mut life = with_command(Driver::Nfs);
    let unsent = |bytes| {
        healthy(Queue {
            files: 3,
            bytes,
            ..Queue::default()
        })
    };
    life.on(unsent(768 << 20));
    assert_eq!(codes(&life), ["cache_full"]);
    assert_eq!(kinds(&life.on(unsent(1 << 30))), ["read-only"]);
}

#[test]
fn files_that_a_reachable_bucket_refuses_make_it_not_ready_and_say_why() {
    let mut life = with_command(Driver::Nfs);
    let refused = || {
        healthy(Queue {
            files: 1,
            failing: 1,
            why: Some("AccessDenied".into()),
            ..Queue::default()
        })
    };
    life.on(refused());
    assert!(life.state.reasons().is_empty(), "once is a hiccup");
    life.now += Duration::from_secs(10);
    life.on(refused());
    let [reason] = &life.state.reasons()[..] else {
        panic!("{:?}", life.state.reasons())
    };
    assert!(
        reason.starts_with("uploads_failing") && reason.contains("AccessDenied"),
        "{reason}"
    );
    life.on(healthy(Queue::default()));
    assert!(life.state.reasons().is_empty());
}

#[test]
fn basic_memory_is_ended_before_the_mount_is_read_only_and_started_after() {
    let mut life = Life::ready(Driver::Fuse, policy());
    assert_eq!(kinds(&life.on(waiting(900))), ["term-app"]);
    assert_eq!(codes(&life), ["uploads_late", "app_held"]);
    assert!(
        kinds(&life.on(waiting(901))).is_empty(),
        "while it ends, it may still write"
    );
    life.on(Event::App(AppEvent::Exited {
        code: 0,
        words: "exit code 0".into(),
        out_of_memory: false,
    }));
    assert_eq!(kinds(&life.gone()), ["read-only"]);
    assert!(kinds(&life.on(mode(true, Ok(())))).is_empty());
    assert!(life.pass(Duration::from_secs(5)).iter().all(|a| *a != Action::StartApp));
    assert_eq!(codes(&life), ["uploads_late", "read_only", "app_held"]);
    assert_eq!(kinds(&life.on(healthy(Queue::default()))), ["writable"]);
    assert_eq!(kinds(&life.on(mode(false, Ok(())))), ["start-app"]);
    let snapshot = life.state.snapshot_at(life.now);
    assert_eq!(snapshot.services.app.restarts, 0, "its own failure it was not");
}

#[test]
fn pressure_that_goes_while_the_app_ends_starts_it_again() {
    let mut life = Life::ready(Driver::Fuse, policy());
    life.on(waiting(900));
    life.on(healthy(Queue::default()));
    assert_eq!(kinds(&life.gone()), ["start-app"]);
}

#[test]
fn an_app_that_keeps_a_file_open_on_fuse_is_ended_after_a_while() {
    let mut life = with_command(Driver::Fuse);
    let busy = || mode(true, Err("a file is open for writing (EBUSY)".into()));
    assert_eq!(kinds(&life.on(waiting(900))), ["read-only"]);
    life.on(busy());
    assert_eq!(codes(&life), ["uploads_late", "read_only_refused"]);
    assert_eq!(
        kinds(&life.on(waiting(901))),
        ["read-only"],
        "tried again with each look"
    );
    life.on(busy());
    life.now += BUSY_PATIENCE;
    assert_eq!(kinds(&life.on(waiting(911))), ["term-app"]);
    assert_eq!(kinds(&life.gone()), ["read-only"]);
    assert!(kinds(&life.on(mode(true, Ok(())))).is_empty(), "it would only fail");
    assert_eq!(kinds(&life.on(healthy(Queue::default()))), ["writable"]);
    assert_eq!(kinds(&life.on(mode(false, Ok(())))), ["start-app"]);
}

#[test]
fn a_new_mount_is_made_read_only_too_and_ages_do_not_begin_anew() {
    let mut life = with_command(Driver::Nfs);
    life.now = Duration::from_secs(1000);
    life.on(outage());
    life.on(waiting(900));
    life.on(mode(true, Ok(())));
    life.on(Event::Mount(MountEvent::Lost("the mount is gone".into())));
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    life.pass(Duration::from_secs(1));
    assert_eq!(
        kinds(&life.on(Event::Mount(MountEvent::Ready))),
        ["read-only", "start-app", "ease"]
    );
    life.on(mode(true, Ok(())));
    life.now += Duration::from_secs(1);
    assert!(kinds(&life.on(waiting(0))).is_empty(), "{:?}", life.state.reasons());
    assert!(life.state.snapshot_at(life.now).uploads.oldest_seconds > 900.0);
}

#[test]
fn a_stop_while_read_only_is_a_stop() {
    let mut life = Life::ready(Driver::Fuse, policy());
    life.on(waiting(900));
    life.gone();
    life.on(mode(true, Ok(())));
    assert_eq!(kinds(&life.on(Event::StopSignal("SIGTERM"))), ["sync"]);
}
