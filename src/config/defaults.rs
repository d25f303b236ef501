//! The lowest layer: the table's defaults, with the directories that depend on the user.
//!
//! Root gets the system's directories, anyone else the XDG ones
//! (<https://specifications.freedesktop.org/basedir-spec/latest/>), so that `mount` and `dev` work without root.

use std::path::{Path, PathBuf};

use figment::value::Value;

use super::environment::Environment;
use super::errors::Source;
use super::keys::{Default, KEYS, Key, UserDirectory};
use super::layers::{Entry, Sources};
use super::local;

/// Every key that has a default.
pub(super) fn layer(sources: &Sources) -> Vec<Entry> {
    let value = |default: &Default| match default {
        Default::Value(text) => Some((*text).to_owned()),
        Default::Directory { root, .. } if sources.uid == 0 => Some((*root).to_owned()),
        Default::Directory { user, .. } => Some(directory(*user, sources)),
        Default::Unset(_) => None,
    };
    let value = |key: &Key| local::default(key.name, sources).or_else(|| value(&key.default));
    // The lines of a local mount are for people wherever they go.
    let terminal = if sources.terminal || sources.local.is_some() {
        "text"
    } else {
        "json"
    };
    let defaults = KEYS.iter().filter_map(|key| Some((key.name, value(key)?)));
    defaults
        .chain([("log.format", terminal.to_owned())])
        .map(|(key, value)| Entry {
            key: key.to_owned(),
            value: Value::from(value),
            source: Source::Default,
        })
        .collect()
}

pub(super) fn directory(user: UserDirectory, sources: &Sources) -> String {
    let temporary = || PathBuf::from(format!("/tmp/tenant-init-{}", sources.uid));
    // The specification: a relative path is to be ignored.
    let base = |variable: &str| absolute(&sources.environment, variable);
    let home = |below: &str| base("HOME").map(|home| home.join(below));
    let ours = |base: Option<PathBuf>| base.map_or_else(temporary, |base| base.join("tenant-init"));
    let path = match user {
        UserDirectory::Runtime => ours(base("XDG_RUNTIME_DIR")),
        UserDirectory::Cache(name) => ours(base("XDG_CACHE_HOME").or_else(|| home(".cache"))).join(name),
        UserDirectory::Data(name) => ours(base("XDG_DATA_HOME").or_else(|| home(".local/share"))).join(name),
    };
    path.to_string_lossy().into_owned()
}

fn absolute(environment: &Environment, variable: &str) -> Option<PathBuf> {
    environment
        .get(variable)
        .ok()
        .flatten()
        .map(Path::new)
        .filter(|path| path.is_absolute())
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Sources, UserDirectory, directory};

    fn sources(variables: &[(&str, &str)]) -> Sources {
        Sources {
            uid: 1000,
            environment: variables.iter().copied().collect(),
            ..Sources::default()
        }
    }

    #[test]
    fn xdg_then_home_then_tmp() {
        let cache = UserDirectory::Cache("cache");
        assert_eq!(
            directory(cache, &sources(&[("XDG_CACHE_HOME", "/c"), ("HOME", "/h")])),
            "/c/tenant-init/cache"
        );
        assert_eq!(
            directory(cache, &sources(&[("XDG_CACHE_HOME", "c"), ("HOME", "/h")])),
            "/h/.cache/tenant-init/cache"
        );
        assert_eq!(directory(cache, &sources(&[])), "/tmp/tenant-init-1000/cache");
        let runtime = UserDirectory::Runtime;
        assert_eq!(
            directory(runtime, &sources(&[("XDG_RUNTIME_DIR", "/run/user/1000")])),
            "/run/user/1000/tenant-init"
        );
        assert_eq!(directory(runtime, &sources(&[("HOME", "/h")])), "/tmp/tenant-init-1000");
    }
}
