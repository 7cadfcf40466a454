//! Operands → the ids of one block.

use std::cell::Cell;

use super::{
    set::{Set, each_id},
    tree::{And, Child, ColumnTest, Node, Share},
    watch,
};
use crate::{
    log::{self, Result},
    segment::{
        BLOCK_BITS,
        sets::{Block, BlockBuffer},
    },
    state::Operand,
};

/// From this many ids on, a block's codes are decoded at once, not looked up one by one.
pub(super) const DECODE_FROM: u32 = 8192;

/// At most so many hidden documents are listed, rather than sought in each block.
const LISTED_MOST: u64 = 1 << 17;

/// Room that is used again from block to block.
#[derive(Debug, Default)]
pub(super) struct Pool {
    buffers: Vec<BlockBuffer>,
    sets: Vec<Set>,
    codes: Vec<Vec<u64>>,
}

thread_local! {
    /// What the last query of this thread left.
    static LEFT: Cell<Pool> = const { Cell::new(Pool { buffers: Vec::new(), sets: Vec::new(), codes: Vec::new() }) };
}

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

    pub(super) fn codes(&mut self) -> Vec<u64> {
        self.codes.pop().unwrap_or_default()
    }

    pub(super) fn put_codes(&mut self, codes: Vec<u64>) {
        self.codes.push(codes);
    }
}

pub(super) fn block_of(id: u32) -> u16 {
    (id >> BLOCK_BITS) as u16
}

pub(super) fn within_block(id: u32) -> u16 {
    id as u16
}

pub(super) fn id_of(block: u16, id: u16) -> u32 {
    u32::from(block) << BLOCK_BITS | u32::from(id)
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
    pub(super) fn evaluate(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        set.clear();
        let Some((first, rest)) = self.positives.split_first() else { return Ok(()) };
        first.node.unite(number, set, pool)?;
        for child in rest {
            if set.is_empty() {
                return Ok(());
            }
            child.node.restrict(number, set, pool)?;
        }
        for child in &self.negatives {
            if set.is_empty() {
                return Ok(());
            }
            child.node.exclude(number, set, pool)?;
        }
        Ok(())
    }

    pub(super) fn contains(&self, id: u32, pool: &mut Pool) -> Result<bool> {
        for child in &self.positives {
            if !child.node.contains(id, pool)? {
                return Ok(false);
            }
        }
        for child in &self.negatives {
            if child.node.contains(id, pool)? {
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
                Node::Column(test) => keep(&mut blocks, |number| Ok(test.share(number)? != Share::None))?,
                Node::Keys(keys) => keep(&mut blocks, |number| Ok(!overlap(keys, number).is_empty()))?,
                _ => {}
            }
        }
        Ok(blocks)
    }
}

fn keep(blocks: &mut Vec<u16>, mut test: impl FnMut(u16) -> Result<bool>) -> Result<()> {
    let mut kept = Vec::with_capacity(blocks.len());
    for number in blocks.iter() {
        if test(*number)? {
            kept.push(*number);
        }
    }
    *blocks = kept;
    Ok(())
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
            Self::Column(test) => self.unite_column(test, number, set, pool),
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
            Self::And(and) => {
                let mut own = pool.set();
                and.evaluate(number, &mut own, pool)?;
                set.or(own.as_block());
                pool.put_set(own);
                Ok(())
            }
            Self::Or(children) => any(children, number, set, pool),
        }
    }

    fn unite_column(&self, test: &ColumnTest<'_>, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match test.share(number)? {
            Share::None => Ok(()),
            Share::All => combine(&test.exists, number, With::Or, set, pool),
            Share::Some => {
                let mut own = pool.set();
                combine(&test.exists, number, With::Or, &mut own, pool)?;
                filter_codes(test, number, true, &mut own, pool)?;
                set.or(own.as_block());
                pool.put_set(own);
                Ok(())
            }
        }
    }

    /// Keeps of the set what it holds.
    fn restrict(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self {
            Self::Nothing => {
                set.clear();
                Ok(())
            }
            Self::Term(operand) => combine(operand, number, With::And, set, pool),
            Self::Column(test) => match test.share(number)? {
                Share::None => {
                    set.clear();
                    Ok(())
                }
                Share::All => combine(&test.exists, number, With::And, set, pool),
                Share::Some => {
                    if set.len() >= DECODE_FROM {
                        combine(&test.exists, number, With::And, set, pool)?;
                    }
                    filter_codes(test, number, true, set, pool)
                }
            },
            Self::Stored(blocks) => {
                match stored(blocks, number) {
                    Some(stored) => set.and(stored.as_block()),
                    None => set.clear(),
                }
                Ok(())
            }
            Self::And(and) => {
                for child in &and.positives {
                    child.node.restrict(number, set, pool)?;
                }
                and.negatives.iter().try_for_each(|child| child.node.exclude(number, set, pool))
            }
            Self::Union(_) | Self::Keys(_) | Self::Or(_) => {
                let mut own = pool.set();
                self.unite(number, &mut own, pool)?;
                set.and(own.as_block());
                pool.put_set(own);
                Ok(())
            }
        }
    }

    /// Takes what it holds out of the set.
    fn exclude(&self, number: u16, set: &mut Set, pool: &mut Pool) -> Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::Term(operand) => combine(operand, number, With::Not, set, pool),
            Self::Union(union) => {
                union.of_block(number).try_for_each(|operand| combine(operand, number, With::Not, set, pool))
            }
            Self::Column(test) => match test.share(number)? {
                Share::None => Ok(()),
                Share::All => combine(&test.exists, number, With::Not, set, pool),
                Share::Some if set.len() < DECODE_FROM => filter_codes(test, number, false, set, pool),
                Share::Some => {
                    let mut own = pool.set();
                    combine(&test.exists, number, With::Or, &mut own, pool)?;
                    own.and(set.as_block());
                    filter_codes(test, number, true, &mut own, pool)?;
                    set.and_not(own.as_block());
                    pool.put_set(own);
                    Ok(())
                }
            },
            Self::Stored(blocks) => {
                if let Some(stored) = stored(blocks, number) {
                    set.and_not(stored.as_block());
                }
                Ok(())
            }
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

    pub(super) fn contains(&self, id: u32, pool: &mut Pool) -> Result<bool> {
        match self {
            Self::Nothing => Ok(false),
            Self::Term(operand) => holds(operand, id, pool),
            Self::Union(union) => {
                for operand in union.of_block(block_of(id)) {
                    if holds(operand, id, pool)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Self::Column(test) => test.column.get(id)?.map_or(Ok(false), |code| test.passes(code, id)),
            Self::Keys(keys) => {
                let at = keys.partition_point(|key| key.1 < id);
                Ok(keys.get(at).is_some_and(|key| key.0 <= id))
            }
            Self::Stored(blocks) => Ok(stored(blocks, block_of(id)).is_some_and(|set| set.contains(within_block(id)))),
            Self::And(and) => and.contains(id, pool),
            Self::Or(children) => {
                for child in children {
                    if child.node.contains(id, pool)? {
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
            Self::Column(test) => {
                let mut blocks = all.to_vec();
                keep(&mut blocks, |number| Ok(test.share(number)? != Share::None))?;
                blocks
            }
            Self::Keys(keys) => all.iter().copied().filter(|number| !overlap(keys, *number).is_empty()).collect(),
            Self::Stored(blocks) => blocks.iter().map(|(number, _)| *number).collect(),
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

fn holds(operand: &Operand<'_>, id: u32, pool: &mut Pool) -> Result<bool> {
    let mut buffer = pool.buffer();
    let contains = operand.block(block_of(id), &mut buffer)?.contains(within_block(id));
    pool.put_buffer(buffer);
    Ok(contains)
}

/// Keeps the ids whose code passes, or those whose code does not (and those without one). A large set that is to keep
/// what passes must hold only ids with a code.
fn filter_codes(test: &ColumnTest<'_>, number: u16, passing: bool, set: &mut Set, pool: &mut Pool) -> Result<()> {
    if passing && set.len() >= DECODE_FROM {
        let mut codes = pool.codes();
        test.column.block(number, &mut codes)?;
        set.retain(|id| codes.get(usize::from(id)).map_or(Ok(false), |code| test.passes(*code, id_of(number, id))))?;
        pool.put_codes(codes);
        return Ok(());
    }
    set.retain(|id| {
        let id = id_of(number, id);
        let passes = test.column.get(id)?.map_or(Ok(false), |code| test.passes(code, id))?;
        Ok(passes == passing)
    })
}

/// A filter and what is hidden, with the room to evaluate them.
#[derive(Debug)]
pub(super) struct Matcher<'s> {
    pub(super) root: And<'s>,
    /// Documents that show only later.
    pub(super) hidden: Option<Box<ColumnTest<'s>>>,
    pub(super) pool: Pool,
}

impl Drop for Matcher<'_> {
    fn drop(&mut self) {
        std::mem::take(&mut self.pool).leave();
    }
}

impl Matcher<'_> {
    /// The ids of a block that pass the filter; some may be hidden.
    pub(super) fn evaluate(&mut self, number: u16, set: &mut Set) -> Result<()> {
        watch::block()?;
        self.root.evaluate(number, set, &mut self.pool)?;
        set.narrow();
        Ok(())
    }

    /// Without those that are hidden.
    pub(super) fn evaluate_shown(&mut self, number: u16, set: &mut Set) -> Result<()> {
        watch::block()?;
        self.root.evaluate(number, set, &mut self.pool)?;
        let Some(hidden) = &self.hidden else { return Ok(()) };
        match hidden.share(number)? {
            _ if set.is_empty() => Ok(()),
            Share::None => Ok(()),
            Share::All => combine(&hidden.exists, number, With::Not, set, &mut self.pool),
            Share::Some => filter_codes(hidden, number, false, set, &mut self.pool),
        }
    }

    /// Where few documents are hidden: makes a set of them, so that no block has to be looked through for them.
    pub(super) fn list_hidden(&mut self) -> Result<()> {
        let Some(hidden) = &self.hidden else { return Ok(()) };
        let [(first, last)] = hidden.ranges[..] else { return Ok(()) };
        if hidden.column.estimate(first, last)? > LISTED_MOST {
            return Ok(());
        }
        let mut ids = Vec::new();
        let mut walk = hidden.column.walk(false, Some((first, 0)))?;
        while let Some((_, id)) = walk.next()?.filter(|(code, _)| *code <= last) {
            ids.push(id);
        }
        ids.sort_unstable();
        let mut stored = Vec::new();
        let mut within: Vec<u16> = Vec::new();
        for block in ids.chunk_by(|a, b| block_of(*a) == block_of(*b)) {
            within.clear();
            within.extend(block.iter().map(|id| within_block(*id)));
            let mut set = self.pool.set();
            set.or(Block::of(&within));
            stored.extend(block.first().map(|id| (block_of(*id), set)));
        }
        self.root.negatives.push(Child { estimate: ids.len() as u64, node: Node::Stored(stored) });
        self.hidden = None;
        Ok(())
    }

    pub(super) fn is_hidden(&self, id: u32) -> Result<bool> {
        let Some(hidden) = &self.hidden else { return Ok(false) };
        hidden.column.get(id)?.map_or(Ok(false), |code| hidden.passes(code, id))
    }

    pub(super) fn contains(&mut self, id: u32) -> Result<bool> {
        self.root.contains(id, &mut self.pool)
    }

    pub(super) fn count(&mut self, blocks: &[u16]) -> Result<u64> {
        self.list_hidden()?;
        let mut set = self.pool.set();
        let mut count = 0;
        for number in blocks {
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
