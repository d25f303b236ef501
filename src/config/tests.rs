//! The loader as a whole: layers, sources, every error at once, rules between keys.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::keys::{self, Default as KeyDefault, KEYS, Kind};
use super::{
    Config, Credentials, DriverChoice, Errors, Flag, FlagValue, LogFormat, Source, Sources, explain, load,
    load_explained,
};

fn environment(variables: &[(&str, &str)]) -> Sources {
    Sources {
        environment: variables.iter().copied().collect(),
        ..Sources::default()
    }
}

/// Sources with a TOML file; the directory must live as long as they are used.
fn toml(text: &str) -> (tempfile::TempDir, Sources) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.toml");
    std::fs::write(&path, text).unwrap();
    (
        directory,
        Sources {
            file: Some(path),
            ..Sources::default()
        },
    )
}

fn load_toml(text: &str) -> Result<Config, Errors> {
    let (_directory, sources) = toml(text);
    load(&sources)
}

fn errors_of(variables: &[(&str, &str)]) -> String {
    load(&environment(variables)).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_contract() {
    let config = load(&Sources::default()).unwrap();
    assert!(matches!(config.credentials, Credentials::Env));
    assert_eq!(config.mount.path, PathBuf::from("/data"));
    assert_eq!(config.mount.driver, DriverChoice::Auto);
    assert_eq!(config.mount.cache_dir, PathBuf::from("/var/lib/tenant-init/cache"));
    assert_eq!(config.mount.run_dir, PathBuf::from("/run/tenant-init"));
    assert_eq!(config.mount.write_back, Duration::from_secs(1));
    assert_eq!(config.mount.cache_max_bytes, 10 << 30);
    assert_eq!((config.app.port, config.app.user.as_str()), (8000, "app"));
    assert_eq!(config.health.listen.to_string(), "0.0.0.0:9180");
    assert_eq!(config.limits.stop_timeout, Duration::from_secs(110));
    assert_eq!(config.limits.outage_limit, None);
    assert_eq!(config.log.format, LogFormat::Json);
    let terminal = Sources {
        terminal: true,
        ..Sources::default()
    };
    assert_eq!(load(&terminal).unwrap().log.format, LogFormat::Text);
}

#[test]
fn without_root_the_directories_are_the_users_own() {
    let variables = [
        ("XDG_CACHE_HOME", "/home/u/.cache"),
        ("XDG_RUNTIME_DIR", "/run/user/1000"),
        ("HOME", "/home/u"),
    ];
    let config = load(&Sources {
        uid: 1000,
        ..environment(&variables)
    })
    .unwrap();
    assert_eq!(
        config.mount.cache_dir,
        PathBuf::from("/home/u/.cache/tenant-init/cache")
    );
    assert_eq!(config.mount.run_dir, PathBuf::from("/run/user/1000/tenant-init"));
    assert_eq!(
        config.app.config_dir,
        PathBuf::from("/home/u/.local/share/tenant-init/app")
    );
}

#[test]
fn later_layers_win_and_every_value_knows_its_source() {
    let (_directory, mut sources) =
        toml("[mount]\npath = '/file'\nwrite_back = '2s'\ntransfers = 3\n[app.environment]\nA = 'file'\nB = 'file'\n");
    sources.environment = [
        ("TENANT_INIT_MOUNT__WRITE_BACK", "3s"),
        ("TENANT_INIT_MOUNT__TRANSFERS", "4"),
        ("TENANT_INIT_APP__ENVIRONMENT__B", "environment"),
        ("TENANT_ID", "platform"),
        ("UNRELATED", "x"),
    ]
    .into_iter()
    .collect();
    sources.flags = vec![
        Flag {
            key: "mount.transfers".into(),
            name: "--transfers".into(),
            value: FlagValue::Text("5".into()),
        },
        Flag {
            key: "app.command".into(),
            name: "-- CMD".into(),
            value: FlagValue::Words(vec!["a b".into(), "[c".into()]),
        },
    ];
    let loaded = load_explained(&sources).unwrap();
    let config = &loaded.config;
    assert_eq!(config.mount.path, PathBuf::from("/file"));
    assert_eq!(config.mount.write_back, Duration::from_secs(3));
    assert_eq!(config.mount.transfers, 5);
    assert_eq!(config.app.command, ["a b", "[c"]);
    assert_eq!(config.app.environment["A"], "file");
    assert_eq!(config.app.environment["B"], "environment");
    assert_eq!(config.tenant.id.as_deref(), Some("platform"));

    let explained = |key: &str| explain(&loaded).iter().find(|explained| explained.key == key).unwrap();
    let path = sources.file.clone().unwrap();
    assert_eq!(explained("mount.path").source, Source::File { path, line: Some(2) });
    assert_eq!(
        explained("mount.write_back").source.to_string(),
        "environment variable TENANT_INIT_MOUNT__WRITE_BACK"
    );
    assert_eq!(explained("mount.write_back").value.as_deref(), Some("3s"));
    assert_eq!(explained("mount.transfers").source.to_string(), "flag --transfers");
    assert_eq!(
        explained("tenant.id").source.to_string(),
        "environment variable TENANT_ID"
    );
    assert_eq!(
        explained("app.environment").value.as_deref(),
        Some("A=(hidden) B=(hidden)")
    );
    assert_eq!(explained("mount.cache_max_size").value.as_deref(), Some("10GiB"));
    assert_eq!(explained("storage.bucket").value, None);
    assert_eq!(explain(&loaded).len(), KEYS.len());
}

#[test]
fn the_tenant_init_name_wins_over_the_platforms() {
    let config = load(&environment(&[("TENANT_ID", "a"), ("TENANT_INIT_TENANT__ID", "b")])).unwrap();
    assert_eq!(config.tenant.id.as_deref(), Some("b"));
}

#[test]
fn every_error_is_reported_at_once_with_key_and_source() {
    let (_directory, mut sources) =
        toml("[mount]\npaht = '/x'\nnconnect = 99\n[storage]\nsecret_access_key = 'tsec_abc'\n");
    sources.environment = [
        ("TENANT_INIT_MOUNT__WRITE_BACK", "tsec_abc"),
        ("TENANT_INIT_MOUNT_PATH", "/x"),
        ("TENANT_INIT_LIMITS__STOP_TIMEOUT", "4s"),
    ]
    .into_iter()
    .collect();
    let errors = load(&sources).unwrap_err();
    let text = errors.to_string();
    for part in [
        "6 errors:",
        "mount.paht (",
        "t.toml line 2): is unknown, did you mean `mount.path`?",
        "t.toml line 3): is not a whole number in range; allowed: a whole number from 1 to 16",
        "t.toml line 5): is a secret, and secrets are not configuration; set AWS_SECRET_ACCESS_KEY, or AWS_SECRET_ACCESS_KEY_FILE",
        "mount.write_back (environment variable TENANT_INIT_MOUNT__WRITE_BACK): is not a duration",
        "(environment variable TENANT_INIT_MOUNT_PATH): is unknown, did you mean `TENANT_INIT_MOUNT__PATH`?",
        "limits.stop_timeout (environment variable TENANT_INIT_LIMITS__STOP_TIMEOUT): is out of range; allowed: a duration from 5s",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!text.contains("tsec_abc"), "{text}");
}

#[test]
fn types_of_the_file_are_checked_and_not_converted() {
    for (text, what) in [
        ("tenant.id = 123", "must be text: put it in quotes"),
        ("app.port = '80 '", "is not a port"),
        ("app.port = true", "must be text"),
        ("app.port = [1]", "not a list"),
        ("mount.path = {}", "not a table"),
        ("mount.path = 1979-05-27", "not a table"),
        ("app.command = [1]", "put every item in quotes"),
        ("app.environment = 'A=b'", "must be a table"),
        ("app.environment.A = 1", "A: must be text"),
        ("app.environment.'A-B' = 'x'", "is not a variable's name"),
        ("mount.write_back = -1", "is not a duration"),
        ("[[mount]]\npath = '/x'", "is a section"),
        ("[nonsense]", "is unknown"),
        ("mount = '/x'", "is a section"),
    ] {
        let error = load_toml(text).unwrap_err().to_string();
        assert!(error.contains(what), "{text}: {error}");
    }
    let config = load_toml(
        "app.port = 80\nmount.write_back = 0.5\nmount.cache_max_size = 134217728\nmount.attribute_timeout = 7",
    )
    .unwrap();
    assert_eq!(
        (config.app.port, config.mount.write_back),
        (80, Duration::from_millis(500))
    );
    assert_eq!(
        (config.mount.cache_max_bytes, config.mount.attribute_timeout),
        (128 << 20, Duration::from_secs(7))
    );
}

#[test]
fn rules_between_keys() {
    for (variables, what) in [
        (
            &[("TENANT_INIT_MOUNT__PATH", "/")][..],
            "mount.path (environment variable TENANT_INIT_MOUNT__PATH): is the root",
        ),
        (&[("TENANT_INIT_MOUNT__PATH", "/proc/x")], "directory of the kernel"),
        (&[("TENANT_INIT_MOUNT__PATH", "data")], "is not an absolute path"),
        (
            &[("TENANT_INIT_MOUNT__CACHE_DIR", "/data/cache")],
            "mount.cache_dir (environment variable TENANT_INIT_MOUNT__CACHE_DIR): lies inside mount.path",
        ),
        (&[("TENANT_INIT_MOUNT__RUN_DIR", "/data")], "lies inside mount.path"),
        (&[("TENANT_INIT_APP__CONFIG_DIR", "/data/x")], "lies inside mount.path"),
        (
            &[("TENANT_INIT_MOUNT__PATH", "/var")],
            "holds the default of mount.cache_dir and app.config_dir",
        ),
        (
            &[("TENANT_INIT_MOUNT__PATH", "/run/tenant-init/data")],
            "lies inside mount.run_dir",
        ),
        (&[("TENANT_INIT_CREDENTIALS__FILE", "/data/b.json")], "credentials.file"),
        (
            &[("TENANT_INIT_MOUNT__RUN_DIR", "/var/lib/tenant-init/cache")],
            "same directory as mount.cache_dir",
        ),
        (
            &[(
                "TENANT_INIT_MOUNT__RUN_DIR",
                "/run/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            )],
            "longer than 80 bytes",
        ),
        (
            &[("TENANT_INIT_MOUNT__WRITE_BACK", "61s")],
            "more than limits.uploads_max_age",
        ),
        (
            &[("TENANT_INIT_LIMITS__UPLOADS_READ_ONLY_AGE", "30s")],
            "less than limits.uploads_max_age",
        ),
        (
            &[("TENANT_INIT_APP__PORT", "9180")],
            "app.port (environment variable TENANT_INIT_APP__PORT): is the same port as health.listen",
        ),
        (&[("TENANT_INIT_DEV__S3_PORT", "8000")], "is the same port as app.port"),
        (
            &[("TENANT_INIT_APP__PASS_ENVIRONMENT", "LANG,DATABASE_URL")],
            "names DATABASE_URL, a credential",
        ),
        (
            &[("TENANT_INIT_APP__ENVIRONMENT__AWS_SECRET_ACCESS_KEY", "x")],
            "is a credential of tenant-init",
        ),
        (&[("TENANT_INIT_APP__USER", "a b")], "app.user"),
        (&[("TENANT_INIT_HEALTH__LISTEN", "9180")], "allowed: IP:port"),
        (
            &[("TENANT_CREDENTIALS_URL", "http://broker.example/x")],
            "credentials.url (environment variable TENANT_CREDENTIALS_URL)",
        ),
        (
            &[("TENANT_INIT_CREDENTIALS__SOURCE", "broker")],
            "set TENANT_CREDENTIALS_URL",
        ),
        (&[("TENANT_INIT_CREDENTIALS__SOURCE", "file")], "name the bundle"),
        (
            &[
                ("TENANT_CREDENTIALS_URL", "https://b/"),
                ("TENANT_INIT_CREDENTIALS__FILE", "/b"),
            ],
            "set it to `file` or `broker`",
        ),
        (
            &[("TENANT_INIT_CREDENTIALS__SOURCE", "borker")],
            "did you mean `broker`?",
        ),
    ] {
        let text = errors_of(variables);
        assert!(text.contains(what), "{what} is not in: {text}");
        assert!(text.contains("1 error:"), "follow-up errors: {text}");
    }
    // A directory beside the mount is not inside it, and dev's ports are no business of a production tenant.
    assert!(
        load(&environment(&[
            ("TENANT_INIT_MOUNT__CACHE_DIR", "/data-cache"),
            ("TENANT_INIT_APP__PORT", "8080")
        ]))
        .is_ok()
    );
    let dev = Sources {
        dev: true,
        ..environment(&[("TENANT_INIT_APP__PORT", "8080")])
    };
    assert!(
        load(&dev)
            .unwrap_err()
            .to_string()
            .contains("dev.database_port (default): is the same port as app.port")
    );
}

#[test]
fn the_credentials_source_follows_from_what_is_given() {
    let config = load(&environment(&[(
        "TENANT_CREDENTIALS_URL",
        "https://b.example:8443/t/acme?x=tsec",
    )]))
    .unwrap();
    let Credentials::Broker {
        url,
        audience,
        timeout,
        fly_api,
    } = config.credentials
    else {
        panic!("{config:?}")
    };
    assert_eq!(url, "https://b.example:8443/t/acme?x=tsec");
    assert_eq!(audience, "https://b.example:8443");
    assert_eq!(
        (timeout, fly_api),
        (Duration::from_secs(10), PathBuf::from("/.fly/api"))
    );
    let config = load_toml("credentials.file = '/b.json'").unwrap();
    assert!(matches!(config.credentials, Credentials::File(path) if *path == *"/b.json"));
    let explicit = [
        ("TENANT_CREDENTIALS_URL", "https://b/"),
        ("TENANT_INIT_CREDENTIALS__SOURCE", "env"),
    ];
    assert!(matches!(
        load(&environment(&explicit)).unwrap().credentials,
        Credentials::Env
    ));
}

#[test]
fn files_that_cannot_be_read() {
    let missing = PathBuf::from("/nonexistent/t.toml");
    let named = Sources {
        file: Some(missing.clone()),
        ..Sources::default()
    };
    assert!(
        load(&named)
            .unwrap_err()
            .to_string()
            .contains("--config (/nonexistent/t.toml): cannot be read")
    );
    assert!(
        load(&Sources {
            default_file: Some(missing),
            ..Sources::default()
        })
        .is_ok()
    );
    let directory = Sources {
        file: Some("/".into()),
        ..Sources::default()
    };
    assert!(load(&directory).unwrap_err().to_string().contains("cannot be read"));
    let device = Sources {
        file: Some("/dev/zero".into()),
        ..Sources::default()
    };
    assert!(load(&device).is_err());
}

#[test]
fn our_own_variables_are_no_configuration_and_empty_ones_are_unset() {
    let variables = [
        ("TENANT_INIT__GUARDIAN", "3"),
        ("TENANT_INIT_BIN", "/x"),
        ("TENANT_INIT_GUARDIAN_FD", "3"),
        ("TENANT_INIT_APP__PORT", ""),
        ("TENANT_ID", ""),
        ("TENANT_INIT_APP__ENVIRONMENT__EMPTY", ""),
    ];
    let config = load(&environment(&variables)).unwrap();
    assert_eq!((config.app.port, config.tenant.id.as_deref()), (8000, None));
    assert_eq!(config.app.environment["EMPTY"], "");
}

/// Both ends of every range and every word of every choice make a configuration, so `build` reads every key as the
/// type that the table says, and no number is cut.
#[test]
fn everything_the_table_allows_is_accepted() {
    for key in KEYS {
        let candidates: Vec<String> = match key.kind {
            Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
            Kind::Count { min, max } => vec![min.to_string(), max.to_string()],
            Kind::Port => vec!["1".to_owned(), "65535".to_owned()],
            Kind::Duration { max, .. } if key.name != "mount.write_back" => vec![format!("{max}ms")],
            Kind::Size { min } => vec![min.to_string(), "4T".to_owned()],
            Kind::Duration { .. } => vec!["2s".to_owned(), "3s".to_owned()],
            Kind::Path => vec!["/p/one".to_owned(), "/p/two".to_owned()],
            Kind::Program | Kind::Command | Kind::Names => vec!["one".to_owned(), "two".to_owned()],
            Kind::Address => vec!["0.0.0.0:0".to_owned(), "[::1]:65535".to_owned()],
            Kind::Text { check, .. } if check("https://one") && !check("one") => {
                vec!["https://one".to_owned(), "https://two".to_owned()]
            }
            Kind::Text { .. } => vec!["one".to_owned(), "two".to_owned()],
            Kind::Variables => continue,
        };
        let mut seen = std::collections::BTreeSet::new();
        for candidate in &candidates {
            let mut sources = environment(&[]);
            let flag = |key: &str, text: &str| Flag {
                key: key.into(),
                name: "--x".into(),
                value: FlagValue::Text(text.into()),
            };
            sources.flags = vec![flag(key.name, candidate)];
            match key.name {
                "credentials.source" => {
                    sources
                        .flags
                        .extend([flag("credentials.file", "/b"), flag("credentials.url", "https://b/")]);
                }
                "credentials.audience" | "credentials.timeout" | "credentials.fly_api" => {
                    sources.flags.push(flag("credentials.url", "https://b/"));
                }
                _ => {}
            }
            let config = load(&sources).unwrap_or_else(|errors| panic!("{}: {errors}", key.name));
            seen.insert(format!("{config:?}"));
        }
        assert_eq!(seen.len(), candidates.len(), "{}: two values mean the same", key.name);
    }
}

#[test]
fn debug_of_the_configuration_hides_what_may_be_secret() {
    let url = "https://b.example/acme?key=tsec_abc";
    let variables = [
        ("TENANT_INIT_APP__ENVIRONMENT__API", "tsec_abc"),
        ("TENANT_CREDENTIALS_URL", url),
    ];
    let loaded = load_explained(&environment(&variables)).unwrap();
    assert!(!format!("{:?}", explain(&loaded)).contains("tsec_abc"));
    let config = loaded.config;
    let text = format!("{config:?}");
    assert!(text.contains("\"API\"") && !text.contains("tsec_abc"), "{text}");
}

proptest! {
    /// Whatever a variable holds, an error does not repeat it: people paste secrets into the wrong one.
    #[test]
    fn no_error_repeats_a_value(secret in "[A-Za-z0-9/+=_!]{20,60}", at in 0..KEYS.len()) {
        let name = keys::variable(KEYS[at].name);
        for value in [secret.clone(), format!("[\"{secret}"), format!("'{secret}"), format!("/{secret}/../x")] {
            if let Err(errors) = load(&environment(&[(&name, &value)])) {
                prop_assert!(!errors.to_string().contains(&secret), "{errors}");
                let shown = format!("{errors:?}");
            prop_assert!(!shown.contains(&secret));
            }
        }
        let mut text = String::new();
        writeln!(text, "{} = \"{secret}\"", KEYS[at].name).unwrap();
        if let Err(errors) = load_toml(&text) {
            prop_assert!(!errors.to_string().contains(&secret), "{errors}");
        }
    }

    /// A text key takes any well-formed text from the environment as it is, however much it looks like something else.
    #[test]
    fn text_from_the_environment_keeps_its_form(id in "[0-9]{1,20}|true|false|null|[0-9]e[0-9]|0x[0-9a-f]{1,8}") {
        let config = load(&environment(&[("TENANT_ID", &id)])).unwrap();
        prop_assert_eq!(config.tenant.id, Some(id));
    }

    /// For any subset of layers that set a key, the last one wins.
    #[test]
    fn the_last_layer_wins(file in any::<bool>(), variable in any::<bool>(), flag in any::<bool>()) {
        let (_directory, mut sources) = toml(if file { "app.port = 1001\n" } else { "" });
        if variable {
            sources.environment = [("TENANT_INIT_APP__PORT", "1002")].into_iter().collect();
        }
        if flag {
            sources.flags.push(Flag { key: "app.port".into(), name: "--port".into(), value: FlagValue::Text("1003".into()) });
        }
        let expected = if flag { 1003 } else if variable { 1002 } else if file { 1001 } else { 8000 };
        prop_assert_eq!(load(&sources).unwrap().app.port, expected);
    }

    #[test]
    fn any_file_is_answered_without_panic(text in "[\\[\\]a-z.=\"'{}# \n0-9-]{0,80}") {
        let _ = load_toml(&text);
    }
}

#[test]
fn every_default_is_valid_and_listed_as_given() {
    for key in KEYS {
        if let KeyDefault::Value(text) = key.default {
            let parsed = super::values::parse(key.kind, &figment::value::Value::from(text));
            assert!(parsed.is_ok(), "{}: {parsed:?}", key.name);
        }
    }
}
