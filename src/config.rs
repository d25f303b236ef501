//! Configuration: what was given (`RawConfig`) and what it means ([`Config`]) are different types.
//!
//! Layers, later wins: defaults, TOML file, environment, flags. Every mistake is reported at once with its key and the
//! source it came from. Secrets never pass through here: `credentials` reads them itself.
//!
//! `keys` is the one table of keys. `layers` collects what was given (`defaults`, `file`, environment, flags) and lets
//! figment merge it; `values` reads each winner by its key's type; `build` makes the [`Config`]; `check` looks at keys
//! together; `reference` writes `docs/CONFIG.md`.

mod build;
mod check;
mod defaults;
mod environment;
mod errors;
mod file;
mod keys;
mod layers;
mod local;
mod reference;
pub(crate) mod syntax;
#[cfg(test)]
mod tests;
mod unknown;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use environment::{Environment, NotUtf8};
pub(crate) use errors::closest;
pub use errors::{Errors, Problem, Source};
pub use layers::{Flag, FlagValue, Sources};
pub use local::Local;
pub(crate) use local::fingerprint;
pub use reference::markdown;

/// A configuration and, for every key, what it is and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    explained: Vec<Explained>,
}

/// One key of [`explain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// `section.key`.
    pub key: &'static str,
    /// Its value as a user would write it, without what could be a secret; `None` when it has none.
    pub value: Option<String>,
    /// Where it came from.
    pub source: Source,
}

/// Reads, merges and validates `sources`.
///
/// # Errors
/// Everything that is wrong, at once; exit code 78.
pub fn load(sources: &Sources) -> Result<Config, Errors> {
    load_explained(sources).map(|loaded| loaded.config)
}

/// [`load`], keeping where every value came from.
///
/// # Errors
/// As [`load`].
pub fn load_explained(sources: &Sources) -> Result<Loaded, Errors> {
    let (raw, problems) = layers::RawConfig::collect(sources);
    build::build(&raw, problems, sources)
}

/// Every key of the table with its value and source, in the order of the reference.
#[must_use]
pub fn explain(loaded: &Loaded) -> &[Explained] {
    &loaded.explained
}

/// The validated configuration. Every field has its final meaning; no later code reads the environment.
#[derive(Debug, Clone)]
pub struct Config {
    /// `tenant.*`
    pub tenant: Tenant,
    /// `credentials.*`
    pub credentials: Credentials,
    /// `storage.*`
    pub storage: Storage,
    /// `mount.*`
    pub mount: Mount,
    /// `index.*`
    pub index: Index,
    /// `app.*`
    pub app: App,
    /// `health.*`
    pub health: Health,
    /// `limits.*`
    pub limits: Limits,
    /// `log.*`
    pub log: Log,
    /// `dev.*`
    pub dev: Dev,
}

/// `tenant.*`
#[derive(Debug, Clone)]
pub struct Tenant {
    /// `tenant.id` or `TENANT_ID`: must match the credential bundle's tenant when both are given.
    pub id: Option<String>,
}

/// `credentials.*`: where the bundle comes from. Holds no secret; the token's place, not the token.
#[derive(Clone)]
pub enum Credentials {
    /// `env`: the names the platforms set (`AWS_ACCESS_KEY_ID`, …), each also as `NAME_FILE`.
    Env,
    /// `file`: a JSON bundle (`credentials.file`).
    File(PathBuf),
    /// `broker`: GET `TENANT_CREDENTIALS_URL`.
    Broker {
        /// The URL of the bundle.
        url: String,
        /// Audience for the Fly OIDC token, used when no `TENANT_CREDENTIALS_TOKEN[_FILE]` is set.
        audience: String,
        /// Give up after this long, retries included.
        timeout: Duration,
        /// Fly's machine API (a unix socket). Default `/.fly/api`.
        fly_api: PathBuf,
    },
}

/// A broker's URL may carry a key in its query.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credentials::Env => write!(f, "Env"),
            Credentials::File(path) => f.debug_tuple("File").field(path).finish(),
            Credentials::Broker {
                url,
                audience,
                timeout,
                fly_api,
            } => f
                .debug_struct("Broker")
                .field("url", &reference::without_query(url))
                .field("audience", audience)
                .field("timeout", timeout)
                .field("fly_api", fly_api)
                .finish(),
        }
    }
}

/// `storage.*`: where the bucket is, for [`Credentials::Env`] only. The other sources bring their own.
#[derive(Debug, Clone)]
pub struct Storage {
    /// `storage.bucket` or `BUCKET_NAME`.
    pub bucket: Option<String>,
    /// `storage.endpoint` or `AWS_ENDPOINT_URL_S3`: `http(s)://host[:port]`.
    pub endpoint: Option<String>,
    /// `storage.region` or `AWS_REGION`. Default `auto`.
    pub region: String,
}

/// `mount.*`
#[derive(Debug, Clone)]
pub struct Mount {
    /// Where the tenant's files appear. Default `/data`.
    pub path: PathBuf,
    /// `auto` asks the kernel: nfs where it has an NFS client, else fuse; for a local mount the other way round.
    pub driver: DriverChoice,
    /// rclone's cache: holds acknowledged writes that are not uploaded yet. Default `/var/lib/tenant-init/cache`.
    pub cache_dir: PathBuf,
    /// Sockets and the rclone config file (tmpfs). Default `/run/tenant-init`.
    pub run_dir: PathBuf,
    /// Quiet time after the last write before a file is uploaded. Default 1 s.
    pub write_back: Duration,
    /// Upper bound of the cache in bytes. Default 10 GiB.
    pub cache_max_bytes: u64,
    /// rclone keeps at least this much of the disk free, in bytes. Default 256 MiB.
    pub cache_min_free_bytes: u64,
    /// How long the kernel may answer attributes by itself (nfs `actimeo`, fuse `--attr-timeout`). Default 30 s.
    pub attribute_timeout: Duration,
    /// How often the bucket is listed for changes made elsewhere.
    pub refresh_interval: Duration,
    /// TCP connections of the NFS client. Default 4.
    pub nconnect: u8,
    /// Parallel uploads. Default 8.
    pub transfers: u16,
    /// The rclone binary, looked up in PATH when it has no slash. Default `rclone`.
    pub rclone: PathBuf,
    /// Not a key: this is `tenant-init mount` and not a tenant.
    pub local: Option<Local>,
}

/// `index.*`: only read when the tenant has an index database.
#[derive(Debug, Clone)]
pub struct Index {
    /// Another machine may take the lease when it was not renewed for this long. Default 30 s.
    pub lease_ttl: Duration,
    /// A start waits this long for another machine's lease. Default 6 min.
    pub lease_wait: Duration,
    /// A change that is not in the database after this long makes the tenant not ready. Default 60 s.
    pub max_lag: Duration,
    /// Upper bound of the changes that wait, in bytes. Default 256 MiB.
    pub outbox_max_bytes: u64,
}

/// `mount.driver`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverChoice {
    /// Ask the kernel.
    Auto,
    /// `rclone nfsmount` behind the guard.
    Nfs,
    /// `rclone mount`.
    Fuse,
}

/// `app.*`
#[derive(Clone)]
pub struct App {
    /// The command; empty means basic-memory with our arguments. `run -- CMD` sets it.
    pub command: Vec<String>,
    /// Address basic-memory listens on. Default 127.0.0.1 (it has no authentication).
    pub host: String,
    /// Port basic-memory listens on. Default 8000.
    pub port: u16,
    /// User the app runs as when we are root. Default `app`.
    pub user: String,
    /// basic-memory's own directory (config.json, index, log): local disk, never the mount.
    pub config_dir: PathBuf,
    /// Extra variables for the app (`app.environment.NAME = "value"`).
    pub environment: BTreeMap<String, String>,
    /// Names of variables of ours that the app may also see, besides the built-in allow-list.
    pub pass_environment: Vec<String>,
    /// What to do when the app ends by itself.
    pub restart: RestartPolicy,
    /// Has the app what it needs to compute embeddings (`app.search = "semantic"`)?
    pub semantic_search: bool,
    /// How long the app may take to its first ready answer before it is started again. Default 120 s.
    pub start_timeout: Duration,
}

/// People put keys of other services into `app.environment`: its values are not printed.
impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("command", &self.command)
            .field("host", &self.host)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("config_dir", &self.config_dir)
            .field("environment", &self.environment.keys().collect::<Vec<_>>())
            .field("pass_environment", &self.pass_environment)
            .field("restart", &self.restart)
            .field("semantic_search", &self.semantic_search)
            .field("start_timeout", &self.start_timeout)
            .finish()
    }
}

/// `app.restart`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Default: `always` for basic-memory, `never` for `run -- CMD`.
    Auto,
    /// Always start it again.
    Always,
    /// Only after a non-zero code or a signal.
    OnFailure,
    /// Stop the tenant and exit with the app's code.
    Never,
}

/// `health.*`
#[derive(Debug, Clone)]
pub struct Health {
    /// Address of the health endpoint. Default `0.0.0.0:9180`.
    pub listen: SocketAddr,
    /// Time between two mount probes. Default 5 s.
    pub mount_interval: Duration,
    /// A mount probe that takes longer has failed. Default 5 s.
    pub mount_timeout: Duration,
    /// Time between two bucket (and database) probes. Default 10 s.
    pub storage_interval: Duration,
}

/// `limits.*`
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bucket and mount must be ready this long after the start. Default 12 s.
    pub start_timeout: Duration,
    /// One deadline for the whole stop. Default 110 s.
    pub stop_timeout: Duration,
    /// A bucket outage longer than this ends in a clean stop with 69. `None` (0): never.
    pub outage_limit: Option<Duration>,
    /// A key that is refused for this long ends the tenant with 77. Default 60 s.
    pub rejected_limit: Duration,
    /// An upload waiting longer than this makes the tenant not ready. Default 60 s.
    pub uploads_max_age: Duration,
    /// An upload waiting longer than this makes the mount read-only. `None` (0): never. Default 15 min.
    pub uploads_read_only_age: Option<Duration>,
    /// Restarts of one service for one cause inside `restart_window`. Default 10.
    pub restart_budget: u32,
    /// See `restart_budget`. Default 300 s.
    pub restart_window: Duration,
}

/// `log.*`
#[derive(Debug, Clone)]
pub struct Log {
    /// `json` or `text`; default: text on a terminal, else json. Always on stderr.
    pub format: LogFormat,
    /// `error|warn|info|debug|trace`. Default info.
    pub level: String,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// `dev.*`: only read by `tenant-init dev`.
#[derive(Debug, Clone)]
pub struct Dev {
    /// Everything dev keeps: bucket folder, database, cache, keys. Default `/var/lib/tenant-init/dev`.
    pub dir: PathBuf,
    /// Port of the local S3 server. Default 9000.
    pub s3_port: u16,
    /// Port of the local libSQL server. Default 8080.
    pub database_port: u16,
    /// The sqld binary, looked up in PATH when it has no slash. Default `sqld`.
    pub sqld: PathBuf,
}
