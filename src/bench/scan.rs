//! Walking over a tree as basic-memory's start-up scan does: every folder listed, every file's size and time asked for.
//!
//! Cold means that neither the kernel nor rclone has heard of a name: the objects are put into the bucket past the mount,
//! below a folder that the mount knows and has never listed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{text, write};
use super::halt::Halt;
use super::measure::{Measure, SCAN_FILES, SCAN_FOLDERS};
use super::sides::{Folders, Runner, Samples, Side, timed};

/// Bytes of a scanned note.
const SIZE: usize = 300;

/// Names of the files relative to the root of the tree.
pub(super) fn names() -> impl Iterator<Item = String> {
    (0..SCAN_FOLDERS).flat_map(|folder| (0..SCAN_FILES).map(move |file| format!("folder-{folder}/note-{file}.md")))
}

/// The content of every one of them.
pub(super) fn content() -> Vec<u8> {
    text(0, SIZE)
}

/// Writes the tree below `root`, which must not exist.
pub(super) fn plant(runner: &Runner, root: &Path) -> Result<(), Halt> {
    let failed = |error| Halt::file(format!("cannot write {}", root.display()), error);
    fs::create_dir(root).map_err(failed)?;
    for folder in 0..SCAN_FOLDERS {
        runner.stop.check()?;
        runner.progress.tick(folder, SCAN_FOLDERS);
        fs::create_dir(root.join(format!("folder-{folder}"))).map_err(failed)?;
    }
    for name in names() {
        runner.stop.check()?;
        write(&root.join(name), &content()).map_err(failed)?;
    }
    Ok(())
}

/// One walk of the mount's tree and one of the local one.
pub(super) fn cold(runner: &Runner, trees: &Folders, number: usize, samples: &mut Samples) -> Result<(), Halt> {
    for side in Side::order(number) {
        runner.stop.check()?;
        let took = whole(trees.at(side))
            .map_err(|error| Halt::file(format!("{} {}", Measure::ScanCold.what(), side.name()), error))?;
        samples.push(side, took);
    }
    Ok(())
}

/// The same trees again.
pub(super) fn warm(runner: &Runner, trees: &Folders, samples: usize) -> Result<Samples, Halt> {
    runner.compare(Measure::ScanWarm.what(), samples, &mut |side, _| whole(trees.at(side)))
}

/// A walk that must find everything.
fn whole(root: &Path) -> io::Result<Duration> {
    let (took, (files, bytes)) = timed(|| walk(root))?;
    let expected = (SCAN_FOLDERS * SCAN_FILES, (SCAN_FOLDERS * SCAN_FILES * SIZE) as u64);
    if (files, bytes) == expected {
        return Ok(took);
    }
    let words = format!(
        "found {files} files of {bytes} bytes instead of {} of {}",
        expected.0, expected.1
    );
    Err(io::Error::new(io::ErrorKind::InvalidData, words))
}

/// Files and bytes below `root`.
fn walk(root: &Path) -> io::Result<(usize, u64)> {
    let (mut files, mut bytes) = (0, 0);
    let mut folders: Vec<PathBuf> = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let facts = entry.metadata()?;
            if facts.is_dir() {
                folders.push(entry.path());
            } else {
                files += 1;
                bytes += facts.len();
            }
        }
    }
    Ok((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_with_a_missing_file_is_not_measured() {
        let root = tempfile::tempdir().unwrap();
        for name in names() {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write(&path, &content()).unwrap();
        }
        whole(root.path()).unwrap();
        fs::remove_file(root.path().join("folder-3/note-7.md")).unwrap();
        assert!(whole(root.path()).unwrap_err().to_string().contains("found 1459 files"));
    }
}
