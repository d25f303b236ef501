//! `RawConfig` → [`Config`]: reads every key by its type, collecting what is wrong.
//!
//! A key that is wrong gets a placeholder so that reading goes on and every error is found in one run. The placeholder
//! never leaves this module: with one error there is no `Config`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::errors::{Errors, Problem, Source};
use super::keys::{self, KEYS, Kind};
use super::layers::{RawConfig, Sources};
use super::values::{self, Setting};
use super::{
    App, Config, Credentials, Dev, DriverChoice, Explained, Health, Index, Limits, Loaded, Log, LogFormat, Mount,
    RestartPolicy, Storage, Tenant, check, reference,
};

/// Validates `raw`, which was read from `sources`. `problems` are those found meanwhile.
pub(super) fn build(raw: &RawConfig, problems: Vec<Problem>, sources: &Sources) -> Result<Loaded, Errors> {
    let mut reader = Reader::new(raw, problems);
    let config = Config {
        tenant: Tenant {
            id: reader.text("tenant.id"),
        },
        credentials: credentials(&mut reader),
        storage: storage(&mut reader),
        mount: mount(&mut reader, sources),
        index: Index {
            lease_ttl: reader.duration("index.lease_ttl"),
            lease_wait: reader.duration("index.lease_wait"),
            max_lag: reader.duration("index.max_lag"),
            outbox_max_bytes: reader.number("index.outbox_max_size"),
        },
        app: app(&mut reader),
        health: health(&mut reader),
        limits: limits(&mut reader),
        log: Log {
            format: log_format(&mut reader),
            level: reader.text("log.level").unwrap_or_default(),
        },
        dev: Dev {
            dir: reader.path("dev.dir"),
            s3_port: reader.number("dev.s3_port"),
            database_port: reader.number("dev.database_port"),
            sqld: reader.path("dev.sqld"),
        },
    };
    check::across(&config, sources.dev, &mut reader);
    if reader.problems.is_empty() {
        let explained = KEYS.iter().map(|key| reader.explain(key.name)).collect();
        Ok(Loaded { config, explained })
    } else {
        Err(reader.problems.into())
    }
}

fn credentials(reader: &mut Reader<'_>) -> Credentials {
    let source = reader.text("credentials.source");
    let file = reader.text_of_path("credentials.file");
    let url = reader.text("credentials.url");
    let audience = reader.text("credentials.audience");
    let timeout = reader.duration("credentials.timeout");
    let fly_api = reader.path("credentials.fly_api");
    if !reader.is_good(&["credentials.source", "credentials.file", "credentials.url"]) {
        return Credentials::Env;
    }
    match (source.as_deref(), file, url) {
        (None, Some(_), Some(_)) => {
            reader.wrong(
                "credentials.source",
                "is not set although both a file and a broker are",
                "set it to `file` or `broker`",
            );
            Credentials::Env
        }
        (Some("file") | None, Some(file), _) => Credentials::File(file),
        (Some("broker") | None, _, Some(url)) => {
            let audience = audience.unwrap_or_else(|| origin(&url));
            Credentials::Broker {
                url,
                audience,
                timeout,
                fly_api,
            }
        }
        (Some("file"), None, _) => {
            reader.wrong(
                "credentials.file",
                "is not set and credentials.source is `file`",
                "name the bundle",
            );
            Credentials::Env
        }
        (Some("broker"), _, None) => {
            let todo = "set TENANT_CREDENTIALS_URL to the URL of the bundle";
            reader.wrong("credentials.url", "is not set and credentials.source is `broker`", todo);
            Credentials::Env
        }
        _ => Credentials::Env,
    }
}

fn origin(url: &str) -> String {
    url.parse::<reqwest::Url>()
        .map_or_else(|_| url.to_owned(), |url| url.origin().ascii_serialization())
}

fn storage(reader: &mut Reader<'_>) -> Storage {
    Storage {
        bucket: reader.text("storage.bucket"),
        endpoint: reader.text("storage.endpoint"),
        region: reader.text("storage.region").unwrap_or_default(),
    }
}

fn mount(reader: &mut Reader<'_>, sources: &Sources) -> Mount {
    let cache_dir = reader.path("mount.cache_dir");
    let local = sources.local.clone();
    Mount {
        path: reader.path("mount.path"),
        driver: match reader.text("mount.driver").as_deref() {
            Some("nfs") => DriverChoice::Nfs,
            Some("fuse") => DriverChoice::Fuse,
            _ => DriverChoice::Auto,
        },
        run_dir: reader.path("mount.run_dir"),
        write_back: reader.duration("mount.write_back"),
        cache_max_bytes: reader.number("mount.cache_max_size"),
        cache_min_free_bytes: reader.number("mount.cache_min_free"),
        attribute_timeout: reader.duration("mount.attribute_timeout"),
        refresh_interval: reader.duration("mount.refresh_interval"),
        nconnect: reader.number("mount.nconnect"),
        transfers: reader.number("mount.transfers"),
        rclone: reader.path("mount.rclone"),
        local: local.map(|local| local.with_cache(&cache_dir, sources)),
        cache_dir,
    }
}

fn app(reader: &mut Reader<'_>) -> App {
    App {
        command: reader.words("app.command"),
        host: reader.text("app.host").unwrap_or_default(),
        port: reader.number("app.port"),
        user: reader.text("app.user").unwrap_or_default(),
        config_dir: reader.path("app.config_dir"),
        environment: reader.variables("app.environment"),
        pass_environment: reader.words("app.pass_environment"),
        restart: match reader.text("app.restart").as_deref() {
            Some("always") => RestartPolicy::Always,
            Some("on-failure") => RestartPolicy::OnFailure,
            Some("never") => RestartPolicy::Never,
            _ => RestartPolicy::Auto,
        },
        semantic_search: reader.text("app.search").as_deref() == Some("semantic"),
        start_timeout: reader.duration("app.start_timeout"),
    }
}

fn health(reader: &mut Reader<'_>) -> Health {
    Health {
        listen: reader.address("health.listen"),
        mount_interval: reader.duration("health.mount_interval"),
        mount_timeout: reader.duration("health.mount_timeout"),
        storage_interval: reader.duration("health.storage_interval"),
    }
}

fn limits(reader: &mut Reader<'_>) -> Limits {
    Limits {
        start_timeout: reader.duration("limits.start_timeout"),
        stop_timeout: reader.duration("limits.stop_timeout"),
        outage_limit: Some(reader.duration("limits.outage_limit")).filter(|limit| !limit.is_zero()),
        rejected_limit: reader.duration("limits.rejected_limit"),
        uploads_max_age: reader.duration("limits.uploads_max_age"),
        uploads_read_only_age: Some(reader.duration("limits.uploads_read_only_age")).filter(|age| !age.is_zero()),
        restart_budget: reader.number("limits.restart_budget"),
        restart_window: reader.duration("limits.restart_window"),
    }
}

fn log_format(reader: &mut Reader<'_>) -> LogFormat {
    match reader.text("log.format").as_deref() {
        Some("text") => LogFormat::Text,
        _ => LogFormat::Json,
    }
}

/// Reads keys by name and type and remembers what was wrong.
pub(super) struct Reader<'a> {
    raw: &'a RawConfig,
    settings: BTreeMap<&'static str, Setting>,
    failed: BTreeSet<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(raw: &'a RawConfig, problems: Vec<Problem>) -> Self {
        let mut reader = Self {
            raw,
            settings: BTreeMap::new(),
            failed: BTreeSet::new(),
            problems,
        };
        for key in KEYS {
            let Some(given) = raw.get(key.name) else { continue };
            match values::parse(key.kind, &given.value) {
                Ok(setting) => {
                    reader.settings.insert(key.name, setting);
                }
                Err(refused) => reader.wrong(key.name, refused.what, refused.allowed),
            }
        }
        reader
    }

    /// Reports `key`, blaming the source of its value.
    pub fn wrong(&mut self, key: &'static str, what: impl Into<String>, allowed: impl Into<String>) {
        self.failed.insert(key);
        self.problems
            .push(Problem::new(key, self.raw.source(key), what, allowed));
    }

    /// Whether none of `keys` was reported: comparing placeholders would only add noise.
    pub fn is_good(&self, keys: &[&str]) -> bool {
        !keys.iter().any(|key| self.failed.contains(key))
    }

    /// Whether somebody gave `key` a value.
    pub fn is_given(&self, key: &str) -> bool {
        self.raw.source(key) != Source::Default
    }

    /// The value of `key` as `get` wants it. No value and a wrong value are `None`, as is a wrong type, which a test
    /// of this module rules out by reading every key.
    fn take<T>(&self, key: &str, get: impl Fn(&Setting) -> Option<T>) -> Option<T> {
        debug_assert!(keys::find(key).is_some(), "{key} is not in the table");
        let setting = self.settings.get(key)?;
        let value = get(setting);
        debug_assert!(value.is_some(), "{key} is read as another type than the table says");
        value
    }

    fn text(&self, key: &str) -> Option<String> {
        self.take(key, |setting| {
            if let Setting::Text(text) = setting {
                Some(text.clone())
            } else {
                None
            }
        })
    }

    fn text_of_path(&self, key: &str) -> Option<PathBuf> {
        self.take(key, |setting| {
            if let Setting::Path(path) = setting {
                Some(path.clone())
            } else {
                None
            }
        })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.text_of_path(key).unwrap_or_default()
    }

    fn words(&self, key: &str) -> Vec<String> {
        let words = |setting: &Setting| {
            if let Setting::Words(words) = setting {
                Some(words.clone())
            } else {
                None
            }
        };
        self.take(key, words).unwrap_or_default()
    }

    fn variables(&self, key: &str) -> BTreeMap<String, String> {
        let variables = |setting: &Setting| {
            if let Setting::Variables(map) = setting {
                Some(map.clone())
            } else {
                None
            }
        };
        self.take(key, variables).unwrap_or_default()
    }

    fn duration(&self, key: &str) -> Duration {
        self.take(key, |setting| {
            if let Setting::Duration(value) = setting {
                Some(*value)
            } else {
                None
            }
        })
        .unwrap_or_default()
    }

    /// The table's range keeps every number inside `T` (a test loads both ends).
    fn number<T: TryFrom<u64> + Default>(&self, key: &str) -> T {
        let number = |setting: &Setting| {
            if let Setting::Number(number) = setting {
                T::try_from(*number).ok()
            } else {
                None
            }
        };
        self.take(key, number).unwrap_or_default()
    }

    fn address(&self, key: &str) -> SocketAddr {
        let address = |setting: &Setting| {
            if let Setting::Address(address) = setting {
                Some(*address)
            } else {
                None
            }
        };
        self.take(key, address)
            .unwrap_or_else(|| (Ipv4Addr::UNSPECIFIED, 0).into())
    }

    fn explain(&self, key: &'static str) -> Explained {
        let value = self.settings.get(key).map(|setting| {
            let is_size = keys::find(key).is_some_and(|key| matches!(key.kind, Kind::Size { .. }));
            reference::render(key, setting, is_size)
        });
        Explained {
            key,
            value,
            source: self.raw.source(key),
        }
    }
}
