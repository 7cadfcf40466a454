//! Packs: immutable files of checked sections, mapped by whoever reads them. (Format: docs/store-format.md)
//!
//! Header, directory and checksums are verified when a file is opened; a block of 64 KiB is verified when this process
//! first touches it. Bytes that a [`Section`] answers are verified and within that section, always.

mod layout;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bitdex_proto::schema::FieldId;
use bytemuck::AnyBitPattern;

pub use layout::BLOCK;
use layout::{BLOCK_BITS, CHECKSUM, Entry, Footer, Header, block_checksum};
pub use writer::PackWriter;

use super::format::{self, Stamp};
use crate::{
    log::{Error, Result, frame::u64_at},
    mapping::{Map, ahead, slices::give_way},
};

// Numbers are read where they lie.
const _: () = assert!(cfg!(target_endian = "little"), "the store's files are little-endian");

/// What a file is for; stands in its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum PackKind {
    Segment = 1,
    Table = 2,
    Checkpoint = 3,
    Staged = 4,
}

impl PackKind {
    pub const ALL: [Self; 4] = [Self::Segment, Self::Table, Self::Checkpoint, Self::Staged];

    pub fn name(self) -> &'static str {
        match self {
            Self::Segment => "segment",
            Self::Table => "table",
            Self::Checkpoint => "checkpoint",
            Self::Staged => "staged",
        }
    }

    fn of(number: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == number)
    }
}

/// What a section holds. `place` tells sections of one kind apart: the field, or the place of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SectionId {
    pub kind: SectionKind,
    pub place: u16,
}

impl SectionId {
    /// Of a field.
    pub fn of(kind: SectionKind, field: FieldId) -> Self {
        Self { kind, place: field as u16 }
    }
}

/// Kinds of sections; numbers are never used again for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum SectionKind {
    /// What the file says of itself: counts, sequence number, hash.
    Header = 1,
    /// Of a checkpoint: ops that wait for the end of a load.
    Deferred = 2,
    /// Sets of a field: of a segment, of a checkpoint.
    Held = 3,
    Added = 4,
    Removed = 5,
    /// Codes of a field: of a segment, of a checkpoint.
    Column = 6,
    SparseColumn = 7,
    /// Rows of a segment's documents, and where they lie.
    DocumentData = 8,
    DocumentIndex = 9,
    /// Rows by place and key; for each place, where they lie.
    TableData = 10,
    TableIndex = 11,
    /// Of a segment's codes that follow the ids: narrow bounds.
    Tops = 12,
    /// Of a segment's codes that do not: the ids that have the greatest.
    Peaks = 13,
    /// Of terms of a segment: the ids with the greatest codes of columns.
    Leaders = 14,
}

impl SectionKind {
    const ALL: &[Self] = &[
        Self::Header,
        Self::Deferred,
        Self::Held,
        Self::Added,
        Self::Removed,
        Self::Column,
        Self::SparseColumn,
        Self::DocumentData,
        Self::DocumentIndex,
        Self::TableData,
        Self::TableIndex,
        Self::Tops,
        Self::Peaks,
        Self::Leaders,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Deferred => "deferred ops",
            Self::Held => "sets",
            Self::Added => "sets: came in",
            Self::Removed => "sets: went out",
            Self::Column => "column",
            Self::SparseColumn => "column overrides",
            Self::DocumentData => "documents",
            Self::DocumentIndex => "documents: index",
            Self::TableData => "rows",
            Self::TableIndex => "rows: index",
            Self::Tops => "column: bounds",
            Self::Peaks => "column: greatest",
            Self::Leaders => "sets: first in columns",
        }
    }

    /// The format in which it came.
    pub fn since(self) -> u32 {
        match self {
            Self::Tops | Self::Peaks => format::BOUNDS,
            Self::Leaders => format::LEADERS,
            _ => format::OLDEST,
        }
    }

    /// Whether its place is a field.
    pub fn is_of_field(self) -> bool {
        use SectionKind::{Added, Column, Held, Leaders, Peaks, Removed, SparseColumn, Tops};
        matches!(self, Held | Added | Removed | Column | SparseColumn | Tops | Peaks | Leaders)
    }

    /// `None` for a kind that this release does not know.
    pub fn of(number: u16) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| *kind as u16 == number)
    }
}

/// An open pack.
#[derive(Debug)]
pub struct Pack {
    path: PathBuf,
    map: Map,
    header: Header,
    /// In the order of the file.
    directory: Vec<Entry>,
    /// Of the checksums, in the file.
    table: Range<usize>,
    /// Where the checked blocks end.
    checked: usize,
    /// A bit for each block: whether it was verified. Blocks never change, so nothing is ordered by these bits.
    verified: Vec<AtomicU64>,
}

impl Pack {
    /// Maps a file and checks its header and directory. `None` where there is no file of that name.
    pub fn open(path: &Path, kind: PackKind, store: u128) -> Result<Option<Arc<Self>>> {
        let Some(pack) = Self::open_any(path)? else { return Ok(None) };
        if pack.header.kind != kind as u16 {
            return Err(Error::damaged(path, 32, format!("it is a {}, not a {}", pack.kind_name(), kind.name())));
        }
        if pack.header.stamp.store != store {
            return Err(Error::damaged(
                path,
                16,
                format!("it belongs to store {:032x}, this is store {store:032x}", pack.header.stamp.store),
            ));
        }
        Ok(Some(pack))
    }

    /// As [`Pack::open`], whatever it is for, and of whatever store.
    pub fn open_any(path: &Path) -> Result<Option<Arc<Self>>> {
        let map = match Map::open(path) {
            Ok(map) => map,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("map", path)(error)),
        };
        let header = Header::decode(path, &map)?;
        let footer = Footer::decode(path, &map)?;
        let directory = map.get(footer.directory.clone()).unwrap_or_default();
        let directory = Entry::decode_all(path, directory, footer.directory.start)?;
        let blocks = footer.directory.start.div_ceil(BLOCK);
        let verified = std::iter::repeat_with(AtomicU64::default).take(blocks.div_ceil(64)).collect();
        Ok(Some(Arc::new(Self {
            path: path.into(),
            header,
            directory,
            table: footer.table,
            checked: footer.directory.start,
            verified,
            map,
        })))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.directory.is_empty()
    }

    /// The store that it belongs to, and the format that it is written in.
    pub fn stamp(&self) -> Stamp {
        self.header.stamp
    }

    /// `None` for a kind that this release does not know.
    pub fn kind(&self) -> Option<PackKind> {
        PackKind::of(self.header.kind)
    }

    fn kind_name(&self) -> String {
        self.kind().map_or_else(|| format!("file of kind {}", self.header.kind), |kind| kind.name().into())
    }

    pub fn section(self: &Arc<Self>, id: SectionId) -> Option<Section> {
        let entry = self.directory.iter().find(|entry| entry.kind == id.kind as u16 && entry.place == id.place)?;
        Some(Section { pack: Arc::clone(self), start: entry.start, length: entry.length })
    }

    /// A section that every file of this kind has; damage where it is missing.
    pub fn require(self: &Arc<Self>, id: SectionId) -> Result<Section> {
        self.section(id).ok_or_else(|| {
            Error::damaged(&self.path, self.checked as u64, format!("it has no section {:?} {}", id.kind, id.place))
        })
    }

    /// Ids (raw numbers, so that unknown kinds show too) and lengths of all sections.
    pub fn sections(&self) -> Vec<(u16, u16, u64)> {
        self.directory.iter().map(|entry| (entry.kind, entry.place, entry.length as u64)).collect()
    }

    /// Verifies every block, also those that were verified before.
    pub fn verify(&self) -> Result<()> {
        (0..self.checked.div_ceil(BLOCK)).try_for_each(|block| self.verify_block(block))
    }

    /// Verifies again every block that was read.
    pub fn verify_again(&self) -> Result<()> {
        (0..self.checked.div_ceil(BLOCK)).filter(|block| self.is_verified(*block)).try_for_each(|block| {
            give_way();
            self.verify_block(block)
        })
    }

    /// Verified bytes of the file, which are within a section.
    #[inline]
    fn bytes(&self, start: usize, length: usize) -> Result<&[u8]> {
        if length == 0 {
            return Ok(&[]);
        }
        let end = start + length;
        for block in start >> BLOCK_BITS..=(end - 1) >> BLOCK_BITS {
            if !self.is_verified(block) {
                self.first_touch(block)?;
            }
        }
        self.map.get(start..end).ok_or_else(|| self.outside(start))
    }

    #[inline]
    fn is_verified(&self, block: usize) -> bool {
        self.verified.get(block >> 6).is_some_and(|word| word.load(Ordering::Relaxed) >> (block & 63) & 1 == 1)
    }

    #[cold]
    fn first_touch(&self, block: usize) -> Result<()> {
        self.verify_block(block)?;
        if let Some(word) = self.verified.get(block >> 6) {
            word.fetch_or(1 << (block & 63), Ordering::Relaxed);
        }
        Ok(())
    }

    fn verify_block(&self, block: usize) -> Result<()> {
        let start = block << BLOCK_BITS;
        let bytes = self.map.get(start..self.checked.min(start + BLOCK)).ok_or_else(|| self.outside(start))?;
        let table = self.map.get(self.table.clone()).unwrap_or_default();
        if u64_at(table, block * CHECKSUM) != Some(block_checksum(bytes)) {
            let reason = format!("the checksum of block {block} ({} bytes) does not match", bytes.len());
            return Err(Error::damaged(&self.path, start as u64, reason));
        }
        Ok(())
    }

    #[cold]
    fn outside(&self, at: usize) -> Error {
        Error::damaged(&self.path, at as u64, "what should stand here is outside of the file")
    }
}

/// One section. Cheap to clone; keeps its file mapped.
#[derive(Debug, Clone)]
pub struct Section {
    pack: Arc<Pack>,
    /// In the file; `start + length` is not behind the checked blocks.
    start: usize,
    length: usize,
}

impl Section {
    /// That in which its file is written.
    pub fn format(&self) -> u32 {
        self.pack.stamp().format
    }

    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Verified bytes. Damage where the range is not within the section, or a block fails its checksum.
    #[inline]
    pub fn bytes(&self, at: usize, length: usize) -> Result<&[u8]> {
        // Neither sum can overflow once the first comparison holds.
        if at > self.length || length > self.length - at {
            return Err(self.outside(at, length));
        }
        self.pack.bytes(self.start + at, length)
    }

    /// Asks for the memory of a byte before it is read, and verified.
    #[inline]
    pub fn fetch(&self, at: usize) {
        if at < self.length {
            self.pack.map.get(self.start + at).into_iter().for_each(ahead::fetch);
        }
    }

    /// Verifies what was not verified before.
    pub fn verify(&self) -> Result<()> {
        self.bytes(0, self.length).map(|_| ())
    }

    /// `count` numbers from byte `at` on, which is a multiple of their size.
    #[inline]
    pub fn slice<T: AnyBitPattern>(&self, at: usize, count: usize) -> Result<&[T]> {
        let Some(length) = count.checked_mul(size_of::<T>()) else { return Err(self.outside(at, count)) };
        let bytes = self.bytes(at, length)?;
        if bytes.is_empty() {
            return Ok(&[]);
        }
        bytemuck::try_cast_slice(bytes).map_err(|_| self.damaged(at, "numbers are not aligned"))
    }

    /// An error that names the file and the byte: for contents that are not what they should be.
    #[cold]
    pub fn damaged(&self, at: usize, reason: &str) -> Error {
        Error::damaged(&self.pack.path, self.start.saturating_add(at) as u64, reason)
    }

    #[cold]
    fn outside(&self, at: usize, length: usize) -> Error {
        let reason = format!("{length} bytes are read where the section has {}", self.length.saturating_sub(at));
        self.damaged(at.min(self.length), &reason)
    }
}
