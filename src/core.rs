//! Every decision of the supervisor, pure: no I/O, no clock, no spawn.
//!
//! `State::step(event, now)` takes one event and answers with the actions to carry out. Time enters only as `now` (the
//! time since the supervisor started), so restarts, backoff, outages and the stop deadline are tested in virtual time.
//! Timers are not tasks: `State::next_deadline` says when to call again with `Event::Timer`.
//!
//! | file | decides |
//! |---|---|
//! | `state`, `step` | start-up order, serving, what each event means |
//! | `recover` | a dead or stuck mounter, a dead app: restart, backoff, budget |
//! | `index` | the lease, when the index is opened, shipped and repaired |
//! | `clocks`, `resume` | was this machine away, and what is looked at again then |
//! | `keys` | when the keys are asked for again, and when rclone gets new ones |
//! | `pressure` | when nothing more is accepted, and what that means for the app |
//! | `audit` | what follows when the bucket has not what rclone says it stored or deleted |
//! | `stop` | the stop phases under one deadline |
//! | `health` | ready or not and why; the snapshot |
//! | `verdict` | what is said at the end, and the exit code |

pub mod action;
pub mod audit;
pub mod backoff;
pub mod clocks;
pub mod event;
pub mod health;
pub mod index;
pub mod keys;
pub mod policy;
pub mod pressure;
pub mod reconnect;
pub mod recover;
pub mod resume;
pub mod snapshot;
pub mod state;
pub mod step;
pub mod stop;
pub mod verdict;

#[cfg(test)]
mod tests;
