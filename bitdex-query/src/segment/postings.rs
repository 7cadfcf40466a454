//! Term → set of ids, for one field of one file. Blocks are numbered over the whole index (id >> 16).

use std::ops::Bound;

use bitdex_proto::{schema::FieldId, value::{FieldType, Value}};

use super::{sets::Block, value::Term};
use crate::{log::Result, store::pack::{Pack, PackWriter}};
use std::sync::Arc;

/// Which of a file's sets of one field: a segment has `Held`, a checkpoint `Added` and `Removed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Held,
    Added,
    Removed,
}

/// Writes one field's sets; terms come in ascending order (`Exists` first), and blocks of a term too.
#[derive(Debug)]
pub struct PostingsWriter {}

impl PostingsWriter {
    pub fn new(_role: Role, _field: FieldId, _ty: FieldType) -> Self {
        todo!("segment")
    }

    /// Starts the next term.
    pub fn term(&mut self, _term: Term<'_>) {
        todo!("segment")
    }

    /// Adds a block to the current term. Empty ones are left out.
    pub fn block(&mut self, _number: u16, _block: Block<'_>) {
        todo!("segment")
    }

    /// Bytes held in memory until then.
    pub fn bytes(&self) -> usize {
        todo!("segment")
    }

    /// Writes the sections; terms without ids are left out.
    pub fn finish(self, _pack: &mut PackWriter) -> Result<()> {
        todo!("segment")
    }
}

#[derive(Debug)]
pub struct Postings {}

impl Postings {
    /// `None` where the file has none of that field.
    pub fn open(_pack: &Arc<Pack>, _role: Role, _field: FieldId, _ty: FieldType) -> Result<Option<Self>> {
        todo!("segment")
    }

    pub fn get(&self, _term: Term<'_>) -> Result<Option<Posting<'_>>> {
        todo!("segment")
    }

    /// Terms that are values within the bounds, ascending. (Position of the first, position behind the last: see
    /// [`Postings::at`].)
    pub fn range(&self, _bounds: (Bound<&Value>, Bound<&Value>)) -> Result<std::ops::Range<usize>> {
        todo!("segment")
    }

    /// The term at a position, with its set.
    pub fn at(&self, _position: usize) -> Result<(Term<'_>, Posting<'_>)> {
        todo!("segment")
    }

    /// Number of terms.
    pub fn len(&self) -> usize {
        todo!("segment")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The set of one term.
#[derive(Debug, Clone, Copy)]
pub struct Posting<'a> {
    _file: std::marker::PhantomData<&'a ()>,
}

impl<'a> Posting<'a> {
    /// Number of ids. Cheap.
    pub fn len(&self) -> u64 {
        todo!("segment")
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of blocks that are not empty.
    pub fn blocks(&self) -> usize {
        todo!("segment")
    }

    /// Number and ids of the n-th block that is not empty.
    pub fn nth(&self, _n: usize) -> Result<(u16, Block<'a>)> {
        todo!("segment")
    }

    /// A block by its number.
    pub fn block(&self, _number: u16) -> Result<Block<'a>> {
        todo!("segment")
    }

    /// Number of ids in a block, without touching them.
    pub fn block_len(&self, _number: u16) -> Result<u32> {
        todo!("segment")
    }
}
