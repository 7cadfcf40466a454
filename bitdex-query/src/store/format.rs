//! Which formats of a store this release reads and writes.
//!
//! A store has one format, which its manifest states; all files that are written bear it. A release reads its own
//! format and at least the one before, and writes what the manifest states, so that pods of two releases can serve one
//! folder. Once every pod is of the new release, `bitdex-query raise-format` raises the manifest's. A file is never of a
//! later format than the manifest was when it was written, so whoever can read the manifest can read every file.

use std::path::Path;

use crate::log::{Error, Result};

/// The oldest format that this release reads and writes.
pub const OLDEST: u32 = 3;
/// What new stores are written in.
pub const NEWEST: u32 = 5;
/// From this one on, columns of segments come with bounds,
pub const BOUNDS: u32 = 4;
/// and sets of segments with the first of their ids.
pub const LEADERS: u32 = 5;

/// Refuses a format that this release does not know.
pub fn check(path: &Path, found: u32) -> Result<()> {
    check_up_to(path, found, NEWEST)
}

/// As [`check`], for a process that acts as a release which knows no format after `newest`.
pub fn check_up_to(path: &Path, found: u32, newest: u32) -> Result<()> {
    if (OLDEST..=newest).contains(&found) {
        return Ok(());
    }
    let supported = if newest > OLDEST { format!("{OLDEST} to {newest}") } else { newest.to_string() };
    Err(Error::format(path, found, supported))
}

/// What every file of a store bears. A bare store id stands for the newest format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub store: u128,
    pub format: u32,
}

impl From<u128> for Stamp {
    fn from(store: u128) -> Self {
        Self { store, format: NEWEST }
    }
}
