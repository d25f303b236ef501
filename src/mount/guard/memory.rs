//! What the guard remembers of calls that are over, in bounded space: replies for retransmissions, and names that the
//! kernel has been told do not exist.

use std::collections::{HashMap, HashSet, VecDeque};

use super::call::{Identity, Key};

/// Replies kept. The kernel retransmits what it has in flight, some dozens of calls at most.
const REPLIES: usize = 256;
/// Longest reply kept, bytes. Those of the procedures that matter have 40 to 400.
const REPLY_BYTES: usize = 1024;
/// Names in each of two generations.
const NAMES: usize = 4096;

/// The duplicate request cache: replies of calls that would do something else if they were executed again.
///
/// The kernel sends a call again, with the same transaction id, after 60 s without an answer and after a reconnect. A
/// second REMOVE would say that there is no such file.
#[derive(Debug, Default)]
pub(super) struct Replies {
    replies: HashMap<Identity, Vec<u8>>,
    oldest_first: VecDeque<Identity>,
}

impl Replies {
    pub(super) fn get(&self, call: Identity) -> Option<&[u8]> {
        self.replies.get(&call).map(Vec::as_slice)
    }

    pub(super) fn insert(&mut self, call: Identity, reply: &[u8]) {
        if reply.len() > REPLY_BYTES {
            return;
        }
        if self.replies.insert(call, reply.to_vec()).is_none() {
            self.oldest_first.push_back(call);
        }
        if self.oldest_first.len() > REPLIES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.replies.remove(&oldest);
        }
    }
}

/// Directory entries that the kernel may hold as "does not exist", because a LOOKUP or a REMOVE told it so.
///
/// A rewritten CREATE that fails with NFS3ERR_EXIST sends the kernel back to a LOOKUP, except where it believes that there
/// is no such file: there the app would get ENOENT (EEXIST before Linux 6.12) for a file that another machine has made.
/// Forgetting a name, or remembering one for too long, is harmless: it only decides which of the two answers is given.
#[derive(Debug, Default)]
pub(super) struct Absent {
    recent: HashSet<Key>,
    older: HashSet<Key>,
}

impl Absent {
    pub(super) fn insert(&mut self, entry: Key) {
        if self.recent.len() >= NAMES {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(entry);
    }

    pub(super) fn contains(&self, entry: Key) -> bool {
        self.recent.contains(&entry) || self.older.contains(&entry)
    }

    pub(super) fn remove(&mut self, entry: Key) {
        self.recent.remove(&entry);
        self.older.remove(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_replies_make_room() {
        let mut replies = Replies::default();
        for xid in 0..REPLIES as u32 + 10 {
            replies.insert((xid, 0), &xid.to_be_bytes());
        }
        assert_eq!(replies.replies.len(), REPLIES);
        assert_eq!(replies.get((9, 0)), None);
        assert_eq!(replies.get((10, 0)), Some(&10_u32.to_be_bytes()[..]));
        assert_eq!(replies.get((10, 1)), None, "same id, other arguments");
    }

    #[test]
    fn absent_names_are_bounded_and_the_recent_ones_stay() {
        let mut absent = Absent::default();
        for entry in 0..10 * NAMES as Key {
            absent.insert(entry);
        }
        assert!(absent.recent.len() + absent.older.len() <= 2 * NAMES);
        assert!(absent.contains(10 * NAMES as Key - 1));
        assert!(!absent.contains(0));
        absent.remove(10 * NAMES as Key - 1);
        assert!(!absent.contains(10 * NAMES as Key - 1));
    }
}
