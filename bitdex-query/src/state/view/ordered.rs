//! The ids of a term in the order of a column, as segments have them, and what layers above the base say of that.

use super::{
    super::{State, layout::Numbers},
    ColumnView, Operand,
};
use crate::{
    log::Result,
    segment::orders::{Entry, IDS_LEAST},
};

/// What a segment has of a term in the order of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ordered {
    /// None of its ids.
    Nothing,
    /// So few that there is no order.
    Few,
    /// It is not made.
    NotMade,
    Made,
}

impl<'s> ColumnView<'s> {
    /// What the segment at a position has of a term of a field of which a document has one value.
    pub(crate) fn ordered(&self, of: &Operand<'s>, position: usize) -> Result<Ordered> {
        Ok(match of.segment(position)? {
            None => Ordered::Nothing,
            Some(posting) if posting.len() < IDS_LEAST => Ordered::Few,
            Some(_) if self.files.order(position, of.field(), self.field()).is_none() => Ordered::NotMade,
            Some(_) => Ordered::Made,
        })
    }

    /// Its ids that have a code, the greatest first; `None` where they are not in order, or where `all` are wanted and some
    /// have none.
    pub(crate) fn in_order(&self, of: &Operand<'s>, position: usize, all: bool) -> Result<Option<&'s [Entry]>> {
        let Some(posting) = of.segment(position)? else { return Ok(Some(&[])) };
        let orders = self.files.order(position, of.field(), self.field());
        let entries = orders.and_then(|orders| orders.of_term(&posting));
        Ok(entries.filter(|entries| !all || entries.len() as u64 == posting.len()))
    }

    /// Adds the numbers of the blocks of which layers in memory say something, and of those of some in which the checkpoint
    /// does.
    pub(crate) fn add_said(&self, blocks: &[u16], said: &mut Numbers) -> Result<()> {
        for layer in [self.active, self.frozen].into_iter().flatten() {
            layer.blocks().for_each(|number| said.insert(number.into()));
        }
        if self.checkpoint.is_some() {
            for number in blocks {
                if self.checkpoint_of(*number)?.is_some() {
                    said.insert((*number).into());
                }
            }
        }
        Ok(())
    }
}

impl Operand<'_> {
    /// Adds the numbers of the blocks that layers above the base change.
    pub(crate) fn add_changed(&self, changed: &mut Numbers) {
        self.changed_blocks(|number| changed.insert(number.into()));
    }
}

impl State {
    /// The same of blocks in which the cells of documents may be others than the base says.
    pub(crate) fn add_moved(&self, blocks: &[u16], moved: &mut Numbers) {
        for layer in self.heap_layers() {
            layer.sets.moved_blocks().for_each(|number| moved.insert(number.into()));
        }
        if self.files.moves_cells() {
            for number in blocks.iter().filter(|number| !self.files.moved(**number).is_empty()) {
                moved.insert((*number).into());
            }
        }
    }
}
