//! Calls as the kernel sends them, and replies as rclone does.

use nfs3_types::nfs3::*;
use nfs3_types::rpc::{auth_unix, call_body, msg_body, opaque_auth, rpc_msg};
use nfs3_types::xdr_codec::{Opaque, Pack, Unpack};

use super::super::record::{MARK, set_mark};
use super::super::{call as calls, reply};

pub(super) fn call(xid: u32, program: u32, procedure: u32, arguments: &impl Pack) -> Vec<u8> {
    let credential = auth_unix {
        machinename: Opaque::borrowed(b"host"),
        gids: vec![1, 2],
        ..auth_unix::default()
    };
    let body = call_body {
        rpcvers: 2,
        prog: program,
        vers: 3,
        proc: procedure,
        cred: opaque_auth::auth_unix(&credential),
        verf: opaque_auth::default(),
    };
    let mut record = vec![0; MARK];
    calls::pack(
        &rpc_msg {
            xid,
            body: msg_body::CALL(body),
        },
        &mut record,
    );
    calls::pack(arguments, &mut record);
    set_mark(&mut record);
    record
}

pub(super) fn nfs(xid: u32, procedure: NFS_PROGRAM, arguments: &impl Pack) -> Vec<u8> {
    call(xid, PROGRAM, procedure as u32, arguments)
}

pub(super) fn handle(name: &str) -> nfs_fh3 {
    nfs_fh3 {
        data: Opaque::owned(name.as_bytes().to_vec()),
    }
}

pub(super) fn at<'a>(directory: &str, name: &'a str) -> diropargs3<'a> {
    diropargs3 {
        dir: handle(directory),
        name: filename3::from(name.as_bytes()),
    }
}

pub(super) fn setattr(xid: u32, file: &str, size: Option<u64>, mtime: set_mtime) -> Vec<u8> {
    let arguments = SETATTR3args {
        object: handle(file),
        new_attributes: sattr3 { mtime, ..sized(size) },
        guard: sattrguard3::None,
    };
    nfs(xid, NFS_PROGRAM::NFSPROC3_SETATTR, &arguments)
}

pub(super) fn getattr(xid: u32, file: &str) -> Vec<u8> {
    nfs(
        xid,
        NFS_PROGRAM::NFSPROC3_GETATTR,
        &GETATTR3args { object: handle(file) },
    )
}

pub(super) fn write(xid: u32, file: &str, data: &[u8]) -> Vec<u8> {
    let count = data.len() as u32;
    let stable = stable_how::FILE_SYNC;
    let data = Opaque::borrowed(data);
    nfs(
        xid,
        NFS_PROGRAM::NFSPROC3_WRITE,
        &WRITE3args {
            file: handle(file),
            offset: 0,
            count,
            stable,
            data,
        },
    )
}

pub(super) fn remove(xid: u32, directory: &str, name: &str) -> Vec<u8> {
    nfs(
        xid,
        NFS_PROGRAM::NFSPROC3_REMOVE,
        &REMOVE3args {
            object: at(directory, name),
        },
    )
}

pub(super) fn lookup(xid: u32, directory: &str, name: &str) -> Vec<u8> {
    nfs(
        xid,
        NFS_PROGRAM::NFSPROC3_LOOKUP,
        &LOOKUP3args {
            what: at(directory, name),
        },
    )
}

pub(super) fn create(xid: u32, name: &str, how: createhow3) -> Vec<u8> {
    nfs(
        xid,
        NFS_PROGRAM::NFSPROC3_CREATE,
        &CREATE3args {
            where_: at("dir", name),
            how,
        },
    )
}

pub(super) fn sized(size: Option<u64>) -> sattr3 {
    let size = size.map_or(Nfs3Option::None, Nfs3Option::Some);
    sattr3 {
        mode: Nfs3Option::Some(0o644),
        size,
        ..sattr3::default()
    }
}

pub(super) fn xid_of(record: &[u8]) -> u32 {
    u32::from_be_bytes(record[MARK..MARK + 4].try_into().unwrap())
}

pub(super) fn procedure_of(record: &[u8]) -> NFS_PROGRAM {
    NFS_PROGRAM::try_from(u32::from_be_bytes(record[24..28].try_into().unwrap())).unwrap()
}

/// A reply with a status and whatever follows it.
pub(super) fn answer(to: &[u8], status: nfsstat3, results: &[u8]) -> Vec<u8> {
    let success = nfs3_types::rpc::accept_stat_data::SUCCESS;
    let mut record = reply::accepted(xid_of(to), success);
    calls::pack(&status, &mut record);
    record.extend_from_slice(results);
    set_mark(&mut record);
    record
}

/// What a server would say: success to anything.
pub(super) fn ok(to: &[u8]) -> Vec<u8> {
    answer(to, nfsstat3::NFS3_OK, &[0; 8])
}

pub(super) fn status_of(record: &[u8]) -> nfsstat3 {
    // Mark, xid, REPLY, accepted, an empty verifier, success.
    nfsstat3::unpack(&mut &record[MARK + 6 * 4..]).unwrap().0
}

pub(super) fn file(size: u64) -> fattr3 {
    let time = nfstime3 {
        seconds: 7,
        nseconds: 0,
    };
    fattr3 {
        type_: ftype3::NF3REG,
        mode: 0o600,
        nlink: 1,
        uid: 1000,
        gid: 1000,
        size,
        used: size,
        rdev: specdata3::default(),
        fsid: 1,
        fileid: 42,
        atime: time,
        mtime: time,
        ctime: time,
    }
}
