//! Every change of a data folder's files goes through [`Disk`], so that tests can put faults under it.

use std::{
    fmt::Debug,
    fs::{self, File},
    io::{self, Write as _},
    path::Path,
};

use super::{Error, Result};

/// The operations that change files. They mean what the system calls of their names mean, short writes included.
pub trait Disk: Debug + Send + Sync {
    /// A new, empty file; one of the same name (a leftover) is replaced.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
}

/// A file that is written front to back.
pub trait DiskFile: Debug + Send {
    /// Appends a first part of `bytes`, and answers its length.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Makes all that was written durable. After an error nothing is known of what the disk holds: never call it again.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        // Unlinked rather than truncated: whoever still has a leftover open keeps it whole.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Box::new(RealFile(File::options().write(true).create_new(true).open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }
}

#[derive(Debug)]
struct RealFile(File);

impl DiskFile for RealFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync_data()
    }
}

/// Writes all of `bytes`. After an error any first part of them may be in the file.
pub fn write_all(file: &mut dyn DiskFile, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes a file durable under its final name, whole or not at all: written and synced under a temporary name, renamed,
/// then the folder synced. Only the holder of the folder's lock may call it. Returns the file, for further appends.
pub fn publish(disk: &dyn Disk, path: &Path, contents: &[u8]) -> Result<Box<dyn DiskFile>> {
    let temporary = temporary_name(path);
    let mut file = disk.create(&temporary).map_err(Error::write(&temporary))?;
    if let Err(error) = write_all(&mut *file, contents) {
        // Nothing names the file yet; removing it gives the space back, and failing to is no further harm.
        let _ = disk.remove(&temporary);
        return Err(Error::write(path)(error));
    }
    file.sync().map_err(Error::io("sync", path))?;
    rename_synced(disk, &temporary, path)?;
    Ok(file)
}

/// Renames a file that is synced already, and makes the new name durable.
pub fn rename_synced(disk: &dyn Disk, from: &Path, to: &Path) -> Result<()> {
    disk.rename(from, to).map_err(Error::write(to))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    disk.sync_folder(folder).map_err(Error::io("sync", folder))
}

pub const TEMPORARY: &str = "tmp";

pub fn temporary_name(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(TEMPORARY);
    name.into()
}
