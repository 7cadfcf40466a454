//! Writing a pack, front to back.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    PackKind, SectionId,
    layout::{ALIGNMENT, BLOCK, ENTRY, Entry, FOOTER, Footer, Header, block_checksum},
};
use crate::{
    log::{
        Error, Result,
        disk::{Disk, DiskFile, rename_synced, temporary_name, write_all},
    },
    mapping::slices::give_way,
    store::format::Stamp,
};

/// Bytes that are written at once; a multiple of [`BLOCK`].
const BUFFER: usize = 16 * BLOCK;
/// Synced in steps, so that the log's own syncs never wait for gigabytes.
const SYNC_STEP: u64 = 16 << 20;

#[derive(Debug)]
pub struct PackWriter {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    temporary: PathBuf,
    /// `None` after a failure.
    file: Option<Box<dyn DiskFile>>,
    format: u32,
    /// What is not written yet; begins at a multiple of [`BUFFER`] in the file.
    buffer: Vec<u8>,
    written: u64,
    synced: u64,
    /// Of the blocks before the buffer.
    checksums: Vec<u8>,
    /// The last one is being written.
    sections: Vec<Entry>,
    /// The file has its name.
    published: bool,
}

impl PackWriter {
    /// Starts a file under its temporary name.
    pub fn create(disk: &Arc<dyn Disk>, path: &Path, kind: PackKind, stamp: impl Into<Stamp>) -> Result<Self> {
        let stamp = stamp.into();
        let temporary = temporary_name(path);
        let file = disk.create(&temporary).map_err(Error::write(&temporary))?;
        let mut buffer = Vec::with_capacity(BUFFER);
        buffer.extend_from_slice(&Header { stamp, kind: kind as u16 }.encode());
        Ok(Self {
            disk: Arc::clone(disk),
            path: path.into(),
            temporary,
            file: Some(file),
            format: stamp.format,
            buffer,
            written: 0,
            synced: 0,
            checksums: Vec::new(),
            sections: Vec::new(),
            published: false,
        })
    }

    /// Ends the section before, and starts the next one, at a multiple of 64 bytes. Each id at most once.
    pub fn section(&mut self, id: SectionId) -> Result<()> {
        let (kind, place) = (id.kind as u16, id.place);
        if self.sections.iter().any(|entry| entry.kind == kind && entry.place == place) {
            return Err(self.misused("a section is written twice"));
        }
        self.end_section();
        self.pad(ALIGNMENT)?;
        let start = self.offset() as usize;
        self.sections.push(Entry { kind, place, start, length: 0 });
        Ok(())
    }

    /// That in which the file is written.
    pub fn format(&self) -> u32 {
        self.format
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if self.sections.is_empty() {
            return Err(self.misused("bytes are written before the first section"));
        }
        self.append(bytes)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            let room = BUFFER - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
            if later.is_empty() {
                return Ok(());
            }
            bytes = later;
        }
    }

    /// Bytes of the current section.
    pub fn position(&self) -> u64 {
        self.sections.last().map_or(0, |entry| self.offset() - entry.start as u64)
    }

    /// Fills up with zeros to a multiple of `to` (a power of two up to 64) bytes from the section's start.
    pub fn align(&mut self, to: usize) -> Result<()> {
        debug_assert!(to.is_power_of_two() && to <= ALIGNMENT);
        // Sections start at multiples of 64, so the file's offset has the same remainder.
        self.pad(to)
    }

    /// Writes directory and checksums, syncs, renames, and syncs the folder. Answers the file's length. (Dropped
    /// before that, it removes its temporary file.)
    pub fn finish(mut self) -> Result<u64> {
        self.end_section();
        let directory = self.offset();
        self.add_checksums();
        let mut tail = Vec::with_capacity(self.sections.len() * ENTRY + self.checksums.len() + FOOTER);
        self.sections.iter().for_each(|entry| entry.encode(&mut tail));
        let table = directory + tail.len() as u64;
        tail.append(&mut self.checksums);
        let footer = Footer::encode(directory, table, &tail);
        self.buffer.append(&mut tail);
        self.buffer.extend_from_slice(&footer);
        self.put()?;
        self.sync()?;
        rename_synced(&*self.disk, &self.temporary, &self.path)?;
        self.published = true;
        Ok(self.written)
    }

    fn pad(&mut self, to: usize) -> Result<()> {
        let behind = self.offset() as usize & (to - 1);
        let zeros = [0; ALIGNMENT];
        self.append(zeros.get(..(to - behind) & (to - 1)).unwrap_or_default())
    }

    /// Bytes of the file so far.
    fn offset(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn end_section(&mut self) {
        let length = self.position() as usize;
        if let Some(entry) = self.sections.last_mut() {
            entry.length = length;
        }
    }

    fn flush(&mut self) -> Result<()> {
        give_way();
        self.add_checksums();
        self.put()?;
        if self.written - self.synced >= SYNC_STEP {
            self.sync()?;
        }
        Ok(())
    }

    fn add_checksums(&mut self) {
        for block in self.buffer.chunks(BLOCK) {
            self.checksums.extend_from_slice(&block_checksum(block).to_le_bytes());
        }
    }

    fn put(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Err(self.misused("an earlier write failed")) };
        if let Err(error) = write_all(&mut **file, &self.buffer) {
            self.file = None;
            return Err(Error::write(&self.path)(error));
        }
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else { return Err(self.misused("an earlier write failed")) };
        if let Err(error) = file.sync() {
            self.file = None;
            return Err(Error::io("sync", &self.path)(error));
        }
        self.synced = self.written;
        Ok(())
    }

    fn misused(&self, reason: &str) -> Error {
        Error::io("write", &self.path)(io::Error::other(reason))
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        if !self.published {
            // Nothing names the file; what cannot be removed now is removed by the next cleaning.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}
