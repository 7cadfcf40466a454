//! A layer in memory: persistent maps, cheap to clone. What it says is absolute: the last change of a row, of an id in a
//! set, or of a code stays, whatever lies below.

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

/// Ids above which a block is kept as bits.
const MANY: usize = 4096;

impl BlockSet {
    /// Puts in ids; they ascend.
    fn insert(&mut self, ids: &[u16]) {
        match self {
            _ if ids.is_empty() => {}
            Self::Empty if ids.len() <= MANY => *self = Self::Array(ids.to_vec()),
            Self::Array(held) if ids.len() <= 8 && held.len() + ids.len() <= MANY => {
                for id in ids {
                    if let Err(at) = held.binary_search(id) {
                        held.insert(at, *id);
                    }
                }
            }
            Self::Array(held) if held.len() + ids.len() <= MANY => {
                held.extend_from_slice(ids);
                // Two runs, which a stable sort merges.
                held.sort();
                held.dedup();
            }
            Self::Bits(words) => {
                for id in ids {
                    words[usize::from(id >> 6)] |= 1 << (id & 63);
                }
            }
            Self::Empty | Self::Array(_) => {
                self.make_bits();
                self.insert(ids);
            }
        }
    }

    /// Takes out ids; they ascend.
    fn remove(&mut self, ids: &[u16]) {
        match self {
            _ if ids.is_empty() => {}
            Self::Empty => {}
            Self::Array(held) => {
                if ids.len() <= 8 {
                    for id in ids {
                        if let Ok(at) = held.binary_search(id) {
                            held.remove(at);
                        }
                    }
                } else {
                    held.retain(|id| ids.binary_search(id).is_err());
                }
                if held.is_empty() {
                    *self = Self::Empty;
                }
            }
            Self::Bits(words) => {
                let mut changed = false;
                for id in ids {
                    let word = &mut words[usize::from(id >> 6)];
                    let bit = 1 << (id & 63);
                    changed |= *word & bit != 0;
                    *word &= !bit;
                }
                // Back to an array well below where bits begin, so that nothing goes to and fro.
                if changed && words.iter().map(|word| word.count_ones() as usize).sum::<usize>() <= MANY / 2 {
                    let ids: Vec<u16> =
                        (0..=u16::MAX).filter(|id| words[usize::from(id >> 6)] >> (id & 63) & 1 == 1).collect();
                    *self = if ids.is_empty() { Self::Empty } else { Self::Array(ids) };
                }
            }
        }
    }

    fn make_bits(&mut self) {
        let mut words = Box::new([0; WORDS]);
        if let Self::Array(ids) = self {
            for id in ids {
                words[usize::from(*id >> 6)] |= 1 << (*id & 63);
            }
        }
        *self = Self::Bits(words);
    }

    /// Bytes of heap.
    fn bytes(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Array(ids) => 2 * ids.capacity(),
            Self::Bits(_) => 8 * WORDS,
        }
    }

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
    /// All of them, those that arrived before this layer began too.
    pub(crate) deferred: imbl::Vector<bitdex_proto::ops::Op>,
    /// Estimated bytes of heap of all of it.
    pub(crate) bytes: u64,
}

/// What a row costs in the map beside its bytes: key, pointer, the nodes' slack, and the counts of its allocation.
const ROW: u64 = 72;
/// The same of a set, with the keys' slack.
const SET: u64 = 176;
/// Of an id in a column: in `codes` and in `order`.
const CODE: u64 = 72;
/// Of an op that waits.
const OP: u64 = 128;

impl Layer {
    pub(crate) fn new(fields: usize) -> Self {
        Self { columns: vec![LayerColumn::default(); fields], ..Self::default() }
    }

    /// Keeps ops until the load ends.
    pub(crate) fn defer(&mut self, ops: impl IntoIterator<Item = bitdex_proto::ops::Op>) {
        for op in ops {
            self.bytes += OP;
            self.deferred.push_back(op);
        }
    }

    pub(crate) fn take_deferred(&mut self) -> imbl::Vector<bitdex_proto::ops::Op> {
        let deferred = std::mem::take(&mut self.deferred);
        self.bytes = self.bytes.saturating_sub((deferred.len() as u64).saturating_mul(OP));
        deferred
    }

    pub(crate) fn take_staged(&mut self) -> crate::build::staging::Staging {
        let staged = std::mem::take(&mut self.staged);
        self.bytes = self.bytes.saturating_sub(staged.bytes());
        staged
    }

    /// Changes what is staged.
    pub(crate) fn stage(&mut self, change: impl FnOnce(&mut crate::build::staging::Staging)) {
        let before = self.staged.bytes();
        change(&mut self.staged);
        self.bytes = (self.bytes + self.staged.bytes()).saturating_sub(before);
    }

    pub(crate) fn set_row(&mut self, place: Place, key: i64, row: Option<Arc<[u8]>>) {
        let length = |row: &Option<Arc<[u8]>>| row.as_ref().map_or(0, |row| row.len() as u64);
        let added = ROW + length(&row);
        let freed = self.rows.insert((place, key), row).map_or(0, |old| ROW + length(&old));
        self.bytes = (self.bytes + added).saturating_sub(freed);
    }

    /// Puts ids into the set of a term, and takes others out, in one block; both ascend.
    pub(crate) fn change_set(&mut self, key: SetKey, put: &[u16], taken: &[u16]) {
        let change = |delta: &mut BlockDelta| {
            delta.added.insert(put);
            delta.removed.remove(put);
            delta.removed.insert(taken);
            delta.added.remove(taken);
            (delta.added.bytes() + delta.removed.bytes()) as u64
        };
        let (before, after) = match self.sets.get_mut(&key) {
            Some(delta) => {
                let before = (delta.added.bytes() + delta.removed.bytes()) as u64;
                (before, change(Arc::make_mut(delta)))
            }
            None => {
                let mut delta = BlockDelta::default();
                let after = change(&mut delta) + SET;
                self.sets.insert(key, Arc::new(delta));
                (0, after)
            }
        };
        self.bytes = (self.bytes + after).saturating_sub(before);
    }

    /// Sets codes; ids ascend.
    pub(crate) fn change_column(&mut self, field: FieldId, codes: &[(u32, Option<u64>)]) {
        let Some(column) = self.columns.get_mut(field) else { return };
        for (id, code) in codes {
            match column.codes.insert(*id, *code) {
                Some(old) if old == *code => continue,
                Some(Some(old)) => {
                    column.order.remove(&(old, *id));
                }
                Some(None) => {}
                None => self.bytes += CODE,
            }
            if let Some(code) = code {
                column.order.insert((*code, *id));
            }
        }
    }
}
