//! The last resort: the local file is put aside, and the app builds its index anew from the notes.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Moves the file and its journal files to `PATH.broken`, replacing an earlier one; returns that path. The app must not
/// be running. Without a file there is nothing to do.
///
/// # Errors
/// When it cannot be renamed.
pub fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = beside(".broken");
    for suffix in ["-wal", "-shm", ""] {
        let mut to = aside.clone().into_os_string();
        to.push(suffix);
        match std::fs::rename(beside(suffix), &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // An older one must not be taken for this file's.
                drop(std::fs::remove_file(&to));
            }
            other => other?,
        }
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_and_journal_move_together_and_replace_older_ones() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| dir.path().join(name);
        for (name, text) in [
            ("memory.db", "new"),
            ("memory.db-wal", "log"),
            ("memory.db.broken-shm", "old"),
        ] {
            std::fs::write(file(name), text).unwrap();
        }
        let aside = put_aside(&file("memory.db")).unwrap();
        assert_eq!(std::fs::read_to_string(&aside).unwrap(), "new");
        assert_eq!(std::fs::read_to_string(file("memory.db.broken-wal")).unwrap(), "log");
        assert!(!file("memory.db.broken-shm").exists() && !file("memory.db").exists());
        put_aside(&file("memory.db")).unwrap();
    }
}
