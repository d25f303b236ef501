//! The environment as a value.
//!
//! It is read once, in one place; everything below takes it as an argument, so tests feed a map and no module can
//! pick up a variable behind the loader's back. `Debug` prints names only: most values here are secrets.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

/// Variables by name.
#[derive(Clone, Default)]
pub struct Environment {
    /// `None`: the value is not UTF-8.
    variables: BTreeMap<String, Option<String>>,
}

/// A variable's value is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is not UTF-8")]
pub struct NotUtf8;

impl Environment {
    /// The environment of this process. Variables whose *name* is not UTF-8 are left out: none of ours is.
    #[must_use]
    pub fn process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of `name`. A variable that is set to nothing counts as not set: that is what `NAME=${NAME:-}` in a
    /// compose file and an emptied secret mean.
    pub fn get(&self, name: &str) -> Result<Option<&str>, NotUtf8> {
        match self.variables.get(name) {
            None => Ok(None),
            Some(None) => Err(NotUtf8),
            Some(Some(value)) => Ok(Some(value.as_str()).filter(|value| !value.is_empty())),
        }
    }

    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables.keys().map(String::as_str)
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let variables = variables
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok())))
            .collect();
        Self { variables }
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Environment {
    fn from_iter<I: IntoIterator<Item = (&'a str, &'a str)>>(variables: I) -> Self {
        variables
            .into_iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)))
            .collect()
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::{Environment, NotUtf8};

    #[test]
    fn empty_is_unset_and_not_utf8_is_an_error() {
        let mut pairs: Vec<(OsString, OsString)> = vec![("A".into(), "".into()), ("B".into(), "b".into())];
        pairs.push(("C".into(), OsString::from_vec(vec![0xff])));
        let environment: Environment = pairs.into_iter().collect();
        assert_eq!(environment.get("A"), Ok(None));
        assert_eq!(environment.get("B"), Ok(Some("b")));
        assert_eq!(environment.get("C"), Err(NotUtf8));
        assert_eq!(environment.get("D"), Ok(None));
    }

    #[test]
    fn debug_prints_names_only() {
        let environment: Environment = [("AWS_SECRET_ACCESS_KEY", "hunter2")].into_iter().collect();
        assert_eq!(format!("{environment:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
