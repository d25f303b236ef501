//! Unsent writes that must not be uploaded any more: another machine has served the tenant since they were made, so
//! they could replace newer files. They are kept where rclone does not look for them, and named.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::mountinfo::REMOTE;
use super::pending;

/// What was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aside {
    /// Where it is now: `vfs` with the content and `vfsMeta` with rclone's description, as in a cache directory.
    pub path: PathBuf,
    /// Names in the bucket of the files that were not uploaded.
    pub names: Vec<String>,
}

/// Moves the cache of `bucket` into `CACHE_DIR/set-aside-EPOCH`. `None` if everything in it is in the bucket: then it is
/// an ordinary cache and stays. No mounter may be running on it.
///
/// # Errors
/// When the cache cannot be read or moved; what was moved by then stays moved.
pub fn set_aside(cache_dir: &Path, bucket: &str, epoch: u64) -> io::Result<Option<Aside>> {
    let names: Vec<String> = pending::unsent(cache_dir, bucket)?
        .into_iter()
        .map(|file| file.name)
        .collect();
    if names.is_empty() {
        return Ok(None);
    }
    let path = cache_dir.join(format!("set-aside-{epoch}"));
    // Cut short, the rest still counts as unsent and is moved by the next start.
    for kind in ["vfs", "vfsMeta"] {
        let from = cache_dir.join(kind).join(REMOTE).join(bucket);
        let to = path.join(kind).join(REMOTE).join(bucket);
        fs::create_dir_all(to.parent().unwrap_or(&path))?;
        match fs::rename(&from, &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(Some(Aside { path, names }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached(dir: &Path, name: &str, dirty: bool) {
        let meta = dir.join("vfsMeta").join(REMOTE).join("notes").join(name);
        let data = dir.join("vfs").join(REMOTE).join("notes").join(name);
        for (file, text) in [
            (&data, "text".to_owned()),
            (
                &meta,
                format!(r#"{{"ModTime":"2026-01-01T00:00:00Z","Size":4,"Dirty":{dirty},"Rs":[{{"Pos":0,"Size":4}}]}}"#),
            ),
        ] {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
    }

    #[test]
    fn unsent_writes_are_kept_elsewhere_and_a_clean_cache_stays() {
        let dir = tempfile::tempdir().unwrap();
        cached(dir.path(), "a.md", false);
        assert_eq!(set_aside(dir.path(), "notes", 7).unwrap(), None);
        cached(dir.path(), "sub/b.md", true);
        let aside = set_aside(dir.path(), "notes", 8).unwrap().unwrap();
        assert_eq!(aside.names, ["sub/b.md"]);
        assert!(pending::unsent(dir.path(), "notes").unwrap().is_empty());
        let kept = aside.path.join("vfs").join(REMOTE).join("notes/sub/b.md");
        assert_eq!(fs::read_to_string(kept).unwrap(), "text");
    }
}
