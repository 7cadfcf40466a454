//! A file that has to stay under its name as long as a process works with it. Somebody may remove it all the same.

use std::{
    fs::{self, File, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Error, Result};

#[derive(Debug, Clone)]
pub struct Named {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Named {
    pub fn new(path: &Path, file: &File) -> Result<Self> {
        Ok(Self::of(path, &file.metadata().map_err(Error::io("read", path))?))
    }

    /// The file that has the name now.
    pub fn at(path: &Path) -> Result<Self> {
        Ok(Self::of(path, &fs::metadata(path).map_err(Error::io("read", path))?))
    }

    fn of(path: &Path, metadata: &Metadata) -> Self {
        Self { path: path.into(), device: metadata.dev(), inode: metadata.ino() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// False where the file was removed, or another one put in its place.
    pub fn is_there(&self) -> Result<bool> {
        match fs::metadata(&self.path) {
            Ok(named) => Ok((named.dev(), named.ino()) == (self.device, self.inode)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("read", &self.path)(error)),
        }
    }
}
