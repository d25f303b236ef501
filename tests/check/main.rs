//! The probes against real servers (`rclone serve s3`, sqld) and against servers that misbehave in one way each.

// clippy.toml lets tests unwrap; their helpers are tests too.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod index;
mod storage;
// Each of the two test programs uses a part of it.
#[allow(dead_code)]
mod support;
