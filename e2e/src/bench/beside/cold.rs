//! Files that are in no memory: what the system kept of them is dropped.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::Result;
use rustix::fs::{Advice, fadvise, sync};

/// How the page cache was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// All of it, by `/proc/sys/vm/drop_caches`.
    All,
    /// The files', by `posix_fadvise`.
    Files,
}

impl Dropped {
    pub(super) fn how(self) -> &'static str {
        match self {
            Self::All => "/proc/sys/vm/drop_caches",
            Self::Files => "posix_fadvise(DONTNEED) on every file",
        }
    }
}

/// Drops all clean pages where this process may, else those of the files in these folders. What a process has mapped
/// stays: nothing may have these files open.
pub(super) fn drop_pages(folders: &[&Path]) -> Result<Dropped> {
    sync();
    if fs::write("/proc/sys/vm/drop_caches", "1").is_ok() {
        return Ok(Dropped::All);
    }
    folders.iter().try_for_each(|folder| drop_files(folder))?;
    Ok(Dropped::Files)
}

fn drop_files(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            drop_files(&path)?;
        } else {
            fadvise(&File::open(&path)?, 0, None, Advice::DontNeed)?;
        }
    }
    Ok(())
}
