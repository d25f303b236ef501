//! Looking into a call: which procedure, what it names, and the rewriting that keeps files from being emptied, and emptying
//! them from asking the bucket.
//!
//! Linux since 6.12 or a little earlier opens a file with `O_CREAT` that it has not looked up by sending CREATE with mode
//! UNCHECKED and no size. RFC 1813 section 3.3.8 lets that succeed on an existing file and leaves the file alone; rclone's
//! server empties it. Mode GUARDED fails with NFS3ERR_EXIST instead, and the kernel goes on with a LOOKUP. A size of 0 is
//! `O_TRUNC`: there the file is meant to be emptied, and the call stays as it is.
//!
//! `O_TRUNC` of a file that is known is a SETATTR of size 0 that also sets the modification time to the server's. rclone's
//! server does one after the other, and the time of a file that nobody has open it sets in the bucket: with a copy of what was
//! just emptied, and an error when the bucket does not answer, of a file that is empty by then. A size that changes sets the
//! time by itself. So a SETATTR with both is forwarded with the size alone.
//!
//! Only the fields in front are read, never a WRITE's data, and the rewriting changes four bytes in place. What can't be
//! parsed is never forwarded on a guess: rclone's server reads less strictly than this and might see a CREATE in it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use nfs3_types::nfs3::{
    self, NFS_PROGRAM, NFS3_FHSIZE, createverf3, nfsstat3, sattr3, set_atime, set_gid3, set_mode3, set_mtime,
    set_size3, set_uid3,
};
use nfs3_types::rpc::{RPC_VERSION_2, accept_stat_data, msg_type};
use nfs3_types::{mount, xdr_codec::Pack};

use super::nodes::{HANDLE, Id};
use super::procedure::{MOUNT, OTHER, Procedure, Scope};
use super::record::{MARK, set_mark};
use super::reply;
use super::wire::{Cursor, Malformed};

/// RFC 5531 section 8.2: the body of a credential or verifier.
const MAX_AUTH: usize = 400;
/// Linux sends at most 255 bytes; a longer name is rclone's to refuse.
const MAX_NAME: usize = 4096;
/// As much of the arguments as goes into the digest that recognises a retransmission: every field but a WRITE's data.
const DIGESTED: usize = 1024;
/// MOUNT procedures: the one that gives the root's handle, and those that tell the server about an unmount (RFC 1813
/// section 5.2).
const MNT: u32 = 1;
const UMNT: u32 = 3;
const UMNTALL: u32 = 4;

/// A directory entry or object as a number: equal for equal handles (and names). Different ones can collide, which only
/// makes two calls wait for each other.
pub(super) type Key = u64;

/// What one call must be alone on, as far as the call itself says.
pub(super) type Keys = [Option<Key>; 2];

/// Recognises a retransmission: the transaction id and a digest of the procedure and its arguments.
pub(super) type Identity = (u32, u64);

/// A file or directory that a call names by its handle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Where the handle's bytes are in the record.
    pub(super) handle: usize,
    /// Where the name in it is, in calls that name an entry of a directory.
    pub(super) name: Option<Range<usize>>,
    /// Which node it is, when the handle is one of ours. Filled in by the exchange, which knows them.
    pub(super) id: Option<Id>,
}

/// A call that can be forwarded.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) identity: Identity,
    pub(super) procedure: &'static Procedure,
    pub(super) keys: Keys,
    /// The directory entry it names, for calls that name one: what a LOOKUP asks for, what a CREATE or REMOVE changes, a
    /// RENAME's target.
    pub(super) entry: Option<Key>,
    /// For a CREATE that was rewritten: where its directory handle and name are in the record.
    pub(super) rewritten: Option<Range<usize>>,
    /// What it names, for handles of the length of ours.
    pub(super) objects: [Option<Object>; 2],
    /// Where its arguments begin in the record.
    pub(super) arguments: usize,
    /// It asks for the handle of the root.
    pub(super) mounts: bool,
}

/// What to do with a record that came from the kernel.
#[derive(Debug)]
pub(super) enum Inspected {
    Forward(Plan),
    /// Answered here, with this record.
    Answer(Vec<u8>),
    /// Not a call at all: the stream can't be trusted any more.
    Close(Malformed),
}

/// Looks into a record and rewrites it where it must be.
pub(super) fn inspect(record: &mut [u8]) -> Inspected {
    let mut cursor = Cursor::new(record, MARK);
    let xid = match call_xid(&mut cursor) {
        Ok(xid) => xid,
        Err(malformed) => return Inspected::Close(malformed),
    };
    match look(xid, cursor) {
        Ok(Look::Answer(answer)) => Inspected::Answer(answer),
        Ok(Look::Forward { plan, change }) => {
            if let Some(change) = change {
                let (at, value) = change.bytes();
                record[at..at + 4].copy_from_slice(&value.to_be_bytes());
            }
            Inspected::Forward(plan)
        }
        Err(malformed) => {
            tracing::warn!(xid, %malformed, "refused an NFS call that could not be understood");
            Inspected::Answer(reply::accepted(xid, accept_stat_data::GARBAGE_ARGS))
        }
    }
}

/// `createmode3` (RFC 1813 section 3.3.8).
const UNCHECKED: u32 = 0;
const GUARDED: u32 = 1;
const EXCLUSIVE: u32 = 2;
/// `time_how` (RFC 1813 section 2.6): DONT_CHANGE.
const DONT_CHANGE: u32 = 0;

enum Look {
    Answer(Vec<u8>),
    /// `change`: what must be changed in the record before.
    Forward {
        plan: Plan,
        change: Option<Change>,
    },
}

/// Four bytes of a call, by where they are.
enum Change {
    /// The create mode becomes GUARDED.
    Guard(usize),
    /// The modification time is not set.
    KeepTime(usize),
}

impl Change {
    /// Where they are, and what they become.
    fn bytes(&self) -> (usize, u32) {
        match *self {
            Change::Guard(at) => (at, GUARDED),
            Change::KeepTime(at) => (at, DONT_CHANGE),
        }
    }
}

fn call_xid(cursor: &mut Cursor<'_>) -> Result<u32, Malformed> {
    let xid = cursor.value("xid")?;
    let at = cursor.at();
    match cursor.value("message type")? {
        msg_type::CALL => Ok(xid),
        msg_type::REPLY => Err(Malformed { what: "call", at }),
    }
}

fn look(xid: u32, mut cursor: Cursor<'_>) -> Result<Look, Malformed> {
    if cursor.value::<u32>("RPC version")? != RPC_VERSION_2 {
        return Ok(Look::Answer(reply::rpc_mismatch(xid)));
    }
    let program: u32 = cursor.value("program")?;
    let version: u32 = cursor.value("version")?;
    let number: u32 = cursor.value("procedure")?;
    for what in ["credential", "verifier"] {
        cursor.value::<u32>(what)?;
        cursor.opaque(MAX_AUTH, what)?;
    }
    let start = cursor.at();
    let arguments = cursor.rest();
    let identity = (
        xid,
        digest(&(
            program,
            number,
            arguments.len(),
            &arguments[..arguments.len().min(DIGESTED)],
        )),
    );
    let plan = |procedure| Plan {
        identity,
        procedure,
        keys: Keys::default(),
        entry: None,
        rewritten: None,
        objects: [None, None],
        arguments: start,
        mounts: false,
    };

    match program {
        nfs3::PROGRAM if version != nfs3::VERSION => {
            // rclone's server does not look at the version: another one's procedure 8 would be a CREATE to it.
            let only = accept_stat_data::PROG_MISMATCH {
                low: nfs3::VERSION,
                high: nfs3::VERSION,
            };
            Ok(Look::Answer(reply::accepted(xid, only)))
        }
        nfs3::PROGRAM => match NFS_PROGRAM::try_from(number) {
            Ok(procedure) => look_nfs(xid, cursor, procedure, plan(Procedure::of(procedure))),
            Err(_) => Ok(Look::Answer(reply::accepted(xid, accept_stat_data::PROC_UNAVAIL))),
        },
        // On this call `rclone nfsmount` exits at once and drops its queue of uploads.
        mount::PROGRAM if number == UMNT || number == UMNTALL => {
            Ok(Look::Answer(reply::accepted(xid, accept_stat_data::SUCCESS)))
        }
        mount::PROGRAM => Ok(Look::Forward {
            plan: Plan {
                mounts: number == MNT,
                ..plan(&MOUNT)
            },
            change: None,
        }),
        _ => Ok(Look::Forward {
            plan: plan(&OTHER),
            change: None,
        }),
    }
}

fn look_nfs(xid: u32, mut cursor: Cursor<'_>, number: NFS_PROGRAM, mut plan: Plan) -> Result<Look, Malformed> {
    let mut change = None;
    match plan.procedure.scope {
        Scope::Free => {}
        Scope::FreeObject => plan.objects[0] = handle(&mut cursor)?.1,
        Scope::Object => {
            let (key, object) = handle(&mut cursor)?;
            plan.keys[0] = Some(key);
            plan.objects[0] = object;
            if number == NFS_PROGRAM::NFSPROC3_SETATTR {
                change = time_beside_size(&mut cursor)?.map(Change::KeepTime);
            }
        }
        Scope::FreeEntry => {
            let (_, entry, object) = entry(&mut cursor)?;
            plan.entry = Some(entry);
            plan.objects[0] = object;
        }
        Scope::Entry => {
            let start = cursor.at();
            let (directory, entry, object) = entry(&mut cursor)?;
            plan.keys[0] = Some(directory);
            plan.entry = Some(entry);
            plan.objects[0] = object;
            if number == NFS_PROGRAM::NFSPROC3_CREATE {
                let named = start..cursor.at();
                match create_mode(&mut cursor)? {
                    CreateMode::Exclusive => {
                        // rclone's server answers just this, with an error in its log. The kernel then sends GUARDED.
                        let refusal = reply::failure(xid, plan.procedure, nfsstat3::NFS3ERR_NOTSUPP);
                        return Ok(Look::Answer(refusal));
                    }
                    CreateMode::AsItIs => {}
                    CreateMode::MustNotTruncate => {
                        change = Some(Change::Guard(named.end));
                        plan.rewritten = Some(named);
                    }
                }
            }
        }
        Scope::TwoEntries => {
            let (from, _, source) = entry(&mut cursor)?;
            let (to, entry, target) = entry(&mut cursor)?;
            plan.keys = two(from, to);
            plan.entry = Some(entry);
            plan.objects = [source, target];
        }
        Scope::Link => {
            let (file, source) = handle(&mut cursor)?;
            let (directory, entry, target) = entry(&mut cursor)?;
            plan.keys = two(file, directory);
            plan.entry = Some(entry);
            plan.objects = [source, target];
        }
    }
    Ok(Look::Forward { plan, change })
}

/// Reads `sattr3`. Where its modification time is, when it is to become the server's beside a new size.
fn time_beside_size(cursor: &mut Cursor<'_>) -> Result<Option<usize>, Malformed> {
    cursor.value::<set_mode3>("mode")?;
    cursor.value::<set_uid3>("owner")?;
    cursor.value::<set_gid3>("group")?;
    let size: set_size3 = cursor.value("size")?;
    cursor.value::<set_atime>("access time")?;
    let at = cursor.at();
    let time: set_mtime = cursor.value("modification time")?;
    let both = matches!((size, time), (set_size3::Some(_), set_mtime::SET_TO_SERVER_TIME));
    Ok(both.then_some(at))
}

enum CreateMode {
    /// UNCHECKED without a size of 0.
    MustNotTruncate,
    /// GUARDED, or UNCHECKED with a size of 0.
    AsItIs,
    Exclusive,
}

/// Reads `createhow3`, to its last byte.
fn create_mode(cursor: &mut Cursor<'_>) -> Result<CreateMode, Malformed> {
    let at = cursor.at();
    let mode = match cursor.value::<u32>("create mode")? {
        EXCLUSIVE => {
            cursor.value::<createverf3>("create verifier")?;
            CreateMode::Exclusive
        }
        mode @ (UNCHECKED | GUARDED) => {
            let attributes: sattr3 = cursor.value("attributes")?;
            let empties = matches!(attributes.size, set_size3::Some(0));
            if mode == UNCHECKED && !empties {
                CreateMode::MustNotTruncate
            } else {
                CreateMode::AsItIs
            }
        }
        _ => {
            return Err(Malformed {
                what: "create mode",
                at,
            });
        }
    };
    if cursor.rest().is_empty() {
        Ok(mode)
    } else {
        Err(Malformed {
            what: "end of the call",
            at: cursor.at(),
        })
    }
}

fn two(one: Key, other: Key) -> Keys {
    [Some(one), Some(other).filter(|other| *other != one)]
}

/// Reads a handle: its key, and what it names if it may be one of ours.
fn handle(cursor: &mut Cursor<'_>) -> Result<(Key, Option<Object>), Malformed> {
    // Behind the length.
    let start = cursor.at() + 4;
    let bytes = cursor.opaque(NFS3_FHSIZE, "file handle")?;
    let object = (bytes.len() == HANDLE).then_some(Object {
        handle: start,
        name: None,
        id: None,
    });
    Ok((handle_key(bytes), object))
}

/// Reads `diropargs3`: the keys of the directory and of the entry in it, and the two as an object.
fn entry(cursor: &mut Cursor<'_>) -> Result<(Key, Key, Option<Object>), Malformed> {
    let directory = cursor.clone().opaque(NFS3_FHSIZE, "file handle")?;
    let (key, object) = handle(cursor)?;
    let start = cursor.at() + 4;
    let name = cursor.opaque(MAX_NAME, "file name")?;
    let object = object.map(|object| Object {
        name: Some(start..start + name.len()),
        ..object
    });
    Ok((key, digest(&(directory, name)), object))
}

/// The key of what has this handle.
pub(super) fn handle_key(handle: &[u8]) -> Key {
    digest(handle)
}

fn digest<T: Hash + ?Sized>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The LOOKUP of a directory entry that a call names, with the call's transaction id and credential. `named` is where its
/// `diropargs3` is, which is all of LOOKUP's arguments.
pub(super) fn lookup_for(call: &[u8], arguments: usize, named: &Range<usize>) -> Vec<u8> {
    // Mark, xid, message type, RPC version, program and version come before the procedure.
    const PROCEDURE: usize = MARK + 5 * 4;
    let mut lookup = call[..arguments].to_vec();
    lookup[PROCEDURE..PROCEDURE + 4].copy_from_slice(&(NFS_PROGRAM::NFSPROC3_LOOKUP as u32).to_be_bytes());
    lookup.extend_from_slice(&call[named.clone()]);
    set_mark(&mut lookup);
    lookup
}

impl Object {
    /// Where the `diropargs3` is that names it: handle and name with their lengths, padded.
    pub(super) fn arguments(&self) -> Option<Range<usize>> {
        let name = self.name.as_ref()?;
        Some(self.handle - 4..name.start + name.len().next_multiple_of(4))
    }
}

/// Appends an XDR value; into memory that can't fail.
pub(super) fn pack(value: &impl Pack, into: &mut Vec<u8>) {
    let packed = value.pack(into);
    debug_assert!(packed.is_ok(), "packing into memory failed: {packed:?}");
}
