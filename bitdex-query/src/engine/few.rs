//! Ids of one segment, where a term has few there: tested one by one, all of them together. Where blocks hold hardly any
//! of them, what has to be found out about a block would take longer than its ids.

use super::{
    best::Best,
    cells::{BlockCells, SegmentCells, told},
    evaluate::{Matcher, block_of, within_block},
    gather::Codes,
    hidden::Hidden,
    watch,
};
use crate::{
    log::Result,
    segment::columns::Column,
    state::{ColumnView, Operand},
};

/// So many ids of a segment are few, however few rows are wanted.
const LEAST: usize = 64;
/// More are not, however many are.
const MOST: usize = 1024;

/// The ids of a segment that a term has there, of which is asked for what will be read.
#[derive(Debug)]
pub(super) struct Few<'s> {
    ids: Vec<u32>,
    /// The column whose codes order them.
    base: Option<&'s Column>,
    cells: Option<SegmentCells<'s>>,
}

impl<'s> Matcher<'s> {
    /// Where a segment stands that holds few of the ids that have to be tested, while so many rows are wanted. `None`: it
    /// holds more, or cells do not tell all else of them. `blocks`: all of one segment.
    pub(super) fn has_few(&self, blocks: &[u16], column: ColumnView<'s>, want: usize) -> Result<Option<usize>> {
        let Some(operand) = self.few_of() else { return Ok(None) };
        let Some(position) = blocks.first().and_then(|number| column.segment_of(*number)) else { return Ok(None) };
        let most = want.clamp(LEAST, MOST) as u64;
        if operand.most_within(position, blocks)? > most {
            return Ok(None);
        }
        Ok(self.root.cells.as_ref().is_none_or(|cells| cells.segment(position).is_some()).then_some(position))
    }

    /// The operand whose ids are tested, where cells tell all else.
    fn few_of(&self) -> Option<&Operand<'s>> {
        self.root.told_but_first().filter(|_| self.trace.is_none())
    }

    /// Of a segment of which [`Matcher::has_few`] tells where it stands. `full`: there are enough rows, so that hardly any
    /// code is among the first.
    pub(super) fn few(
        &mut self,
        (position, blocks): (usize, &[u16]),
        column: ColumnView<'s>,
        full: bool,
    ) -> Result<Few<'s>> {
        let mut ids = self.pool.ids();
        let base = column.of_segment(position);
        let cells = self.root.cells.as_ref().and_then(|cells| cells.segment(position));
        if let Some(operand) = self.few_of() {
            operand.each_within(position, blocks, |id| {
                base.iter().for_each(|base| base.fetch(id));
                if !full {
                    cells.iter().for_each(|cells| cells.fetch(id));
                }
                ids.push(id);
            })?;
        }
        Ok(Few { ids, base, cells })
    }

    /// Whether one of the few passes. `of_block`: the cells of the block of the id before.
    fn passes_few(&self, few: &Few<'s>, id: u32, of_block: &mut Option<(u16, Option<BlockCells<'s>>)>) -> Result<bool> {
        let Some(cells) = &few.cells else { return Ok(true) };
        if let Some(passes) = cells.passes(id) {
            return Ok(passes);
        }
        // Layers above the base move cells.
        let number = block_of(id);
        if of_block.as_ref().is_none_or(|(of, _)| *of != number) {
            *of_block = Some((number, self.root.cells.as_ref().and_then(|cells| cells.block(number))));
        }
        match of_block {
            Some((_, Some(cells))) => match cells.passes(within_block(id)) {
                Some(passes) => Ok(passes),
                None => told(&self.root, id),
            },
            _ => told(&self.root, id),
        }
    }
}

impl<'s> Few<'s> {
    /// Pushes those that pass.
    pub(super) fn push(
        &self,
        matcher: &Matcher<'s>,
        hidden: &mut Hidden<'s>,
        column: ColumnView<'s>,
        passing: Codes,
        best: &mut Best<'_, '_>,
    ) -> Result<()> {
        watch::block()?;
        watch::steps(self.ids.len() as u32)?;
        let passing = passing.within(best);
        let (of_base, descends) = (column.is_of_base(), best.descends());
        let mut of_block = None;
        let mut push = |id: u32| {
            let code = match (of_base, self.base) {
                (true, Some(base)) => base.get(id)?,
                (true, None) => None,
                (false, _) => column.get(id)?,
            };
            if passing.pass(code) && matcher.passes_few(self, id, &mut of_block)? {
                best.push(code, id, || Ok(!hidden.contains(matcher, id)?))?;
            }
            Ok(())
        };
        // In the order of their rows, where codes follow ids: so they need hardly be sorted.
        match descends {
            true => self.ids.iter().rev().try_for_each(|id| push(*id)),
            false => self.ids.iter().try_for_each(|id| push(*id)),
        }?;
        best.tighten();
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Gives back its room.
    pub(super) fn leave(self, matcher: &mut Matcher<'s>) {
        matcher.pool.put_ids(self.ids);
    }
}
