//! A change made elsewhere, until an app that watches the folder gets an event: an object is put, replaced or deleted past
//! the mount, and inotify on the mount is listened to.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::far::Far;
use super::halt::Halt;
use super::measure::Measure;
use super::sides::Runner;
use super::stop::Stop;

/// No event within this time counts as none: the target is 1 to 2 s.
const BOUND: Duration = Duration::from_secs(10);
/// The same for a tenant that says it does not watch its bucket.
const BOUND_UNWATCHED: Duration = Duration::from_secs(3);
/// One change can be several events; they come within this time.
const REST: Duration = Duration::from_millis(300);
/// How long a wish to stop may go unheard, in milliseconds.
const LOOK: u16 = 100;

const WATCHED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(GONE);
const GONE: AddWatchFlags = AddWatchFlags::IN_DELETE.union(AddWatchFlags::IN_MOVED_FROM);

/// A folder that is listened to.
struct Ears(Inotify);

impl Ears {
    fn on(folder: &Path) -> Result<Ears, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, WATCHED)?;
        Ok(Ears(inotify))
    }

    /// Waits for an event of these kinds about `name`: was there one within `bound`?
    fn hear(&self, stop: &Stop, name: &str, kinds: AddWatchFlags, bound: Duration) -> Result<bool, Halt> {
        let failed = |errno: Errno| Halt::file("cannot read events of the mount", errno.into());
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            stop.check()?;
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, PollTimeout::from(LOOK)) {
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let events = match self.0.read_events() {
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                events => events.map_err(failed)?,
            };
            let ours = |name: &OsStr, found: Option<&OsStr>| found == Some(name);
            if events
                .iter()
                .any(|event| event.mask.intersects(kinds) && ours(name.as_ref(), event.name.as_deref()))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// `count` files are created, changed and deleted in the bucket below `folder` of ours. `watched`: the tenant says that it
/// watches its bucket. `report` gets every time; the result names the measures that got none, with the reason.
pub(super) fn listen(
    runner: &Runner,
    far: &Far,
    folder: &Path,
    count: usize,
    watched: bool,
    report: &mut dyn FnMut(Measure, Duration),
) -> Result<Vec<(Measure, String)>, Halt> {
    let ears = Ears::on(folder).map_err(|errno| Halt::file("cannot watch a folder of the mount", errno.into()))?;
    let bound = if watched { BOUND } else { BOUND_UNWATCHED };
    let mut silent: Vec<(Measure, String)> = Vec::new();
    for number in 0..count {
        let name = format!("elsewhere-{number}.md");
        let object = format!("events/{name}");
        for (measure, kinds) in [
            (Measure::EventCreate, WATCHED.difference(GONE)),
            (Measure::EventChange, WATCHED.difference(GONE)),
            (Measure::EventDelete, GONE),
        ] {
            if silent.iter().any(|(known, _)| *known == measure) {
                continue;
            }
            runner.progress.step(measure.what());
            let begin = Instant::now();
            let change = match measure {
                Measure::EventCreate => far.put(&object, b"created elsewhere\n".to_vec()),
                Measure::EventChange => far.put(&object, b"changed elsewhere, later\n".to_vec()),
                _ => far.delete(&object),
            };
            if let Err(error) = runner.stop.wait(change)? {
                silent.push((measure, error.to_string()));
                return Ok(silent);
            }
            if ears.hear(&runner.stop, &name, kinds, bound)? {
                report(measure, begin.elapsed());
                // The rest of this change's events, so that the next one is not taken for heard.
                while ears.hear(&runner.stop, &name, WATCHED, REST)? {}
                continue;
            }
            let why = if watched {
                ""
            } else {
                ": the tenant does not watch its bucket"
            };
            let words = format!(
                "no event came within {} s of the change in the bucket{why}",
                bound.as_secs()
            );
            silent.push((measure, words.clone()));
            // A file that nobody heard of cannot be heard changing.
            if measure == Measure::EventCreate {
                silent.extend([(Measure::EventChange, words.clone()), (Measure::EventDelete, words)]);
                return Ok(silent);
            }
        }
    }
    Ok(silent)
}

#[cfg(test)]
mod tests {
    use super::super::stop;
    use super::*;

    #[tokio::test]
    async fn an_event_about_another_file_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let stop = stop::listen("none".into()).unwrap();
        let ears = Ears::on(folder.path()).unwrap();
        let hear = |kinds, bound| ears.hear(&stop, "ours.md", kinds, bound).unwrap();
        std::fs::write(folder.path().join("other.md"), "x").unwrap();
        assert!(!hear(WATCHED, REST));
        std::fs::write(folder.path().join("ours.md"), "x").unwrap();
        assert!(hear(WATCHED, BOUND));
        assert!(!hear(GONE, REST));
        std::fs::remove_file(folder.path().join("ours.md")).unwrap();
        assert!(hear(GONE, BOUND));
    }
}
