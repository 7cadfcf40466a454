//! Id → the rows of all places of that document (its slots), of one segment.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::{log::Result, store::pack::{Pack, PackWriter}};

/// The rows of one document, by slot; `None`: there is none.
pub type Slots<'a> = SmallVec<[Option<&'a [u8]>; 16]>;

/// Writes front to back while ids come in; only offsets stay in memory.
#[derive(Debug)]
pub struct DocumentsWriter {}

impl DocumentsWriter {
    /// Starts the data section.
    pub fn new(_pack: &mut PackWriter, _segment: u32, _slots: usize) -> Result<Self> {
        todo!("segment")
    }

    /// Ids ascending. Rows may be of a document that is not present.
    pub fn push(&mut self, _pack: &mut PackWriter, _id: u32, _slots: &[Option<&[u8]>]) -> Result<()> {
        todo!("segment")
    }

    pub fn finish(self, _pack: &mut PackWriter) -> Result<()> {
        todo!("segment")
    }
}

#[derive(Debug)]
pub struct Documents {}

impl Documents {
    pub fn open(_pack: &Arc<Pack>, _segment: u32, _slots: usize) -> Result<Self> {
        todo!("segment")
    }

    /// All rows of an id of this segment; `None` where it has none at all.
    pub fn get(&self, _id: u32) -> Result<Option<Slots<'_>>> {
        todo!("segment")
    }

    /// One of them.
    pub fn slot(&self, _id: u32, _slot: usize) -> Result<Option<&[u8]>> {
        todo!("segment")
    }

    /// The first id from `from` on that has rows.
    pub fn next(&self, _from: u32) -> Result<Option<u32>> {
        todo!("segment")
    }
}
