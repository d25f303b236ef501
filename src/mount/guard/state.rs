//! What the exchange knows, and decides at once: behind its mutex.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use nfs3_types::nfs3::nfsstat3;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ReadOnlyReason;
use super::call::{Identity, Key, Plan};
use super::client::Client;
use super::exchange::Call;
use super::memory::{Absent, Replies};
use super::nodes::Remote;
use super::order::{Lines, Order, Ticket};
use super::procedure::{Procedure, Scope};
use super::reply::Outcome;

/// Where the reply of a call goes, and since when it is waited for.
pub(super) struct Waiting {
    pub(super) client: Arc<Client>,
    pub(super) since: Instant,
}

pub(super) struct Idle {
    pub(super) id: u64,
    pub(super) since: Instant,
    pub(super) job: oneshot::Sender<Call>,
}

/// All of it.
pub(super) struct State {
    pub(super) upstream: SocketAddr,
    pub(super) generation: u64,
    pub(super) held: bool,
    /// Connecting failed and has not succeeded since.
    pub(super) down: bool,
    pub(super) read_only: Option<ReadOnlyReason>,
    pub(super) next_id: u64,
    pub(super) ready: VecDeque<Call>,
    pub(super) parked: HashMap<Ticket, Call>,
    pub(super) order: Order,
    /// All calls fail.
    pub(super) given_up: bool,
    /// There may be directories that rclone has not read.
    pub(super) unread: bool,
    /// Those that it has read for us since.
    pub(super) listed: HashSet<Remote>,
    /// Directories (paths in the bucket) that it reads again, and may not come to an end with.
    pub(super) reading: BTreeSet<String>,
    /// The bucket does not answer.
    pub(super) away: bool,
    /// Files that are being renamed, or replaced by that, or are about to.
    pub(super) moving: Vec<Key>,
    pub(super) waiting: HashMap<Identity, Waiting>,
    pub(super) idle: Vec<Idle>,
    pub(super) paths: usize,
    pub(super) max_paths: usize,
    /// Paths that are not connected yet.
    pub(super) opening: usize,
    pub(super) replies: Replies,
    pub(super) absent: Absent,
}

impl State {
    /// Whether a new path may be opened. While rclone can't be reached one path tries and the other calls wait.
    pub(super) fn may_open(&self) -> bool {
        self.paths < self.max_paths && (!self.down || self.opening == 0)
    }

    pub(super) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// The lines that a call must be first in; see [`Order`]. `named`: what it names.
    pub(super) fn line_up(&mut self, plan: &Plan, named: [Option<Key>; 2]) -> Lines {
        let ([one, other], [first, second]) = (plan.keys, named);
        if plan.procedure.scope == Scope::TwoEntries {
            let second = second.filter(|_| second != first);
            self.moving.extend([first, second].into_iter().flatten());
            [one, other, first, second]
        } else {
            let moving = !plan.procedure.modifies() && first.is_some_and(|key| self.moving.contains(&key));
            [one, other, first.filter(|_| moving && first != one), None]
        }
    }

    pub(super) fn refusal(&self, procedure: &Procedure) -> Option<nfsstat3> {
        let reason = self.read_only.filter(|_| procedure.modifies())?;
        match reason {
            ReadOnlyReason::LeaseLost => Some(nfsstat3::NFS3ERR_ROFS),
            ReadOnlyReason::CacheFull if procedure.frees_space() => None,
            ReadOnlyReason::CacheFull => Some(nfsstat3::NFS3ERR_NOSPC),
        }
    }

    pub(super) fn remember(&mut self, entry: Key, procedure: &Procedure, outcome: Outcome) {
        match (procedure.name, outcome) {
            ("lookup" | "remove" | "rmdir", Outcome::Failed(nfsstat3::NFS3ERR_NOENT))
            | ("remove" | "rmdir", Outcome::Ok) => self.absent.insert(entry),
            (_, Outcome::Ok) => self.absent.remove(entry),
            _ => {}
        }
    }
}
