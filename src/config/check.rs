//! Rules between keys. Each is reported at the key that should change.

use std::path::Path;

use super::build::Reader;
use super::{Config, Credentials, values};

/// Directories of the kernel, where a mount would hide what the machine runs on.
const SYSTEM: &[&str] = &["/proc", "/sys", "/dev"];

/// Longest `mount.run_dir`: a socket's path has 107 bytes (unix(7)), and ours have names of their own below it.
pub(super) const LONGEST_RUN_DIR: usize = 80;

/// Reports what single values cannot show.
pub(super) fn across(config: &Config, dev: bool, reader: &mut Reader<'_>) {
    mount_path(config, reader);
    directories(config, dev, reader);
    durations(config, reader);
    ports(config, dev, reader);
    environment(config, reader);
}

fn mount_path(config: &Config, reader: &mut Reader<'_>) {
    let path = &config.mount.path;
    if !reader.is_good(&["mount.path"]) {
        return;
    }
    if path == Path::new("/") {
        reader.wrong(
            "mount.path",
            "is the root of the file system",
            "name a directory that only the mount uses",
        );
    } else if SYSTEM.iter().any(|system| path.starts_with(system)) {
        reader.wrong(
            "mount.path",
            "lies in a directory of the kernel",
            "name a directory that only the mount uses",
        );
    }
}

fn directories(config: &Config, dev: bool, reader: &mut Reader<'_>) {
    let mut local: Vec<(&'static str, &Path, &str)> = vec![
        (
            "mount.cache_dir",
            &config.mount.cache_dir,
            "the cache would be uploaded into itself",
        ),
        ("mount.run_dir", &config.mount.run_dir, "the key would be uploaded"),
        ("app.config_dir", &config.app.config_dir, "the index needs a local disk"),
    ];
    if dev || reader.is_given("dev.dir") {
        local.push(("dev.dir", &config.dev.dir, "the bucket would lie inside itself"));
    }
    if let Credentials::File(file) = &config.credentials {
        local.push(("credentials.file", file, "it is needed before there is a mount"));
    }
    local.retain(|(key, path, _)| reader.is_good(&["mount.path", key]) && path.starts_with(&config.mount.path));
    // Whoever gave only the mount's path cannot know which defaults it collides with.
    let (given, defaults): (Vec<_>, Vec<_>) = local.into_iter().partition(|(key, ..)| reader.is_given(key));
    if !defaults.is_empty() {
        let keys: Vec<_> = defaults.iter().map(|(key, ..)| *key).collect();
        let what = format!("holds the default of {}, which needs a local disk", keys.join(" and "));
        reader.wrong("mount.path", what, "name another directory, or give those keys too");
    }
    for (key, _, why) in given {
        reader.wrong(
            key,
            format!("lies inside mount.path: {why}"),
            "name a directory on a local disk",
        );
    }
    for (key, path) in [
        ("mount.cache_dir", &config.mount.cache_dir),
        ("mount.run_dir", &config.mount.run_dir),
    ] {
        if reader.is_good(&["mount.path", key]) && config.mount.path.starts_with(path) {
            let what = format!("lies inside {key}");
            reader.wrong("mount.path", what, "name a directory that only the mount uses");
        }
    }
    if reader.is_good(&["mount.cache_dir", "mount.run_dir"]) && config.mount.cache_dir == config.mount.run_dir {
        reader.wrong(
            "mount.run_dir",
            "is the same directory as mount.cache_dir",
            "the cache survives a restart, this does not",
        );
    }
    if config.mount.run_dir.as_os_str().len() > LONGEST_RUN_DIR {
        let what = format!("is longer than {LONGEST_RUN_DIR} bytes: sockets below it would not fit into their 107");
        reader.wrong("mount.run_dir", what, "name a shorter directory");
    }
}

fn durations(config: &Config, reader: &mut Reader<'_>) {
    let (write_back, max_age) = (config.mount.write_back, config.limits.uploads_max_age);
    if reader.is_good(&["mount.write_back", "limits.uploads_max_age"]) && write_back > max_age {
        let what = "is more than limits.uploads_max_age: every write would make the tenant not ready";
        let allowed = format!(
            "at most {}, or raise limits.uploads_max_age",
            values::render_duration(max_age)
        );
        reader.wrong("mount.write_back", what, allowed);
    }
    // The default gives way to a larger `uploads_max_age`; what was given must make sense.
    if reader.is_good(&["limits.uploads_max_age", "limits.uploads_read_only_age"])
        && reader.is_given("limits.uploads_read_only_age")
        && config.limits.uploads_read_only_age.is_some_and(|age| age < max_age)
    {
        let what = "is less than limits.uploads_max_age: the mount would be read-only before the tenant is not ready";
        let allowed = format!("at least {}, or 0 for never", values::render_duration(max_age));
        reader.wrong("limits.uploads_read_only_age", what, allowed);
    }
}

fn ports(config: &Config, dev: bool, reader: &mut Reader<'_>) {
    let mut taken = vec![
        ("health.listen", config.health.listen.port()),
        ("app.port", config.app.port),
    ];
    // Only `dev` listens on these; elsewhere their defaults must not forbid a port to the app.
    if dev || reader.is_given("dev.s3_port") || reader.is_given("dev.database_port") {
        taken.extend([
            ("dev.s3_port", config.dev.s3_port),
            ("dev.database_port", config.dev.database_port),
        ]);
    }
    for (at, (key, port)) in taken.iter().enumerate().skip(1) {
        for (other, other_port) in &taken[..at] {
            if port == other_port && *port != 0 && reader.is_good(&[key, other]) {
                reader.wrong(
                    key,
                    format!("is the same port as {other}"),
                    "every server needs a port of its own",
                );
            }
        }
    }
}

fn environment(config: &Config, reader: &mut Reader<'_>) {
    let secret = crate::credentials::scrub_environment_names();
    let passed = config
        .app
        .pass_environment
        .iter()
        .find(|name| secret.contains(&name.as_str()));
    if let Some(name) = passed {
        let rule = "the app gets its data through the mount and the index, never the key itself";
        reader.wrong(
            "app.pass_environment",
            format!("names {name}, a credential of tenant-init"),
            rule,
        );
    }
}
