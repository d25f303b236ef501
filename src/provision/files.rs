//! The bundle and, until it is complete and was tried, `FILE.pending` beside it.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use super::error::ProvisionError;
use crate::credentials::{self, Bundle};
use crate::exit::Exit;

/// What others than the owner may do with a bundle at most: its group may read it.
const WIDEST: u32 = 0o640;

/// Where a tenant's bundle is kept.
#[derive(Debug, Clone)]
pub(super) struct Files {
    bundle: PathBuf,
    pending: PathBuf,
    lock: PathBuf,
}

impl Files {
    pub(super) fn new(bundle: &Path) -> Files {
        Files {
            bundle: bundle.to_owned(),
            pending: beside(bundle, ".pending"),
            lock: beside(bundle, ".lock"),
        }
    }

    /// Keeps a second run away until the file that is returned is closed. The file stays: who removed it would let two in.
    ///
    /// # Errors
    /// Another run has it, or there can be no file.
    pub(super) fn lock(&self) -> Result<File, ProvisionError> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let failed = |error: io::Error| unwritten(&self.lock, &error);
        let file = options
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(error)) => Err(failed(error)),
            Err(TryLockError::WouldBlock) => Err(ProvisionError::new(
                Exit::Refused,
                format!("locking {}", self.lock.display()),
                "another tenant-provision is at work on this bundle",
                "wait until it has finished",
            )),
        }
    }

    /// Can something be written there? Better asked before a key is made than after it.
    ///
    /// # Errors
    /// The folder cannot be written to, or the bundle that is there could not be replaced by one that is like it.
    pub(super) fn check(&self) -> Result<(), ProvisionError> {
        let (probe, file) = private(&self.bundle).map_err(|error| unwritten(&self.bundle, &error))?;
        let alike = self.make_alike(&file);
        fs::remove_file(&probe).map_err(|error| unwritten(&self.bundle, &error))?;
        alike
    }

    /// The bundle in its place; `None` when there is none.
    ///
    /// # Errors
    /// It cannot be read, is a link, or is another tenant's.
    pub(super) async fn bundle(&self, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
        read(&self.bundle, tenant).await
    }

    /// The bundle that is being made; `None` when there is none.
    ///
    /// # Errors
    /// As [`Files::bundle`].
    pub(super) async fn pending(&self, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
        read(&self.pending, tenant).await
    }

    /// Keeps `bundle` as the pending one. On the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written, or nobody could read it: it has values of a service that are none.
    pub(super) fn keep(&self, bundle: &Bundle) -> Result<(), ProvisionError> {
        let text = credentials::render(bundle);
        credentials::check_text(text.expose_secret().as_bytes(), &self.pending).map_err(|error| {
            let todo =
                "look at the key and the database in the consoles of the services; if they are as usual, report this";
            ProvisionError::new(
                Exit::Config,
                "making the bundle of what the services gave",
                error.to_string(),
                todo,
            )
        })?;
        replace(&self.pending, &text).map_err(|error| unwritten(&self.pending, &error))
    }

    /// Puts the pending bundle, which was `tried`, into its place. It gets owner and mode of the one that is there.
    ///
    /// # Errors
    /// It is not the one that was tried, or cannot get there.
    pub(super) async fn place(&self, tenant: &str, tried: &Bundle) -> Result<(), ProvisionError> {
        let text = |bundle: &Bundle| credentials::render(bundle).expose_secret().to_owned();
        let pending = self.pending(tenant).await?;
        if pending.as_ref().map(text) != Some(text(tried)) {
            return Err(ProvisionError::new(
                Exit::Refused,
                format!("putting {} into its place", self.pending.display()),
                "it is not the bundle that was tried: somebody else has changed it",
                "see that nobody else works on this tenant, then give the command again",
            ));
        }
        let placed = File::open(&self.pending);
        let file = placed.map_err(|error| unwritten(&self.pending, &error))?;
        self.make_alike(&file)?;
        fs::rename(&self.pending, &self.bundle)
            .and_then(|()| sync_folder(&self.bundle))
            .map_err(|error| unwritten(&self.bundle, &error))
    }

    pub(super) fn path(&self) -> &Path {
        &self.bundle
    }

    /// Gives `file` the owner, the group and the mode of the bundle that it is to replace: who reads that one, and perhaps
    /// as another user, must be able to read its successor.
    fn make_alike(&self, file: &File) -> Result<(), ProvisionError> {
        let Some(there) = regular(&self.bundle)? else {
            return Ok(());
        };
        let alike = || {
            let now = file.metadata()?;
            if (now.uid(), now.gid()) != (there.uid(), there.gid()) {
                fchown(file, Some(there.uid()), Some(there.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(there.mode() & WIDEST))
        };
        alike().map_err(|error: io::Error| {
            ProvisionError::new(
                Exit::Config,
                format!("replacing {}", self.bundle.display()),
                format!(
                    "its successor cannot get its owner {} and its group {} ({error})",
                    there.uid(),
                    there.gid()
                ),
                "give the command as this owner or as root, or change the file's owner",
            )
        })
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

/// What is at `path`; `None` when nothing is.
///
/// # Errors
/// Something that is no file. A link would be replaced, and what it leads to would stay as it was, for whoever reads that.
fn regular(path: &Path) -> Result<Option<Metadata>, ProvisionError> {
    let wrong = |why: &str| {
        let todo = "name the file itself with --bundle";
        ProvisionError::new(Exit::Config, format!("using {}", path.display()), why, todo)
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(wrong(&error.to_string())),
        Ok(there) if there.is_symlink() => Err(wrong(
            "it is a symbolic link: the link would be replaced, and who reads the file behind it would keep the old key",
        )),
        Ok(there) if there.is_file() => Ok(Some(there)),
        Ok(_) => Err(wrong("it is no file")),
    }
}

async fn read(path: &Path, tenant: &str) -> Result<Option<Bundle>, ProvisionError> {
    match regular(path)? {
        None => Ok(None),
        Some(_) => Ok(Some(credentials::read_file(path, Some(tenant)).await?)),
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// A new file beside `path` that only we may read. Its name was never there before, so nothing is removed or followed.
fn private(path: &Path) -> io::Result<(PathBuf, File)> {
    let fresh = beside(path, &format!(".{:016x}.new", fastrand::u64(..)));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)?;
    Ok((fresh, file))
}

fn replace(path: &Path, text: &SecretString) -> io::Result<()> {
    let (fresh, mut file) = private(path)?;
    let written = file
        .write_all(text.expose_secret().as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        // It holds a secret. That it cannot be removed is less than why it was not written.
        let _ = fs::remove_file(&fresh);
    }
    written?;
    sync_folder(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

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
        files.place("acme", &bundle()).await.unwrap();
        assert!(files.bundle("acme").await.unwrap().is_some() && files.pending("acme").await.unwrap().is_none());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = files.bundle("other").await.unwrap_err();
        assert_eq!(error.exit, Exit::Refused, "another tenant's bundle is not overwritten");
    }

    /// Whoever reads the bundle, perhaps as another user, reads its successor.
    #[tokio::test]
    async fn a_new_bundle_has_owner_and_mode_of_the_one_it_replaces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("acme.json");
        let files = Files::new(&path);
        for (mode, wanted) in [(0o640, 0o640), (0o600, 0o600), (0o666, 0o640), (0o400, 0o400)] {
            fs::write(&path, "{}").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let before = fs::metadata(&path).unwrap();
            // Only root may give a file away.
            let owner = if before.uid() == 0 {
                (4321, 1234)
            } else {
                (before.uid(), before.gid())
            };
            std::os::unix::fs::chown(&path, Some(owner.0), Some(owner.1)).unwrap();
            files.check().unwrap();
            files.keep(&bundle()).unwrap();
            files.place("acme", &bundle()).await.unwrap();
            let placed = fs::metadata(&path).unwrap();
            assert_eq!((placed.uid(), placed.gid()), owner);
            assert_eq!(placed.mode() & 0o777, wanted, "{mode:o}");
            fs::remove_file(&path).unwrap();
        }
    }

    #[tokio::test]
    async fn only_what_was_tried_gets_into_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(&folder.path().join("acme.json"));
        let mut tried = bundle();
        tried.storage.access_key_id = "tid_two".to_owned().into();
        files.keep(&bundle()).unwrap();
        let error = files.place("acme", &tried).await.unwrap_err();
        assert!(error.to_string().contains("not the bundle that was tried"), "{error}");
        assert!(files.bundle("acme").await.unwrap().is_none() && files.pending("acme").await.unwrap().is_some());
    }

    #[test]
    fn a_second_run_is_kept_away() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(&folder.path().join("acme.json"));
        let first = files.lock().unwrap();
        assert_eq!(files.lock().unwrap_err().exit, Exit::Refused);
        drop(first);
        files.lock().unwrap();
    }

    #[test]
    fn what_no_bundle_can_have_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(&folder.path().join("acme.json"));
        let mut odd = bundle();
        odd.storage.secret_access_key = "two\nlines".to_owned().into();
        let error = files.keep(&odd).unwrap_err();
        assert!(!error.to_string().contains("lines"), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_link_is_refused_and_a_folder_that_is_not_there_is_said_before() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("b.json"), folder.path().join("elsewhere"));
        let files = Files::new(&path);
        symlink(&elsewhere, &path).unwrap();
        for error in [files.check().unwrap_err(), files.bundle("acme").await.unwrap_err()] {
            assert!(error.to_string().contains("symbolic link"), "{error}");
        }
        fs::rename(&path, folder.path().join("b.json.lock")).unwrap();
        assert!(files.lock().is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left");
        let error = Files::new(&folder.path().join("missing/b.json")).check().unwrap_err();
        assert_eq!(error.exit, Exit::Config);
        assert!(error.to_string().contains("missing/b.json"), "{error}");
    }
}
