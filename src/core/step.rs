//! One event in, actions out: start-up order, serving, dependencies. Failures of services are `recover`'s business, the
//! stop is `stop`'s.

use std::time::Duration;

use crate::core::action::{Action, Flow, Level};
use crate::core::event::{AppEvent, Driver, Event, Failure, MountEvent, MountHealth, PhaseEnd, Prepared};
use crate::core::policy::{
    BUSY_QUEUE_INTERVAL, HUNG_PAUSE, HUNG_PROBES, HUNG_PROBES_FUSE, OUTAGE_PROBE_INTERVAL, SLOW_DOWN_PATIENCE,
    STORAGE_RETRY, STORAGE_RETRY_PAUSE, STUCK_PROBES,
};
use crate::core::state::{AppState, Stage, State, Watched};
use crate::core::verdict::Cause;
use crate::exit::Exit;

impl State {
    /// Takes one event at `now` (time since the start) and says what to do.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        if self.is_stopped() {
            return Vec::new();
        }
        self.now = now;
        let mut actions = match event {
            Event::Timer => Vec::new(),
            Event::StopSignal(name) => self.stop_signal(name, now),
            Event::CheckIndex => self.check_index(now),
            Event::Resumed(away) => self.resumed(away, now),
            Event::AskKeys(why) => {
                let mut actions = self.ask_for_keys(now);
                if !actions.is_empty() {
                    actions.push(Action::Say(
                        Level::Info,
                        "keys",
                        format!("{why}: the keys are asked for again"),
                    ));
                }
                actions
            }
            Event::Keys(answer) => self.keys_answered(answer, now),
            Event::Prepared(result) => self.prepared(result, now),
            Event::Mount(event) => self.mount_event(event, now),
            Event::App(event) => self.app_event(event, now),
            Event::Storage(result) => self.storage_probed(result, now),
            Event::StorageSilent(failure) => self.storage_silent(failure, now),
            Event::Index(event) => self.index_event(event, now),
            Event::Phase(end) => self.phase_ended(end, now),
        };
        actions.extend(self.timers(now));
        actions.extend(self.regulate_uploads());
        actions.extend(self.announce(now));
        actions
    }

    fn prepared(&mut self, result: Result<Prepared, Failure>, now: Duration) -> Vec<Action> {
        if self.stage != Stage::Preparing {
            return Vec::new();
        }
        match result {
            Err(failure) if self.prepared_again(&failure, now) => {
                vec![Action::Say(Level::Warn, "tenant", failure.words)]
            }
            Err(failure) => self.begin_stop(Cause::Failure(failure), now),
            Ok(prepared) => {
                let mut actions = Vec::new();
                if prepared.found_pending > 0 {
                    actions.push(Action::Say(
                        Level::Warn,
"tenant",
                        format!(
                            "an earlier life on this disk left {} file(s) that are not in the bucket: they are uploaded now",
                            prepared.found_pending
                        ),
                    ));
                }
                self.storage.used = true;
                self.storage.next_probe = now + self.policy.storage_interval;
                self.database.used = prepared.has_database;
                self.keys.taken(prepared.keys_valid_for, now);
                self.prepared = Some(prepared);
                actions.extend(self.begin_index(now));
                actions
            }
        }
    }

    pub(super) fn launch_mount(&mut self, now: Duration) -> Vec<Action> {
        self.stage = Stage::Mounting;
        self.mounter.launched = true;
        self.keys_handed_over();
        let within = if self.mounter.ever_ready {
            self.policy.start_timeout
        } else if let Some(limit) = self.orphan_launch_limit(now) {
            limit
        } else {
            // Another machine's lease is not this one's slowness.
            (self.policy.start_timeout + self.index.waited)
                .saturating_sub(now)
                .max(Duration::from_secs(1))
        };
        vec![Action::LaunchMount { within }]
    }

    fn mount_event(&mut self, event: MountEvent, now: Duration) -> Vec<Action> {
        match event {
            MountEvent::Launched { pid } => {
                self.mounter.pid = Some(pid);
                Vec::new()
            }
            MountEvent::Ready if self.stage == Stage::Mounting => {
                self.stage = Stage::Serving;
                self.mounter.ready_since = Some(now);
                self.mounter.ever_ready = true;
                self.mounter.stuck = None;
                self.mounter.hung = 0;
                self.mounter.probing = false;
                self.mounter.next_probe = now + BUSY_QUEUE_INTERVAL;
                self.pressure.mount_ready();
                observe(
                    &mut self.storage,
                    &Ok(Duration::ZERO),
                    now,
                    self.policy.storage_interval,
                );
                self.apply_pressure(now)
            }
            MountEvent::Ready => Vec::new(),
            MountEvent::Failed(failure) => self.mount_failed("launch", failure, now),
            MountEvent::Exited { pid, words } if self.mounter.pid == Some(pid) => {
                self.mounter.pid = None;
                let failure = Failure::new(Exit::Budget, format!("rclone ended without being asked: {words}"));
                self.mounter_lost("exited", failure, now)
            }
            MountEvent::Exited { .. } => Vec::new(),
            MountEvent::Lost(words) => self.mount_failed("lost", Failure::new(Exit::Budget, words), now),
            MountEvent::Crooked(words) => {
                let words = format!("a rename failed, and rclone has to be started again after that: {words}");
                self.mounter_lost("rename", Failure::new(Exit::Budget, words), now)
            }
            MountEvent::Reconnected => self.reconnected(now),
            MountEvent::ReconnectFailed(failure) => self.reconnect_failed(failure, now),
            MountEvent::Slow => {
                // Soon, not in a row: calls that wait for the bucket may do so for long.
                let soon = self.mounter.probed.map_or(now, |last| last + BUSY_QUEUE_INTERVAL);
                self.mounter.next_probe = self.mounter.next_probe.min(soon.max(now));
                Vec::new()
            }
            MountEvent::Health(health) => self.mount_probed(health, now),
            MountEvent::Mode { read_only, result } => self.mount_mode_changed(read_only, result, now),
        }
    }

    fn mount_probed(&mut self, health: MountHealth, now: Duration) -> Vec<Action> {
        self.mounter.probing = false;
        self.mounter.probed = Some(now);
        if let Some(mut queue) = health.queue {
            self.upload_failures += queue.new_failures;
            self.totals_slow_downs += queue.new_slow_downs;
            if queue.new_slow_downs > 0 {
                self.mounter.slowed_down = Some(now);
            }
            if let Some(since) = self.mounter.ready_since {
                queue.oldest = self.pressure.true_age(&queue, since, now);
            }
            // A probe would find it out later.
            if queue.new_failures > 0 && !self.storage.is_down() && !self.storage.probing {
                self.storage.next_probe = now;
            }
            self.queue = queue;
        }
        let busy = self.queue.files > 0 || health.stuck.is_some();
        self.mounter.next_probe = now
            + if health.hung {
                HUNG_PAUSE
            } else if busy {
                self.policy.mount_interval.min(BUSY_QUEUE_INTERVAL)
            } else {
                self.policy.mount_interval
            };
        if self.stage != Stage::Serving || self.mounter.reconnect.is_some() {
            return Vec::new();
        }
        let mut actions = self.observe_pressure(health.room, now);
        let refused = State::uploads_refused(&self.queue);
        if refused {
            actions.extend(self.keys_refused(now));
        }
        actions.extend(self.replace_mounter_for_keys(refused || self.storage.rejected_since.is_some(), now));
        actions.extend(self.catch_up(now));
        self.mount_rechecked();
        // rclone that is stopped on purpose does not answer.
        let judged = self.stage == Stage::Serving && !self.is_paused();
        let Some(words) = health.stuck.filter(|_| judged) else {
            self.mounter.stuck = None;
            self.mounter.hung = 0;
            return actions;
        };
        let count = self.mounter.stuck.as_ref().map_or(0, |(_, n)| *n) + 1;
        self.mounter.hung = if health.hung { self.mounter.hung + 1 } else { 0 };
        let proven = match self.driver() {
            Some(Driver::Nfs) => HUNG_PROBES,
            _ => HUNG_PROBES_FUSE,
        };
        self.mounter.stuck = Some((words.clone(), count));
        // A silent bucket makes the mount look stuck: that is an outage, and a restart of rclone would not help.
        let bucket_answers = self.storage.down_since.is_none() && self.storage.last_ok.is_some();
        if self.mounter.hung >= proven || (count >= STUCK_PROBES && bucket_answers) {
            let failure = Failure::new(Exit::Budget, format!("the mount does not answer: {words}"));
            actions.extend(self.mounter_lost("stuck", failure, now));
        }
        actions
    }

    /// Starts the app if mount and index are there and it does not run.
    pub(super) fn start_app_when_possible(&mut self, now: Duration) -> Vec<Action> {
        let ready = self.stage == Stage::Serving && self.index.is_usable();
        if ready && self.orphaned.is_some() {
            self.store_what_is_left(now)
        } else if ready && self.app.state == AppState::Off && !self.holds_app(now) {
            self.start_app(now)
        } else {
            Vec::new()
        }
    }

    fn start_app(&mut self, now: Duration) -> Vec<Action> {
        self.app.state = AppState::Starting { since: now };
        vec![Action::StartApp]
    }

    fn app_event(&mut self, event: AppEvent, now: Duration) -> Vec<Action> {
        match event {
            AppEvent::Started { pid } => {
                self.app.pid = Some(pid);
                Vec::new()
            }
            AppEvent::Ready => {
                if let AppState::Starting { since } = self.app.state {
                    self.app.state = AppState::Ready { since };
                    self.app.ever_ready = true;
                    self.app.failed_starts = 0;
                }
                Vec::new()
            }
            AppEvent::Failed(failure) => self.app_failed_to_start(failure, now),
            AppEvent::Exited {
                code,
                words,
                out_of_memory,
            } => {
                self.app.out_of_memory = out_of_memory;
                self.app_exited(code, words, now)
            }
            AppEvent::Gone => self.app_gone(now),
        }
    }

    fn storage_probed(&mut self, result: Result<Duration, Failure>, now: Duration) -> Vec<Action> {
        let (was_down, was_slow) = (self.storage.is_down(), self.storage.slow_down);
        let held = matches!(self.mounter.flow, Flow::Held | Flow::Paced);
        observe(&mut self.storage, &result, now, self.policy.storage_interval);
        self.storage_rechecked();
        if result.as_ref().is_err_and(Failure::is_outage) {
            // Not by all tenants of a store at the same moment.
            let jitter = fastrand::Rng::with_seed(self.policy.seed ^ u64::from(now.subsec_nanos())).f64();
            self.storage.next_probe = now
                + if self.storage.slow_down {
                    self.totals_slow_downs += 1;
                    self.mounter.slowed_down = Some(now);
                    // Obeyed: not asked more often than usual, as in other outages.
                    self.policy.storage_interval.mul_f64(0.8 + 0.3 * jitter)
                } else {
                    let next = self.storage.asked + STORAGE_RETRY.mul_f64(0.8 + 0.4 * jitter);
                    let wait = next.saturating_sub(now).max(STORAGE_RETRY_PAUSE);
                    wait.min(self.policy.storage_interval)
                };
        }
        match result {
            // Nothing is pushed at once.
            Ok(_) if was_slow => Vec::new(),
            Ok(_) if was_down => {
                let words = "the bucket answers again: uploading everything that waits".into();
                let mut actions = vec![Action::Say(Level::Info, "tenant", words)];
                // What was held back is sent by `regulate_uploads`.
                actions.extend((!held).then_some(Action::ExpireQueue));
                actions
            }
            Ok(_) => Vec::new(),
            Err(failure) => {
                let mut actions = Vec::new();
                if !was_down {
                    actions.push(Action::Say(Level::Warn, "tenant", failure.words.clone()));
                }
                match self.storage.rejected_since {
                    Some(since) if now.saturating_sub(since) >= self.policy.rejected_limit => {
                        actions.extend(self.begin_stop(Cause::Failure(failure), now));
                    }
                    Some(_) => actions.extend(self.keys_refused(now)),
                    None => {}
                }
                actions
            }
        }
    }

    /// A store that limits our rate takes some, and asks for more patience than rclone has with many files. A stop tries everything.
    fn regulate_uploads(&mut self) -> Option<Action> {
        if self.is_stopped() {
            return None;
        }
        let slowed_down = self.mounter.slowed_down;
        let flow = match self.mounter.flow {
            _ if self.is_stopping() || self.storage.rejected_since.is_some() => Flow::Free,
            _ if self.storage.slow_down => Flow::Paced,
            _ if self.storage.down_since.is_some() => Flow::Held,
            _ if slowed_down.is_some_and(|at| self.now < at + SLOW_DOWN_PATIENCE) => Flow::Paced,
            Flow::Held | Flow::Paced => Flow::Easing,
            other => other,
        };
        let changed = std::mem::replace(&mut self.mounter.flow, flow) != flow;
        changed.then_some(Action::Uploads(flow))
    }

    /// No answer yet. The probe goes on: a slow answer is one, and brings the tenant back.
    fn storage_silent(&mut self, failure: Failure, now: Duration) -> Vec<Action> {
        if !self.storage.probing {
            return Vec::new();
        }
        let was_down = self.storage.is_down();
        observe(
            &mut self.storage,
            &Err(failure.clone()),
            now,
            self.policy.storage_interval,
        );
        self.storage.probing = true;
        if was_down {
            return Vec::new();
        }
        vec![Action::Say(Level::Warn, "tenant", failure.words)]
    }

    fn phase_ended(&mut self, end: PhaseEnd, now: Duration) -> Vec<Action> {
        match self.stage {
            Stage::Stopping(_) => self.stop_phase_ended(end, now),
            Stage::Recovering(phase) => self.recovery_phase_ended(phase, end, now),
            _ => Vec::new(),
        }
    }

    /// Whatever is due at `now`. Runs after every event, so a late `Event::Timer` changes nothing but the time.
    fn timers(&mut self, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match &self.stage {
            Stage::Waiting { until } if *until <= now && !self.is_paused() => actions.extend(self.launch_mount(now)),
            Stage::Stopping(stop) if stop.deadline <= now => {
                return self.time_is_up("the stop deadline has passed", now);
            }
            Stage::Serving if self.probe_due().is_some_and(|due| due <= now) => {
                self.mounter.probing = true;
                actions.push(Action::ProbeMount);
            }
            _ => {}
        }
        actions.extend(self.reconnect_timer(now));
        actions.extend(self.orphan_timer(now));
        match &self.app.state {
            AppState::Starting { since } if *since + self.policy.app_start_timeout <= now => {
                actions.extend(self.app_start_timed_out(now));
            }
            AppState::Ending {
                kill_at: Some(at),
                by_itself,
                ran,
            } if *at <= now => {
                self.app.state = AppState::Ending {
                    kill_at: None,
                    by_itself: by_itself.clone(),
                    ran: *ran,
                };
                actions.push(Action::Say(
                    Level::Warn,
                    "tenant",
                    "the app did not end in time and is killed".into(),
                ));
                actions.push(Action::KillApp);
                if self.serves_nothing() {
                    actions.push(Action::FailCalls);
                }
            }
            AppState::Waiting { until } if *until <= now && self.stage == Stage::Serving && !self.holds_app(now) => {
                actions.extend(self.start_app(now));
            }
            _ => {}
        }
        if !self.is_stopping() {
            if self.storage.used && !self.storage.probing && self.storage.next_probe <= now {
                self.storage.probing = true;
                self.storage.asked = now;
                let well = !self.storage.is_down();
                actions.push(Action::ProbeStorage { well });
            }
            actions.extend(self.keys_timers(now));
            actions.extend(self.index_timers(now));
            if let (Some(since), Some(limit)) = (self.storage.down_since, self.policy.outage_limit)
                && since + limit <= now
            {
                let words = format!(
                    "the bucket has been unreachable for {} s, longer than limits.outage_limit: {}",
                    limit.as_secs(),
                    self.storage.last_error.as_deref().unwrap_or("no answer")
                );
                actions.extend(self.begin_stop(Cause::Failure(Failure::new(Exit::Unavailable, words)), now));
            }
        }
        actions
    }
}

/// Books a probe's result.
pub(super) fn observe(dependency: &mut Watched, result: &Result<Duration, Failure>, now: Duration, interval: Duration) {
    dependency.probing = false;
    match result {
        Ok(latency) => {
            if let Some(since) = dependency.down_since.take() {
                dependency.outage_total += now.saturating_sub(since);
                dependency.back_since = Some(now);
            }
            dependency.rejected_since = None;
            dependency.rejected_before = Duration::ZERO;
            dependency.slow_down = false;
            dependency.last_error = None;
            dependency.last_ok = Some((now, *latency));
            dependency.next_probe = now + interval;
        }
        Err(failure) => {
            dependency.slow_down = failure.slow_down;
            if failure.is_outage() {
                dependency.down_since.get_or_insert(now);
                if let Some(since) = dependency.rejected_since.take() {
                    dependency.rejected_before = now.saturating_sub(since);
                }
            } else {
                if let Some(since) = dependency.down_since.take() {
                    dependency.outage_total += now.saturating_sub(since);
                }
                let since = now.saturating_sub(dependency.rejected_before);
                dependency.rejected_since.get_or_insert(since);
            }
            dependency.last_error = Some(failure.words.clone());
            dependency.next_probe = now + interval.min(OUTAGE_PROBE_INTERVAL);
        }
    }
}
