//! Keys that do not exist: a typo gets a suggestion, a secret gets directions.

use super::errors::{Problem, Source, closest};
use super::keys::{self, KEYS, Key, Kind, SECTIONS};

/// Keys that somebody is likely to try for a secret, and the variable that carries it.
const SECRETS: &[(&str, &str)] = &[
    ("storage.access_key_id", "AWS_ACCESS_KEY_ID"),
    ("storage.secret_access_key", "AWS_SECRET_ACCESS_KEY"),
    ("index.url", "DATABASE_URL"),
    ("index.auth_token", "TURSO_AUTH_TOKEN"),
    ("credentials.token", "TENANT_CREDENTIALS_TOKEN"),
];

/// Words in a key that make its value a secret.
const SECRET_WORDS: &[&str] = &[
    "secret",
    "token",
    "password",
    "passwd",
    "access_key",
    "database_url",
    "api_key",
];

/// Why `key` cannot be given, or `None` when it can.
pub(super) fn refuse(key: &str, source: &Source) -> Option<Problem> {
    if let Some(name) = variable_of_app(key) {
        let secret = crate::credentials::scrub_environment_names().contains(&name);
        return secret.then(|| {
            let rule = "the app gets its data through the mount and the index, never the key itself";
            Problem::new(key, source.clone(), "is a credential of tenant-init", rule)
        });
    }
    if keys::find(key).is_some() {
        return None;
    }
    let (what, allowed) = match secret(key) {
        Some(words) => ("is a secret, and secrets are not configuration".to_owned(), words),
        None if SECTIONS.iter().any(|(name, _)| *name == key) => ("is a section, not a key".to_owned(), keys_of(key)),
        None => unknown(key, source),
    };
    Some(Problem::new(key, source.clone(), what, allowed))
}

/// The variable's name when `key` is one entry of a table of variables.
fn variable_of_app(key: &str) -> Option<&str> {
    let (table, name) = key
        .match_indices('.')
        .nth(1)
        .map(|(at, _)| (&key[..at], &key[at + 1..]))?;
    matches!(
        keys::find(table),
        Some(Key {
            kind: Kind::Variables,
            ..
        })
    )
    .then_some(name)
}

fn secret(key: &str) -> Option<String> {
    let key = key.to_lowercase();
    let platform = |name: &str| {
        format!("set {name}, or {name}_FILE to a file that holds it, or use a bundle (credentials.source = \"file\")")
    };
    if let Some((_, name)) = SECRETS
        .iter()
        .find(|(secret, name)| key == *secret || key == name.to_lowercase())
    {
        return Some(platform(name));
    }
    let last = key.rsplit('.').next().unwrap_or_default();
    SECRET_WORDS.iter().any(|word| last.contains(word)).then(|| {
        "set the platform's variable (AWS_SECRET_ACCESS_KEY, TURSO_AUTH_TOKEN, …), or NAME_FILE to a file that holds \
         it, or use a bundle (credentials.source = \"file\")"
            .to_owned()
    })
}

fn unknown(key: &str, source: &Source) -> (String, String) {
    let (section, last) = key.split_once('.').unwrap_or(("", key));
    let same_name = || {
        KEYS.iter()
            .map(|key| key.name)
            .find(|name| name.split('.').nth(1) == Some(last))
    };
    let flat = key.replace('.', "_");
    let by_flat_name = || {
        KEYS.iter()
            .map(|key| key.name)
            .find(|name| name.replace('.', "_") == flat)
    };
    let suggestion = by_flat_name()
        .or_else(same_name)
        .or_else(|| closest(key, KEYS.iter().map(|key| key.name)));
    let what = match suggestion {
        Some(name) if matches!(source, Source::Environment(_)) => {
            format!("is unknown, did you mean `{}`?", keys::variable(name))
        }
        Some(name) => format!("is unknown, did you mean `{name}`?"),
        None => "is unknown".to_owned(),
    };
    let known_section = SECTIONS.iter().any(|(name, _)| *name == section);
    let allowed = if known_section { keys_of(section) } else { sections() };
    (what, allowed)
}

fn keys_of(section: &str) -> String {
    let names: Vec<_> = KEYS
        .iter()
        .filter_map(|key| key.name.strip_prefix(section)?.strip_prefix('.'))
        .collect();
    match names.as_slice() {
        [] => format!("section `{section}` has no keys"),
        names => format!("keys of `{section}`: {}", names.join(", ")),
    }
}

fn sections() -> String {
    let names: Vec<_> = SECTIONS.iter().map(|(name, _)| *name).collect();
    format!("sections: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::{Source, refuse};

    fn say(key: &str) -> String {
        refuse(key, &Source::Default)
            .map(|problem| problem.to_string())
            .unwrap_or_default()
    }

    #[test]
    fn typos_and_wrong_sections_get_the_key_that_was_meant() {
        assert!(say("mount.write_bak").contains("did you mean `mount.write_back`?"));
        assert!(say("app.write_back").contains("did you mean `mount.write_back`?"));
        assert!(say("mount_path").contains("did you mean `mount.path`?"));
        assert!(say("zzz").contains("sections: tenant, credentials"));
        assert!(say("mount").contains("is a section"));
        assert_eq!(say("mount.path"), "");
        assert_eq!(say("app.environment.ANY"), "");
    }

    #[test]
    fn secrets_get_directions() {
        assert!(say("storage.secret_access_key").contains("AWS_SECRET_ACCESS_KEY_FILE"));
        assert!(say("AWS_SECRET_ACCESS_KEY").contains("AWS_SECRET_ACCESS_KEY_FILE"));
        assert!(say("app.api_key").contains("bundle"));
        assert!(say("app.environment.AWS_SECRET_ACCESS_KEY").contains("credential of tenant-init"));
    }
}
