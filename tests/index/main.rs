//! The index engine against a real libSQL server: lease, shipping, seeding, restore, comparison.
//!
//! `fixture` plays the app and its adapter: it writes to the local file and records as the contract says.

// clippy.toml lets tests unwrap; their helpers are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chaos;
mod compare;
mod copy;
mod embeddings;
mod fixture;
mod lease;
mod open;
mod proxy;
mod seed;
mod ship;
#[path = "../check/support.rs"]
#[allow(dead_code)]
mod support;
