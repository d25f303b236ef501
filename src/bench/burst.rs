//! Many at once: a burst of small notes, and eight writers at the same time.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{NOTE, count, read, text, write};
use super::halt::Halt;
use super::measure::{BURST, Measure, WRITERS};
use super::sides::{Folders, Runner, Samples, Side, side_by_side};

/// Bytes of a small note.
const SMALL: usize = 500;
/// Rounds a side does before the other has its turn: long enough for eight writers to get in each other's way.
const TURN: usize = 5;

/// One burst on each side, each in a folder of its own. The instant is when the mount's began.
pub(super) fn burst(runner: &Runner, folder: &Folders, samples: &mut Samples, number: usize) -> Result<Instant, Halt> {
    folder.make()?;
    let mut began = Instant::now();
    for side in Side::order(number) {
        runner.stop.check()?;
        let start = Instant::now();
        for note in 0..BURST {
            write(&folder.at(side).join(format!("{note}.md")), &text(note, SMALL))
                .map_err(|error| Halt::file(format!("{} {}", Measure::BurstWrite.what(), side.name()), error))?;
        }
        samples.push(side, start.elapsed());
        if side == Side::Mount {
            began = start;
        }
    }
    Ok(began)
}

/// Eight threads, each in a folder of its own, each `rounds` times: create, read, append, list, replace, delete.
pub(super) fn mix(runner: &Runner, folder: &Folders, rounds: usize) -> Result<Samples, Halt> {
    folder.make()?;
    for writer in 0..WRITERS {
        folder.join(&writer.to_string()).make()?;
    }
    let mut samples = Samples::default();
    runner.progress.step(Measure::Mix.what());
    for (turn, first) in (0..rounds).step_by(TURN).enumerate() {
        let turn_rounds = TURN.min(rounds - first);
        for side in Side::order(turn) {
            runner.stop.check()?;
            runner.progress.tick(first, rounds);
            for took in writers(folder.at(side), turn_rounds)
                .map_err(|error| Halt::file(format!("{} {}", Measure::Mix.what(), side.name()), error))?
            {
                samples.push(side, took);
            }
        }
    }
    Ok(samples)
}

fn writers(folder: &Path, rounds: usize) -> io::Result<Vec<Duration>> {
    side_by_side(WRITERS, &|writer| {
        let own = folder.join(writer.to_string());
        (0..rounds).map(|_| round(&own)).collect()
    })
}

fn round(own: &Path) -> io::Result<Duration> {
    let (path, fresh) = (own.join("note.md"), own.join("fresh.md"));
    let (long, short) = (text(0, NOTE), text(1, SMALL));
    let begin = Instant::now();
    write(&path, &short)?;
    read(&path, SMALL)?;
    let mut file = fs::OpenOptions::new().append(true).open(&path)?;
    io::Write::write_all(&mut file, &long)?;
    drop(file);
    read(&path, SMALL + NOTE)?;
    count(own)?;
    write(&fresh, &long)?;
    fs::rename(&fresh, &path)?;
    read(&path, NOTE)?;
    fs::remove_file(&path)?;
    Ok(begin.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_writers_do_their_rounds_and_leave_no_file() {
        let folder = tempfile::tempdir().unwrap();
        for writer in 0..WRITERS {
            fs::create_dir(folder.path().join(writer.to_string())).unwrap();
        }
        assert_eq!(writers(folder.path(), 3).unwrap().len(), 24);
        for writer in 0..WRITERS {
            assert_eq!(count(&folder.path().join(writer.to_string())).unwrap(), 0);
        }
    }
}
