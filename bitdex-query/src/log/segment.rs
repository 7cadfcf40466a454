//! Segments: files of the log, each a header and then frames with consecutive sequence numbers, all of one epoch.
//!
//! ```text
//! 0   8 bytes  "BITDEXLG"
//! 8   u32      format version
//! 12  u32      length of the header, 88
//! 16  u128     store id
//! 32  u64      epoch
//! 40  u64      number of this segment; the next one has the next number
//! 48  u64      sequence number of the first frame
//! 56  u64      number of the segment before; 0: none
//! 64  u64      where that one ends, in bytes; what stands behind is no part of the log
//! 72  u64      sequence number of its last frame; the first frame here is the one after
//! 80  u32      0
//! 84  u32      CRC-32 of the bytes before
//! 88  frames
//! ```

use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use super::{
    Error, Result,
    frame::{FRAME_HEADER, FrameHeader, MAX_PAYLOAD, u32_at, u64_at, u128_at},
};

const MAGIC: &[u8; 8] = b"BITDEXLG";
pub const SEGMENT_FORMAT: u32 = 1;
pub const SEGMENT_HEADER: usize = 88;
const CRC_AT: usize = SEGMENT_HEADER - 4;
const PREFIX: &str = "log-";
const SUFFIX: &str = ".seg";
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// Where a segment ends: the end of its last frame, and that frame's sequence number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentEnd {
    /// 0: there is no segment.
    pub number: u64,
    pub offset: u64,
    pub last: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    pub store: u128,
    pub epoch: u64,
    pub number: u64,
    pub predecessor: SegmentEnd,
}

impl SegmentHeader {
    pub fn first(&self) -> u64 {
        self.predecessor.last + 1
    }

    pub fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut bytes = [0; SEGMENT_HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        bytes[12..16].copy_from_slice(&(SEGMENT_HEADER as u32).to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store.to_le_bytes());
        let numbers = [
            self.epoch,
            self.number,
            self.first(),
            self.predecessor.number,
            self.predecessor.offset,
            self.predecessor.last,
        ];
        for (i, number) in numbers.iter().enumerate() {
            bytes[32 + 8 * i..40 + 8 * i].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let short = || Error::damaged(path, bytes.len() as u64, "it ends within the header");
        if bytes.get(..8).ok_or_else(short)? != MAGIC {
            return Err(Error::damaged(path, 0, "it does not begin as a segment of the log does"));
        }
        let found = u32_at(bytes, 8).ok_or_else(short)?;
        if found != SEGMENT_FORMAT {
            return Err(match is_of_this_format(bytes) {
                true => {
                    Error::damaged(path, 8, format!("it says that it has format {found}, but is of {SEGMENT_FORMAT}"))
                }
                false => Error::format(path, found, SEGMENT_FORMAT.to_string()),
            });
        }
        let length = u32_at(bytes, 12).ok_or_else(short)?;
        if length as usize != SEGMENT_HEADER {
            return Err(Error::damaged(path, 12, format!("the header claims {length} bytes")));
        }
        if u32_at(bytes, CRC_AT).ok_or_else(short)? != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(Error::damaged(path, 0, "the header's checksum does not match"));
        }
        let number = |at| u64_at(bytes, at).ok_or_else(short);
        let header = Self {
            store: u128_at(bytes, 16).ok_or_else(short)?,
            epoch: number(32)?,
            number: number(40)?,
            predecessor: SegmentEnd { number: number(56)?, offset: number(64)?, last: number(72)? },
        };
        if number(48)?.checked_sub(1) != Some(header.predecessor.last) {
            return Err(Error::damaged(path, 48, "the first sequence number does not follow the last one before it"));
        }
        Ok(header)
    }
}

/// Whether a header is one of this format, but for the number of the format.
fn is_of_this_format(bytes: &[u8]) -> bool {
    let Some(mut header) = bytes.get(..CRC_AT).map(<[u8]>::to_vec) else { return false };
    if let Some(format) = header.get_mut(8..12) {
        format.copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
    }
    u32_at(bytes, CRC_AT) == Some(crc32fast::hash(&header))
}

/// The path of segment `number` in a folder.
pub fn segment_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{PREFIX}{number:016}{SUFFIX}"))
}

/// The number in a segment's file name; `None` for all other names.
pub fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.parse().ok()
}

/// What stands at an offset.
#[derive(Debug)]
pub enum At<'a> {
    Frame {
        header: FrameHeader,
        payload: &'a [u8],
        /// Offset behind the frame.
        end: u64,
    },
    /// The file ends exactly here.
    End,
    /// No whole frame, and why.
    Bad(&'static str),
}

/// A segment, open for reading. It stays readable after it is unlinked.
#[derive(Debug)]
pub struct Segment {
    pub path: PathBuf,
    pub header: SegmentHeader,
    file: File,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl Segment {
    /// `None` where there is no segment of this number.
    pub fn open(folder: &Path, number: u64, store: u128) -> Result<Option<Self>> {
        let path = segment_path(folder, number);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let mut bytes = [0; SEGMENT_HEADER];
        let read = read_at(&file, &mut bytes, 0).map_err(Error::io("read", &path))?;
        let header = SegmentHeader::decode(&path, &bytes[..read])?;
        if header.store != store {
            return Err(Error::damaged(
                path,
                16,
                format!("it belongs to store {:032x}, this is store {store:032x}", header.store),
            ));
        }
        if header.number != number {
            return Err(Error::damaged(path, 40, format!("it says that it is segment {}", header.number)));
        }
        Ok(Some(Self { path, header, file, buffer: Vec::new(), buffer_at: 0 }))
    }

    /// Whether the file has been unlinked.
    pub fn is_removed(&self) -> Result<bool> {
        Ok(self.file.metadata().map_err(Error::io("read", &self.path))?.nlink() == 0)
    }

    pub fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(Error::io("read", &self.path))?.len())
    }

    /// Forgets what was read ahead, which may have been read while it was written.
    pub fn refresh(&mut self) {
        self.buffer.clear();
    }

    /// What stands at `offset`. Bytes may have been read any time since the last [`Segment::refresh`].
    pub fn at(&mut self, offset: u64) -> Result<At<'_>> {
        let available = self.buffered(offset, FRAME_HEADER)?;
        if available == 0 {
            return Ok(At::End);
        }
        let Some(header) = FrameHeader::read(self.slice(offset, FRAME_HEADER)) else {
            return Ok(At::Bad("the file ends within a frame's header"));
        };
        if header.length > MAX_PAYLOAD {
            return Ok(At::Bad("a frame's length is impossible"));
        }
        let length = FRAME_HEADER + header.length;
        // The length is not to be trusted before the checksum is: do not make room for more than there is.
        if self.buffered(offset, FRAME_HEADER)? < length && self.length()? < offset + length as u64 {
            return Ok(At::Bad("the file ends within a frame"));
        }
        if self.buffered(offset, length)? < length {
            return Ok(At::Bad("the file ends within a frame"));
        }
        let frame = self.slice(offset, length);
        if !header.matches(frame) {
            return Ok(At::Bad("a frame's checksum does not match"));
        }
        Ok(At::Frame { header, payload: frame.get(FRAME_HEADER..).unwrap_or_default(), end: offset + length as u64 })
    }

    /// All bytes from `offset` on.
    pub fn rest(&self, offset: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.length()?.saturating_sub(offset) as usize];
        let read = read_at(&self.file, &mut bytes, offset).map_err(Error::io("read", &self.path))?;
        bytes.truncate(read);
        Ok(bytes)
    }

    pub fn damaged(&self, offset: u64, reason: impl Into<String>) -> Error {
        Error::damaged(&self.path, offset, reason)
    }

    /// How many bytes from `offset` on are in the buffer, having tried to get `length` of them there.
    fn buffered(&mut self, offset: u64, length: usize) -> Result<usize> {
        let held = |segment: &Self| match offset.checked_sub(segment.buffer_at) {
            Some(skip) => (segment.buffer.len() as u64).saturating_sub(skip) as usize,
            None => 0,
        };
        if held(self) < length {
            self.buffer.resize(length.max(CHUNK), 0);
            self.buffer_at = offset;
            let read = read_at(&self.file, &mut self.buffer, offset).map_err(Error::io("read", &self.path))?;
            self.buffer.truncate(read);
        }
        Ok(held(self))
    }

    /// Up to `length` bytes of the buffer.
    fn slice(&self, offset: u64, length: usize) -> &[u8] {
        let from = offset.saturating_sub(self.buffer_at) as usize;
        let rest = self.buffer.get(from..).unwrap_or_default();
        rest.get(..length).unwrap_or(rest)
    }
}

/// Reads until `bytes` is full or the file ends.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..)
        && !rest.is_empty()
    {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
