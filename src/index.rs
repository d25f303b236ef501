//! The tenant's index database (Turso, libSQL) and the local SQLite file that basic-memory works on.
//!
//! `docs/INDEX.md` is the contract. In the order of a tenant's life:
//!
//! * [`lease`]: one row in the database says who may write to it. Taking it also tells what is in there.
//! * [`open`]: makes the local file usable: it continues, or it is restored from the database, or an empty one is made.
//! * [`watch`] and [`Shipper`]: wait for a write of the app, ship the recorded statements. [`Shipper::reseed`] is the
//!   way out of everything that cannot be shipped.
//! * [`compare`]: are both sides the same, row by row?
//!
//! Nothing here decides when; the supervisor does. Every call is one or a few HTTP requests with a time limit each
//! (`remote`), and SQLite is used only in `spawn_blocking`.

mod anew;
mod build;
pub mod compare;
pub mod copy;
mod embeddings;
mod error;
mod fence;
pub mod lease;
mod local;
pub mod open;
mod outbox;
mod remote;
mod restore;
mod schema;
mod seed;
mod ship;
mod value;
pub mod watch;

pub use anew::put_aside;
pub use embeddings::mark_missing as mark_missing_embeddings;
pub use error::IndexError;
pub use lease::{Claimant, Granted, LeaseError, RemoteState, Taken};
pub use open::{How, OpenError, Opened};
pub use outbox::{Pending, pending};
pub use remote::{Probe, Remote};
pub use ship::{Round, ShipError, ShipLimits, Shipper};
