//! Source `file`: a JSON bundle on a local disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use jiff::Timestamp;

use super::error::{CredentialsError, Fault, Origin};
use super::{Bundle, bundle, secret};

/// The bundle in `path`.
pub(crate) async fn read(path: &Path, tenant: Option<&str>) -> Result<Bundle, CredentialsError> {
    let origin = Origin::File(path.to_owned());
    let bytes = match secret::read_bounded(path, bundle::LARGEST).await {
        Ok(bytes) => bytes,
        Err(error) => {
            let todo = "set credentials.file to a bundle that we may read";
            let faults = vec![Fault::new("the bundle", format!("cannot be read: {error}"), todo)];
            return Err(CredentialsError::Wrong { origin, faults });
        }
    };
    warn_when_others_can_read(path).await;
    bundle::parse(&bytes, origin, tenant, Timestamp::now())
}

/// Only a warning: secrets that an orchestrator mounts into a container are often readable by all.
async fn warn_when_others_can_read(path: &Path) {
    let mode = tokio::fs::metadata(path)
        .await
        .map(|metadata| metadata.permissions().mode());
    if let Ok(mode) = mode
        && is_open(mode)
    {
        let mode = format!("{:04o}", mode & 0o7777);
        tracing::warn!(path = %path.display(), mode, "others can read the credentials file: chmod 0600 it");
    }
}

fn is_open(mode: u32) -> bool {
    mode & 0o044 != 0
}

#[cfg(test)]
mod tests {
    use super::{is_open, read};
    use crate::exit::Exit;

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.json");
        for path in [missing.as_path(), directory.path()] {
            let error = read(path, None).await.unwrap_err();
            assert_eq!(error.exit(), Exit::Config);
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[test]
    fn group_and_others_count_as_others() {
        assert!(is_open(0o640) && is_open(0o604) && is_open(0o100_644));
        assert!(!is_open(0o600) && !is_open(0o100_400));
    }
}
