//! What a mounter that is gone left unsent: read from the metadata rclone keeps beside its cached files.
//!
//! `CACHE/vfsMeta/REMOTE/BUCKET/PATH` is a JSON file with `"Dirty": true` from the first write of a file until its
//! upload. rclone uploads such files when it is started again on the same cache, remote and bucket. This is the last
//! word on "is everything stored": it needs no living rclone, and it knows files that are open and not yet in the queue.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

use super::mountinfo::REMOTE;

/// A file with content that is not in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pending {
    /// Path in the bucket.
    pub name: String,
    /// Bytes, as far as known.
    pub bytes: u64,
}

/// rclone's description of a cached file, as far as we need it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Meta {
    pub(super) mod_time: String,
    pub(super) size: i64,
    pub(super) dirty: bool,
    #[serde(default)]
    pub(super) fingerprint: String,
    #[serde(rename = "Rs")]
    pub(super) ranges: Option<Vec<Range>>,
}

impl Meta {
    /// For a file that is sent: is this about a file of that length? rclone sometimes leaves the description of the one that was there
    /// before. The length is that of the object in the fingerprint, `LENGTH,TIME`; `Size` is not always kept.
    pub(super) fn describes(&self, file: &fs::Metadata) -> bool {
        let sent = self
            .fingerprint
            .split(',')
            .next()
            .and_then(|length| length.parse().ok());
        sent.or(u64::try_from(self.size).ok()) == Some(file.len())
    }
}

/// A part of a file that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Range {
    pub(super) pos: u64,
    pub(super) size: u64,
}

/// Reads one description; `None` when there is none, or none that can be understood.
pub(super) fn read_meta(path: &Path) -> io::Result<Option<Meta>> {
    match fs::read(path) {
        Ok(text) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Was this description being written when rclone was ended, and the machine went on? (When the machine itself fails, the file that it
/// is of may have lost its content as well.)
pub(super) fn was_being_written(path: &Path) -> io::Result<bool> {
    let written = match fs::metadata(path) {
        Ok(found) => found.modified()?,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(false),
        Err(error) => return Err(error),
    };
    let up = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let since_the_start = SystemTime::now().duration_since(written).is_ok_and(|ago| ago < up);
    Ok(since_the_start && read_meta(path)?.is_none())
}

/// The unsent files of `bucket`, sorted by name. Reads every metadata file: milliseconds per thousand cached files.
///
/// A file whose metadata is missing or cannot be parsed (rclone was killed in mid-write) counts as unsent: better one name
/// too many than a silent loss.
///
/// # Errors
/// When the cache cannot be read. A cache that does not exist has nothing unsent.
pub fn unsent(cache_dir: &Path, bucket: &str) -> io::Result<Vec<Pending>> {
    look(cache_dir, bucket, true)
}

/// The same when a living rclone has said that everything is sent, and nothing was written since: a description that cannot be read
/// was being written when rclone was ended, and says nothing.
///
/// # Errors
/// As [`unsent`].
pub fn unsent_after_a_drain(cache_dir: &Path, bucket: &str) -> io::Result<Vec<Pending>> {
    look(cache_dir, bucket, false)
}

fn look(cache_dir: &Path, bucket: &str, undescribed: bool) -> io::Result<Vec<Pending>> {
    let mut found = Vec::new();
    let (mut sent, mut torn) = (HashSet::new(), HashSet::new());
    walk(
        &cache_dir.join("vfsMeta").join(REMOTE).join(bucket),
        &mut |meta_file, name| {
            match read_meta(meta_file)? {
                Some(meta) if meta.dirty => found.push(Pending {
                    name,
                    bytes: u64::try_from(meta.size).unwrap_or(0),
                }),
                Some(_) => drop(sent.insert(name)),
                None if was_being_written(meta_file)? => drop(torn.insert(name)),
                None => {}
            }
            Ok(())
        },
    )?;
    let mut known: HashMap<String, u64> = found.into_iter().map(|file| (file.name, file.bytes)).collect();
    walk(&cache_dir.join("vfs").join(REMOTE).join(bucket), &mut |file, name| {
        // Metadata is written when a file is opened and closed; in between only the cached file knows its length.
        if !sent.contains(&name)
            && let Ok(file) = fs::symlink_metadata(file)
            && ((undescribed && (file.len() > 0 || torn.contains(&name))) || known.contains_key(&name))
        {
            known.insert(name, file.len());
        }
        Ok(())
    })?;
    let mut pending: Vec<Pending> = known.into_iter().map(|(name, bytes)| Pending { name, bytes }).collect();
    pending.sort();
    Ok(pending)
}

/// Cached files of `bucket` of another length than the object they are said to be. As long as rclone lives that means nothing: it knows
/// better than its notes. When it was killed they may be unsent, and the next start sends them (again).
///
/// # Errors
/// As [`unsent`].
pub fn doubtful(cache_dir: &Path, bucket: &str) -> io::Result<Vec<String>> {
    let metas = cache_dir.join("vfsMeta").join(REMOTE).join(bucket);
    let mut found = Vec::new();
    walk(&cache_dir.join("vfs").join(REMOTE).join(bucket), &mut |file, name| {
        if let Some(meta) = read_meta(&metas.join(&name))?
            && !meta.dirty
            && fs::symlink_metadata(file).is_ok_and(|file| !meta.describes(&file))
        {
            found.push(name);
        }
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

/// Buckets other than `bucket` that have unsent files in this cache, with how many. Nothing will upload them until a
/// tenant of that bucket runs on this cache.
///
/// # Errors
/// When the cache cannot be read.
pub fn other_buckets(cache_dir: &Path, bucket: &str) -> io::Result<Vec<(String, usize)>> {
    let mut found = Vec::new();
    for entry in entries(&cache_dir.join("vfsMeta").join(REMOTE))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != bucket {
            let count = unsent(cache_dir, &name)?.len();
            if count > 0 {
                found.push((name, count));
            }
        }
    }
    Ok(found)
}

/// All that any bucket may not have of this cache, by name: [`unsent`] and [`doubtful`]. For when nobody can say which bucket
/// is the tenant's.
///
/// # Errors
/// When the cache cannot be read.
pub fn left(cache_dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries(&cache_dir.join("vfsMeta").join(REMOTE))? {
        let bucket = entry.file_name().to_string_lossy().into_owned();
        names.extend(unsent(cache_dir, &bucket)?.into_iter().map(|file| file.name));
        names.extend(doubtful(cache_dir, &bucket)?);
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Bytes on disk of all cached files: what rclone can give back when the disk gets full, as far as they are sent.
pub(super) fn cached_bytes(cache_dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut blocks = 0;
    let counted = walk(&cache_dir.join("vfs"), &mut |file, _| {
        blocks += fs::symlink_metadata(file).map_or(0, |meta| meta.blocks());
        Ok(())
    });
    // A file that vanishes meanwhile only makes the estimate lower.
    drop(counted);
    blocks * 512
}

/// Has the file `length` bytes without a hole? A file system that knows none says so too.
pub(super) fn is_complete(path: &Path, length: u64) -> io::Result<bool> {
    match lseek(File::open(path)?, 0, Whence::SeekHole) {
        Ok(hole) => Ok(u64::try_from(hole).is_ok_and(|hole| hole >= length)),
        // lseek(2): the file is empty.
        Err(Errno::ENXIO) => Ok(length == 0),
        Err(error) => Err(error.into()),
    }
}

/// Calls `visit` with the path and the name relative to `root` of each file below it. Iterative: depth is the tenant's.
pub(super) fn walk(root: &Path, visit: &mut dyn FnMut(&Path, String) -> io::Result<()>) -> io::Result<()> {
    let mut directories: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in entries(&directory)? {
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                visit(&path, name)?;
            }
        }
    }
    Ok(())
}

/// The entries of a directory; none when it does not exist (any more).
fn entries(directory: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As rclone 1.75.2 wrote them.
    const DIRTY: &str = "{\n\t\"ModTime\": \"2026-11-23T18:13:12.924536628Z\",\n\t\"ATime\": \"2026-11-23T18:13:12.924834562Z\",\n\t\"Size\": 3,\n\t\"Rs\": [\n\t\t{\n\t\t\t\"Pos\": 0,\n\t\t\t\"Size\": 3\n\t\t}\n\t],\n\t\"Fingerprint\": \"\",\n\t\"Dirty\": true\n}\n";
    const CLEAN: &str = "{\n\t\"ModTime\": \"2026-11-23T18:13:12.92687763Z\",\n\t\"ATime\": \"2026-11-23T18:13:12.92726032Z\",\n\t\"Size\": 6,\n\t\"Rs\": null,\n\t\"Fingerprint\": \"6,2026-11-23 18:12:44.364 +0000 UTC,b522c5a4cdce961f4a53e0f292436da0\",\n\t\"Dirty\": false\n}\n";

    fn put(cache: &Path, tree: &str, bucket: &str, name: &str, text: &str) {
        let file = cache.join(tree).join(REMOTE).join(bucket).join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn dirty_files_are_unsent_and_broken_metadata_counts_too() {
        let cache = tempfile::tempdir().unwrap();
        put(cache.path(), "vfsMeta", "notes", "sub/a b.md", DIRTY);
        put(cache.path(), "vfsMeta", "notes", "s1.md", CLEAN);
        put(cache.path(), "vfsMeta", "notes", "open.md", DIRTY);
        put(cache.path(), "vfs", "notes", "open.md", "1234567");
        put(cache.path(), "vfsMeta", "notes", "torn.md", "{\n\t\"ModTi");
        put(cache.path(), "vfs", "notes", "torn.md", "12345");
        put(cache.path(), "vfsMeta", "notes", "gone.md", "");
        let names = [("open.md", 7), ("sub/a b.md", 3), ("torn.md", 5)];
        let wanted: Vec<Pending> = names
            .iter()
            .map(|&(name, bytes)| Pending {
                name: name.into(),
                bytes,
            })
            .collect();
        assert_eq!(unsent(cache.path(), "notes").unwrap(), wanted);
        assert_eq!(
            unsent_after_a_drain(cache.path(), "notes").unwrap(),
            wanted[..2],
            "torn when rclone was ended"
        );
    }

    #[test]
    fn no_cache_means_nothing_unsent() {
        let cache = tempfile::tempdir().unwrap();
        assert!(unsent(&cache.path().join("absent"), "notes").unwrap().is_empty());
    }

    #[test]
    fn unsent_files_of_another_bucket_are_told() {
        let cache = tempfile::tempdir().unwrap();
        put(cache.path(), "vfsMeta", "old", "a.md", DIRTY);
        put(cache.path(), "vfsMeta", "clean", "b.md", CLEAN);
        put(cache.path(), "vfsMeta", "notes", "c.md", DIRTY);
        assert_eq!(other_buckets(cache.path(), "notes").unwrap(), [("old".to_owned(), 1)]);
    }
}
