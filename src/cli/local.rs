//! `tenant-init mount`: what the command line says becomes the configuration of a local mount, the same one in the guardian's
//! checks, the supervisor and the recovery.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::config::{Config, Credentials, Flag, FlagValue, Local, Sources, fingerprint};
use crate::credentials;
use crate::mount::mountinfo;

/// `tenant-init mount`
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// An empty directory
    #[arg(value_name = "DIR")]
    pub(super) dir: PathBuf,
    #[command(flatten)]
    pub(super) config: super::ConfigFile,
    /// Nothing is ever changed in the bucket
    #[arg(long)]
    pub(super) read_only: bool,
    /// The tenant's credential bundle [default: the configured source]
    #[arg(long, value_name = "FILE")]
    pub(super) bundle: Option<PathBuf>,
}

/// The same, handed on to the supervisor and the recovery.
#[derive(Debug, Default, Args)]
pub(super) struct HandedOn {
    #[arg(long = "mount", hide = true)]
    dir: Option<PathBuf>,
    #[arg(long, hide = true, default_value = "")]
    place: String,
    #[arg(long, hide = true)]
    read_only: bool,
    #[arg(long, hide = true)]
    bundle: Option<PathBuf>,
}

impl Mount {
    /// With paths that do not depend on the working directory, and for no bucket yet.
    ///
    /// # Errors
    /// In words: a path that cannot be used, or the directory is not there.
    pub(super) fn resolve(&self) -> Result<HandedOn, String> {
        let dir = absolute(&self.dir)?;
        if !exists(&dir) {
            let shown = dir.display();
            return Err(format!("there is no directory {shown}: make it first (mkdir {shown})"));
        }
        let bundle = self.bundle.as_deref().map(absolute).transpose()?;
        Ok(HandedOn {
            dir: Some(dir),
            place: String::new(),
            read_only: self.read_only,
            bundle,
        })
    }
}

impl HandedOn {
    /// The place of the bucket that `config` names. Fixed at the start: the recovery must find what the supervisor left, whatever
    /// has become of the bundle.
    pub(super) fn settle(&mut self, config: &Config) {
        let bucket = match &config.credentials {
            Credentials::Env => config.storage.bucket.clone(),
            Credentials::File(file) => credentials::bucket_in(file),
            Credentials::Broker { .. } => config.tenant.id.clone(),
        };
        self.place = Local::new(bucket.as_deref(), self.read_only).place;
    }

    /// Is this a local mount at all?
    pub(super) fn is_given(&self) -> bool {
        self.dir.is_some()
    }

    /// Adds to `sources` what was given.
    pub(super) fn apply(&self, sources: &mut Sources) {
        let Some(dir) = &self.dir else { return };
        sources.local = Some(Local {
            read_only: self.read_only,
            place: self.place.clone(),
            own_cache: false,
        });
        let mut flag = |key: &str, name: &str, value: String| {
            let (key, name, value) = (key.to_owned(), name.to_owned(), FlagValue::Text(value));
            sources.flags.push(Flag { key, name, value });
        };
        flag("mount.path", "DIR", dir.to_string_lossy().into_owned());
        if let Some(bundle) = &self.bundle {
            flag("credentials.source", "--bundle", "file".to_owned());
            flag("credentials.file", "--bundle", bundle.to_string_lossy().into_owned());
        }
    }

    /// As arguments of `supervise` and `recover`.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let Some(dir) = &self.dir else { return arguments };
        arguments.extend([
            "--mount".into(),
            dir.into(),
            "--place".into(),
            self.place.clone().into(),
        ]);
        if self.read_only {
            arguments.push("--read-only".into());
        }
        if let Some(bundle) = &self.bundle {
            arguments.extend(["--bundle".into(), bundle.into()]);
        }
        arguments
    }
}

/// Independent of the working directory, which the guardian leaves.
fn absolute(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    let path = std::path::absolute(path).map_err(|error| format!("{shown}: {error}"))?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(format!("{shown} is not UTF-8: name another path")),
    }
}

/// A mount whose server is gone hangs or fails whoever looks at it; the mount table says that it is there.
fn exists(dir: &Path) -> bool {
    let mounted = mountinfo::resolve(dir).and_then(|dir| mountinfo::at(&dir));
    mounted.is_ok_and(|found| !found.is_empty()) || dir.is_dir()
}

/// Holds the directory for as long as the socket lives. A start takes away what an earlier life has mounted there, and this tells
/// it from what another one has mounted for another bucket, or as another user. (For the same cache directory its lock tells.)
///
/// A name in the kernel, not a file: a file would lie in another place for each user.
///
/// # Errors
/// In words: another one has it.
pub(super) fn hold(config: &Config) -> Result<UnixListener, String> {
    let path = mountinfo::resolve(&config.mount.path).unwrap_or_else(|_| config.mount.path.clone());
    let shown = path.display();
    let name = fingerprint(path.as_os_str().as_encoded_bytes());
    let name = format!("tenant-init-mount-{name:016x}");
    let bound = SocketAddr::from_abstract_name(name).and_then(|name| UnixListener::bind_addr(&name));
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another tenant-init has mounted {shown}: stop it first, or name another directory")
        }
        _ => format!("cannot hold {shown}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn a_directory_is_held_by_one_whatever_its_run_directory_is() {
        let dir = tempfile::tempdir().unwrap();
        let config = |run: &'static str| {
            let path = dir.path().join("notes");
            let mut sources = Sources {
                environment: [("HOME", "/home/u"), ("TENANT_INIT_MOUNT__RUN_DIR", run)]
                    .into_iter()
                    .collect(),
                ..Sources::default()
            };
            let (dir, place) = (Some(path), "notes".to_owned());
            HandedOn {
                dir,
                place,
                ..HandedOn::default()
            }
            .apply(&mut sources);
            load(&sources).unwrap()
        };
        let held = hold(&config("/run/a/x")).unwrap();
        let words = hold(&config("/run/b/y")).unwrap_err();
        assert!(words.contains("another tenant-init has mounted"), "{words}");
        drop(held);
        assert!(hold(&config("/run/b/y")).is_ok());
    }
}
