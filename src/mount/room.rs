//! How much room the cache's disk has for new writes.

use std::io;
use std::path::Path;

use super::pending;
use crate::core::event::Room;

/// Asks the disk under `cache_dir`. What rclone could evict is counted only when less than `plenty` bytes are free, because
/// that means to look at every cached file; `unsent` bytes of them cannot be evicted.
///
/// # Errors
/// When the directory cannot be asked.
pub fn room(cache_dir: &Path, unsent: u64, plenty: u64) -> io::Result<Room> {
    let disk = nix::sys::statvfs::statvfs(cache_dir)?;
    let available = disk.blocks_available() * disk.fragment_size();
    let evictable = if available < plenty {
        pending::cached_bytes(cache_dir).saturating_sub(unsent)
    } else {
        0
    };
    Ok(Room { available, evictable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_files_of_the_cache_count_as_room_when_it_gets_scarce() {
        let cache = tempfile::tempdir().unwrap();
        let files = cache.path().join("vfs/tenant/notes");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("a.md"), vec![1; 100_000]).unwrap();
        assert_eq!(room(cache.path(), 0, 0).unwrap().evictable, 0);
        let scarce = room(cache.path(), 40_000, u64::MAX).unwrap();
        assert!((60_000..100_000).contains(&scarce.evictable), "{scarce:?}");
        assert!(scarce.total() > scarce.available);
        assert!(room(&cache.path().join("absent"), 0, 0).is_err());
    }
}
