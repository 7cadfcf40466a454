//! What queries read of a version: all layers seen as one.

use std::marker::PhantomData;

use bitdex_proto::{schema::FieldId, value::{FieldValue, Value}};

use super::State;
use crate::{
    log::Result,
    segment::{columns::BlockBounds, sets::{Block, BlockBuffer}, value::Term},
};

/// Both ends of a range of values.
pub(crate) type Bounds = (std::ops::Bound<Value>, std::ops::Bound<Value>);

impl State {
    /// Numbers of the blocks in which a document may be present, ascending.
    pub(crate) fn blocks(&self) -> Vec<u16> {
        todo!("view")
    }

    /// The set of a term (of a field with index `Terms`; `Exists` also of columns and of the key field).
    pub(crate) fn operand<'s>(&'s self, _field: FieldId, _term: Term<'_>) -> Result<Operand<'s>> {
        todo!("view")
    }

    /// The values within bounds that any layer has a set of, ascending, at most `limit` (then there may be more). Some
    /// may have empty sets.
    pub(crate) fn terms_within(&self, _field: FieldId, _bounds: &Bounds, _limit: usize) -> Result<Vec<Value>> {
        todo!("view")
    }

    /// `None` where the field has no column.
    pub(crate) fn column(&self, _field: FieldId) -> Option<ColumnView<'_>> {
        todo!("view")
    }

    /// A present document; nothing of it is decoded yet.
    pub(crate) fn document(&self, _id: u32) -> Result<Option<DocumentView<'_>>> {
        todo!("view")
    }
}

/// The set of one term over the whole index. Holds where it found it in each layer.
#[derive(Debug)]
pub(crate) struct Operand<'s> {
    _state: PhantomData<&'s State>,
}

impl<'s> Operand<'s> {
    /// Number of ids, about: exact where no layer above the base changes the set.
    pub(crate) fn estimate(&self) -> u64 {
        todo!("view")
    }

    /// Numbers of the blocks that may not be empty, ascending.
    pub(crate) fn blocks(&self) -> Vec<u16> {
        todo!("view")
    }

    /// The ids of one block, as they are in files or memory, or combined in `buffer`.
    pub(crate) fn block<'b>(&self, _number: u16, _buffer: &'b mut BlockBuffer) -> Result<Block<'b>>
    where
        's: 'b,
    {
        todo!("view")
    }

    /// Number of ids of a block, about, without touching them.
    pub(crate) fn block_estimate(&self, _number: u16) -> Result<u32> {
        todo!("view")
    }
}

/// A column over the whole index. Every id that has a code is a present document.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ColumnView<'s> {
    _state: PhantomData<&'s State>,
}

impl<'s> ColumnView<'s> {
    /// False for text: equal codes may stand for different values.
    pub(crate) fn is_exact(&self) -> bool {
        todo!("view")
    }

    pub(crate) fn get(&self, _id: u32) -> Result<Option<u64>> {
        todo!("view")
    }

    /// Bounds of the codes of a block: no code in it lies outside, whatever the layer.
    pub(crate) fn bounds(&self, _block: u16) -> Result<BlockBounds> {
        todo!("view")
    }

    /// The codes of a whole block, decoded (65 536 of them; of ids without a value: anything), layers applied.
    pub(crate) fn block(&self, _block: u16, _codes: &mut Vec<u64>) -> Result<()> {
        todo!("view")
    }

    /// Number of ids with codes from `first` to `last`, about.
    pub(crate) fn estimate(&self, _first: u64, _last: u64) -> Result<u64> {
        todo!("view")
    }

    /// Ids with a code, in the order of (code, id), or all of it reversed. `from`: where to begin, included; `None`: at
    /// the end from which the walk comes.
    pub(crate) fn walk(&self, _descending: bool, _from: Option<(u64, u32)>) -> Result<Walk<'s>> {
        todo!("view")
    }
}

/// See [`ColumnView::walk`].
#[derive(Debug)]
pub(crate) struct Walk<'s> {
    _state: PhantomData<&'s State>,
}

impl Walk<'_> {
    pub(crate) fn next(&mut self) -> Result<Option<(u64, u32)>> {
        todo!("view")
    }
}

/// A document, read where it lies.
#[derive(Debug)]
pub(crate) struct DocumentView<'s> {
    _state: PhantomData<&'s State>,
}

impl DocumentView<'_> {
    pub(crate) fn id(&self) -> u32 {
        todo!("view")
    }

    /// The value of a field of the layout.
    pub(crate) fn value(&self, _field: FieldId) -> Result<FieldValue> {
        todo!("view")
    }

    pub(crate) fn values(&self, _fields: &[FieldId]) -> Result<Vec<FieldValue>> {
        todo!("view")
    }
}
