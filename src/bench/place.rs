//! Where is measured: which mount, which local disk, is there room, and the folder of our own on each.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::halt::Halt;
use super::measure::Plan;
use super::sides::{Folders, side_by_side};
use super::stop::Stop;
use crate::config::Config;
use crate::exit::Exit;
use crate::mount::mountinfo::{self, Entry, Kind};
use crate::mount::{Prober, probe};

/// A mount that works answers in a millisecond.
const ANSWER: Duration = Duration::from_secs(5);

/// Files that are removed at the same time: through a mount each of them is a request to the bucket.
const REMOVERS: usize = 8;

/// The two places of a run. Nothing is made there yet.
#[derive(Debug)]
pub(super) struct Place {
    /// The mount.
    pub(super) mount: PathBuf,
    /// Its line in the mount table.
    pub(super) entry: Entry,
    /// Is it the mount of the tenant that the configuration is for?
    pub(super) own: bool,
    /// Type of the local disk's file system.
    pub(super) local_type: String,
    /// Our folder on both sides. Its name is nobody else's.
    pub(super) folders: Folders,
    /// That name, which is also the prefix of its objects in the bucket.
    pub(super) name: String,
}

/// A name that nothing else has. basic-memory ignores what begins with a dot.
pub(super) fn fresh_name() -> String {
    let random = fastrand::u32(..);
    format!(".tenant-init-bench-{}-{random:08x}", std::process::id())
}

/// Finds both places and refuses what cannot be measured.
pub(super) fn find(
    mount: Option<&Path>,
    local: Option<&Path>,
    config: &Config,
    plan: &Plan,
    name: String,
    stop: &Stop,
) -> Result<Place, Halt> {
    let (mount, entry, own) = find_mount(mount, config)?;
    let look = async { Prober::this_program().run(probe::Kind::Look, &mount, ANSWER).await };
    if let Err(error) = stop.wait(Box::pin(look))? {
        let words = format!("the mount {} does not work: {error}", mount.display());
        return Err(Halt::refused(Exit::Unavailable, words));
    }
    let device = fs::metadata(&mount)
        .map_err(|error| Halt::file(format!("cannot look at {}", mount.display()), error))?
        .dev();
    let local = match local {
        Some(local) => given_local(local, &mount, device)?,
        None => found_local(config, &mount, device),
    };
    enough_room(&local, "--local names another place", plan.room(), plan)?;
    if own {
        let room = plan.room().saturating_add(config.mount.cache_min_free_bytes);
        enough_room(
            &config.mount.cache_dir,
            "it holds the mount's cache; fewer --samples need less",
            room,
            plan,
        )?;
    }
    let local_type = file_system(&local);
    let folders = Folders {
        mount: mount.clone(),
        local,
    };
    Ok(Place {
        local_type,
        folders: folders.join(&name),
        mount,
        entry,
        own,
        name,
    })
}

fn find_mount(given: Option<&Path>, config: &Config) -> Result<(PathBuf, Entry, bool), Halt> {
    let table = |path: &Path| -> io::Result<(PathBuf, Option<Entry>)> {
        let path = mountinfo::resolve(path)?;
        let entry = mountinfo::at(&path)?.pop();
        Ok((path, entry))
    };
    let configured = &config.mount.path;
    let Some(given) = given else {
        let words = |what: &str| {
            format!(
                "{} {what}: is the tenant running on this machine? `tenant-init status` asks it, --mount names another mount",
                configured.display()
            )
        };
        return match table(configured) {
            Ok((path, Some(entry))) if entry.kind() == Kind::Tenant => Ok((path, entry, true)),
            Ok((_, Some(entry))) if entry.kind() == Kind::Barrier => {
                Err(Halt::refused(Exit::Unavailable, words("has no tenant mounted on it")))
            }
            Ok((_, Some(_))) => Err(Halt::refused(Exit::Unavailable, words("is a mount of something else"))),
            Ok((_, None)) => Err(Halt::refused(Exit::Unavailable, words("is not a mount"))),
            Err(error) => Err(Halt::refused(Exit::Unavailable, words(&error.to_string()))),
        };
    };
    match table(given) {
        Ok((path, Some(entry))) => {
            let own = mountinfo::resolve(configured).is_ok_and(|own| own == path) && entry.kind() == Kind::Tenant;
            Ok((path, entry, own))
        }
        Ok((path, None)) => {
            let words = format!("--mount {}: not a mount, there is nothing to compare", path.display());
            Err(Halt::refused(Exit::Usage, words))
        }
        Err(error) => Err(Halt::refused(
            Exit::Usage,
            format!("--mount {}: {error}", given.display()),
        )),
    }
}

fn given_local(given: &Path, mount: &Path, device: u64) -> Result<PathBuf, Halt> {
    let refuse = |what: String| Halt::refused(Exit::Usage, format!("--local {}: {what}", given.display()));
    let local = fs::canonicalize(given).map_err(|error| refuse(error.to_string()))?;
    let facts = fs::metadata(&local).map_err(|error| refuse(error.to_string()))?;
    if !facts.is_dir() {
        return Err(refuse("not a directory".into()));
    }
    if local.starts_with(mount) || facts.dev() == device {
        return Err(refuse("lies on the mount that is to be compared with it".into()));
    }
    Ok(local)
}

/// The disk on which the app would keep its files without us.
fn found_local(config: &Config, mount: &Path, device: u64) -> PathBuf {
    [&config.app.config_dir, &config.mount.cache_dir]
        .into_iter()
        .filter_map(|path| fs::canonicalize(path).ok())
        .find(|path| !path.starts_with(mount) && fs::metadata(path).is_ok_and(|facts| facts.dev() != device))
        .unwrap_or_else(std::env::temp_dir)
}

fn enough_room(path: &Path, advice: &str, bytes: u64, plan: &Plan) -> Result<(), Halt> {
    let disk = statvfs(path)
        .map_err(|errno| Halt::file(format!("cannot look at the disk of {}", path.display()), errno.into()))?;
    let available = disk.blocks_available() * disk.fragment_size();
    if available < bytes {
        let words = format!(
            "not enough room on the disk of {}: {} MB are free, {} MB are needed; {advice}",
            path.display(),
            available / 1_000_000,
            bytes.div_ceil(1_000_000)
        );
        return Err(Halt::refused(Exit::Machine, words));
    }
    // A file system that does not count its inodes says 0.
    if disk.files() > 0 && disk.files_available() < plan.most_files() as u64 * 2 {
        let words = format!(
            "not enough inodes on the disk of {}: {} are free; {advice}",
            path.display(),
            disk.files_available()
        );
        return Err(Halt::refused(Exit::Machine, words));
    }
    Ok(())
}

/// Type of the file system a path is on: that of the longest mountpoint above it, the topmost if there are several.
fn file_system(path: &Path) -> String {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    mountinfo::parse(&table)
        .into_iter()
        .filter(|entry| path.starts_with(&entry.mountpoint))
        .max_by_key(|entry| entry.mountpoint.components().count())
        .map_or_else(|| "unknown".to_owned(), |entry| entry.fstype)
}

/// Removes a folder with everything in it. One that is not there is fine.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    let mut next = 0;
    while let Some(current) = folders.get(next).cloned() {
        next += 1;
        let entries = match fs::read_dir(&current) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && current == folder => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    let gone = |done: io::Result<()>| match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    };
    side_by_side(REMOVERS, &|first| {
        files
            .iter()
            .skip(first)
            .step_by(REMOVERS)
            .try_for_each(|file| gone(fs::remove_file(file)))
            .map(|()| Vec::new())
    })?;
    folders.iter().rev().try_for_each(|folder| gone(fs::remove_dir(folder)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_takes_everything_below_and_nothing_beside() {
        let root = tempfile::tempdir().unwrap();
        let ours = root.path().join("ours");
        for folder in ["a/b/c", "d"] {
            fs::create_dir_all(ours.join(folder)).unwrap();
            for number in 0..20 {
                fs::write(ours.join(folder).join(format!("{number}.md")), "x").unwrap();
            }
        }
        fs::write(root.path().join("theirs.md"), "x").unwrap();
        std::os::unix::fs::symlink(root.path(), ours.join("link")).unwrap();
        remove(&ours).unwrap();
        remove(&ours).unwrap();
        let left: Vec<_> = fs::read_dir(root.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["theirs.md"]);
    }

    #[test]
    fn names_differ_and_are_hidden() {
        assert_ne!(fresh_name(), fresh_name());
        assert!(fresh_name().starts_with('.'));
    }

    #[test]
    fn the_file_system_of_a_path_is_that_of_the_nearest_mount() {
        assert_eq!(file_system(Path::new("/proc/self/status")), "proc");
    }
}
