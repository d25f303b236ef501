//! Operations: what people and programs see of a running tenant.
//!
//! Everything here reads one thing, the [`crate::core::snapshot::Snapshot`] that the supervisor publishes after each
//! step, plus what is measured on hot paths ([`operations`], [`metrics`]). Nothing here decides anything.

pub mod front;
pub mod http;
pub mod log;
pub mod metrics;
pub mod operations;
pub mod page;
pub mod screen;
pub mod status;
#[cfg(test)]
mod testing;
mod words;
