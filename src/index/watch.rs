//! Tells when the local database was written.

use std::io;
use std::path::Path;

/// Watches one database file.
#[derive(Debug)]
pub struct Watch {}

impl Watch {
    /// Starts watching `path`. The file need not exist, its folder must.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(path: &Path) -> io::Result<Watch> {
        let _ = path;
        Err(io::Error::other("not built yet"))
    }

    /// Resolves when the file was written since the last call (or since `new`). Cancel safe.
    ///
    /// # Errors
    /// The kernel's; the folder is gone.
    pub async fn written(&mut self) -> io::Result<()> {
        Err(io::Error::other("not built yet"))
    }
}
