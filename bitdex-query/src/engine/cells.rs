//! Tests of fields that have few values, by the cells of documents: all of them with one read of each id.

use std::{cell::OnceCell, rc::Rc};

use bitdex_proto::schema::FieldId;
use smallvec::SmallVec;

use super::{
    codes::{ColumnTest, Share},
    evaluate::{Matcher, Pool, block_of, by_segment, id_of, within_block},
    filter::{self, Test},
    set::Set,
    tree::{And, Child, Node},
    watch,
};
use crate::{
    log::Result,
    segment::{
        BLOCKS_PER_SEGMENT,
        cells::{Cells, Mask},
        orders::Entry,
        sets::{Block, WORDS},
    },
    state::{CellBlock, CodeReader, Operand, State},
};

/// From more ids on that layers move, a block is rather evaluated than counted by cells.
const MOVED_MOST: u32 = 16;
/// In a block with more of them, cells are not asked of ids one by one.
const MOVED_MANY: u32 = 1 << 10;
/// Of so many ids of a block it is asked whether their cells may be others,
const ASKED: u16 = 16;
/// and of more than so many they may, before these are put into words.
const FEW_MOVED: u32 = 16;
/// So many ids of a block are tested one by one for a page.
pub(super) const LISTED: usize = 192;
/// Of so many ids of a block cells are quicker read than the sets of all values.
pub(super) const FEW: u32 = 512;

/// Tests of which all have to be true.
#[derive(Debug)]
pub(super) struct CellTests<'s> {
    state: &'s State,
    /// Each with whether it has to be true, or false.
    tests: SmallVec<[(FieldId, &'s Test, bool); 8]>,
    /// By position of the segment; `None`: its cells do not tell.
    masks: SmallVec<[OnceCell<Option<Rc<Passing<'s>>>>; 4]>,
}

/// What passes in a segment.
#[derive(Debug)]
struct Passing<'s> {
    cells: &'s Cells,
    mask: Mask,
}

impl<'s> CellTests<'s> {
    pub(super) fn new(state: &'s State) -> Self {
        let masks = state.files().segments().iter().map(|_| OnceCell::new()).collect();
        Self { state, tests: SmallVec::new(), masks }
    }

    /// Whether cells may tell what a filter lets through.
    pub(super) fn tell(state: &State, node: &filter::Node) -> bool {
        match node {
            filter::Node::Leaf(field, _) => {
                state.layout().single().binary_search(field).is_ok() && state.has_few_terms(*field)
            }
            filter::Node::Not(node) => matches!(**node, filter::Node::Leaf(..)) && Self::tell(state, node),
            filter::Node::And(_) | filter::Node::Or(_) => false,
        }
    }

    /// Adds one that they tell.
    pub(super) fn add(&mut self, node: &'s filter::Node) {
        match node {
            filter::Node::Leaf(field, test) => self.tests.push((*field, test, true)),
            filter::Node::Not(node) => {
                if let filter::Node::Leaf(field, test) = &**node {
                    self.tests.push((*field, test, false));
                }
            }
            filter::Node::And(_) | filter::Node::Or(_) => {}
        }
    }

    fn passing(&self, position: usize) -> Option<&Rc<Passing<'s>>> {
        self.masks.get(position)?.get_or_init(|| self.passing_of(position).map(Rc::new)).as_ref()
    }

    fn passing_of(&self, position: usize) -> Option<Passing<'s>> {
        let cells = self.state.cells_of_segment(position)?;
        let mut all = cells.all();
        for (field, test, positive) in &self.tests {
            let of_field = cells.field(*field)?;
            let masks: SmallVec<[&[u64]; 8]> = match test {
                Test::IsNull => SmallVec::from_slice(&[of_field.none()]),
                Test::AnyOf(values) => values.iter().filter_map(|value| of_field.of(value)).collect(),
                Test::Range(_) => {
                    let passing = of_field.values().filter(|(value, _)| test.passes(std::slice::from_ref(value)));
                    passing.map(|(_, mask)| mask).collect()
                }
            };
            match (masks.as_slice(), *positive) {
                ([mask], true) => all.iter_mut().zip(*mask).for_each(|(word, passes)| *word &= passes),
                (masks, false) => {
                    for mask in masks {
                        all.iter_mut().zip(*mask).for_each(|(word, passes)| *word &= !passes);
                    }
                }
                (masks, true) => {
                    let mut any = Mask::from_elem(0, all.len());
                    for mask in masks {
                        any.iter_mut().zip(*mask).for_each(|(word, passes)| *word |= passes);
                    }
                    all.iter_mut().zip(&any).for_each(|(word, passes)| *word &= passes);
                }
            }
        }
        Some(Passing { cells, mask: all })
    }

    /// Those of the segment at a position; `None`: its cells do not tell.
    pub(super) fn segment(&self, position: usize) -> Option<SegmentCells<'s>> {
        let passing = Rc::clone(self.passing(position)?);
        Some(SegmentCells { passing, moved: self.state.moves_cells() })
    }

    /// Those of a block; `None`: cells do not tell there.
    pub(super) fn block(&self, number: u16) -> Option<BlockCells<'s>> {
        let passing = self.passing(self.state.segment_of(number)?)?;
        Some(BlockCells::new(self.state, number, passing))
    }
}

/// Of one segment.
#[derive(Debug)]
pub(super) struct SegmentCells<'s> {
    passing: Rc<Passing<'s>>,
    /// Whether layers above the base say that any may be others.
    moved: bool,
}

impl SegmentCells<'_> {
    /// Asks for what tells of an id.
    #[inline]
    pub(super) fn fetch(&self, id: u32) {
        self.passing.cells.fetch(id);
    }

    /// Whether an id passes by the cell that the base says it has.
    #[inline]
    pub(super) fn base_passes(&self, of: Entry) -> bool {
        self.passing.cells.near_passes(of.id(), of.cell(), &self.passing.mask)
    }

    /// Whether an id passes; `None`: what its block's cells say has to be asked.
    #[inline]
    pub(super) fn passes(&self, id: u32) -> Option<bool> {
        (!self.moved).then(|| self.passing.cells.passes(id, &self.passing.mask))
    }
}

/// Of one block.
#[derive(Debug)]
pub(super) struct BlockCells<'s> {
    cells: CellBlock<'s>,
    passing: Rc<Passing<'s>>,
    /// The ids whose cells may be others, once many were to be asked of.
    moved: Option<Set>,
}

impl<'s> BlockCells<'s> {
    fn new(state: &'s State, number: u16, passing: &Rc<Passing<'s>>) -> Self {
        Self { cells: state.cell_block(passing.cells, number), passing: Rc::clone(passing), moved: None }
    }
}

impl BlockCells<'_> {
    /// So many ids are asked of: from some on, those whose cells may be others are rather put into words first.
    pub(super) fn expect(&mut self, ids: u16, pool: &mut Pool) {
        if ids < ASKED || self.moved.is_some() || self.moved_most() <= FEW_MOVED {
            return;
        }
        let mut moved = pool.set();
        self.cells.moved().iter().for_each(|block| moved.or_words(*block));
        self.moved = Some(moved);
    }

    /// Gives back its room.
    pub(super) fn leave(&mut self, pool: &mut Pool) {
        self.moved.take().into_iter().for_each(|moved| pool.put_set(moved));
    }

    /// Whether an id passes; `None`: its cell does not tell.
    #[inline]
    pub(super) fn passes(&self, id: u16) -> Option<bool> {
        let is_moved = match &self.moved {
            Some(moved) => moved.contains(id),
            None => self.cells.is_moved(id),
        };
        (!is_moved).then(|| self.base_passes(id))
    }

    /// Asks for what tells of an id.
    pub(super) fn fetch(&self, id: u16) {
        self.cells.cells.fetch(id);
    }

    /// Keeps of few ids those that pass. `and`: to ask where cells do not tell.
    pub(super) fn restrict(&self, number: u16, set: &mut Set, and: &And<'_>) -> Result<()> {
        set.as_block().for_each(|id| self.cells.cells.fetch(id));
        let mut asked: SmallVec<[u16; 16]> = SmallVec::new();
        for moved in self.cells.moved() {
            match (*moved, set.as_block()) {
                (Block::Array(moved), ids) if (moved.len() as u32) < ids.len() => {
                    asked.extend(moved.iter().copied().filter(|id| ids.contains(*id)));
                }
                (moved, ids) => ids.for_each(|id| asked.extend(moved.contains(id).then_some(id))),
            }
        }
        if asked.is_empty() {
            set.keep(|id| self.base_passes(id));
            return Ok(());
        }
        asked.sort_unstable();
        asked.dedup();
        let mut passing: SmallVec<[u16; 16]> = SmallVec::new();
        for id in &asked {
            if told(and, id_of(number, *id))? {
                passing.push(*id);
            }
        }
        let passes = |id| match asked.binary_search(&id) {
            Ok(_) => passing.binary_search(&id).is_ok(),
            Err(_) => self.base_passes(id),
        };
        set.keep(passes);
        Ok(())
    }

    /// Whether an id passes by the cell that the base says it has.
    #[inline]
    fn base_passes(&self, id: u16) -> bool {
        self.cells.cells.passes(id, &self.passing.mask)
    }

    /// Whether cells tell of most ids.
    pub(super) fn tell_of_most(&self) -> bool {
        self.moved_most() <= MOVED_MANY
    }

    /// How many ids may have other cells, at most.
    fn moved_most(&self) -> u32 {
        self.cells.moved().iter().map(Block::len).sum()
    }

    /// Adds the ids whose cells may be others. Whether they are few.
    fn add_moved(&self, ids: &mut Ids) -> bool {
        let few = self.moved_most() <= MOVED_MOST;
        if few {
            self.cells.moved().iter().for_each(|moved| moved.for_each(|id| ids.push(id)));
        }
        few
    }
}

/// Whether an id passes all tests that cells tell, by their sets.
pub(super) fn told(and: &And<'_>, id: u32) -> Result<bool> {
    for (Child { node, told, .. }, positive) in and.children(true) {
        if *told && node.contains(id)? != positive {
            return Ok(false);
        }
    }
    Ok(true)
}

impl<'s> And<'s> {
    /// Whether an id passes all tests; `None`: cells do not tell of it.
    pub(super) fn contains_by_cell(&self, id: u32) -> Result<Option<bool>> {
        let Some(cells) = self.cells.as_ref().and_then(|cells| cells.block(block_of(id))) else { return Ok(None) };
        match cells.passes(within_block(id)) {
            None => Ok(None),
            Some(false) => Ok(Some(false)),
            Some(true) => {
                for (child, positive) in self.children(false) {
                    if child.node.contains(id)? != positive {
                        return Ok(Some(false));
                    }
                }
                Ok(Some(true))
            }
        }
    }

    /// The first operand, where cells tell all else.
    pub(super) fn told_but_first(&self) -> Option<&Operand<'s>> {
        let mut others = self.children(false);
        match (others.next(), others.next(), self.positives.first()) {
            (Some((child, true)), None, Some(first)) if std::ptr::eq(child, first) => match &first.node {
                Node::Term(operand) => Some(operand),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether cells tell all.
    pub(super) fn is_told(&self) -> bool {
        self.cells.is_some() && self.children(false).next().is_none()
    }
}

type Ids = SmallVec<[u16; 32]>;

impl Matcher<'_> {
    /// How many documents of these blocks pass and are not hidden, where cells tell; `left`: the blocks where they do
    /// not, which do not count.
    pub(super) fn count_by_cells(&self, blocks: &[u16], left: &mut Vec<u16>) -> Result<Option<u64>> {
        let Some(tests) = self.root.cells.as_ref().filter(|_| self.trace.is_none() && self.root.is_told()) else {
            return Ok(None);
        };
        let mut count = 0;
        for blocks in by_segment(blocks) {
            match self.count_segment(tests, blocks, left)? {
                Some(counted) => count += counted,
                None => left.extend_from_slice(blocks),
            }
        }
        Ok(Some(count))
    }

    fn count_segment(&self, tests: &CellTests<'_>, blocks: &[u16], left: &mut Vec<u16>) -> Result<Option<u64>> {
        let Some(position) = blocks.first().and_then(|number| tests.state.segment_of(*number)) else { return Ok(None) };
        let Some(passing) = tests.passing(position) else { return Ok(None) };
        let most = match &self.hidden {
            None => u64::MAX,
            Some(hidden) => match hidden.range() {
                Some((first, u64::MAX)) => first.saturating_sub(1),
                _ => return Ok(None),
            },
        };
        let late = match &self.hidden {
            None => None,
            Some(hidden) => {
                let column = tests.state.files().segments().get(position).and_then(|it| it.column(hidden.field));
                let Some(column) = column else { return Ok(None) };
                let Some(late) = passing.cells.late(column, most)? else { return Ok(None) };
                Some(late)
            }
        };
        // Of ids that layers speak of, the base counts nothing.
        let (mut counted, mut others) = (0_u16, 0_i64);
        let mut ids = Ids::new();
        for number in blocks {
            watch::step()?;
            let cells = BlockCells::new(tests.state, *number, passing);
            ids.clear();
            let mut few = cells.add_moved(&mut ids);
            let codes = self.hidden.as_ref().map(|hidden| hidden.column.reader(*number)).transpose()?;
            if let Some(codes) = &codes {
                codes.overridden_of(Block::Bits(&[u64::MAX; WORDS]), |id| {
                    if ids.len() <= MOVED_MOST as usize {
                        ids.push(id);
                    }
                });
                few &= ids.len() <= MOVED_MOST as usize;
            }
            if !few {
                left.push(*number);
                continue;
            }
            counted |= 1 << (number % BLOCKS_PER_SEGMENT);
            ids.sort_unstable();
            ids.dedup();
            for within in &ids {
                let id = id_of(*number, *within);
                let shown_in_base =
                    || codes.as_ref().and_then(|it| it.base_code(*within)).is_none_or(|code| code <= most);
                others -= i64::from(cells.base_passes(*within) && shown_in_base());
                let hidden = |hidden: &ColumnTest<'_>| hidden.contains(id);
                let shown = self.root.contains(id)? && !self.hidden.as_deref().map_or(Ok(false), hidden)?;
                others += i64::from(shown);
            }
        }
        let in_base = match counted {
            u16::MAX => passing.cells.count_all(&passing.mask),
            _ => {
                let counted = (0..usize::from(BLOCKS_PER_SEGMENT)).filter(|n| counted >> n & 1 == 1);
                counted.map(|n| passing.cells.count(n, &passing.mask)).sum()
            }
        };
        let late = late.map_or(0, |late| late.count(most, &passing.mask, counted));
        Ok(Some(in_base.saturating_sub(late).saturating_add_signed(others)))
    }
}

/// The ids of a block that are tested one by one, since they are few and cells tell all but that they are there.
#[derive(Debug)]
pub(super) struct Listed<'s> {
    pub(super) ids: &'s [u16],
    number: u16,
    cells: Option<BlockCells<'s>>,
}

impl<'s> Matcher<'s> {
    /// `None` where a block has more than `most` of them, or cells do not tell: then it is rather evaluated.
    pub(super) fn listed(&self, number: u16, most: usize) -> Result<Option<Listed<'s>>> {
        let Some(operand) = self.root.told_but_first().filter(|_| self.trace.is_none()) else { return Ok(None) };
        let ids = match operand.plain_block(number)? {
            Some(Block::Array(ids)) if ids.len() <= most => ids,
            _ => return Ok(None),
        };
        let cells = match &self.root.cells {
            None => None,
            Some(cells) => match cells.block(number) {
                Some(cells) if cells.tell_of_most() => Some(cells),
                _ => return Ok(None),
            },
        };
        Ok(Some(Listed { ids, number, cells }))
    }
}

impl Listed<'_> {
    /// Asks for what tells whether ids pass.
    pub(super) fn fetch(&self) {
        if let Some(cells) = &self.cells {
            self.ids.iter().for_each(|id| cells.cells.cells.fetch(*id));
        }
    }

    /// The same, and for their codes. `full`: there are enough rows, so that hardly any code is among the first.
    pub(super) fn fetch_with(&self, codes: &CodeReader<'_>, full: bool) {
        codes.fetch(Block::of(self.ids));
        if !full {
            self.fetch();
        }
    }

    /// How many pass, and are not hidden.
    pub(super) fn count(&self, matcher: &Matcher<'_>) -> Result<u64> {
        watch::block()?;
        let hidden = match &matcher.hidden {
            Some(hidden) if hidden.share(self.number)? != Share::None => {
                let codes = hidden.column.reader(self.number)?;
                codes.fetch(Block::of(self.ids));
                Some((&**hidden, codes))
            }
            _ => None,
        };
        self.fetch();
        let mut count = 0;
        for id in self.ids.iter().copied() {
            let is_hidden = |(hidden, codes): &(&ColumnTest<'_>, CodeReader<'_>)| {
                codes.get(id).map_or(Ok(false), |code| hidden.passes(code, id_of(self.number, id)))
            };
            let counts = self.passes(matcher, id)? && !hidden.as_ref().map_or(Ok(false), is_hidden)?;
            count += u64::from(counts);
        }
        Ok(count)
    }

    #[inline]
    pub(super) fn passes(&self, matcher: &Matcher<'_>, id: u16) -> Result<bool> {
        match self.cells.as_ref().map(|cells| cells.passes(id)) {
            None => Ok(true),
            Some(Some(passes)) => Ok(passes),
            Some(None) => told(&matcher.root, id_of(self.number, id)),
        }
    }
}
