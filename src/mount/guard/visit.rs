//! Opens files in rclone once, over a connection of its own, past the calls that wait in the guard.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use nfs3_types::mount::{self, MOUNT_PROGRAM, dirpath};
use nfs3_types::nfs3::{self, LOOKUP3args, NFS_PROGRAM, READ3args, WRITE3args, nfs_fh3, stable_how};
use nfs3_types::xdr_codec::{Opaque, Pack, Void};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep};

use super::nodes::Remote;
use super::procedure::{MOUNT, Procedure};
use super::reach::{XID, entry, message};
use super::record::RecordReader;
use super::reply;

/// Between two attempts to connect to a server that comes up.
const PAUSE: Duration = Duration::from_millis(10);

struct Connection {
    reader: RecordReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    reply: Vec<u8>,
}

/// Reads the first byte of each of these files (paths in the bucket, with their lengths), and writes nothing at the start
/// of those that are empty, which rclone does not open for a read. Returns the names of those that are not there.
///
/// # Errors
/// When rclone can't be reached by `deadline`, or hangs up.
pub(in crate::mount) async fn visit(
    upstream: SocketAddr,
    files: &[(&str, u64)],
    deadline: Instant,
) -> io::Result<Vec<String>> {
    let stream = loop {
        match TcpStream::connect(upstream).await {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    };
    let mut connection = Connection::over(stream)?;
    let root = connection
        .root()
        .await?
        .ok_or_else(|| io::Error::other("no handle of the root"))?;
    let mut directories = HashMap::from([("", root)]);
    let mut missing = Vec::new();
    for (path, length) in files {
        match connection.find(path, &mut directories).await? {
            Some(file) => connection.open(&file, *length).await?,
            None => missing.push((*path).to_owned()),
        }
    }
    Ok(missing)
}

/// Asks rclone's server for nothing, on a connection of its own: an answer takes no lock and no bucket.
///
/// # Errors
/// When it can't be reached, or hangs up. There is no limit of time.
pub(in crate::mount) async fn ping(upstream: SocketAddr) -> io::Result<()> {
    let stream = TcpStream::connect(upstream).await?;
    let mut connection = Connection::over(stream)?;
    connection
        .ask(nfs3::PROGRAM, NFS_PROGRAM::NFSPROC3_NULL as u32, &Void)
        .await
}

impl Connection {
    fn over(stream: TcpStream) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        let (read, writer) = stream.into_split();
        Ok(Connection {
            reader: RecordReader::new(read),
            writer,
            reply: Vec::new(),
        })
    }

    async fn ask(&mut self, program: u32, number: u32, arguments: &impl Pack) -> io::Result<()> {
        // Both programs have version 3.
        const { assert!(mount::VERSION == nfs3::VERSION) }
        self.writer
            .write_all(&message(program, nfs3::VERSION, number, arguments))
            .await?;
        let mark = self.reader.mark().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.reader.body(mark, &mut self.reply).await?;
        match reply::xid(&self.reply) {
            Ok(XID) => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a reply to another call")),
        }
    }

    async fn root(&mut self) -> io::Result<Option<Remote>> {
        let path = dirpath(Opaque::borrowed(b"/"));
        self.ask(mount::PROGRAM, MOUNT_PROGRAM::MOUNTPROC3_MNT as u32, &path)
            .await?;
        Ok(reply::root(&self.reply, &MOUNT).and_then(|root| root.try_into().ok()))
    }

    /// The handle of a file; those of the directories on the way are kept.
    async fn find<'a>(
        &mut self,
        path: &'a str,
        directories: &mut HashMap<&'a str, Remote>,
    ) -> io::Result<Option<Remote>> {
        let mut at = 0;
        let mut parent = "";
        loop {
            let end = path[at..].find('/').map_or(path.len(), |slash| at + slash);
            let known = directories.get(&path[..end]).copied();
            let found = match (known, directories.get(parent)) {
                (Some(known), _) => known,
                (None, Some(directory)) => {
                    let what = entry(directory, &path.as_bytes()[at..end]);
                    let number = NFS_PROGRAM::NFSPROC3_LOOKUP as u32;
                    self.ask(nfs3::PROGRAM, number, &LOOKUP3args { what }).await?;
                    let lookup = Procedure::of(NFS_PROGRAM::NFSPROC3_LOOKUP);
                    let handle = reply::found(&self.reply, lookup).and_then(|(handle, _)| handle.try_into().ok());
                    match handle {
                        Some(handle) => handle,
                        None => return Ok(None),
                    }
                }
                (None, None) => return Ok(None),
            };
            if end == path.len() {
                return Ok(Some(found));
            }
            parent = &path[..end];
            directories.insert(parent, found);
            at = end + 1;
        }
    }

    async fn open(&mut self, file: &Remote, length: u64) -> io::Result<()> {
        let file = nfs_fh3 {
            data: Opaque::owned(file.to_vec()),
        };
        if length > 0 {
            let (offset, count) = (0, 1);
            let arguments = READ3args { file, offset, count };
            self.ask(nfs3::PROGRAM, NFS_PROGRAM::NFSPROC3_READ as u32, &arguments)
                .await
        } else {
            let arguments = WRITE3args {
                file,
                offset: 0,
                count: 0,
                stable: stable_how::FILE_SYNC,
                data: Opaque::borrowed(&[]),
            };
            self.ask(nfs3::PROGRAM, NFS_PROGRAM::NFSPROC3_WRITE as u32, &arguments)
                .await
        }
    }
}
