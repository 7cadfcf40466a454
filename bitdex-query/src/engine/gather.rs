//! The plan that evaluates blocks whole and selects the first rows of their ids: those blocks first whose codes may come
//! first, and none that cannot hold any of the first rows.

use std::cmp::Reverse;

use super::{
    best::Best,
    evaluate::{DECODE_FROM, Matcher, id_of},
    order::{After, Sorter},
    set::each_id,
    tree::Child,
};
use crate::{log::Result, state::ColumnView};

/// `exists`: the ids that have a value of the first key.
pub(super) fn gather(
    matcher: &mut Matcher<'_>,
    sorter: &Sorter<'_>,
    exists: &Child<'_>,
    blocks: &[u16],
    after: Option<&After>,
    want: usize,
) -> Result<Vec<u32>> {
    let mut best = Best::new(sorter, after, want);
    match sorter.first() {
        Some(column) => by_column(matcher, (column, exists), sorter.first_descends(), blocks, &mut best)?,
        None => by_id(matcher, sorter.first_descends(), blocks, after, want, &mut best)?,
    }
    Ok(best.finish())
}

fn by_column(
    matcher: &mut Matcher<'_>,
    (column, exists): (ColumnView<'_>, &Child<'_>),
    descending: bool,
    blocks: &[u16],
    best: &mut Best<'_, '_>,
) -> Result<()> {
    // (a block's first code, turned so that the smallest comes first; the code; the block)
    let mut visits = Vec::with_capacity(blocks.len());
    for number in blocks {
        let bounds = column.bounds(*number)?;
        let code = (bounds.count > 0).then_some(if descending { bounds.max } else { bounds.min });
        let turned = code.map_or((true, 0), |code| (false, if descending { !code } else { code }));
        visits.push((turned, Reverse(*number), code));
    }
    visits.sort_unstable();
    let mut set = matcher.pool.set();
    let mut valued = matcher.pool.set();
    let mut codes = matcher.pool.codes();
    for (_, Reverse(number), code) in visits {
        if best.is_beyond(code) {
            break;
        }
        matcher.evaluate(number, &mut set)?;
        if set.is_empty() {
            continue;
        }
        let dense = !set.is_sparse() && set.len() >= DECODE_FROM;
        if dense {
            column.block(number, &mut codes)?;
            valued.clear();
            exists.node.unite(number, &mut valued, &mut matcher.pool)?;
        }
        each_id(set.as_block(), false, |within| {
            let id = id_of(number, within);
            let code = if dense {
                codes.get(usize::from(within)).copied().filter(|_| valued.contains(within))
            } else {
                column.get(id)?
            };
            best.push(code, id, || Ok(!matcher.is_hidden(id)?))?;
            Ok(true)
        })?;
        best.tighten();
    }
    matcher.pool.put_codes(codes);
    matcher.pool.put_set(valued);
    matcher.pool.put_set(set);
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
