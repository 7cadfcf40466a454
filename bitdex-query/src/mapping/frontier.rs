//! The durable frontier: the sequence number of the last record that is durable, in one aligned word that every process
//! of the folder maps. The writer stores it after each fsync; it is the only byte range of a data folder that ever
//! changes in place.
//!
//! The word is never ahead of what is durable. It is not itself synced: after a power loss it may be behind.
//!
//! ```text
//! 0  8 bytes  "BITDEXFR"
//! 8  u64      the frontier, in the machine's byte order (little-endian on all supported machines)
//! ```

// A word that several processes share can only be reached through a pointer into mapped memory.
#![allow(unsafe_code)]

use std::{
    fs::File,
    io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use memmap2::{MmapOptions, MmapRaw};

use crate::log::{Error, Result, named::Named};

const MAGIC: &[u8; 8] = b"BITDEXFR";
const WORD: usize = 8;
const LENGTH: usize = 16;

/// What a new frontier file holds.
pub fn initial() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..WORD].copy_from_slice(MAGIC);
    bytes
}

#[derive(Debug)]
pub struct Frontier {
    map: MmapRaw,
    named: Named,
    writable: bool,
}

impl Frontier {
    /// Maps the file; `writable` for processes that may become the writer.
    pub fn open(path: &Path, writable: bool) -> Result<Self> {
        let file = match File::options().read(true).write(writable).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::damaged(path, 0, "it is not there (see what damage calls for, in the manual)"));
            }
            Err(error) => return Err(Error::io("open", path)(error)),
        };
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        let mut magic = [0; WORD];
        if length != LENGTH as u64 {
            return Err(Error::damaged(path, 0, format!("it has {length} bytes instead of {LENGTH}")));
        }
        io::Read::read_exact(&mut &file, &mut magic).map_err(Error::io("read", path))?;
        if magic != *MAGIC {
            return Err(Error::damaged(path, 0, "it does not begin as a frontier file does"));
        }
        let mut options = MmapOptions::new();
        options.len(LENGTH);
        let map = if writable { options.map_raw(&file) } else { options.map_raw_read_only(&file) };
        Ok(Self { map: map.map_err(Error::io("map", path))?, named: Named::new(path, &file)?, writable })
    }

    /// Whether processes that start now come to the same file.
    pub fn is_there(&self) -> Result<bool> {
        self.named.is_there()
    }

    /// Every record up to this one is durable, and can be read by whoever read this.
    pub fn load(&self) -> u64 {
        self.word().load(Ordering::Acquire)
    }

    /// Only for the holder of the folder's lock, after the fsync of what the frontier now covers.
    pub fn store(&self, sequence: u64) {
        assert!(self.writable, "a frontier that was opened for reading is stored to");
        self.word().store(sequence, Ordering::Release);
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping begins at a page boundary and is LENGTH = 16 bytes long, so the word at 8 is in it and
        // aligned; the file is never shortened, so its page stays there; the mapping lives as long as `self`, and so
        // does the reference. All processes reach the word by atomic operations only, after it was made under a
        // temporary name. In a read-only mapping it is only loaded (`store` asserts it), which for 8 bytes is a plain
        // load on every machine that has 64-bit atomics.
        unsafe { AtomicU64::from_ptr(self.map.as_mut_ptr().add(WORD).cast::<u64>()) }
    }
}
