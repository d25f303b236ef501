//! Single file operations, as an app makes them: open, one system call's worth of data, close. No fsync: basic-memory makes
//! none.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::halt::Halt;
use super::measure::{LISTED, Measure};
use super::sides::{Folders, Runner, Samples, Side, time, timed};

/// A note of ordinary size.
pub(super) const NOTE: usize = 2000;
const LINE: &[u8] = b"- one more observation, appended #bench\n";

/// What the measures of stored files need; each sample has a file of its own in each family, so that it finds a stored one.
const FAMILIES: [&str; 4] = ["replace", "append", "rename", "delete"];

/// The text of note `number`.
pub(super) fn text(number: usize, bytes: usize) -> Vec<u8> {
    let mut text = format!("# Note {number}\n").into_bytes();
    while text.len() < bytes {
        text.extend_from_slice(b"A line of a note that was written to measure how long that takes.\n");
    }
    text.truncate(bytes);
    text
}

/// Opens, writes and closes, as `open(path, "w")` of any language does.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    File::create(path)?.write_all(content)
}

/// Reads the whole file; an empty or short one is an error, because then something else was measured.
pub(super) fn read(path: &Path, expected: usize) -> io::Result<()> {
    let mut content = Vec::with_capacity(expected + 1);
    File::open(path)?.read_to_end(&mut content)?;
    if content.len() == expected {
        return Ok(());
    }
    let words = format!("{} has {} bytes instead of {expected}", path.display(), content.len());
    Err(io::Error::new(io::ErrorKind::InvalidData, words))
}

/// How many names are in a folder.
pub(super) fn count(folder: &Path) -> io::Result<usize> {
    fs::read_dir(folder)?.try_fold(0, |sum, entry| entry.map(|_| sum + 1))
}

/// Takes the file out of the kernel's memory. The next read goes to the disk, or to rclone's cache.
pub(super) fn forget(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // Pages that are not written back yet cannot be dropped.
    file.sync_all()?;
    Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}

fn note(folder: &Folders, side: Side, family: &str, number: usize) -> PathBuf {
    folder.at(side).join(format!("{family}-{number}.md"))
}

/// Writes everything; the first family is the measure `create`. How many files there are then is [`kept`].
pub(super) fn create(runner: &Runner, folder: &Folders, samples: usize) -> Result<Samples, Halt> {
    folder.make()?;
    let listed = folder.join("list");
    listed.make()?;
    let content = text(0, NOTE);
    let created = runner.compare(Measure::Create.what(), samples, &mut |side, number| {
        time(|| write(&note(folder, side, "read", number), &content))
    })?;
    for family in FAMILIES {
        runner.compare("writing notes", samples, &mut |side, number| {
            time(|| write(&note(folder, side, family, number), &content))
        })?;
    }
    runner.compare("writing notes", LISTED, &mut |side, number| {
        time(|| write(&note(&listed, side, "listed", number), &content))
    })?;
    Ok(created)
}

/// Files that [`create`] leaves.
pub(super) fn kept(samples: usize) -> usize {
    (FAMILIES.len() + 1) * samples + LISTED
}

/// What is measured on files that are stored by now.
pub(super) fn operations(
    runner: &Runner,
    folder: &Folders,
    samples: usize,
    report: &mut dyn FnMut(Measure, Samples),
) -> Result<(), Halt> {
    let content = text(1, NOTE);
    let path = |side, family, number| note(folder, side, family, number);
    let listed = folder.join("list");
    let mut measure = |measure: Measure, operation: &mut dyn FnMut(Side, usize) -> io::Result<Duration>| {
        let done = runner.compare(measure.what(), samples, operation)?;
        report(measure, done);
        Ok::<_, Halt>(())
    };

    measure(Measure::FirstRead, &mut |side, number| {
        let path = path(side, "read", number);
        forget(&path)?;
        time(|| read(&path, NOTE))
    })?;
    measure(Measure::Reread, &mut |side, number| {
        time(|| read(&path(side, "read", number), NOTE))
    })?;
    measure(Measure::Stat, &mut |side, number| {
        time(|| fs::metadata(path(side, "read", number)).map(drop))
    })?;
    measure(Measure::List, &mut |side, _| {
        let (took, names) = timed(|| count(listed.at(side)))?;
        if names == LISTED {
            Ok(took)
        } else {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{names} names instead of {LISTED}"),
            ))
        }
    })?;
    measure(Measure::Rename, &mut |side, number| {
        time(|| fs::rename(path(side, "rename", number), path(side, "renamed", number)))
    })?;
    measure(Measure::Delete, &mut |side, number| {
        time(|| fs::remove_file(path(side, "delete", number)))
    })?;
    // What writes comes last: its uploads follow a second later and would be measured with the rest.
    measure(Measure::Replace, &mut |side, number| {
        let (target, fresh) = (path(side, "replace", number), path(side, "fresh", number));
        time(|| {
            write(&fresh, &content)?;
            fs::rename(&fresh, &target)
        })
    })?;
    measure(Measure::Append, &mut |side, number| {
        let path = path(side, "append", number);
        time(|| {
            let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
            file.write_all(LINE)
        })
    })?;
    measure(Measure::RenameNew, &mut |side, number| {
        write(&path(side, "new", number), &content)?;
        time(|| fs::rename(path(side, "new", number), path(side, "newer", number)))
    })?;
    measure(Measure::DeleteNew, &mut |side, number| {
        write(&path(side, "scrap", number), &content)?;
        time(|| fs::remove_file(path(side, "scrap", number)))
    })?;
    // What these appends and replaces left is the last thing to be true: a fast mount that loses it is no mount.
    for side in Side::BOTH {
        let last = samples - 1;
        let appended = read(&path(side, "append", last), NOTE + LINE.len());
        appended
            .and_then(|()| read(&path(side, "replace", last), NOTE))
            .map_err(|error| Halt::file(format!("reading back {}", side.name()), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_file_is_no_measurement() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.md");
        write(&path, &text(3, NOTE)).unwrap();
        read(&path, NOTE).unwrap();
        forget(&path).unwrap();
        assert_eq!(read(&path, NOTE + 1).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(count(folder.path()).unwrap(), 1);
    }
}
