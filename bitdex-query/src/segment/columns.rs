//! Id → code of one field, and the ids in the order of (code, id).

use std::sync::Arc;

use bitdex_proto::schema::FieldId;

use crate::{log::Result, store::pack::{Pack, PackWriter}};

/// Writes a column of a segment (every id of the segment may have a value: `Dense`) or of a checkpoint (`Sparse`).
#[derive(Debug)]
pub struct ColumnWriter {}

impl ColumnWriter {
    /// Of the segment with this number.
    pub fn dense(_field: FieldId, _segment: u32) -> Self {
        todo!("segment")
    }

    /// Of any ids; `None` overrides a value below.
    pub fn sparse(_field: FieldId) -> Self {
        todo!("segment")
    }

    /// Ids ascending. A dense column leaves out ids without a value.
    pub fn push(&mut self, _id: u32, _code: Option<u64>) {
        todo!("segment")
    }

    pub fn bytes(&self) -> usize {
        todo!("segment")
    }

    /// Sorts, and writes the sections.
    pub fn finish(self, _pack: &mut PackWriter) -> Result<()> {
        todo!("segment")
    }
}

/// A column of a segment.
#[derive(Debug)]
pub struct Column {}

/// Of one block of a dense column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockBounds {
    /// Ids with a value.
    pub count: u32,
    /// Smallest and largest code; meaningless where `count` is 0.
    pub min: u64,
    pub max: u64,
}

impl Column {
    pub fn open(_pack: &Arc<Pack>, _field: FieldId) -> Result<Option<Self>> {
        todo!("segment")
    }

    /// The code of an id of this segment; `None`: null.
    pub fn get(&self, _id: u32) -> Result<Option<u64>> {
        todo!("segment")
    }

    /// `block`: number over the whole index.
    pub fn bounds(&self, _block: u16) -> Result<BlockBounds> {
        todo!("segment")
    }

    /// The codes of a whole block, decoded into `codes` (65 536 of them; of ids without a value: anything).
    pub fn block(&self, _block: u16, _codes: &mut Vec<u64>) -> Result<()> {
        todo!("segment")
    }

    /// Ids that have a value.
    pub fn len(&self) -> usize {
        todo!("segment")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id at a rank in the ascending order of (code, id).
    pub fn ranked(&self, _rank: usize) -> Result<u32> {
        todo!("segment")
    }

    /// Number of (code, id) below the given one.
    pub fn rank(&self, _code: u64, _id: u32) -> Result<usize> {
        todo!("segment")
    }
}

/// A column of a checkpoint.
#[derive(Debug)]
pub struct SparseColumn {}

impl SparseColumn {
    pub fn open(_pack: &Arc<Pack>, _field: FieldId) -> Result<Option<Self>> {
        todo!("segment")
    }

    /// `None`: says nothing of this id. `Some(None)`: null.
    pub fn get(&self, _id: u32) -> Result<Option<Option<u64>>> {
        todo!("segment")
    }

    /// Ids it says something of.
    pub fn len(&self) -> usize {
        todo!("segment")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The n-th id, ascending, and what it says of it.
    pub fn nth(&self, _n: usize) -> Result<(u32, Option<u64>)> {
        todo!("segment")
    }

    /// Number of ids below this one.
    pub fn position(&self, _id: u32) -> Result<usize> {
        todo!("segment")
    }

    /// Ids that have a code.
    pub fn values(&self) -> usize {
        todo!("segment")
    }

    /// As [`Column::ranked`], with the code.
    pub fn ranked(&self, _rank: usize) -> Result<(u64, u32)> {
        todo!("segment")
    }

    /// As [`Column::rank`].
    pub fn rank(&self, _code: u64, _id: u32) -> Result<usize> {
        todo!("segment")
    }
}
