//! The plan that walks the first sort key's column in order, and tests each id, until there are enough.

use super::{
    best::Best,
    evaluate::{Matcher, block_of, id_of},
    hidden::Hidden,
    order::After,
    plan::Asked,
    probe::Probes,
    set::each_id,
    watch,
};
use crate::{
    log::Result,
    state::{self, ColumnView},
};

/// Ids taken from the column at once: few at first.
const FIRST: usize = 64;
const MOST: usize = 1024;

/// A walk over a column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'q, 's> {
    pub(super) asked: Asked<'q, 's>,
    pub(super) column: ColumnView<'s>,
    /// From this many steps on it gives up.
    pub(super) steps: usize,
}

/// What a walk knows while it goes on.
struct Way<'p, 's> {
    walk: state::Walk<'s>,
    /// The last code that passes.
    end: u64,
    probes: &'p mut Probes<'s>,
    hidden: Hidden<'s>,
    steps: usize,
}

impl<'s> Walk<'_, 's> {
    /// `None` where it gave up; the matcher is then as it was. `to_nulls` narrows it to ids without a value in the
    /// column, and answers the blocks where they may be.
    pub(super) fn run(
        self,
        matcher: &mut Matcher<'s>,
        to_nulls: impl FnOnce(&mut Matcher<'s>) -> Result<Vec<u16>>,
    ) -> Result<Option<Vec<u32>>> {
        let mut found = Vec::with_capacity(self.asked.want.min(1024));
        let after_code = self.asked.after.map(|after| self.asked.sorter.after_code(after));
        let descending = self.asked.sorter.first_descends();
        if descending {
            self.spared(matcher, &mut found)?;
        }
        if after_code != Some(None)
            && found.len() < self.asked.want
            && !self.codes(matcher, after_code.flatten(), &mut found)?
        {
            return Ok(None);
        }
        if !descending {
            self.spared(matcher, &mut found)?;
        }
        if found.len() < self.asked.want && self.asked.range.is_none() {
            let blocks = to_nulls(matcher)?;
            self.nulls(matcher, &blocks, after_code == Some(None), &mut found)?;
        }
        Ok(Some(found))
    }

    /// Those of the greatest codes that show nevertheless.
    fn spared(self, matcher: &Matcher<'s>, found: &mut Vec<u32>) -> Result<()> {
        let mut best = Best::new(self.asked.sorter, self.asked.after, self.asked.want - found.len());
        self.asked.spared_first(matcher, self.column, &mut best)?;
        found.extend(best.finish());
        Ok(())
    }

    /// Whether it came to its end.
    fn codes(self, matcher: &mut Matcher<'s>, after_code: Option<u64>, found: &mut Vec<u32>) -> Result<bool> {
        let descending = self.asked.sorter.first_descends();
        let (first, last) = self.asked.range.unwrap_or((0, u64::MAX));
        let last = last.min(self.asked.shown.most);
        // The end of the range at which the walk begins, or the cursor's code where that comes later.
        let (start, end) = if descending { (last, first) } else { (first, last) };
        let start = after_code.map_or(start, |code| if descending { code.min(start) } else { code.max(start) });
        let plain = self.asked.sorter.is_plain();
        let id = match self.asked.after {
            Some(after) if plain && after_code == Some(start) => after.id(),
            _ if descending => u32::MAX,
            _ => 0,
        };
        let mut probes = Probes::default();
        let mut way = Way {
            walk: self.column.walk(descending, Some((start, id)))?,
            end,
            probes: &mut probes,
            hidden: Hidden::default(),
            steps: 0,
        };
        let ended = match plain {
            // The cursor's own row, with which the walk begins where it still stands there.
            true => self.plain(matcher, &mut way, self.asked.after.filter(|_| after_code == Some(start)), start, found),
            false => self.keyed(matcher, &mut way, found),
        }?;
        let steps = way.steps;
        probes.leave(matcher);
        if let Some((trace, _)) = &matcher.trace {
            trace.run(|run| run.walked += steps as u64);
        }
        Ok(ended)
    }

    /// Where ids by their codes are the whole order. `own`: the row that the walk may begin with and that is left out
    /// where its code is still `start`.
    fn plain(
        self,
        matcher: &mut Matcher<'s>,
        way: &mut Way<'_, 's>,
        own: Option<&After>,
        start: u64,
        found: &mut Vec<u32>,
    ) -> Result<bool> {
        let (mut ids, mut chunk, mut own) = (matcher.pool.ids(), FIRST, own.map(After::id));
        let mut ended = false;
        'walk: while way.steps < self.steps {
            ids.clear();
            way.walk.run(chunk, &mut ids)?;
            way.steps += ids.len();
            chunk = (chunk * 2).min(MOST);
            // Until the walk goes on.
            ended = true;
            let Some(first) = ids.first() else { break };
            if own.take() == Some(*first) && self.column.get(*first)? == Some(start) {
                ids.remove(0);
            }
            let within = self.within(&ids, way.end)?;
            for run in ids.get(..within).unwrap_or_default().chunk_by(|a, b| block_of(*a) == block_of(*b)) {
                watch::steps(run.len() as u32)?;
                let hidden = &mut way.hidden;
                let mut take = |matcher: &Matcher<'s>, id: u32| {
                    if !hidden.contains(matcher, id)? {
                        found.push(id);
                    }
                    Ok(found.len() < self.asked.want)
                };
                let more = match run {
                    [id] => !way.probes.contains(matcher, *id)? || take(matcher, *id)?,
                    run => way.probes.each_passing(matcher, run, take)?,
                };
                if !more {
                    break 'walk;
                }
            }
            if within < ids.len() {
                break;
            }
            ended = false;
        }
        matcher.pool.put_ids(ids);
        Ok(ended)
    }

    /// Where more than the codes decides: among the rows of one code, the first are selected.
    fn keyed(self, matcher: &mut Matcher<'s>, way: &mut Way<'_, 's>, found: &mut Vec<u32>) -> Result<bool> {
        let descending = self.asked.sorter.first_descends();
        let mut group: Option<(u64, Best<'_, '_>)> = None;
        let mut ended = false;
        while way.steps < self.steps {
            watch::step()?;
            way.steps += 1;
            let next =
                way.walk.next()?.filter(|(code, _)| if descending { *code >= way.end } else { *code <= way.end });
            let Some((code, id)) = next else {
                ended = true;
                break;
            };
            if group.as_ref().is_none_or(|(of, _)| *of != code) {
                found.extend(group.take().map(|(_, best)| best.finish()).unwrap_or_default());
                if found.len() >= self.asked.want {
                    ended = true;
                    break;
                }
                group = Some((code, Best::new(self.asked.sorter, self.asked.after, self.asked.want - found.len())));
            }
            if let Some((_, best)) = &mut group
                && way.probes.contains(matcher, id)?
            {
                best.push(Some(code), id, || Ok(!way.hidden.contains(matcher, id)?))?;
            }
        }
        found.extend(group.map(|(_, best)| best.finish()).unwrap_or_default());
        Ok(ended)
    }

    /// How many of some ids, in the order of the walk, have codes up to `end`.
    fn within(self, ids: &[u32], end: u64) -> Result<usize> {
        let descending = self.asked.sorter.first_descends();
        if end == if descending { 0 } else { u64::MAX } {
            return Ok(ids.len());
        }
        let is_behind =
            |id: u32| Ok(self.column.get(id)?.is_none_or(|code| if descending { code < end } else { code > end }));
        let (mut from, mut to) = (0, ids.len());
        // Most end behind all of them.
        let mut at = ids.len().saturating_sub(1);
        while let Some(id) = ids.get(at).filter(|_| from < to) {
            if is_behind(*id)? {
                to = at
            } else {
                from = at + 1
            }
            at = from.midpoint(to);
        }
        Ok(from)
    }

    /// The rows without a value, which come last. The filter of `matcher` lets no others through.
    fn nulls(self, matcher: &mut Matcher<'_>, blocks: &[u16], after_null: bool, found: &mut Vec<u32>) -> Result<()> {
        let descending = self.asked.sorter.first_descends();
        let want = self.asked.want - found.len();
        let after = self.asked.after.filter(|_| after_null);
        let plain = self.asked.sorter.is_plain();
        let mut best = Best::new(self.asked.sorter, after, want);
        let mut set = matcher.pool.set();
        let mut hidden = Hidden::default();
        let mut left = want;
        for at in 0..blocks.len() {
            let Some(number) = blocks.get(if descending { blocks.len() - 1 - at } else { at }) else { break };
            matcher.evaluate(*number, &mut set)?;
            let more = each_id(set.as_block(), descending, |within| {
                let id = id_of(*number, within);
                let behind = after.is_none_or(|after| if descending { id < after.id() } else { id > after.id() });
                if plain && behind && !hidden.contains(matcher, id)? {
                    best.push(None, id, || Ok(true))?;
                    left -= 1;
                } else if !plain {
                    best.push(None, id, || Ok(!hidden.contains(matcher, id)?))?;
                }
                Ok(left > 0)
            })?;
            if !more {
                break;
            }
        }
        matcher.pool.put_set(set);
        found.extend(best.finish());
        Ok(())
    }
}
