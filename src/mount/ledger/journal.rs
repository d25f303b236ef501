//! The journal of a ledger: one line of JSON for each change, the last one of a name counts.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Entry;
use crate::core::audit::Wanted;

/// The name of a bucket's journal, between these two.
pub(super) const NAME: (&str, &str) = ("ledger-", ".jsonl");

/// One line of the journal.
#[derive(Serialize, Deserialize)]
pub(super) struct Line {
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) wanted: Option<Written>,
    pub(super) since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) risk: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) seen: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) removal: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<String>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Written {
    Absent,
    Uploaded,
    Copied,
    Doubtful,
}

/// Where it is.
pub(super) fn path(cache_dir: &Path, bucket: &str) -> PathBuf {
    cache_dir.join(format!("{}{bucket}{}", NAME.0, NAME.1))
}

/// What is known of `name` `now`; `source` may have been copied to it.
pub(super) fn line(name: &str, entry: Option<&Entry>, source: Option<&String>, now: Timestamp) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(&Line {
        name: name.to_owned(),
        wanted: entry.map(|entry| entry.wanted.into()),
        since: entry.map_or(now, |entry| entry.since),
        risk: entry.map(|entry| entry.risk).filter(|risk| *risk > now),
        seen: entry.is_some_and(|entry| entry.seen),
        removal: entry.is_some_and(|entry| entry.removal && (entry.risk > now || !entry.seen)),
        source: entry.and(source).cloned(),
    })?;
    line.push(b'\n');
    Ok(line)
}

impl From<Wanted> for Written {
    fn from(wanted: Wanted) -> Written {
        match wanted {
            Wanted::Absent => Written::Absent,
            Wanted::Uploaded => Written::Uploaded,
            Wanted::Copied => Written::Copied,
            Wanted::Doubtful => Written::Doubtful,
        }
    }
}

impl From<Written> for Wanted {
    fn from(written: Written) -> Wanted {
        match written {
            Written::Absent => Wanted::Absent,
            Written::Uploaded => Wanted::Uploaded,
            Written::Copied => Wanted::Copied,
            Written::Doubtful => Wanted::Doubtful,
        }
    }
}
