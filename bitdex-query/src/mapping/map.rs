//! A file that is never changed or shortened once it has its name, mapped for reading.

#![allow(unsafe_code)]

use std::{fs::File, io, ops::Deref, path::Path};

use memmap2::Mmap;

#[derive(Debug)]
pub struct Map(Mmap);

impl Map {
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: packs are written under a temporary name and never changed, shortened or punched afterwards (only
        // unlinked, which leaves the mapping whole), so the bytes behind the slice stay as they are. Whoever changes
        // files of the data folder from outside breaks this, as well as the checksums.
        unsafe { Mmap::map(&file) }.map(Self)
    }
}

impl Deref for Map {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.0
    }
}
