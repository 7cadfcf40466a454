//! Looking at a data folder from outside: what it holds, and whether that is sound. Nothing here changes anything or
//! takes the lock.

pub mod check;
mod report;
mod structure;
#[cfg(test)]
mod tests;

pub use report::{FieldReport, Report};

use crate::{
    log::Result,
    store::{Folder, manifest::Manifest},
};

/// How often a version is looked at that is replaced meanwhile.
const ATTEMPTS: usize = 20;

/// Looks at the version of the newest manifest; again where something is wrong, but may only be so because the manifest
/// has been replaced.
fn of_one_version<T>(
    folder: &Folder,
    mut look: impl FnMut(&Manifest) -> Result<T>,
    is_sound: impl Fn(&T) -> bool,
) -> Result<T> {
    let mut left = ATTEMPTS;
    loop {
        let manifest = folder.read_manifest()?;
        let seen = look(&manifest)?;
        left -= 1;
        if is_sound(&seen) || left == 0 || Manifest::read(&folder.manifest())?.as_ref() == Some(&manifest) {
            return Ok(seen);
        }
    }
}
