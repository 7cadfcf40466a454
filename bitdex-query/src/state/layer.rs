//! A layer in memory: persistent maps, cheap to clone. What it says is absolute: the last change of a row, of an id in a
//! set, or of a code stays, whatever lies below.

mod block;
mod codes;
mod peaks;
mod ranks;
mod rows;

use std::{
    collections::BTreeMap,
    ops::{Bound, RangeBounds},
};

use bitdex_proto::{ops::Op, schema::FieldId, value::Value};

pub(crate) use self::{
    block::BlockDelta,
    codes::CodeBlock,
    ranks::Order,
    rows::{RowChunk, RowEntry},
};
use self::{block::BlockSet, codes::Codes, peaks::Peaks, ranks::RankChunk};
use super::{
    Files,
    sorted::{Entries, Entry, Sorted},
};
use crate::{
    build::staging::Staging,
    segment::{columns::Column, sets::Block},
};

/// `None`: the term `Exists`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetKey {
    pub(crate) field: FieldId,
    pub(crate) term: Option<Value>,
    pub(crate) block: u16,
}

/// What a layer says of one block of a set.
#[derive(Debug, Clone)]
pub(crate) struct SetEntry {
    key: SetKey,
    delta: BlockDelta,
}

/// Ids that come into the set of a term, and ids that go out, in one block; both ascend.
#[derive(Debug)]
pub(crate) struct SetChange<'c> {
    pub(crate) key: SetKey,
    pub(crate) put: &'c [u16],
    pub(crate) taken: &'c [u16],
}

impl Entry for SetEntry {
    type Key = SetKey;
    type Change<'c> = SetChange<'c>;
    const CHUNK: usize = 24;

    fn key(&self) -> &SetKey {
        &self.key
    }

    fn key_of<'c>(change: &'c SetChange<'_>) -> &'c SetKey {
        &change.key
    }

    fn changed(old: Option<&Self>, change: &SetChange<'_>) -> Option<Self> {
        let mut entry = match old {
            Some(old) => old.clone(),
            None => Self { key: change.key.clone(), delta: BlockDelta::default() },
        };
        entry.delta.change(change.put, change.taken);
        Some(entry)
    }

    fn bytes(&self) -> usize {
        self.delta.bytes()
    }
}

/// Overrides of one column: by id, and the ids that have a code in the order of (code, id).
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerColumn {
    codes: Codes,
    order: Sorted<RankChunk>,
    /// `None` where codes follow ids.
    peaks: Option<Peaks>,
    /// Of a column that follows `visible_at`, those whose code there is not known to be as great; see
    /// [`LayerColumn::compare`].
    ahead: Sorted<RankChunk>,
}

impl LayerColumn {
    /// Whether nothing is overridden.
    pub(crate) fn is_empty(&self) -> bool {
        self.codes.len() == 0
    }

    /// Whether the layer says something of this id.
    #[inline]
    pub(crate) fn overrides(&self, id: u32) -> bool {
        self.codes.says(id)
    }

    /// `None`: the layer does not say.
    #[inline]
    pub(crate) fn get(&self, id: u32) -> Option<Option<u64>> {
        self.codes.get(id)
    }

    /// What it says of the ids of a block; `None`: nothing.
    pub(crate) fn block(&self, number: u16) -> Option<&CodeBlock> {
        self.codes.block(number)
    }

    /// Ids of a block, among them all whose codes reach `least`; `None`: these are not known apart.
    pub(crate) fn reaching(&self, number: u16, least: u64) -> Option<Block<'_>> {
        self.peaks.as_ref()?.block(number, least)
    }

    /// The blocks that it says something of, ascending.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = u16> {
        self.codes.blocks()
    }

    /// The least code and the greatest of a block's ids; `None`: they have none.
    #[inline]
    pub(crate) fn block_span(&self, number: u16) -> Option<(u64, u64)> {
        self.codes.block_span(number)
    }

    /// The same of a segment's ids.
    pub(crate) fn segment_span(&self, number: u32) -> Option<(u64, u64)> {
        self.codes.segment_span(number)
    }

    /// All overrides, ascending by id.
    pub(crate) fn codes(&self) -> impl Iterator<Item = (u32, Option<u64>)> {
        self.codes.all()
    }

    /// Ids with codes, by (code, id).
    pub(crate) fn order(&self, bounds: impl RangeBounds<(u64, u32)>) -> Order<'_> {
        self.order.order(bounds)
    }

    /// Number of ids that it says something of.
    pub(crate) fn len(&self) -> usize {
        self.codes.len()
    }

    /// A code that about this many ids reach, if there are more.
    pub(crate) fn reached_by(&self, ids: usize) -> Option<u64> {
        self.order.reached_by(ids)
    }

    /// Sets codes; ids ascend, none twice.
    pub(crate) fn change(&mut self, codes: &[(u32, Option<u64>)]) {
        if codes.is_empty() {
            return;
        }
        let mut moved: Vec<((u64, u32), bool)> = Vec::with_capacity(codes.len() * 2);
        let mut move_one = |id: u32, old: Option<u64>, new: Option<u64>| {
            if old != new {
                moved.extend(old.map(|old| ((old, id), false)));
                moved.extend(new.map(|new| ((new, id), true)));
            }
        };
        for (id, code) in codes {
            move_one(*id, self.get(*id).flatten(), *code);
        }
        moved.sort_unstable();
        self.order.change(&moved);
        if let Some(peaks) = &mut self.peaks {
            peaks.change(&moved, &self.order);
        }
        self.codes.change(codes);
        if !self.ahead.is_empty() {
            moved.retain(|(_, present)| !present);
            self.ahead.change(&moved);
        }
    }

    /// Finds out which of the ids are ahead of `other`: those of which the layer does not say that their code in `other`
    /// is as great. To be called for all whose code was said anew in either column; ids ascend, none twice.
    pub(crate) fn compare(&mut self, other: &Self, ids: impl Iterator<Item = u32>) {
        let ranked = ids.filter_map(|id| {
            let code = self.get(id).flatten()?;
            Some(((code, id), other.get(id).flatten().is_none_or(|beside| beside < code)))
        });
        let mut ranked: Vec<_> = ranked.filter(|(_, ahead)| *ahead || !self.ahead.is_empty()).collect();
        ranked.sort_unstable();
        self.ahead.change(&ranked);
    }

    /// See [`LayerColumn::compare`]: those with this code or a greater one.
    pub(crate) fn ahead(&self, from: u64) -> Order<'_> {
        self.ahead.order((from, 0)..)
    }

    fn bytes(&self) -> u64 {
        let peaks = self.peaks.as_ref().map_or(0, Peaks::bytes);
        self.codes.bytes() + self.order.bytes() + self.ahead.bytes() + peaks
    }
}

/// The ids of a block whose cells may not be what the base says.
#[derive(Debug, Clone)]
struct Moved {
    block: u16,
    ids: BlockSet,
}

impl Entry for Moved {
    type Key = u16;
    /// More of them, ascending.
    type Change<'c> = (u16, Vec<u16>);
    const CHUNK: usize = 16;

    fn key(&self) -> &u16 {
        &self.block
    }

    fn key_of((block, _): &(u16, Vec<u16>)) -> &u16 {
        block
    }

    fn changed(old: Option<&Self>, (block, more): &(u16, Vec<u16>)) -> Option<Self> {
        let mut moved = old.cloned().unwrap_or(Self { block: *block, ids: BlockSet::default() });
        moved.ids.insert(more);
        Some(moved)
    }

    fn bytes(&self) -> usize {
        self.ids.bytes()
    }
}

/// What a layer says of sets.
#[derive(Debug, Clone, Default)]
pub(crate) struct LayerSets {
    sets: Sorted<Entries<SetEntry>>,
    moved: Sorted<Entries<Moved>>,
    /// See [`LayerSets::put`].
    put: Vec<u64>,
}

impl LayerSets {
    pub(crate) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// How many ids were put into sets of a field, one after the other: none of them has gained more.
    pub(crate) fn put(&self, field: FieldId) -> u64 {
        self.put.get(field).copied().unwrap_or(0)
    }

    /// Number of blocks of sets that are changed.
    pub(crate) fn len(&self) -> usize {
        self.sets.len()
    }

    /// In the order of their keys.
    pub(crate) fn range<'s>(
        &'s self,
        from: Bound<&SetKey>,
        to: Bound<&SetKey>,
    ) -> impl DoubleEndedIterator<Item = (&'s SetKey, &'s BlockDelta)> + use<'s> {
        self.sets.range(from, to).map(|(chunk, at)| (&chunk.0[at].key, &chunk.0[at].delta))
    }

    /// Changes ascend by key, each of another key. `tells`: whether cells tell what a document has of a field.
    pub(crate) fn change(&mut self, changes: &[SetChange<'_>], tells: impl Fn(FieldId) -> bool) {
        let mut moved = BTreeMap::<u16, Vec<u16>>::new();
        for change in changes.iter().filter(|change| tells(change.key.field)) {
            let ids = moved.entry(change.key.block).or_default();
            ids.extend_from_slice(change.put);
            ids.extend_from_slice(change.taken);
        }
        let mut moved: Vec<_> = moved.into_iter().collect();
        for (_, ids) in &mut moved {
            ids.sort_unstable();
            ids.dedup();
        }
        for change in changes {
            let field = change.key.field;
            self.put.resize(self.put.len().max(field + 1), 0);
            self.put.get_mut(field).into_iter().for_each(|put| *put += change.put.len() as u64);
        }
        self.moved.change(&moved);
        self.sets.change(changes);
    }

    /// The ids of a block whose cells may not be what the base says.
    pub(crate) fn moved(&self, block: u16) -> Block<'_> {
        self.moved.find(&block).map_or(Block::Empty, |(chunk, at)| chunk.0[at].ids.as_block())
    }

    /// The blocks in which there are such, ascending.
    pub(crate) fn moved_blocks(&self) -> impl Iterator<Item = u16> {
        self.moved.range(Bound::Unbounded, Bound::Unbounded).map(|(chunk, at)| chunk.0[at].block)
    }

    /// Of heap, about.
    fn bytes(&self) -> u64 {
        self.sets.bytes() + self.moved.bytes()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) rows: Sorted<RowChunk>,
    pub(crate) sets: LayerSets,
    /// By field of the layout.
    pub(crate) columns: Vec<LayerColumn>,
    /// Rows of an unfinished load that came while this layer was the active one.
    pub(crate) staged: Staging,
    /// Field ops that arrived before the first load ended, from its first query op on: that one has to see documents.
    /// All of them, those that arrived before this layer began too.
    pub(crate) deferred: imbl::Vector<Op>,
}

/// About what an op takes that waits.
const OP: u64 = 128;

impl Layer {
    /// Above these files.
    pub(crate) fn over(files: &Files) -> Self {
        let column = |field| {
            let has_peaks = files.segments().iter().filter_map(|segment| segment.column(field)).any(Column::has_peaks);
            LayerColumn { peaks: has_peaks.then(Peaks::default), ..LayerColumn::default() }
        };
        Self { columns: (0..files.layout().fields.len()).map(column).collect(), ..Self::default() }
    }

    /// Keeps ops until the load ends.
    pub(crate) fn defer(&mut self, ops: impl IntoIterator<Item = Op>) {
        self.deferred.extend(ops);
    }

    pub(crate) fn take_deferred(&mut self) -> imbl::Vector<Op> {
        std::mem::take(&mut self.deferred)
    }

    pub(crate) fn take_staged(&mut self) -> Staging {
        std::mem::take(&mut self.staged)
    }

    /// Of heap, about.
    pub(crate) fn bytes(&self) -> u64 {
        let columns: u64 = self.columns.iter().map(LayerColumn::bytes).sum();
        let deferred = (self.deferred.len() as u64).saturating_mul(OP);
        self.rows.bytes() + self.sets.bytes() + columns + self.staged.bytes() + deferred
    }
}
