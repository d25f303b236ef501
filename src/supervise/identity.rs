//! Who this machine is to the lease, and which lease this disk had last. Both are kept beside the cache, because the
//! cache is what they are about: writes of an earlier life that are not uploaded yet.
//!
//! The host name alone is no identity: containers on the host's network share it.

use std::fs::{self, DirBuilder};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::index::Taken;

const MACHINE: &str = "machine-id";
const LAST: &str = "last-lease.json";

/// The lease this disk had last.
#[derive(Debug, Serialize, Deserialize)]
struct Last {
    database_id: String,
    epoch: u64,
    /// It was asked for again, and nobody has heard the answer yet: the database may have granted it.
    #[serde(default)]
    asked: bool,
}

impl Last {
    fn read(cache_dir: &Path) -> Option<Last> {
        let bytes = fs::read(cache_dir.join(LAST)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn write(&self, cache_dir: &Path) {
        let written = serde_json::to_vec(self)
            .map_err(io::Error::from)
            .and_then(|bytes| replace(&cache_dir.join(LAST), &bytes));
        if let Err(error) = written {
            tracing::warn!(
                event = "lease_not_noted",
                "cannot keep {LAST} beside the cache: {error}"
            );
        }
    }
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
    // Without a note this disk never held a lease: what it has is from a life without a database.
    Last::read(cache_dir).is_some_and(|last| last.database_id == database_id && epoch > last.epoch + 1)
}

/// Remembers the lease. A disk that cannot is treated as one that never held it.
pub fn note(cache_dir: &Path, database_id: &str, epoch: u64) {
    Last {
        database_id: database_id.to_owned(),
        epoch,
        asked: false,
    }
    .write(cache_dir);
}

/// Remembers that the lease is being asked for (`asked`), or that the answer was no. Nothing to remember on a disk that
/// never held one.
pub fn note_asked(cache_dir: &Path, asked: bool) {
    if let Some(last) = Last::read(cache_dir)
        && last.asked != asked
    {
        Last { asked, ..last }.write(cache_dir);
    }
}

/// Did this disk ask for the lease without hearing the answer? Then what the database says now (`last_taken`) has to be
/// looked at before it is asked again: see [`heard`].
pub fn waits_for_an_answer(cache_dir: &Path) -> bool {
    Last::read(cache_dir).is_some_and(|last| last.asked)
}

/// The answer that was not heard, as the database tells it afterwards: if the epoch after this disk's last one was taken by
/// `holder`, which is us, then that was our request, and no other machine came between.
pub fn heard(cache_dir: &Path, holder: &str, taken: &Taken) {
    let ours = taken.holder == holder
        && Last::read(cache_dir)
            .is_some_and(|last| last.asked && last.database_id == taken.database_id && taken.epoch == last.epoch + 1);
    if ours {
        note(cache_dir, &taken.database_id, taken.epoch);
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

    #[test]
    fn a_grant_that_was_not_heard_is_known_by_its_holder() {
        let taken = |epoch, holder: &str| Taken {
            database_id: "db".into(),
            epoch,
            holder: holder.into(),
        };
        for (found, gap) in [
            (taken(5, "us"), false),   // granted, and nobody heard
            (taken(4, "us"), false),   // never arrived: the next one is 5, no gap
            (taken(5, "other"), true), // another one has it
            (taken(6, "us"), true),    // somebody had 5
        ] {
            let dir = tempfile::tempdir().unwrap();
            note(dir.path(), "db", 4);
            assert!(!waits_for_an_answer(dir.path()));
            note_asked(dir.path(), true);
            assert!(waits_for_an_answer(dir.path()));
            heard(dir.path(), "us", &found);
            assert_eq!(
                another_machine_wrote_since(dir.path(), "db", found.epoch + 1),
                gap,
                "{found:?}"
            );
        }
    }

    #[test]
    fn nothing_is_taken_for_an_answer_that_was_not_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        note_asked(dir.path(), true);
        assert!(!waits_for_an_answer(dir.path()), "a disk that never held a lease");
        note(dir.path(), "db", 4);
        note_asked(dir.path(), true);
        note_asked(dir.path(), false);
        let taken = Taken {
            database_id: "db".into(),
            epoch: 5,
            holder: "us".into(),
        };
        heard(dir.path(), "us", &taken);
        assert!(another_machine_wrote_since(dir.path(), "db", 6));
    }
}
