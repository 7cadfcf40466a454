//! Changes of a block applied to it.

use crate::segment::sets::{Block, BlockBuffer};

/// What came into a block, and what went out of it. No id is in both.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change<'a> {
    pub(crate) added: Block<'a>,
    pub(crate) removed: Block<'a>,
}

impl Change<'_> {
    pub(crate) const NONE: Change<'static> = Change { added: Block::Empty, removed: Block::Empty };

    fn is_empty(&self) -> bool {
        matches!((self.added, self.removed), (Block::Empty, Block::Empty))
    }
}

/// `base` with the changes, in this order, applied: untouched where there are none, else in the buffer.
pub(crate) fn combine<'b>(base: Block<'b>, changes: &[Change<'_>], buffer: &'b mut BlockBuffer) -> Block<'b> {
    if changes.iter().all(Change::is_empty) {
        return base;
    }
    buffer.set(base);
    for change in changes {
        buffer.and_not(change.removed);
        buffer.or(change.added);
    }
    buffer.block()
}
