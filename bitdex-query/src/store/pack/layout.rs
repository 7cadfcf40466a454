//! The fixed parts of a pack, byte by byte.

use std::{ops::Range, path::Path};

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    log::{
        Error, Result,
        frame::{u32_at, u64_at, u128_at},
    },
    store::format::{self, Stamp},
};

pub(super) const BLOCK_BITS: u32 = 16;
/// Bytes under one checksum.
pub const BLOCK: usize = 1 << BLOCK_BITS;
/// Sections begin at multiples of it.
pub(super) const ALIGNMENT: usize = 64;
pub(super) const HEADER: usize = 64;
pub(super) const FOOTER: usize = 64;
pub(super) const ENTRY: usize = 24;
const MAGIC: &[u8; 8] = b"BITDEXPK";
const END_MAGIC: &[u8; 8] = b"BITDEXPE";
/// Of the CRC of header and footer.
const CRC_AT: usize = 60;

/// Of the bytes of one block.
pub(super) fn block_checksum(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Bytes of one block's checksum in the table.
pub(super) const CHECKSUM: usize = size_of::<u64>();

/// ```text
/// 0   8 bytes  "BITDEXPK"
/// 8   u32      format
/// 12  u32      length of the header, 64
/// 16  u128     store id
/// 32  u16      kind
/// 34  26 bytes 0
/// 60  u32      CRC-32 of the bytes before
/// ```
#[derive(Debug, Clone, Copy)]
pub(super) struct Header {
    pub(super) stamp: Stamp,
    pub(super) kind: u16,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&self.stamp.format.to_le_bytes());
        bytes[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.stamp.store.to_le_bytes());
        bytes[32..34].copy_from_slice(&self.kind.to_le_bytes());
        seal(bytes)
    }

    pub(super) fn decode(path: &Path, file: &[u8]) -> Result<Self> {
        let short = || Error::damaged(path, file.len() as u64, "it ends within the header");
        if file.get(..8).ok_or_else(short)? != MAGIC {
            return Err(Error::damaged(path, 0, "it does not begin as a pack does"));
        }
        let format = u32_at(file, 8).ok_or_else(short)?;
        let length = u32_at(file, 12).ok_or_else(short)?;
        let header = file.get(..HEADER).ok_or_else(short)?;
        let known = format::check(path, format);
        // A format of a later release may have a longer header; a flipped bit is damage whatever it says.
        if known.is_ok() && (length as usize != HEADER || !is_sealed(header)) {
            return Err(Error::damaged(path, 0, "the header's checksum does not match"));
        }
        known?;
        Ok(Self {
            stamp: Stamp { store: u128_at(header, 16).ok_or_else(short)?, format },
            kind: u32_at(header, 32).ok_or_else(short)? as u16,
        })
    }
}

/// ```text
/// 0   8 bytes  "BITDEXPE"
/// 8   u64      offset of the directory, where the checked blocks end
/// 16  u64      offset of the checksums, behind the directory
/// 24  u64      length of the file
/// 32  u32      CRC-32 of directory and checksums
/// 36  24 bytes 0
/// 60  u32      CRC-32 of the bytes before
/// ```
#[derive(Debug, Clone)]
pub(super) struct Footer {
    pub(super) directory: Range<usize>,
    pub(super) table: Range<usize>,
}

impl Footer {
    /// `tail`: directory and checksums.
    pub(super) fn encode(directory: u64, table: u64, tail: &[u8]) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..8].copy_from_slice(END_MAGIC);
        let length = directory + (tail.len() + FOOTER) as u64;
        bytes[8..16].copy_from_slice(&directory.to_le_bytes());
        bytes[16..24].copy_from_slice(&table.to_le_bytes());
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        bytes[32..36].copy_from_slice(&crc32fast::hash(tail).to_le_bytes());
        seal(bytes)
    }

    pub(super) fn decode(path: &Path, file: &[u8]) -> Result<Self> {
        let end = file.len().saturating_sub(FOOTER);
        let damaged = |reason| Error::damaged(path, end as u64, reason);
        let footer = file.get(end..).unwrap_or_default();
        if end < HEADER || footer.get(..8) != Some(END_MAGIC) {
            return Err(damaged("it does not end as a pack does"));
        }
        if !is_sealed(footer) || u64_at(footer, 24) != Some(file.len() as u64) {
            return Err(damaged("the footer's checksum does not match, or the file has another length than it says"));
        }
        let offset = |at| u64_at(footer, at).and_then(|offset| usize::try_from(offset).ok());
        let (Some(directory), Some(table)) = (offset(8), offset(16)) else {
            return Err(damaged("the footer is too short"));
        };
        let checksums = directory.div_ceil(BLOCK) * CHECKSUM;
        let fits = directory >= HEADER
            && table >= directory
            && (table - directory).is_multiple_of(ENTRY)
            && table.checked_add(checksums) == Some(end);
        if !fits {
            return Err(damaged("directory or checksums are not where they can be"));
        }
        let tail = file.get(directory..end).unwrap_or_default();
        if u32_at(footer, 32) != Some(crc32fast::hash(tail)) {
            return Err(Error::damaged(path, directory as u64, "the directory's checksum does not match"));
        }
        Ok(Self { directory: directory..table, table: table..end })
    }
}

/// Where a section is.
///
/// ```text
/// 0   u16  kind
/// 2   u16  place
/// 4   u32  0
/// 8   u64  offset in the file, a multiple of 64
/// 16  u64  length
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: u16,
    pub(super) place: u16,
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Entry {
    pub(super) fn encode(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.kind.to_le_bytes());
        out.extend_from_slice(&self.place.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(self.start as u64).to_le_bytes());
        out.extend_from_slice(&(self.length as u64).to_le_bytes());
    }

    /// A whole directory, which begins at `end`, the end of the last section.
    pub(super) fn decode_all(path: &Path, directory: &[u8], end: usize) -> Result<Vec<Self>> {
        let mut entries: Vec<Self> = Vec::with_capacity(directory.len() / ENTRY);
        let mut free = HEADER;
        for (number, bytes) in directory.chunks_exact(ENTRY).enumerate() {
            let entry = Self::decode(bytes).filter(|entry| {
                entry.start >= free
                    && entry.start.is_multiple_of(ALIGNMENT)
                    && entry.start.checked_add(entry.length).is_some_and(|last| last <= end)
            });
            let Some(entry) = entry else {
                let at = (end + number * ENTRY) as u64;
                return Err(Error::damaged(path, at, "the directory names a section where there can be none"));
            };
            free = entry.start + entry.length;
            entries.push(entry);
        }
        Ok(entries)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let id = u32_at(bytes, 0)?;
        Some(Self {
            kind: id as u16,
            place: (id >> 16) as u16,
            start: u64_at(bytes, 8)?.try_into().ok()?,
            length: u64_at(bytes, 16)?.try_into().ok()?,
        })
    }
}

fn seal(mut bytes: [u8; 64]) -> [u8; 64] {
    let crc = crc32fast::hash(&bytes[..CRC_AT]);
    bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn is_sealed(bytes: &[u8]) -> bool {
    bytes.get(..CRC_AT).is_some_and(|checked| u32_at(bytes, CRC_AT) == Some(crc32fast::hash(checked)))
}
