//! Operands → the ids of one block.

use std::{cell::Cell, rc::Rc};

use smallvec::SmallVec;

use super::{
    cells,
    codes::ColumnTest,
    fused::{DENSE, Fused},
    order::Rank,
    set::{Set, each_id},
    trace::{StepId, Trace},
    tree::{And, Child, Node, Union},
    watch,
};
use crate::{
    log::{self, Result},
    segment::{
        BLOCK_BITS, BLOCKS_PER_SEGMENT,
        sets::{Block, BlockBuffer, WORDS},
    },
    state::Operand,
};

/// Room that is used again from block to block.
#[derive(Debug, Default)]
pub(super) struct Pool {
    buffers: Vec<BlockBuffer>,
    sets: Vec<Set>,
    ids: Vec<u32>,
    /// Of blocks that are to be visited: the first code, and the number in place of an id.
    visits: Vec<Rank>,
}

thread_local! {
    /// What the last query of this thread left.
    static LEFT: Cell<Pool> =
        const { Cell::new(Pool { buffers: Vec::new(), sets: Vec::new(), ids: Vec::new(), visits: Vec::new() }) };
}

/// So many ids of a block are counted one by one.
const COUNTED: usize = 64;

/// Terms of a union that are tested side by side.
const FUSED: usize = 8;

/// Sets that a thread keeps between queries, 8 KiB each.
const KEPT: usize = 256;

impl Pool {
    pub(super) fn of_thread() -> Self {
        LEFT.take()
    }

    fn leave(mut self) {
        self.sets.truncate(KEPT);
        LEFT.set(self);
    }

    pub(super) fn set(&mut self) -> Set {
        let mut set = self.sets.pop().unwrap_or_default();
        set.clear();
        set
    }

    pub(super) fn put_set(&mut self, set: Set) {
        self.sets.push(set);
    }

    pub(super) fn buffer(&mut self) -> BlockBuffer {
        self.buffers.pop().unwrap_or_default()
    }

    pub(super) fn put_buffer(&mut self, buffer: BlockBuffer) {
        self.buffers.push(buffer);
    }

    pub(super) fn ids(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ids)
    }

    pub(super) fn visits(&mut self) -> Vec<Rank> {
        std::mem::take(&mut self.visits)
    }

    pub(super) fn put_visits(&mut self, mut visits: Vec<Rank>) {
        visits.clear();
        self.visits = visits;
    }

    pub(super) fn put_ids(&mut self, mut ids: Vec<u32>) {
        ids.clear();
        self.ids = ids;
    }
}

pub(super) fn block_of(id: u32) -> u16 {
    (id >> BLOCK_BITS) as u16
}

/// Blocks, which ascend, segment by segment.
pub(super) fn by_segment(blocks: &[u16]) -> impl Iterator<Item = &[u16]> {
    blocks.chunk_by(|a, b| a / BLOCKS_PER_SEGMENT == b / BLOCKS_PER_SEGMENT)
}

pub(super) fn within_block(id: u32) -> u16 {
    id as u16
}

pub(super) fn id_of(block: u16, id: u16) -> u32 {
    u32::from(block) << BLOCK_BITS | u32::from(id)
}

/// With which ids of a block its evaluation begins.
pub(super) enum Begin<'n> {
    /// Those of the first operand.
    All,
    /// The same, without those that this takes out.
    Narrowed(&'n mut dyn FnMut(&mut Set) -> Result<()>),
    /// No others than these.
    Of(Block<'n>),
}

/// What is done with an operand's block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum With {
    And,
    Not,
    Or,
}

fn combine(operand: &Operand<'_>, number: u16, with: With, set: &mut Set, pool: &mut Pool) -> Result<()> {
    let mut buffer = pool.buffer();
    let block = operand.block(number, &mut buffer)?;
    match with {
        With::And => set.and(block),
        With::Not => set.and_not(block),
        With::Or => set.or(block),
    }
    pool.put_buffer(buffer);
    Ok(())
}

impl And<'_> {
    /// `set` becomes the ids of the block.
    pub(super) fn evaluate(&self, number: u16, set: &mut Set, pool: &mut Pool, begin: Begin<'_>) -> Result<()> {
        set.clear();
        let Some((first, rest)) = self.positives.split_first() else { return Ok(()) };
        if let Begin::Of(ids) = begin {
            set.or(ids);
            return self.restrict(&self.positives, number, set, pool);
        }
        first.node.unite(number, set, pool)?;
        if let Begin::Narrowed(narrow) = begin
            && !set.is_empty()
        {
            narrow(set)?;
        }
        self.restrict(rest, number, set, pool)
    }

    /// Keeps of the set what passes.
    fn restrict_all(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        self.restrict(&self.positives, number, set, pool)
    }

    /// Keeps what the negatives and `of` of the positives let through. Those that lie as words come together, before those
    /// that have to be made.
    fn restrict(&self, of: &[Child<'_>], number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        let mut fused = Fused::default();
        let (mut positives, mut negatives) = (SmallVec::<[&Node<'_>; 8]>::new(), SmallVec::<[&Node<'_>; 8]>::new());
        let cells = self.cells.as_ref().filter(|_| set.is_sparse() && set.len() <= cells::FEW);
        let cells = cells.and_then(|cells| cells.block(number));
        if let Some(cells) = &cells {
            cells.restrict(number, set, self)?;
        }
        let is_told = |child: &&Child<'_>| child.told && cells.is_some();
        for child in of.iter().filter(|child| !is_told(child)) {
            if set.is_empty() {
                return Ok(());
            }
            match &child.node {
                Node::Term(operand) => match operand.plain_block(number)? {
                    Some(Block::Bits(words)) => fused.must(words),
                    Some(block) => set.and(block),
                    None => positives.push(&child.node),
                },
                Node::Valued(valued) if valued.is_all(number) => {}
                Node::Named(named) => match named.plain_block(number, pool)? {
                    Some(Block::Bits(words)) => fused.must(words),
                    Some(block) => set.and(block),
                    None => positives.push(&child.node),
                },
                Node::Union(union) => match union.words(number)? {
                    Some(group) if group.is_empty() => set.clear(),
                    Some(group) => fused.must_any(&group),
                    None => positives.push(&child.node),
                },
                node => positives.push(node),
            }
        }
        for child in self.negatives.iter().filter(|child| !is_told(child)) {
            match &child.node {
                Node::Term(operand) => match operand.plain_block(number)? {
                    Some(Block::Empty) => {}
                    Some(Block::Bits(words)) => fused.must_not(words),
                    _ => negatives.push(&child.node),
                },
                Node::Union(union) => match union.words(number)? {
                    Some(group) => group.into_iter().for_each(|words| fused.must_not(words)),
                    None => negatives.push(&child.node),
                },
                node => negatives.push(node),
            }
        }
        fused.apply(set);
        for node in positives {
            if set.is_empty() {
                return Ok(());
            }
            node.restrict(number, set, pool)?;
        }
        for node in negatives {
            if set.is_empty() {
                return Ok(());
            }
            node.exclude(number, set, pool)?;
        }
        Ok(())
    }

    pub(super) fn contains(&self, id: u32) -> Result<bool> {
        if let Some(contains) = self.contains_by_cell(id)? {
            return Ok(contains);
        }
        self.contains_by_sets(id)
    }

    fn contains_by_sets(&self, id: u32) -> Result<bool> {
        for child in &self.positives {
            if !child.node.contains(id)? {
                return Ok(false);
            }
        }
        for child in &self.negatives {
            if child.node.contains(id)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Numbers of the blocks that may not be empty, ascending. `all`: those in which a document may be present.
    pub(super) fn blocks(&self, all: &[u16]) -> Result<Vec<u16>> {
        let Some((first, rest)) = self.positives.split_first() else { return Ok(Vec::new()) };
        let mut blocks = first.node.blocks(all)?;
        for child in rest {
            // Only these tell without looking into sets.
            match &child.node {
                Node::Column(test) => blocks = test.reached(&blocks)?,
                Node::Keys(keys) => blocks.retain(|number| !overlap(keys, *number).is_empty()),
                _ => {}
            }
        }
        Ok(blocks)
    }
}

/// The ranges that have ids of a block.
fn overlap(keys: &[(u32, u32)], number: u16) -> &[(u32, u32)] {
    let (first, last) = (id_of(number, 0), id_of(number, u16::MAX));
    let from = keys.partition_point(|key| key.1 < first);
    let to = keys.partition_point(|key| key.0 <= last);
    keys.get(from..to).unwrap_or_default()
}

fn unite_keys(keys: &[(u32, u32)], number: u16, set: &mut Set) {
    let (first, last) = (id_of(number, 0), id_of(number, u16::MAX));
    for key in overlap(keys, number) {
        set.or_range(within_block(key.0.max(first)), within_block(key.1.min(last)));
    }
}

fn any(children: &[Child<'_>], number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
    children.iter().try_for_each(|child| child.node.unite(number, set, pool))
}

impl Node<'_> {
    /// Adds its ids to the set.
    pub(super) fn unite(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Term(operand) => combine(operand, number, With::Or, set, pool),
            Self::Union(union) => {
                union.of_block(number).try_for_each(|operand| combine(operand, number, With::Or, set, pool))
            }
            Self::Column(test) => test.unite(number, set, pool),
            Self::Keys(keys) => {
                unite_keys(keys, number, set);
                Ok(())
            }
            Self::Stored(blocks) => {
                if let Some(stored) = stored(blocks, number) {
                    set.or(stored.as_block());
                }
                Ok(())
            }
            Self::Named(named) => named.with_block(number, pool, |block| set.or(block)),
            Self::Valued(valued) => combine(&valued.operand, number, With::Or, set, pool),
            Self::And(and) => {
                let mut own = pool.set();
                and.evaluate(number, &mut own, pool, Begin::All)?;
                set.or(own.as_block());
                pool.put_set(own);
                Ok(())
            }
            Self::Or(children) => any(children, number, set, pool),
        }
    }

    /// Keeps of the set what it holds.
    pub(super) fn restrict(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self {
            Self::Nothing => {
                set.clear();
                Ok(())
            }
            Self::Term(operand) => combine(operand, number, With::And, set, pool),
            Self::Column(test) => test.restrict(number, set, pool),
            Self::Union(union) => union.restrict(number, set, pool),
            Self::Stored(blocks) => {
                match stored(blocks, number) {
                    Some(stored) => set.and(stored.as_block()),
                    None => set.clear(),
                }
                Ok(())
            }
            Self::Named(named) => match named.plain_block(number, pool)? {
                Some(block) => {
                    set.and(block);
                    Ok(())
                }
                None => named.parts()?.restrict_all(number, set, pool),
            },
            Self::Valued(valued) if valued.is_all(number) => Ok(()),
            Self::Valued(valued) => combine(&valued.operand, number, With::And, set, pool),
            Self::And(and) => and.restrict_all(number, set, pool),
            Self::Keys(_) | Self::Or(_) => {
                let mut own = pool.set();
                self.unite(number, &mut own, pool)?;
                set.and(own.as_block());
                pool.put_set(own);
                Ok(())
            }
        }
    }

    /// Takes what it holds out of the set.
    pub(super) fn exclude(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Term(operand) => combine(operand, number, With::Not, set, pool),
            Self::Union(union) => {
                union.of_block(number).try_for_each(|operand| combine(operand, number, With::Not, set, pool))
            }
            Self::Column(test) => test.exclude(number, set, pool),
            Self::Stored(blocks) => {
                if let Some(stored) = stored(blocks, number) {
                    set.and_not(stored.as_block());
                }
                Ok(())
            }
            Self::Named(named) => named.with_block(number, pool, |block| set.and_not(block)),
            Self::Valued(valued) => combine(&valued.operand, number, With::Not, set, pool),
            Self::Or(children) => children.iter().try_for_each(|child| child.node.exclude(number, set, pool)),
            Self::And(_) | Self::Keys(_) => {
                let mut own = pool.set();
                self.unite(number, &mut own, pool)?;
                set.and_not(own.as_block());
                pool.put_set(own);
                Ok(())
            }
        }
    }

    pub(super) fn contains(&self, id: u32) -> Result<bool> {
        match self {
            Self::Nothing => Ok(false),
            Self::Term(operand) => operand.contains(block_of(id), within_block(id)),
            Self::Union(union) => {
                for operand in union.of_block(block_of(id)) {
                    if operand.contains(block_of(id), within_block(id))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Column(test) => test.contains(id),
            Self::Keys(keys) => {
                let at = keys.partition_point(|key| key.1 < id);
                Ok(keys.get(at).is_some_and(|key| key.0 <= id))
            }
            Self::Stored(blocks) => Ok(stored(blocks, block_of(id)).is_some_and(|set| set.contains(within_block(id)))),
            Self::Named(named) => named.contains(id),
            Self::Valued(valued) => {
                Ok(valued.is_all(block_of(id)) || valued.operand.contains(block_of(id), within_block(id))?)
            }
            Self::And(and) => and.contains(id),
            Self::Or(children) => {
                for child in children {
                    if child.node.contains(id)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn blocks(&self, all: &[u16]) -> Result<Vec<u16>> {
        Ok(match self {
            Self::Nothing => Vec::new(),
            Self::Term(operand) => operand.blocks(),
            Self::Union(union) if union.by_block.is_empty() => {
                merged(union.terms.iter().map(|term| Ok(term.blocks())))?
            }
            Self::Union(union) => {
                let mut blocks: Vec<u16> = union.by_block.iter().map(|(number, _)| *number).collect();
                blocks.dedup();
                blocks
            }
            Self::Column(test) => test.reached(all)?,
            Self::Keys(keys) => all.iter().copied().filter(|number| !overlap(keys, *number).is_empty()).collect(),
            Self::Stored(blocks) => blocks.iter().map(|(number, _)| *number).collect(),
            Self::Named(_) => all.to_vec(),
            Self::Valued(valued) => valued.operand.blocks(),
            Self::And(and) => and.blocks(all)?,
            Self::Or(children) => merged(children.iter().map(|child| child.node.blocks(all)))?,
        })
    }
}

fn merged(lists: impl Iterator<Item = Result<Vec<u16>>>) -> Result<Vec<u16>> {
    let mut all = Vec::new();
    for list in lists {
        all.extend(list?);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn stored(blocks: &[(u16, Set)], number: u16) -> Option<&Set> {
    let at = blocks.binary_search_by_key(&number, |(number, _)| *number).ok()?;
    blocks.get(at).map(|(_, set)| set)
}

impl<'s> Union<'s> {
    /// The blocks of its terms, where all that are not empty lie as words.
    fn words(&self, number: u16) -> Result<Option<SmallVec<[&'s [u64; WORDS]; 8]>>> {
        let mut all = SmallVec::new();
        for operand in self.of_block(number) {
            match operand.plain_block(number)? {
                Some(Block::Empty) => {}
                Some(Block::Bits(words)) if all.len() < FUSED => all.push(words),
                _ => return Ok(None),
            }
        }
        Ok(Some(all))
    }

    fn restrict(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        let mut plain: SmallVec<[Block<'_>; 8]> = SmallVec::new();
        for operand in self.of_block(number) {
            match operand.plain_block(number)? {
                Some(Block::Empty) => {}
                Some(block) if plain.len() < FUSED => plain.push(block),
                _ => {
                    let mut own = pool.set();
                    self.of_block(number).try_for_each(|operand| combine(operand, number, With::Or, &mut own, pool))?;
                    set.and(own.as_block());
                    pool.put_set(own);
                    return Ok(());
                }
            }
        }
        match plain.as_slice() {
            [] => set.clear(),
            [block] => set.and(*block),
            blocks if set.is_sparse() && set.len() <= DENSE => set.and_any(blocks),
            blocks => {
                // Ids of arrays are put into one set of words, which is read like the others.
                let mut own = pool.set();
                let mut group: SmallVec<[&[u64; WORDS]; 8]> = SmallVec::new();
                for block in blocks {
                    match block {
                        Block::Bits(words) => group.push(words),
                        block => own.or_words(*block),
                    }
                }
                group.extend(own.as_words());
                let mut fused = Fused::default();
                fused.must_any(&group);
                fused.apply(set);
                drop((fused, group));
                pool.put_set(own);
            }
        }
        Ok(())
    }
}

/// A filter and what is hidden, with the room to evaluate them.
#[derive(Debug)]
pub(super) struct Matcher<'s> {
    pub(super) root: And<'s>,
    /// Documents that show only later.
    pub(super) hidden: Option<Box<ColumnTest<'s>>>,
    /// The clock at which they are hidden; `None`: nothing is.
    pub(super) now_us: Option<i64>,
    pub(super) pool: Pool,
    /// Where it is told what happens, and the step of what is hidden.
    pub(super) trace: Option<(Rc<Trace>, StepId)>,
}

impl Drop for Matcher<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.pool).leave();
        if let Some((trace, _)) = &self.trace {
            trace.end();
        }
    }
}

impl Matcher<'_> {
    /// The ids of a block that pass the filter; some may be hidden.
    pub(super) fn evaluate(&mut self, number: u16, set: &mut Set) -> Result<()> {
        self.evaluate_some(number, set, Begin::All)
    }

    /// As [`Matcher::evaluate`], of some ids alone.
    pub(super) fn evaluate_some(&mut self, number: u16, set: &mut Set, begin: Begin<'_>) -> Result<()> {
        self.evaluate_wide(number, set, begin)?;
        set.narrow();
        Ok(())
    }

    /// Few ids may be left as words.
    fn evaluate_wide(&mut self, number: u16, set: &mut Set, begin: Begin<'_>) -> Result<()> {
        watch::block()?;
        match &self.trace {
            None => self.root.evaluate(number, set, &mut self.pool, begin),
            Some((trace, _)) => trace.block(&self.root, number, set, &mut self.pool, begin),
        }
    }

    /// Without those that are hidden.
    pub(super) fn evaluate_shown(&mut self, number: u16, set: &mut Set) -> Result<()> {
        self.evaluate_wide(number, set, Begin::All)?;
        match (&self.hidden, &self.trace) {
            (Some(hidden), None) if !set.is_empty() => hidden.exclude(number, set, &mut self.pool),
            (Some(hidden), Some((trace, step))) if !set.is_empty() => {
                trace.timed(*step, set, |set| hidden.exclude(number, set, &mut self.pool))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn contains(&self, id: u32) -> Result<bool> {
        match &self.trace {
            None => self.root.contains(id),
            Some((trace, _)) => trace.contains(&self.root, id),
        }
    }

    /// As [`Matcher::contains`], of an id of which cells hardly tell.
    pub(super) fn contains_by_sets(&self, id: u32) -> Result<bool> {
        match &self.trace {
            None => self.root.contains_by_sets(id),
            Some((trace, _)) => trace.contains(&self.root, id),
        }
    }

    pub(super) fn count(&mut self, blocks: &[u16]) -> Result<u64> {
        self.root.seek();
        let mut left = Vec::new();
        let told = self.count_by_cells(blocks, &mut left)?;
        let blocks = if told.is_some() { left.as_slice() } else { blocks };
        let mut set = self.pool.set();
        let mut count = told.unwrap_or(0);
        for number in blocks {
            if let Some(listed) = self.listed(*number, COUNTED)? {
                count += listed.count(self)?;
                continue;
            }
            self.evaluate_shown(*number, &mut set)?;
            count += u64::from(set.len());
        }
        self.pool.put_set(set);
        Ok(count)
    }

    /// Every match that is not hidden, ascending.
    pub(super) fn each<E: From<log::Error>>(
        &mut self,
        blocks: &[u16],
        each: &mut dyn FnMut(u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut set = self.pool.set();
        for number in blocks {
            self.evaluate_shown(*number, &mut set)?;
            each_id(set.as_block(), false, |id| each(id_of(*number, id)).map(|()| true))?;
        }
        self.pool.put_set(set);
        Ok(())
    }
}
