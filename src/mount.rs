//! The mount: rclone, the way to it, and what can be known about it without hanging on it.
//!
//! The supervisor decides; this module does. In order of use: [`choose`] a driver, take a [`Claim`] on the cache
//! directory and the mountpoint, [`Session::launch`] the mounter, wait for [`Session::ready`], ask [`Session::health`]
//! and [`Session::queue`] from time to time; at the end [`Session::sync`], [`Session::unmount`] and [`Session::drain`]
//! (on FUSE the drain comes before the unmount), [`Session::terminate`], [`Claim::release`]. A restart is `unmount`,
//! `terminate`, `launch` on the same claim; behind the guard (NFS) it is [`Session::relaunch`] and [`Session::rejoin`], with
//! the mount left alone.
//!
//! One rule holds everywhere: this process never touches a path on the mount, because such a call may never return.
//! Probe children do, each with a deadline, and the mount table tells the rest.

mod adopt;
mod aside;
mod barrier;
pub mod cached;
mod claim;
mod command;
mod discard;
mod drain;
mod error;
pub mod guard;
mod health;
mod hold;
pub(crate) mod kernel;
mod ledger;
mod link;
mod log;
mod mend;
mod mode;
pub(crate) mod mountinfo;
pub mod pending;
pub mod probe;
mod prober;
mod queue;
mod rc;
mod ready;
mod renames;
mod room;
mod selftest;
mod session;
mod unmount;

pub use crate::core::event::Driver;
pub use aside::{Aside, set_aside};
pub use claim::{Claim, clear_leftovers, is_in_use, is_mounter};
pub use discard::discard;
pub use drain::{DrainProgress, Drained, Undrained};
pub use error::MountError;
pub use health::{Health, Verdict};
pub use hold::Hold;
pub use kernel::{Kernel, choose, find};
pub use ledger::{Entry, Ledger, folder_of};
pub use pending::Pending;
pub use prober::{ProbeError, Prober};
pub use queue::{Item, Queue};
pub use rc::{RcError, StorageFault};
pub use ready::NotReady;
pub use room::room;
pub use session::{Plan, Session};
pub use unmount::Cleared;
