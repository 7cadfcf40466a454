//! A layer in memory: persistent maps, cheap to clone.

use std::sync::Arc;

use bitdex_proto::{schema::FieldId, value::Value};
use imbl::{OrdMap, OrdSet};

use super::layout::Place;
use crate::segment::sets::{Block, WORDS};

/// What came into, and went out of, the set of one term, in one block. No id is in both.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockDelta {
    pub(crate) added: BlockSet,
    pub(crate) removed: BlockSet,
}

/// A block that is owned.
#[derive(Debug, Clone, Default)]
pub(crate) enum BlockSet {
    #[default]
    Empty,
    /// Ascending.
    Array(Vec<u16>),
    Bits(Box<[u64; WORDS]>),
}

impl BlockSet {
    pub(crate) fn as_block(&self) -> Block<'_> {
        match self {
            Self::Empty => Block::Empty,
            Self::Array(ids) => Block::Array(ids),
            Self::Bits(words) => Block::Bits(words),
        }
    }
}

/// `None`: the term `Exists`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetKey {
    pub(crate) field: FieldId,
    pub(crate) term: Option<Value>,
    pub(crate) block: u16,
}

/// Overrides of one column: by id, and the ids that have a code in the order of (code, id).
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerColumn {
    pub(crate) codes: OrdMap<u32, Option<u64>>,
    pub(crate) order: OrdSet<(u64, u32)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    /// `None`: the row is gone.
    pub(crate) rows: OrdMap<(Place, i64), Option<Arc<[u8]>>>,
    pub(crate) sets: OrdMap<SetKey, Arc<BlockDelta>>,
    /// By field of the layout.
    pub(crate) columns: Vec<LayerColumn>,
    /// Rows of an unfinished load that came while this layer was the active one.
    pub(crate) staged: crate::build::staging::Staging,
    /// Field ops that arrived before the first load ended, from its first query op on: that one has to see documents.
    pub(crate) deferred: imbl::Vector<bitdex_proto::ops::Op>,
    /// Estimated bytes of heap of all of it.
    pub(crate) bytes: u64,
}
