//! A change made elsewhere, until an app that watches the folder gets an event: an object is put, replaced or deleted past
//! the mount, and inotify on the mount is listened to.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::far::Far;
use super::halt::Halt;
use super::measure::Measure;
use super::sides::Runner;

/// No event within this time counts as none: the target is 1 to 2 s.
const BOUND: Duration = Duration::from_secs(10);
/// The same for a tenant that says it does not watch its bucket.
const BOUND_UNWATCHED: Duration = Duration::from_secs(3);

const WATCHED: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_ATTRIB)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(GONE);
const GONE: AddWatchFlags = AddWatchFlags::IN_DELETE.union(AddWatchFlags::IN_MOVED_FROM);

/// A folder that is listened to.
struct Ears {
    queue: AsyncFd<Queue>,
}

struct Queue(Inotify);

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Ears {
    fn on(folder: &Path) -> io::Result<Ears> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(folder, WATCHED)?;
        // What replaces `new` is unsafe, which only src/init may be. Sound here: `Queue` owns its descriptor.
        #[allow(deprecated)]
        let queue = AsyncFd::new(Queue(inotify))?;
        Ok(Ears { queue })
    }

    /// Waits for an event about `name`.
    async fn hear(&self, name: &str, kinds: AddWatchFlags) -> io::Result<()> {
        loop {
            let mut ready = self.queue.readable().await?;
            match ready.try_io(|queue| queue.get_ref().0.read_events().map_err(io::Error::from)) {
                Ok(events) => {
                    let wanted = Some(OsString::from(name));
                    if events?
                        .iter()
                        .any(|event| event.mask.intersects(kinds) && event.name == wanted)
                    {
                        return Ok(());
                    }
                }
                Err(_would_block) => {}
            }
        }
    }
}

/// `count` files are created, changed and deleted in the bucket below `folder` of ours. `watched`: the tenant says that it
/// watches its bucket. `report` gets every time; the result names the measures that got none, with the reason.
pub(super) async fn listen(
    runner: &Runner,
    far: &Far,
    folder: &Path,
    count: usize,
    watched: bool,
    report: &mut (dyn FnMut(Measure, Duration) + Send),
) -> Result<Vec<(Measure, String)>, Halt> {
    let ears = Ears::on(folder).map_err(|error| Halt::file("cannot watch a folder of the mount", error))?;
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
            let changed = async {
                match measure {
                    Measure::EventCreate => far.put(&object, b"created elsewhere\n".to_vec()).await,
                    Measure::EventChange => far.put(&object, b"changed elsewhere, later\n".to_vec()).await,
                    _ => far.delete(&object).await,
                }
            };
            if let Err(error) = runner.stop.or(changed).await? {
                silent.push((measure, error.to_string()));
                return Ok(silent);
            }
            match runner.stop.or(timeout(bound, ears.hear(&name, kinds))).await? {
                Ok(Ok(())) => report(measure, begin.elapsed()),
                Ok(Err(error)) => return Err(Halt::file("cannot read events of the mount", error)),
                Err(_elapsed) => {
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
            // The rest of this change's events, so that the next one is not taken for heard.
            while let Ok(heard) = timeout(Duration::from_millis(300), ears.hear(&name, WATCHED)).await {
                heard.map_err(|error| Halt::file("cannot read events of the mount", error))?;
            }
        }
    }
    Ok(silent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_event_about_another_file_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let ears = Ears::on(folder.path()).unwrap();
        std::fs::write(folder.path().join("other.md"), "x").unwrap();
        let short = Duration::from_millis(50);
        assert!(timeout(short, ears.hear("ours.md", WATCHED)).await.is_err());
        std::fs::write(folder.path().join("ours.md"), "x").unwrap();
        timeout(BOUND, ears.hear("ours.md", WATCHED)).await.unwrap().unwrap();
        assert!(timeout(short, ears.hear("ours.md", GONE)).await.is_err());
        std::fs::remove_file(folder.path().join("ours.md")).unwrap();
        timeout(BOUND, ears.hear("ours.md", GONE)).await.unwrap().unwrap();
    }
}
