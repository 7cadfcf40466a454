//! The plan that evaluates blocks of those ids alone whose codes are among the greatest, and goes deeper where they do
//! not hold enough matches. It is for orders from the greatest code down that have nothing to do with the order of ids.

use super::{
    best::Best,
    cells::LISTED,
    evaluate::{Begin, Matcher},
    gather::{Codes, push_each, push_listed},
    hidden::Hidden,
    plan::Asked,
    set::Set,
};
use crate::{
    log::Result,
    segment::{
        peaks,
        sets::{ARRAY_MAX, Block},
    },
    state::{CodeReader, ColumnView},
};

/// Matches that are hoped for, as many times as are wanted: about so many more than the estimate promises are needed
/// where it is wrong.
const MARGIN: f64 = 1.5;
/// To read the codes of more ids takes longer than other operands do.
pub(super) const EACH: u32 = 128;
/// From one floor to the next: so many times as many ids.
const DEEPER: f64 = 8.0;

/// The part of a column's ids from the top down that is thought to hold `want` of so many matches among as many
/// documents, below those that `above` of them have.
pub(super) fn share(want: usize, matches: u64, documents: u64, above: u64) -> f64 {
    above as f64 / documents.max(1) as f64 + MARGIN * want as f64 / matches.max(1) as f64
}

/// `None` where the first codes do not hold enough: then nothing is known. `share`: see [`share`].
pub(super) fn skim<'s>(
    matcher: &mut Matcher<'s>,
    asked: Asked<'_, 's>,
    mut share: f64,
    documents: u64,
) -> Result<Option<Vec<u32>>> {
    let Asked { sorter, after, want, .. } = asked;
    let Some(column) = sorter.first().filter(|_| sorter.first_descends()) else { return Ok(None) };
    let mut visits = Vec::with_capacity(asked.blocks.len());
    for number in asked.blocks {
        let bounds = column.bounds(*number)?;
        if bounds.count > 0 {
            visits.push((bounds.max, *number));
        }
    }
    visits.sort_unstable();
    let first = matcher.root.positives.first().map_or(0, |child| child.estimate);
    let of_block = first / visits.len().max(1) as u64;
    // Its blocks lie as words then, in which a few ids are quickly looked up.
    let first_is_large = of_block > ARRAY_MAX as u64;
    while share < peaks::SHARE_MOST {
        let Some(floor) = column.reached_by(share)? else { break };
        let mut best = Best::new(sorter, after, want);
        let codes = asked.spared_first(matcher, column, &mut best)?;
        let most = (share * documents as f64) as usize;
        let floor = column.raised(floor, most)?;
        let codes = Codes { first: codes.first.max(floor), missing: false, ..codes };
        skim_from(matcher, column, codes, (&visits, first_is_large), &mut best)?;
        // None of its rows has a lesser code, and none that has a greater one was left out.
        if best.is_full() {
            return Ok(Some(best.finish()));
        }
        share *= DEEPER;
    }
    Ok(None)
}

/// Pushes what passes among `codes`. `visits`: the blocks with the greatest code of each, ascending.
fn skim_from<'s>(
    matcher: &mut Matcher<'s>,
    column: ColumnView<'s>,
    codes: Codes,
    (visits, first_is_large): (&[(u64, u16)], bool),
    best: &mut Best<'_, '_>,
) -> Result<()> {
    let (mut set, mut candidates) = (matcher.pool.set(), matcher.pool.set());
    let (mut hidden, mut ids) = (Hidden::default(), Vec::new());
    for (most, number) in visits.iter().rev() {
        let (least, ..) = best.codes();
        let least = least.max(codes.first);
        if *most < least {
            break;
        }
        let reader = column.reader(*number)?;
        if let Some(listed) = matcher.listed(*number, LISTED)? {
            listed.fetch_with(&reader, best.is_full());
            let codes = Codes { first: least, ..codes };
            push_listed(matcher, &mut hidden, (*number, &reader), codes, &listed, best)?;
            continue;
        }
        match column.peaks(*number, least, false)? {
            // As few ids as that are better looked up in all operands.
            Some(peaks @ (Block::Empty | Block::Array(_))) if first_is_large && reader.is_plain() => {
                matcher.evaluate_some(*number, &mut set, Begin::Of(peaks))?;
            }
            Some(peaks @ (Block::Empty | Block::Array(_))) if first_is_large => {
                ids.clear();
                peaks.for_each(|id| ids.push(id));
                reader.each_reaching(least, &mut ids);
                ids.sort_unstable();
                ids.dedup();
                matcher.evaluate_some(*number, &mut set, Begin::Of(Block::of(&ids)))?;
            }
            _ => {
                let mut narrow = |set: &mut Set| narrow(set, column, (*number, &reader), least, &mut candidates);
                matcher.evaluate_some(*number, &mut set, Begin::Narrowed(&mut narrow))?;
            }
        }
        if set.is_empty() {
            continue;
        }
        push_each(matcher, &mut hidden, (*number, &reader), codes, &set, best)?;
    }
    matcher.pool.put_set(set);
    matcher.pool.put_set(candidates);
    Ok(())
}

/// Keeps of a block's ids those that may have a code from `least` on, where that is quickly told. `candidates`:
/// room.
pub(super) fn narrow<'s>(
    set: &mut Set,
    column: ColumnView<'s>,
    (number, codes): (u16, &CodeReader<'s>),
    least: u64,
    candidates: &mut Set,
) -> Result<()> {
    let peaks = column.peaks(number, least, set.is_sparse())?;
    if let (Some(peaks), true) = (peaks, codes.is_plain()) {
        set.and(peaks);
        return Ok(());
    }
    if set.is_sparse() && set.len() <= EACH {
        codes.fetch(set.as_block());
        set.keep(|id| codes.get(id).is_some_and(|code| code >= least));
        return Ok(());
    }
    let Some(peaks) = peaks else { return Ok(()) };
    candidates.clear();
    candidates.or(peaks);
    codes.add_reaching(least, candidates.words());
    set.and(candidates.as_block());
    Ok(())
}
