//! A file as the body of a request: read while it is sent, as long as it was when it was opened.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, ReadBuf};

const PIECE: usize = 64 * 1024;

/// See the module. An error when the file has become shorter.
pub(super) struct FileBody {
    file: File,
    left: u64,
    piece: Box<[u8]>,
}

/// The file and the SHA-256 of its content, lower-case hex.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn open(path: &Path) -> io::Result<(FileBody, String)> {
    let path = path.to_owned();
    let reads = move || {
        use std::io::Seek;
        let mut file = std::fs::File::open(path)?;
        let (mut sum, mut left) = (Sha256::new(), 0);
        let mut piece = vec![0; PIECE];
        loop {
            match io::Read::read(&mut file, &mut piece)? {
                0 => break,
                count => {
                    sum.update(&piece[..count]);
                    left += count as u64;
                }
            }
        }
        file.rewind()?;
        let sum = sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let body = FileBody {
            file: File::from_std(file),
            left,
            piece: piece.into(),
        };
        Ok((body, sum))
    };
    tokio::task::spawn_blocking(reads).await.map_err(io::Error::other)?
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let FileBody { file, left, piece } = self.get_mut();
        if *left == 0 {
            return Poll::Ready(None);
        }
        let most = usize::try_from(*left).map_or(PIECE, |left| left.min(PIECE));
        let mut read = ReadBuf::new(&mut piece[..most]);
        if let Err(error) = ready!(Pin::new(file).poll_read(context, &mut read)) {
            return Poll::Ready(Some(Err(error)));
        }
        let bytes = Bytes::copy_from_slice(read.filled());
        if bytes.is_empty() {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        *left -= bytes.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
