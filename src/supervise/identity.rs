//! Who this machine is to the lease, and which lease this disk had last. Both are kept beside the cache, because the
//! cache is what they are about: writes of an earlier life that are not uploaded yet.
//!
//! The host name alone is no identity: containers on the host's network share it.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

const MACHINE: &str = "machine-id";
const LAST: &str = "last-lease.json";

/// The lease this disk had last.
#[derive(Debug, Serialize, Deserialize)]
struct Last {
    database_id: String,
    epoch: u64,
}

/// Name for people and a part that is this disk's alone: `NAME/RANDOM`. A disk that cannot keep it gets a new one.
pub fn holder(cache_dir: &Path) -> String {
    let name = std::env::var("FLY_MACHINE_ID")
        .ok()
        .filter(|id| !id.is_empty())
        .or_else(|| nix::unistd::gethostname().ok()?.into_string().ok())
        .unwrap_or_else(|| "unnamed".into());
    format!("{name}/{}", disk(cache_dir).unwrap_or_else(|_| fresh_id()))
}

fn disk(cache_dir: &Path) -> io::Result<String> {
    let file = cache_dir.join(MACHINE);
    match fs::read_to_string(&file) {
        Ok(id) if id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => return Ok(id),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // As the mount's claim makes it; what is wrong with the directory is for the claim to say.
    DirBuilder::new().recursive(true).mode(0o700).create(cache_dir)?;
    let id = fresh_id();
    replace(&file, id.as_bytes())?;
    Ok(id)
}

fn fresh_id() -> String {
    let mut bytes = [0u8; 6];
    let read = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    if read.is_err() {
        fastrand::fill(&mut bytes);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has this disk ever held a lease? Then it may hold one now.
pub fn held_a_lease(cache_dir: &Path) -> bool {
    cache_dir.join(LAST).exists()
}

/// Has another machine held the lease between this disk's last one and `epoch`?
pub fn another_machine_wrote_since(cache_dir: &Path, database_id: &str, epoch: u64) -> bool {
    let last = fs::read(cache_dir.join(LAST))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Last>(&bytes).ok());
    // Without a note this disk never held a lease: what it has is from a life without a database.
    last.is_some_and(|last| last.database_id == database_id && epoch > last.epoch + 1)
}

/// Remembers the lease. A disk that cannot is treated as one that never held it.
pub fn note(cache_dir: &Path, database_id: &str, epoch: u64) {
    let last = Last {
        database_id: database_id.to_owned(),
        epoch,
    };
    let written = serde_json::to_vec(&last)
        .map_err(io::Error::from)
        .and_then(|bytes| replace(&cache_dir.join(LAST), &bytes));
    if let Err(error) = written {
        tracing::warn!(
            event = "lease_not_noted",
            "cannot keep {LAST} beside the cache: {error}"
        );
    }
}

fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = file.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::rename(&fresh, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_keeps_its_identity_and_two_disks_differ() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let cache = a.path().join("cache");
        assert_eq!(holder(&cache), holder(&cache));
        assert_ne!(holder(&cache), holder(b.path()));
    }

    #[test]
    fn another_machine_is_noticed_by_a_gap_of_epochs() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!another_machine_wrote_since(dir.path(), "db", 9), "no lease before");
        note(dir.path(), "db", 4);
        assert!(!another_machine_wrote_since(dir.path(), "db", 5));
        assert!(another_machine_wrote_since(dir.path(), "db", 6));
        assert!(
            !another_machine_wrote_since(dir.path(), "other", 6),
            "another database counts anew"
        );
    }
}
