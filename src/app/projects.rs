//! basic-memory's `config.json`: on local disk, so gone with the machine, and yet the only place where its projects are
//! named (what is not in it is forgotten at start, index or not).
//!
//! So the list of projects is kept as a small object beside the notes (`OBJECT`, paths relative to the mount) and
//! `config.json` is made from it when it is missing. An existing `config.json` wins, and every change of it is saved.
//! The object is written through S3, not through the mount: it must arrive when the mount is the thing that is broken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Where the list of projects is kept in the bucket. Dot-paths are ignored by basic-memory.
pub const OBJECT: &str = ".tenant-init/basic-memory-projects.json";

/// What is kept of `config.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Format of this object.
    pub version: u32,
    /// The project that is used when none is named.
    pub default_project: Option<String>,
    /// Project name → path relative to the mount.
    pub projects: BTreeMap<String, PathBuf>,
}

/// The text of `config.json` for a start: the existing one completed, or a new one from `saved`. The project `main` at
/// `main` is always there. Paths that would lead out of the mount are left out.
#[must_use]
pub fn config_json(existing: Option<&str>, saved: Option<&Saved>, mount: &Path, main: &Path) -> String {
    let mut config: Map<String, Value> = existing
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut projects = match config.remove("projects") {
        Some(Value::Object(projects)) => projects,
        _ => Map::new(),
    };
    if projects.is_empty() {
        for (name, path) in saved.into_iter().flat_map(|saved| &saved.projects) {
            if path.is_relative() && !path.components().any(|c| c == std::path::Component::ParentDir) {
                projects.insert(name.clone(), json!({ "path": mount.join(path) }));
            }
        }
        if let Some(default) = saved
            .and_then(|saved| saved.default_project.as_ref())
            .filter(|d| projects.contains_key(*d))
        {
            config.insert("default_project".into(), json!(default));
        }
    }
    if projects.is_empty() {
        projects.insert("main".into(), json!({ "path": main }));
    }
    if !config
        .get("default_project")
        .and_then(Value::as_str)
        .is_some_and(|name| projects.contains_key(name))
    {
        let first = if projects.contains_key("main") {
            Some("main".to_owned())
        } else {
            projects.keys().next().cloned()
        };
        config.insert("default_project".into(), json!(first));
    }
    config.insert("projects".into(), Value::Object(projects));
    format!("{:#}\n", Value::Object(config))
}

/// What to keep of a `config.json`. `None`: unreadable (basic-memory is writing it), or nothing in it.
#[must_use]
pub fn extract(text: &str, mount: &Path) -> Option<Saved> {
    let config: Value = serde_json::from_str(text).ok()?;
    let projects: BTreeMap<String, PathBuf> = config
        .get("projects")?
        .as_object()?
        .iter()
        .filter_map(|(name, entry)| {
            // Older versions kept the path itself instead of an object.
            let path = entry.get("path").unwrap_or(entry).as_str()?;
            Some((name.clone(), Path::new(path).strip_prefix(mount).ok()?.to_path_buf()))
        })
        .collect();
    let default_project = config.get("default_project").and_then(Value::as_str).map(str::to_owned);
    (!projects.is_empty()).then_some(Saved {
        version: 1,
        default_project,
        projects,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNT: &str = "/data";

    fn made(existing: Option<&str>, saved: Option<&Saved>) -> Value {
        serde_json::from_str(&config_json(existing, saved, Path::new(MOUNT), Path::new("/data/main"))).unwrap()
    }

    #[test]
    fn a_new_tenant_gets_the_project_main() {
        let config = made(None, None);
        assert_eq!(config["projects"]["main"]["path"], "/data/main");
        assert_eq!(config["default_project"], "main");
    }

    #[test]
    fn projects_survive_a_new_machine() {
        let before = r#"{"projects":{"main":{"path":"/data/main"},"work":{"path":"/data/work","mode":"local"}},
                         "default_project":"work","update_permalinks_on_move":true}"#;
        let saved = extract(before, Path::new(MOUNT)).unwrap();
        let after = made(None, Some(&saved));
        assert_eq!(after["projects"]["work"]["path"], "/data/work");
        assert_eq!(after["default_project"], "work");
        assert_eq!(extract(&after.to_string(), Path::new(MOUNT)).unwrap(), saved);
    }

    #[test]
    fn an_existing_file_wins_and_keeps_its_other_keys() {
        let saved = Saved {
            version: 1,
            default_project: None,
            projects: [("old".into(), "old".into())].into(),
        };
        let config = made(
            Some(r#"{"projects":{"a":{"path":"/data/a"}},"format_on_save":true}"#),
            Some(&saved),
        );
        assert_eq!(config["format_on_save"], true);
        assert_eq!(config["projects"].as_object().unwrap().len(), 1);
        assert_eq!(config["default_project"], "a");
    }

    #[test]
    fn a_saved_path_cannot_lead_out_of_the_mount_and_a_broken_file_is_replaced() {
        let projects = [
            ("x".into(), "../etc".into()),
            ("y".into(), "/etc".into()),
            ("z".into(), "z".into()),
        ]
        .into();
        let config = made(
            Some("{ half a fi"),
            Some(&Saved {
                version: 1,
                default_project: None,
                projects,
            }),
        );
        assert_eq!(
            config["projects"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["z"]
        );
    }

    #[test]
    fn projects_outside_the_mount_are_not_saved() {
        assert_eq!(
            extract(r#"{"projects":{"x":{"path":"/home/x"}}}"#, Path::new(MOUNT)),
            None
        );
        assert_eq!(extract("", Path::new(MOUNT)), None);
    }
}
