//! Messages that no client would send.

use nfs3_types::nfs3::*;
use proptest::prelude::*;

use super::super::call::{Inspected, Plan, inspect};
use super::super::procedure::Procedure;
use super::super::record::{MARK, set_mark};
use super::super::reply;
use super::*;

/// Where two records of the same length differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    assert_eq!(before.len(), after.len());
    (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
}

proptest! {
    #[test]
    fn any_bytes_are_looked_at_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut record = vec![0; MARK];
        record.extend_from_slice(&body);
        set_mark(&mut record);
        let _ = inspect(&mut record);
        for number in 0..22 {
            let procedure = Procedure::of(NFS_PROGRAM::try_from(number).unwrap());
            let _ = reply::outcome(&record, procedure);
            let _ = reply::created(&record, procedure, ftype3::NF3REG);
        }
        let _ = reply::xid(&record);
    }

    /// A good call, damaged: whatever passes is unchanged but for a create mode of 0 that has become 1, and a time to be set
    /// beside a size, 1, that has become 0.
    #[test]
    fn nothing_changes_but_the_mode_of_a_create_and_the_time_of_a_new_size(
        xid: u32,
        which in 0..7_usize,
        size in prop::option::of(0..3_u64),
        name in "[a-z]{0,20}",
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let mut record = match which {
            0..3 => create(xid, &name, createhow3::UNCHECKED(sized(size))),
            3 => create(xid, &name, createhow3::GUARDED(sized(size))),
            4 => write(xid, &name, name.as_bytes()),
            5 => setattr(xid, &name, size, set_mtime::SET_TO_SERVER_TIME),
            _ => nfs(xid, NFS_PROGRAM::NFSPROC3_RENAME, &RENAME3args { from: at("d", &name), to: at("e", &name) }),
        };
        for (at, byte) in &damage {
            let at = MARK + at.index(record.len() - MARK);
            record[at] = *byte;
        }
        let before = record.clone();
        if let Inspected::Forward(Plan { rewritten, .. }) = inspect(&mut record) {
            let changed = changed(&before, &record);
            match rewritten {
                None if changed.is_empty() => {}
                None => {
                    prop_assert_eq!(changed.len(), 1);
                    prop_assert_eq!((before[changed[0]], record[changed[0]]), (1, 0));
                }
                Some(named) => {
                    prop_assert_eq!(&changed, &[named.end + 3]);
                    prop_assert_eq!(&before[named.end..named.end + 4], &[0, 0, 0, 0]);
                    prop_assert_eq!(&record[named.end..named.end + 4], &[0, 0, 0, 1]);
                }
            }
            if damage.is_empty() {
                let expected = match which {
                    0..3 => size != Some(0),
                    5 => size.is_some(),
                    _ => false,
                };
                prop_assert_eq!(!changed.is_empty(), expected);
            }
        }
    }
}
