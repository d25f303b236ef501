//! Visits the worlds of the model, and tries their futures.

use std::collections::HashSet;

use super::*;
use crate::core::snapshot::Phase;

impl World {
    /// Everything works from here on: what is under way succeeds, in order, and then time passes.
    fn left_alone(mut self, until: impl Fn(&World) -> bool, what: &str) {
        for _ in 0..300 {
            if until(&self) {
                return;
            }
            let step = self.pending.first().map_or(Step::Time, |first| Step::Done(*first));
            self.take(step);
        }
        self.wants(false, what);
    }

    fn futures(&self) {
        self.clone().left_alone(
            |world| world.life.state.phase() == Phase::Ready || world.life.state.is_stopped(),
            "left alone it neither becomes ready nor ends",
        );
        let mut stopped = self.clone();
        if !stopped.life.state.is_stopped() && stopped.stopping.is_none() {
            stopped.take(Step::StopSignal);
        }
        stopped.left_alone(|world| world.finished == 1, "a stop without a verdict");
    }
}

/// Visits every world that can be reached with so many failures and steps; returns how many there are.
fn explore(start: World, failures: u32, depth: u32) -> usize {
    let mut known = HashSet::from([start.fingerprint()]);
    let mut layer = vec![start];
    for _ in 0..depth {
        let mut next = Vec::new();
        for world in &layer {
            for step in world.steps(failures) {
                let mut after = world.clone();
                after.take(step);
                if known.insert(after.fingerprint()) {
                    after.futures();
                    if !after.life.state.is_stopped() {
                        next.push(after);
                    }
                }
            }
        }
        layer = next;
    }
    known.len()
}

/// A tenant that serves, while its keys are asked for.
fn with_new_keys(driver: Driver) -> World {
    let mut world = serving(driver, false);
    world.tell(Event::AskKeys("SIGHUP"));
    world
}

/// A tenant that serves.
fn serving(driver: Driver, database: bool) -> World {
    let mut world = World::new(driver, database);
    while world.life.state.phase() != Phase::Ready {
        let step = world.pending.first().map_or(Step::Time, |first| Step::Done(*first));
        world.take(step);
    }
    world
}

fn check(failures: u32, depth: u32) {
    for driver in [Driver::Nfs, Driver::Fuse] {
        for (from, start) in [
            ("its start", World::new(driver, false)),
            ("its start, with a database", World::new(driver, true)),
            ("serving", serving(driver, true)),
            ("new keys", with_new_keys(driver)),
            ("the death of a supervisor", World::orphaned(driver, false)),
            ("the same, with a database", World::orphaned(driver, true)),
        ] {
            let worlds = explore(start, failures, depth);
            println!("{driver:?}, {failures} failures, {depth} steps from {from}: {worlds} worlds");
            assert!(worlds > 1000, "the model does not move: {worlds} worlds");
        }
    }
}

#[test]
fn no_order_of_what_can_happen_leaves_it_stuck_or_breaks_a_promise() {
    check(2, 9);
}

/// The same, deeper: `cargo test --release deep_model -- --ignored --nocapture`, a minute or two.
#[test]
#[ignore = "takes minutes"]
fn deep_model() {
    check(3, 11);
}
