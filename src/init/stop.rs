//! When a stop that is asked for again becomes a kill: the guardian's only decision with a clock in it, kept pure.
//!
//! tini, dumb-init and catatonit pass SIGTERM on for ever; a payload that ignores it hangs until someone sends SIGKILL. Here:
//!
//! * A stop signal that comes again within [`SAME_STOP`] of the first is the same stop, delivered twice (to us and to our
//!   group, by a terminal and by `make`). It never escalates.
//! * `exec`: a later second **SIGTERM** means "time is up". It is passed on, and what still runs [`EXEC_GRACE`] later is
//!   killed, with its process group. Only SIGTERM: programs use SIGINT to cancel one thing and SIGQUIT to dump their threads, any
//!   number of times. Keys on a terminal come from the kernel and never count.
//! * `run`: a later second SIGTERM, SIGINT or SIGQUIT, from whomever, gives the supervisor [`SUPERVISOR_GRACE`] to reach its
//!   verdict, because for it the three mean the same (Fly sends SIGINT, then SIGTERM when its time is over).
//! * A child that [`UNKILLABLE`] after SIGKILL is still not gone hangs in the kernel (a dead network mount). We leave without it.

use std::time::Duration;

/// A second stop signal sooner than this after the first is the same stop.
pub(super) const SAME_STOP: Duration = Duration::from_millis(250);
/// From the second SIGTERM to SIGKILL, for `exec`.
pub(super) const EXEC_GRACE: Duration = Duration::from_secs(3);
/// From the second stop signal to SIGKILL, for the supervisor.
pub(super) const SUPERVISOR_GRACE: Duration = Duration::from_secs(10);
/// From SIGKILL to giving up.
pub(super) const UNKILLABLE: Duration = Duration::from_secs(5);

/// Whom the guardian looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Any command: `exec`.
    Exec,
    /// The supervisor: `run`.
    Supervisor,
}

/// What to do when the deadline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// SIGKILL.
    Kill,
    /// Leave.
    GiveUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    Asked { first: Duration },
    TimeUp { kill_at: Duration },
    Killed { give_up_at: Duration },
}

/// How far the stop has come. Times are readings of one monotonic clock.
#[derive(Debug)]
pub(super) struct Stop {
    mode: Mode,
    phase: Phase,
}

impl Stop {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            phase: Phase::Running,
        }
    }

    /// Notes that `signal` arrived; `from_process` is false for the kernel's own. Returns whether this was only the same stop,
    /// delivered twice.
    pub(super) fn signal(&mut self, signal: i32, from_process: bool, now: Duration) -> bool {
        let counts = match self.mode {
            Mode::Exec => signal == libc::SIGTERM && from_process,
            Mode::Supervisor => matches!(signal, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT),
        };
        if !counts {
            return false;
        }
        match self.phase {
            Phase::Running => self.phase = Phase::Asked { first: now },
            Phase::Asked { first } if now.saturating_sub(first) < SAME_STOP => return true,
            Phase::Asked { .. } => {
                let grace = match self.mode {
                    Mode::Exec => EXEC_GRACE,
                    Mode::Supervisor => SUPERVISOR_GRACE,
                };
                self.phase = Phase::TimeUp { kill_at: now + grace };
            }
            Phase::TimeUp { .. } | Phase::Killed { .. } => {}
        }
        false
    }

    /// How often we were asked to stop, as far as it matters.
    pub(super) fn asked(&self) -> u32 {
        match self.phase {
            Phase::Running => 0,
            Phase::Asked { .. } => 1,
            Phase::TimeUp { .. } | Phase::Killed { .. } => 2,
        }
    }

    /// The child that was to end has ended: it is not to be killed any more.
    pub(super) fn child_ended(&mut self, now: Duration) {
        if self.asked() > 1 {
            self.phase = Phase::Asked { first: now };
        }
    }

    /// How long the guardian may sleep; `None` is for ever.
    pub(super) fn patience(&self, now: Duration) -> Option<Duration> {
        match self.phase {
            Phase::Running | Phase::Asked { .. } => None,
            Phase::TimeUp { kill_at: at } | Phase::Killed { give_up_at: at } => Some(at.saturating_sub(now)),
        }
    }

    /// What is due at `now`; each answer is given once.
    pub(super) fn due(&mut self, now: Duration) -> Option<Due> {
        match self.phase {
            Phase::TimeUp { kill_at } if now >= kill_at => {
                self.phase = Phase::Killed {
                    give_up_at: now + UNKILLABLE,
                };
                Some(Due::Kill)
            }
            Phase::Killed { give_up_at } if now >= give_up_at => Some(Due::GiveUp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn one_term_waits_for_ever() {
        let mut stop = Stop::new(Mode::Exec);
        assert!(!stop.signal(SIGTERM, true, ms(5)));
        assert_eq!(stop.patience(ms(5)), None);
        assert_eq!(stop.due(ms(1_000_000_000)), None);
    }

    #[test]
    fn a_second_term_kills_after_the_grace_and_gives_up_on_the_unkillable() {
        let mut stop = Stop::new(Mode::Exec);
        stop.signal(SIGTERM, true, ms(0));
        stop.signal(SIGTERM, true, ms(300));
        assert_eq!(stop.patience(ms(300)), Some(EXEC_GRACE));
        assert_eq!(stop.due(ms(300) + EXEC_GRACE - ms(1)), None);
        let killed = ms(300) + EXEC_GRACE;
        assert_eq!(stop.due(killed), Some(Due::Kill));
        assert_eq!(stop.due(killed), None);
        assert_eq!(stop.patience(killed), Some(UNKILLABLE));
        assert_eq!(stop.due(killed + UNKILLABLE), Some(Due::GiveUp));
    }

    #[test]
    fn the_same_stop_delivered_twice_is_one_stop() {
        for mode in [Mode::Exec, Mode::Supervisor] {
            let mut stop = Stop::new(mode);
            assert!(!stop.signal(SIGTERM, true, ms(0)));
            assert!(stop.signal(SIGTERM, true, SAME_STOP - ms(1)));
            assert_eq!(stop.patience(ms(0)), None);
        }
    }

    #[test]
    fn further_terms_do_not_put_the_kill_off() {
        let mut stop = Stop::new(Mode::Exec);
        for at in [0, 1000, 2000, 3000] {
            stop.signal(SIGTERM, true, ms(at));
        }
        assert_eq!(stop.due(ms(1000) + EXEC_GRACE), Some(Due::Kill));
    }

    #[test]
    fn exec_never_escalates_for_keys_cancel_signals_or_thread_dumps() {
        let mut stop = Stop::new(Mode::Exec);
        for at in 0..100 {
            assert!(!stop.signal(SIGINT, false, ms(at * 1000)));
            assert!(!stop.signal(SIGINT, true, ms(at * 1000)));
            assert!(!stop.signal(SIGQUIT, true, ms(at * 1000)));
            assert!(!stop.signal(SIGTERM, false, ms(at * 1000)));
            assert!(!stop.signal(SIGUSR1, true, ms(at * 1000)));
        }
        assert_eq!(stop.patience(ms(200_000)), None);
    }

    #[test]
    fn for_the_supervisor_the_three_stop_signals_are_one_kind_from_anyone() {
        let mut stop = Stop::new(Mode::Supervisor);
        stop.signal(SIGINT, false, ms(0));
        stop.signal(SIGTERM, true, ms(5000));
        assert_eq!(stop.patience(ms(5000)), Some(SUPERVISOR_GRACE));
        assert_eq!(stop.due(ms(5000) + SUPERVISOR_GRACE), Some(Due::Kill));
    }
}
