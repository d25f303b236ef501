//! Which calls must wait for which: calls that change the same file or directory run in the order they came in.
//!
//! With every call on a path of its own, two that rclone's server used to take one after the other can run at the same
//! time. The Linux client itself waits where one operation depends on another (it flushes a file before it renames it,
//! holds the directory's lock across CREATE, REMOVE and RENAME, and sorts attributes by the age of the call), but three
//! things are left:
//!
//! * WRITEs of one file come many at a time. rclone's VFS reads the cached file's size and stores it in the directory
//!   entry in two steps, so parallel WRITEs can for a moment show a size that is too small.
//! * A process killed in the middle of a RENAME gives up the kernel's lock while the call still runs. rclone drops a
//!   handle by its path at the end of a RENAME or REMOVE, and would drop the handle of a file created meanwhile under the
//!   same name.
//! * A call that lost its connection is sent again, which must not happen after later ones of the same file.
//!
//! So calls that modify join a line for each file or directory they name and run when they are first in all of them.
//!
//! A RENAME also joins the lines of the file itself and of the one that it replaces, and it alone is waited for by reads of the
//! two: from its beginning rclone (1.75.2) takes that for one of the new name, so what is read or written meanwhile is the other
//! file's, and being opened puts it in the directory under that name as well. It stays there if the rename fails. (Found by
//! storms: one file under both names.)
//!
//! Other reads never wait. In rclone's own server every call waits for every other on its connection, so this is never slower.

use std::collections::{HashMap, VecDeque};

use super::call::Key;

/// The lines that one call is in: what it names, and for a RENAME also the two files.
pub(super) type Lines = [Option<Key>; 4];

/// A call's number, rising in the order of arrival.
pub(super) type Ticket = u64;

/// The lines, one for each key that is in use.
#[derive(Debug, Default)]
pub(super) struct Order {
    lines: HashMap<Key, VecDeque<Ticket>>,
}

impl Order {
    /// Joins the lines of `keys`. True when the call may run at once.
    pub(super) fn enter(&mut self, ticket: Ticket, keys: Lines) -> bool {
        for key in keys.into_iter().flatten() {
            self.lines.entry(key).or_default().push_back(ticket);
        }
        self.may_run(ticket, keys)
    }

    /// Whether the call is first in each of its lines.
    pub(super) fn may_run(&self, ticket: Ticket, keys: Lines) -> bool {
        keys.iter()
            .flatten()
            .all(|key| self.lines.get(key).and_then(VecDeque::front) == Some(&ticket))
    }

    /// Leaves the lines of `keys`. Returns the calls that are first in one of them now; each may run if
    /// [`Order::may_run`] says so.
    pub(super) fn leave(&mut self, ticket: Ticket, keys: Lines) -> [Option<Ticket>; 4] {
        keys.map(|key| {
            let line = self.lines.get_mut(&key?)?;
            line.retain(|waiting| *waiting != ticket);
            let next = line.front().copied();
            if next.is_none() {
                self.lines.remove(&key?);
            }
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever order calls end in: nothing runs together that shares a key, calls of one key run in the order they
        /// came, and every call runs.
        #[test]
        fn calls_of_one_key_run_one_by_one_in_order(
            calls in prop::collection::vec((prop::option::of(0_u64..4), prop::option::of(4_u64..6)), 1..40),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 40),
        ) {
            let mut order = Order::default();
            let calls: BTreeMap<Ticket, Lines> = (0..).zip(calls.iter().map(|(a, b)| [*a, *b, None, None])).collect();
            let mut running: Vec<Ticket> = Vec::new();
            let mut started: Vec<Ticket> = Vec::new();
            for (ticket, keys) in &calls {
                if order.enter(*ticket, *keys) {
                    running.push(*ticket);
                    started.push(*ticket);
                }
            }
            for pick in picks {
                for key in 0..6 {
                    let together = running.iter().filter(|ticket| calls[ticket].contains(&Some(key))).count();
                    prop_assert!(together <= 1, "{together} calls of key {key} at once");
                }
                if running.is_empty() {
                    break;
                }
                let done = running.swap_remove(pick.index(running.len()));
                let freed = order.leave(done, calls[&done]);
                let mut freed: Vec<Ticket> = freed.into_iter().flatten().collect();
                freed.dedup();
                for next in freed {
                    if order.may_run(next, calls[&next]) {
                        running.push(next);
                        started.push(next);
                    }
                }
            }
            prop_assert_eq!(started.len(), calls.len(), "a call never ran");
            prop_assert!(order.lines.is_empty());
            for key in 0..6 {
                let ran: Vec<_> = started.iter().filter(|ticket| calls[ticket].contains(&Some(key))).collect();
                prop_assert!(ran.is_sorted());
            }
        }
    }
}
