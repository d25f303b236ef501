//! The four layers, and `RawConfig`: what was given.
//!
//! Each layer becomes a list of entries (`section.key`, value, source). Entries whose key is in the table are merged
//! by figment, one provider a layer, later wins; figment also remembers which layer won, and the entry of that layer
//! says where exactly. Entries with an unknown key are refused, in every layer, even when another layer would win.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};

use super::environment::Environment;
use super::errors::{Problem, Source};
use super::keys::{self, KEYS, Key, Kind};
use super::local::Local;
use super::{defaults, file, unknown};

/// What a configuration is made from. Nothing below reads the process itself, so tests say everything here.
#[derive(Clone, Default)]
pub struct Sources {
    /// `--config FILE`: must exist.
    pub file: Option<PathBuf>,
    /// Read when `file` is not given, and only if it exists: `/etc/tenant-init.toml`.
    pub default_file: Option<PathBuf>,
    /// The environment.
    pub environment: Environment,
    /// What the command line set.
    pub flags: Vec<Flag>,
    /// Our effective user id. Directories default to the user's own when it is not 0.
    pub uid: u32,
    /// Whether stderr is a terminal: the default of `log.format`.
    pub terminal: bool,
    /// Also check what only `tenant-init dev` uses.
    pub dev: bool,
    /// For `tenant-init mount`, which has defaults of its own.
    pub local: Option<Local>,
}

impl Sources {
    /// This process: its environment, user and terminal, and `--config` when it was given.
    #[must_use]
    pub fn process(file: Option<PathBuf>) -> Self {
        Self {
            file,
            default_file: Some(PathBuf::from("/etc/tenant-init.toml")),
            environment: Environment::process(),
            flags: Vec::new(),
            uid: nix::unistd::geteuid().as_raw(),
            terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()),
            dev: false,
            local: None,
        }
    }
}

/// A key that the command line set.
#[derive(Clone)]
pub struct Flag {
    /// `section.key`.
    pub key: String,
    /// The flag as it is typed: `--mount-path`, or `-- CMD`.
    pub name: String,
    /// Its value.
    pub value: FlagValue,
}

/// See [`Flag`].
#[derive(Clone)]
pub enum FlagValue {
    /// Read as the environment is.
    Text(String),
    /// A command that the shell has split already.
    Words(Vec<String>),
}

/// One value of one layer.
#[derive(Debug)]
pub(super) struct Entry {
    pub key: String,
    pub value: Value,
    pub source: Source,
}

/// A key's winning value.
#[derive(Debug)]
pub(super) struct Given {
    pub value: Value,
    pub source: Source,
}

/// What was given, key by key, defaults included. A key that nobody gave and that has no default is absent.
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    given: BTreeMap<&'static str, Given>,
}

impl RawConfig {
    pub fn get(&self, key: &str) -> Option<&Given> {
        self.given.get(key)
    }

    /// Where `key` came from.
    pub fn source(&self, key: &str) -> Source {
        self.get(key).map_or(Source::Default, |given| given.source.clone())
    }

    /// Reads and merges every layer. Unknown keys and an unreadable file are returned beside what could be read, so
    /// that they are reported together with wrong values.
    pub fn collect(sources: &Sources) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let layers = [
            defaults::layer(sources),
            read_file(sources, &mut problems),
            environment(&sources.environment, &mut problems),
            sources.flags.iter().map(entry).collect(),
        ]
        .map(|entries| Layer::new(entries, &mut problems));
        (merge(&layers), problems)
    }
}

/// The entries of one layer whose keys exist.
struct Layer {
    values: Dict,
    sources: BTreeMap<String, Source>,
}

impl Layer {
    fn new(entries: Vec<Entry>, problems: &mut Vec<Problem>) -> Self {
        let mut layer = Self {
            values: Dict::new(),
            sources: BTreeMap::new(),
        };
        for entry in entries {
            if let Some(problem) = unknown::refuse(&entry.key, &entry.source) {
                problems.push(problem);
                continue;
            }
            insert(&mut layer.values, &entry.key, entry.value);
            layer.sources.insert(entry.key, entry.source);
        }
        layer
    }

    fn source(&self, key: &str) -> Option<Source> {
        let inside = |name: &str| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.'));
        let first = || {
            self.sources
                .iter()
                .find(|(name, _)| inside(name))
                .map(|(_, source)| source)
        };
        self.sources.get(key).or_else(first).cloned()
    }
}

/// A layer as figment sees it. The number is its place in the array of layers.
struct Numbered<'a>(usize, &'a Layer);

impl Provider for Numbered<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.to_string())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.1.values.clone()))
    }
}

fn merge(layers: &[Layer]) -> RawConfig {
    let mut figment = Figment::new();
    for (number, layer) in layers.iter().enumerate() {
        figment = figment.merge(Numbered(number, layer));
    }
    let layer_of = |value: &Value| {
        let value = match value {
            // A table is a mixture of layers; its last member stands for it.
            Value::Dict(_, members) => members.values().next_back().unwrap_or(value),
            _ => value,
        };
        let number = figment.get_metadata(value.tag())?.name.parse::<usize>().ok()?;
        layers.get(number)
    };
    let given = KEYS.iter().filter_map(|key| {
        // An error here means that no layer has the key.
        let value = figment.find_value(key.name).ok()?;
        let source = layer_of(&value)
            .and_then(|layer| layer.source(key.name))
            .unwrap_or(Source::Default);
        Some((key.name, Given { value, source }))
    });
    RawConfig { given: given.collect() }
}

/// Puts `value` at `a.b.c`. Only called with keys of the table, so the depth is two, or three below `app.environment`.
fn insert(values: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            values.insert(key.to_owned(), value);
        }
        Some((head, rest)) => {
            let inner = values
                .entry(head.to_owned())
                .or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

fn read_file(sources: &Sources, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let (path, must_exist) = match (&sources.file, &sources.default_file) {
        (Some(path), _) => (path, true),
        (None, Some(path)) => (path, false),
        (None, None) => return Vec::new(),
    };
    match read_text(path) {
        Ok(text) => file::parse(path, &text).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must_exist => Vec::new(),
        Err(error) => {
            let source = Source::File {
                path: path.clone(),
                line: None,
            };
            let what = format!("cannot be read: {error}");
            problems.push(Problem::new(
                "--config",
                source,
                what,
                "name a TOML file that we may read",
            ));
            Vec::new()
        }
    }
}

/// A configuration larger than this is a mistake (someone named a device or a database).
const LARGEST_FILE: u64 = 1 << 20;

fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(LARGEST_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_FILE {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "larger than 1 MiB",
        ));
    }
    Ok(text)
}

/// Variables that begin with `TENANT_INIT_` and are no configuration: the guardian's pipe to the supervisor, and what
/// the repository's own scripts and tests go by. `TENANT_INIT__…` is free for more of the same.
const OURS: &[&str] = &["GUARDIAN_FD", "BIN", "CACHE", "IMAGE"];

fn is_ours(rest: &str) -> bool {
    rest.starts_with('_') || OURS.contains(&rest)
}

fn environment(environment: &Environment, problems: &mut Vec<Problem>) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut push = |key: String, name: &str, keep_empty: bool| {
        let source = Source::Environment(name.to_owned());
        match environment.get(name) {
            Ok(Some(text)) => entries.push(Entry {
                key,
                value: Value::from(text),
                source,
            }),
            Ok(None) if keep_empty => entries.push(Entry {
                key,
                value: Value::from(""),
                source,
            }),
            Ok(None) => {}
            Err(error) => problems.push(Problem::new(key, source, error.to_string(), "give it as UTF-8")),
        }
    };
    let aliases = KEYS.iter().filter_map(|key| Some((key.name, key.alias?)));
    for (key, alias) in aliases {
        push(key.to_owned(), alias, false);
    }
    for name in environment.names() {
        let Some(rest) = name.strip_prefix("TENANT_INIT_").filter(|rest| !is_ours(rest)) else {
            continue;
        };
        let key = key_of(rest);
        // An app may want a variable that is set to nothing; for every other key nothing means "not given".
        let keep_empty = key.starts_with("app.environment.");
        push(key, name, keep_empty);
    }
    entries
}

/// `MOUNT__CACHE_DIR` is `mount.cache_dir`. Names below a table of variables keep their case.
fn key_of(rest: &str) -> String {
    let parts: Vec<&str> = rest.splitn(3, "__").collect();
    match parts.as_slice() {
        [section, key, name] => {
            let table = format!("{section}.{key}").to_lowercase();
            let is_table = matches!(
                keys::find(&table),
                Some(Key {
                    kind: Kind::Variables,
                    ..
                })
            );
            format!(
                "{table}.{}",
                if is_table {
                    (*name).to_owned()
                } else {
                    name.to_lowercase()
                }
            )
        }
        _ => parts.join(".").to_lowercase(),
    }
}

fn entry(flag: &Flag) -> Entry {
    let value = match &flag.value {
        FlagValue::Text(text) => Value::from(text.as_str()),
        FlagValue::Words(words) => Value::from(words.clone()),
    };
    Entry {
        key: flag.key.clone(),
        value,
        source: Source::Flag(flag.name.clone()),
    }
}
