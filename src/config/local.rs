//! The defaults of `tenant-init mount`: a laptop is no container.
//!
//! They lie below the user's own settings, as all defaults do. Every bucket has a cache and a run directory of its own, so
//! that several can be mounted, and no start finds another bucket's files in its cache.

use std::path::Path;

use super::keys::UserDirectory;
use super::layers::Sources;
use super::{Mount, check, defaults, syntax};

/// `tenant-init mount`: the tenant's files on somebody's computer. There is no app, no index, no lease and no health port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// Nothing is ever changed in the bucket.
    pub read_only: bool,
    /// Name of the cache and run directories: see [`Local::new`].
    pub place: String,
    /// The cache directory is the one that [`Local::new`] gives it, which nothing else uses. Known once the configuration is.
    pub own_cache: bool,
}

/// Where the bucket is not known before the broker has said it.
const UNKNOWN: &str = "tenant";

impl Local {
    /// Directories for `bucket`. A read-only mount has its own: in the other ones files may be waiting for their upload. (No
    /// bucket has a plus sign in its name.)
    #[must_use]
    pub fn new(bucket: Option<&str>, read_only: bool) -> Local {
        // It becomes the name of a directory.
        let bucket = bucket.filter(|name| syntax::is_bucket(name)).unwrap_or(UNKNOWN);
        let suffix = if read_only { "+read-only" } else { "" };
        Local {
            read_only,
            place: format!("{bucket}{suffix}"),
            own_cache: false,
        }
    }

    /// With the cache directory that the configuration came to.
    pub(super) fn with_cache(self, cache_dir: &Path, sources: &Sources) -> Local {
        let own = default("mount.cache_dir", sources);
        Local {
            own_cache: own.is_some_and(|own| Path::new(&own) == cache_dir),
            ..self
        }
    }
}

impl Mount {
    /// Is this a local mount that changes nothing in the bucket?
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.read_only)
    }

    /// Is this a local mount with a cache directory that nothing else uses?
    #[must_use]
    pub fn has_own_cache(&self) -> bool {
        self.local.as_ref().is_some_and(|local| local.own_cache)
    }
}

/// The default of `key` that differs from a tenant's.
pub(super) fn default(key: &str, sources: &Sources) -> Option<String> {
    let place = &sources.local.as_ref()?.place;
    let value = match key {
        "mount.cache_dir" if sources.uid == 0 => format!("/var/lib/tenant-init/mount/{place}"),
        "mount.cache_dir" => {
            let cache = defaults::directory(UserDirectory::Cache("mount"), sources);
            format!("{cache}/{place}")
        }
        "mount.run_dir" if sources.uid == 0 => short("/run/tenant-init", place),
        "mount.run_dir" => short(&defaults::directory(UserDirectory::Runtime, sources), place),
        // Somebody looks at the files here while the tenant writes them there.
        "mount.refresh_interval" => "30s".to_owned(),
        // Only a look shows that files wait.
        "health.mount_interval" => "2s".to_owned(),
        // A laptop is offline for hours, and nobody waits for its answers.
        "limits.uploads_read_only_age" => "0".to_owned(),
        // Port 0 of a local mount: nobody is told.
        "health.listen" => "127.0.0.1:0".to_owned(),
        "log.level" => "warn".to_owned(),
        _ => return None,
    };
    Some(value)
}

/// A short name of something long (FNV-1a). The same in every version of this program: the next start looks there.
pub(crate) fn fingerprint(text: &[u8]) -> u64 {
    text.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// `BASE-PLACE`. A name of a bucket may be too long for the sockets in there: then a number in its place.
fn short(base: &str, place: &str) -> String {
    let whole = format!("{base}-{place}");
    if whole.len() <= check::LONGEST_RUN_DIR {
        return whole;
    }
    format!("{base}-{:016x}", fingerprint(place.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::{Local, Path, Sources};
    use crate::config::{Config, load};

    fn config(uid: u32, local: Local, more: &[(&'static str, &'static str)]) -> Config {
        let variables = [("HOME", "/home/u"), ("XDG_RUNTIME_DIR", "/run/user/1000")];
        load(&Sources {
            uid,
            environment: variables.iter().chain(more).copied().collect(),
            local: Some(local),
            ..Sources::default()
        })
        .unwrap()
    }

    #[test]
    fn each_bucket_has_directories_of_its_own_and_so_has_a_read_only_mount() {
        let mount = config(1000, Local::new(Some("notes"), false), &[]).mount;
        assert_eq!(mount.cache_dir, Path::new("/home/u/.cache/tenant-init/mount/notes"));
        assert_eq!(mount.run_dir, Path::new("/run/user/1000/tenant-init-notes"));
        let mount = config(1000, Local::new(Some("notes"), true), &[]).mount;
        assert!(mount.cache_dir.ends_with("notes+read-only"));
        assert!(mount.is_read_only() && mount.has_own_cache());
        let mount = config(0, Local::new(None, false), &[]).mount;
        assert_eq!(mount.cache_dir, Path::new("/var/lib/tenant-init/mount/tenant"));
        assert_eq!(mount.run_dir, Path::new("/run/tenant-init-tenant"));
    }

    #[test]
    fn the_longest_name_of_a_bucket_leaves_room_for_sockets() {
        let bucket = "b".repeat(63);
        let mount = config(1000, Local::new(Some(&bucket), true), &[]).mount;
        assert!(mount.run_dir.as_os_str().len() <= super::check::LONGEST_RUN_DIR);
    }

    #[test]
    fn what_the_user_sets_wins() {
        let given = [
            ("TENANT_INIT_LOG__LEVEL", "debug"),
            ("TENANT_INIT_MOUNT__CACHE_DIR", "/c"),
        ];
        let config = config(1000, Local::new(Some("notes"), false), &given);
        assert_eq!(
            (config.log.level.as_str(), config.mount.cache_dir.as_path()),
            ("debug", Path::new("/c"))
        );
        assert!(!config.mount.has_own_cache() && !config.mount.is_read_only());
        assert_eq!(config.limits.uploads_read_only_age, None);
    }
}
