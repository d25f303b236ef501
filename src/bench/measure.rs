//! What is measured: names, words, groups, and how many samples each gets.

use clap::ValueEnum;
use serde::{Serialize, Serializer};

/// What `--only` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Single files: create, read, stat, replace, append, list, rename, delete
    Files,
    /// 200 small notes at once, until they are written and until they are stored
    Burst,
    /// Eight writers at the same time
    Mix,
    /// Walking over 1,460 files
    Scan,
    /// A change in the bucket, until an event tells about it
    Events,
    /// basic-memory's tools over MCP
    Notes,
}

macro_rules! measures {
    ($($variant:ident($group:ident) $name:literal $what:literal,)*) => {
        /// One measure, in the order in which they are shown.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Measure {
            $(#[doc = $what] $variant,)*
        }

        impl Measure {
            /// All of them, in the order in which they are shown.
            pub const ALL: &[Measure] = &[$(Measure::$variant,)*];

            /// For programs.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Measure::$variant => $name,)*
                }
            }

            /// For people.
            #[must_use]
            pub fn what(self) -> &'static str {
                match self {
                    $(Measure::$variant => $what,)*
                }
            }

            /// The part of the run it belongs to.
            #[must_use]
            pub fn group(self) -> Group {
                match self {
                    $(Measure::$variant => Group::$group,)*
                }
            }
        }
    };
}

measures! {
    Create(Files) "create" "create",
    FirstRead(Files) "first_read" "first read (not in memory)",
    FirstReadBucket(Files) "first_read_bucket" "first read (only in the bucket)",
    Reread(Files) "reread" "read again",
    Stat(Files) "stat" "stat",
    Replace(Files) "replace" "replace (write, rename over)",
    Append(Files) "append" "append",
    List(Files) "list" "list 50 notes",
    Rename(Files) "rename" "rename, stored",
    RenameNew(Files) "rename_new" "rename, just written",
    Delete(Files) "delete" "delete, stored",
    DeleteNew(Files) "delete_new" "delete, just written",
    BurstWrite(Burst) "burst_write" "200 notes, until written",
    BurstStore(Burst) "burst_store" "200 notes, until stored",
    Mix(Mix) "mix" "8 writers, a round each",
    ScanCold(Scan) "scan_cold" "scan 1,460 files, cold",
    ScanWarm(Scan) "scan_warm" "scan 1,460 files, warm",
    EventCreate(Events) "event_create" "created elsewhere, until an event",
    EventChange(Events) "event_change" "changed elsewhere, until an event",
    EventDelete(Events) "event_delete" "deleted elsewhere, until an event",
    NoteWrite(Notes) "note_write" "write_note",
    NoteRead(Notes) "note_read" "read_note",
    NoteSearch(Notes) "note_search" "search_notes",
    NoteEdit(Notes) "note_edit" "edit_note",
    NoteMove(Notes) "note_move" "move_note",
    NoteDelete(Notes) "note_delete" "delete_note",
}

impl Measure {
    /// The one of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Measure> {
        Measure::ALL.iter().copied().find(|measure| measure.name() == name)
    }
}

impl Serialize for Measure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// How often each part is measured, from the one number of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Single file operations.
    pub files: usize,
    /// First reads of what is only in the bucket.
    pub far_reads: usize,
    /// Bursts.
    pub bursts: usize,
    /// Rounds of each of the eight writers.
    pub mix_rounds: usize,
    /// Trees that are scanned for the first time.
    pub cold_scans: usize,
    /// Scans of a known tree.
    pub warm_scans: usize,
    /// Changes made elsewhere, of each kind.
    pub events: usize,
    /// Rounds of note operations.
    pub notes: usize,
}

/// Notes of a burst.
pub const BURST: usize = 200;
/// Writers of the concurrent mix.
pub const WRITERS: usize = 8;
/// Folders of a scanned tree.
pub const SCAN_FOLDERS: usize = 73;
/// Files in each.
pub const SCAN_FILES: usize = 20;
/// Notes in the listed folder.
pub const LISTED: usize = 50;
/// A small file takes a block of the local disk and its name.
const FILE_ROOM: u64 = 8 * 1024;

impl Plan {
    /// A file operation takes a millisecond, a burst or a scan a second: the larger ones get fewer samples.
    #[must_use]
    pub fn new(samples: usize) -> Plan {
        Plan {
            files: samples,
            far_reads: (samples / 3).clamp(1, 50),
            bursts: (samples / 20).clamp(1, 10),
            mix_rounds: (samples / 5).max(1),
            cold_scans: (samples / 33).clamp(1, 5),
            warm_scans: (samples / 5).clamp(1, 50),
            events: (samples / 20).clamp(1, 20),
            notes: (samples / 4).max(1),
        }
    }

    /// Files that are there at the same time, at most.
    #[must_use]
    pub fn most_files(&self) -> usize {
        5 * self.files
            + self.far_reads
            + self.bursts * BURST
            + self.cold_scans * SCAN_FOLDERS * SCAN_FILES
            + LISTED
            + self.notes
            + WRITERS * 4
    }

    /// Bytes of disk they need on each side, twice over.
    #[must_use]
    pub fn room(&self) -> u64 {
        (self.most_files() as u64 * FILE_ROOM * 2).max(64 << 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sample_still_measures_everything_and_many_stay_bounded() {
        let Plan {
            files,
            far_reads,
            bursts,
            mix_rounds,
            cold_scans,
            warm_scans,
            events,
            notes,
        } = Plan::new(1);
        let counts = [
            files, far_reads, bursts, mix_rounds, cold_scans, warm_scans, events, notes,
        ];
        assert!(counts.iter().all(|&count| count == 1), "{counts:?}");
        let many = Plan::new(10_000);
        assert!(many.most_files() < 65_000, "{}", many.most_files());
        assert!(Plan::new(1).room() >= 64 << 20);
    }

    #[test]
    fn a_scanned_tree_has_1460_files() {
        assert_eq!(SCAN_FOLDERS * SCAN_FILES, 1460);
    }

    #[test]
    fn every_name_finds_its_measure() {
        assert!(Measure::ALL.is_sorted());
        for &measure in Measure::ALL {
            assert_eq!(Measure::named(measure.name()), Some(measure));
        }
        assert_eq!(Measure::named("teleport"), None);
    }
}
