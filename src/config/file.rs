//! The TOML file, with the line of every key.
//!
//! toml_edit is used directly, not through figment's `Toml` provider: that one knows no lines, and its syntax errors
//! quote the offending line, which may hold a secret somebody put there.

use std::path::Path;

use figment::value::{Dict, Value};
use toml_edit::{Document, Item, TableLike};

use super::errors::{Problem, Source};
use super::keys::{self, Kind, SECTIONS};
use super::layers::Entry;

/// Every value of `text` as an entry, or the one syntax error.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, Problem> {
    let document = Document::parse(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        let source = Source::File {
            path: path.to_owned(),
            line,
        };
        // The first line says what is wrong; the rest draws the place, contents included.
        let what = error.message().lines().next().unwrap_or("cannot be read").to_owned();
        Problem::new(
            "TOML",
            source,
            format!("is not valid TOML: {what}"),
            "see https://toml.io for the syntax",
        )
    })?;
    let mut walk = Walk {
        path,
        text,
        entries: Vec::new(),
    };
    walk.table("", document.as_table());
    Ok(walk.entries)
}

struct Walk<'a> {
    path: &'a Path,
    text: &'a str,
    entries: Vec<Entry>,
}

impl Walk<'_> {
    /// Tables only group: `[mount] path = …`, `mount.path = …` and `mount = { path = … }` are the same key.
    fn table(&mut self, prefix: &str, table: &dyn TableLike) {
        for (name, item) in table.iter() {
            let key = if prefix.is_empty() {
                name.to_owned()
            } else {
                format!("{prefix}.{name}")
            };
            if let Some(table) = item
                .as_table_like()
                .filter(|table| !table.is_empty() || may_be_empty(&key))
            {
                self.table(&key, table);
                continue;
            }
            let span = table.key(name).and_then(toml_edit::Key::span).or_else(|| item.span());
            let line = span.map(|span| line_of(self.text, span.start));
            let source = Source::File {
                path: self.path.to_owned(),
                line,
            };
            self.entries.push(Entry {
                key,
                value: value(item),
                source,
            });
        }
    }
}

/// An empty table says nothing; one where no table belongs must still be refused.
fn may_be_empty(key: &str) -> bool {
    SECTIONS.iter().any(|(name, _)| *name == key)
        || keys::find(key).is_some_and(|key| matches!(key.kind, Kind::Variables))
}

/// `item` for figment. What no key can be (a date, a list of tables) becomes an empty table, which every type refuses.
fn value(item: &Item) -> Value {
    match item {
        Item::Value(value) => plain(value),
        _ => Value::from(Dict::new()),
    }
}

fn plain(value: &toml_edit::Value) -> Value {
    match value {
        toml_edit::Value::String(text) => Value::from(text.value().as_str()),
        toml_edit::Value::Integer(number) => Value::from(*number.value()),
        toml_edit::Value::Float(number) => Value::from(*number.value()),
        toml_edit::Value::Boolean(flag) => Value::from(*flag.value()),
        toml_edit::Value::Array(items) => Value::from(items.iter().map(plain).collect::<Vec<_>>()),
        _ => Value::from(Dict::new()),
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()
        .iter()
        .take(offset)
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Source, parse};

    #[test]
    fn every_key_has_its_line_however_it_is_written() {
        let text = "mount.path = '/data'\n\n[app]\nport = 1\nenvironment = { A = 'b' }\n[log]\n[nonsense]\n";
        let entries = parse(Path::new("t.toml"), text).unwrap();
        let found: Vec<_> = entries
            .iter()
            .map(|entry| (entry.key.as_str(), entry.source.to_string()))
            .collect();
        assert_eq!(
            found,
            [
                ("mount.path", "t.toml line 1".to_owned()),
                ("app.port", "t.toml line 4".to_owned()),
                ("app.environment.A", "t.toml line 5".to_owned()),
                ("nonsense", "t.toml line 7".to_owned()),
            ]
        );
    }

    #[test]
    fn a_syntax_error_has_its_line_and_not_its_text() {
        for text in [
            "a = 1\nsecret = tsec_abcdef",
            "a = 1\nb = \"tsec_abcdef",
            "a = 1\n[tsec_abcdef",
            "\ntsec_abcdef",
        ] {
            let problem = parse(Path::new("t.toml"), text).unwrap_err();
            assert!(
                matches!(problem.source, Source::File { line: Some(2 | 3), .. }),
                "{problem}"
            );
            assert!(!problem.to_string().contains("tsec"), "{problem}");
        }
    }
}
