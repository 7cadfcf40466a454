//! The set of one term, through all layers.

use std::{cell::Cell, ops::Bound};

use bitdex_proto::{schema::FieldId, value::Value};
use smallvec::SmallVec;

use super::{
    super::{
        Files, State,
        layer::{BlockDelta, Layer, SetKey},
    },
    combine::{Change, combine},
};
use crate::{
    log::Result,
    segment::{
        BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS,
        postings::{Posting, Role},
        sets::{Block, BlockBuffer},
        value::{Term, ValueRef},
    },
};

/// Blocks that a layer in memory changes, ascending; of most terms there are none.
type Deltas<'s> = Vec<(u16, &'s BlockDelta)>;

/// The set of one term over the whole index. Holds where it found it in each layer; a segment is asked when one of its
/// blocks is first asked for.
#[derive(Debug)]
pub(crate) struct Operand<'s> {
    files: &'s Files,
    field: FieldId,
    /// `None`: `Exists`.
    term: Option<Value>,
    /// By position of the segment.
    base: SmallVec<[Cell<Found<'s>>; 2]>,
    /// What the checkpoint says came in, and went out.
    added: Option<Posting<'s>>,
    removed: Option<Posting<'s>>,
    frozen: Deltas<'s>,
    active: Deltas<'s>,
    estimate: Cell<Option<u64>>,
}

#[derive(Debug, Clone, Copy)]
enum Found<'s> {
    NotSought,
    Nothing,
    Set(Posting<'s>),
}

impl<'s> Operand<'s> {
    pub(super) fn new(state: &'s State, field: FieldId, term: Term<'_>) -> Result<Self> {
        let files: &'s Files = &state.files;
        let mut changed = [None, None];
        if let Some(checkpoint) = files.checkpoint() {
            for (changed, role) in changed.iter_mut().zip([Role::Added, Role::Removed]) {
                if let Some(postings) = checkpoint.sets(role, field) {
                    *changed = postings.get(term)?;
                }
            }
        }
        let [added, removed] = changed;
        let term = match term {
            Term::Exists => None,
            Term::Value(value) => Some(value.to_value()),
        };
        Ok(Self {
            files,
            field,
            base: files.segments().iter().map(|_| Cell::new(Found::NotSought)).collect(),
            added,
            removed,
            frozen: state.frozen.as_ref().map_or_else(Deltas::new, |frozen| deltas(&frozen.layer, field, &term)),
            active: deltas(&state.active, field, &term),
            term,
            estimate: Cell::new(None),
        })
    }

    /// Number of ids, about: never fewer than there are, exact where no layer above the base changes the set.
    pub(crate) fn estimate(&self) -> u64 {
        if let Some(estimate) = self.estimate.get() {
            return estimate;
        }
        let estimate = self.estimate_anew();
        self.estimate.set(Some(estimate));
        estimate
    }

    fn estimate_anew(&self) -> u64 {
        let length = |posting: Option<Posting<'_>>| posting.map_or(0, |posting| posting.len());
        let base: u64 = (0..self.base.len())
            .map(|position| match self.segment(position) {
                Ok(posting) => length(posting),
                // Whoever reads it meets the damage.
                Err(_) => 1 << SEGMENT_BITS,
            })
            .sum();
        // What went out may never have been in, so it is not taken off.
        let deltas = self.frozen.iter().chain(&self.active);
        let added: u64 = deltas.map(|(_, delta)| u64::from(delta.added.as_block().len())).sum();
        base + added + length(self.added)
    }

    /// Numbers of the blocks that may not be empty, ascending.
    pub(crate) fn blocks(&self) -> Vec<u16> {
        let mut blocks = Vec::new();
        for (position, segment) in self.files.segments().iter().enumerate() {
            let found = self.segment(position);
            if let Ok(posting) = found {
                push_blocks(posting, &mut blocks);
            } else {
                // Whoever reads one of them meets the damage.
                let first = (segment.number() << (SEGMENT_BITS - BLOCK_BITS)) as u16;
                blocks.retain(|block| *block < first);
                blocks.extend((0..BLOCKS_PER_SEGMENT).map(|block| first | block));
            }
        }
        let of_base = blocks.len();
        push_blocks(self.added, &mut blocks);
        let grown = self.frozen.iter().chain(&self.active);
        blocks.extend(grown.filter(|(_, delta)| !delta.added.as_block().is_empty()).map(|(block, _)| *block));
        if blocks.len() > of_base {
            blocks.sort_unstable();
            blocks.dedup();
        }
        blocks
    }

    /// The ids of one block, as they are in files or memory, or combined in `buffer`.
    pub(crate) fn block<'b>(&self, number: u16, buffer: &'b mut BlockBuffer) -> Result<Block<'b>>
    where
        's: 'b,
    {
        let base = match self.base(number)? {
            Some(posting) => posting.block(number)?,
            None => Block::Empty,
        };
        let mut changes = [Change::NONE; 3];
        let [checkpoint, frozen, active] = &mut changes;
        let mut changed = false;
        if let Some(added) = self.added {
            checkpoint.added = added.block(number)?;
            changed = true;
        }
        if let Some(removed) = self.removed {
            checkpoint.removed = removed.block(number)?;
            changed = true;
        }
        for (deltas, change) in [(&self.frozen, frozen), (&self.active, active)] {
            if let Some(delta) = find(deltas, number) {
                *change = Change { added: delta.added.as_block(), removed: delta.removed.as_block() };
                changed = true;
            }
        }
        Ok(if changed { combine(base, &changes, buffer) } else { base })
    }

    /// The ids of one block where they lie in files; `None` where a layer above changes the block.
    pub(crate) fn plain_block(&self, number: u16) -> Result<Option<Block<'s>>> {
        for changed in [self.added, self.removed].into_iter().flatten() {
            if !matches!(changed.block(number)?, Block::Empty) {
                return Ok(None);
            }
        }
        if find(&self.frozen, number).is_some() || find(&self.active, number).is_some() {
            return Ok(None);
        }
        match self.base(number)? {
            Some(posting) => posting.block(number).map(Some),
            None => Ok(Some(Block::Empty)),
        }
    }

    /// Whether an id is in the set; `number` and `id`: its block, and its number in there.
    pub(crate) fn contains(&self, number: u16, id: u16) -> Result<bool> {
        for delta in [&self.active, &self.frozen].into_iter().filter_map(|deltas| find(deltas, number)) {
            if delta.added.as_block().contains(id) {
                return Ok(true);
            }
            if delta.removed.as_block().contains(id) {
                return Ok(false);
            }
        }
        if let Some(added) = self.added
            && added.block(number)?.contains(id)
        {
            return Ok(true);
        }
        if let Some(removed) = self.removed
            && removed.block(number)?.contains(id)
        {
            return Ok(false);
        }
        match self.base(number)? {
            Some(posting) => Ok(posting.block(number)?.contains(id)),
            None => Ok(false),
        }
    }

    fn base(&self, block: u16) -> Result<Option<Posting<'s>>> {
        match self.files.position(u32::from(block) >> (SEGMENT_BITS - BLOCK_BITS)) {
            Some(position) => self.segment(position),
            None => Ok(None),
        }
    }

    /// The set in the segment at a position.
    fn segment(&self, position: usize) -> Result<Option<Posting<'s>>> {
        let Some(cell) = self.base.get(position) else { return Ok(None) };
        match cell.get() {
            Found::Nothing => Ok(None),
            Found::Set(posting) => Ok(Some(posting)),
            Found::NotSought => {
                let Some(segment) = self.files.segments().get(position) else { return Ok(None) };
                let term = self.term.as_ref().map_or(Term::Exists, |value| Term::Value(ValueRef::of(value)));
                let posting = segment.posting(self.field, term)?;
                cell.set(posting.map_or(Found::Nothing, Found::Set));
                Ok(posting)
            }
        }
    }
}

fn deltas<'s>(layer: &'s Layer, field: FieldId, term: &Option<Value>) -> Deltas<'s> {
    if layer.sets.is_empty() {
        return Deltas::new();
    }
    let key = |block| SetKey { field, term: term.clone(), block };
    let (first, last) = (key(0), key(u16::MAX));
    let range = layer.sets.range(Bound::Included(&first), Bound::Included(&last));
    range.map(|(key, delta)| (key.block, delta)).collect()
}

fn find<'s>(deltas: &[(u16, &'s BlockDelta)], number: u16) -> Option<&'s BlockDelta> {
    if deltas.is_empty() {
        return None;
    }
    let at = deltas.binary_search_by_key(&number, |(block, _)| *block).ok()?;
    deltas.get(at).map(|(_, delta)| *delta)
}

fn push_blocks(posting: Option<Posting<'_>>, blocks: &mut Vec<u16>) {
    if let Some(posting) = posting {
        blocks.extend((0..posting.blocks()).map_while(|n| posting.number(n)));
    }
}
