//! What the cache has under a name, to compare it with the bucket.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use md5::{Digest, Md5};

use super::mountinfo::REMOTE;
use super::pending::{is_complete, read_meta};
use crate::core::audit::Cached;

/// Read at a time.
const BLOCK: usize = 128 * 1024;

/// Where rclone keeps its copy of the file `name` of `bucket`.
#[must_use]
pub fn path(cache_dir: &Path, bucket: &str, name: &str) -> PathBuf {
    cache_dir.join("vfs").join(REMOTE).join(bucket).join(name)
}

/// Where rclone describes its copies of the files of `bucket`.
pub(super) fn metadata(cache_dir: &Path, bucket: &str) -> PathBuf {
    cache_dir.join("vfsMeta").join(REMOTE).join(bucket)
}

/// What the cache has of the file `name` of `bucket`; with `md5` also the sum of its content. Blocks as long as it takes to read the file.
///
/// # Errors
/// When the cache cannot be read. A file that is not there, or changes meanwhile, is no error.
pub fn cached(cache_dir: &Path, bucket: &str, name: &str, md5: bool) -> io::Result<Cached> {
    let (file, meta) = (path(cache_dir, bucket, name), metadata(cache_dir, bucket).join(name));
    let unsent = || Ok::<bool, io::Error>(read_meta(&meta)?.is_some_and(|meta| meta.dirty));
    let found = match fs::symlink_metadata(&file) {
        Ok(found) if found.is_file() => found,
        Ok(_) => return Ok(Cached::Not),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Cached::Not);
        }
        Err(error) => return Err(error),
    };
    let size = found.len();
    if unsent()? {
        return Ok(Cached::Unsent);
    }
    // rclone begins a file that it is going to download as an empty one.
    let begun = size == 0 && read_meta(&meta)?.is_none_or(|meta| !meta.describes(&found));
    if begun || !is_complete(&file, size)? {
        return Ok(Cached::Not);
    }
    let md5 = if md5 { Some(sum(&file)?) } else { None };
    // What was written while it was read is marked.
    if unsent()? {
        return Ok(Cached::Unsent);
    }
    Ok(Cached::Whole { size, md5 })
}

fn sum(file: &Path) -> io::Result<String> {
    let (mut file, mut sum, mut block) = (File::open(file)?, Md5::new(), vec![0; BLOCK]);
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => sum.update(&block[..read]),
        }
    }
    Ok(sum.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_whole_and_sent_is_compared() {
        let dir = tempfile::tempdir().unwrap();
        let look = |name: &str| cached(dir.path(), "notes", name, true).unwrap();
        let put = |name: &str, text: &str, dirty: bool| {
            let file = path(dir.path(), "notes", name);
            let meta = dir.path().join("vfsMeta").join(REMOTE).join("notes").join(name);
            for path in [&file, &meta] {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
            }
            fs::write(file, text).unwrap();
            let text = format!(r#"{{"ModTime":"2026-01-01T00:00:00Z","Size":5,"Dirty":{dirty},"Rs":null}}"#);
            fs::write(meta, text).unwrap();
        };
        assert_eq!(look("none.md"), Cached::Not);
        put("sub/a.md", "hello", true);
        assert_eq!(look("sub/a.md"), Cached::Unsent);
        put("sub/a.md", "hello", false);
        let whole = Cached::Whole {
            size: 5,
            md5: Some("5d41402abc4b2a76b9719d911017c592".into()),
        };
        assert_eq!(look("sub/a.md"), whole);
        assert_eq!(look("sub"), Cached::Not);
        File::options()
            .write(true)
            .open(path(dir.path(), "notes", "sub/a.md"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        assert_eq!(look("sub/a.md"), Cached::Not, "it has holes");
        put("b.md", "", false);
        assert_eq!(look("b.md"), Cached::Not, "described as 5 bytes long: just begun");
        let meta = dir.path().join("vfsMeta").join(REMOTE).join("notes/b.md");
        let text = fs::read_to_string(&meta).unwrap().replace("\"Size\":5", "\"Size\":0");
        fs::write(meta, text).unwrap();
        let empty = Cached::Whole {
            size: 0,
            md5: Some("d41d8cd98f00b204e9800998ecf8427e".into()),
        };
        assert_eq!(look("b.md"), empty);
    }
}
