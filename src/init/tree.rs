//! The processes that are left when the one child is gone: everything it started has become our child, because we are PID 1 or
//! the subreaper (PR_SET_CHILD_SUBREAPER(2const)).

use std::fs;

use nix::unistd::{Pid, getpgid, getpgrp, getpid};

use super::signals;

/// Sends a signal to every process left, each once, though more turn up as their parents end.
#[derive(Default)]
pub(super) struct Tree {
    /// Process groups that were told; a process of our own group stands as its negated pid.
    told: Vec<libc::pid_t>,
}

impl Tree {
    /// Asks every child, with its process group, to end, unless it was asked before.
    pub(super) fn ask(&mut self) {
        for child in children() {
            let target = target(child);
            if !self.told.contains(&target) {
                self.told.push(target);
                tell(target, libc::SIGTERM);
                // A stopped process could not answer.
                tell(target, libc::SIGCONT);
            }
        }
    }

    /// Kills every child, with its process group. What they leave behind becomes our child: call again until none is left.
    pub(super) fn kill() {
        for child in children() {
            tell(target(child), libc::SIGKILL);
        }
    }
}

/// Whom a signal for `child` goes to: its group, so that grandchildren get it at the same moment; but never our own group.
fn target(child: libc::pid_t) -> libc::pid_t {
    match getpgid(Some(Pid::from_raw(child))) {
        Ok(group) if group.as_raw() > 1 && group != getpgrp() => group.as_raw(),
        _ => -child,
    }
}

fn tell(target: libc::pid_t, signal: i32) {
    if target > 0 {
        signals::send_group(target, signal);
    } else {
        signals::send(-target, signal);
    }
}

/// Our direct children.
pub(super) fn children() -> Vec<libc::pid_t> {
    children_of(getpid().as_raw())
}

/// The direct children of a process with one thread. Kernels without CONFIG_PROC_CHILDREN have no list, so there all of
/// `/proc` is read.
#[must_use]
pub fn children_of(pid: i32) -> Vec<i32> {
    match fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        Ok(list) => list
            .split_ascii_whitespace()
            .filter_map(|pid| pid.parse().ok())
            .collect(),
        Err(_) => by_parent(pid),
    }
}

fn by_parent(parent: libc::pid_t) -> Vec<libc::pid_t> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| parent_in(&stat) == Some(parent))
        })
        .collect()
}

/// The parent in a line of `/proc/PID/stat` (proc_pid_stat(5)). The name in parentheses may hold anything, so count from its end.
fn parent_in(stat: &str) -> Option<libc::pid_t> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_whatever_the_process_is_called() {
        assert_eq!(parent_in("12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in("12 (a) R 9 (b) S 7 12 12 0"), Some(7));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn both_ways_to_list_children_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = libc::pid_t::try_from(child.id()).unwrap();
        assert!(by_parent(getpid().as_raw()).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
