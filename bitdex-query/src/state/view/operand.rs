//! The set of one term, through all layers.

use std::{
    cell::{Cell, OnceCell},
    ops::Bound,
};

use bitdex_proto::{schema::FieldId, value::Value};

use super::{
    super::{
        Files, State,
        known_terms::KnownTerm,
        layer::{BlockDelta, Layer, SetKey},
    },
    combine::{Change, combine},
};
use crate::{
    log::Result,
    segment::{
        BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS,
        kept::Kept,
        postings::{Posting, Role, seek, sets_at},
        sets::{Block, BlockBuffer},
        value::{Term, ValueRef},
    },
};

thread_local! {
    /// In which blocks are combined.
    static ROOM: Cell<BlockBuffer> = Cell::default();
}

/// Where files hold more than so many times as many ids as layers in memory can have added, it is not looked up how many
/// these did add.
const LARGE: u64 = 8;

/// Blocks that a layer in memory changes, ascending; of most terms there are none.
type Deltas<'s> = Vec<(u16, &'s BlockDelta)>;

/// What the layers in memory change.
#[derive(Debug)]
struct InMemory<'s> {
    frozen: Deltas<'s>,
    active: Deltas<'s>,
}

/// The set of one term over the whole index. Holds where it found it in each layer; a segment is asked when one of its
/// blocks is first asked for, layers in memory when what they say of any block is.
#[derive(Debug)]
pub(crate) struct Operand<'s> {
    state: &'s State,
    field: FieldId,
    /// `None`: `Exists`.
    term: Option<Value>,
    /// Where it lies in the base, if that is known.
    known: Option<&'s KnownTerm>,
    /// False where the base has no such set.
    is_in_base: bool,
    /// By position of the segment; none before any is asked, as of operands that cells stand for none is.
    found: OnceCell<Box<[Cell<Found<'s>>]>>,
    /// What the checkpoint says came in, and went out, where it says more than segments have taken in.
    added: Option<Changed<'s>>,
    removed: Option<Changed<'s>>,
    in_memory: OnceCell<InMemory<'s>>,
    estimate: Cell<Option<u64>>,
}

/// What a checkpoint says of the set, with room for what becomes of its blocks.
#[derive(Debug)]
struct Changed<'s> {
    posting: Posting<'s>,
    kept: &'s [Kept],
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
                if let Some(postings) = checkpoint.sets(role, field)
                    && let Some((position, posting)) = postings.get_with_position(term)?
                    && posting.numbers().any(|number| !files.has_taken_in_block(number))
                {
                    *changed = Some(Changed { posting, kept: postings.kept(position, &posting) });
                }
            }
        }
        let [added, removed] = changed;
        let known = files.known_term(field, term);
        let term = match term {
            Term::Exists => None,
            Term::Value(value) => Some(value.to_value()),
        };
        Ok(Self {
            state,
            field,
            known: known.flatten(),
            is_in_base: !matches!(known, Some(None)),
            found: OnceCell::new(),
            added,
            removed,
            in_memory: OnceCell::new(),
            term,
            estimate: Cell::new(None),
        })
    }

    fn in_memory(&self) -> &InMemory<'s> {
        self.in_memory.get_or_init(|| {
            let deltas = |layer| deltas(layer, self.field, &self.term);
            let frozen = self.state.frozen.as_ref();
            InMemory {
                frozen: frozen.map_or_else(Deltas::new, |frozen| deltas(&frozen.layer)),
                active: deltas(&self.state.active),
            }
        })
    }

    fn found(&self) -> &[Cell<Found<'s>>] {
        let segments = if self.is_in_base { self.state.files.segments() } else { &[] };
        self.found.get_or_init(|| segments.iter().map(|_| Cell::new(Found::NotSought)).collect())
    }

    /// Number of ids, about: never fewer than there are, exact where no layer above the base changes sets of the field.
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
        let base: u64 = match self.known {
            Some(known) => known.ids,
            None => {
                self.seek();
                (0..self.found().len())
                    .map(|position| match self.segment(position) {
                        Ok(posting) => length(posting),
                        // Whoever reads it meets the damage.
                        Err(_) => 1 << SEGMENT_BITS,
                    })
                    .sum()
            }
        };
        // What went out may never have been in, so it is not taken off.
        let of_files = base + length(self.added.as_ref().map(|added| added.posting));
        let put: u64 = self.state.heap_layers().map(|layer| layer.sets.put(self.field)).sum();
        if self.known.is_some() && of_files > LARGE * put {
            return of_files + put;
        }
        let InMemory { frozen, active } = self.in_memory();
        let added: u64 = frozen.iter().chain(active).map(|(_, delta)| u64::from(delta.added.len())).sum();
        of_files + added
    }

    /// Numbers of the blocks that may not be empty, ascending.
    pub(crate) fn blocks(&self) -> Vec<u16> {
        let mut blocks = match self.known {
            Some(known) => known.blocks.clone(),
            None => self.blocks_of_base(),
        };
        let of_base = blocks.len();
        push_blocks(self.added.as_ref().map(|added| added.posting), &mut blocks);
        let InMemory { frozen, active } = self.in_memory();
        let grown = frozen.iter().chain(active);
        blocks.extend(grown.filter(|(_, delta)| !delta.added.as_block().is_empty()).map(|(block, _)| *block));
        if blocks.len() > of_base {
            blocks.sort_unstable();
            blocks.dedup();
        }
        blocks
    }

    fn blocks_of_base(&self) -> Vec<u16> {
        let mut blocks = Vec::new();
        for (position, segment) in self.state.files.segments().iter().enumerate() {
            if let Ok(posting) = self.segment(position) {
                push_blocks(posting, &mut blocks);
            } else {
                // Whoever reads one of them meets the damage.
                let first = (segment.number() << (SEGMENT_BITS - BLOCK_BITS)) as u16;
                blocks.retain(|block| *block < first);
                blocks.extend((0..BLOCKS_PER_SEGMENT).map(|block| first | block));
            }
        }
        blocks
    }

    /// The ids of one block, as they are in files or memory, or combined in `buffer`.
    pub(crate) fn block<'b>(&self, number: u16, buffer: &'b mut BlockBuffer) -> Result<Block<'b>>
    where
        's: 'b,
    {
        match self.plain_block(number)? {
            Some(block) => Ok(block),
            None => self.combined(number, buffer),
        }
    }

    fn combined<'b>(&self, number: u16, buffer: &'b mut BlockBuffer) -> Result<Block<'b>>
    where
        's: 'b,
    {
        let base = self.base_block(number)?;
        let mut changes = [Change::NONE; 3];
        let [checkpoint, of_frozen, of_active] = &mut changes;
        let [added, removed] = self.of_checkpoint(number);
        if let Some(added) = added {
            checkpoint.added = added.posting.block(number)?;
        }
        if let Some(removed) = removed {
            checkpoint.removed = removed.posting.block(number)?;
        }
        let InMemory { frozen, active } = self.in_memory();
        for (deltas, change) in [(frozen, of_frozen), (active, of_active)] {
            if let Some(delta) = find(deltas, number) {
                *change = Change { added: delta.added.as_block(), removed: delta.removed.as_block() };
            }
        }
        Ok(combine(base, &changes, buffer))
    }

    /// The ids of one block where they lie in files, or in memory as a whole; `None` where there is no room for that.
    pub(crate) fn plain_block(&self, number: u16) -> Result<Option<Block<'s>>> {
        let Some(kept) = self.kept(number) else { return self.base_block(number).map(Some) };
        if let Some(block) = kept.get() {
            return Ok(Some(block));
        }
        let mut buffer = ROOM.take();
        let block = self.combined(number, &mut buffer).map(|block| kept.keep(block));
        ROOM.set(buffer);
        block
    }

    /// How many ids it has in blocks of the segment at a position, at most. `blocks`: of that segment.
    pub(crate) fn most_within(&self, position: usize, blocks: &[u16]) -> Result<u64> {
        let base = self.segment(position)?.map_or(0, |posting| posting.len());
        if self.is_all_of_base() {
            return Ok(base);
        }
        blocks.iter().try_fold(base, |sum, number| Ok(sum + u64::from(self.added_len(*number)?)))
    }

    /// How many ids of a block the base has.
    pub(crate) fn base_len(&self, number: u16) -> Result<u32> {
        self.base(number)?.map_or(Ok(0), |posting| posting.block_len(number))
    }

    /// How many ids layers above the base add to a block, at most.
    pub(crate) fn added_len(&self, number: u16) -> Result<u32> {
        let [of_checkpoint, _] = self.of_checkpoint(number);
        let of_checkpoint = of_checkpoint.map_or(Ok(0), |added| added.posting.block_len(number))?;
        let InMemory { frozen, active } = self.in_memory();
        let in_memory = [frozen, active].into_iter().filter_map(|deltas| find(deltas, number));
        Ok(in_memory.map(|delta| delta.added.len()).sum::<u32>() + of_checkpoint)
    }

    /// Calls `each` with the ids that it has in some blocks of the segment at a position, which ascend; so do the ids.
    pub(crate) fn each_within(&self, position: usize, blocks: &[u16], mut each: impl FnMut(u32)) -> Result<()> {
        let mut each_of =
            |number: u16, block: Block<'_>| block.for_each(|id| each(u32::from(number) << BLOCK_BITS | u32::from(id)));
        if self.is_all_of_base() {
            if let Some(posting) = self.segment(position)? {
                for n in 0..posting.blocks() {
                    let (number, block) = posting.nth(n)?;
                    if blocks.binary_search(&number).is_ok() {
                        each_of(number, block);
                    }
                }
            }
            return Ok(());
        }
        let mut buffer = ROOM.take();
        let all = blocks.iter().try_for_each(|number| {
            each_of(*number, self.block(*number, &mut buffer)?);
            Ok(())
        });
        ROOM.set(buffer);
        all
    }

    pub(super) fn field(&self) -> FieldId {
        self.field
    }

    /// Whether it is of a value, in a field of which a document has one at most.
    pub(crate) fn is_single(&self) -> bool {
        self.term.is_some() && self.state.layout.single().binary_search(&self.field).is_ok()
    }

    /// Calls `each` with the blocks that layers above the base change, some perhaps twice.
    pub(super) fn changed_blocks(&self, mut each: impl FnMut(u16)) {
        let InMemory { frozen, active } = self.in_memory();
        frozen.iter().chain(active).for_each(|(number, _)| each(*number));
        for changed in [&self.added, &self.removed].into_iter().flatten() {
            changed.posting.numbers().for_each(&mut each);
        }
    }

    /// Calls `each` with the ids of a block that one layer above the base adds, and those that it removes; and so of each.
    pub(crate) fn each_change(&self, number: u16, mut each: impl FnMut(Block<'s>, Block<'s>)) -> Result<()> {
        let [added, removed] = self.of_checkpoint(number).map(|changed| match changed {
            Some(changed) => changed.posting.block(number),
            None => Ok(Block::Empty),
        });
        each(added?, removed?);
        let InMemory { frozen, active } = self.in_memory();
        for delta in [frozen, active].into_iter().filter_map(|deltas| find(deltas, number)) {
            each(delta.added.as_block(), delta.removed.as_block());
        }
        Ok(())
    }

    /// Whether no layer above the base changes any block.
    pub(crate) fn is_all_of_base(&self) -> bool {
        let InMemory { frozen, active } = self.in_memory();
        self.added.is_none() && self.removed.is_none() && frozen.is_empty() && active.is_empty()
    }

    /// Calls `each` with the ids of a block that layers above the base add, some perhaps twice.
    pub(crate) fn each_added(&self, number: u16, mut each: impl FnMut(u16)) -> Result<()> {
        if let [Some(added), _] = self.of_checkpoint(number) {
            added.posting.block(number)?.for_each(&mut each);
        }
        let InMemory { frozen, active } = self.in_memory();
        for delta in [frozen, active].into_iter().filter_map(|deltas| find(deltas, number)) {
            delta.added.as_block().for_each(&mut each);
        }
        Ok(())
    }

    /// Whether the base has an id in the set.
    pub(crate) fn base_contains(&self, id: u32) -> Result<bool> {
        Ok(self.base_block((id >> BLOCK_BITS) as u16)?.contains(id as u16))
    }

    /// Whether no layer above the base changes a block.
    pub(crate) fn is_of_base(&self, number: u16) -> bool {
        self.kept(number).is_none()
    }

    /// Room for what layers above the base make of a block; `None` where none of them changes it.
    fn kept(&self, number: u16) -> Option<&'s Kept> {
        let kept = |changed: &Changed<'s>| changed.kept.get(changed.posting.position(number)?);
        let InMemory { frozen, active } = self.in_memory();
        match find(active, number).or_else(|| find(frozen, number)) {
            Some(delta) => Some(&delta.merged),
            None => self.of_checkpoint(number).into_iter().flatten().find_map(kept),
        }
    }

    /// What the checkpoint says came in, and went out, of a block whose segment has not taken that in.
    fn of_checkpoint(&self, number: u16) -> [Option<&Changed<'s>>; 2] {
        match self.added.is_none() && self.removed.is_none() || self.state.files.has_taken_in_block(number) {
            true => [None, None],
            false => [self.added.as_ref(), self.removed.as_ref()],
        }
    }

    /// Whether an id is in the set; `number` and `id`: its block, and its number in there.
    pub(crate) fn contains(&self, number: u16, id: u16) -> Result<bool> {
        match self.kept(number) {
            None => return Ok(self.base_block(number)?.contains(id)),
            Some(kept) => {
                if let Some(block) = kept.get() {
                    return Ok(block.contains(id));
                }
            }
        }
        let InMemory { frozen, active } = self.in_memory();
        for delta in [active, frozen].into_iter().filter_map(|deltas| find(deltas, number)) {
            if delta.added.as_block().contains(id) {
                return Ok(true);
            }
            if delta.removed.as_block().contains(id) {
                return Ok(false);
            }
        }
        let [added, removed] = self.of_checkpoint(number);
        if let Some(added) = added
            && added.posting.block(number)?.contains(id)
        {
            return Ok(true);
        }
        if let Some(removed) = removed
            && removed.posting.block(number)?.contains(id)
        {
            return Ok(false);
        }
        Ok(self.base_block(number)?.contains(id))
    }

    /// The ids of one block that the base has.
    pub(crate) fn base_block(&self, number: u16) -> Result<Block<'s>> {
        match self.base(number)? {
            Some(posting) => posting.block(number),
            None => Ok(Block::Empty),
        }
    }

    fn base(&self, block: u16) -> Result<Option<Posting<'s>>> {
        match self.state.files.position_of_block(block) {
            Some(position) => self.segment(position),
            None => Ok(None),
        }
    }

    /// Looks it up in all segments, which is quicker than in one behind the other. Where that fails, whoever reads it
    /// there meets the damage.
    pub(crate) fn seek(&self) {
        if self.found().iter().all(|cell| !matches!(cell.get(), Found::NotSought)) {
            return;
        }
        let files = self.state.files.segments().iter().map(|segment| segment.postings(self.field));
        let found = match (self.known, &self.term) {
            (Some(known), _) => {
                let positions = known.positions.iter().map(|position| position.map(|position| position as usize));
                sets_at(files.zip(positions).map(|(postings, position)| postings.zip(position)))
            }
            (None, Some(term)) => seek(files, ValueRef::of(term)),
            (None, None) => return,
        };
        for (cell, posting) in self.found().iter().zip(found.into_iter().flatten()) {
            cell.set(posting.map_or(Found::Nothing, Found::Set));
        }
    }

    /// The set in the segment at a position.
    pub(super) fn segment(&self, position: usize) -> Result<Option<Posting<'s>>> {
        let Some(cell) = self.found().get(position) else { return Ok(None) };
        match cell.get() {
            Found::Nothing => Ok(None),
            Found::Set(posting) => Ok(Some(posting)),
            Found::NotSought => {
                let Some(segment) = self.state.files.segments().get(position) else { return Ok(None) };
                let posting = match self.known {
                    Some(known) => match (segment.postings(self.field), known.positions.get(position)) {
                        (Some(postings), Some(Some(at))) => Some(postings.set_at(*at as usize)?),
                        _ => None,
                    },
                    None => {
                        let term = self.term.as_ref().map_or(Term::Exists, |value| Term::Value(ValueRef::of(value)));
                        segment.posting(self.field, term)?
                    }
                };
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
    let first = SetKey { field, term: term.clone(), block: 0 };
    let from = layer.sets.range(Bound::Included(&first), Bound::Unbounded);
    let range = from.take_while(|(key, _)| key.field == field && key.term == *term);
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
        blocks.extend(posting.numbers());
    }
}
