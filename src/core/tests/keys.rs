use super::life::{healthy, kinds};
use super::*;
use crate::core::event::{Failure, KeysAnswer, MountHealth, Queue};
use crate::exit::Exit;

fn rejected() -> Event {
    Event::Storage(Err(Failure::new(Exit::Refused, "bucket notes refuses the key")))
}

fn answer(storage: bool) -> Event {
    Event::Keys(Ok(KeysAnswer {
        storage,
        ..KeysAnswer::default()
    }))
}

fn busy() -> Event {
    healthy(Queue {
        files: 1,
        ..Queue::default()
    })
}

/// As [`remounted`] on nfs: another rclone behind the guard, and nothing else.
fn replaced(life: &mut Life) {
    life.on(Event::Mount(MountEvent::Launched { pid: 20 }));
    life.on(Event::Mount(MountEvent::Reconnected));
}

fn has(actions: &[Action], kind: &str) -> bool {
    kinds(actions).contains(&kind)
}

/// From the app's end to the new mounter's readiness.
fn remounted(life: &mut Life) {
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    let launched = life.end(PhaseEnd::MounterGone);
    assert!(has(&launched, "launch"), "at once: {launched:?}");
    life.on(Event::Mount(MountEvent::Ready));
    life.on(Event::App(AppEvent::Ready));
}

#[test]
fn new_keys_replace_rclone_once_what_waits_is_uploaded() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(busy());
    assert!(has(&life.on(Event::AskKeys("SIGHUP")), "fetch-keys"));
    assert!(has(&life.on(answer(true)), "expire"), "the old key uploads what it can");
    life.now += Duration::from_secs(1);
    assert!(!has(&life.on(busy()), "reconnect"));
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(healthy(Queue::default())), "reconnect"));
    assert!(!life.done.contains(&Action::TerminateApp), "the app goes on");
    replaced(&mut life);
    assert!(life.state.reasons().is_empty(), "{:?}", life.state.reasons());
    let mount = life.state.snapshot_at(life.now).services.mount;
    assert_eq!(mount.restarts_by_cause["keys"], 1);
    life.now += Duration::from_secs(1);
    assert!(!has(&life.on(healthy(Queue::default())), "reconnect"), "once");
}

#[test]
fn a_queue_that_never_empties_holds_new_keys_up_for_ten_seconds() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::AskKeys("SIGHUP"));
    life.on(answer(true));
    life.now += Duration::from_secs(9);
    assert!(!has(&life.on(busy()), "reconnect"));
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(busy()), "reconnect"));
}

#[test]
fn on_fuse_new_keys_cost_a_restart_of_the_app() {
    let mut life = Life::ready(Driver::Fuse, policy());
    life.on(Event::AskKeys("SIGHUP"));
    life.on(answer(true));
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(healthy(Queue::default())), "term-app"));
    remounted(&mut life);
    assert_eq!(
        life.state.snapshot_at(life.now).services.mount.restarts_by_cause["keys"],
        1
    );
}

#[test]
fn keys_that_change_again_while_rclone_is_replaced_replace_it_again() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::AskKeys("SIGHUP"));
    life.on(answer(true));
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(healthy(Queue::default())), "reconnect"));
    life.on(Event::AskKeys("SIGHUP"));
    life.on(answer(true));
    assert!(!has(&life.on(healthy(Queue::default())), "reconnect"), "one at a time");
    replaced(&mut life);
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(healthy(Queue::default())), "reconnect"));
}

#[test]
fn the_same_keys_change_nothing() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(Event::AskKeys("SIGHUP"));
    assert!(!has(&life.on(answer(false)), "expire"));
    life.now += Duration::from_secs(20);
    assert!(!has(&life.on(healthy(Queue::default())), "term-app"));
}

#[test]
fn a_refused_key_is_asked_for_again_until_there_is_another() {
    let mut life = Life::ready(Driver::Fuse, policy());
    assert!(has(&life.on(rejected()), "fetch-keys"), "at once");
    assert!(!has(&life.on(answer(false)), "fetch-keys"));
    let mut asked = 0;
    for _ in 0..30 {
        let actions = life.pass(Duration::from_secs(1));
        if has(&actions, "fetch-keys") {
            asked += 1;
            life.on(answer(false));
        }
        if has(&actions, "probe-storage") {
            life.on(rejected());
        }
        if has(&actions, "probe-mount") {
            life.on(busy());
        }
    }
    assert!(
        (5..=6).contains(&asked),
        "every five seconds, not {asked} times in 30 s"
    );
    life.on(Event::AskKeys("credentials.file has changed"));
    assert!(!has(&life.on(answer(true)), "expire"), "the old key uploads nothing");
    life.now += Duration::from_secs(1);
    assert!(has(&life.on(busy()), "term-app"), "rclone needs the new one now");
    remounted(&mut life);
    assert!(life.state.reasons().is_empty(), "{:?}", life.state.reasons());
}

#[test]
fn a_key_that_may_list_but_not_write_is_asked_for_again() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let refused = Event::Mount(MountEvent::Health(MountHealth {
        queue: Some(Queue {
            files: 1,
            failing: 1,
            new_failures: 1,
            why: Some("api error AccessDenied: no".into()),
            ..Queue::default()
        }),
        ..MountHealth::default()
    }));
    assert!(has(&life.on(refused), "fetch-keys"));
}

#[test]
fn keys_are_asked_for_before_they_expire_and_again_when_nobody_answers() {
    let mut life = Life::new(policy());
    life.on(Event::Prepared(Ok(Prepared {
        keys_valid_for: Some(Duration::from_secs(1000)),
        ..a_tenant(Driver::Nfs)
    })));
    assert!(!life.done.contains(&Action::FetchKeys));
    let mut asked = Vec::new();
    for _ in 0..1000 {
        if has(&life.pass(Duration::from_secs(1)), "fetch-keys") {
            asked.push(life.now.as_secs());
            life.on(Event::Keys(Err(Failure::new(Exit::Unavailable, "no answer"))));
        }
        life.on(Event::Storage(Ok(Duration::from_millis(3))));
    }
    assert_eq!(
        asked[..5],
        [900, 905, 915, 935, 975],
        "a tenth before the end, then less and less often"
    );
    assert!(!life.state.is_stopped());
}

#[test]
fn a_mounter_that_dies_while_its_key_is_refused_is_no_reason_to_end_at_once() {
    let mut life = Life::ready(Driver::Fuse, policy());
    life.on(rejected());
    life.on(Event::Mount(MountEvent::Exited {
        pid: 10,
        words: "killed by SIGKILL".into(),
    }));
    life.gone();
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    life.pass(Duration::from_secs(1));
    let refused = Failure::new(Exit::Refused, "bucket notes refuses the key");
    life.on(Event::Mount(MountEvent::Failed(refused.clone())));
    assert!(!life.done.iter().any(|action| matches!(action, Action::Finish(_))));
    assert!(
        life.state
            .reasons()
            .iter()
            .any(|reason| reason.starts_with("storage_rejected"))
    );
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    life.now += Duration::from_secs(61);
    life.on(Event::Timer);
    life.on(Event::Mount(MountEvent::Failed(refused)));
    life.end(PhaseEnd::Unmounted(Ok(())));
    life.end(PhaseEnd::MounterGone);
    assert!(life.state.is_stopped(), "{:?}", life.done);
}
