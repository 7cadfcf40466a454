//! Where the writer is reached: a small file that each writer replaces, `epoch address` in one line. It is a hint, not
//! part of the store, and so is not synced.

use std::{fs, path::Path};

use crate::log::{
    Error, Result,
    disk::{Disk, temporary_name, write_all},
};

/// Only for the holder of the lock.
pub fn publish_address(disk: &dyn Disk, path: &Path, epoch: u64, address: &str) -> Result<()> {
    let temporary = temporary_name(path);
    let mut file = disk.create(&temporary).map_err(Error::write(&temporary))?;
    write_all(&mut *file, format!("{epoch} {address}\n").as_bytes()).map_err(Error::write(&temporary))?;
    disk.rename(&temporary, path).map_err(Error::write(path))
}

/// The address that the last writer gave; `None` where it gave none.
pub fn read_address(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let (_, address) = text.trim_end().split_once(' ')?;
    Some(address.to_owned()).filter(|address| !address.is_empty())
}
