//! tenant-init: entry point of a tenant's container.
//!
//! `init` is the guardian (PID 1 or subreaper) and knows nothing of the rest. `core` holds every decision as a pure
//! state machine. Everything else is an effect: it turns the world into events for `core`, or `core`'s actions into
//! system calls. `docs/ARCHITECTURE.md` has the map.

pub mod app;
pub mod bench;
pub mod cli;
pub mod config;
pub mod core;
pub mod credentials;
pub mod dev;
pub mod exit;
pub mod index;
pub mod init;
pub mod mount;
pub mod ops;
pub mod preflight;
pub mod process;
pub mod provision;
pub mod storage;
pub mod supervise;
