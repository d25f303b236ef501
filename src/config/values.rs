//! One value, by the key's own type.
//!
//! Environment and flags give text, TOML gives typed values. Text is never guessed at: `"0123"` for a text key stays
//! those four characters with or without quotes around it, and a number is a number only where the key is one. (figment's
//! own `Env` provider guesses, which turns an all-digit id into an integer and strips quotes.)

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use figment::value::Value;

use super::errors::closest;
use super::keys::Kind;
use super::syntax;

/// A value with its meaning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    Text(String),
    Path(PathBuf),
    Words(Vec<String>),
    Variables(BTreeMap<String, String>),
    Number(u64),
    Duration(Duration),
    Address(SocketAddr),
}

/// Why a value was refused. Never holds the value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub what: String,
    pub allowed: String,
}

/// What is allowed for `kind`, for errors and for the reference.
pub(super) fn allowed(kind: Kind) -> String {
    match kind {
        Kind::Text { allowed, .. } => allowed.to_owned(),
        Kind::Choice(words) => words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", "),
        Kind::Path => "an absolute path without `..`".to_owned(),
        Kind::Program => "an absolute path, or a name without `/` that is looked up in PATH".to_owned(),
        Kind::Command => {
            "a command line, split like a shell does (quotes, no expansion), or a list: `[\"cmd\", \"arg\"]`".to_owned()
        }
        Kind::Names => "names of variables: a list, or text with commas or spaces between them".to_owned(),
        Kind::Variables => "`NAME = \"value\"`, one key each".to_owned(),
        Kind::Port => "a port from 1 to 65535".to_owned(),
        Kind::Count { min, max } => format!("a whole number from {min} to {max}"),
        Kind::Duration { min, max, zero } => {
            let low = render_duration(Duration::from_millis(min));
            let high = render_duration(Duration::from_millis(max));
            let zero = if zero && min > 0 { "0 (never), or " } else { "" };
            format!("{zero}a duration from {low} to {high}: `500ms`, `1s`, `2m`, `1h`, or plain seconds")
        }
        Kind::Size { min: 0 } => "a size: `256MiB`, `10GiB`, `500M` (all powers of 1024), or plain bytes".to_owned(),
        Kind::Size { min } => {
            format!(
                "a size from {}: `256MiB`, `10GiB`, `500M` (all powers of 1024), or plain bytes",
                render_size(min)
            )
        }
        Kind::Address => "IP:port, such as `0.0.0.0:9180` or `[::]:9180`".to_owned(),
    }
}

/// Reads `value` as a `kind`.
pub(super) fn parse(kind: Kind, value: &Value) -> Result<Setting, Refused> {
    match (kind, value) {
        (Kind::Variables, Value::Dict(_, variables)) => parse_variables(variables),
        (Kind::Variables, _) => Err(refused("must be a table", kind)),
        (_, Value::String(_, text)) => parse_text(kind, text),
        (Kind::Command | Kind::Names, Value::Array(_, items)) => {
            let words = items
                .iter()
                .map(|item| item.as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>();
            check_words(
                kind,
                words.ok_or_else(|| refused("must hold text only: put every item in quotes", kind))?,
            )
        }
        (Kind::Port | Kind::Count { .. } | Kind::Duration { .. } | Kind::Size { .. }, Value::Num(_, number)) => {
            let text = match (number.to_u128(), number.to_i128(), number.to_f64()) {
                (Some(number), _, _) => number.to_string(),
                (_, Some(number), _) => number.to_string(),
                (_, _, Some(number)) => number.to_string(),
                _ => return Err(refused("is not a usable number", kind)),
            };
            parse_text(kind, &text)
        }
        (_, Value::Num(..) | Value::Bool(..)) => Err(refused("must be text: put it in quotes", kind)),
        (_, Value::Array(..)) => Err(refused("must be one value, not a list", kind)),
        _ => Err(refused("must be a value, not a table", kind)),
    }
}

fn parse_text(kind: Kind, text: &str) -> Result<Setting, Refused> {
    if text.contains('\0') {
        return Err(refused("holds a NUL character", kind));
    }
    match kind {
        Kind::Text { check, .. } if check(text) => Ok(Setting::Text(text.to_owned())),
        Kind::Text { .. } => Err(refused("is not well-formed", kind)),
        Kind::Choice(words) if words.contains(&text) => Ok(Setting::Text(text.to_owned())),
        Kind::Choice(words) => Err(refused(
            match closest(text, words.iter().copied()) {
                Some(word) => format!("is none of the allowed words, did you mean `{word}`?"),
                None => "is none of the allowed words".to_owned(),
            },
            kind,
        )),
        Kind::Path => absolute(text)
            .map(Setting::Path)
            .ok_or_else(|| refused("is not an absolute path", kind)),
        Kind::Program if text.contains('/') => absolute(text)
            .map(Setting::Path)
            .ok_or_else(|| refused("is not an absolute path", kind)),
        Kind::Program if text.is_empty() => Err(refused("is empty", kind)),
        Kind::Program => Ok(Setting::Path(PathBuf::from(text))),
        Kind::Command | Kind::Names => check_words(kind, split(kind, text)?),
        Kind::Variables => Err(refused("must be a table", kind)),
        Kind::Port => number(text, 1, u64::from(u16::MAX), kind, "is not a port"),
        Kind::Count { min, max } => number(text, min, max, kind, "is not a whole number in range"),
        Kind::Duration { min, max, zero } => {
            let duration = parse_duration(text).ok_or_else(|| refused("is not a duration", kind))?;
            let (low, high) = (Duration::from_millis(min), Duration::from_millis(max));
            if (zero && duration.is_zero()) || (low..=high).contains(&duration) {
                Ok(Setting::Duration(duration))
            } else {
                Err(refused("is out of range", kind))
            }
        }
        Kind::Size { min } => match parse_size(text) {
            Some(size) if size >= min => Ok(Setting::Number(size)),
            Some(_) => Err(refused("is too small", kind)),
            None => Err(refused("is not a size", kind)),
        },
        Kind::Address => text
            .parse()
            .map(Setting::Address)
            .map_err(|_| refused("is not an address", kind)),
    }
}

fn refused(what: impl Into<String>, kind: Kind) -> Refused {
    Refused {
        what: what.into(),
        allowed: format!("allowed: {}", allowed(kind)),
    }
}

fn number(text: &str, min: u64, max: u64, kind: Kind, what: &str) -> Result<Setting, Refused> {
    match text.parse::<u64>() {
        Ok(number) if (min..=max).contains(&number) => Ok(Setting::Number(number)),
        _ => Err(refused(what, kind)),
    }
}

/// Words of a command, or names of variables, from one text. A text that begins with `[` is a JSON list.
fn split(kind: Kind, text: &str) -> Result<Vec<String>, Refused> {
    if text.trim_start().starts_with('[') {
        // serde_json's own message repeats the text.
        return serde_json::from_str(text).map_err(|_| refused("is not a JSON list of text", kind));
    }
    if matches!(kind, Kind::Names) {
        let names = text.split(|c: char| c == ',' || c.is_whitespace());
        return Ok(names.filter(|name| !name.is_empty()).map(str::to_owned).collect());
    }
    shlex::split(text).ok_or_else(|| refused("has a quote that is not closed", kind))
}

fn check_words(kind: Kind, words: Vec<String>) -> Result<Setting, Refused> {
    if words.iter().any(|word| word.contains('\0')) {
        return Err(refused("holds a NUL character", kind));
    }
    if matches!(kind, Kind::Command) && words.first().is_some_and(String::is_empty) {
        return Err(refused("begins with an empty word", kind));
    }
    if matches!(kind, Kind::Names) && !words.iter().all(|word| syntax::is_variable(word)) {
        return Err(refused(format!("has a name that is not {}", syntax::VARIABLE), kind));
    }
    Ok(Setting::Words(words))
}

fn parse_variables(variables: &BTreeMap<String, Value>) -> Result<Setting, Refused> {
    let mut parsed = BTreeMap::new();
    for (name, value) in variables {
        let refused = |what: &str| refused(format!("{}: {what}", super::errors::printable(name)), Kind::Variables);
        if !syntax::is_variable(name) {
            return Err(refused(&format!("is not a variable's name ({})", syntax::VARIABLE)));
        }
        let text = value
            .as_str()
            .ok_or_else(|| refused("must be text: put it in quotes"))?;
        if text.contains('\0') {
            return Err(refused("holds a NUL character"));
        }
        parsed.insert(name.clone(), text.to_owned());
    }
    Ok(Setting::Variables(parsed))
}

/// `text` without `.` and doubled slashes, when it is absolute and has no `..` (which no check by name can see through).
fn absolute(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    let climbs = path.components().any(|part| matches!(part, Component::ParentDir));
    (path.is_absolute() && !climbs).then(|| path.components().collect())
}

/// Plain seconds (`2`, `0.5`), or jiff's friendly format (`500ms`, `1m 30s`). Never negative.
fn parse_duration(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return text
            .parse::<f64>()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    }
    Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok()
}

/// Bytes. Units are powers of 1024 in all spellings, as rclone reads them.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let shift = match text[digits..].trim_start() {
        "" | "B" => 0,
        "K" | "Ki" | "KiB" => 10,
        "M" | "Mi" | "MiB" => 20,
        "G" | "Gi" | "GiB" => 30,
        "T" | "Ti" | "TiB" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// `duration` in the largest unit that is exact.
pub(super) fn render_duration(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| milliseconds.is_multiple_of(*unit)) {
        _ if milliseconds == 0 => "0s".to_owned(),
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None => format!("{milliseconds}ms"),
    }
}

/// `bytes` in the largest unit that is exact.
pub(super) fn render_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let exact = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    exact.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const ANY: Kind = Kind::Text {
        check: |_| true,
        allowed: "anything",
    };

    fn text(kind: Kind, text: &str) -> Result<Setting, Refused> {
        parse(kind, &Value::from(text))
    }

    #[test]
    fn durations() {
        for (given, milliseconds) in [
            ("1s", 1_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h", 3_600_000),
            ("7", 7_000),
            ("0.25", 250),
            ("0", 0),
            ("1m 30s", 90_000),
        ] {
            assert_eq!(
                parse_duration(given),
                Some(Duration::from_millis(milliseconds)),
                "{given}"
            );
        }
        for bad in [
            "",
            "s",
            "-1s",
            "-1",
            "1 fortnight",
            "1s ago",
            "1mo",
            "1.2.3",
            "1e3",
            "nan",
            ".",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn sizes() {
        for (given, bytes) in [
            ("10GiB", 10 << 30),
            ("500M", 500 << 20),
            ("1 KiB", 1024),
            ("42", 42),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(given), Some(bytes), "{given}");
        }
        for bad in ["", "GiB", "-1", "1.5G", "10GB", "99999999999T", "1 Kii"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn commands_split_like_a_shell_or_come_as_a_list() {
        let words = |list: &[&str]| Ok(Setting::Words(list.iter().map(|word| (*word).to_owned()).collect()));
        assert_eq!(
            text(Kind::Command, r#"sh -c 'echo "a b"' c\ d"#),
            words(&["sh", "-c", r#"echo "a b""#, "c d"])
        );
        assert_eq!(text(Kind::Command, r#"["a b", "$HOME"]"#), words(&["a b", "$HOME"]));
        assert_eq!(text(Kind::Names, "A, B C"), words(&["A", "B", "C"]));
        assert!(text(Kind::Command, "sh 'x").is_err());
        assert!(text(Kind::Command, "[1]").is_err());
        assert!(text(Kind::Names, "A-B").is_err());
    }

    #[test]
    fn paths_are_absolute_and_do_not_climb() {
        assert_eq!(text(Kind::Path, "/a//b/./c/"), Ok(Setting::Path("/a/b/c".into())));
        for bad in ["a", "./a", "/a/../b", "~/a", ""] {
            assert!(text(Kind::Path, bad).is_err(), "{bad}");
        }
        assert_eq!(text(Kind::Program, "rclone"), Ok(Setting::Path("rclone".into())));
        assert!(text(Kind::Program, "bin/rclone").is_err());
    }

    #[test]
    fn a_near_miss_names_the_word_that_was_meant() {
        let refused = text(Kind::Choice(&["auto", "nfs", "fuse"]), "fues").unwrap_err();
        assert!(refused.what.contains("`fuse`"), "{refused:?}");
    }

    proptest! {
        #[test]
        fn text_is_never_guessed_at(given in "[ -~]{1,40}") {
            prop_assert_eq!(text(ANY, &given), Ok(Setting::Text(given)));
        }

        #[test]
        fn what_is_rendered_reads_back(milliseconds in 0_u64..10_000_000_000, bytes in any::<u64>()) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse_duration(&render_duration(duration)), Some(duration));
            prop_assert_eq!(parse_size(&render_size(bytes)), Some(bytes));
        }

        #[test]
        fn no_refusal_repeats_the_value(secret in "[A-Za-z0-9/+]{16,40}") {
            for key in super::super::keys::KEYS {
                for value in [Value::from(secret.as_str()), Value::from(vec![secret.clone()]), Value::from(format!("[{secret}"))] {
                    if let Err(refused) = parse(key.kind, &value) {
                        let shown = format!("{refused:?}");
            prop_assert!(!shown.contains(&secret));
                    }
                }
            }
        }
    }
}
