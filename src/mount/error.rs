//! What can go wrong with the mount, in words a person can act on, and the exit code each failure stands for.

use std::io;
use std::path::PathBuf;

use crate::exit::Exit;

/// Why the mount cannot be brought up (or taken down) on this machine with this configuration.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Neither driver can work here.
    #[error(
        "this machine cannot mount: {nfs}; {fuse}. Give the container CAP_SYS_ADMIN and /dev/fuse (docker run --cap-add SYS_ADMIN --device /dev/fuse --security-opt apparmor=unconfined)"
    )]
    NoDriver {
        /// Why not NFS.
        nfs: String,
        /// Why not FUSE.
        fuse: String,
    },
    /// The configuration asks for a driver this machine does not have.
    #[error("mount.driver is {driver}, but {why}. Set mount.driver = \"auto\", or give the container what is missing")]
    DriverMissing {
        /// The driver asked for.
        driver: &'static str,
        /// What is missing.
        why: String,
    },
    /// The cache directory cannot be made or written to.
    #[error(
        "cache directory {path} cannot be used: {source}. Acknowledged writes are kept there until they are uploaded; set mount.cache_dir to a writable local directory"
    )]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The runtime directory cannot be made or written to.
    #[error(
        "runtime directory {path} cannot be used: {source}. Set mount.run_dir to a writable directory, best on tmpfs"
    )]
    Run {
        /// The directory or file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path of a Unix socket has a hard limit (sun_path, unix(7)).
    #[error(
        "runtime directory {path} is too long for a Unix socket ({length} bytes, at most 107). Set mount.run_dir to a shorter path"
    )]
    RunTooLong {
        /// The socket's path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
    },
    /// The disk under the cache is full before anything was written.
    #[error(
        "the disk of the cache directory {path} has {available} bytes free, fewer than mount.cache_min_free_bytes = {wanted}: new writes would have no room. Free some space or use a larger disk"
    )]
    DiskFull {
        /// The cache directory.
        path: PathBuf,
        /// Bytes free for us, what rclone could evict included.
        available: u64,
        /// Bytes wanted.
        wanted: u64,
    },
    /// Another tenant-init or a mounter of an earlier life holds the cache directory.
    #[error(
        "cache directory {path} is in use by {holder}: two mounters on one cache lose writes. Stop the other one, or set another mount.cache_dir"
    )]
    CacheLocked {
        /// The cache directory.
        path: PathBuf,
        /// Who holds it, as far as known.
        holder: String,
    },
    /// The mountpoint cannot be used.
    #[error(
        "mountpoint {path} cannot be used: {source}. Set mount.path to a directory this process may create or mount on"
    )]
    Path {
        /// The mountpoint.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else is mounted there.
    #[error(
        "mountpoint {path} is busy: {fstype} from {source_name} is mounted there. Set another mount.path, or remove that mount"
    )]
    Busy {
        /// The mountpoint.
        path: PathBuf,
        /// Type of the file system found.
        fstype: String,
        /// Its source.
        source_name: String,
    },
    /// Files in the directory would be hidden by the mount.
    #[error(
        "mountpoint {path} is not empty (it has {entries}): the mount would hide these files and nothing would store them. Move them away or set another mount.path"
    )]
    NotEmpty {
        /// The mountpoint.
        path: PathBuf,
        /// The first names found.
        entries: String,
    },
    /// The mountpoint could not be made unwritable below the mount.
    #[error(
        "mountpoint {path} cannot be protected from writes below the mount: {source}. This needs CAP_SYS_ADMIN (or, without root, a directory of our own)"
    )]
    Barrier {
        /// The mountpoint.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A mount would not go away.
    #[error(
        "{path} cannot be unmounted: {why}. Look for its entry in /proc/self/mountinfo and unmount it by hand (umount -l)"
    )]
    Unmount {
        /// The mountpoint.
        path: PathBuf,
        /// What was tried and what happened.
        why: String,
    },
    /// A value that would break rclone's configuration file.
    #[error(
        "{name} contains a control character or surrounding space, which no S3 service hands out. Check how the value was copied"
    )]
    BadValue {
        /// Which value; never the value itself.
        name: &'static str,
    },
    /// No local port for the NFS server.
    #[error("no TCP port on 127.0.0.1 for the NFS server: {source}. Is the loopback interface up?")]
    Port {
        /// What the system said.
        source: io::Error,
    },
    /// Only behind the NFS guard can rclone be replaced under a mount.
    #[error("this mount is not behind the NFS guard: it ends with its rclone, and has to be made anew")]
    NotBehindGuard,
    /// rclone cannot be started.
    #[error("rclone ({program}) cannot be started: {source}. Set mount.rclone to the rclone binary")]
    Spawn {
        /// The program tried.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl MountError {
    /// The exit code this failure stands for when the tenant cannot start because of it.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            MountError::Cache { .. }
            | MountError::Run { .. }
            | MountError::RunTooLong { .. }
            | MountError::BadValue { .. } => Exit::Config,
            MountError::NoDriver { .. }
            | MountError::DriverMissing { .. }
            | MountError::DiskFull { .. }
            | MountError::CacheLocked { .. }
            | MountError::Path { .. }
            | MountError::Busy { .. }
            | MountError::NotEmpty { .. }
            | MountError::Barrier { .. }
            | MountError::Unmount { .. }
            | MountError::Port { .. }
            | MountError::NotBehindGuard
            | MountError::Spawn { .. } => Exit::Machine,
        }
    }
}
