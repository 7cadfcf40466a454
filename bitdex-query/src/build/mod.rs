//! Files out of rows: staging of a load, the base of the next generation, compaction.

pub mod compaction;
mod fill;
pub mod generation;
mod staged;
pub mod staging;
pub(crate) mod table;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::log::{Error, Result};

/// An error once `cancel` is set.
pub(crate) fn go_on(cancel: &AtomicBool, path: &Path) -> Result<()> {
    if cancel.load(Ordering::Relaxed) {
        return Err(Error::io("go on with", path)(io::Error::new(io::ErrorKind::Interrupted, "it was cancelled")));
    }
    Ok(())
}
