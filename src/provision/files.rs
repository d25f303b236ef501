//! The bundle and, until it is complete and was tried, `FILE.pending` beside it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::error::ProvisionError;
use crate::credentials::{self, Bundle};
use crate::exit::Exit;

/// Where a tenant's bundle is kept.
#[derive(Debug, Clone)]
pub(super) struct Files {
    bundle: PathBuf,
    pending: PathBuf,
}

impl Files {
    pub(super) fn new(bundle: &Path) -> Files {
        Files {
            bundle: bundle.to_owned(),
            pending: beside(bundle, ".pending"),
        }
    }

    /// Can something be written there? Better asked before a key is made than after it.
    pub(super) fn check(&self) -> Result<(), ProvisionError> {
        let probe = beside(&self.bundle, ".new");
        private(&probe)
            .and_then(|_| fs::remove_file(&probe))
            .map_err(|error| unwritten(&self.bundle, &error))
    }

    /// The bundle in its place; `None` when there is none.
    pub(super) async fn bundle(&self, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
        read(&self.bundle, tenant).await
    }

    /// The bundle that is being made; `None` when there is none.
    pub(super) async fn pending(&self, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
        read(&self.pending, tenant).await
    }

    /// Keeps `bundle` as the pending one. On the disk when this returns.
    pub(super) fn keep(&self, bundle: &Bundle) -> Result<(), ProvisionError> {
        replace(&self.pending, &credentials::render(bundle)).map_err(|error| unwritten(&self.pending, &error))
    }

    /// Puts the pending bundle into its place.
    pub(super) fn place(&self) -> Result<(), ProvisionError> {
        fs::rename(&self.pending, &self.bundle)
            .and_then(|()| sync_folder(&self.bundle))
            .map_err(|error| unwritten(&self.bundle, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.bundle
    }
}

fn unwritten(path: &Path, error: &io::Error) -> ProvisionError {
    let todo = "name a file with --bundle that can be written, in a folder of yours";
    ProvisionError::new(
        Exit::Config,
        format!("writing {}", path.display()),
        error.to_string(),
        todo,
    )
}

async fn read(path: &Path, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => Ok(Some(credentials::read_file(path, Some(tenant)).await?)),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A new file that only we may read.
fn private(path: &Path) -> io::Result<File> {
    // What a killed run left, or a link that somebody else has put there.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn replace(path: &Path, text: &SecretString) -> io::Result<()> {
    let fresh = beside(path, ".new");
    let mut file = private(&fresh)?;
    file.write_all(text.expose_secret().as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::credentials::Storage;

    fn bundle() -> Bundle {
        Bundle {
            tenant_id: Some("acme".to_owned()),
            storage: Storage {
                bucket: "tenant-acme".to_owned(),
                endpoint: "https://t3.storage.dev".to_owned(),
                region: "auto".to_owned(),
                access_key_id: "tid_one".to_owned().into(),
                secret_access_key: "tsec_one".to_owned().into(),
            },
            index: None,
            expires_at: None,
        }
    }

    #[tokio::test]
    async fn a_bundle_is_pending_then_in_its_place_and_only_ours_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let files = Files::new(&path);
        files.check().unwrap();
        assert!(files.bundle("acme").await.unwrap().is_none());
        files.keep(&bundle()).unwrap();
        let mode = fs::metadata(folder.path().join("acme.json.pending"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(files.bundle("acme").await.unwrap().is_none() && files.pending("acme").await.unwrap().is_some());
        files.place().unwrap();
        assert!(files.bundle("acme").await.unwrap().is_some() && files.pending("acme").await.unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = files.bundle("other").await.unwrap_err();
        assert_eq!(error.exit, Exit::Refused, "another tenant's bundle is not overwritten");
    }

    #[test]
    fn a_link_in_the_way_is_not_followed_and_a_folder_that_is_not_there_is_said_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("b.json"), folder.path().join("elsewhere"));
        symlink(&elsewhere, folder.path().join("b.json.pending.new")).unwrap();
        Files::new(&path).keep(&bundle()).unwrap();
        assert!(!elsewhere.exists());
        let error = Files::new(&folder.path().join("missing/b.json")).check().unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert!(error.to_string().contains("missing/b.json"), "{error}");
    }
}
