//! Every configuration key, once: name, type, default and meaning.
//!
//! The loader validates by this table, `docs/CONFIG.md` is generated from it, and unknown names are compared with it.
//! A key that is not here cannot be given, and `build` cannot read a key that is not here (a test reads them all).

use super::syntax;

/// One configuration key.
#[derive(Debug)]
pub(super) struct Key {
    /// `section.key`.
    pub name: &'static str,
    /// What a value may look like.
    pub kind: Kind,
    /// What holds when nobody gives a value.
    pub default: Default,
    /// A variable that the platforms already set and that means this key.
    pub alias: Option<&'static str>,
    /// One sentence for people.
    pub meaning: &'static str,
}

/// The type of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Text with a syntax of its own.
    Text {
        /// Says whether the text is well-formed.
        check: fn(&str) -> bool,
        /// The syntax in words.
        allowed: &'static str,
    },
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// An absolute path.
    Path,
    /// A program: an absolute path, or a name to look up in PATH.
    Program,
    /// A command and its arguments.
    Command,
    /// Names of environment variables.
    Names,
    /// A table of environment variables.
    Variables,
    /// A TCP port.
    Port,
    /// A whole number in a range.
    Count {
        /// Smallest allowed.
        min: u64,
        /// Largest allowed.
        max: u64,
    },
    /// A duration in a range.
    Duration {
        /// Smallest allowed, in milliseconds.
        min: u64,
        /// Largest allowed, in milliseconds.
        max: u64,
        /// 0 is allowed as well and means "never".
        zero: bool,
    },
    /// A size in bytes.
    Size {
        /// Smallest allowed, in bytes.
        min: u64,
    },
    /// `IP:port`.
    Address,
}

/// Where a default comes from.
#[derive(Debug)]
pub(super) enum Default {
    /// Always the same, written as a user would write it.
    Value(&'static str),
    /// A directory: a system one for root, else one of the user's own.
    Directory {
        /// For root.
        root: &'static str,
        /// For anyone else.
        user: UserDirectory,
    },
    /// No value; the words say what follows from that.
    Unset(&'static str),
}

/// The XDG base directories we use when not root.
#[derive(Debug, Clone, Copy)]
pub(super) enum UserDirectory {
    /// `$XDG_CACHE_HOME/tenant-init/NAME`, else `~/.cache/tenant-init/NAME`.
    Cache(&'static str),
    /// `$XDG_DATA_HOME/tenant-init/NAME`, else `~/.local/share/tenant-init/NAME`.
    Data(&'static str),
    /// `$XDG_RUNTIME_DIR/tenant-init`, else `/tmp/tenant-init-UID`.
    Runtime,
}

/// The sections, in the order of the reference.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("tenant", "Who this is."),
    (
        "credentials",
        "Where the bundle of secrets comes from. The secrets themselves are never configuration.",
    ),
    (
        "storage",
        "The bucket, for credentials source `env` only (`file` and `broker` bring their own).",
    ),
    ("mount", "The tenant's files as a directory."),
    (
        "index",
        "The index database and the lease. Address and token are credentials.",
    ),
    ("app", "The program that is supervised."),
    ("health", "The health endpoint and the probes behind it."),
    ("limits", "Deadlines and budgets."),
    ("log", "Our own log, always on stderr."),
    ("dev", "Only read by `tenant-init dev`."),
];

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const fn key(name: &'static str, kind: Kind, default: Default, meaning: &'static str) -> Key {
    Key {
        name,
        kind,
        default,
        alias: None,
        meaning,
    }
}

const fn alias(mut key: Key, alias: &'static str) -> Key {
    key.alias = Some(alias);
    key
}

const fn text(check: fn(&str) -> bool, allowed: &'static str) -> Kind {
    Kind::Text { check, allowed }
}

const fn duration(min: u64, max: u64) -> Kind {
    Kind::Duration { min, max, zero: false }
}

/// Every key.
pub(super) static KEYS: &[Key] = &[
    alias(
        key(
            "tenant.id",
            text(syntax::is_tenant_id, syntax::TENANT_ID),
            Default::Unset("the bundle says who the tenant is"),
            "The tenant this machine is for. A bundle made for another tenant is refused.",
        ),
        "TENANT_ID",
    ),
    key(
        "credentials.source",
        Kind::Choice(&["env", "file", "broker"]),
        Default::Unset("`file` if `credentials.file` is set, `broker` if `credentials.url` is set, else `env`"),
        "Where the credentials come from: variables, a JSON bundle in a file, or a broker.",
    ),
    key(
        "credentials.file",
        Kind::Path,
        Default::Unset("needed by source `file`"),
        "The JSON bundle. Read again when it changes.",
    ),
    alias(
        key(
            "credentials.url",
            text(syntax::is_broker_url, syntax::BROKER_URL),
            Default::Unset("needed by source `broker`"),
            "The broker's URL of this tenant's bundle, fetched with GET and a bearer token.",
        ),
        "TENANT_CREDENTIALS_URL",
    ),
    key(
        "credentials.audience",
        text(syntax::is_audience, syntax::AUDIENCE),
        Default::Unset("scheme and host of `credentials.url`"),
        "Audience of the Fly OIDC token that is used when no `TENANT_CREDENTIALS_TOKEN` is given.",
    ),
    key(
        "credentials.timeout",
        duration(SECOND, 5 * MINUTE),
        Default::Value("10s"),
        "Give up on the broker after this long, retries included.",
    ),
    key(
        "credentials.fly_api",
        Kind::Path,
        Default::Value("/.fly/api"),
        "The unix socket of Fly's machine API, which makes OIDC tokens.",
    ),
    alias(
        key(
            "storage.bucket",
            text(syntax::is_bucket, syntax::BUCKET),
            Default::Unset("needed by source `env`"),
            "The tenant's bucket.",
        ),
        "BUCKET_NAME",
    ),
    alias(
        key(
            "storage.endpoint",
            text(syntax::is_endpoint, syntax::ENDPOINT),
            Default::Unset("needed by source `env`"),
            "The S3 service.",
        ),
        "AWS_ENDPOINT_URL_S3",
    ),
    alias(
        key(
            "storage.region",
            text(syntax::is_region, syntax::REGION),
            Default::Value("auto"),
            "Region that requests are signed for.",
        ),
        "AWS_REGION",
    ),
    key(
        "mount.path",
        Kind::Path,
        Default::Value("/data"),
        "Where the tenant's files appear.",
    ),
    key(
        "mount.driver",
        Kind::Choice(&["auto", "nfs", "fuse"]),
        Default::Value("auto"),
        "`nfs` is `rclone nfsmount`, `fuse` is `rclone mount`; `auto` takes nfs where the kernel has an NFS client, and for `tenant-init mount` fuse where that works.",
    ),
    key(
        "mount.cache_dir",
        Kind::Path,
        Default::Directory {
            root: "/var/lib/tenant-init/cache",
            user: UserDirectory::Cache("cache"),
        },
        "rclone's cache. Holds acknowledged writes that are not uploaded yet: keep it on a disk that survives a restart.",
    ),
    key(
        "mount.run_dir",
        Kind::Path,
        Default::Directory {
            root: "/run/tenant-init",
            user: UserDirectory::Runtime,
        },
        "Sockets and rclone's configuration file, which holds the key: keep it on tmpfs.",
    ),
    key(
        "mount.write_back",
        Kind::Duration {
            min: 0,
            max: HOUR,
            zero: true,
        },
        Default::Value("1s"),
        "Quiet time after the last write before a file is uploaded. At most `limits.uploads_max_age`.",
    ),
    key(
        "mount.cache_max_size",
        Kind::Size { min: 64 << 20 },
        Default::Value("10GiB"),
        "Upper bound of the cache. Files that are not uploaded yet are never evicted.",
    ),
    key(
        "mount.cache_min_free",
        Kind::Size { min: 0 },
        Default::Value("256MiB"),
        "rclone keeps at least this much of the cache's disk free.",
    ),
    key(
        "mount.attribute_timeout",
        duration(0, HOUR),
        Default::Value("30s"),
        "How long the kernel may answer attributes by itself.",
    ),
    key(
        "mount.refresh_interval",
        duration(SECOND, DAY),
        Default::Value("5m"),
        "How often the bucket is listed for changes made elsewhere.",
    ),
    key(
        "mount.nconnect",
        Kind::Count { min: 1, max: 16 },
        Default::Value("4"),
        "TCP connections of the NFS client.",
    ),
    key(
        "mount.transfers",
        Kind::Count { min: 1, max: 256 },
        Default::Value("8"),
        "Parallel uploads.",
    ),
    key(
        "mount.rclone",
        Kind::Program,
        Default::Value("rclone"),
        "The rclone binary.",
    ),
    key(
        "index.lease_ttl",
        duration(3 * SECOND, 10 * MINUTE),
        Default::Value("30s"),
        "A machine that disappears keeps its lease this long. It is renewed after a third of it.",
    ),
    key(
        "index.lease_wait",
        duration(SECOND, DAY),
        Default::Value("6m"),
        "A start waits this long for a lease that another machine holds, then ends with exit code 77. Longer than a stop may take.",
    ),
    key(
        "index.max_lag",
        duration(SECOND, DAY),
        Default::Value("60s"),
        "An index change that is not in the database after this long makes the tenant not ready.",
    ),
    key(
        "index.outbox_max_size",
        Kind::Size { min: 1 << 20 },
        Default::Value("256MiB"),
        "More waiting changes than this are thrown away; the database is then filled again from the local index when it is back.",
    ),
    key(
        "app.command",
        Kind::Command,
        Default::Unset("basic-memory"),
        "The app and its arguments. `run -- CMD …` sets it too.",
    ),
    key(
        "app.host",
        text(syntax::is_host, syntax::HOST),
        Default::Value("127.0.0.1"),
        "Address basic-memory listens on. It has no authentication: keep it private.",
    ),
    key(
        "app.port",
        Kind::Port,
        Default::Value("8000"),
        "Port basic-memory listens on.",
    ),
    key(
        "app.user",
        text(syntax::is_user, syntax::USER),
        Default::Value("app"),
        "User the app runs as when tenant-init runs as root.",
    ),
    key(
        "app.config_dir",
        Kind::Path,
        Default::Directory {
            root: "/var/lib/tenant-init/app",
            user: UserDirectory::Data("app"),
        },
        "basic-memory's own directory (configuration, index, log). Local disk, never the mount.",
    ),
    key(
        "app.environment",
        Kind::Variables,
        Default::Unset("nothing more than the built-in variables"),
        "Extra variables for the app.",
    ),
    key(
        "app.pass_environment",
        Kind::Names,
        Default::Unset("the built-in list (PATH, HOME, LANG, TZ, …)"),
        "Variables of tenant-init that the app may see too. Credentials cannot be passed.",
    ),
    key(
        "app.restart",
        Kind::Choice(&["auto", "always", "on-failure", "never"]),
        Default::Value("auto"),
        "What to do when the app ends by itself. `auto`: `always` for basic-memory, `never` for another command.",
    ),
    key(
        "app.search",
        Kind::Choice(&["keyword", "semantic"]),
        Default::Value("keyword"),
        "What basic-memory's search can do; the image says which of the two it was built for. `semantic`: an index that was \
         restored gets its embeddings computed again.",
    ),
    key(
        "app.start_timeout",
        duration(SECOND, DAY),
        Default::Value("120s"),
        "How long the app may take to its first ready answer before it is started again.",
    ),
    key(
        "health.listen",
        Kind::Address,
        Default::Value("0.0.0.0:9180"),
        "Address of the health endpoint. Port 0 takes any free one.",
    ),
    key(
        "health.mount_interval",
        duration(100, HOUR),
        Default::Value("5s"),
        "Time between two probes of the mount.",
    ),
    key(
        "health.mount_timeout",
        duration(100, HOUR),
        Default::Value("5s"),
        "A probe of the mount that takes longer has failed.",
    ),
    key(
        "health.storage_interval",
        duration(100, HOUR),
        Default::Value("2500ms"),
        "Time between two probes of the bucket while it answers. An outage is noticed after this and 2 s more, at the latest.",
    ),
    key(
        "limits.start_timeout",
        duration(SECOND, HOUR),
        Default::Value("12s"),
        "Bucket and mount must be ready this long after the start.",
    ),
    key(
        "limits.stop_timeout",
        duration(5 * SECOND, DAY),
        Default::Value("110s"),
        "One deadline for the whole stop. Keep the platform's own (`kill_timeout`, `docker stop -t`) above it.",
    ),
    key(
        "limits.outage_limit",
        Kind::Duration {
            min: 10 * SECOND,
            max: 30 * DAY,
            zero: true,
        },
        Default::Value("0"),
        "A bucket outage longer than this ends in a clean stop with exit code 69.",
    ),
    key(
        "limits.rejected_limit",
        duration(SECOND, DAY),
        Default::Value("60s"),
        "A key that is refused for this long, although new ones were asked for, ends in a clean stop with exit code 77.",
    ),
    key(
        "limits.uploads_max_age",
        duration(SECOND, DAY),
        Default::Value("60s"),
        "An upload that waits longer makes the tenant not ready.",
    ),
    key(
        "limits.uploads_read_only_age",
        Kind::Duration {
            min: SECOND,
            max: 30 * DAY,
            zero: true,
        },
        Default::Value("15m"),
        "An upload that waits longer makes the mount read-only until it is stored. At least `limits.uploads_max_age`; 0: never.",
    ),
    key(
        "limits.restart_budget",
        Kind::Count { min: 0, max: 1000 },
        Default::Value("10"),
        "Restarts of one service for one cause inside `limits.restart_window`; one more is exit code 75.",
    ),
    key(
        "limits.restart_window",
        duration(SECOND, DAY),
        Default::Value("300s"),
        "See `limits.restart_budget`.",
    ),
    key(
        "log.format",
        Kind::Choice(&["json", "text"]),
        Default::Unset("`text` on a terminal, else `json`"),
        "One JSON object a line, or text for people.",
    ),
    key(
        "log.level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        Default::Value("info"),
        "The least important level that is logged.",
    ),
    key(
        "dev.dir",
        Kind::Path,
        Default::Directory {
            root: "/var/lib/tenant-init/dev",
            user: UserDirectory::Data("dev"),
        },
        "Everything `dev` keeps: bucket folder, database, cache, throw-away keys.",
    ),
    key(
        "dev.s3_port",
        Kind::Port,
        Default::Value("9000"),
        "Port of the local S3 server.",
    ),
    key(
        "dev.database_port",
        Kind::Port,
        Default::Value("8080"),
        "Port of the local libSQL server.",
    ),
    key("dev.sqld", Kind::Program, Default::Value("sqld"), "The sqld binary."),
];

/// The key called `name`.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The variable that sets `name`: `mount.path` is `TENANT_INIT_MOUNT__PATH`.
pub(super) fn variable(name: &str) -> String {
    format!("TENANT_INIT_{}", name.to_uppercase().replace('.', "__"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{KEYS, SECTIONS, variable};

    #[test]
    fn every_key_is_there_once_and_belongs_to_a_section() {
        let mut names = BTreeSet::new();
        for key in KEYS {
            assert!(names.insert(key.name), "{} is there twice", key.name);
            let section = key.name.split('.').next().unwrap();
            assert!(
                SECTIONS.iter().any(|(name, _)| *name == section),
                "{} has no section",
                key.name
            );
            assert!(key.meaning.ends_with('.'), "{} has no sentence", key.name);
        }
    }

    #[test]
    fn variables_follow_the_contract() {
        assert_eq!(variable("mount.cache_dir"), "TENANT_INIT_MOUNT__CACHE_DIR");
    }
}
