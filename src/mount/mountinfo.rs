//! /proc/self/mountinfo: what is mounted where, without touching any path.
//!
//! This is the only safe way to ask: a `stat` of a mount whose server is gone never returns. Format: proc_pid_mountinfo(5).
//! Several lines can name one mountpoint; the kernel lists them in the order they were stacked, the last one is on top.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// Source of the read-only file system that keeps a mountpoint unwritable (see `barrier`).
pub const BARRIER_SOURCE: &str = "tenant-init";

/// Name of the remote in rclone's configuration. Constant, because rclone names the cache directory after it: any other
/// name after a restart would orphan the writes in there.
pub const REMOTE: &str = "tenant";

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// Type, with subtype: `nfs`, `fuse.rclone`, …
    pub fstype: String,
    /// Device, server or name.
    pub source: String,
    /// Options of this mount: `ro,nosuid,…`
    pub options: String,
    /// Per-file-system options.
    pub super_options: String,
}

/// What a mount on our path is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Served by an rclone of ours (this life's or an earlier one's).
    Tenant,
    /// The read-only file system under it.
    Barrier,
    /// Somebody else's.
    Foreign,
}

impl Entry {
    /// Whose mount it is. NFS from this very machine is ours: nothing else mounts a loopback export on a tenant's path.
    #[must_use]
    pub fn kind(&self) -> Kind {
        let loopback = |option: &str| option == "addr=127.0.0.1" || option == "addr=::1";
        match self.fstype.as_str() {
            "tmpfs" if self.source == BARRIER_SOURCE => Kind::Barrier,
            "fuse.rclone" if self.source.starts_with(&format!("{REMOTE}:")) => Kind::Tenant,
            "nfs" | "nfs4" if self.super_options.split(',').any(loopback) => Kind::Tenant,
            _ => Kind::Foreign,
        }
    }
}

/// Reads the mount table and keeps what is mounted exactly on `path`, bottom first.
///
/// # Errors
/// When /proc is not mounted.
pub fn at(path: &Path) -> io::Result<Vec<Entry>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse(&text)
        .into_iter()
        .filter(|entry| entry.mountpoint == path)
        .collect())
}

/// Parses a mount table. Lines that do not have the documented shape are skipped.
#[must_use]
pub fn parse(text: &[u8]) -> Vec<Entry> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Entry> {
    // 36 35 98:0 /root /mnt rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    // Any number of optional fields stands before the separator, so the tail is found from it.
    let fields: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let mountpoint = fields.get(4)?;
    let separator = 6 + fields.get(6..)?.iter().position(|field| *field == b"-")?;
    let text = |index: usize| {
        fields
            .get(index)
            .map(|field| String::from_utf8_lossy(&unescape(field)).into_owned())
    };
    Some(Entry {
        mountpoint: PathBuf::from(OsString::from_vec(unescape(mountpoint))),
        options: text(5).unwrap_or_default(),
        fstype: text(separator + 1)?,
        source: text(separator + 2)?,
        super_options: text(separator + 3).unwrap_or_default(),
    })
}

/// Undoes the kernel's `\ooo` for space, tab, newline, backslash and (in sources) `#`.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = |byte: u8| (b'0'..=b'7').contains(&byte).then(|| u32::from(byte - b'0'));
        if first == b'\\'
            && let [a, b, c, ..] = *tail
            && let (Some(a), Some(b), Some(c)) = (octal(a), octal(b), octal(c))
            && let Ok(byte) = u8::try_from(a * 64 + b * 8 + c)
        {
            bytes.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    bytes
}

/// Makes `path` comparable with the mount table: absolute, symbolic links resolved, but without looking through the last
/// component when something is mounted on it (that lookup can hang).
///
/// # Errors
/// When a parent directory does not exist or is not accessible.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut current = std::path::absolute(path)?;
    for _ in 0..8 {
        let (Some(parent), Some(name)) = (current.parent(), current.file_name()) else {
            return Ok(current);
        };
        let candidate = parent.canonicalize()?.join(name);
        if !at(&candidate)?.is_empty() {
            return Ok(candidate);
        }
        match std::fs::read_link(&candidate) {
            Ok(target) => current = candidate.parent().unwrap_or(Path::new("/")).join(target),
            Err(_) => return Ok(candidate),
        }
    }
    Err(io::Error::other(format!(
        "too many symbolic links at {}",
        path.as_os_str().as_bytes().escape_ascii()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:26 / /data ro,nosuid - tmpfs tenant-init ro,size=4k,mode=555
31 30 0:41 / /data rw,nosuid,nodev,noatime shared:7 master:2 - nfs localhost:/ rw,vers=3,port=4021,addr=127.0.0.1
32 22 0:42 / /mnt/a\\040b\\011c\\134d rw - fuse.rclone tenant:bucket rw,user_id=0
33 22 0:43 / /other rw - fuse.rclone mine:bucket rw
34 22 0:44 / /net rw - nfs server:/export rw,vers=3,addr=10.0.0.1
short line
35 22 0:45 / /odd\\9z rw - tmpfs none rw
";

    #[test]
    fn stacked_mounts_come_bottom_first() {
        let table: Vec<Entry> = parse(TABLE)
            .into_iter()
            .filter(|entry| entry.mountpoint == Path::new("/data"))
            .collect();
        assert_eq!(
            table.iter().map(Entry::kind).collect::<Vec<_>>(),
            [Kind::Barrier, Kind::Tenant]
        );
        assert_eq!(table[1].source, "localhost:/");
    }

    #[test]
    fn escapes_are_undone_and_bad_ones_left_alone() {
        let points: Vec<PathBuf> = parse(TABLE).into_iter().map(|entry| entry.mountpoint).collect();
        assert!(points.contains(&PathBuf::from("/mnt/a b\tc\\d")));
        assert!(points.contains(&PathBuf::from("/odd\\9z")));
        assert_eq!(points.len(), 7);
    }

    #[test]
    fn only_our_remote_and_the_loopback_are_ours() {
        let kind = |mountpoint: &str| {
            parse(TABLE)
                .iter()
                .find(|entry| entry.mountpoint == Path::new(mountpoint))
                .map(Entry::kind)
        };
        assert_eq!(kind("/mnt/a b\tc\\d"), Some(Kind::Tenant));
        assert_eq!(kind("/other"), Some(Kind::Foreign));
        assert_eq!(kind("/net"), Some(Kind::Foreign));
        assert_eq!(kind("/"), Some(Kind::Foreign));
    }

    #[test]
    fn a_path_is_resolved_through_links_of_its_parents_and_itself() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink("real", base.join("link")).unwrap();
        assert_eq!(resolve(&base.join("link")).unwrap(), base.join("real"));
        assert_eq!(resolve(&base.join("link/new")).unwrap(), base.join("real/new"));
        assert!(resolve(&base.join("absent/new")).is_err());
    }
}
