//! Replies: building the guard's own, and reading how a forwarded call ended.

use nfs3_types::nfs3::{
    CREATE3res, CREATE3resok, NFS3_FHSIZE, Nfs3Option, fattr3, ftype3, nfs_fh3, nfsstat3, post_op_attr,
};
use nfs3_types::nfs3::{post_op_fh3, wcc_data};
use nfs3_types::rpc::{RPC_VERSION_2, accept_stat, accept_stat_data, accepted_reply, msg_body, msg_type};
use nfs3_types::rpc::{opaque_auth, rejected_reply, reply_body, reply_stat, rpc_msg};
use nfs3_types::xdr_codec::Opaque;

use super::call::pack;
use super::procedure::Procedure;
use super::record::{MARK, set_mark};
use super::wire::{Cursor, Malformed};

/// RFC 5531 section 8.2: the longest verifier.
const MAX_AUTH: usize = 400;

fn rpc(xid: u32, body: reply_body<'_>) -> Vec<u8> {
    let mut record = vec![0; MARK];
    pack(
        &rpc_msg {
            xid,
            body: msg_body::REPLY(body),
        },
        &mut record,
    );
    record
}

fn finished(mut record: Vec<u8>) -> Vec<u8> {
    set_mark(&mut record);
    record
}

fn accepted_open(xid: u32, reply_data: accept_stat_data) -> Vec<u8> {
    rpc(
        xid,
        reply_body::MSG_ACCEPTED(accepted_reply {
            verf: opaque_auth::default(),
            reply_data,
        }),
    )
}

/// A reply without results: an RPC error, or success of a procedure that returns nothing.
pub(super) fn accepted(xid: u32, reply_data: accept_stat_data) -> Vec<u8> {
    finished(accepted_open(xid, reply_data))
}

/// The reply to a call of an RPC version that nobody speaks.
pub(super) fn rpc_mismatch(xid: u32) -> Vec<u8> {
    let reply = rejected_reply::rpc_mismatch(RPC_VERSION_2, RPC_VERSION_2);
    finished(rpc(xid, reply_body::MSG_DENIED(reply)))
}

/// The reply of a call that failed, with no attributes.
pub(super) fn failure(xid: u32, procedure: &Procedure, status: nfsstat3) -> Vec<u8> {
    let Some(words) = procedure.failure_words else {
        return accepted(xid, accept_stat_data::SYSTEM_ERR);
    };
    let mut record = accepted_open(xid, accept_stat_data::SUCCESS);
    pack(&status, &mut record);
    for _ in 0..words {
        pack(&post_op_attr::None, &mut record);
    }
    finished(record)
}

/// How a forwarded call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Ok,
    Failed(nfsstat3),
    /// The call did not reach the procedure: an RPC error, by its name in RFC 5531, or `MALFORMED`.
    Rpc(&'static str),
}

impl Outcome {
    /// The error's name in its RFC.
    pub(super) fn error(self) -> Option<&'static str> {
        match self {
            Outcome::Ok => None,
            Outcome::Failed(status) => Some(status_name(status)),
            Outcome::Rpc(name) => Some(name),
        }
    }
}

/// Whose reply this is.
pub(super) fn xid(record: &[u8]) -> Result<u32, Malformed> {
    let mut cursor = Cursor::new(record, MARK);
    let xid = cursor.value("xid")?;
    match cursor.value("message type")? {
        msg_type::REPLY => Ok(xid),
        msg_type::CALL => Err(Malformed {
            what: "reply",
            at: MARK + 4,
        }),
    }
}

/// Reads how the call ended. A reply that makes no sense is passed on as it is: rclone's server, for one, answers a call of
/// an unknown program with PROG_MISMATCH and leaves out the versions.
pub(super) fn outcome(record: &[u8], procedure: &Procedure) -> Outcome {
    open(record, procedure).map_or(Outcome::Rpc("MALFORMED"), |(outcome, _)| outcome)
}

/// How the call ended, and where in the record its results begin.
pub(super) fn results(record: &[u8], procedure: &Procedure) -> Option<(Outcome, usize)> {
    open(record, procedure)
        .ok()
        .map(|(outcome, cursor)| (outcome, cursor.at()))
}

/// What a LOOKUP found: rclone's handle, and the attributes if there were any.
pub(super) fn found<'a>(lookup: &'a [u8], procedure: &Procedure) -> Option<(&'a [u8], Option<fattr3>)> {
    let (Outcome::Ok, mut cursor) = open(lookup, procedure).ok()? else {
        return None;
    };
    let handle = cursor.opaque(NFS3_FHSIZE, "file handle").ok()?;
    let attributes: post_op_attr = cursor.value("attributes").ok()?;
    match attributes {
        Nfs3Option::Some(attributes) => Some((handle, Some(attributes))),
        Nfs3Option::None => Some((handle, None)),
    }
}

/// The handle in the reply of a MKDIR (or CREATE) that succeeded.
pub(super) fn made<'a>(record: &'a [u8], procedure: &Procedure) -> Option<&'a [u8]> {
    let (Outcome::Ok, mut cursor) = open(record, procedure).ok()? else {
        return None;
    };
    let follows: u32 = cursor.value("handle follows").ok()?;
    (follows == 1).then(|| cursor.opaque(NFS3_FHSIZE, "file handle").ok())?
}

/// The root's handle in the reply of MOUNT's MNT.
pub(super) fn root<'a>(record: &'a [u8], procedure: &Procedure) -> Option<&'a [u8]> {
    let (Outcome::Ok, mut cursor) = open(record, procedure).ok()? else {
        return None;
    };
    let status: u32 = cursor.value("status").ok()?;
    (status == 0).then(|| cursor.opaque(NFS3_FHSIZE, "file handle").ok())?
}

/// The outcome, and a cursor at the results that follow it.
fn open<'a>(record: &'a [u8], procedure: &Procedure) -> Result<(Outcome, Cursor<'a>), Malformed> {
    let mut cursor = Cursor::new(record, MARK + 2 * 4);
    if cursor.value::<reply_stat>("reply status")? == reply_stat::MSG_DENIED {
        return Ok((Outcome::Rpc("MSG_DENIED"), cursor));
    }
    cursor.value::<u32>("verifier")?;
    cursor.opaque(MAX_AUTH, "verifier")?;
    let outcome = match cursor.value::<accept_stat>("accept status")? {
        accept_stat::SUCCESS if procedure.failure_words.is_none() => Outcome::Ok,
        accept_stat::SUCCESS => match cursor.value("NFS status")? {
            nfsstat3::NFS3_OK => Outcome::Ok,
            status => Outcome::Failed(status),
        },
        accept_stat::PROG_UNAVAIL => Outcome::Rpc("PROG_UNAVAIL"),
        accept_stat::PROG_MISMATCH => Outcome::Rpc("PROG_MISMATCH"),
        accept_stat::PROC_UNAVAIL => Outcome::Rpc("PROC_UNAVAIL"),
        accept_stat::GARBAGE_ARGS => Outcome::Rpc("GARBAGE_ARGS"),
        accept_stat::SYSTEM_ERR => Outcome::Rpc("SYSTEM_ERR"),
    };
    Ok((outcome, cursor))
}

/// The reply of a CREATE that found its file there, made from the reply of a LOOKUP for it: what RFC 1813 section 3.3.8
/// says of UNCHECKED. The attributes of the call are the initial ones of a new file and don't apply. MKDIR's has the same
/// form.
///
/// `None` unless the LOOKUP found an object of that kind: opening anything else is the kernel's business.
pub(super) fn created(lookup: &[u8], procedure: &Procedure, kind: ftype3) -> Option<Vec<u8>> {
    let xid = xid(lookup).ok()?;
    let (Outcome::Ok, mut cursor) = open(lookup, procedure).ok()? else {
        return None;
    };
    let handle = cursor.opaque(NFS3_FHSIZE, "file handle").ok()?;
    let obj_attributes: post_op_attr = cursor.value("attributes").ok()?;
    let after: post_op_attr = cursor.value("directory attributes").ok()?;
    match &obj_attributes {
        Nfs3Option::Some(attributes) if attributes.type_ == kind => {}
        _ => return None,
    }
    let obj = post_op_fh3::Some(nfs_fh3 {
        data: Opaque::owned(handle.to_vec()),
    });
    let dir_wcc = wcc_data {
        before: Nfs3Option::None,
        after,
    };
    let mut record = accepted_open(xid, accept_stat_data::SUCCESS);
    pack(
        &CREATE3res::Ok(CREATE3resok {
            obj,
            obj_attributes,
            dir_wcc,
        }),
        &mut record,
    );
    Some(finished(record))
}

macro_rules! names {
    ($status:expr, $($name:ident)*) => { match $status { $(nfsstat3::$name => stringify!($name)),* } };
}

/// The status as RFC 1813 section 2.6 writes it.
pub(super) fn status_name(status: nfsstat3) -> &'static str {
    names!(status,
        NFS3_OK NFS3ERR_PERM NFS3ERR_NOENT NFS3ERR_IO NFS3ERR_NXIO NFS3ERR_ACCES NFS3ERR_EXIST NFS3ERR_XDEV
        NFS3ERR_NODEV NFS3ERR_NOTDIR NFS3ERR_ISDIR NFS3ERR_INVAL NFS3ERR_FBIG NFS3ERR_NOSPC NFS3ERR_ROFS NFS3ERR_MLINK
        NFS3ERR_NAMETOOLONG NFS3ERR_NOTEMPTY NFS3ERR_DQUOT NFS3ERR_STALE NFS3ERR_REMOTE NFS3ERR_BADHANDLE
        NFS3ERR_NOT_SYNC NFS3ERR_BAD_COOKIE NFS3ERR_NOTSUPP NFS3ERR_TOOSMALL NFS3ERR_SERVERFAULT NFS3ERR_BADTYPE
        NFS3ERR_JUKEBOX)
}
