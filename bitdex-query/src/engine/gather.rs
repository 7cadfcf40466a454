//! The plan that evaluates blocks whole and selects the first rows of their ids: those blocks first whose codes may come
//! first, and none that cannot hold any of the first rows.

use std::cmp::Reverse;

use super::{
    best::Best,
    cells::{LISTED, Listed},
    evaluate::{Begin, Matcher, block_of, id_of, within_block},
    hidden::Hidden,
    order::After,
    plan::Asked,
    set::{Set, each_id},
    skim::{self, narrow},
    watch,
};
use crate::{
    log::Result,
    segment::{
        lanes::{LANE, LANES},
        sets::Block,
        tops::{BlockTops, Outlier},
    },
    state::{CodeReader, ColumnView},
};

/// Of so many ids of a block all codes are read.
const FEW: u32 = 256;

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
            by_column(matcher, column, codes, sorter.first_descends(), blocks, &mut best)?;
        }
        None => by_id(matcher, sorter.first_descends(), blocks, after, want, &mut best)?,
    }
    Ok(best.finish())
}

fn by_column<'s>(
    matcher: &mut Matcher<'s>,
    column: ColumnView<'s>,
    passing: Codes,
    descending: bool,
    blocks: &[u16],
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let mut visits = matcher.pool.visits();
    for number in blocks {
        let bounds = column.inner_bounds(*number)?;
        let code = (bounds.count > 0).then_some(if descending { bounds.max.min(passing.last) } else { bounds.min });
        let turned = code.map_or((true, 0), |code| (false, if descending { !code } else { code }));
        visits.push((turned, Reverse(*number), code));
    }
    // Where codes follow ids, nearly all of them are one run, which this sort makes use of.
    visits.sort();
    let (mut set, mut candidates) = (matcher.pool.set(), matcher.pool.set());
    let mut hidden = Hidden::default();
    let mut visited = 0;
    for (_, Reverse(number), code) in &visits {
        if best.is_beyond(*code) {
            break;
        }
        visited += 1;
        let codes = column.reader(*number)?;
        if let Some(listed) = matcher.listed(*number, LISTED)? {
            push_listed(matcher, &mut hidden, (*number, &codes), passing, &listed, best)?;
            continue;
        }
        let tops = column.tops(*number)?.filter(|_| descending);
        if let Some(tops) = &tops
            && code.is_some_and(|code| code < passing.first)
            && !passing.missing
            && each_outlier(matcher, &mut hidden, (*number, &codes, tops), passing, best)?
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
                    return narrow(set, column, (*number, &codes), (first, None), &mut candidates);
                }
                if set.is_sparse() && set.len() <= skim::EACH {
                    set.keep(|id| codes.get(id).map_or(missing, may_enter));
                }
                Ok(())
            };
            matcher.evaluate_some(*number, &mut set, Begin::Narrowed(&mut narrow_down))?;
        } else {
            let mut ahead = |set: &mut Set| {
                ahead(set);
                Ok(())
            };
            matcher.evaluate_some(*number, &mut set, Begin::Narrowed(&mut ahead))?;
        }
        if set.is_empty() {
            continue;
        }
        if let (Some(tops), true) = (tops, set.len() > FEW) {
            by_lanes(matcher, &mut hidden, (*number, &codes, &tops), passing, &set, best)?;
            continue;
        }
        push_each(matcher, &mut hidden, (*number, &codes), passing, &set, best)?;
    }
    matcher.pool.put_set(set);
    matcher.pool.put_set(candidates);
    let left = visits.get(visited..).unwrap_or_default();
    if descending && !left.is_empty() {
        let mut is_left = vec![false; blocks.last().map_or(0, |last| usize::from(*last) + 1)];
        for (_, Reverse(number), _) in left.iter() {
            if let Some(is_left) = is_left.get_mut(usize::from(*number)) {
                *is_left = true;
            }
        }
        outliers(matcher, &mut hidden, column, passing, &is_left, best)?;
    }
    matcher.pool.put_visits(visits);
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

/// As [`push_each`], of ids that are tested here.
pub(super) fn push_listed<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    (number, codes): (u16, &CodeReader<'_>),
    passing: Codes,
    listed: &Listed<'_>,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let (first, last, missing) = best.codes();
    let passing =
        Codes { first: passing.first.max(first), last: passing.last.min(last), missing: passing.missing && missing };
    codes.fetch(Block::of(listed.ids));
    // Where there are enough rows, hardly any code is among the first.
    if !best.is_full() {
        listed.fetch();
    }
    for within in listed.ids.iter().copied() {
        let code = codes.get(within);
        if passing.pass(code) && listed.passes(matcher, within)? {
            let id = id_of(number, within);
            best.push(code, id, || Ok(!hidden.contains(matcher, id)?))?;
        }
    }
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

/// The outliers of blocks that were not visited. `is_left`: by number of the block.
fn outliers<'s>(
    matcher: &Matcher<'s>,
    hidden: &mut Hidden<'s>,
    column: ColumnView<'_>,
    passing: Codes,
    is_left: &[bool],
    best: &mut Best<'_, '_>,
) -> Result<()> {
    for outliers in column.outliers()? {
        let (least, ..) = best.codes();
        let least = least.max(passing.first);
        let from = outliers.partition_point(|outlier| outlier.code > passing.last);
        let behind = outliers.partition_point(|outlier| outlier.code >= least);
        for Outlier { code, id, .. } in outliers.get(from..behind).unwrap_or_default() {
            if !is_left.get(usize::from(block_of(*id))).is_some_and(|is_left| *is_left) {
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
