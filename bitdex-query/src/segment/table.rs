//! (place, key) → bytes, sorted: the rows of a lookup, the rows of a checkpoint, the rows of a staged file.

use std::sync::Arc;

use crate::{log::Result, store::pack::{Pack, PackWriter}};

/// Writes rows in ascending order of (place, key), data front to back; keys stay in memory.
#[derive(Debug)]
pub struct TableWriter {}

impl TableWriter {
    /// Starts the data section.
    pub fn new(_pack: &mut PackWriter) -> Result<Self> {
        todo!("segment")
    }

    /// `None`: the row is gone (overrides one below).
    pub fn push(&mut self, _pack: &mut PackWriter, _place: u16, _key: i64, _row: Option<&[u8]>) -> Result<()> {
        todo!("segment")
    }

    pub fn finish(self, _pack: &mut PackWriter) -> Result<()> {
        todo!("segment")
    }
}

#[derive(Debug)]
pub struct Table {}

impl Table {
    pub fn open(_pack: &Arc<Pack>) -> Result<Self> {
        todo!("segment")
    }

    /// `None`: says nothing of this row. `Some(None)`: it is gone.
    pub fn get(&self, _place: u16, _key: i64) -> Result<Option<Option<&[u8]>>> {
        todo!("segment")
    }

    /// Positions of the rows of a place with keys from `first` to `last`, ascending; see [`Table::at`].
    pub fn range(&self, _place: u16, _first: i64, _last: i64) -> Result<std::ops::Range<usize>> {
        todo!("segment")
    }

    /// Key and row at a position.
    pub fn at(&self, _position: usize) -> Result<(i64, Option<&[u8]>)> {
        todo!("segment")
    }

    pub fn len(&self) -> usize {
        todo!("segment")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
