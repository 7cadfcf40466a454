//! Checkpoint files: the state at one record, in checked blocks.
//!
//! ```text
//! 0   8 bytes  "BITDEXCP"
//! 8   u32      format version
//! 12  u32      length of the header, 64
//! 16  u128     store id
//! 32  u64      sequence number of the last record that it covers
//! 40  u64      generation
//! 48  12 bytes 0
//! 60  u32      CRC-32 of the bytes before
//! 64  blocks
//! ```
//!
//! A block is `u32 length` (1 to 65 536), `u32 CRC-32` (of the length field and the contents), and the contents; the last
//! one has the length 8 and bit 31 set, and holds the `u64` total of the contents before it. What the blocks hold
//! together is the state's own format (`State::write_checkpoint`).

use std::{
    fs::File,
    io::{self, BufReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bitdex_proto::schema::Schema;

use super::{Folder, checkpoint_name, manifest::CheckpointRef};
use crate::{
    log::{
        Error, Result,
        disk::{Disk, DiskFile, rename_synced, temporary_name, write_all},
        frame::{u32_at, u64_at, u128_at},
    },
    state::{CheckpointError, State},
};

const MAGIC: &[u8; 8] = b"BITDEXCP";
pub const CHECKPOINT_FORMAT: u32 = 1;
const HEADER: usize = 64;
const CRC_AT: usize = HEADER - 4;
const BLOCK: usize = 64 << 10;
const LAST: u32 = 1 << 31;
/// Synced in steps, so that the log's own syncs never wait for gigabytes.
const SYNC_STEP: u64 = 16 << 20;

/// Writes the state's checkpoint and makes it durable under its name; the manifest does not name it yet. Ends early,
/// with an error, once `cancel` is set. Answers what the manifest is to say, and the length of the file.
pub fn write(
    disk: &dyn Disk,
    folder: &Folder,
    store: u128,
    state: &State,
    cancel: &AtomicBool,
) -> Result<(CheckpointRef, u64)> {
    let path = folder.checkpoint(state.sequence());
    let temporary = temporary_name(&path);
    let result = write_temporary(disk, &temporary, store, state, cancel)
        .and_then(|length| rename_synced(disk, &temporary, &path).map(|()| length));
    match result {
        Ok(length) => {
            let file = checkpoint_name(state.sequence());
            Ok((CheckpointRef { file, sequence: state.sequence(), generation: state.generation() }, length))
        }
        Err(error) => {
            // Nothing names the file; what cannot be removed now is removed by the next cleaning.
            let _ = disk.remove(&temporary);
            Err(error)
        }
    }
}

fn write_temporary(disk: &dyn Disk, path: &Path, store: u128, state: &State, cancel: &AtomicBool) -> Result<u64> {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&CHECKPOINT_FORMAT.to_le_bytes());
    header[12..16].copy_from_slice(&(HEADER as u32).to_le_bytes());
    header[16..32].copy_from_slice(&store.to_le_bytes());
    header[32..40].copy_from_slice(&state.sequence().to_le_bytes());
    header[40..48].copy_from_slice(&state.generation().to_le_bytes());
    let crc = crc32fast::hash(&header[..CRC_AT]);
    header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());

    let mut file = disk.create(path).map_err(Error::write(path))?;
    write_all(&mut *file, &header).map_err(Error::write(path))?;
    let mut blocks = BlockWriter {
        file,
        cancel,
        block: Vec::with_capacity(8 + BLOCK),
        contents: 0,
        written: HEADER as u64,
        synced: 0,
    };
    blocks.start_block();
    state.write_checkpoint(&mut blocks).and_then(|()| blocks.finish()).map_err(Error::write(path))
}

struct BlockWriter<'a> {
    file: Box<dyn DiskFile>,
    cancel: &'a AtomicBool,
    /// The block being filled, behind room for its length and checksum.
    block: Vec<u8>,
    contents: u64,
    written: u64,
    synced: u64,
}

impl BlockWriter<'_> {
    fn start_block(&mut self) {
        self.block.clear();
        self.block.resize(8, 0);
    }

    fn end_block(&mut self, flag: u32) -> io::Result<()> {
        let length = self.block.len() - 8;
        if length == 0 {
            return Ok(());
        }
        if self.cancel.load(Ordering::Relaxed) {
            return Err(io::Error::other("the checkpoint was cancelled"));
        }
        self.block[..4].copy_from_slice(&(length as u32 | flag).to_le_bytes());
        let crc = block_crc(&self.block);
        self.block[4..8].copy_from_slice(&crc.to_le_bytes());
        write_all(&mut *self.file, &self.block)?;
        self.contents += length as u64;
        self.written += self.block.len() as u64;
        if self.written - self.synced >= SYNC_STEP {
            self.file.sync()?;
            self.synced = self.written;
        }
        self.start_block();
        Ok(())
    }

    fn finish(&mut self) -> io::Result<u64> {
        self.end_block(0)?;
        let contents = self.contents.to_le_bytes();
        self.block.extend_from_slice(&contents);
        self.end_block(LAST)?;
        self.file.sync()?;
        Ok(self.written)
    }
}

impl Write for BlockWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = 8 + BLOCK - self.block.len();
        let taken = bytes.get(..room).unwrap_or(bytes);
        self.block.extend_from_slice(taken);
        if self.block.len() == 8 + BLOCK {
            self.end_block(0)?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Over the length field and the contents of a block.
fn block_crc(block: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(block.get(..4).unwrap_or_default());
    crc.update(block.get(8..).unwrap_or_default());
    crc.finalize()
}

/// A checkpoint, open; it stays readable after it is unlinked.
#[derive(Debug)]
pub struct CheckpointFile {
    path: PathBuf,
    named: CheckpointRef,
    file: File,
}

impl CheckpointFile {
    /// Opens the file that a manifest names; `None` where it is not there (any more).
    pub fn open(folder: &Folder, named: &CheckpointRef) -> Result<Option<Self>> {
        let path = folder.named(&named.file);
        match File::open(&path) {
            Ok(file) => Ok(Some(Self { path, named: named.clone(), file })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", path)(error)),
        }
    }

    /// Reads the state. Every byte is checked before the state's own decoding sees it.
    pub fn read(self, store: u128, schema: Arc<Schema>) -> Result<State> {
        let path = &self.path;
        let mut input = BufReader::with_capacity(1 << 20, self.file);
        let mut header = [0; HEADER];
        input.read_exact(&mut header).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Error::damaged(path, 0, "it ends within the header"),
            _ => Error::io("read", path)(error),
        })?;
        if header[..8] != *MAGIC {
            return Err(Error::damaged(path, 0, "it does not begin as a checkpoint does"));
        }
        let found = u32_at(&header, 8).unwrap_or_default();
        if found != CHECKPOINT_FORMAT {
            return Err(Error::Format { path: path.clone(), found, supported: CHECKPOINT_FORMAT });
        }
        if u32_at(&header, 12) != Some(HEADER as u32)
            || u32_at(&header, CRC_AT) != Some(crc32fast::hash(&header[..CRC_AT]))
        {
            return Err(Error::damaged(path, 0, "the header's checksum does not match"));
        }
        if u128_at(&header, 16) != Some(store) || u64_at(&header, 32) != Some(self.named.sequence) {
            return Err(Error::damaged(path, 16, "it is of another store or record than the manifest says"));
        }
        let mut blocks = BlockReader {
            input,
            block: Vec::new(),
            at: 0,
            offset: HEADER as u64,
            contents: 0,
            ended: false,
            fault: None,
        };
        let result = State::read_checkpoint(schema, &mut blocks).and_then(|state| {
            // The end must be there too, and nothing between.
            match blocks.read(&mut [0]) {
                Ok(0) => Ok(state),
                Ok(_) => Err(CheckpointError::Damaged("there is more than the state".into())),
                Err(error) => Err(error.into()),
            }
        });
        let state = match (result, blocks.fault) {
            (_, Some((offset, reason))) => return Err(Error::damaged(path, offset, reason)),
            (Ok(state), None) => state,
            (Err(CheckpointError::Io(error)), None) => return Err(Error::io("read", path)(error)),
            (Err(CheckpointError::Format { found, supported }), None) => {
                return Err(Error::Format { path: path.clone(), found, supported });
            }
            (Err(error @ CheckpointError::Definition { .. }), None) => {
                return Err(Error::Foreign(format!("{}: {error}", path.display())));
            }
            (Err(CheckpointError::Damaged(reason)), None) => {
                return Err(Error::damaged(path, blocks.offset, reason));
            }
        };
        if state.sequence() != self.named.sequence {
            return Err(Error::damaged(path, 32, format!("it holds the state at record {}", state.sequence())));
        }
        Ok(state)
    }
}

struct BlockReader<R> {
    input: R,
    block: Vec<u8>,
    /// How much of the block was handed on.
    at: usize,
    /// Of the next block, in the file.
    offset: u64,
    contents: u64,
    ended: bool,
    /// Where and how the file is damaged, once that was seen.
    fault: Option<(u64, String)>,
}

impl<R: Read> BlockReader<R> {
    fn next_block(&mut self) -> io::Result<()> {
        let start = self.offset;
        let mut damaged = |reason: &str| {
            self.fault = Some((start, reason.into()));
            io::Error::new(io::ErrorKind::InvalidData, reason)
        };
        let cut = |error: io::Error, damaged: &mut dyn FnMut(&str) -> io::Error| match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends within a block"),
            _ => error,
        };
        self.block.resize(8, 0);
        self.input.read_exact(&mut self.block).map_err(|error| cut(error, &mut damaged))?;
        let (field, crc) = (u32_at(&self.block, 0).unwrap_or_default(), u32_at(&self.block, 4));
        let (length, last) = ((field & !LAST) as usize, field & LAST != 0);
        if length == 0 || length > BLOCK || (last && length != 8) {
            return Err(damaged("a block's length is impossible"));
        }
        self.block.resize(8 + length, 0);
        self.input.read_exact(&mut self.block[8..]).map_err(|error| cut(error, &mut damaged))?;
        if crc != Some(block_crc(&self.block)) {
            return Err(damaged("a block's checksum does not match"));
        }
        if last && u64_at(&self.block, 8) != Some(self.contents) {
            return Err(damaged("blocks are missing"));
        }
        self.offset += self.block.len() as u64;
        self.contents += length as u64;
        self.ended = last;
        self.at = 8;
        Ok(())
    }
}

impl<R: Read> Read for BlockReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.block.len() && !self.ended {
            self.next_block()?;
        }
        if self.ended {
            return Ok(0);
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let taken = rest.len().min(out.len());
        out[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}
