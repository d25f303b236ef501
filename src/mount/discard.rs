//! The cache of a read-only mount: nothing is ever sent from there.
//!
//! rclone sends what is described as not sent when it starts, whatever it is told about writing. So in place of `mend`, which
//! describes as not sent what a killed rclone has left undescribed, whatever is not plainly a part of the bucket goes: it can be read
//! again from there.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::error::MountError;
use super::mountinfo::REMOTE;
use super::pending::{read_meta, walk};

/// Removes what could be sent of `bucket`; without one, of every bucket. Nothing in there may be anybody's write, and no rclone may
/// run on this cache.
///
/// # Errors
/// `Cache` when it cannot be read or changed.
pub async fn discard(cache_dir: &Path, bucket: Option<&str>) -> Result<(), MountError> {
    let (directory, bucket) = (cache_dir.to_owned(), bucket.map(str::to_owned));
    let discarding = tokio::task::spawn_blocking(move || match bucket {
        Some(bucket) => discard_of(&directory, Path::new(&bucket)),
        None => discard_of(&directory, Path::new("")),
    });
    let discarded = discarding
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| MountError::Cache {
            path: cache_dir.to_owned(),
            source,
        })?;
    if !discarded.is_empty() {
        tracing::info!(
            event = "cache_discarded",
            files = discarded.join(", "),
            "rclone had not finished with these files of a read-only mount; they are read again from the bucket"
        );
    }
    Ok(())
}

/// `bucket`: nothing for all.
fn discard_of(cache_dir: &Path, bucket: &Path) -> io::Result<Vec<String>> {
    let files = cache_dir.join("vfs").join(REMOTE).join(bucket);
    let metas = cache_dir.join("vfsMeta").join(REMOTE).join(bucket);
    let mut unwanted: Vec<(PathBuf, String)> = Vec::new();
    walk(&files, &mut |file, name| {
        let clean = match (read_meta(&metas.join(&name))?, fs::symlink_metadata(file)) {
            (Some(meta), Ok(found)) => !meta.dirty && meta.describes(&found),
            _ => false,
        };
        if !clean {
            unwanted.push((file.to_owned(), name));
        }
        Ok(())
    })?;
    let mut discarded = Vec::new();
    for (file, name) in unwanted {
        remove(&metas.join(&name))?;
        remove(&file)?;
        discarded.push(name);
    }
    let mut alone = Vec::new();
    walk(&metas, &mut |meta, _| {
        if read_meta(meta)?.is_none_or(|meta| meta.dirty) {
            alone.push(meta.to_owned());
        }
        Ok(())
    })?;
    alone.iter().try_for_each(|meta| remove(meta))?;
    discarded.sort();
    Ok(discarded)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::pending::left;
    use super::*;

    const CLEAN: &str = r#"{"ModTime":"2026-11-23T18:13:12Z","ATime":"2026-11-23T18:13:12Z","Size":4,"Rs":[{"Pos":0,"Size":4}],"Fingerprint":"4,x","Dirty":false}"#;

    fn put(cache: &Path, bucket: &str, name: &str, text: Option<&str>, meta: Option<&str>) {
        for (tree, content) in [("vfs", text), ("vfsMeta", meta)] {
            let file = cache.join(tree).join(REMOTE).join(bucket).join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            if let Some(content) = content {
                fs::write(file, content).unwrap();
            }
        }
    }

    fn fill(cache: &Path, bucket: &str) {
        let dirty = CLEAN.replace("false", "true");
        put(cache, bucket, "kept.md", Some("read"), Some(CLEAN));
        put(cache, bucket, "sub/torn.md", Some("read"), Some(""));
        put(cache, bucket, "bare.md", Some("read"), None);
        put(cache, bucket, "other.md", Some("longer"), Some(CLEAN));
        put(cache, bucket, "dirty.md", Some("read"), Some(&dirty));
        put(cache, bucket, "gone.md", None, Some(&dirty));
    }

    #[test]
    fn only_what_is_plainly_a_part_of_the_bucket_stays() {
        let cache = tempfile::tempdir().unwrap();
        fill(cache.path(), "notes");
        let discarded = discard_of(cache.path(), Path::new("notes")).unwrap();
        assert_eq!(discarded, ["bare.md", "dirty.md", "other.md", "sub/torn.md"]);
        assert!(left(cache.path()).unwrap().is_empty());
        let kept = |tree: &str| cache.path().join(tree).join(REMOTE).join("notes/kept.md");
        assert!(kept("vfs").exists() && kept("vfsMeta").exists());
        assert!(discard_of(cache.path(), Path::new("notes")).unwrap().is_empty());
    }

    #[test]
    fn another_buckets_files_are_left_alone_unless_all_are_meant() {
        let cache = tempfile::tempdir().unwrap();
        fill(cache.path(), "notes");
        fill(cache.path(), "others");
        discard_of(cache.path(), Path::new("notes")).unwrap();
        assert!(!left(cache.path()).unwrap().is_empty());
        discard_of(cache.path(), Path::new("")).unwrap();
        assert!(left(cache.path()).unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_cache_that_is_not_there_has_nothing_to_discard() {
        let dir = tempfile::tempdir().unwrap();
        discard(&dir.path().join("absent"), None).await.unwrap();
    }
}
