//! The plan that evaluates blocks whole and selects the first rows of their ids: those blocks first whose codes may come
//! first, and none that cannot hold any of the first rows.

use std::cmp::Reverse;

use super::{
    best::Best,
    evaluate::{Matcher, block_of, id_of, within_block},
    hidden::Shown,
    order::{After, Sorter},
    set::{Set, each_id},
    watch,
};
use crate::{
    log::Result,
    segment::{
        lanes::{LANE, LANES},
        tops::{BlockTops, Outlier},
    },
    state::{CodeReader, ColumnView},
};

/// Of so many ids of a block all codes are read.
const FEW: u32 = 256;

/// `shown`: of the codes of the first key.
pub(super) fn gather(
    matcher: &mut Matcher<'_>,
    sorter: &Sorter<'_>,
    shown: &Shown,
    blocks: &[u16],
    after: Option<&After>,
    want: usize,
) -> Result<Vec<u32>> {
    let mut best = Best::new(sorter, after, want);
    match sorter.first() {
        Some(column) => {
            for id in &shown.spared {
                if matcher.contains(*id)? {
                    best.push(column.get(*id)?, *id, || Ok(true))?;
                }
            }
            by_column(matcher, column, shown.most, sorter.first_descends(), blocks, &mut best)?;
        }
        None => by_id(matcher, sorter.first_descends(), blocks, after, want, &mut best)?,
    }
    Ok(best.finish())
}

fn by_column(
    matcher: &mut Matcher<'_>,
    column: ColumnView<'_>,
    cap: u64,
    descending: bool,
    blocks: &[u16],
    best: &mut Best<'_, '_>,
) -> Result<()> {
    // (a block's first code, turned so that the smallest comes first; the code; the block)
    let mut visits = Vec::with_capacity(blocks.len());
    for number in blocks {
        let bounds = column.inner_bounds(*number)?;
        let code = (bounds.count > 0).then_some(if descending { bounds.max.min(cap) } else { bounds.min });
        let turned = code.map_or((true, 0), |code| (false, if descending { !code } else { code }));
        visits.push((turned, Reverse(*number), code));
    }
    visits.sort_unstable();
    let mut set = matcher.pool.set();
    let mut visited = 0;
    for (_, Reverse(number), code) in &visits {
        if best.is_beyond(*code) {
            break;
        }
        visited += 1;
        let codes = column.reader(*number)?;
        if best.is_full() {
            let (first, last, missing) = best.codes();
            let may_enter = |code: u64| first <= code && code <= last;
            matcher.evaluate_some(*number, &mut set, |id| codes.get(id).map_or(missing, may_enter))?;
        } else {
            matcher.evaluate(*number, &mut set)?;
        }
        if set.is_empty() {
            continue;
        }
        if let (Some(tops), true) = (column.tops(*number)?, descending && set.len() > FEW) {
            by_lanes(matcher, (*number, &codes, &tops), cap, &set, best)?;
            continue;
        }
        each_id(set.as_block(), descending, |within| {
            let code = codes.get(within);
            if code.is_none_or(|code| code <= cap) {
                let id = id_of(*number, within);
                best.push(code, id, || Ok(!matcher.is_hidden(id)?))?;
            }
            Ok(true)
        })?;
        best.tighten();
    }
    matcher.pool.put_set(set);
    let left = visits.get_mut(visited..).unwrap_or_default();
    if descending && !left.is_empty() {
        let mut left: Vec<u16> = left.iter().map(|(_, Reverse(number), _)| *number).collect();
        left.sort_unstable();
        outliers(matcher, column, cap, &left, best)?;
    }
    Ok(())
}

/// The ids of a block whose codes follow them: from the last lane to the first, without those that cannot hold any of
/// the first rows.
fn by_lanes(
    matcher: &Matcher<'_>,
    (number, codes, tops): (u16, &CodeReader<'_>, &BlockTops<'_>),
    cap: u64,
    set: &Set,
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let push = |best: &mut Best<'_, '_>, code: Option<u64>, within: u16| {
        let id = id_of(number, within);
        best.push(code, id, || Ok(!matcher.is_hidden(id)?))
    };
    for outlier in tops.outliers {
        let within = within_block(outlier.id);
        if outlier.code <= cap && set.contains(within) && !codes.is_overridden(within) {
            push(best, Some(outlier.code), within)?;
        }
    }
    for n in (0..LANES).rev() {
        for lane in codes.lanes(n) {
            if !best.is_beyond(lane.bounds().map(|(_, most)| most.min(cap))) {
                lane.each_of(&set.lane(n), |within, code| match code {
                    Some(code) if code > cap => Ok(()),
                    code => push(best, code, within),
                })?;
            }
        }
    }
    let most = tops.limit.min(cap);
    for (n, lane) in tops.lanes.iter().enumerate().rev() {
        // A lane without codes may have ids without them.
        if best.is_beyond((lane.min <= lane.limit).then_some(lane.limit.min(cap))) {
            continue;
        }
        let first = (n * LANE) as u16;
        set.each_within(first, first + (LANE as u16 - 1), |within| {
            let code = codes.base_code(within);
            if code.is_none_or(|code| code <= most) && !codes.is_overridden(within) {
                push(best, code, within)?;
            }
            Ok(())
        })?;
        best.tighten();
    }
    Ok(())
}

/// The outliers of blocks that were not visited, `left`, which ascend.
fn outliers(
    matcher: &mut Matcher<'_>,
    column: ColumnView<'_>,
    cap: u64,
    left: &[u16],
    best: &mut Best<'_, '_>,
) -> Result<()> {
    for outliers in column.outliers()? {
        let from = outliers.partition_point(|outlier| outlier.code > cap);
        for Outlier { code, id } in outliers.get(from..).unwrap_or_default() {
            if best.is_beyond(Some(*code)) {
                break;
            }
            watch::step()?;
            if left.binary_search(&block_of(*id)).is_ok() && column.get(*id)? == Some(*code) && matcher.contains(*id)? {
                best.push(Some(*code), *id, || Ok(!matcher.is_hidden(*id)?))?;
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
            if left > 0 && behind(id) && !matcher.is_hidden(id)? {
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
