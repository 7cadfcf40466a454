//! The plan that walks the first sort key's column in order, and tests each id, until there are enough. Blocks that it
//! comes to often are evaluated once.

use super::{
    best::Best,
    evaluate::{Matcher, block_of, id_of, within_block},
    order::{After, Sorter},
    set::{Set, each_id},
    watch,
};
use crate::{log::Result, state::ColumnView};

/// Ids tested one by one in a block before all of it is evaluated.
const TESTS: u32 = 6;

/// What is known of the blocks that a walk came to.
#[derive(Debug, Default)]
struct Seen {
    /// By block, as far as they go.
    blocks: Vec<SeenBlock>,
}

#[derive(Debug, Default)]
enum SeenBlock {
    #[default]
    New,
    Tested(u32),
    Evaluated(Set),
}

impl Seen {
    /// Gives back its room.
    fn leave(self, matcher: &mut Matcher<'_>) {
        for block in self.blocks {
            if let SeenBlock::Evaluated(set) = block {
                matcher.pool.put_set(set);
            }
        }
    }

    fn contains(&mut self, matcher: &mut Matcher<'_>, id: u32) -> Result<bool> {
        let number = block_of(id);
        let at = usize::from(number);
        if at >= self.blocks.len() {
            self.blocks.resize_with(at + 1, SeenBlock::default);
        }
        let block = &mut self.blocks[at];
        let tests = match block {
            SeenBlock::Evaluated(set) => return Ok(set.contains(within_block(id))),
            SeenBlock::New => 0,
            SeenBlock::Tested(tests) => *tests,
        };
        if tests < TESTS {
            *block = SeenBlock::Tested(tests + 1);
            return matcher.contains(id);
        }
        let mut set = matcher.pool.set();
        matcher.evaluate(number, &mut set)?;
        let contains = set.contains(within_block(id));
        *block = SeenBlock::Evaluated(set);
        Ok(contains)
    }
}

/// A walk over a column. `range`: the codes that pass; then the filter of `matcher` does not test them again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk<'q, 's> {
    pub(super) sorter: &'q Sorter<'s>,
    pub(super) column: ColumnView<'s>,
    pub(super) range: Option<(u64, u64)>,
    pub(super) after: Option<&'q After>,
    pub(super) want: usize,
}

impl Walk<'_, '_> {
    /// `to_nulls` narrows the matcher to ids without a value in the column, and answers the blocks where they may be.
    pub(super) fn run<'m>(
        self,
        matcher: &mut Matcher<'m>,
        to_nulls: impl FnOnce(&mut Matcher<'m>) -> Result<Vec<u16>>,
    ) -> Result<Vec<u32>> {
        let mut found = Vec::with_capacity(self.want.min(1024));
        let after_code = self.after.map(|after| self.sorter.after_code(after));
        if after_code != Some(None) {
            self.codes(matcher, after_code.flatten(), &mut found)?;
        }
        if found.len() < self.want && self.range.is_none() {
            let blocks = to_nulls(matcher)?;
            self.nulls(matcher, &blocks, after_code == Some(None), &mut found)?;
        }
        Ok(found)
    }

    fn codes(self, matcher: &mut Matcher<'_>, after_code: Option<u64>, found: &mut Vec<u32>) -> Result<()> {
        let descending = self.sorter.first_descends();
        let (first, last) = self.range.unwrap_or((0, u64::MAX));
        // The end of the range at which the walk begins, or the cursor's code where that comes later.
        let (start, end) = if descending { (last, first) } else { (first, last) };
        let start = after_code.map_or(start, |code| if descending { code.min(start) } else { code.max(start) });
        let mut walk = self.column.walk(descending, Some((start, if descending { u32::MAX } else { 0 })))?;
        let plain = self.sorter.is_plain();
        let behind = |code: u64, id: u32| match (self.after, after_code) {
            (Some(after), Some(of)) if code == of => {
                if descending {
                    id < after.id()
                } else {
                    id > after.id()
                }
            }
            _ => true,
        };
        let mut seen = Seen::default();
        let mut group: Option<(u64, Best<'_, '_>)> = None;
        while let Some((code, id)) = walk.next()? {
            watch::step()?;
            if if descending { code < end } else { code > end } {
                break;
            }
            if plain {
                if behind(code, id) && seen.contains(matcher, id)? && !matcher.is_hidden(id)? {
                    found.push(id);
                    if found.len() >= self.want {
                        break;
                    }
                }
                continue;
            }
            if group.as_ref().is_none_or(|(of, _)| *of != code) {
                found.extend(group.take().map(|(_, best)| best.finish()).unwrap_or_default());
                if found.len() >= self.want {
                    break;
                }
                group = Some((code, Best::new(self.sorter, self.after, self.want - found.len())));
            }
            if let Some((_, best)) = &mut group
                && seen.contains(matcher, id)?
            {
                best.push(Some(code), id, || Ok(!matcher.is_hidden(id)?))?;
            }
        }
        found.extend(group.map(|(_, best)| best.finish()).unwrap_or_default());
        seen.leave(matcher);
        Ok(())
    }

    /// The rows without a value, which come last. The filter of `matcher` lets no others through.
    fn nulls(self, matcher: &mut Matcher<'_>, blocks: &[u16], after_null: bool, found: &mut Vec<u32>) -> Result<()> {
        let descending = self.sorter.first_descends();
        let want = self.want - found.len();
        let after = self.after.filter(|_| after_null);
        let plain = self.sorter.is_plain();
        let mut best = Best::new(self.sorter, after, want);
        let mut set = matcher.pool.set();
        let mut left = want;
        for at in 0..blocks.len() {
            let Some(number) = blocks.get(if descending { blocks.len() - 1 - at } else { at }) else { break };
            matcher.evaluate(*number, &mut set)?;
            let more = each_id(set.as_block(), descending, |within| {
                let id = id_of(*number, within);
                let behind = after.is_none_or(|after| if descending { id < after.id() } else { id > after.id() });
                if plain && behind && !matcher.is_hidden(id)? {
                    best.push(None, id, || Ok(true))?;
                    left -= 1;
                } else if !plain {
                    best.push(None, id, || Ok(!matcher.is_hidden(id)?))?;
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
