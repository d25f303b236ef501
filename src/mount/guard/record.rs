//! RPC record marking on a TCP stream (RFC 5531 section 11): reading whole records, however they arrive.
//!
//! A record is one or more fragments, each with a four-byte mark: the length, and in the top bit whether it is the
//! last. rclone's server does not understand more than one fragment, so what is read here is put together and kept with
//! one mark of its own in front: a record is always one contiguous slice, ready to be written out again.
//!
//! Small records are read many at a time into a stage; the bulk of a large one goes from the socket straight into its
//! own buffer.

use std::io;

use nfs3_types::rpc::fragment_header;
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes of a record mark.
pub(super) const MARK: usize = 4;

/// The longest record accepted: the kernel client's largest READ or WRITE (4 MiB, `NFS_MAX_FILE_IO_SIZE`) and room for
/// the headers around it.
pub(super) const MAX_RECORD: usize = (4 << 20) + (64 << 10);

/// Bytes read ahead. Most calls and replies are 100 to 300 bytes.
const STAGE: usize = 8 << 10;

/// The mark of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Bytes in this fragment.
    pub(super) len: usize,
    /// Whether it ends the record.
    pub(super) last: bool,
}

impl Mark {
    /// How many bytes the whole record can have, as far as its first mark tells.
    pub(super) fn record_bound(self) -> usize {
        if self.last { self.len } else { MAX_RECORD }
    }
}

/// Reads records from one direction of a connection.
pub(super) struct RecordReader<R> {
    source: R,
    stage: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<R: AsyncRead + Unpin> RecordReader<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            stage: vec![0; STAGE].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    /// Waits for the first mark of the next record. `None` when the stream ended between records.
    ///
    /// # Errors
    /// Of the stream; `UnexpectedEof` within a mark; `InvalidData` for a fragment over [`MAX_RECORD`].
    pub(super) async fn mark(&mut self) -> io::Result<Option<Mark>> {
        while self.end - self.start < MARK {
            if self.fill().await? == 0 {
                return if self.start == self.end {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
        let mut bytes = [0; MARK];
        bytes.copy_from_slice(&self.stage[self.start..self.start + MARK]);
        self.start += MARK;
        let header = fragment_header::from(bytes);
        let mark = Mark {
            len: header.fragment_length() as usize,
            last: header.eof(),
        };
        check_length(mark.len)?;
        Ok(Some(mark))
    }

    /// Reads the record that begins with `first` into `record`, replacing what was there. It ends up with one mark in
    /// front, whatever fragments it came in.
    ///
    /// # Errors
    /// Of the stream; `UnexpectedEof` when it ends within the record; `InvalidData` for one over [`MAX_RECORD`].
    pub(super) async fn body(&mut self, first: Mark, record: &mut Vec<u8>) -> io::Result<()> {
        record.clear();
        record.extend_from_slice(&[0; MARK]);
        let mut mark = first;
        loop {
            check_length(record.len() - MARK + mark.len)?;
            self.fragment(mark.len, record).await?;
            if mark.last {
                break;
            }
            mark = self.mark().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        }
        set_mark(record);
        Ok(())
    }

    async fn fragment(&mut self, len: usize, record: &mut Vec<u8>) -> io::Result<()> {
        record.reserve(len);
        let end = record.len() + len;
        while record.len() < end {
            let missing = end - record.len();
            let staged = missing.min(self.end - self.start);
            if staged > 0 {
                record.extend_from_slice(&self.stage[self.start..self.start + staged]);
                self.start += staged;
            } else if missing < self.stage.len() {
                if self.fill().await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            } else if (&mut self.source).take(missing as u64).read_buf(record).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.stage.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let read = self.source.read(&mut self.stage[self.end..]).await?;
        self.end += read;
        Ok(read)
    }
}

/// Writes the mark of a finished record, one fragment, into its first four bytes.
pub(super) fn set_mark(record: &mut [u8]) {
    let len = u32::try_from(record.len() - MARK).unwrap_or(fragment_header::MASK);
    record[..MARK].copy_from_slice(&fragment_header::new(len, true).into_xdr_buf());
}

fn check_length(len: usize) -> io::Result<()> {
    if len <= MAX_RECORD {
        return Ok(());
    }
    let message = format!("an RPC record of {len} bytes or more, over the limit of {MAX_RECORD}");
    Err(io::Error::new(io::ErrorKind::InvalidData, message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(future)
    }

    /// One record cut into fragments at `cuts`.
    fn fragmented(body: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (body.len() + 1)).collect();
        cuts.sort_unstable();
        let mut wire = Vec::new();
        let mut from = 0;
        for cut in cuts {
            wire.extend_from_slice(&fragment_header::new((cut - from) as u32, false).into_xdr_buf());
            wire.extend_from_slice(&body[from..cut]);
            from = cut;
        }
        wire.extend_from_slice(&fragment_header::new((body.len() - from) as u32, true).into_xdr_buf());
        wire.extend_from_slice(&body[from..]);
        wire
    }

    async fn read_all(wire: &[u8], chunk: usize) -> io::Result<Vec<Vec<u8>>> {
        let (mut near, far) = tokio::io::duplex(chunk);
        let mut reader = RecordReader::new(far);
        let write = async move {
            let _ = near.write_all(wire).await;
        };
        // Drops the reader at its end, so that the writer ends too.
        let read = async move {
            let mut records = Vec::new();
            while let Some(mark) = reader.mark().await? {
                let mut record = Vec::new();
                reader.body(mark, &mut record).await?;
                records.push(record);
            }
            Ok(records)
        };
        let (result, ()) = tokio::join!(read, write);
        result
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn records_survive_any_fragmentation(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 1..4),
            cuts in prop::collection::vec(any::<usize>(), 0..5),
            chunk in 1_usize..20_000,
        ) {
            let wire: Vec<u8> = bodies.iter().flat_map(|body| fragmented(body, &cuts)).collect();
            let records = run(read_all(&wire, chunk)).unwrap();
            prop_assert_eq!(records.len(), bodies.len());
            for (record, body) in records.iter().zip(&bodies) {
                prop_assert_eq!(record, &fragmented(body, &[]));
            }
        }

        #[test]
        fn any_bytes_end_without_a_panic(wire in prop::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = run(read_all(&wire, 512));
        }
    }

    #[test]
    fn a_record_over_the_limit_is_refused_before_it_is_read() {
        let mark = fragment_header::new(MAX_RECORD as u32 + 1, true).into_xdr_buf();
        let error = run(read_all(&mark, 64)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn fragments_that_add_up_over_the_limit_are_refused() {
        let half = vec![0; MAX_RECORD / 2 + 1];
        let mut wire = fragment_header::new(half.len() as u32, false).into_xdr_buf().to_vec();
        wire.extend_from_slice(&half);
        wire.extend_from_slice(&fragment_header::new(half.len() as u32, true).into_xdr_buf());
        let error = run(read_all(&wire, 64 << 10)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_stream_cut_within_a_record_is_an_error() {
        let wire = fragmented(&[7; 100], &[]);
        for len in 1..wire.len() {
            let error = run(read_all(&wire[..len], 64)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {len}");
        }
    }
}
