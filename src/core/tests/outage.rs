//! Drops of the bucket: noticed at once, over at once, and nobody is flooded.

use super::life::{healthy, kinds, outage};
use super::*;
use crate::core::event::{Failure, Queue};
use crate::core::snapshot::Phase;
use crate::exit::Exit;

const STEP: Duration = Duration::from_millis(100);

fn silent() -> Event {
    Event::StorageSilent(Failure::new(Exit::Unavailable, "bucket notes: no answer within 2 s"))
}

fn well() -> Event {
    Event::Storage(Ok(Duration::from_millis(9)))
}

/// Lets time pass in small steps, with a healthy mount; how often the bucket was asked, and when for the last time.
fn ask(life: &mut Life, time: Duration, answer: &Event) -> Vec<Duration> {
    let (mut asked, end) = (Vec::new(), life.now + time);
    while life.now < end {
        let actions = life.pass(STEP);
        if kinds(&actions).contains(&"probe-storage") {
            asked.push(life.now);
            life.on(answer.clone());
        }
        if kinds(&actions).contains(&"probe-mount") {
            life.on(healthy(Queue::default()));
        }
    }
    asked
}

fn files(oldest: u64, failing: u64) -> Event {
    healthy(Queue {
        files: 3,
        failing,
        oldest: Duration::from_secs(oldest),
        ..Queue::default()
    })
}

#[test]
fn a_question_without_an_answer_degrades_before_it_has_failed() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(silent());
    assert_eq!(life.state.phase(), Phase::Ready, "of no question that was asked");
    assert!(kinds(&life.pass(Duration::from_secs(10))).contains(&"probe-storage"));
    life.on(silent());
    assert_eq!(
        life.state.reasons(),
        ["storage_unreachable: bucket notes: no answer within 2 s"]
    );
    assert!(
        !kinds(&life.pass(Duration::from_secs(2))).contains(&"probe-storage"),
        "the question still stands"
    );
    // It was slow, no more.
    assert!(kinds(&life.on(well())).contains(&"ease"));
    life.on(healthy(Queue::default()));
    assert_eq!(life.state.phase(), Phase::Ready);
}

#[test]
fn while_it_is_down_it_is_asked_every_second_or_so_and_no_more() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(outage());
    let asked = ask(&mut life, Duration::from_secs(60), &outage());
    assert!((45..=75).contains(&asked.len()), "{} times in 60 s", asked.len());
    let pauses = asked.windows(2).map(|pair| pair[1] - pair[0]);
    let (shortest, longest) = pauses.fold((Duration::MAX, Duration::ZERO), |(a, b), pause| {
        (a.min(pause), b.max(pause))
    });
    assert!(
        longest <= Duration::from_millis(1300),
        "a return is noticed late: {longest:?}"
    );
    assert!(shortest < longest, "all tenants would ask at the same moment");
}

#[test]
fn what_an_outage_has_delayed_is_not_late_while_it_is_being_sent() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(outage());
    life.on(files(90, 3));
    assert_eq!(life.state.phase(), Phase::Degraded);
    life.on(well());
    assert_eq!(life.state.reasons(), Vec::<String>::new());
    // It does not get through, though.
    life.now += Duration::from_secs(59);
    life.on(files(149, 0));
    assert_eq!(life.state.reasons(), Vec::<String>::new());
    life.now += Duration::from_secs(1);
    life.on(files(150, 0));
    assert!(
        life.state.reasons()[0].starts_with("uploads_late"),
        "{:?}",
        life.state.reasons()
    );
}

#[test]
fn uploads_that_fail_at_the_end_of_an_outage_do_not_wait_for_minutes() {
    let mut life = Life::ready(Driver::Nfs, policy());
    life.on(files(1, 1));
    life.now += Duration::from_secs(20);
    assert!(
        !kinds(&life.on(files(20, 1))).contains(&"expire"),
        "there was no outage"
    );
    life.on(outage());
    life.now += Duration::from_secs(60);
    assert!(!kinds(&life.on(files(80, 3))).contains(&"expire"), "there still is one");
    assert!(kinds(&life.on(well())).contains(&"ease"));
    let mut sent = 0;
    for second in 1..=100 {
        life.now += Duration::from_secs(1);
        sent += u32::from(kinds(&life.on(files(80 + second, 2))).contains(&"expire"));
    }
    assert!((4..=6).contains(&sent), "every 10 s for a minute, not {sent} times");
}

#[test]
fn uploads_are_held_back_while_it_is_down_but_not_by_a_stop() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let slow = Event::Storage(Err(Failure::slow_down("503 SlowDown")));
    assert!(
        kinds(&life.on(slow.clone())).contains(&"pace"),
        "such a store takes some"
    );
    assert!(kinds(&life.on(outage())).contains(&"hold"));
    assert!(!kinds(&life.on(outage())).contains(&"hold"), "once");
    assert!(kinds(&life.on(slow)).contains(&"pace"));
    life.on(outage());
    assert!(kinds(&life.on(Event::StopSignal("SIGTERM"))).contains(&"free"));
}

#[test]
fn a_store_that_refuses_uploads_for_their_rate_gets_one_at_a_time_for_a_while() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let refused = healthy(Queue {
        files: 20,
        failing: 8,
        new_failures: 8,
        new_slow_downs: 8,
        ..Queue::default()
    });
    assert!(kinds(&life.on(refused)).contains(&"pace"));
    life.on(well());
    life.now += Duration::from_secs(9);
    assert!(!kinds(&life.on(files(9, 0))).contains(&"ease"));
    life.now += Duration::from_secs(2);
    assert!(kinds(&life.on(files(11, 0))).contains(&"ease"));
    assert!(!kinds(&life.on(files(12, 0))).contains(&"ease"), "once");
}

#[test]
fn a_failed_upload_has_the_bucket_asked_at_once() {
    let mut life = Life::ready(Driver::Nfs, policy());
    let failed = healthy(Queue {
        files: 1,
        failing: 1,
        new_failures: 1,
        ..Queue::default()
    });
    assert!(kinds(&life.on(failed.clone())).contains(&"probe-storage"));
    life.on(outage());
    assert!(
        !kinds(&life.on(failed)).contains(&"probe-storage"),
        "what is known is not asked again"
    );
}
