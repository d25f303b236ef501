//! The rclone command line, its configuration file and its environment, as pure functions.
//!
//! The key goes into a 0600 file and nowhere else: not into argv, not into the environment. The remote's name is
//! constant, because with variables (`RCLONE_CONFIG_…`) rclone names the cache directory after a hash that covers the
//! secret, and a rotated key would orphan every unsent write.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::ExposeSecret;
use secrecy::zeroize::Zeroizing;

use super::error::MountError;
use super::mountinfo::REMOTE;
use crate::config::Mount;
use crate::core::event::Driver;
use crate::credentials::Storage;
use crate::storage::{AUTHOR, is_tigris};

/// Longest path a Unix socket can have: sun_path of unix(7) without its final NUL.
const SOCKET_PATH_MAX: usize = 107;

/// Files of one mounter, in a 0700 directory of their own below `mount.run_dir`.
#[derive(Debug, Clone)]
pub struct RunFiles {
    /// The directory.
    pub dir: PathBuf,
    /// rclone's configuration with the key.
    pub config: PathBuf,
    /// Socket of rclone's remote control.
    pub socket: PathBuf,
}

impl RunFiles {
    /// The files below `run_dir`.
    ///
    /// # Errors
    /// When the socket's path would be too long for the kernel.
    pub fn below(run_dir: &Path) -> Result<RunFiles, MountError> {
        let dir = run_dir.join("mount");
        let socket = dir.join("rc.sock");
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            return Err(MountError::RunTooLong { path: socket, length });
        }
        Ok(RunFiles {
            config: dir.join("rclone.conf"),
            socket,
            dir,
        })
    }
}

/// Everything the command line depends on.
#[derive(Debug)]
pub struct Spec<'a> {
    /// Which mount command.
    pub driver: Driver,
    /// The bucket.
    pub bucket: &'a str,
    /// `http(s)://host` of the S3 service.
    pub endpoint: &'a str,
    /// The mountpoint, resolved.
    pub path: &'a Path,
    /// Timings, cache and limits.
    pub mount: &'a Mount,
    /// Configuration file and socket.
    pub run: &'a RunFiles,
    /// Owner of all files.
    pub uid: u32,
    /// Group of all files.
    pub gid: u32,
    /// Whether users other than ours may look into a FUSE mount (only root, or `user_allow_other` in fuse.conf).
    pub allow_other: bool,
    /// NFS only: where rclone listens and where the kernel shall connect.
    pub nfs: Option<NfsPorts<'a>>,
    /// NFS only: the kernel has the mount already, rclone shall only serve it.
    pub mounted: bool,
    /// Mark of the objects that are uploaded from this cache.
    pub author: &'a str,
}

/// The two ports of the NFS path and the directory of the file handles.
#[derive(Debug, Clone, Copy)]
pub struct NfsPorts<'a> {
    /// rclone listens here.
    pub rclone: u16,
    /// The guard listens here; the kernel connects to it.
    pub guard: u16,
    /// Handle cache on disk; must be fresh for every start, because file ids are per process.
    pub handles: &'a Path,
}

/// rclone's arguments, subcommand first.
#[must_use]
pub fn arguments(spec: &Spec<'_>) -> Vec<OsString> {
    let mut args: Vec<OsString> = Vec::with_capacity(64);
    let mut flag = |name: &str, value: &OsStr| args.extend([OsString::from(name), value.to_owned()]);
    let mount = spec.mount;
    let bucket = format!("{REMOTE}:{}", spec.bucket);
    match spec.driver {
        // `nfsmount` again would mount over the mount; this serves the same with the same flags and the same cache.
        Driver::Nfs if spec.mounted => flag("serve", "nfs".as_ref()),
        Driver::Nfs => flag("nfsmount", bucket.as_ref()),
        Driver::Fuse => flag("mount", bucket.as_ref()),
    }
    if let Some(nfs) = spec.nfs {
        flag("--addr", format!("127.0.0.1:{}", nfs.rclone).as_ref());
        if !spec.mounted {
            flag("-o", nfs_options(mount, nfs.guard).as_ref());
        }
        // The memory cache walks all handles on each call; with the disk cache a call costs the same at any size.
        flag("--nfs-cache-type", "disk".as_ref());
        flag("--nfs-cache-dir", nfs.handles.as_os_str());
    } else {
        flag("--attr-timeout", seconds(mount.attribute_timeout).as_ref());
    }
    flag("--config", spec.run.config.as_os_str());
    flag("--cache-dir", mount.cache_dir.as_os_str());
    flag("--vfs-cache-mode", "full".as_ref());
    flag("--vfs-write-back", seconds(mount.write_back).as_ref());
    flag("--vfs-cache-max-size", format!("{}B", mount.cache_max_bytes).as_ref());
    flag(
        "--vfs-cache-min-free-space",
        format!("{}B", mount.cache_min_free_bytes).as_ref(),
    );
    // Size bounds the cache; a note that was not read for an hour is not worth a download.
    flag("--vfs-cache-max-age", "720h".as_ref());
    // For ever: what has changed is read again by our order, not in an outage (src/supervise/relisting.rs).
    flag("--dir-cache-time", "87600h".as_ref());
    flag("--poll-interval", "0".as_ref());
    flag("--transfers", mount.transfers.to_string().as_ref());
    // An attempt ends in seconds, and the upload queue (which never gives up) makes the next one.
    for (name, value) in [
        ("--timeout", "10s"),
        ("--contimeout", "5s"),
        ("--low-level-retries", "1"),
        ("--retries", "1"),
    ] {
        flag(name, value.as_ref());
    }
    flag("--uid", spec.uid.to_string().as_ref());
    flag("--gid", spec.gid.to_string().as_ref());
    // The app may be another user; on somebody's computer other users are other people.
    let umask = if mount.local.is_some() { "077" } else { "022" };
    flag("--umask", umask.as_ref());
    let mut socket = OsString::from("unix://");
    socket.push(&spec.run.socket);
    flag("--rc-addr", &socket);
    // INFO is where rclone names the files that leave its cache: the ledger is made of that.
    flag("--log-level", "INFO".as_ref());
    // Not plain stderr: Go ends a program whose write to descriptor 1 or 2 finds nobody reading. Opened anew, the same pipe
    // gives an error that rclone ignores, so a dead supervisor does not take the upload queue with it.
    flag("--log-file", "/proc/self/fd/2".as_ref());
    flag(
        "--header-upload",
        format!("X-Amz-Meta-{AUTHOR}: {}", spec.author).as_ref(),
    );
    if is_tigris(spec.endpoint) {
        // Without it a bucket in several regions may answer with an old version.
        flag("--header", "X-Tigris-Consistent: true".as_ref());
    }
    args.insert(
        2,
        if spec.mounted {
            bucket.into()
        } else {
            spec.path.as_os_str().to_owned()
        },
    );
    if mount.is_read_only() {
        args.push("--read-only".into());
    }
    args.extend(["--rc", "--rc-no-auth", "--use-json-log", "--use-server-modtime"].map(OsString::from));
    if spec.driver == Driver::Fuse {
        // The barrier is mounted on the path, and rclone takes any mount there for "not empty".
        args.push("--allow-non-empty".into());
        if spec.allow_other {
            args.extend(["--allow-other", "--default-permissions"].map(OsString::from));
        }
    }
    args
}

/// `-o` for mount.nfs. rclone puts its own `port` and `mountport` before ours; mount.nfs takes the right-most. `hard`,
/// because `soft` drops dirty pages after a stall; `nolock`, because there is no lock daemon to ask.
fn nfs_options(mount: &Mount, guard: u16) -> String {
    let mode = if mount.is_read_only() { ",ro" } else { "" };
    format!(
        "port={guard},mountport={guard},nolock,vers=3,proto=tcp,mountproto=tcp,hard,nocto,actimeo={},nconnect={},noatime,nosuid,nodev{mode}",
        mount.attribute_timeout.as_secs(),
        mount.nconnect,
    )
}

/// A Go duration.
fn seconds(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// The text of rclone's configuration file. Wiped from memory when dropped.
///
/// # Errors
/// When a value contains a control character or surrounding space: it would change the meaning of the file.
pub fn configuration(storage: &Storage) -> Result<Zeroizing<String>, MountError> {
    let values = [
        ("endpoint", "the S3 endpoint", storage.endpoint.as_str()),
        ("region", "the S3 region", storage.region.as_str()),
        (
            "access_key_id",
            "the S3 access key id",
            storage.access_key_id.expose_secret(),
        ),
        (
            "secret_access_key",
            "the S3 secret key",
            storage.secret_access_key.expose_secret(),
        ),
    ];
    let mut text = Zeroizing::new(format!(
        "[{REMOTE}]\ntype = s3\nprovider = Other\nlist_version = 2\nno_check_bucket = true\nenv_auth = false\n"
    ));
    for (key, name, value) in values {
        if value.chars().any(char::is_control) || value.trim() != value {
            return Err(MountError::BadValue { name });
        }
        for part in [key, " = ", value, "\n"] {
            text.push_str(part);
        }
    }
    Ok(text)
}

/// The variables rclone gets: an allow-list out of `ours`, so that no secret of the tenant's environment reaches it.
#[must_use]
pub fn environment(ours: impl Iterator<Item = (OsString, OsString)>, run: &RunFiles) -> Vec<(OsString, OsString)> {
    const PASSED: [&str; 11] = [
        "PATH",
        "TZ",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "GOMEMLIMIT",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ];
    let mut variables: Vec<_> = ours
        .filter(|(name, _)| PASSED.iter().any(|passed| name == passed))
        .collect();
    if !variables.iter().any(|(name, _)| name == "PATH") {
        variables.push((
            "PATH".into(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        ));
    }
    variables.push(("HOME".into(), run.dir.clone().into_os_string()));
    variables
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DriverChoice;

    fn mount() -> Mount {
        Mount {
            path: "/data".into(),
            driver: DriverChoice::Auto,
            cache_dir: "/cache".into(),
            run_dir: "/run/tenant-init".into(),
            write_back: Duration::from_secs(1),
            cache_max_bytes: 10 << 30,
            cache_min_free_bytes: 256 << 20,
            attribute_timeout: Duration::from_secs(30),
            refresh_interval: Duration::from_secs(300),
            nconnect: 4,
            transfers: 8,
            rclone: "rclone".into(),
            local: None,
        }
    }

    fn storage() -> Storage {
        Storage {
            bucket: "notes".into(),
            endpoint: "https://fly.storage.tigris.dev".into(),
            region: "auto".into(),
            access_key_id: "tid_KEY".into(),
            secret_access_key: "tsec_SECRET".into(),
        }
    }

    fn line(driver: Driver, allow_other: bool) -> String {
        line_of(driver, allow_other, false)
    }

    fn line_of(driver: Driver, allow_other: bool, mounted: bool) -> String {
        let (mount, storage, run) = (
            mount(),
            storage(),
            RunFiles::below(Path::new("/run/tenant-init")).unwrap(),
        );
        let nfs = NfsPorts {
            rclone: 4001,
            guard: 4002,
            handles: Path::new("/cache/handles/1"),
        };
        let spec = Spec {
            driver,
            bucket: &storage.bucket,
            endpoint: &storage.endpoint,
            path: &mount.path,
            mount: &mount,
            run: &run,
            uid: 1000,
            gid: 1001,
            allow_other,
            nfs: (driver == Driver::Nfs).then_some(nfs),
            mounted,
            author: "0123",
        };
        let words: Vec<String> = arguments(&spec)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn nfs_goes_through_the_guard() {
        let line = line(Driver::Nfs, true);
        assert!(line.contains("--header-upload X-Amz-Meta-tenant-init: 0123 "), "{line}");
        assert!(line.starts_with("nfsmount tenant:notes /data --addr 127.0.0.1:4001 -o port=4002,mountport=4002,"));
        for option in [
            "nolock",
            "vers=3",
            "hard",
            "nocto",
            "actimeo=30",
            "nconnect=4",
            "nosuid,nodev",
        ] {
            assert!(line.contains(option), "{option} in {line}");
        }
        assert!(line.contains("--nfs-cache-type disk --nfs-cache-dir /cache/handles/1"));
        assert!(!line.contains("--allow-other") && !line.contains("soft"));
    }

    #[test]
    fn behind_a_mount_that_is_there_the_same_is_only_served() {
        let (first, again) = (line(Driver::Nfs, true), line_of(Driver::Nfs, true, true));
        assert!(
            again.starts_with("serve nfs tenant:notes --addr 127.0.0.1:4001 --nfs-cache-type disk"),
            "{again}"
        );
        let flags = |line: &str, skipped: usize| line.split(' ').skip(skipped).map(str::to_owned).collect::<Vec<_>>();
        // nfsmount BUCKET PATH --addr A -o O; serve nfs BUCKET --addr A.
        assert_eq!(flags(&first, 7), flags(&again, 5));
    }

    #[test]
    fn fuse_lets_others_in_only_when_that_works() {
        assert!(line(Driver::Fuse, true).contains("--allow-other --default-permissions"));
        assert!(!line(Driver::Fuse, false).contains("--allow-other"));
        assert!(line(Driver::Fuse, true).starts_with("mount tenant:notes /data --attr-timeout 30000ms"));
    }

    #[test]
    fn no_secret_in_argv_or_environment() {
        let run = RunFiles::below(Path::new("/run/tenant-init")).unwrap();
        let ours = [
            ("AWS_SECRET_ACCESS_KEY", "tsec_SECRET"),
            ("RCLONE_CONFIG_TENANT_SECRET_ACCESS_KEY", "tsec_SECRET"),
            ("DATABASE_URL", "libsql://x?authToken=SECRET"),
            ("SSL_CERT_FILE", "/ca.pem"),
        ];
        let variables = environment(ours.into_iter().map(|(name, value)| (name.into(), value.into())), &run);
        let names: Vec<_> = variables.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["SSL_CERT_FILE", "PATH", "HOME"]);
        for text in [
            line(Driver::Nfs, true),
            line(Driver::Fuse, true),
            format!("{variables:?}"),
        ] {
            assert!(!text.contains("SECRET") && !text.contains("tid_KEY"), "{text}");
        }
    }

    #[test]
    fn the_configuration_has_the_key_and_refuses_what_would_break_it() {
        let text = configuration(&storage()).unwrap();
        assert!(text.starts_with("[tenant]\ntype = s3\nprovider = Other\n"));
        assert!(text.contains("secret_access_key = tsec_SECRET\n"));
        let broken = Storage {
            secret_access_key: "tsec_SECRET\nendpoint = http://evil".into(),
            ..storage()
        };
        let words = configuration(&broken).unwrap_err().to_string();
        assert!(words.contains("secret key") && !words.contains("SECRET"), "{words}");
    }

    #[test]
    fn the_consistency_header_is_for_tigris_only() {
        assert!(is_tigris("https://fly.storage.tigris.dev"));
        assert!(is_tigris("https://t3.storage.dev:443/"));
        assert!(!is_tigris("http://127.0.0.1:9000"));
        assert!(!is_tigris("https://nottigris.dev"));
        assert!(line(Driver::Fuse, true).contains("--header X-Tigris-Consistent: true"));
    }

    #[test]
    fn a_socket_path_the_kernel_cannot_take_is_refused() {
        let deep = PathBuf::from(format!("/run/{}", "x".repeat(120)));
        assert_eq!(RunFiles::below(&deep).unwrap_err().exit().code(), 78);
    }
}
