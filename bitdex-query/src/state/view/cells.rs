//! The cells of documents, through all layers: those that layers above the base move are told apart.

use smallvec::SmallVec;

use super::super::State;
use crate::segment::{
    BLOCKS_PER_SEGMENT,
    cells::{Cells, CellsOf},
    sets::Block,
};

/// The cells of one block.
#[derive(Debug, Clone)]
pub(crate) struct CellBlock<'s> {
    pub(crate) cells: CellsOf<'s>,
    /// Ids whose cells may be others.
    moved: SmallVec<[Block<'s>; 3]>,
}

impl<'s> CellBlock<'s> {
    /// Whether an id's cell may be another one.
    #[inline]
    pub(crate) fn is_moved(&self, id: u16) -> bool {
        self.moved.iter().any(|ids| ids.contains(id))
    }

    /// Ids whose cells may be others; some may be in several.
    pub(crate) fn moved(&self) -> &[Block<'s>] {
        &self.moved
    }
}

impl State {
    /// Where the segment of a block stands among all.
    pub(crate) fn segment_of(&self, block: u16) -> Option<usize> {
        self.files.position_of_block(block)
    }

    /// The cells of a segment, by its position.
    pub(crate) fn cells_of_segment(&self, position: usize) -> Option<&Cells> {
        self.files.cells(position)
    }

    /// Whether layers above the base say of any document that its cell may be another one.
    pub(crate) fn moves_cells(&self) -> bool {
        self.files.moves_cells() || self.heap_layers().any(|layer| !layer.sets.is_empty())
    }

    /// The cells of a block, whose segment has some.
    pub(crate) fn cell_block<'s>(&'s self, cells: &'s Cells, block: u16) -> CellBlock<'s> {
        CellBlock { cells: cells.block((block % BLOCKS_PER_SEGMENT).into()), moved: self.moved(block).collect() }
    }

    /// The ids of a block that each layer above the base says may have other cells.
    pub(crate) fn moved(&self, block: u16) -> impl Iterator<Item = Block<'_>> {
        let in_memory = self.heap_layers().map(move |layer| layer.sets.moved(block));
        in_memory.chain([self.files.moved(block)]).filter(|ids| !ids.is_empty())
    }
}
