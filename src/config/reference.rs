//! Configuration for people: `docs/CONFIG.md`, and one value as it is shown.

use std::fmt::Write;

use super::keys::{self, Default, KEYS, Key, SECTIONS, UserDirectory};
use super::values::{self, Setting, render_duration, render_size};

const HEAD: &str = "# Configuration

<!-- Generated from the table in src/config/keys.rs: cargo test --release write_config_reference -- --ignored -->

Layers, later wins: built-in defaults, the TOML file (`--config FILE`, else `/etc/tenant-init.toml` if it exists), the
environment, flags of the command line. Every key can be given in the file as `section.key` and in the environment as
`TENANT_INIT_SECTION__KEY` (two underscores between section and key). A few keys also have the name that platforms
already use; the `TENANT_INIT_` name wins over it.

* Every mistake is reported at once, with its key and the place it came from; the exit code is 78. Errors never repeat a
  value: people paste secrets into the wrong variable.
* Unknown keys and unknown `TENANT_INIT_…` variables are errors. (`TENANT_INIT__…` and `TENANT_INIT_GUARDIAN_FD` are
  for tenant-init's own processes, `TENANT_INIT_BIN`, `…_CACHE` and `…_IMAGE` for its scripts and tests.)
* A variable that is set to nothing counts as not set, except below `app.environment`.
* Text from the environment is never guessed at: `TENANT_ID=0123` is those four characters, quotes are part of the value.
* A duration is `500ms`, `1s`, `2m`, `1h`, or plain seconds. A size is `256MiB`, `10GiB`, `500M` (powers of 1024 in every
  spelling), or plain bytes.
* A command in the environment is split into words as a shell does (quotes, no expansion), or is a JSON list:
  `TENANT_INIT_APP__COMMAND='[\"python3\", \"-m\", \"app\"]'`.

## Secrets

Secrets are not configuration: a key like `storage.secret_access_key` is refused. `credentials.source` says where they
come from.

| source | what is read |
|---|---|
| `env` | `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, and for the index database either `DATABASE_URL=libsql://HOST?authToken=…` or `TURSO_DATABASE_URL` and `TURSO_AUTH_TOKEN`; `storage.*` says which bucket |
| `file` | the JSON bundle `credentials.file`, read at start |
| `broker` | the JSON bundle that `TENANT_CREDENTIALS_URL` answers to a GET with a bearer token: `TENANT_CREDENTIALS_TOKEN`, else a Fly OIDC token from `credentials.fly_api` |

Each variable with a secret can be given as `NAME_FILE` instead: the path of a file that holds the value. One newline at
its end is not part of the value. Both at once is an error. `AWS_SESSION_TOKEN` is refused: temporary keys in variables
cannot be renewed, and writes that are not uploaded yet would be stranded when they expire.

The bundle:

```json
{
  \"version\": 1,
  \"tenant_id\": \"acme\",
  \"storage\": {\"bucket\": \"…\", \"endpoint\": \"https://…\", \"region\": \"auto\", \"access_key_id\": \"…\", \"secret_access_key\": \"…\"},
  \"index\": {\"url\": \"libsql://…\", \"auth_token\": \"…\"},
  \"expires_at\": \"2030-01-01T00:00:00Z\"
}
```

`tenant_id`, `storage.region`, `index`, `index.auth_token` and `expires_at` may be left out or null. A bundle for another
tenant than `tenant.id`, or one that has expired, is refused with exit code 77.
";

/// `docs/CONFIG.md`.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for (section, meaning) in SECTIONS {
        // Writing to a String cannot fail.
        let _ = write!(text, "\n## {section}\n\n{meaning}\n");
        let keys = KEYS.iter().filter(|key| key.name.split('.').next() == Some(*section));
        for key in keys {
            let _ = write!(text, "\n### `{}`\n\n{}\n\n{}", key.name, key.meaning, facts(key));
        }
    }
    text
}

fn facts(key: &Key) -> String {
    let default = match &key.default {
        Default::Value(value) => format!("`{value}`"),
        Default::Directory { root, user } => format!("`{root}`; without root {}", directory(*user)),
        Default::Unset(words) => format!("not set: {words}"),
    };
    let platform = key.alias.map(|alias| format!(" or `{alias}`")).unwrap_or_default();
    format!(
        "* Allowed: {}\n* Default: {default}\n* Environment: `{}`{platform}\n",
        values::allowed(key.kind),
        keys::variable(key.name)
    )
}

fn directory(user: UserDirectory) -> String {
    match user {
        UserDirectory::Cache(name) => format!("`$XDG_CACHE_HOME/tenant-init/{name}` (`~/.cache/…`)"),
        UserDirectory::Data(name) => format!("`$XDG_DATA_HOME/tenant-init/{name}` (`~/.local/share/…`)"),
        UserDirectory::Runtime => "`$XDG_RUNTIME_DIR/tenant-init`, else `/tmp/tenant-init-UID`".to_owned(),
    }
}

/// `setting` as a user would write it, without what could be a secret: values of variables, and the query of a URL.
pub(super) fn render(key: &str, setting: &Setting, is_size: bool) -> String {
    match setting {
        Setting::Text(text) if key == "credentials.url" => without_query(text),
        Setting::Text(text) => text.clone(),
        Setting::Path(path) => path.display().to_string(),
        Setting::Words(words) => format!("{words:?}"),
        Setting::Variables(variables) => variables
            .keys()
            .map(|name| format!("{name}=(hidden)"))
            .collect::<Vec<_>>()
            .join(" "),
        Setting::Number(number) if is_size => render_size(*number),
        Setting::Number(number) => number.to_string(),
        Setting::Duration(duration) => render_duration(*duration),
        Setting::Address(address) => address.to_string(),
    }
}

/// `url` as it may be shown.
pub(super) fn without_query(url: &str) -> String {
    url.split_once('?')
        .map_or_else(|| url.to_owned(), |(plain, _)| format!("{plain}?(hidden)"))
}

#[cfg(test)]
mod tests {
    use super::markdown;

    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md");

    #[test]
    fn config_reference_is_up_to_date() {
        let written = std::fs::read_to_string(PATH).unwrap_or_default();
        let command = "cargo test --release write_config_reference -- --ignored";
        assert!(
            written == markdown(),
            "docs/CONFIG.md is not what the table says; to write it: {command}"
        );
    }

    #[test]
    #[ignore = "writes docs/CONFIG.md"]
    fn write_config_reference() {
        std::fs::write(PATH, markdown()).unwrap();
    }
}
