//! What the guard has to know about each NFSv3 procedure (RFC 1813 section 3).

use nfs3_types::nfs3::NFS_PROGRAM;

/// What happens when a call is executed a second time, which decides what may be done when its reply was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Changes nothing.
    Reads,
    /// Changes something, and again to the same: WRITE, SETATTR.
    Sets,
    /// A second time it fails or does something else, such as REMOVE or RENAME.
    Once,
}

/// What a call names at the start of its arguments, and therefore which other calls it must not overtake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nothing that matters here: never waits for another call.
    Free,
    /// A file handle; never waits.
    FreeObject,
    /// A file handle; one call at a time for each.
    Object,
    /// A directory and a name in it; never waits.
    FreeEntry,
    /// A directory and a name in it; one call at a time for each directory.
    Entry,
    /// Two of these: RENAME's `from` and `to`.
    TwoEntries,
    /// A file handle, then the directory and name of the new link.
    Link,
}

/// A remote procedure as the guard sees it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Procedure {
    /// RFC 1813's name in lower case; `mount` for the MOUNT program, `other` for any other.
    pub(super) name: &'static str,
    pub(super) effect: Effect,
    pub(super) scope: Scope,
    /// Words after the status of a failure: each an optional attribute that is absent. `None` where a failure can't be
    /// said in NFS terms (NULL, and programs that are not NFS).
    pub(super) failure_words: Option<usize>,
}

const fn nfs(name: &'static str, effect: Effect, scope: Scope, failure_words: usize) -> Procedure {
    Procedure {
        name,
        effect,
        scope,
        failure_words: Some(failure_words),
    }
}

const fn foreign(name: &'static str) -> Procedure {
    Procedure {
        name,
        effect: Effect::Reads,
        scope: Scope::Free,
        failure_words: None,
    }
}

/// A call of the MOUNT program.
pub(super) static MOUNT: Procedure = foreign("mount");
/// A call of any other program, such as NFSACL.
pub(super) static OTHER: Procedure = foreign("other");

/// The procedures by number.
static NFS: [Procedure; 22] = [
    foreign("null"),
    nfs("getattr", Effect::Reads, Scope::FreeObject, 0),
    nfs("setattr", Effect::Sets, Scope::Object, 2),
    nfs("lookup", Effect::Reads, Scope::FreeEntry, 1),
    nfs("access", Effect::Reads, Scope::FreeObject, 1),
    nfs("readlink", Effect::Reads, Scope::FreeObject, 1),
    nfs("read", Effect::Reads, Scope::FreeObject, 1),
    nfs("write", Effect::Sets, Scope::Object, 2),
    nfs("create", Effect::Once, Scope::Entry, 2),
    nfs("mkdir", Effect::Once, Scope::Entry, 2),
    nfs("symlink", Effect::Once, Scope::Entry, 2),
    nfs("mknod", Effect::Once, Scope::Entry, 2),
    nfs("remove", Effect::Once, Scope::Entry, 2),
    nfs("rmdir", Effect::Once, Scope::Entry, 2),
    nfs("rename", Effect::Once, Scope::TwoEntries, 4),
    nfs("link", Effect::Once, Scope::Link, 3),
    nfs("readdir", Effect::Reads, Scope::FreeObject, 1),
    nfs("readdirplus", Effect::Reads, Scope::FreeObject, 1),
    nfs("fsstat", Effect::Reads, Scope::FreeObject, 1),
    nfs("fsinfo", Effect::Reads, Scope::FreeObject, 1),
    nfs("pathconf", Effect::Reads, Scope::FreeObject, 1),
    nfs("commit", Effect::Reads, Scope::Object, 2),
];

impl Procedure {
    /// The NFSv3 procedure of this number.
    pub(super) fn of(number: NFS_PROGRAM) -> &'static Procedure {
        &NFS[number as usize]
    }

    /// Whether it changes the file system.
    pub(super) fn modifies(&self) -> bool {
        self.effect != Effect::Reads
    }

    /// Whether its reply is kept for a retransmission. A WRITE can be repeated, and there are too many of them.
    pub(super) fn keeps_reply(&self) -> bool {
        self.modifies() && self.name != "write"
    }

    /// Whether it only takes something away, so that a full disk is no reason to refuse it.
    pub(super) fn frees_space(&self) -> bool {
        matches!(self.name, "remove" | "rmdir")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_rfc() {
        for number in 0..NFS.len() as u32 {
            let rfc = NFS_PROGRAM::try_from(number).unwrap();
            let name = rfc.to_string().trim_start_matches("NFSPROC3_").to_lowercase();
            assert_eq!(Procedure::of(rfc).name, name);
        }
        assert!(NFS_PROGRAM::try_from(NFS.len() as u32).is_err());
    }
}
