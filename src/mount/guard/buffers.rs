//! Large buffers kept for the next large call or reply, so that a file's worth of WRITEs does not map and unmap a
//! megabyte each time. Small ones are left to the allocator.

use std::sync::{Mutex, PoisonError};

/// Larger buffers than this are worth keeping; smaller ones may stay with whoever has them.
pub(super) const LARGE: usize = 64 << 10;
/// Large buffers kept.
const KEPT: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    /// An empty buffer for a record of about `len` bytes.
    pub(super) fn take(&self, len: usize) -> Vec<u8> {
        if len > LARGE
            && let Some(buffer) = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
        {
            return buffer;
        }
        Vec::with_capacity(len)
    }

    /// Gives a buffer back.
    pub(super) fn give(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() <= LARGE {
            return;
        }
        buffer.clear();
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    }

    /// Frees what is kept.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Vec::new();
    }
}
