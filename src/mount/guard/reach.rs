//! Calls of the guard's own: finding an object in a new rclone, and finding out what became of a call whose reply was lost.
//!
//! Both go over the path of the call they are for, before or after it, so nothing else waits for them.

use std::io;

use nfs3_types::mount::{self, MOUNT_PROGRAM, dirpath};
use nfs3_types::nfs3::{
    self, LOOKUP3args, MKDIR3args, NFS_PROGRAM, READDIR3args, cookieverf3, diropargs3, filename3, ftype3, nfs_fh3,
    nfsstat3, sattr3,
};
use nfs3_types::rpc::{RPC_VERSION_2, call_body, msg_body, opaque_auth, rpc_msg};
use nfs3_types::xdr_codec::{Opaque, Pack};

use super::call::{lookup_for, pack};
use super::exchange::{Call, Exchange};
use super::nodes::{DIRECTORY, HANDLE, Id, ROOT, Remote, Route, Step};
use super::path::Path;
use super::procedure::{MOUNT, Procedure};
use super::record::{MARK, set_mark};
use super::reply::{self, Outcome};

/// Bytes of a listing that is made for its success only.
const LISTED: u32 = 4096;

/// Of a call of the guard's own. A path carries one call at a time, so they need not differ.
pub(super) const XID: u32 = 0x7e4a_4e71;

pub(super) fn message(program: u32, version: u32, number: u32, arguments: &impl Pack) -> Vec<u8> {
    let body = call_body {
        rpcvers: RPC_VERSION_2,
        prog: program,
        vers: version,
        proc: number,
        cred: opaque_auth::default(),
        verf: opaque_auth::default(),
    };
    let mut record = vec![0; MARK];
    pack(
        &rpc_msg {
            xid: XID,
            body: msg_body::CALL(body),
        },
        &mut record,
    );
    pack(arguments, &mut record);
    set_mark(&mut record);
    record
}

pub(super) fn entry<'a>(directory: &Remote, name: &'a [u8]) -> diropargs3<'a> {
    diropargs3 {
        dir: nfs_fh3 {
            data: Opaque::owned(directory.to_vec()),
        },
        name: filename3::from(name),
    }
}

impl Path {
    /// Puts the handles of the present rclone into a call. `Err` is the status to answer with instead.
    pub(super) async fn address(&mut self, exchange: &Exchange, call: &mut Call) -> io::Result<Result<(), nfsstat3>> {
        for object in call.plan.objects.iter().flatten() {
            let Some(id) = object.id else { continue };
            let remote = match self.find(exchange, id).await? {
                Ok(remote) => remote,
                Err(status) => return Ok(Err(status)),
            };
            if !exchange.nodes().unmade(id).is_empty() {
                self.make_again(exchange, id, &remote).await?;
            }
            call.record[object.handle..object.handle + remote.len()].copy_from_slice(&remote);
        }
        Ok(Ok(()))
    }

    /// rclone's handle for a node.
    async fn find(&mut self, exchange: &Exchange, id: Id) -> io::Result<Result<Remote, nfsstat3>> {
        let epoch = exchange.nodes().epoch();
        let (base, steps) = match exchange.nodes().route(id) {
            Route::Known(remote) => return Ok(Ok(remote)),
            Route::Gone => return Ok(Err(nfsstat3::NFS3ERR_STALE)),
            Route::Steps(base, steps) => (base, steps),
        };
        let mut at = match base {
            Some(base) => base,
            None => match self.root(exchange).await? {
                Some(root) => {
                    exchange.nodes().resolved(ROOT, root, epoch);
                    root
                }
                None => return Ok(Err(nfsstat3::NFS3ERR_SERVERFAULT)),
            },
        };
        for step in steps {
            at = match self.step(exchange, &at, &step).await? {
                Ok(remote) => remote,
                Err(status) => return Ok(Err(status)),
            };
            exchange.nodes().found(&step, at, epoch);
        }
        Ok(Ok(at))
    }

    async fn root(&mut self, exchange: &Exchange) -> io::Result<Option<Remote>> {
        let request = message(
            mount::PROGRAM,
            mount::VERSION,
            MOUNT_PROGRAM::MOUNTPROC3_MNT as u32,
            &dirpath(Opaque::borrowed(b"/")),
        );
        self.round_trip(exchange, &request, XID, &MOUNT).await?;
        Ok(reply::root(&self.reply, &MOUNT).and_then(|root| root.try_into().ok()))
    }

    /// One name of the way. A directory that is not there is made: rclone keeps an empty one only as long as it runs.
    async fn step(
        &mut self,
        exchange: &Exchange,
        directory: &Remote,
        step: &Step,
    ) -> io::Result<Result<Remote, nfsstat3>> {
        let found = self.find_entry(exchange, directory, step).await?;
        if found != Err(nfsstat3::NFS3ERR_NOENT) {
            return Ok(found);
        }
        if step.directory {
            if let Some(made) = self.make(exchange, directory, &step.name).await? {
                return Ok(Ok(made));
            }
            // Another call, on another path, may have made it at the same time.
            if let Ok(found) = self.find_entry(exchange, directory, step).await? {
                return Ok(Ok(found));
            }
        }
        Ok(Err(nfsstat3::NFS3ERR_STALE))
    }

    async fn find_entry(
        &mut self,
        exchange: &Exchange,
        directory: &Remote,
        step: &Step,
    ) -> io::Result<Result<Remote, nfsstat3>> {
        let lookup = Procedure::of(NFS_PROGRAM::NFSPROC3_LOOKUP);
        let what = entry(directory, &step.name);
        let request = message(
            nfs3::PROGRAM,
            nfs3::VERSION,
            NFS_PROGRAM::NFSPROC3_LOOKUP as u32,
            &LOOKUP3args { what },
        );
        let mut outcome = self.round_trip(exchange, &request, XID, lookup).await?;
        let absent = outcome == Outcome::Failed(nfsstat3::NFS3ERR_NOENT);
        if absent && exchange.may_be_blind(directory) && self.can_list(exchange, directory).await? {
            // It sees now. Did it then?
            outcome = self.round_trip(exchange, &request, XID, lookup).await?;
        }
        Ok(match outcome {
            Outcome::Ok => {
                let same = |kind: ftype3| (kind as u32 == DIRECTORY) == step.directory;
                reply::found(&self.reply, lookup)
                    .filter(|(_, attributes)| attributes.as_ref().is_none_or(|attributes| same(attributes.type_)))
                    .and_then(|(handle, _)| handle.try_into().ok())
                    .ok_or(nfsstat3::NFS3ERR_STALE)
            }
            Outcome::Failed(nfsstat3::NFS3ERR_NOENT) if !self.can_list(exchange, directory).await? => {
                Err(nfsstat3::NFS3ERR_IO)
            }
            Outcome::Failed(status) => Err(status),
            Outcome::Rpc(_) => Err(nfsstat3::NFS3ERR_SERVERFAULT),
        })
    }

    /// May rclone call something absent in the directory that a call is about, because it can't read it (1.75.2)?
    pub(super) fn is_blind(&self, exchange: &Exchange, call: &Call) -> bool {
        directory_of(call).is_some_and(|directory| exchange.may_be_blind(&directory))
    }

    /// Does rclone see what is in it? The reply stays as it is.
    pub(super) async fn sees(&mut self, exchange: &Exchange, call: &Call) -> io::Result<bool> {
        match directory_of(call) {
            Some(directory) => self.can_list(exchange, &directory).await,
            None => Ok(true),
        }
    }

    async fn can_list(&mut self, exchange: &Exchange, directory: &Remote) -> io::Result<bool> {
        if !exchange.may_be_blind(directory) {
            return Ok(true);
        }
        let arguments = READDIR3args {
            dir: nfs_fh3 {
                data: Opaque::owned(directory.to_vec()),
            },
            cookie: 0,
            cookieverf: cookieverf3::default(),
            count: LISTED,
        };
        let number = NFS_PROGRAM::NFSPROC3_READDIR;
        let request = message(nfs3::PROGRAM, nfs3::VERSION, number as u32, &arguments);
        let reply = std::mem::take(&mut self.reply);
        let outcome = self.round_trip(exchange, &request, XID, Procedure::of(number)).await?;
        self.reply = reply;
        let seen = outcome == Outcome::Ok;
        if seen {
            exchange.is_listed(directory);
        }
        Ok(seen)
    }

    async fn make(&mut self, exchange: &Exchange, directory: &Remote, name: &[u8]) -> io::Result<Option<Remote>> {
        let mkdir = Procedure::of(NFS_PROGRAM::NFSPROC3_MKDIR);
        let arguments = MKDIR3args {
            where_: entry(directory, name),
            attributes: sattr3::default(),
        };
        let request = message(
            nfs3::PROGRAM,
            nfs3::VERSION,
            NFS_PROGRAM::NFSPROC3_MKDIR as u32,
            &arguments,
        );
        self.round_trip(exchange, &request, XID, mkdir).await?;
        Ok(reply::made(&self.reply, mkdir).and_then(|handle| handle.try_into().ok()))
    }

    /// Makes the empty directories in a directory that ended with the rclone before.
    async fn make_again(&mut self, exchange: &Exchange, id: Id, remote: &Remote) -> io::Result<()> {
        let epoch = exchange.nodes().epoch();
        let unmade = exchange.nodes().unmade(id);
        for step in unmade {
            match self.step(exchange, remote, &step).await? {
                Ok(found) => exchange.nodes().found(&step, found, epoch),
                Err(status) => {
                    let name = String::from_utf8_lossy(&step.name).into_owned();
                    let status = reply::status_name(status);
                    tracing::warn!(
                        name,
                        status,
                        "an empty directory could not be made again after rclone's restart"
                    );
                }
            }
        }
        exchange.nodes().remade(id, epoch);
        Ok(())
    }

    /// Takes a reply for what it means when the call may have been executed before, and answers UNCHECKED.
    pub(super) async fn settle(&mut self, exchange: &Exchange, call: &Call, outcome: Outcome) -> io::Result<Outcome> {
        let Outcome::Failed(status) = outcome else {
            return Ok(outcome);
        };
        let (xid, procedure) = (call.plan.identity.0, call.plan.procedure);
        let sent_before = call.losses > 0;
        match (status, procedure.name) {
            // UNCHECKED succeeds on a file that is there. The kernel finds that out with a LOOKUP of its own, which also
            // checks permissions and does not tell watchers of a new file; but not where it holds the name for absent.
            (nfsstat3::NFS3ERR_EXIST, "create") if call.plan.rewritten.is_some() => {
                let absent = call.plan.entry.is_some_and(|entry| exchange.is_absent(entry));
                if !absent && !sent_before {
                    return Ok(outcome);
                }
                self.created(exchange, call, outcome, ftype3::NF3REG, false).await
            }
            // Nobody knew of it before, and now it is there as the first attempt would have left it.
            (nfsstat3::NFS3ERR_EXIST, "create") if sent_before && !call.known => {
                self.created(exchange, call, outcome, ftype3::NF3REG, true).await
            }
            (nfsstat3::NFS3ERR_EXIST, "mkdir") if sent_before && !call.known => {
                self.created(exchange, call, outcome, ftype3::NF3DIR, false).await
            }
            // What was to go is gone.
            (nfsstat3::NFS3ERR_NOENT, "remove" | "rmdir") if sent_before => {
                self.reply = reply::failure(xid, procedure, nfsstat3::NFS3_OK);
                Ok(Outcome::Ok)
            }
            // It was there, and now there is something under the new name only.
            (nfsstat3::NFS3ERR_NOENT, "rename") if sent_before && call.known => {
                let failure = self.reply.clone();
                let target = call.plan.objects[1].as_ref().and_then(super::call::Object::arguments);
                let found = match target {
                    Some(target) => self.look(exchange, call, &target).await? == Outcome::Ok,
                    None => false,
                };
                self.reply = if found {
                    reply::failure(xid, procedure, nfsstat3::NFS3_OK)
                } else {
                    failure
                };
                Ok(if found { Outcome::Ok } else { outcome })
            }
            _ => Ok(outcome),
        }
    }

    /// Answers a CREATE or MKDIR that found its name taken with what is there, if that is of this kind. `empty`: and has
    /// nothing in it.
    async fn created(
        &mut self,
        exchange: &Exchange,
        call: &Call,
        outcome: Outcome,
        kind: ftype3,
        empty: bool,
    ) -> io::Result<Outcome> {
        let exists = self.reply.clone();
        let lookup = Procedure::of(NFS_PROGRAM::NFSPROC3_LOOKUP);
        let object = call.plan.objects[0].as_ref().and_then(super::call::Object::arguments);
        let Some(named) = call.plan.rewritten.clone().or(object) else {
            return Ok(outcome);
        };
        self.look(exchange, call, &named).await?;
        let attributes = reply::found(&self.reply, lookup).and_then(|(_, attributes)| attributes);
        let is_empty = attributes.is_some_and(|attributes| attributes.size == 0);
        let created = reply::created(&self.reply, lookup, kind).filter(|_| is_empty || !empty);
        let outcome = if created.is_some() { Outcome::Ok } else { outcome };
        self.reply = created.unwrap_or(exists);
        Ok(outcome)
    }

    async fn look(&mut self, exchange: &Exchange, call: &Call, named: &std::ops::Range<usize>) -> io::Result<Outcome> {
        let lookup = Procedure::of(NFS_PROGRAM::NFSPROC3_LOOKUP);
        let request = lookup_for(&call.record, call.plan.arguments, named);
        self.round_trip(exchange, &request, call.plan.identity.0, lookup).await
    }
}

/// rclone's handle of the directory that a call names an entry of, or reads.
fn directory_of(call: &Call) -> Option<Remote> {
    let object = call.plan.objects[0].as_ref()?;
    call.record.get(object.handle..object.handle + HANDLE)?.try_into().ok()
}
