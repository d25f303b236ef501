//! A small file system that speaks NFS, to be restarted: each life has handles and file numbers of its own, as rclone's.

use std::collections::BTreeMap;
use std::sync::Mutex;

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{Opaque, Unpack};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::super::record::{MARK, RecordReader};
use super::super::*;
use super::*;

/// Where the arguments of a call with an empty credential and verifier, or the test kernel's, begin is found by reading.
fn arguments(call: &[u8]) -> &[u8] {
    let mut at = MARK + 6 * 4;
    for _ in 0..2 {
        let length = u32::from_be_bytes(call[at + 4..at + 8].try_into().unwrap()) as usize;
        at += 8 + length.next_multiple_of(4);
    }
    &call[at..]
}

fn program_of(call: &[u8]) -> u32 {
    u32::from_be_bytes(call[MARK + 12..MARK + 16].try_into().unwrap())
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) directory: bool,
    pub(super) content: Vec<u8>,
    number: u64,
}

/// What happens to the next call of a procedure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// The connection ends before it is executed.
    Before,
    /// It is executed, and the reply is lost.
    After,
    /// It is answered with NFS3ERR_STALE.
    Stale,
    /// It is answered with NFS3ERR_IO.
    Fails,
}

#[derive(Debug)]
pub(super) struct Store {
    life: u8,
    numbers: u64,
    pub(super) objects: BTreeMap<String, Held>,
    handles: Vec<String>,
    pub(super) losing: Option<(NFS_PROGRAM, Loss)>,
    pub(super) asked: Vec<NFS_PROGRAM>,
    /// A directory that can't be read now: what is in it counts as absent, as with rclone.
    pub(super) unreadable: Option<String>,
    /// The next RENAME is answered when this is closed.
    pub(super) gate: Option<Arc<Semaphore>>,
}

pub(super) struct Life {
    pub(super) store: Arc<Mutex<Store>>,
    pub(super) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Life {
    pub(super) async fn begin(store: Store) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(store));
        let shared = Arc::clone(&store);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let store = Arc::clone(&shared);
                connections.spawn(async move {
                    let (read, mut write) = stream.into_split();
                    let mut reader = RecordReader::new(read);
                    while let Ok(Some(mark)) = reader.mark().await {
                        let mut record = Vec::new();
                        reader.body(mark, &mut record).await.unwrap();
                        let gate = store.lock().unwrap().gate_of(&record);
                        if let Some(gate) = gate {
                            drop(gate.acquire().await);
                        }
                        let reply = store.lock().unwrap().answer(&record);
                        match reply {
                            Some(reply) => write.write_all(&reply).await.unwrap(),
                            None => return,
                        }
                    }
                });
            }
        });
        Self { store, address, task }
    }

    /// Killed, and begun again with what is not empty directories.
    pub(super) async fn restart(self) -> Self {
        self.task.abort();
        let _ = self.task.await;
        let next = self.store.lock().unwrap().next_life();
        Self::begin(next).await
    }

    pub(super) fn lose(&self, procedure: NFS_PROGRAM, loss: Loss) {
        self.store.lock().unwrap().losing = Some((procedure, loss));
    }

    pub(super) fn content(&self, path: &str) -> Option<Vec<u8>> {
        self.store
            .lock()
            .unwrap()
            .objects
            .get(path)
            .map(|held| held.content.clone())
    }
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() {
        name.to_owned()
    } else {
        format!("{directory}/{name}")
    }
}

impl Store {
    pub(super) fn new(life: u8) -> Self {
        let mut store = Self {
            life,
            numbers: 0,
            objects: BTreeMap::new(),
            handles: Vec::new(),
            losing: None,
            asked: Vec::new(),
            unreadable: None,
            gate: None,
        };
        store.insert("", true, b"");
        store
    }

    fn next_life(&self) -> Self {
        let mut next = Self::new(self.life + 1);
        // Other numbers than before for everything.
        next.numbers = 1000 * u64::from(next.life);
        for (path, held) in self.objects.iter().filter(|(_, held)| !held.directory) {
            next.put(path, &held.content);
        }
        next
    }

    fn insert(&mut self, path: &str, directory: bool, content: &[u8]) {
        self.numbers += 1;
        let held = Held {
            directory,
            content: content.to_vec(),
            number: self.numbers,
        };
        self.objects.insert(path.to_owned(), held);
    }

    pub(super) fn put(&mut self, path: &str, content: &[u8]) {
        for (at, _) in path.match_indices('/') {
            if !self.objects.contains_key(&path[..at]) {
                self.insert(&path[..at], true, b"");
            }
        }
        self.insert(path, false, content);
    }

    fn handle(&mut self, path: &str) -> nfs_fh3 {
        let number = self.handles.iter().position(|known| known == path).unwrap_or_else(|| {
            self.handles.push(path.to_owned());
            self.handles.len() - 1
        });
        let mut data = vec![self.life; 8];
        data.extend_from_slice(&(number as u64).to_be_bytes());
        nfs_fh3 {
            data: Opaque::owned(data),
        }
    }

    fn path(&self, handle: &nfs_fh3) -> Result<String, nfsstat3> {
        let data = handle.data.as_ref();
        if data.len() != 16 || data[..8] != [self.life; 8] {
            return Err(nfsstat3::NFS3ERR_STALE);
        }
        let number = u64::from_be_bytes(data[8..].try_into().unwrap()) as usize;
        Ok(self.handles[number].clone())
    }

    fn attributes(&self, path: &str) -> post_op_attr {
        self.objects.get(path).map_or(Nfs3Option::None, |held| {
            Nfs3Option::Some(fattr3 {
                type_: if held.directory { ftype3::NF3DIR } else { ftype3::NF3REG },
                fileid: held.number,
                ..file(held.content.len() as u64)
            })
        })
    }

    fn wcc(&self, path: &str) -> wcc_data {
        wcc_data {
            before: Nfs3Option::None,
            after: self.attributes(path),
        }
    }

    /// `None`: the connection ends.
    fn answer(&mut self, call: &[u8]) -> Option<Vec<u8>> {
        if program_of(call) == 100_005 {
            let mut record = super::super::reply::accepted(xid_of(call), nfs3_types::rpc::accept_stat_data::SUCCESS);
            calls::pack(&0_u32, &mut record);
            calls::pack(&self.handle(""), &mut record);
            calls::pack(&1_u32, &mut record);
            calls::pack(&1_u32, &mut record);
            super::super::record::set_mark(&mut record);
            return Some(record);
        }
        let procedure = procedure_of(call);
        self.asked.push(procedure);
        let loss = self
            .losing
            .filter(|(losing, _)| *losing == procedure)
            .map(|(_, loss)| loss);
        if loss.is_some() {
            self.losing = None;
        }
        match loss {
            Some(Loss::Before) => return None,
            Some(Loss::Stale) => return Some(answer(call, nfsstat3::NFS3ERR_STALE, &[0; 16])),
            Some(Loss::Fails) => return Some(answer(call, nfsstat3::NFS3ERR_IO, &[0; 16])),
            _ => {}
        }
        let mut results = Vec::new();
        let done = self.execute(procedure, arguments(call), &mut results);
        let reply = match done {
            Ok(()) => answer(call, nfsstat3::NFS3_OK, &results),
            Err(status) => answer(call, status, &[0; 16]),
        };
        (loss != Some(Loss::After)).then_some(reply)
    }

    fn gate_of(&mut self, call: &[u8]) -> Option<Arc<Semaphore>> {
        let nfs = program_of(call) == PROGRAM;
        let renames = nfs && procedure_of(call) == NFS_PROGRAM::NFSPROC3_RENAME;
        self.gate.take_if(|_| renames)
    }

    fn named(&self, what: &diropargs3<'_>) -> Result<(String, String), nfsstat3> {
        let directory = self.path(&what.dir)?;
        if !self.objects.get(&directory).is_some_and(|held| held.directory) {
            return Err(nfsstat3::NFS3ERR_NOENT);
        }
        let name = String::from_utf8(what.name.as_ref().to_vec()).unwrap();
        let path = join(&directory, &name);
        Ok((directory, path))
    }

    fn made(&mut self, what: &diropargs3<'_>, directory: bool, results: &mut Vec<u8>) -> Result<(), nfsstat3> {
        let (parent, path) = self.named(what)?;
        if self.objects.contains_key(&path) {
            return Err(nfsstat3::NFS3ERR_EXIST);
        }
        self.insert(&path, directory, b"");
        let made = MKDIR3resok {
            obj: Nfs3Option::Some(self.handle(&path)),
            obj_attributes: self.attributes(&path),
            dir_wcc: self.wcc(&parent),
        };
        calls::pack(&made, results);
        Ok(())
    }

    fn execute(&mut self, procedure: NFS_PROGRAM, mut args: &[u8], results: &mut Vec<u8>) -> Result<(), nfsstat3> {
        let args = &mut args;
        match procedure {
            NFS_PROGRAM::NFSPROC3_GETATTR => {
                let path = self.path(&GETATTR3args::unpack(args).unwrap().0.object)?;
                match self.attributes(&path) {
                    Nfs3Option::Some(attributes) => calls::pack(&attributes, results),
                    Nfs3Option::None => return Err(nfsstat3::NFS3ERR_NOENT),
                }
            }
            NFS_PROGRAM::NFSPROC3_LOOKUP => {
                let (directory, path) = self.named(&LOOKUP3args::unpack(args).unwrap().0.what)?;
                if !self.objects.contains_key(&path) || self.unreadable.as_ref() == Some(&directory) {
                    return Err(nfsstat3::NFS3ERR_NOENT);
                }
                let found = LOOKUP3resok {
                    object: self.handle(&path),
                    obj_attributes: self.attributes(&path),
                    dir_attributes: self.attributes(&directory),
                };
                calls::pack(&found, results);
            }
            NFS_PROGRAM::NFSPROC3_READDIR => {
                let directory = self.path(&READDIR3args::unpack(args).unwrap().0.dir)?;
                if self.unreadable.as_ref() == Some(&directory) {
                    return Err(nfsstat3::NFS3ERR_NOTDIR);
                }
                // That there is a listing is all that anyone asks for.
                calls::pack(&self.attributes(&directory), results);
                results.extend_from_slice(&[0; 16]);
            }
            NFS_PROGRAM::NFSPROC3_CREATE => {
                let create = CREATE3args::unpack(args).unwrap().0;
                self.made(&create.where_, false, results)?;
            }
            NFS_PROGRAM::NFSPROC3_MKDIR => {
                let make = MKDIR3args::unpack(args).unwrap().0;
                self.made(&make.where_, true, results)?;
            }
            NFS_PROGRAM::NFSPROC3_WRITE => {
                let write = WRITE3args::unpack(args).unwrap().0;
                let path = self.path(&write.file)?;
                let held = self.objects.get_mut(&path).ok_or(nfsstat3::NFS3ERR_NOENT)?;
                held.content = write.data.as_ref().to_vec();
                calls::pack(&self.wcc(&path), results);
                results.extend_from_slice(&[0; 16]);
            }
            NFS_PROGRAM::NFSPROC3_REMOVE => {
                let (directory, path) = self.named(&REMOVE3args::unpack(args).unwrap().0.object)?;
                self.objects.remove(&path).ok_or(nfsstat3::NFS3ERR_NOENT)?;
                calls::pack(&self.wcc(&directory), results);
            }
            NFS_PROGRAM::NFSPROC3_RENAME => {
                let rename = RENAME3args::unpack(args).unwrap().0;
                let (from, to) = (self.named(&rename.from)?, self.named(&rename.to)?);
                let held = self.objects.remove(&from.1).ok_or(nfsstat3::NFS3ERR_NOENT)?;
                let below = format!("{}/", from.1);
                let inside: Vec<String> = self
                    .objects
                    .keys()
                    .filter(|path| path.starts_with(&below))
                    .cloned()
                    .collect();
                for path in inside {
                    let moved = self.objects.remove(&path).unwrap();
                    self.objects.insert(join(&to.1, &path[below.len()..]), moved);
                }
                self.objects.insert(to.1, held);
                for directory in [from.0, to.0] {
                    calls::pack(&self.wcc(&directory), results);
                }
            }
            NFS_PROGRAM::NFSPROC3_READDIRPLUS => {
                let directory = self.path(&READDIRPLUS3args::unpack(args).unwrap().0.dir)?;
                let prefix = join(&directory, "");
                let inside = |path: &&String| {
                    !path.is_empty() && path.starts_with(&prefix) && !path[prefix.len()..].contains('/')
                };
                let paths: Vec<String> = self.objects.keys().filter(inside).cloned().collect();
                calls::pack(&self.attributes(&directory), results);
                results.extend_from_slice(&[7; 8]);
                for (cookie, path) in (0..).zip(paths) {
                    let entry = entryplus3 {
                        fileid: self.objects[&path].number,
                        name: filename3::from(&path.as_bytes()[prefix.len()..]),
                        cookie,
                        name_attributes: self.attributes(&path),
                        name_handle: Nfs3Option::Some(self.handle(&path)),
                    };
                    calls::pack(&1_u32, results);
                    calls::pack(&entry, results);
                }
                calls::pack(&0_u32, results);
                calls::pack(&1_u32, results);
            }
            other => panic!("{other:?} is not played here"),
        }
        Ok(())
    }
}
