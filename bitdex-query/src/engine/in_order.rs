//! The plan that goes through a term's ids in the order of a column whose codes follow ids, as segments have them with
//! their cells, until there are enough: of hardly any id the code is read. Segments are merged, each as far as it comes
//! before the others. Of ids of which layers above the base say something the codes are read, and those that come first are
//! tested; where a block has many of the ids, and where a segment has few, they are gathered: both are merged with these.

use smallvec::SmallVec;

use super::{
    best::Best,
    cells::SegmentCells,
    changed::Changed,
    evaluate::{Matcher, block_of, by_segment, within_block},
    gather::{self, Codes},
    hidden::Hidden,
    order::Rank,
    plan::Asked,
    tree::{And, Node},
    watch,
};
use crate::{
    log::Result,
    segment::{SEGMENT_BITS, columns::Column, orders::Entry},
    state::{ColumnView, Numbers, Operand, Ordered},
};

/// Ids of one list that are looked at together: few at first.
const FIRST: usize = 32;
const MOST: usize = 512;
/// In blocks of which layers say something, so many ids of the term are looked at one by one, of all blocks together.
const CHANGED_MOST: u64 = 384;
/// Of so many that the base has there, about one may be such.
const CHANGED_SHARE: u32 = 16;

/// A row that no list has, or has at another place, and whether it was tested.
type Other = (Rank, bool);

/// What is gone through.
#[derive(Debug)]
pub(super) struct InOrder<'s> {
    /// Each with where its segment stands.
    lists: SmallVec<[(usize, &'s Column); 16]>,
    /// How many segments have any of the ids.
    segments: usize,
    /// Blocks of which layers above the base say something.
    said: Numbers,
    /// Those of them where ids are looked at one by one, as far as they are asked for, ascending.
    changed: Vec<u16>,
    /// The others, and the blocks of segments that have few, or no order: as far as they are asked for, ascending.
    apart: Vec<u16>,
    /// The term's ids in both, about.
    ids_changed: u64,
    ids_apart: u64,
    /// Ids that will have to be looked at, about, until the last row is known.
    pub(super) steps: f64,
}

/// Ids of one segment.
#[derive(Debug)]
struct List<'s> {
    column: &'s Column,
    entries: &'s [Entry],
    cells: Option<SegmentCells<'s>>,
}

impl<'s> List<'s> {
    fn id(&self, entry: Entry) -> u32 {
        self.column.segment() << SEGMENT_BITS | entry.id()
    }

    fn rank(&self, at: usize) -> Result<Option<Rank>> {
        let Some(entry) = self.entries.get(at) else { return Ok(None) };
        let id = self.id(*entry);
        match self.column.get(id)? {
            Some(code) => Ok(Some(Rank::new(Some(code), id, true))),
            None => Err(self.column.damaged("an id is in the order that has no code")),
        }
    }

    /// The first place from one on whose rank does not come before all that are wanted; ranks ascend.
    fn behind(&self, from: usize, to: usize, is_before: impl Fn(Rank) -> bool) -> Result<usize> {
        let is_before = |at: usize| Ok::<_, crate::log::Error>(self.rank(at)?.is_some_and(&is_before));
        // Mostly it is one of the first.
        let (mut low, mut step) = (from, 1);
        while low < to && is_before((low + step - 1).min(to - 1))? {
            low = (low + step).min(to);
            step *= 2;
        }
        let mut high = (low + step - 1).min(to);
        while low < high {
            let middle = low.midpoint(high);
            if is_before(middle)? {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

impl<'s> InOrder<'s> {
    /// `None`: there are no such lists, or the filter tests more than they tell. `matches`: documents that pass.
    /// `within`: the part of all whose codes do. `is_worth`: whether so many steps through so many lists are.
    pub(super) fn find(
        root: &And<'s>,
        column: ColumnView<'s>,
        asked: &Asked<'_, 's>,
        (matches, within): (u64, f64),
        is_worth: impl Fn(f64, usize) -> bool,
    ) -> Result<Option<Self>> {
        if !asked.sorter.is_plain() || !asked.sorter.first_descends() {
            return Ok(None);
        }
        let Some((operand, ids)) = only_term(root, column) else { return Ok(None) };
        let ids = ids as f64 * within;
        let steps = (asked.want as f64 * ids / matches.max(1) as f64).min(ids);
        if !operand.is_single() || !is_worth(steps, by_segment(asked.blocks).count()) {
            return Ok(None);
        }
        // Ids without a code come last, and lists have none of them.
        if asked.after.is_some_and(|after| asked.sorter.after_code(after).is_none()) {
            return Ok(None);
        }
        let (mut lists, mut without) = (SmallVec::<[(usize, &'s Column); 16]>::new(), SmallVec::<[usize; 16]>::new());
        for blocks in by_segment(asked.blocks) {
            watch::step()?;
            let position = blocks.first().and_then(|number| column.segment_of(*number));
            let Some((position, of_segment)) = position.and_then(|it| Some((it, column.of_segment(it)?))) else {
                continue;
            };
            match column.ordered(operand, position)? {
                Ordered::Nothing => {}
                Ordered::Few | Ordered::NotMade => without.push(position),
                Ordered::Made => lists.push((position, of_segment)),
            }
        }
        if lists.is_empty() {
            return Ok(None);
        }
        // An id that passes for what the base says lies in one of the blocks that are asked for: of others, what layers
        // say needs not be known.
        let mut said = Numbers::default();
        operand.add_changed(&mut said);
        column.add_said(asked.blocks, &mut said)?;
        if root.cells.is_some() {
            asked.sorter.state().add_moved(asked.blocks, &mut said);
        }
        let (mut changed, mut apart) = (Vec::new(), Vec::new());
        let (mut ids_changed, mut ids_apart) = (0, 0);
        for number in asked.blocks {
            let is_without = column.segment_of(*number).is_some_and(|position| without.contains(&position));
            if !is_without && !said.contains((*number).into()) {
                continue;
            }
            let of_base = operand.base_len(*number)?;
            let added = operand.added_len(*number)?;
            // Of hardly any document of the base layers say something.
            let ids = u64::from(added + of_base / CHANGED_SHARE);
            if is_without || ids_changed + ids > CHANGED_MOST {
                apart.push(*number);
                ids_apart += u64::from(of_base + added);
            } else if of_base + added > 0 {
                changed.push(*number);
                ids_changed += ids;
            }
        }
        let segments = lists.len() + without.len();
        Ok(Some(Self { lists, segments, said, changed, apart, ids_changed, ids_apart, steps }))
    }

    /// How many segments have any of the ids.
    pub(super) fn segments(&self) -> usize {
        self.segments
    }

    /// How many blocks are gathered, and about how many ids the term has there.
    pub(super) fn apart(&self) -> (usize, u64) {
        (self.apart.len(), self.ids_apart)
    }

    /// The same of blocks where layers say something, and ids are looked at one by one.
    pub(super) fn changed(&self) -> (usize, u64) {
        (self.changed.len(), self.ids_changed)
    }

    /// `None` where ids without a code may be wanted, cells do not tell, or it takes more than so many `steps`.
    pub(super) fn run(
        &self,
        matcher: &mut Matcher<'s>,
        asked: Asked<'_, 's>,
        column: ColumnView<'s>,
        steps: usize,
    ) -> Result<Option<Vec<u32>>> {
        let mut best = Best::new(asked.sorter, asked.after, asked.want);
        let codes = asked.spared_first(matcher, column, &mut best)?;
        gather::by_column(matcher, column, (codes, &self.apart), &asked, &mut best)?;
        let mut buffer = matcher.pool.buffer();
        let Some((operand, _)) = only_term(&matcher.root, column) else { return Ok(None) };
        let cells = matcher.root.cells.is_some().then(|| asked.sorter.state());
        let mut others: Vec<Other> = best.into_ranks().into_iter().map(|rank| (rank, true)).collect();
        let mut changed = Vec::with_capacity(self.changed.len());
        for number in &self.changed {
            watch::step()?;
            let of_block = Changed::new(*number, operand, column, cells)?;
            of_block.each_rank(operand, codes, &mut buffer, |rank| others.push((rank, false)))?;
            changed.push(of_block);
        }
        matcher.pool.put_buffer(buffer);
        // Where codes follow ids, these are runs that are in order.
        others.sort();
        let mut hidden = Hidden::default();
        let mut merge = Merge { of: self, changed, column, asked, codes, steps, walked: 0 };
        let found = merge.run(matcher, &mut hidden, &others)?;
        if let Some((trace, _)) = &matcher.trace {
            trace.run(|run| run.walked += merge.walked as u64);
        }
        Ok(found)
    }
}

/// The term whose ids are tested, and about how many it has, where cells tell all else but the codes that are walked.
fn only_term<'r, 's>(root: &'r And<'s>, column: ColumnView<'s>) -> Option<(&'r Operand<'s>, u64)> {
    let mut term = None;
    for (child, positive) in root.children(false) {
        match &child.node {
            Node::Term(operand) if positive && term.is_none() => term = Some((&**operand, child.estimate)),
            Node::Column(test) if root.is_range(child, test.field) && test.field == column.field() => {}
            _ => return None,
        }
    }
    term
}

struct Merge<'r, 'q, 's> {
    of: &'r InOrder<'s>,
    /// What layers say of the blocks where ids are looked at one by one, ascending.
    changed: Vec<Changed<'s>>,
    column: ColumnView<'s>,
    asked: Asked<'q, 's>,
    codes: Codes,
    /// From so many on it gives up.
    steps: usize,
    /// Ids that were looked at.
    walked: usize,
}

/// Where a list goes on.
enum Head<'s> {
    /// It was not looked into.
    Before((usize, &'s Column)),
    At(List<'s>, usize),
}

impl<'s> Merge<'_, '_, 's> {
    /// `others`: in their order.
    fn run(&mut self, matcher: &Matcher<'s>, hidden: &mut Hidden<'s>, others: &[Other]) -> Result<Option<Vec<u32>>> {
        let (want, after) = (self.asked.want, self.asked.after);
        let mut found = Vec::with_capacity(want.min(1024));
        let after = after.map(|after| Rank::new(self.asked.sorter.after_code(after), after.id(), true));
        let first = Rank::new(Some(self.codes.last), u32::MAX, true);
        let is_before = |rank: Rank| rank < first || after.is_some_and(|after| rank <= after);
        let from = others.partition_point(|(rank, _)| after.is_some_and(|after| *rank <= after));
        let mut others = others.get(from..).unwrap_or_default().iter().copied().peekable();
        // Each behind a rank that comes before all that are left of it.
        let mut heads: SmallVec<[(Rank, Head<'s>); 16]> = SmallVec::new();
        for list in &self.of.lists {
            match list.1.greatest(self.codes.last)? {
                Some(most) => {
                    let rank = Rank::new(Some(most), u32::MAX, true);
                    heads.push((after.map_or(rank, |after| rank.max(after)), Head::Before(*list)));
                }
                // It may have ids without a code.
                None if self.codes.missing && self.open(matcher, *list)?.is_none() => return Ok(None),
                None => {}
            }
        }
        // The next one last.
        heads.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        while let Some((rank, head)) = heads.pop() {
            while let Some(other) = others.next_if(|(other, _)| *other < rank) {
                self.add(matcher, hidden, other, &mut found)?;
                if found.len() >= want {
                    return Ok(Some(found));
                }
            }
            if rank.code(true).is_none_or(|code| code < self.codes.first) {
                break;
            }
            if self.walked >= self.steps {
                return Ok(None);
            }
            let (list, next) = match head {
                Head::Before(list) => {
                    let Some(list) = self.open(matcher, list)? else { return Ok(None) };
                    let at = list.behind(0, list.entries.len(), is_before)?;
                    (list, at)
                }
                Head::At(list, at) => {
                    let until = heads
                        .last()
                        .map(|(rank, _)| *rank)
                        .into_iter()
                        .chain(others.peek().map(|(rank, _)| *rank))
                        .min();
                    match self.some(matcher, hidden, (&list, at), until, &mut found)? {
                        Some(next) => (list, next),
                        None => return Ok(Some(found)),
                    }
                }
            };
            if let Some(rank) = list.rank(next)? {
                let place = heads.partition_point(|(other, _)| *other > rank);
                heads.insert(place, (rank, Head::At(list, next)));
            }
        }
        for other in others {
            if found.len() >= want {
                break;
            }
            self.add(matcher, hidden, other, &mut found)?;
        }
        Ok(Some(found))
    }

    fn add(
        &mut self,
        matcher: &Matcher<'s>,
        hidden: &mut Hidden<'s>,
        (rank, is_tested): Other,
        found: &mut Vec<u32>,
    ) -> Result<()> {
        let id = rank.id(true);
        if !is_tested {
            watch::step()?;
            self.walked += 1;
            if !matcher.contains_by_sets(id)? || hidden.contains(matcher, id)? {
                return Ok(());
            }
        }
        found.push(id);
        Ok(())
    }

    /// Whether layers say nothing that matters of an id of a list.
    #[inline]
    fn is_as_listed(&self, id: u32) -> bool {
        let number = block_of(id);
        if !self.of.said.contains(number.into()) {
            return true;
        }
        let of_block = self.changed.binary_search_by_key(&number, |of_block| of_block.number).ok();
        of_block.and_then(|at| self.changed.get(at)).is_some_and(|of_block| !of_block.says(within_block(id)))
    }

    fn open(&self, matcher: &Matcher<'s>, (position, column): (usize, &'s Column)) -> Result<Option<List<'s>>> {
        let Some((operand, _)) = only_term(&matcher.root, self.column) else { return Ok(None) };
        watch::step()?;
        let Some(entries) = self.column.in_order(operand, position, self.codes.missing)? else { return Ok(None) };
        let cells = match &matcher.root.cells {
            None => None,
            Some(cells) => match cells.segment(position) {
                None => return Ok(None),
                cells => cells,
            },
        };
        Ok(Some(List { column, entries, cells }))
    }

    /// Appends what passes of a list from a place on, as far as it comes up to `until`, or there were too many steps.
    /// Answers where that ends; `None`: there are enough.
    fn some(
        &mut self,
        matcher: &Matcher<'s>,
        hidden: &mut Hidden<'s>,
        (list, mut at): (&List<'s>, usize),
        until: Option<Rank>,
        found: &mut Vec<u32>,
    ) -> Result<Option<usize>> {
        let first = self.codes.first;
        // The very rank of another row is that of the same id, which counts there.
        let comes =
            |rank: Rank| until.is_none_or(|until| rank <= until) && rank.code(true).is_some_and(|code| code >= first);
        let mut chunk = FIRST;
        while at < list.entries.len() && self.walked < self.steps {
            let to = (at + chunk).min(list.entries.len());
            chunk = (chunk * 2).min(MOST);
            let is_whole = until.is_none() && first == 0 || list.rank(to - 1)?.is_some_and(comes);
            let end = if is_whole { to } else { list.behind(at, to, comes)? };
            watch::steps((end - at) as u32 + 1)?;
            self.walked += end - at;
            for entry in list.entries.get(at..end).unwrap_or_default() {
                let id = list.id(*entry);
                let passes = match &list.cells {
                    _ if matcher.trace.is_some() => matcher.contains(id)?,
                    Some(cells) => cells.base_passes(*entry),
                    None => true,
                };
                if passes && self.is_as_listed(id) && !hidden.contains(matcher, id)? {
                    found.push(id);
                    if found.len() >= self.asked.want {
                        return Ok(None);
                    }
                }
            }
            at = end;
            if !is_whole {
                break;
            }
        }
        Ok(Some(at))
    }
}
