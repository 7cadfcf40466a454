//! The ids of a segment whose codes are among its greatest, as sets: all from one code on, from a higher one on, and so
//! forth. Who looks for the first rows, downwards, needs no codes of other ids.
//!
//! Made from the column's order when first asked for, and kept as long as the file is open.

use super::{
    SEGMENT_BITS,
    columns::Column,
    sets::{Block, BlockBuffer, OwnedBlock},
};
use crate::log::Result;

/// One id in so many is in a set, about.
pub const SHARES: [usize; 4] = [1024, 256, 64, 16];
/// No set holds a greater part of the ids.
pub const SHARE_MOST: f64 = 1.0 / SHARES[SHARES.len() - 1] as f64;
/// Sets of up to so many ids of a block are arrays: to look a few ids up in words is quicker.
pub const ARRAY_MOST: usize = 511;

#[derive(Debug, Default)]
pub struct Peaks {
    /// The highest first.
    levels: Vec<Level>,
}

#[derive(Debug)]
struct Level {
    /// Every id that has this code or a greater one is in the set, and no other.
    floor: u64,
    /// By number of the block in its segment.
    blocks: Vec<OwnedBlock>,
}

impl Peaks {
    pub(super) fn of(column: &Column) -> Result<Self> {
        let mut peaks = Self::default();
        for share in SHARES.into_iter().filter(|share| *share <= column.len()) {
            let first = column.len() - column.len() / share;
            let Some(mut floor) = column.get(column.ranked(first)?)? else { continue };
            let mut from = column.rank(floor, 0)?;
            if column.len() - from > 2 * (column.len() - first) {
                // Too many have this code.
                let Some(next) = floor.checked_add(1) else { continue };
                floor = next;
                from = column.rank(floor, 0)?;
            }
            let is_new = peaks.levels.last().is_none_or(|level| level.floor > floor);
            if is_new && 0 < from && from < column.len() {
                peaks.levels.push(Level::of(column, floor, from)?);
            }
        }
        Ok(peaks)
    }

    /// A set of a block's ids in which are all whose codes reach `floor`; `None`: there is none but all of them. `n`: of
    /// the block in its segment. `few`: to be looked up in, rather than to be gone through.
    pub fn block(&self, n: usize, floor: u64, few: bool) -> Option<Block<'_>> {
        let mut found = None;
        for level in self.levels.iter().filter(|level| level.floor <= floor) {
            let block = level.blocks.get(n).map_or(Block::Empty, OwnedBlock::as_block);
            found = Some(block);
            if !few || !matches!(block, Block::Array(_)) {
                break;
            }
        }
        found
    }
}

impl Level {
    /// `from`: the rank at which the floor is reached.
    fn of(column: &Column, floor: u64, from: usize) -> Result<Self> {
        let mut ids = Vec::with_capacity(column.len() - from);
        for rank in from..column.len() {
            ids.push(column.ranked(rank)? & ((1 << SEGMENT_BITS) - 1));
        }
        ids.sort_unstable();
        let (mut blocks, mut within, mut buffer) = (Vec::new(), Vec::new(), BlockBuffer::default());
        for ids in ids.chunk_by(|a, b| a >> 16 == b >> 16) {
            let number = ids.first().map_or(0, |id| (id >> 16) as usize);
            blocks.resize(number, OwnedBlock::from(Block::Empty));
            within.clear();
            within.extend(ids.iter().map(|id| *id as u16));
            let array = Block::of(&within);
            blocks.push(if ids.len() <= ARRAY_MOST {
                array.into()
            } else {
                buffer.set(array);
                Block::Bits(buffer.bits()).into()
            });
        }
        Ok(Self { floor, blocks })
    }
}
