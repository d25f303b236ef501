//! Was it the kernel's out-of-memory killer? Nobody tells: a process that it ends looks like any that got SIGKILL. But the
//! kernel counts, per memory cgroup (`oom_kill` in `memory.events` of cgroup v2, in `memory.oom_control` of v1) and for the
//! whole machine (`/proc/vmstat`). The count before and after a life says it. The machine's is used only where no cgroup's can
//! be read, as in a virtual machine that is nothing but its container.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel counts for us, chosen once.
#[derive(Debug, Clone)]
pub struct Kills {
    file: PathBuf,
}

impl Kills {
    /// The narrowest count that we are in; `None` where there is none (no /proc, no cgroup).
    #[must_use]
    pub fn find() -> Option<Kills> {
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        candidates(&groups)
            .into_iter()
            .chain([PathBuf::from("/proc/vmstat")])
            .find(|file| read(file).is_some())
            .map(|file| Kills { file })
    }

    /// Processes killed for memory so far.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        read(&self.file)
    }
}

fn read(file: &Path) -> Option<u64> {
    counted(&fs::read_to_string(file).ok()?)
}

/// The line `oom_kill N`.
fn counted(text: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    number.trim().parse().ok()
}

/// The files of our own memory cgroup, by `/proc/self/cgroup`. In a container its root is what the path says outside, so
/// both are tried.
fn candidates(groups: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in groups.lines() {
        // hierarchy-id:controllers:path, cgroups(7).
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        let below = path.trim_start_matches('/');
        if controllers.is_empty() {
            for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
                files.push(Path::new(root).join(below).join("memory.events"));
                files.push(Path::new(root).join("memory.events"));
            }
        } else if controllers.split(',').any(|controller| controller == "memory") {
            let root = Path::new("/sys/fs/cgroup/memory");
            files.push(root.join(below).join("memory.oom_control"));
            files.push(root.join("memory.oom_control"));
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_in_every_form_the_kernel_has() {
        let v2 = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n";
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
        let machine = "thp_split_pmd 0\noom_kill 7\nballoon_inflate 0\n";
        assert_eq!([v2, v1, machine].map(counted), [Some(2), Some(1), Some(7)]);
        assert_eq!(counted("oom_kill_disable 0\n"), None, "kernels before 4.13");
    }

    #[test]
    fn our_own_cgroup_comes_first() {
        let v2 = candidates("0::/tenant\n");
        assert_eq!(v2[0], Path::new("/sys/fs/cgroup/tenant/memory.events"));
        assert_eq!(v2[1], Path::new("/sys/fs/cgroup/memory.events"));
        let v1 = candidates("5:devices:/x\n4:memory:/a/b\n0::/\n");
        assert_eq!(v1[0], Path::new("/sys/fs/cgroup/memory/a/b/memory.oom_control"));
        assert!(candidates("garbage\n").is_empty());
    }

    #[test]
    fn this_machine_counts_somewhere() {
        assert!(Kills::find().and_then(|kills| kills.count()).is_some());
    }
}
