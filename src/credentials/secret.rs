//! One secret from the environment: `NAME`, or a file named by `NAME_FILE`.
//!
//! figment never sees these: it guesses types and prints values in errors.

use std::path::Path;

use secrecy::SecretString;
use tokio::io::AsyncReadExt;

use super::error::Fault;
use crate::config::{Environment, syntax};

/// No secret of ours is longer; a file that is must be something else.
const LONGEST: u64 = 64 * 1024;

/// The value of `name`, `None` when neither it nor `NAME_FILE` is set.
pub(crate) async fn read(environment: &Environment, name: &str) -> Result<Option<SecretString>, Fault> {
    let file_name = format!("{name}_FILE");
    let not_utf8 = |name: &str| Fault::new(name, "is not UTF-8", "set it to plain ASCII text");
    let value = environment.get(name).map_err(|_| not_utf8(name))?;
    let file = environment.get(&file_name).map_err(|_| not_utf8(&file_name))?;
    match (value, file) {
        (None, None) => Ok(None),
        (Some(_), Some(_)) => {
            let what = format!("is set and {file_name} is set too");
            Err(Fault::new(name, what, "set one of the two"))
        }
        (Some(value), None) => check(name, value, "set it again without line breaks and spaces around it").map(Some),
        (None, Some(path)) => from_file(&file_name, Path::new(path)).await.map(Some),
    }
}

async fn from_file(name: &str, path: &Path) -> Result<SecretString, Fault> {
    let wrong = |what: String, todo: &str| Fault::new(name, format!("names {}, which {what}", path.display()), todo);
    let bytes = read_bounded(path, LONGEST).await.map_err(|error| {
        wrong(
            format!("cannot be read: {error}"),
            "name a file that holds the value and that we may read",
        )
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        wrong(
            "is not UTF-8".to_owned(),
            "the file must hold the value and nothing else",
        )
    })?;
    let text = text
        .strip_suffix('\n')
        .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if text.is_empty() {
        return Err(wrong("is empty".to_owned(), "write the value into it"));
    }
    check(
        &format!("{name} ({})", path.display()),
        text,
        "the file must hold the value and nothing else",
    )
}

/// Refuses what no secret of ours contains: a pasted line break or blank would only fail later, as a wrong signature.
fn check(object: &str, text: &str, todo: &str) -> Result<SecretString, Fault> {
    if !syntax::is_printable(text) {
        return Err(Fault::new(object, "has characters that are not printable ASCII", todo));
    }
    if text.trim() != text {
        return Err(Fault::new(object, "begins or ends with a space", todo));
    }
    Ok(SecretString::from(text))
}

/// The bytes of `path`, at most `limit`.
pub(super) async fn read_bounded(path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    tokio::fs::File::open(path)
        .await?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .await?;
    if bytes.len() as u64 > limit {
        let what = format!("it is larger than {} KiB", limit / 1024);
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::read;
    use crate::config::Environment;

    async fn from_contents(contents: &[u8]) -> Result<String, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, contents).unwrap();
        let environment: Environment = [("KEY_FILE", path.to_str().unwrap())].into_iter().collect();
        let read = read(&environment, "KEY").await;
        read.map(|secret| secret.unwrap().expose_secret().to_owned())
            .map_err(|fault| fault.to_string())
    }

    #[tokio::test]
    async fn exactly_one_newline_is_trimmed() {
        assert_eq!(from_contents(b"abc").await.unwrap(), "abc");
        assert_eq!(from_contents(b"abc\n").await.unwrap(), "abc");
        assert_eq!(from_contents(b"abc\r\n").await.unwrap(), "abc");
        assert!(from_contents(b"abc\n\n").await.unwrap_err().contains("not printable"));
    }

    #[tokio::test]
    async fn unusable_files_are_named_and_not_quoted() {
        for (contents, what) in [
            (&b"\n"[..], "is empty"),
            (b"", "is empty"),
            (b"tsec\x07x", "not printable"),
            (b"tsec\xff", "not UTF-8"),
            (b" tsec", "begins or ends"),
            (&[b't'; 70_000], "larger than 64 KiB"),
        ] {
            let error = from_contents(contents).await.unwrap_err();
            assert!(
                error.contains(what) && error.contains("KEY_FILE") && !error.contains("tsec"),
                "{error}"
            );
        }
        let environment: Environment = [("KEY_FILE", "/nonexistent/key")].into_iter().collect();
        let error = read(&environment, "KEY").await.unwrap_err().to_string();
        assert!(
            error.contains("/nonexistent/key") && error.contains("No such file"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn both_is_an_error_and_neither_is_none() {
        let both: Environment = [("KEY", "tsec_value"), ("KEY_FILE", "/x")].into_iter().collect();
        let error = read(&both, "KEY").await.unwrap_err().to_string();
        assert!(
            error.contains("set one of the two") && !error.contains("tsec_value"),
            "{error}"
        );
        assert!(read(&Environment::default(), "KEY").await.unwrap().is_none());
        let empty: Environment = [("KEY", ""), ("KEY_FILE", "")].into_iter().collect();
        assert!(read(&empty, "KEY").await.unwrap().is_none());
    }
}
