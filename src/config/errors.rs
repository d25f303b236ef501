//! What can be wrong with a configuration, and where each value came from.
//!
//! An error names the key, the source and the rule. It never repeats the value: people paste secrets into the wrong
//! variable, and errors end in logs.

use std::fmt;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave it.
    Default,
    /// A line of the TOML file.
    File {
        /// The file as it was named.
        path: PathBuf,
        /// First line is 1; `None` when the whole file is meant.
        line: Option<usize>,
    },
    /// A variable.
    Environment(String),
    /// A flag, as it is typed.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => write!(f, "default"),
            Source::File { path, line: Some(line) } => write!(f, "{} line {line}", path.display()),
            Source::File { path, line: None } => write!(f, "{}", path.display()),
            Source::Environment(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`, or what the source calls it when it is no key.
    pub key: String,
    /// Where the value came from.
    pub source: Source,
    /// What is wrong, without the value.
    pub what: String,
    /// What is allowed, or what to do.
    pub allowed: String,
}

impl Problem {
    pub(super) fn new(
        key: impl Into<String>,
        source: Source,
        what: impl Into<String>,
        allowed: impl Into<String>,
    ) -> Self {
        Self {
            key: printable(&key.into()),
            source,
            what: what.into(),
            allowed: allowed.into(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.key, self.source, self.what)?;
        if !self.allowed.is_empty() {
            write!(f, "; {}", self.allowed)?;
        }
        Ok(())
    }
}

/// Everything that is wrong, at once. Exit code 78.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "error" } else { "errors" };
        write!(f, "the configuration is wrong, {} {plural}:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Errors {}

impl From<Vec<Problem>> for Errors {
    fn from(problems: Vec<Problem>) -> Self {
        Self(problems)
    }
}

/// A name from outside, made safe for a log line: control characters replaced, at most 80 characters.
pub(crate) fn printable(name: &str) -> String {
    name.chars()
        .take(80)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// The candidate that is meant by `name`, if one is close enough to be worth saying.
pub(crate) fn closest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.6)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::{Errors, Problem, Source, closest, printable};

    #[test]
    fn every_problem_has_its_own_line_with_key_source_and_rule() {
        let source = Source::Environment("TENANT_INIT_APP__PORT".into());
        let problem = Problem::new("app.port", source, "is not a port", "allowed: 1 to 65535");
        let text = Errors(vec![problem.clone(), problem]).to_string();
        let line = "app.port (environment variable TENANT_INIT_APP__PORT): is not a port; allowed: 1 to 65535";
        assert_eq!(
            text,
            format!("the configuration is wrong, 2 errors:\n  {line}\n  {line}")
        );
    }

    #[test]
    fn suggestions_are_close_or_absent() {
        assert_eq!(closest("write_bak", ["write_back", "path"]), Some("write_back"));
        assert_eq!(closest("zebra", ["write_back", "path"]), None);
    }

    #[test]
    fn names_cannot_forge_log_lines() {
        assert_eq!(printable("a\nb\u{1b}[31m"), "a?b?[31m");
    }
}
