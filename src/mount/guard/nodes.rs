//! What the kernel's file handles stand for, over any number of rclones.
//!
//! rclone numbers files per process, and its handles stand for a path as it was when they were made: a handle does not
//! survive a rename, a number no restart. The kernel takes either change for another file (ESTALE). So it gets neither:
//! each file and directory that it is told of is a *node* with a number of its own, which is the file number in every
//! attribute and, with a mark of this guard, the handle. Numbers are never used twice.
//!
//! A node knows its directory and its name in it, and rclone's handle of the moment. Handles are from an *epoch*; a new
//! rclone begins another, and so does the rename of a directory, because all handles below it stand for old paths. A
//! handle of an earlier epoch is looked up again, name by name, when it is needed ([`Route`]).
//!
//! A bucket has no empty directories: those that were made live in rclone's memory and end with it. The ones made here
//! are noted and made again before anyone can miss them ([`Nodes::unmade`]).
//!
//! # Memory
//! A node takes about 200 bytes: 10 MiB for 50,000 files. Beyond [`MOST`] those that were not used for longest are
//! forgotten; the kernel gets ESTALE for one that it still holds open, and looks any other up again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// Bytes of a handle: rclone's (with `--nfs-cache-type disk`), and therefore ours, so that one replaces the other in place.
pub(super) const HANDLE: usize = 16;
/// Nodes kept.
const MOST: usize = 400_000;
/// The node of the mount's root.
pub(super) const ROOT: Id = 1;
/// `NF3DIR` (RFC 1813 section 2.5).
pub(super) const DIRECTORY: u32 = 2;
/// `NF3REG`.
const FILE: u32 = 1;

/// A node's number.
pub(super) type Id = u64;

/// A handle of rclone's.
pub(super) type Remote = [u8; HANDLE];

#[derive(Debug)]
struct Node {
    parent: Id,
    name: Arc<[u8]>,
    /// `ftype3`; 0 until an attribute told it.
    kind: u32,
    children: u32,
    remote: Remote,
    /// The epoch of `remote`; 0 when there is none.
    epoch: u32,
    used: bool,
}

/// One name to look up on the way to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) id: Id,
    pub(super) name: Arc<[u8]>,
    pub(super) directory: bool,
}

/// How a node is reached in rclone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// Its handle is known.
    Known(Remote),
    /// Look these up in turn, from this handle (`None`: from the root, whose handle has to be asked for).
    Steps(Option<Remote>, Vec<Step>),
    /// There is no such node any more.
    Gone,
}

/// All nodes.
#[derive(Debug)]
pub(super) struct Nodes {
    mark: [u8; 8],
    last: Id,
    epoch: u32,
    nodes: HashMap<Id, Node>,
    entries: HashMap<(Id, Arc<[u8]>), Id>,
    /// For the choice of what to forget.
    ages: VecDeque<Id>,
    /// Directories made here, by their parent.
    made: HashMap<Id, HashSet<Id>>,
    /// Of these, the parents whose directories the present rclone may not have.
    unmade: HashSet<Id>,
    most: usize,
}

impl Nodes {
    pub(super) fn new() -> Self {
        let root = Node {
            parent: 0,
            name: Arc::from([]),
            kind: DIRECTORY,
            children: 0,
            remote: [0; HANDLE],
            epoch: 0,
            used: true,
        };
        Self {
            mark: fastrand::u64(..).to_be_bytes(),
            last: ROOT,
            epoch: 1,
            nodes: HashMap::from([(ROOT, root)]),
            entries: HashMap::new(),
            ages: VecDeque::new(),
            made: HashMap::new(),
            unmade: HashSet::new(),
            most: MOST,
        }
    }

    /// The number in a handle of ours. A handle of a node that is gone has one too; another guard's has none.
    pub(super) fn id(&self, handle: &[u8]) -> Option<Id> {
        let number = handle.strip_prefix(&self.mark)?;
        number.try_into().ok().map(Id::from_be_bytes)
    }

    /// The handle that the kernel gets for a node.
    pub(super) fn handle(&self, id: Id) -> Remote {
        let mut handle = [0; HANDLE];
        handle[..8].copy_from_slice(&self.mark);
        handle[8..].copy_from_slice(&id.to_be_bytes());
        handle
    }

    /// The present epoch, to go with handles learned in it.
    pub(super) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// rclone was replaced: its handles and its empty directories are gone.
    pub(super) fn renew(&mut self) {
        self.epoch += 1;
        self.unmade = self.made.keys().copied().collect();
    }

    /// How to reach a node.
    pub(super) fn route(&mut self, id: Id) -> Route {
        let epoch = self.epoch;
        let Some(node) = self.nodes.get_mut(&id) else {
            return Route::Gone;
        };
        node.used = true;
        if node.epoch == epoch {
            return Route::Known(node.remote);
        }
        let (mut steps, mut at) = (Vec::new(), id);
        let base = loop {
            let Some(node) = self.nodes.get(&at) else {
                return Route::Gone;
            };
            if node.epoch == epoch {
                break Some(node.remote);
            }
            if at == ROOT {
                break None;
            }
            steps.push(Step {
                id: at,
                name: Arc::clone(&node.name),
                directory: node.kind == DIRECTORY,
            });
            at = node.parent;
        };
        steps.reverse();
        Route::Steps(base, steps)
    }

    /// Notes a handle that was looked up, unless the node has another name by now.
    pub(super) fn found(&mut self, step: &Step, remote: Remote, epoch: u32) {
        let same = |node: &Node| Arc::ptr_eq(&node.name, &step.name);
        if self.nodes.get(&step.id).is_some_and(same) {
            self.resolved(step.id, remote, epoch);
        }
    }

    /// Notes a handle that rclone gave for a node.
    pub(super) fn resolved(&mut self, id: Id, remote: Remote, epoch: u32) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.remote = remote;
            node.epoch = epoch;
        }
    }

    /// rclone does not know the handle any more.
    pub(super) fn forget_remote(&mut self, id: Id) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.epoch = 0;
        }
    }

    pub(super) fn is_file(&self, id: Id) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.kind == FILE)
    }

    /// The path in the bucket of `name` in `directory`; as rclone writes a name that is not UTF-8.
    pub(super) fn path(&self, directory: Id, name: &[u8]) -> Option<String> {
        let mut names = vec![String::from_utf8_lossy(name)];
        let mut at = directory;
        while at != ROOT {
            let node = self.nodes.get(&at)?;
            names.push(String::from_utf8_lossy(&node.name));
            at = node.parent;
        }
        names.reverse();
        Some(names.join("/"))
    }

    /// The node of a name in a directory, if it is known.
    pub(super) fn find(&self, directory: Id, name: &[u8]) -> Option<Id> {
        match name {
            b"." => Some(directory),
            b".." if directory == ROOT => Some(ROOT),
            b".." => self.nodes.get(&directory).map(|node| node.parent),
            _ => self.entries.get(&(directory, Arc::from(name))).copied(),
        }
    }

    /// The node of `name` in `directory`, which rclone has just told of. Another kind of object under a known name is
    /// another node. `None` when the directory is gone.
    pub(super) fn learn(&mut self, directory: Id, name: &[u8], kind: Option<u32>) -> Option<Id> {
        if let Some(id) = self.find(directory, name) {
            match (self.nodes.get_mut(&id), kind) {
                (Some(node), Some(kind)) if node.kind == 0 => node.kind = kind,
                (Some(node), Some(kind)) if node.kind != kind => self.removed(directory, name),
                _ => {}
            }
            if self.nodes.contains_key(&id) {
                return Some(id);
            }
        }
        if matches!(name, b"." | b"..") {
            return None;
        }
        self.nodes.get_mut(&directory)?.children += 1;
        self.last += 1;
        let (id, name) = (self.last, Arc::<[u8]>::from(name));
        self.entries.insert((directory, Arc::clone(&name)), id);
        self.nodes.insert(
            id,
            Node {
                parent: directory,
                name,
                kind: kind.unwrap_or(0),
                children: 0,
                remote: [0; HANDLE],
                epoch: 0,
                // At the end of the line it has time to be.
                used: false,
            },
        );
        self.ages.push_back(id);
        self.make_room();
        Some(id)
    }

    /// A name is gone, and with it the node.
    pub(super) fn removed(&mut self, directory: Id, name: &[u8]) {
        let Some(id) = self.entries.remove(&(directory, Arc::from(name))) else {
            return;
        };
        self.nodes.remove(&id);
        if let Some(parent) = self.nodes.get_mut(&directory) {
            parent.children = parent.children.saturating_sub(1);
        }
        self.unmake(directory, id);
        self.made.remove(&id);
    }

    /// A rename has been done: the node keeps its number; what had the new name before is gone.
    pub(super) fn renamed(&mut self, from: (Id, &[u8]), to: (Id, &[u8])) {
        if from == to {
            return;
        }
        self.removed(to.0, to.1);
        let Some(id) = self.entries.remove(&(from.0, Arc::from(from.1))) else {
            return;
        };
        let name = Arc::<[u8]>::from(to.1);
        self.entries.insert((to.0, Arc::clone(&name)), id);
        for (directory, change) in [(from.0, -1), (to.0, 1)] {
            if let Some(node) = self.nodes.get_mut(&directory) {
                node.children = node.children.saturating_add_signed(change);
            }
        }
        if self.unmake(from.0, id) {
            self.made.entry(to.0).or_default().insert(id);
        }
        if let Some(node) = self.nodes.get_mut(&id) {
            node.parent = to.0;
            node.name = name;
            node.epoch = 0;
            if node.kind != DIRECTORY {
                return;
            }
        }
        // Everything below it has another path now.
        self.epoch += 1;
    }

    /// A directory has been made here.
    pub(super) fn made(&mut self, directory: Id, id: Id) {
        self.made.entry(directory).or_default().insert(id);
    }

    fn unmake(&mut self, directory: Id, id: Id) -> bool {
        let Some(made) = self.made.get_mut(&directory) else {
            return false;
        };
        let found = made.remove(&id);
        if made.is_empty() {
            self.made.remove(&directory);
        }
        found
    }

    /// The directories in `directory` that were made here and that the present rclone may not have.
    pub(super) fn unmade(&self, directory: Id) -> Vec<Step> {
        if !self.unmade.contains(&directory) {
            return Vec::new();
        }
        let made = self.made.get(&directory).into_iter().flatten();
        made.filter_map(|id| {
            self.nodes.get(id).map(|node| Step {
                id: *id,
                name: Arc::clone(&node.name),
                directory: true,
            })
        })
        .collect()
    }

    /// They are there again, unless rclone was replaced since `epoch`.
    pub(super) fn remade(&mut self, directory: Id, epoch: u32) {
        if self.epoch == epoch {
            self.unmade.remove(&directory);
        }
    }

    /// Forgets nodes that were not used for longest, as long as there are too many. Directories that lead to others stay.
    fn make_room(&mut self) {
        if self.ages.len() > 2 * self.nodes.len() + 1024 {
            let nodes = &self.nodes;
            self.ages.retain(|id| nodes.contains_key(id));
        }
        let mut looks = 2 * self.ages.len();
        while self.nodes.len() > self.most && looks > 0 {
            looks -= 1;
            let Some(oldest) = self.ages.pop_front() else { return };
            let Some(node) = self.nodes.get_mut(&oldest) else {
                continue;
            };
            if std::mem::take(&mut node.used) || node.children > 0 {
                self.ages.push_back(oldest);
                continue;
            }
            let (parent, name) = (node.parent, Arc::clone(&node.name));
            self.removed(parent, &name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u32 = 1;

    fn remote(byte: u8) -> Remote {
        [byte; HANDLE]
    }

    fn names(route: Route) -> (Option<Remote>, Vec<String>) {
        match route {
            Route::Steps(base, steps) => (
                base,
                steps
                    .iter()
                    .map(|step| String::from_utf8_lossy(&step.name).into_owned())
                    .collect(),
            ),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_handle_leads_to_its_node_and_no_other_guards_does() {
        let (mut nodes, other) = (Nodes::new(), Nodes::new());
        let id = nodes.learn(ROOT, b"a.md", Some(FILE)).unwrap();
        assert_eq!(nodes.id(&nodes.handle(id)), Some(id));
        assert_eq!(other.id(&nodes.handle(id)), None);
        assert_eq!(nodes.id(b"short"), None);
        assert_eq!(nodes.learn(ROOT, b"a.md", Some(FILE)), Some(id), "the same file");
    }

    #[test]
    fn a_handle_is_looked_up_again_after_a_restart_from_where_it_is_known() {
        let mut nodes = Nodes::new();
        let folder = nodes.learn(ROOT, b"work", Some(DIRECTORY)).unwrap();
        let file = nodes.learn(folder, b"a.md", Some(FILE)).unwrap();
        nodes.resolved(file, remote(3), nodes.epoch());
        assert_eq!(nodes.route(file), Route::Known(remote(3)));
        let before = nodes.epoch();
        nodes.renew();
        assert_eq!(names(nodes.route(file)), (None, vec!["work".into(), "a.md".into()]));
        nodes.resolved(folder, remote(2), before);
        assert_eq!(names(nodes.route(file)).0, None, "an answer of the rclone before");
        nodes.resolved(folder, remote(2), nodes.epoch());
        assert_eq!(names(nodes.route(file)), (Some(remote(2)), vec!["a.md".into()]));
    }

    #[test]
    fn a_rename_keeps_the_number_and_ends_what_was_there() {
        let mut nodes = Nodes::new();
        let fresh = nodes.learn(ROOT, b"a.tmp", Some(FILE)).unwrap();
        let old = nodes.learn(ROOT, b"a.md", Some(FILE)).unwrap();
        nodes.resolved(fresh, remote(1), nodes.epoch());
        nodes.renamed((ROOT, b"a.tmp"), (ROOT, b"a.md"));
        assert_eq!(nodes.learn(ROOT, b"a.md", Some(FILE)), Some(fresh));
        assert_eq!(nodes.route(old), Route::Gone);
        assert!(nodes.find(ROOT, b"a.tmp").is_none());
        assert_eq!(
            names(nodes.route(fresh)).1,
            ["a.md"],
            "rclone's handle stood for the old path"
        );
        nodes.renamed((ROOT, b"a.md"), (ROOT, b"a.md"));
        assert_eq!(nodes.learn(ROOT, b"a.md", Some(FILE)), Some(fresh), "to itself");
    }

    #[test]
    fn a_renamed_directory_takes_what_is_in_it_along() {
        let mut nodes = Nodes::new();
        let folder = nodes.learn(ROOT, b"work", Some(DIRECTORY)).unwrap();
        let file = nodes.learn(folder, b"a.md", Some(FILE)).unwrap();
        nodes.resolved(file, remote(1), nodes.epoch());
        nodes.renamed((ROOT, b"work"), (ROOT, b"done"));
        assert_eq!(names(nodes.route(file)).1, ["done", "a.md"]);
    }

    #[test]
    fn another_kind_of_object_is_another_node() {
        let mut nodes = Nodes::new();
        let listed = nodes.learn(ROOT, b"x", None).unwrap();
        assert_eq!(
            nodes.learn(ROOT, b"x", Some(FILE)),
            Some(listed),
            "its kind was not known"
        );
        let directory = nodes.learn(ROOT, b"x", Some(DIRECTORY)).unwrap();
        assert_ne!(directory, listed);
        assert_eq!(nodes.route(listed), Route::Gone);
    }

    #[test]
    fn directories_made_here_are_to_be_made_again() {
        let mut nodes = Nodes::new();
        let made = |nodes: &mut Nodes, name: &[u8]| {
            let id = nodes.learn(ROOT, name, Some(DIRECTORY)).unwrap();
            nodes.made(ROOT, id);
            id
        };
        let (empty, gone) = (made(&mut nodes, b"empty"), made(&mut nodes, b"gone"));
        let moved = made(&mut nodes, b"moved");
        assert!(nodes.unmade(ROOT).is_empty(), "this rclone made them");
        nodes.removed(ROOT, b"gone");
        nodes.renamed((ROOT, b"moved"), (empty, b"inner"));
        nodes.renew();
        let steps = |nodes: &Nodes, id| nodes.unmade(id).iter().map(|step| step.id).collect::<Vec<_>>();
        assert_eq!(steps(&nodes, ROOT), [empty]);
        assert_eq!(steps(&nodes, empty), [moved]);
        assert_eq!(nodes.route(gone), Route::Gone);
        nodes.remade(ROOT, nodes.epoch());
        assert!(nodes.unmade(ROOT).is_empty());
    }

    #[test]
    fn what_was_not_used_for_longest_is_forgotten_and_the_way_to_the_rest_is_not() {
        let mut nodes = Nodes::new();
        nodes.most = 100;
        let folder = nodes.learn(ROOT, b"folder", Some(DIRECTORY)).unwrap();
        let first = nodes.learn(folder, b"first", Some(FILE)).unwrap();
        for number in 0..1000 {
            nodes.learn(folder, format!("{number}").as_bytes(), Some(FILE)).unwrap();
            nodes.route(first);
        }
        assert_eq!(nodes.len(), 100);
        assert!(nodes.ages.len() < 2000 && nodes.entries.len() == 99);
        assert!(
            nodes.find(folder, b"first").is_some()
                && nodes.find(folder, b"999").is_some()
                && nodes.find(ROOT, b"folder").is_some()
        );
        assert!(nodes.find(folder, b"0").is_none());
    }

    #[test]
    fn files_that_come_and_go_leave_nothing_behind() {
        let mut nodes = Nodes::new();
        for number in 0..10_000 {
            let name = format!("{number}");
            nodes.learn(ROOT, name.as_bytes(), Some(FILE)).unwrap();
            nodes.removed(ROOT, name.as_bytes());
        }
        assert_eq!((nodes.len(), nodes.entries.len()), (1, 0));
        assert!(nodes.ages.len() < 2048);
    }
}
