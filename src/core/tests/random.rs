use proptest::prelude::*;

use super::*;
use crate::core::clocks::Away;
use crate::core::event::{
    Backlog, Failure, IndexEvent, IndexOpened, KeysAnswer, LeaseRefusal, LeaseTaken, MountHealth, Queue, Room,
    ShipFailure, Shipped,
};
use crate::exit::Exit;

fn any_event() -> impl Strategy<Value = Event> {
    let failure = prop_oneof![
        Just(Exit::Unavailable),
        Just(Exit::Refused),
        Just(Exit::Config),
        Just(Exit::Machine),
        Just(Exit::Budget)
    ]
    .prop_map(|exit| Failure::new(exit, "words"));
    let driver = prop_oneof![Just(Driver::Nfs), Just(Driver::Fuse)];
    let prepared = (driver, any::<bool>(), any::<bool>()).prop_map(|(driver, has_database, has_index)| Prepared {
        tenant: "t".into(),
        driver,
        has_database,
        has_index,
        found_pending: 1,
        keys_valid_for: has_database.then_some(Duration::from_secs(90)),
    });
    let health = (any::<bool>(), 0u64..5, 0u64..2000, 0u64..600).prop_map(|(stuck, files, oldest, free)| MountHealth {
        stuck: stuck.then(|| "silent".into()),
        queue: Some(Queue {
            files,
            oldest: Duration::from_secs(oldest),
            ..Queue::default()
        }),
        room: Some(Room {
            available: free << 20,
            evictable: 0,
        }),
    });
    let mode = (any::<bool>(), any::<bool>()).prop_map(|(read_only, ok)| MountEvent::Mode {
        read_only,
        result: if ok { Ok(()) } else { Err("busy".into()) },
    });
    let keys =
        (any::<bool>(), any::<bool>(), prop::option::of(0u64..100)).prop_map(|(storage, index, valid)| KeysAnswer {
            storage,
            index,
            valid_for: valid.map(Duration::from_secs),
        });
    prop_oneof![
        1 => Just(Event::Timer),
        1 => Just(Event::StopSignal("SIGTERM")),
        1 => Just(Event::CheckIndex),
        2 => (0u64..60, 0u64..60).prop_map(|(stalled, asleep)| Event::Resumed(Away {
            stalled: Duration::from_secs(stalled),
            asleep: Duration::from_secs(asleep),
        })),
        1 => Just(Event::AskKeys("SIGHUP")),
        2 => prop::result::maybe_ok(keys, failure.clone()).prop_map(Event::Keys),
        1 => prop::result::maybe_ok(prepared, failure.clone()).prop_map(Event::Prepared),
        2 => Just(Event::Mount(MountEvent::Launched { pid: 1 })),
        4 => Just(Event::Mount(MountEvent::Ready)),
        1 => failure.clone().prop_map(|f| Event::Mount(MountEvent::Failed(f))),
        2 => Just(Event::Mount(MountEvent::Exited { pid: 1, words: "x".into() })),
        1 => Just(Event::Mount(MountEvent::Lost("x".into()))),
        1 => Just(Event::Mount(MountEvent::Crooked("x".into()))),
        2 => Just(Event::Mount(MountEvent::Reconnected)),
        1 => failure.clone().prop_map(|f| Event::Mount(MountEvent::ReconnectFailed(f))),
        2 => health.prop_map(|h| Event::Mount(MountEvent::Health(h))),
        2 => mode.prop_map(Event::Mount),
        1 => Just(Event::App(AppEvent::Started { pid: 2 })),
        4 => Just(Event::App(AppEvent::Ready)),
        1 => any::<u8>().prop_map(|code| Event::App(AppEvent::Exited { code, words: "x".into(), out_of_memory: false })),
        2 => Just(Event::App(AppEvent::Gone)),
        1 => prop::result::maybe_ok(Just(Duration::from_millis(3)), failure.clone()).prop_map(Event::Storage),
        4 => any_index_event(failure).prop_map(Event::Index),
        1 => Just(Event::Phase(PhaseEnd::IndexDrained(Ok(())))),
        1 => Just(Event::Phase(PhaseEnd::Synced(Ok(())))),
        1 => Just(Event::Phase(PhaseEnd::Unmounted(Err("busy".into())))),
        1 => Just(Event::Phase(PhaseEnd::Drained(Ok(())))),
        1 => Just(Event::Phase(PhaseEnd::MounterGone)),
    ]
}

fn any_index_event(failure: impl Strategy<Value = Failure> + Clone + 'static) -> impl Strategy<Value = IndexEvent> {
    let ship_failure = prop_oneof![
        failure.clone().prop_map(ShipFailure::Down),
        Just(ShipFailure::Fenced { holder: "b".into() }),
        Just(ShipFailure::Broken {
            cause: "replay",
            words: "x".into()
        }),
        Just(ShipFailure::Local("x".into())),
    ];
    let refusal = prop_oneof![
        (0u64..60_000).prop_map(|millis| LeaseRefusal::Held {
            holder: "b".into(),
            expires_in: Duration::from_millis(millis)
        }),
        failure.clone().prop_map(LeaseRefusal::Failed),
    ];
    let shipped = Shipped {
        position: 1,
        latency: Some(Duration::from_millis(3)),
    };
    let opened = any::<bool>().prop_map(|reseed| IndexOpened {
        reseed: reseed.then(|| "x".into()),
    });
    prop_oneof![
        3 => Just(IndexEvent::Lease(Ok(LeaseTaken { epoch: 1, latency: Duration::from_millis(3), position: 1 }))),
        1 => refusal.prop_map(|refusal| IndexEvent::Lease(Err(refusal))),
        3 => prop::result::maybe_ok(opened, failure).prop_map(IndexEvent::Opened),
        1 => Just(IndexEvent::Written),
        1 => prop::result::maybe_ok(Just(shipped), ship_failure.clone())
            .prop_map(|result| IndexEvent::Shipped(result, Backlog::default())),
        1 => prop::result::maybe_ok(Just(9u64), ship_failure.clone()).prop_map(IndexEvent::Reseeded),
        1 => prop::result::maybe_ok(Just("x".to_owned()), ship_failure).prop_map(IndexEvent::Compared),
    ]
}

proptest! {
    /// Whatever happens in whatever order: it never panics, never acts after the end, finishes once, never launches a
    /// second mounter over a first, replaces a mounter only under a mount that is there, one try at a time, never mounts or
    /// ships without the lease, never drains on nfs before the unmount, and a stop always ends by its deadline.
    #[test]
    fn no_order_of_events_breaks_the_promises(steps in prop::collection::vec((any_event(), 0u64..20_000), 0..120)) {
        let mut life = Life::new(policy());
        let (mut launched, mut finished, mut stopping) = (false, 0, None);
        let (mut leased, mut database, mut fenced) = (false, false, false);
        let (mut unmounted, mut trying) = (false, false);
        let (mut read_only, mut changing, mut paused) = (false, false, false);
        for (event, millis) in steps {
            let mut actions = life.pass(Duration::from_millis(millis));
            let tried = matches!(event, Event::Mount(MountEvent::Reconnected | MountEvent::ReconnectFailed(_)));
            let before = actions.len();
            let stop_requested = matches!(event, Event::StopSignal(_));
            // A second answer is ignored.
            if let (Event::Prepared(Ok(prepared)), None) = (&event, &life.state.prepared) {
                database |= prepared.has_database;
            }
            if let Event::Mount(MountEvent::Mode { read_only: now, result }) = &event
                && std::mem::take(&mut changing)
                && result.is_ok()
            {
                read_only = *now;
            }
            leased |= matches!(event, Event::Index(IndexEvent::Lease(Ok(_))));
            actions.extend(life.on(event));
            if stop_requested && stopping.is_none() {
                stopping = Some(life.now);
            }
            for (number, action) in actions.into_iter().enumerate() {
                trying &= !(tried && number >= before);
                prop_assert_eq!(finished, 0, "{:?} after the end", action);
                match action {
                    Action::LaunchMount { .. } => {
                        prop_assert!(!launched, "a second mounter");
                        prop_assert!(leased || !database, "a mount without the lease");
                        launched = true;
                        prop_assert!(!paused, "a new rclone would upload without the lease");
                        (unmounted, read_only, changing) = (false, false, false);
                    }
                    Action::Reconnect { .. } => {
                        prop_assert!(launched && !unmounted && !fenced, "a new rclone without a mount");
                        prop_assert!(!trying, "two tries at once");
                        trying = true;
                        prop_assert_eq!(life.state.driver(), Some(Driver::Nfs));
                    }
                    Action::Unmount { .. } => unmounted = true,
                    Action::TerminateMounter => (launched, trying) = (false, false),
                    Action::Drain { .. } if life.state.driver() == Some(Driver::Nfs) => {
                        prop_assert!(unmounted, "nfs: drained before the unmount");
                    }
                    Action::SetReadOnly(wanted) => {
                        prop_assert!(launched && !unmounted && !fenced, "a mount that is not there changed its mode");
                        prop_assert!(!changing && wanted != read_only, "asked for twice");
                        changing = true;
                    }
                    Action::StartApp => {
                        prop_assert!(launched && !unmounted, "the app without a mount");
                        let basic_memory = life.state.prepared.as_ref().is_some_and(|p| p.has_index);
                        prop_assert!(!basic_memory || !(read_only || changing), "basic-memory on a read-only mount");
                    }
                    Action::Fence => fenced = true,
                    Action::PauseMounter => paused = true,
                    Action::ResumeMounter => {
                        prop_assert!(paused && !fenced, "rclone goes on without the lease");
                        paused = false;
                    }
                    Action::Drain { .. } => prop_assert!(!paused, "a stopped rclone uploads nothing"),
                    Action::ShipIndex | Action::ReseedIndex | Action::CompareIndex | Action::DrainIndex { .. } => {
                        prop_assert!(leased && !fenced, "{:?} without the lease", action);
                    }
                    Action::Finish(_) => finished += 1,
                    _ => {}
                }
            }
            trying &= !tried;
        }
        life.on(Event::StopSignal("SIGTERM"));
        life.pass(Duration::from_secs(111));
        prop_assert!(life.state.is_stopped(), "a stop outlived its deadline");
        prop_assert!(life.state.next_deadline().is_none());
    }
}
