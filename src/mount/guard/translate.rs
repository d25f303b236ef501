//! Replies in the kernel's terms: rclone's handles and file numbers are replaced by ours, in place, and what a reply says
//! about names is noted ([`Nodes`]).
//!
//! The layouts are RFC 1813 section 3.3's. Only what is in front of the data is read. A reply that does not have its
//! layout is left as it is from there on: a handle of rclone's that the kernel gets that way comes back as one that is not
//! ours, is passed on, and works as long as that rclone does.

use std::ops::Range;

use nfs3_types::nfs3::nfsstat3;

use super::call::{Key, Object, Plan, handle_key};
use super::nodes::{HANDLE, Id, Nodes, ROOT};
use super::reply::{self, Outcome};

/// Bytes of `fattr3`, and where its file number is.
const ATTRIBUTES: usize = 84;
const FILE_NUMBER: usize = 52;
/// Bytes of `wcc_attr`.
const BEFORE: usize = 24;

/// What goes into a call and comes back with its reply: `call` is the record as it was sent.
pub(super) fn translate(record: &mut [u8], plan: &Plan, call: &[u8], nodes: &mut Nodes, epoch: u32) {
    let Some((outcome, at)) = reply::results(record, plan.procedure) else {
        return;
    };
    let [first, second] = &plan.objects;
    let id = |object: &Option<Object>| object.as_ref().and_then(|object| object.id);
    let name = |object: &Option<Object>| object.as_ref().and_then(|object| object.name.clone());
    let mut patch = Patch {
        record,
        at,
        nodes,
        epoch,
    };
    // Ends early where the reply does; there is nothing left to translate then.
    let _ = match plan.procedure.name {
        "mount" => plan.mounts.then(|| patch.mounted()).flatten(),
        "lookup" => patch.looked_up(outcome, id(first), name(first), call),
        "create" | "mkdir" | "symlink" | "mknod" => patch.created(outcome, plan, call),
        "remove" | "rmdir" => {
            if let (Outcome::Ok, Some(directory), Some(name)) = (outcome, id(first), name(first)) {
                patch.nodes.removed(directory, &call[name]);
            }
            patch.weak(id(first))
        }
        "rename" => patch.renamed(outcome, plan, call),
        "link" => patch.optional(id(first)).and_then(|()| patch.weak(id(second))),
        "getattr" if outcome == Outcome::Ok => patch.attributes(id(first)),
        "setattr" | "write" | "commit" => patch.weak(id(first)),
        "readdir" => patch.listed(outcome, id(first), false),
        "readdirplus" => patch.listed(outcome, id(first), true),
        "access" | "readlink" | "read" | "fsstat" | "fsinfo" | "pathconf" => patch.optional(id(first)),
        _ => None,
    };
}

/// A position in a reply. `None` from a method: the reply ends here, or is not what it should be.
struct Patch<'a> {
    record: &'a mut [u8],
    at: usize,
    nodes: &'a mut Nodes,
    epoch: u32,
}

impl Patch<'_> {
    fn word(&mut self) -> Option<u32> {
        let word = self.peek(self.at)?;
        self.at += 4;
        Some(word)
    }

    fn peek(&self, at: usize) -> Option<u32> {
        let bytes = self.record.get(at..at.checked_add(4)?)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    fn skip(&mut self, bytes: usize) -> Option<()> {
        let end = self.at.checked_add(bytes).filter(|end| *end <= self.record.len())?;
        self.at = end;
        Some(())
    }

    /// Variable-length data: where it is.
    fn opaque(&mut self) -> Option<Range<usize>> {
        let length = self.word()? as usize;
        let start = self.at;
        self.skip(length.checked_next_multiple_of(4)?)?;
        Some(start..start + length)
    }

    fn number(&mut self, at: usize, id: Option<Id>) {
        if let (Some(id), Some(bytes)) = (id, self.record.get_mut(at..at + 8)) {
            bytes.copy_from_slice(&id.to_be_bytes());
        }
    }

    /// `fattr3`
    fn attributes(&mut self, id: Option<Id>) -> Option<()> {
        let start = self.at;
        self.skip(ATTRIBUTES)?;
        self.number(start + FILE_NUMBER, id);
        Some(())
    }

    /// `post_op_attr`
    fn optional(&mut self, id: Option<Id>) -> Option<()> {
        match self.word()? {
            0 => Some(()),
            1 => self.attributes(id),
            _ => None,
        }
    }

    /// `wcc_data`
    fn weak(&mut self, id: Option<Id>) -> Option<()> {
        match self.word()? {
            0 => {}
            1 => self.skip(BEFORE)?,
            _ => return None,
        }
        self.optional(id)
    }

    /// The kind of object in the `post_op_attr` at `at`.
    fn kind(&self, at: usize) -> Option<u32> {
        (self.peek(at)? == 1).then(|| self.peek(at + 4))?
    }

    /// Replaces the handle at `handle` by that of `id`, and remembers it.
    fn hand_out(&mut self, handle: Range<usize>, id: Option<Id>) {
        let (Some(id), Some(bytes)) = (id, self.record.get_mut(handle)) else {
            return;
        };
        if let Ok(remote) = <[u8; HANDLE]>::try_from(&*bytes) {
            self.nodes.resolved(id, remote, self.epoch);
            bytes.copy_from_slice(&self.nodes.handle(id));
        }
    }

    /// Is there a handle that can be replaced in place?
    fn ours(handle: &Range<usize>) -> bool {
        handle.len() == HANDLE
    }

    /// `mountres3`
    fn mounted(&mut self) -> Option<()> {
        if self.word()? != 0 {
            return None;
        }
        let handle = self.opaque()?;
        self.hand_out(handle, Some(ROOT));
        Some(())
    }

    fn looked_up(
        &mut self,
        outcome: Outcome,
        directory: Option<Id>,
        name: Option<Range<usize>>,
        call: &[u8],
    ) -> Option<()> {
        if outcome == Outcome::Ok {
            let handle = self.opaque()?;
            let kind = self.kind(self.at);
            let id = match (directory, name) {
                (Some(directory), Some(name)) if Self::ours(&handle) => self.nodes.learn(directory, &call[name], kind),
                _ => None,
            };
            self.hand_out(handle, id);
            self.optional(id)?;
        }
        self.optional(directory)
    }

    fn created(&mut self, outcome: Outcome, plan: &Plan, call: &[u8]) -> Option<()> {
        let object = plan.objects[0].as_ref();
        let directory = object.and_then(|object| object.id);
        if outcome == Outcome::Ok {
            let mut id = None;
            if self.word()? == 1 {
                let handle = self.opaque()?;
                let kind = self.kind(self.at);
                if let (Some(directory), Some(name)) = (directory, object.and_then(|object| object.name.clone()))
                    && Self::ours(&handle)
                {
                    id = self.nodes.learn(directory, &call[name], kind);
                    if let (Some(id), "mkdir") = (id, plan.procedure.name) {
                        self.nodes.made(directory, id);
                    }
                }
                self.hand_out(handle, id);
            }
            self.optional(id)?;
        }
        self.weak(directory)
    }

    fn renamed(&mut self, outcome: Outcome, plan: &Plan, call: &[u8]) -> Option<()> {
        let [from, to] = plan.objects.each_ref().map(|object| {
            let object = object.as_ref()?;
            Some((object.id?, object.name.clone()?))
        });
        if let (Outcome::Ok, Some((from, old)), Some((to, new))) = (outcome, from.clone(), to.clone()) {
            self.nodes.renamed((from, &call[old]), (to, &call[new]));
        }
        self.weak(from.map(|(id, _)| id))?;
        self.weak(to.map(|(id, _)| id))
    }

    /// READDIR and READDIRPLUS.
    fn listed(&mut self, outcome: Outcome, directory: Option<Id>, plus: bool) -> Option<()> {
        self.optional(directory)?;
        if outcome != Outcome::Ok {
            return Some(());
        }
        let directory = directory?;
        self.skip(8)?;
        while self.word()? == 1 {
            let number = self.at;
            self.skip(8)?;
            let name = self.opaque()?;
            self.skip(8)?;
            let kind = if plus { self.kind(self.at) } else { None };
            let name = self.record.get(name)?;
            let id = self.nodes.learn(directory, name, kind);
            self.number(number, id);
            if plus {
                self.optional(id)?;
                if self.word()? == 1 {
                    let handle = self.opaque()?;
                    if Self::ours(&handle) {
                        self.hand_out(handle, id);
                    }
                }
            }
        }
        Some(())
    }
}

impl Nodes {
    /// Finds out which nodes a call names. True when the name in it (the first) is known to exist.
    pub(super) fn recognise(&self, plan: &mut Plan, call: &[u8]) -> bool {
        for object in plan.objects.iter_mut().flatten() {
            object.id = call
                .get(object.handle..object.handle + HANDLE)
                .and_then(|handle| self.id(handle));
        }
        plan.objects[0]
            .as_ref()
            .is_some_and(|object| object.name.is_some() && self.named(object, call).is_some())
    }

    /// The node that a call names, by its handle or by a directory's and the name in it. `None`: it is not known.
    fn named(&self, object: &Object, call: &[u8]) -> Option<Id> {
        match object.name.clone() {
            Some(name) => self.find(object.id?, call.get(name)?),
            None => object.id,
        }
    }

    /// The keys of the files that a call names.
    pub(super) fn keys(&self, plan: &Plan, call: &[u8]) -> [Option<Key>; 2] {
        plan.objects.each_ref().map(|object| {
            let id = self.named(object.as_ref()?, call)?;
            self.is_file(id).then(|| handle_key(&self.handle(id)))
        })
    }

    /// The paths in the bucket that a RENAME names, if it is of a file.
    pub(super) fn paths(&self, plan: &Plan, call: &[u8]) -> Option<[String; 2]> {
        let [source, target] = &plan.objects;
        let (source, target) = (source.as_ref()?, target.as_ref()?);
        if !self.is_file(self.named(source, call)?) {
            return None;
        }
        let path = |object: &Object| self.path(object.id?, call.get(object.name.clone()?)?);
        Some([path(source)?, path(target)?])
    }

    /// Whether a failure can mean that rclone's handle for an object stands for nothing any more although the object is
    /// still there: it may have been renamed while the call was on its way. The handles are forgotten then.
    pub(super) fn disown(&mut self, outcome: Outcome, plan: &Plan) -> bool {
        let named = plan.objects.iter().flatten().any(|object| object.name.is_some());
        let lost = match outcome {
            Outcome::Failed(nfsstat3::NFS3ERR_STALE | nfsstat3::NFS3ERR_BADHANDLE) => true,
            // With a name in the call, it is the name that is not there.
            Outcome::Failed(nfsstat3::NFS3ERR_NOENT) => !named,
            _ => false,
        };
        let mut ids = plan.objects.iter().flatten().filter_map(|object| object.id).peekable();
        let lost = lost && ids.peek().is_some();
        if lost {
            ids.for_each(|id| self.forget_remote(id));
        }
        lost
    }
}
