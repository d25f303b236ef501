//! Saves writes that rclone would throw away because it was killed at a bad moment.
//!
//! rclone describes each cached file in a metadata file. When rclone is killed (memory, a crash of the machine), that
//! description can be wrong in four ways, and each costs an acknowledged write at the next start. All were seen with
//! 1.75.2 on FUSE, where the kernel tells rclone of a `close` only after the program has gone on.
//!
//! * It is empty: rclone empties it and writes it anew. The next rclone **deletes the cached file**.
//! * It is old: what was written since it was saved is not in its list of cached ranges. The next rclone **downloads the
//!   old content of these ranges over the new one**, or, without an old one, cannot read the file until it is sent.
//! * It lies under the file's former name: a rename is two renames. The next rclone deletes both halves.
//! * It is of the file that was there before: an upload of that one was under way when another was renamed over it, and at its end
//!   wrote that all is sent. The next rclone **throws the new content away**, because it has not the length described.
//!
//! So before each start:
//!
//! * what a file has beyond the length in its description counts as written here, because nothing else can have put it
//!   there (a file that was emptied has length 0 in it, so all of it counts);
//! * all of a file counts so when the description names no object that it could have come from;
//! * a file whose description lies under another name gets it back;
//! * a file that is longer than its description, which says that it is sent, and of which the cache has not all, is described as not
//!   sent with what is new; rclone fetches the rest;
//! * a complete file of another length than its description, which says that it is sent, is described as not sent;
//! * so is one that is on the ledger as not compared with the bucket yet;
//! * a complete file without a readable one is described as not sent. At worst a file that was sent is sent again;
//! * a file with holes and no description (a partly read one) is set aside in `rescued/`;
//! * an empty file is not sent when it has no description, because rclone begins a file that it is going to download as an empty
//!   one. It has the object's length before it is described for the first time: so one whose description was being written is
//!   meant to be empty, unless the machine itself has failed since; and so is one that is described as empty and is on that ledger.
//!
//! What remains: bytes overwritten in the middle of a file that was not cached whole, without fsync, just before a kill.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::mountinfo::REMOTE;
use super::pending::{Meta, Range, is_complete, read_meta, walk, was_being_written};

/// rclone gives a cached file its modification time in whole nanoseconds; file systems may keep less.
const SAME_TIME: Duration = Duration::from_millis(2);

/// What was done. Names are paths in the bucket.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mended {
    /// Will be sent (again).
    pub requeued: Vec<String>,
    /// Moved to `rescued/`.
    pub set_aside: Vec<String>,
}

/// Makes the metadata of `bucket` whole. No rclone may run on this cache. `unproven`: names of files that nobody has found in the bucket
/// since rclone last said something about them.
pub(super) fn mend(cache_dir: &Path, bucket: &str, unproven: &BTreeSet<String>) -> io::Result<Mended> {
    let files = cache_dir.join("vfs").join(REMOTE).join(bucket);
    let metas = cache_dir.join("vfsMeta").join(REMOTE).join(bucket);
    let mut mended = Mended::default();
    let moved = moved(&files, &metas)?;
    let mut broken = Vec::new();
    walk(&files, &mut |file, name| {
        let described = read_meta(&metas.join(&name))?;
        if let Some(meta) = described.as_ref().filter(|meta| meta.dirty)
            && correct(cache_dir, &metas.join(&name), meta, fs::symlink_metadata(file)?.len())?
        {
            mended.requeued.push(name);
            return Ok(());
        }
        if described.as_ref().is_none_or(|meta| !meta.dirty) {
            let found = fs::symlink_metadata(file)?;
            if let Some(meta) = described.as_ref().filter(|meta| is_appended(meta, found.len())) {
                correct(cache_dir, &metas.join(&name), meta, found.len())?;
                mended.requeued.push(name);
            } else if let Some(old) = moved.iter().find(|old| old.is(&found)) {
                fs::create_dir_all(metas.join(&name).parent().unwrap_or(&metas))?;
                fs::rename(&old.path, metas.join(&name))?;
                mended.requeued.push(name);
            } else if match &described {
                None => found.len() > 0 || was_being_written(&metas.join(&name))?,
                Some(meta) if found.len() == 0 => unproven.contains(&name) && meta.describes(&found),
                // A partly read file of which the bucket has a new version is nobody's write.
                Some(meta) => (unproven.contains(&name) || !meta.describes(&found)) && is_complete(file, found.len())?,
            } {
                broken.push((file.to_owned(), name));
            }
        }
        Ok(())
    })?;
    for (file, name) in broken {
        let meta = fs::metadata(&file)?;
        if is_complete(&file, meta.len())? {
            describe(cache_dir, &metas.join(&name), &meta)?;
            mended.requeued.push(name);
        } else {
            let aside = cache_dir
                .join("rescued")
                .join(format!("{:016x}", fastrand::u64(..)))
                .join(&name);
            fs::create_dir_all(aside.parent().unwrap_or(cache_dir))?;
            fs::rename(&file, aside)?;
            mended.set_aside.push(name);
        }
    }
    Ok(mended)
}

/// Metadata of an unsent file that is not there under this name.
struct Moved {
    path: PathBuf,
    length: u64,
    modified: jiff::Timestamp,
}

impl Moved {
    /// Is this the file it describes? Length and modification time together name a file well enough.
    fn is(&self, file: &fs::Metadata) -> bool {
        let modified = file
            .modified()
            .ok()
            .and_then(|time| jiff::Timestamp::try_from(time).ok());
        let difference = modified.map(|time| (time.as_nanosecond() - self.modified.as_nanosecond()).unsigned_abs());
        file.len() == self.length && difference.is_some_and(|nanoseconds| nanoseconds < SAME_TIME.as_nanos())
    }
}

fn moved(files: &Path, metas: &Path) -> io::Result<Vec<Moved>> {
    let mut found = Vec::new();
    walk(metas, &mut |path, name| {
        if let Some(Meta {
            dirty: true,
            size,
            mod_time,
            ..
        }) = read_meta(path)?
            && let (Ok(length @ 1..), Ok(time)) = (u64::try_from(size), mod_time.parse::<jiff::Timestamp>())
            && matches!(fs::symlink_metadata(files.join(&name)), Err(error) if error.kind() == ErrorKind::NotFound)
        {
            found.push(Moved {
                path: path.to_owned(),
                length,
                modified: time,
            });
        }
        Ok(())
    })?;
    Ok(found)
}

/// Was something written behind what is described, of which the cache has not all? (Holes don't tell: a block of a file is there as a
/// whole.) rclone fetches the rest of the object that the description names.
fn is_appended(meta: &Meta, length: u64) -> bool {
    let described = u64::try_from(meta.size).unwrap_or(0);
    let mut here = 0;
    for range in meta.ranges.iter().flatten() {
        if range.pos <= here {
            here = here.max(range.pos + range.size);
        }
    }
    !meta.fingerprint.is_empty() && length > described && here < described
}

/// Corrects the description of an unsent file of `length` bytes. Was there anything to correct?
fn correct(cache_dir: &Path, path: &Path, meta: &Meta, length: u64) -> io::Result<bool> {
    let described = meta.ranges.clone().unwrap_or_default();
    let ranges = written_here(meta, described.clone(), length);
    if ranges == described {
        return Ok(false);
    }
    let mut whole: Value = serde_json::from_slice(&fs::read(path)?)?;
    whole["Rs"] = serde_json::to_value(ranges)?;
    whole["Size"] = length.into();
    whole["Dirty"] = true.into();
    replace(cache_dir, path, &whole)?;
    Ok(true)
}

/// The ranges of the cached file that are real. rclone keeps them sorted, and never two side by side.
fn written_here(meta: &Meta, mut ranges: Vec<Range>, length: u64) -> Vec<Range> {
    let start = if meta.fingerprint.is_empty() {
        0
    } else {
        u64::try_from(meta.size).unwrap_or(0)
    };
    if length <= start {
        return ranges;
    }
    ranges.retain(|range| range.pos < start);
    match ranges.last_mut() {
        Some(last) if last.pos + last.size >= start => last.size = length - last.pos,
        _ => ranges.push(Range {
            pos: start,
            size: length - start,
        }),
    }
    ranges
}

/// Writes metadata that says: all of this file is there, and none of it was sent.
fn describe(cache_dir: &Path, path: &Path, file: &fs::Metadata) -> io::Result<()> {
    let time = jiff::Timestamp::try_from(file.modified()?)
        .map_err(io::Error::other)?
        .to_string();
    let meta = json!({
        "ModTime": time,
        "ATime": time,
        "Size": file.len(),
        "Rs": [Range { pos: 0, size: file.len() }],
        "Fingerprint": "",
        "Dirty": true,
    });
    replace(cache_dir, path, &meta)
}

fn replace(cache_dir: &Path, path: &Path, meta: &Value) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let fresh = cache_dir.join("mending");
    fs::write(&fresh, meta.to_string())?;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write};

    use super::super::pending::{doubtful, unsent};
    use super::*;

    struct Cache(tempfile::TempDir);

    impl Cache {
        fn file(&self, name: &str) -> PathBuf {
            self.at("vfs", name)
        }

        fn meta(&self, name: &str) -> PathBuf {
            self.at("vfsMeta", name)
        }

        fn at(&self, tree: &str, name: &str) -> PathBuf {
            let path = self.0.path().join(tree).join(REMOTE).join("notes").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn mend(&self) -> Mended {
            self.mend_with(&[])
        }

        fn mend_with(&self, unproven: &[&str]) -> Mended {
            let unproven = unproven.iter().map(|name| (*name).to_owned()).collect();
            mend(self.0.path(), "notes", &unproven).unwrap()
        }

        fn unsent(&self) -> Vec<String> {
            unsent(self.0.path(), "notes")
                .unwrap()
                .into_iter()
                .map(|file| file.name)
                .collect()
        }
    }

    fn cache() -> Cache {
        Cache(tempfile::tempdir().unwrap())
    }

    #[test]
    fn a_file_with_torn_or_no_metadata_is_sent() {
        let cache = cache();
        fs::write(cache.file("sub/torn.md"), "acknowledged").unwrap();
        fs::write(cache.meta("sub/torn.md"), "").unwrap();
        fs::write(cache.file("bare.md"), "acknowledged").unwrap();
        let mut mended = cache.mend();
        mended.requeued.sort();
        assert_eq!(mended.requeued, ["bare.md", "sub/torn.md"]);
        assert_eq!(cache.unsent(), ["bare.md", "sub/torn.md"]);
        assert_eq!(cache.mend(), Mended::default(), "once is enough");
    }

    #[test]
    fn an_empty_file_is_sent_only_when_it_is_meant_to_be_one() {
        let cache = cache();
        let sent = |size: u64| {
            let time = "2026-11-23T18:13:12Z";
            json!({ "ModTime": time, "ATime": time, "Size": size, "Rs": null, "Fingerprint": size.to_string(), "Dirty": false })
        };
        for (name, meta) in [
            ("emptied.md", Some(sent(0))),
            ("about-to-be-read.md", Some(sent(7))),
            ("begun.md", None),
        ] {
            fs::write(cache.file(name), "").unwrap();
            if let Some(meta) = meta {
                fs::write(cache.meta(name), meta.to_string()).unwrap();
            }
        }
        assert_eq!(cache.mend(), Mended::default());
        let unproven = ["emptied.md", "about-to-be-read.md", "begun.md"];
        assert_eq!(cache.mend_with(&unproven).requeued, ["emptied.md"]);
        assert_eq!(cache.unsent(), ["emptied.md"]);
    }

    #[test]
    fn a_file_that_was_just_made_is_kept_when_its_description_was_being_written() {
        let cache = cache();
        fs::write(cache.file("made.md"), "").unwrap();
        fs::write(cache.meta("made.md"), "").unwrap();
        assert_eq!(cache.unsent(), ["made.md"]);
        assert_eq!(cache.mend().requeued, ["made.md"]);
        assert_eq!(cache.unsent(), ["made.md"]);
        assert_eq!(cache.mend(), Mended::default(), "once is enough");
        fs::write(cache.file("before-a-power-cut.md"), "").unwrap();
        let meta = File::create(cache.meta("before-a-power-cut.md")).unwrap();
        meta.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(cache.mend(), Mended::default(), "what it had may be lost");
    }

    #[test]
    fn what_was_appended_to_a_file_that_is_not_cached_does_not_make_the_rest_of_it_zeros() {
        let cache = cache();
        let mut file = File::create(cache.file("appended.md")).unwrap();
        file.seek(SeekFrom::Start(400)).unwrap();
        file.write_all(b"one more line\n").unwrap();
        let time = "2026-11-23T18:13:12Z";
        let meta =
            json!({ "ModTime": time, "ATime": time, "Size": 400, "Rs": null, "Fingerprint": "400,x", "Dirty": false });
        fs::write(cache.meta("appended.md"), meta.to_string()).unwrap();
        assert_eq!(cache.mend().requeued, ["appended.md"]);
        let mended: Value = serde_json::from_str(&fs::read_to_string(cache.meta("appended.md")).unwrap()).unwrap();
        assert_eq!(mended["Rs"], json!([{ "Pos": 400, "Size": 14 }]), "the rest is fetched");
        assert_eq!((&mended["Dirty"], &mended["Size"]), (&json!(true), &json!(414)));
        assert_eq!(mended["Fingerprint"], "400,x");
        assert_eq!(cache.mend(), Mended::default(), "once is enough");
    }

    #[test]
    fn whole_metadata_is_left_alone() {
        let cache = cache();
        fs::write(cache.file("clean.md"), "sent").unwrap();
        let clean = r#"{"ModTime":"2026-11-23T18:13:12Z","ATime":"2026-11-23T18:13:12Z","Size":4,"Rs":null,"Fingerprint":"4","Dirty":false}"#;
        fs::write(cache.meta("clean.md"), clean).unwrap();
        assert_eq!(cache.mend(), Mended::default());
        assert_eq!(fs::read_to_string(cache.meta("clean.md")).unwrap(), clean);
    }

    #[test]
    fn what_was_written_since_the_description_was_saved_counts_as_local() {
        let cache = cache();
        let meta = |size: u64, ranges: Value, fingerprint: &str| {
            let time = "2026-11-23T18:13:12Z";
            json!({ "ModTime": time, "ATime": time, "Size": size, "Rs": ranges, "Fingerprint": fingerprint, "Dirty": true })
        };
        let range = |pos: u64, size: u64| json!({ "Pos": pos, "Size": size });
        let all = json!([range(0, 12)]);
        let cases = [
            ("overwritten.md", meta(0, Value::Null, "26,x"), all.clone()),
            ("appended.md", meta(5, json!([range(0, 5)]), "26,x"), all.clone()),
            (
                "partly.md",
                meta(5, json!([range(1, 2)]), "26,x"),
                json!([range(1, 2), range(5, 7)]),
            ),
            ("new.md", meta(12, json!([range(0, 3), range(9, 3)]), ""), all),
        ];
        for (name, text, _) in &cases {
            fs::write(cache.file(name), "acknowledged").unwrap();
            fs::write(cache.meta(name), text.to_string()).unwrap();
        }
        assert_eq!(cache.mend().requeued.len(), cases.len());
        for (name, before, wanted) in &cases {
            let found: Value = serde_json::from_slice(&fs::read(cache.meta(name)).unwrap()).unwrap();
            let after = (&found["Rs"], &found["Size"], &found["Fingerprint"]);
            assert_eq!(after, (wanted, &json!(12), &before["Fingerprint"]), "{name}");
        }
        assert_eq!(cache.mend(), Mended::default(), "once is enough");
    }

    #[test]
    fn a_half_done_rename_over_a_sent_file_is_finished() {
        let cache = cache();
        fs::write(cache.file("note.md"), "sent").unwrap();
        describe(
            cache.0.path(),
            &cache.meta("note.md"),
            &fs::metadata(cache.file("note.md")).unwrap(),
        )
        .unwrap();
        let sent = fs::read_to_string(cache.meta("note.md"))
            .unwrap()
            .replace("true", "false");
        fs::write(cache.meta("note.md"), sent).unwrap();
        fs::write(cache.file("note.tmp"), "newer content").unwrap();
        describe(
            cache.0.path(),
            &cache.meta("note.tmp"),
            &fs::metadata(cache.file("note.tmp")).unwrap(),
        )
        .unwrap();
        fs::rename(cache.file("note.tmp"), cache.file("note.md")).unwrap();
        assert_eq!(cache.mend().requeued, ["note.md"]);
        assert_eq!(cache.unsent(), ["note.md"]);
        assert!(!cache.meta("note.tmp").exists());
    }

    #[test]
    fn a_file_renamed_over_one_that_was_being_sent_is_sent() {
        let cache = cache();
        let sent = r#"{"ModTime":"2026-11-23T18:13:12Z","ATime":"2026-11-23T18:13:12Z","Size":4,"Rs":[{"Pos":0,"Size":4}],"Fingerprint":"4","Dirty":false}"#;
        fs::write(cache.meta("note.md"), sent).unwrap();
        fs::write(cache.file("note.md"), "renamed over it").unwrap();
        fs::write(cache.meta("partly.bin"), sent).unwrap();
        File::create(cache.file("partly.bin"))
            .unwrap()
            .set_len(1 << 20)
            .unwrap();
        assert_eq!(
            doubtful(cache.0.path(), "notes").unwrap(),
            ["note.md", "partly.bin"],
            "the verdict names one too many rather than none"
        );
        assert_eq!(cache.mend().requeued, ["note.md"]);
        assert!(cache.file("partly.bin").exists());
    }

    #[test]
    fn a_file_of_the_same_length_is_sent_when_nobody_has_seen_it_in_the_bucket() {
        let cache = cache();
        let sent = r#"{"ModTime":"2026-11-23T18:13:12Z","ATime":"2026-11-23T18:13:12Z","Size":4,"Rs":[{"Pos":0,"Size":4}],"Fingerprint":"4","Dirty":false}"#;
        for name in ["note.md", "other.md"] {
            fs::write(cache.meta(name), sent).unwrap();
            fs::write(cache.file(name), "news").unwrap();
        }
        assert_eq!(cache.mend_with(&["note.md", "gone.md"]).requeued, ["note.md"]);
        assert_eq!(cache.unsent(), ["note.md"]);
    }

    #[test]
    fn a_file_with_holes_is_set_aside_and_an_empty_one_left() {
        let cache = cache();
        let mut partly = File::create(cache.file("partly.bin")).unwrap();
        partly.seek(SeekFrom::Start(1 << 20)).unwrap();
        partly.write_all(b"the end").unwrap();
        fs::write(cache.file("empty.md"), "").unwrap();
        let mended = cache.mend();
        assert_eq!(
            (mended.requeued.len(), mended.set_aside),
            (0, vec!["partly.bin".to_owned()])
        );
        assert!(!cache.file("partly.bin").exists() && cache.file("empty.md").exists());
        assert_eq!(fs::read_dir(cache.0.path().join("rescued")).unwrap().count(), 1);
    }
}
