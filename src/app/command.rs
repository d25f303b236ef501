//! Program, arguments, user and environment of the app.
//!
//! The app sees nothing of our environment but an allow-list: a key it cannot see is a key it cannot leak.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::process::{Spec, harmless_environment};

/// The app dies first when memory runs out: the mounter holds writes that are not stored, and we bring the app back.
const OOM_SCORE_ADJ: i32 = 800;

/// What Fly tells about the machine. None of it is secret.
const PLATFORM: [&str; 8] = [
    "FLY_APP_NAME",
    "FLY_MACHINE_ID",
    "FLY_REGION",
    "FLY_PRIVATE_IP",
    "FLY_PUBLIC_IP",
    "FLY_PROCESS_GROUP",
    "FLY_VM_MEMORY_MB",
    "PRIMARY_REGION",
];

/// Variables of basic-memory that follow from `app.config_dir` and `mount.path`.
const PLACES: [&str; 3] = [
    "BASIC_MEMORY_CONFIG_DIR",
    "BASIC_MEMORY_HOME",
    "BASIC_MEMORY_PROJECT_ROOT",
];

/// Is the app basic-memory, started by us with our arguments? A local mount has no app.
#[must_use]
pub fn is_basic_memory(config: &Config) -> bool {
    config.app.command.is_empty() && config.mount.local.is_none()
}

/// The process to start.
#[must_use]
pub fn spec(config: &Config) -> Spec {
    let command: Vec<OsString> = if is_basic_memory(config) {
        let port = config.app.port.to_string();
        [
            "basic-memory",
            "mcp",
            "--transport",
            "streamable-http",
            "--host",
            &config.app.host,
            "--port",
            &port,
        ]
        .map(OsString::from)
        .into()
    } else {
        config.app.command.iter().map(OsString::from).collect()
    };
    Spec {
        name: "app",
        command,
        environment: environment(config),
        user: Some(config.app.user.clone()),
        oom_score_adj: OOM_SCORE_ADJ,
        directory: Some(if is_basic_memory(config) {
            PathBuf::from("/")
        } else {
            config.mount.path.clone()
        }),
        stdin: false,
    }
}

/// Tells the adapter to load what it can and wait for a byte on stdin (`adapter/src/tenant_index/warm.py`).
pub const WAIT: &str = "TENANT_INIT_WAIT";

/// Will an app that is started before its files are there wait for them? True where the adapter that does so is installed for
/// the basic-memory that would be started.
#[must_use]
pub fn can_wait(config: &Config) -> bool {
    is_basic_memory(config) && adapter().is_some()
}

/// The adapter's list of modules, beside the interpreter of the `basic-memory` in our PATH.
fn adapter() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let program = std::env::split_paths(&path)
        .map(|folder| folder.join("basic-memory"))
        .find(|program| program.is_file())?;
    let libraries = program.canonicalize().ok()?.parent()?.parent()?.join("lib");
    let interpreters = std::fs::read_dir(libraries).ok()?.filter_map(Result::ok);
    interpreters
        .map(|interpreter| interpreter.path().join("site-packages/tenant_index/modules.txt"))
        .find(|list| list.is_file())
}

/// The same app on local disk: everything of it below `folder`, listening on `port` of this machine only. For comparisons.
#[must_use]
pub fn on_local_disk(config: &Config, folder: &Path, port: u16) -> Spec {
    let mut local = config.clone();
    local.mount.path = folder.join("notes");
    local.app.config_dir = folder.join("app");
    local.app.host = "127.0.0.1".to_owned();
    local.app.port = port;
    spec(&local)
}

/// Where basic-memory keeps the project `main`: a folder of the mount, so that other projects can be its neighbours
/// (basic-memory refuses projects inside one another).
#[must_use]
pub fn main_project(config: &Config) -> PathBuf {
    config.mount.path.join("main")
}

/// basic-memory's index. It names the file itself; only the directory can be chosen.
#[must_use]
pub fn index_file(config: &Config) -> PathBuf {
    config.app.config_dir.join("memory.db")
}

fn environment(config: &Config) -> Vec<(OsString, OsString)> {
    let mut environment = harmless_environment();
    let mut set = |name: &str, value: OsString| {
        environment.retain(|(known, _)| known != name);
        environment.push((name.into(), value));
    };
    for name in PLATFORM {
        if let Some(value) = std::env::var_os(name) {
            set(name, value);
        }
    }
    if is_basic_memory(config) {
        set("HOME", config.app.config_dir.clone().into());
        set("BASIC_MEMORY_CONFIG_DIR", config.app.config_dir.clone().into());
        set("BASIC_MEMORY_HOME", main_project(config).into());
        set("BASIC_MEMORY_PROJECT_ROOT", config.mount.path.clone().into());
        set("BASIC_MEMORY_NO_PROMOS", "1".into());
        set("BASIC_MEMORY_AUTO_UPDATE", "false".into());
        set("PYTHONUNBUFFERED", "1".into());
        set("FASTMCP_SHOW_SERVER_BANNER", "false".into());
        // The image has the embedding model or has not; without this the first note would wait over a minute for a download.
        set("HF_HUB_OFFLINE", "1".into());
        if let Some(models) = std::env::var_os("FASTEMBED_CACHE_PATH") {
            set("FASTEMBED_CACHE_PATH", models);
        }
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy();
            // Places are configuration of ours: the index must be where it is looked for.
            if name.starts_with("BASIC_MEMORY_") && !PLACES.contains(&&*name) {
                set(&name, value);
            }
        }
    } else {
        set("HOME", "/".into());
        for name in ["HOME", "USER", "SHELL"] {
            if let Some(value) = std::env::var_os(name) {
                set(name, value);
            }
        }
    }
    for name in &config.app.pass_environment {
        if let Some(value) = std::env::var_os(name) {
            set(name, value);
        }
    }
    for (name, value) in &config.app.environment {
        set(name, value.into());
    }
    environment
}
