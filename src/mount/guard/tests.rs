//! The guard between a client and a server that are both played here, over real sockets.

mod any_bytes;
mod blind;
mod content;
mod control;
mod messages;
mod mount;
mod paths;
mod rename;
mod restart;
mod rig;
mod store;

use super::call as calls;
use messages::*;
use rig::*;
