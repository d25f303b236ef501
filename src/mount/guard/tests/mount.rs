//! The kernel's view of a mount whose server can be restarted.

use nfs3_types::nfs3::*;
use nfs3_types::xdr_codec::{Opaque, Unpack};

use super::super::record::MARK;
use super::super::*;
use super::store::{Life, Store};
use super::*;

/// A mount whose server can be restarted.
pub(super) struct Mount {
    pub(super) kernel: Kernel,
    pub(super) handle: Handle,
    pub(super) life: Life,
    pub(super) root: nfs_fh3,
    pub(super) xid: u32,
}

/// A file or directory as the kernel knows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Known {
    pub(super) handle: nfs_fh3,
    pub(super) number: u64,
}

pub(super) fn results(reply: &[u8]) -> &[u8] {
    &reply[MARK + 7 * 4..]
}

impl Mount {
    pub(super) async fn of(files: &[(&str, &str)]) -> Self {
        Self::with(files, Arc::new(())).await
    }

    pub(super) async fn with(files: &[(&str, &str)], rclone: Arc<dyn Rclone>) -> Self {
        let mut store = Store::new(1);
        for (path, content) in files {
            store.put(path, content.as_bytes());
        }
        let life = Life::begin(store).await;
        let mut guard = Guard::bind(Arc::new(Seen::default()), rclone).await.unwrap();
        guard.admit = |_, _| true;
        let (port, handle) = (guard.port(), guard.handle());
        tokio::spawn(guard.run(life.address));
        let mut kernel = Kernel::connect(port).await;
        kernel.send(&call(1, 100_005, 1, &Opaque::borrowed(b"/"))).await;
        let reply = kernel.reply().await;
        let (root, _) = nfs_fh3::unpack(&mut results(&reply)).unwrap();
        Self {
            kernel,
            handle,
            life,
            root,
            xid: 1,
        }
    }

    /// The server dies, a new one comes up elsewhere, and the guard is told.
    pub(super) async fn restarted(self) -> Self {
        self.handle.hold();
        let life = self.life.restart().await;
        self.handle.set_upstream(life.address);
        self.handle.release();
        Self { life, ..self }
    }

    pub(super) async fn ask(
        &mut self,
        procedure: NFS_PROGRAM,
        arguments: &impl nfs3_types::xdr_codec::Pack,
    ) -> Result<Vec<u8>, nfsstat3> {
        self.xid += 1;
        self.kernel.send(&nfs(self.xid, procedure, arguments)).await;
        let reply = self.kernel.reply().await;
        assert_eq!(xid_of(&reply), self.xid);
        match status_of(&reply) {
            nfsstat3::NFS3_OK => Ok(results(&reply).to_vec()),
            status => Err(status),
        }
    }

    pub(super) async fn number(&mut self, object: &nfs_fh3) -> Result<u64, nfsstat3> {
        let object = object.clone();
        let reply = self
            .ask(NFS_PROGRAM::NFSPROC3_GETATTR, &GETATTR3args { object })
            .await?;
        Ok(fattr3::unpack(&mut &reply[..]).unwrap().0.fileid)
    }

    pub(super) async fn find(&mut self, directory: &nfs_fh3, name: &str) -> Result<Known, nfsstat3> {
        let what = entry(directory, name);
        let reply = self.ask(NFS_PROGRAM::NFSPROC3_LOOKUP, &LOOKUP3args { what }).await?;
        let found = LOOKUP3resok::unpack(&mut &reply[..]).unwrap().0;
        Ok(Known {
            handle: found.object,
            number: found.obj_attributes.unwrap().fileid,
        })
    }

    pub(super) async fn make(
        &mut self,
        directory: &nfs_fh3,
        name: &str,
        how: Option<createhow3>,
    ) -> Result<Known, nfsstat3> {
        let where_ = entry(directory, name);
        let reply = match how {
            Some(how) => {
                self.ask(NFS_PROGRAM::NFSPROC3_CREATE, &CREATE3args { where_, how })
                    .await?
            }
            None => {
                let attributes = sattr3::default();
                self.ask(NFS_PROGRAM::NFSPROC3_MKDIR, &MKDIR3args { where_, attributes })
                    .await?
            }
        };
        let made = MKDIR3resok::unpack(&mut &reply[..]).unwrap().0;
        Ok(Known {
            handle: made.obj.unwrap(),
            number: made.obj_attributes.unwrap().fileid,
        })
    }

    pub(super) async fn rename(&mut self, directory: &nfs_fh3, from: &str, to: &str) -> Result<(), nfsstat3> {
        let (from, to) = (entry(directory, from), entry(directory, to));
        self.ask(NFS_PROGRAM::NFSPROC3_RENAME, &RENAME3args { from, to })
            .await
            .map(drop)
    }

    pub(super) async fn remove(&mut self, directory: &nfs_fh3, name: &str) -> Result<(), nfsstat3> {
        let object = entry(directory, name);
        self.ask(NFS_PROGRAM::NFSPROC3_REMOVE, &REMOVE3args { object })
            .await
            .map(drop)
    }

    pub(super) async fn write(&mut self, file: &nfs_fh3, data: &[u8]) -> Result<(), nfsstat3> {
        let arguments = WRITE3args {
            file: file.clone(),
            offset: 0,
            count: data.len() as u32,
            stable: stable_how::FILE_SYNC,
            data: Opaque::borrowed(data),
        };
        self.ask(NFS_PROGRAM::NFSPROC3_WRITE, &arguments).await.map(drop)
    }

    pub(super) async fn list(&mut self, directory: &nfs_fh3) -> Vec<(String, Known)> {
        let arguments = READDIRPLUS3args {
            dir: directory.clone(),
            cookie: 0,
            cookieverf: cookieverf3::default(),
            dircount: 4096,
            maxcount: 8192,
        };
        let reply = self.ask(NFS_PROGRAM::NFSPROC3_READDIRPLUS, &arguments).await.unwrap();
        let listing = READDIRPLUS3resok::unpack(&mut &reply[..]).unwrap().0;
        let entries = listing.reply.entries.0.into_iter().map(|entry| {
            let attributes = entry.name_attributes.unwrap();
            assert_eq!(attributes.fileid, entry.fileid);
            let known = Known {
                handle: entry.name_handle.unwrap(),
                number: entry.fileid,
            };
            (String::from_utf8(entry.name.as_ref().to_vec()).unwrap(), known)
        });
        entries.collect()
    }
}

pub(super) fn entry<'a>(directory: &nfs_fh3, name: &'a str) -> diropargs3<'a> {
    diropargs3 {
        dir: directory.clone(),
        name: filename3::from(name.as_bytes()),
    }
}
