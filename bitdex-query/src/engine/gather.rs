//! The plan that evaluates blocks whole and selects the first rows of their ids: those blocks first whose codes may come
//! first, and none that cannot hold any of the first rows.

use smallvec::SmallVec;

use super::{
    best::Best,
    cells::{LISTED, Listed},
    evaluate::{Begin, Matcher, block_of, by_segment, id_of, within_block},
    few::Few,
    hidden::Hidden,
    order::{After, Rank},
    plan::Asked,
    set::{Set, each_id},
    skim::{self, narrow},
    watch,
};
use crate::{
    log::Result,
    segment::{
        columns::BlockBounds,
        lanes::{LANE, LANES},
        sets::Block,
        tops::{BlockTops, Outlier},
    },
    state::{CodeReader, ColumnView, layout::Numbers},
};

/// Of so many ids of a block all codes are read.
const FEW: u32 = 256;

/// Of a block of so few ids, the memory of the next one is waited for meanwhile.
const AHEAD: usize = 16;

/// Outliers of a block that are tested one by one, where no other id of it is at stake.
const EACH: usize = 8;

/// The codes that pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codes {
    pub(super) first: u64,
    pub(super) last: u64,
    /// Whether a missing one does.
    pub(super) missing: bool,
}

impl Codes {
    #[inline]
    pub(super) fn pass(&self, code: Option<u64>) -> bool {
        code.map_or(self.missing, |code| self.first <= code && code <= self.last)
    }

    /// Those of them that may be among the first.
    pub(super) fn within(self, best: &Best<'_, '_>) -> Self {
        let (first, last, missing) = best.codes();
        Self { first: self.first.max(first), last: self.last.min(last), missing: self.missing && missing }
    }
}

impl<'s> Asked<'_, 's> {
    /// Pushes what shows of the greatest codes nevertheless. Answers with the codes that all others may have.
    pub(super) fn spared_first(
        &self,
        matcher: &Matcher<'s>,
        column: ColumnView<'s>,
        best: &mut Best<'_, '_>,
    ) -> Result<Codes> {
        let (first, last) = self.range.unwrap_or((0, u64::MAX));
        let codes = Codes { first, last, missing: self.range.is_none() };
        for id in &self.shown.spared {
            let code = column.get(*id)?;
            if codes.pass(code) && matcher.contains(*id)? {
                best.push(code, *id, || Ok(true))?;
            }
        }
        Ok(Codes { last: last.min(self.shown.most), ..codes })
    }
}

pub(super) fn gather<'s>(matcher: &mut Matcher<'s>, asked: Asked<'_, 's>) -> Result<Vec<u32>> {
    let Asked { sorter, blocks, after, want, .. } = asked;
    let mut best = Best::new(sorter, after, want);
    match sorter.first() {
        Some(column) => {
            let codes = asked.spared_first(matcher, column, &mut best)?;
            by_column(matcher, column, (codes, blocks), &asked, &mut best)?;
        }
        None => by_id(matcher, sorter.first_descends(), blocks, after, want, &mut best)?,
    }
    Ok(best.finish())
}

/// What is visited of a column, in which order.
#[derive(Debug, Clone, Copy)]
struct Way<'s> {
    column: ColumnView<'s>,
    passing: Codes,
    descending: bool,
}

/// Blocks of one segment, and the rank before all of their rows but for outliers.
type Run<'b> = (Rank, &'b [u16]);

/// What is visited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit<'b> {
    /// By the rank before all of its rows but for outliers.
    Block(Rank),
    /// All of these blocks at once, of the segment at a position.
    Few(usize, &'b [u16]),
}

impl<'s> Way<'s> {
    /// `bounds` of what has this number.
    fn first_of(&self, bounds: BlockBounds, number: u32) -> Rank {
        let code = match self.descending {
            true => bounds.max.min(self.passing.last),
            false => bounds.min,
        };
        Rank::new((bounds.count > 0).then_some(code), number, self.descending)
    }

    fn ready(&self, visit: Visit<'_>, matcher: &mut Matcher<'s>, best: &Best<'_, '_>) -> Result<Ready<'s>> {
        let number = match visit {
            Visit::Block(rank) => rank.id(self.descending) as u16,
            Visit::Few(position, blocks) => {
                return matcher.few((position, blocks), self.column, best.is_full()).map(Ready::Few);
            }
        };
        let codes = self.column.reader(number)?;
        let listed = matcher.listed(number, LISTED)?;
        if let Some(listed) = &listed {
            listed.fetch_with(&codes, best.is_full());
        }
        Ok(Ready::Block { number, codes, listed })
    }
}

/// Blocks in the order in which they are visited. Where codes follow ids, few segments have the first rows: of the others
/// no block is looked at.
struct Visits<'b, 's> {
    way: Way<'s>,
    /// How many rows are wanted.
    want: usize,
    /// Those of which no block was looked at; the next one last.
    runs: SmallVec<[Run<'b>; 16]>,
    /// Each with the rank before all of its rows but for outliers; the next one last.
    blocks: Vec<Rank>,
}

impl<'b, 's> Visits<'b, 's> {
    fn new(way: Way<'s>, blocks: &'b [u16], want: usize, matcher: &mut Matcher<'s>) -> Result<Self> {
        let mut visits = Self { way, want, runs: SmallVec::new(), blocks: matcher.pool.visits() };
        let follows = way.column.follows_ids();
        for blocks in by_segment(blocks) {
            if follows {
                let number = blocks.first().copied().unwrap_or_default();
                visits.runs.push((way.first_of(way.column.segment_bounds(blocks)?.inner, number.into()), blocks));
            } else if matcher.has_few(blocks, way.column, want)?.is_some() {
                visits.runs.push((Rank::FIRST, blocks));
            } else {
                visits.look_at(blocks)?;
            }
        }
        visits.runs.sort_unstable_by(|a, b| b.cmp(a));
        visits.sort();
        Ok(visits)
    }

    fn look_at(&mut self, blocks: &[u16]) -> Result<()> {
        for number in blocks {
            let bounds = self.way.column.inner_bounds(*number)?;
            self.blocks.push(self.way.first_of(bounds, (*number).into()));
        }
        Ok(())
    }

    fn sort(&mut self) {
        // Where codes follow ids, nearly all of them are in order, which this sort makes use of.
        self.blocks.sort_by(|a, b| b.cmp(a));
    }

    /// The next one that may have a row among the first.
    fn peek(&mut self, matcher: &Matcher<'s>, best: &Best<'_, '_>) -> Result<Option<Visit<'b>>> {
        let Way { passing, descending, .. } = self.way;
        // Behind the last code there are only ids without one.
        let may_hold =
            |first: Rank| !best.is_beyond_all(first) && (passing.missing || first.code(descending).is_some());
        while let Some((first, blocks)) = self.runs.last().copied()
            && self.blocks.last().is_none_or(|next| first <= *next)
            && may_hold(first)
        {
            if let Some(position) = matcher.has_few(blocks, self.way.column, self.want)? {
                return Ok(Some(Visit::Few(position, blocks)));
            }
            self.look_at(blocks)?;
            self.sort();
            self.runs.pop();
        }
        Ok(self.blocks.last().copied().filter(|next| may_hold(*next)).map(Visit::Block))
    }

    fn next(&mut self, matcher: &Matcher<'s>, best: &Best<'_, '_>) -> Result<Option<Visit<'b>>> {
        let next = self.peek(matcher, best)?;
        match next {
            Some(Visit::Few(..)) => drop(self.runs.pop()),
            Some(Visit::Block(_)) => drop(self.blocks.pop()),
            None => {}
        }
        Ok(next)
    }

    /// Those that were not visited.
    fn left(&self) -> Numbers {
        let ordered = self.blocks.iter().map(|rank| rank.id(self.way.descending) as usize);
        ordered.chain(self.runs.iter().flat_map(|(_, run)| run.iter().map(|number| usize::from(*number)))).collect()
    }
}

/// What is visited next, of which is asked for what will be read.
#[expect(clippy::large_enum_variant, reason = "one or two at a time, on the stack: a box would be made for each block")]
enum Ready<'s> {
    Block { number: u16, codes: CodeReader<'s>, listed: Option<Listed<'s>> },
    Few(Few<'s>),
}

/// Pushes the first rows of some blocks whose codes pass.
pub(super) fn by_column<'s>(
    matcher: &mut Matcher<'s>,
    column: ColumnView<'s>,
    (passing, blocks): (Codes, &[u16]),
    asked: &Asked<'_, 's>,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let (descending, want) = (asked.sorter.first_descends(), asked.want);
    let way = Way { column, passing, descending };
    let (mut set, mut candidates) = (matcher.pool.set(), matcher.pool.set());
    let mut visits = Visits::new(way, blocks, want, matcher)?;
    let mut hidden = Hidden::default();
    let mut next: Option<(Visit<'_>, Ready<'s>)> = None;
    while let Some(visit) = visits.next(matcher, best)? {
        let ready = match next.take() {
            Some((of, ready)) if of == visit => ready,
            _ => way.ready(visit, matcher, best)?,
        };
        let ids = match &ready {
            Ready::Few(few) => Some(few.len()),
            Ready::Block { listed, .. } => listed.as_ref().map(|listed| listed.ids.len()),
        };
        // While its ids are looked at, what the next one needs comes.
        if ids.is_some_and(|ids| ids <= AHEAD)
            && let Some(behind) = visits.peek(matcher, best)?
        {
            next = Some((behind, way.ready(behind, matcher, best)?));
        }
        let (number, codes, listed) = match ready {
            Ready::Few(few) => {
                few.push(matcher, &mut hidden, column, passing, best)?;
                few.leave(matcher);
                continue;
            }
            Ready::Block { number, codes, listed } => (number, codes, listed),
        };
        if let Some(listed) = listed {
            push_listed(matcher, &mut hidden, (number, &codes), passing, &listed, best)?;
            continue;
        }
        let tops = column.tops(number)?.filter(|_| descending);
        if let (Some(tops), Visit::Block(first)) = (&tops, visit)
            && first.code(descending).is_some_and(|code| code < passing.first)
            && !passing.missing
            && each_outlier(matcher, &mut hidden, (number, &codes, tops), passing, best)?
        {
            continue;
        }
        // While the other operands are looked at, the codes come.
        let ahead = |set: &Set| {
            if set.is_sparse() && set.len() <= FEW {
                codes.fetch(set.as_block());
            }
        };
        if best.is_full() {
            let (first, last, missing) = best.codes();
            let may_enter = |code: u64| first <= code && code <= last;
            let mut narrow_down = |set: &mut Set| {
                ahead(set);
                if descending && !missing && tops.is_none() {
                    return narrow(set, column, (number, &codes), first, &mut candidates);
                }
                if set.is_sparse() && set.len() <= skim::EACH {
                    set.keep(|id| codes.get(id).map_or(missing, may_enter));
                }
                Ok(())
            };
            matcher.evaluate_some(number, &mut set, Begin::Narrowed(&mut narrow_down))?;
        } else {
            let mut ahead = |set: &mut Set| {
                ahead(set);
                Ok(())
            };
            matcher.evaluate_some(number, &mut set, Begin::Narrowed(&mut ahead))?;
        }
        if set.is_empty() {
            continue;
        }
        if let (Some(tops), true) = (tops, set.len() > FEW) {
            by_lanes(matcher, &mut hidden, (number, &codes, &tops), passing, &set, best)?;
            continue;
        }
        push_each(matcher, &mut hidden, (number, &codes), passing, &set, best)?;
    }
    matcher.pool.put_set(set);
    matcher.pool.put_set(candidates);
    if descending {
        outliers(matcher, &mut hidden, way, &visits.left(), best)?;
    }
    matcher.pool.put_visits(visits.blocks);
    Ok(())
}

/// Pushes the ids of a block whose codes pass.
pub(super) fn push_each<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    (number, codes): (u16, &CodeReader<'_>),
    passing: Codes,
    set: &Set,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let descends = best.descends();
    let mut push = |within: u16, code: Option<u64>| {
        if passing.pass(code) {
            let id = id_of(number, within);
            best.push(code, id, || Ok(!hidden.contains(matcher, id)?))?;
        }
        Ok(())
    };
    if codes.is_plain() || set.is_sparse() {
        each_id(set.as_block(), descends, |within| push(within, codes.get(within)).map(|()| true))?;
    } else {
        codes.each_of(|n| set.lane(n), push)?;
    }
    best.tighten();
    Ok(())
}

/// As [`push_each`], of ids that are tested here; what that reads was asked for.
pub(super) fn push_listed<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    (number, codes): (u16, &CodeReader<'_>),
    passing: Codes,
    listed: &Listed<'_>,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let passing = passing.within(best);
    watch::block()?;
    // In the order of their rows, where codes follow ids: so they need hardly be sorted.
    each_id(Block::of(listed.ids), best.descends(), |within| {
        let code = codes.get(within);
        if passing.pass(code) && listed.passes(matcher, within)? {
            let id = id_of(number, within);
            best.push(code, id, || Ok(!hidden.contains(matcher, id)?))?;
        }
        Ok(true)
    })?;
    best.tighten();
    Ok(())
}

/// A block of which only outliers, and what layers say, may have passing codes. False where these are too many to be
/// tested one by one; nothing is done then.
fn each_outlier<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    (number, codes, tops): (u16, &CodeReader<'_>, &BlockTops<'_>),
    passing: Codes,
    best: &mut Best<'_, '_>,
) -> Result<bool> {
    let some = tops.outliers_within(passing.first, passing.last);
    if !codes.is_plain() || some.len() > EACH {
        return Ok(false);
    }
    for Outlier { code, id, .. } in some {
        if block_of(*id) == number && matcher.contains(*id)? {
            best.push(Some(*code), *id, || Ok(!hidden.contains(matcher, *id)?))?;
        }
    }
    best.tighten();
    Ok(true)
}

/// The ids of a block whose codes follow them: from the last lane to the first, without those that cannot hold any of
/// the first rows.
fn by_lanes<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    (number, codes, tops): (u16, &CodeReader<'_>, &BlockTops<'_>),
    passing: Codes,
    set: &Set,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let mut push = |best: &mut Best<'_, '_>, code: Option<u64>, within: u16| {
        let id = id_of(number, within);
        best.push(code, id, || Ok(!hidden.contains(matcher, id)?))
    };
    for outlier in tops.outliers_within(passing.first, passing.last).iter().rev() {
        let within = within_block(outlier.id);
        if best.is_beyond(Some(outlier.code)) {
            break;
        }
        if set.contains(within) && !codes.is_overridden(within) {
            push(best, Some(outlier.code), within)?;
        }
    }
    for n in (0..LANES).rev() {
        for lane in codes.lanes(n) {
            if !best.is_beyond(lane.bounds().map(|(_, most)| most.min(passing.last))) {
                lane.each_of(&set.lane(n), |within, code| match passing.pass(code) {
                    true => push(best, code, within),
                    false => Ok(()),
                })?;
            }
        }
    }
    let inner = Codes { last: tops.limit.min(passing.last), ..passing };
    for (n, lane) in tops.lanes.iter().enumerate().rev() {
        // A lane without codes may have ids without them.
        if best.is_beyond((lane.min <= lane.limit).then_some(lane.limit.min(passing.last)))
            || !passing.missing && (lane.limit < passing.first || lane.min > passing.last)
        {
            continue;
        }
        let first = (n * LANE) as u16;
        set.each_within(first, first + (LANE as u16 - 1), |within| {
            let code = codes.base_code(within);
            if inner.pass(code) && !codes.is_overridden(within) {
                push(best, code, within)?;
            }
            Ok(())
        })?;
        best.tighten();
    }
    Ok(())
}

/// The outliers of blocks that were not visited.
fn outliers<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    Way { column, passing, .. }: Way<'s>,
    left: &Numbers,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    if left.is_empty() {
        return Ok(());
    }
    let (least, ..) = best.codes();
    for outliers in column.outliers(least.max(passing.first))? {
        let (least, ..) = best.codes();
        let least = least.max(passing.first);
        let from = outliers.partition_point(|outlier| outlier.code > passing.last);
        let behind = outliers.partition_point(|outlier| outlier.code >= least);
        for Outlier { code, id, .. } in outliers.get(from..behind).unwrap_or_default() {
            if !left.contains(block_of(*id).into()) {
                continue;
            }
            watch::step()?;
            if column.get(*id)? == Some(*code) && matcher.contains(*id)? {
                best.push(Some(*code), *id, || Ok(!hidden.contains(matcher, *id)?))?;
            }
        }
        best.tighten();
    }
    Ok(())
}

/// Blocks in the order of their ids, until there are enough.
fn by_id(
    matcher: &mut Matcher<'_>,
    descending: bool,
    blocks: &[u16],
    after: Option<&After>,
    want: usize,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let mut set = matcher.pool.set();
    let mut hidden = Hidden::default();
    let mut left = want;
    let behind = |id: u32| after.is_none_or(|after| if descending { id < after.id() } else { id > after.id() });
    let mut visit = |number: u16| -> Result<bool> {
        let edge = id_of(number, if descending { 0 } else { u16::MAX });
        if !behind(edge) {
            return Ok(true);
        }
        matcher.evaluate(number, &mut set)?;
        each_id(set.as_block(), descending, |within| {
            let id = id_of(number, within);
            if left > 0 && behind(id) && !hidden.contains(matcher, id)? {
                best.push(Some(id.into()), id, || Ok(true))?;
                left -= 1;
            }
            Ok(left > 0)
        })
    };
    if descending {
        for number in blocks.iter().rev() {
            if !visit(*number)? {
                break;
            }
        }
    } else {
        for number in blocks {
            if !visit(*number)? {
                break;
            }
        }
    }
    matcher.pool.put_set(set);
    Ok(())
}
