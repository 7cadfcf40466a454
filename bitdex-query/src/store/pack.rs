//! Packs: immutable files of checked sections, mapped by whoever reads them. (Format: docs/store-format.md)
//!
//! A block of 64 KiB is verified when this process first touches it.

use std::{path::Path, sync::Arc};

use bytemuck::AnyBitPattern;

use crate::log::{Result, disk::Disk};

/// What a file is for; stands in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PackKind {
    Segment = 1,
    Table = 2,
    Checkpoint = 3,
    Staged = 4,
}

/// What a section holds. `place` tells sections of one kind apart: the field, or the place of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionId {
    pub kind: SectionKind,
    pub place: u16,
}

/// Kinds of sections; numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum SectionKind {
    /// What the file says of itself: counts, sequence number, hash.
    Header = 1,
}

#[derive(Debug)]
pub struct PackWriter {}

impl PackWriter {
    /// Starts a file under its temporary name.
    pub fn create(_disk: &Arc<dyn Disk>, _path: &Path, _kind: PackKind, _store: u128) -> Result<Self> {
        todo!("pack")
    }

    /// Ends the section before, and starts the next one, at a multiple of 64 bytes. Each id at most once.
    pub fn section(&mut self, _id: SectionId) -> Result<()> {
        todo!("pack")
    }

    pub fn write(&mut self, _bytes: &[u8]) -> Result<()> {
        todo!("pack")
    }

    /// Bytes of the current section.
    pub fn position(&self) -> u64 {
        todo!("pack")
    }

    /// Fills up with zeros to a multiple of `to` (a power of two up to 64) bytes from the section's start.
    pub fn align(&mut self, _to: usize) -> Result<()> {
        todo!("pack")
    }

    /// Writes directory and checksums, syncs, renames, and syncs the folder. Answers the file's length. (Dropped
    /// before that, it removes its temporary file.)
    pub fn finish(self) -> Result<u64> {
        todo!("pack")
    }
}

/// An open pack.
#[derive(Debug)]
pub struct Pack {}

impl Pack {
    /// Maps a file and checks its header and directory. `None` where there is no file of that name.
    pub fn open(_path: &Path, _kind: PackKind, _store: u128) -> Result<Option<Arc<Self>>> {
        todo!("pack")
    }

    pub fn path(&self) -> &Path {
        todo!("pack")
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        todo!("pack")
    }

    pub fn section(self: &Arc<Self>, _id: SectionId) -> Option<Section> {
        todo!("pack")
    }

    /// A section that every file of this kind has; damage where it is missing.
    pub fn require(self: &Arc<Self>, _id: SectionId) -> Result<Section> {
        todo!("pack")
    }

    /// Ids (raw numbers, so that unknown kinds show too) and lengths of all sections.
    pub fn sections(&self) -> Vec<(u16, u16, u64)> {
        todo!("pack")
    }

    /// Verifies every block, also those that were verified before.
    pub fn verify(&self) -> Result<()> {
        todo!("pack")
    }
}

/// One section. Cheap to clone; keeps its file mapped.
#[derive(Debug, Clone)]
pub struct Section {}

impl Section {
    pub fn len(&self) -> usize {
        todo!("pack")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Verified bytes. Damage where the range is not within the section, or a block fails its checksum.
    pub fn bytes(&self, _at: usize, _length: usize) -> Result<&[u8]> {
        todo!("pack")
    }

    /// `count` numbers from byte `at` on, which is a multiple of their size.
    pub fn slice<T: AnyBitPattern>(&self, _at: usize, _count: usize) -> Result<&[T]> {
        todo!("pack")
    }

    /// An error that names the file and the byte: for contents that are not what they should be.
    pub fn damaged(&self, _at: usize, _reason: &str) -> crate::log::Error {
        todo!("pack")
    }
}
