//! The two ends, played: a kernel and a server with the guard between them.

use std::sync::Mutex;

use nfs3_types::nfs3::nfsstat3;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::record::RecordReader;
use super::super::*;
use super::*;

pub(super) const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
pub(super) struct Seen(
    pub(super) Mutex<Vec<(&'static str, Option<&'static str>)>>,
    pub(super) Mutex<Vec<(&'static str, &'static str)>>,
);

impl Observer for Seen {
    fn operation(&self, name: &'static str, _: Duration, error: Option<&'static str>) {
        self.0.lock().unwrap().push((name, error));
    }
    fn refused(&self, name: &'static str, error: &'static str) {
        self.1.lock().unwrap().push((name, error));
    }
}

/// The server: every call comes out of `calls` with the connection it came on, and is answered by hand.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) calls: mpsc::UnboundedReceiver<(Vec<u8>, Arc<tokio::sync::Mutex<OwnedWriteHalf>>)>,
    pub(super) accepting: tokio::task::JoinHandle<()>,
}

pub(super) struct Received {
    pub(super) record: Vec<u8>,
    pub(super) connection: Arc<tokio::sync::Mutex<OwnedWriteHalf>>,
}

impl Received {
    pub(super) async fn reply(&self, record: &[u8]) {
        self.connection.lock().await.write_all(record).await.unwrap();
    }
    pub(super) async fn hang_up(self) {
        self.connection.lock().await.shutdown().await.unwrap();
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into()).await
    }

    pub(super) async fn start_at(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(64).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, calls) = mpsc::unbounded_channel();
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (read, write) = stream.into_split();
                let write = Arc::new(tokio::sync::Mutex::new(write));
                let sender = sender.clone();
                connections.spawn(async move {
                    let mut reader = RecordReader::new(read);
                    while let Ok(Some(mark)) = reader.mark().await {
                        let mut record = Vec::new();
                        reader.body(mark, &mut record).await.unwrap();
                        if sender.send((record, Arc::clone(&write))).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        Self {
            address,
            calls,
            accepting,
        }
    }

    pub(super) async fn call(&mut self) -> Received {
        let (record, connection) = timeout(DEADLINE, self.calls.recv())
            .await
            .expect("no call came")
            .unwrap();
        Received { record, connection }
    }

    pub(super) fn no_call_waits(&mut self) -> bool {
        self.calls.try_recv().is_err()
    }
}

pub(super) struct Kernel {
    pub(super) reader: RecordReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl Kernel {
    pub(super) async fn connect(port: u16) -> Self {
        let (read, writer) = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
            .await
            .unwrap()
            .into_split();
        Self {
            reader: RecordReader::new(read),
            writer,
        }
    }
    pub(super) async fn send(&mut self, record: &[u8]) {
        self.writer.write_all(record).await.unwrap();
    }
    pub(super) async fn reply(&mut self) -> Vec<u8> {
        timeout(DEADLINE, self.try_reply())
            .await
            .expect("no reply came")
            .expect("the guard hung up")
    }
    pub(super) async fn try_reply(&mut self) -> Option<Vec<u8>> {
        let mark = self.reader.mark().await.ok()??;
        let mut record = Vec::new();
        self.reader.body(mark, &mut record).await.ok()?;
        Some(record)
    }
}

pub(super) struct Rig {
    pub(super) kernel: Kernel,
    pub(super) server: Server,
    pub(super) handle: Handle,
    pub(super) port: u16,
    pub(super) seen: Arc<Seen>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        let server = Server::start().await;
        let seen = Arc::new(Seen::default());
        let mut guard = Guard::bind(Arc::clone(&seen) as Arc<dyn Observer>, Arc::new(()))
            .await
            .unwrap();
        guard.admit = |_, _| true;
        let (port, handle) = (guard.port(), guard.handle());
        tokio::spawn(guard.run(server.address));
        Self {
            kernel: Kernel::connect(port).await,
            server,
            handle,
            port,
            seen,
        }
    }

    /// A call that the server answers with `status`; what the kernel gets.
    pub(super) async fn round_trip(&mut self, record: &[u8], status: nfsstat3) -> Vec<u8> {
        self.kernel.send(record).await;
        let call = self.server.call().await;
        call.reply(&answer(&call.record, status, &[0; 8])).await;
        self.kernel.reply().await
    }

    pub(super) async fn until(&self, what: &str, mut condition: impl FnMut(&Handle) -> bool) {
        let poll = async {
            while !condition(&self.handle) {
                sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(DEADLINE, poll)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }
}
