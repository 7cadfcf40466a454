//! Sets of ids that queries keep beside the files that they are true of: those of the definition's filters.
//!
//! A block is worked out by the first query that needs it, and stays as long as its files are a version's. It says what
//! files say: layers in memory lie above it. What is kept of one version's files takes at most [`BYTES_MOST`]; blocks
//! beyond are worked out by each query.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use crate::segment::{
    BLOCK_BITS, BLOCKS_PER_SEGMENT,
    sets::{ARRAY_MAX, Block, OwnedBlock},
};

/// Of heap: four filters that hold something everywhere, of 130 M documents.
const BYTES_MOST: u64 = 64 << 20;

#[derive(Debug, Default)]
pub(crate) struct FilterSets {
    /// By filter.
    filters: Vec<FilterSet>,
    bytes: AtomicU64,
    /// Blocks that documents are in, about.
    blocks: u64,
}

#[derive(Debug, Default)]
struct FilterSet {
    /// By position of the segment, then by block in it.
    blocks: Vec<OnceLock<OwnedBlock>>,
    /// Of the blocks that are there.
    ids: AtomicU64,
    known: AtomicU64,
}

impl FilterSets {
    /// `documents`: present in each segment.
    pub(super) fn new(filters: usize, documents: &[u64]) -> Self {
        let blocks = || (0..documents.len() * usize::from(BLOCKS_PER_SEGMENT)).map(|_| OnceLock::new()).collect();
        let filters = (0..filters).map(|_| FilterSet { blocks: blocks(), ..FilterSet::default() });
        let blocks = documents.iter().map(|documents| documents.div_ceil(1 << BLOCK_BITS)).sum();
        Self { filters: filters.collect(), bytes: AtomicU64::new(0), blocks }
    }

    /// Of heap.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A block, where it is there.
    pub(crate) fn get(&self, filter: usize, position: usize, block: u16) -> Option<Block<'_>> {
        let blocks = &self.filters.get(filter)?.blocks;
        let block = blocks.get(place(position, block))?.get()?;
        Some(block.as_block())
    }

    /// Keeps a block, where there is room. What is kept already stays.
    pub(crate) fn put(&self, filter: usize, position: usize, block: u16, ids: Block<'_>) -> Option<Block<'_>> {
        let filter = self.filters.get(filter)?;
        let place = filter.blocks.get(place(position, block))?;
        let made = smallest(ids);
        let (count, bytes) = (made.as_block().len(), made.as_block().bytes() as u64);
        if self.bytes.load(Ordering::Relaxed) + bytes > BYTES_MOST {
            return None;
        }
        if place.set(made).is_ok() {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            filter.ids.fetch_add(count.into(), Ordering::Relaxed);
            filter.known.fetch_add(1, Ordering::Relaxed);
        }
        place.get().map(OwnedBlock::as_block)
    }

    /// Ids of all blocks, judged by those that are there; `None`: none is.
    pub(crate) fn estimate(&self, filter: usize) -> Option<u64> {
        let filter = self.filters.get(filter)?;
        let known = filter.known.load(Ordering::Relaxed);
        let ids = filter.ids.load(Ordering::Relaxed) as f64;
        (known > 0).then(|| (ids / known as f64 * self.blocks.max(known) as f64) as u64)
    }
}

/// Words only where an array would take more.
fn smallest(block: Block<'_>) -> OwnedBlock {
    match block {
        Block::Bits(words) if block.len() as usize <= ARRAY_MAX => {
            OwnedBlock::Array(Block::Bits(words).iter().collect())
        }
        block => block.into(),
    }
}

fn place(position: usize, block: u16) -> usize {
    position * usize::from(BLOCKS_PER_SEGMENT) + usize::from(block % BLOCKS_PER_SEGMENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::sets::WORDS;

    #[test]
    fn blocks_are_kept_as_they_are_and_up_to_a_limit() {
        let sets = FilterSets::new(1, &[1 << 18; 1_000]);
        let all = [u64::MAX; WORDS];
        let few = [3, 70];
        assert!(sets.get(0, 0, 0).is_none() && sets.estimate(0).is_none());
        assert_eq!(sets.put(0, 0, 16, Block::Array(&few)).map(|block| block.len()), Some(2));
        assert_eq!(sets.put(0, 0, 16, Block::Bits(&all)).map(|block| block.len()), Some(2), "the first stays");
        assert_eq!(sets.get(0, 0, 0).map(|block| block.iter().collect()), Some(few.to_vec()));
        assert_eq!((sets.bytes(), sets.estimate(0)), (4, Some(2 * 4 * 1_000)));
        assert!(sets.put(0, 0, 1, Block::Empty).is_some_and(|block| block.is_empty()));
        assert!(sets.put(1, 0, 0, Block::Empty).is_none() && sets.put(0, 1_000, 0, Block::Empty).is_none());
        let full = (1..1_000).flat_map(|position| (0..16).map(move |block| (position, block)));
        let put = full.take_while(|(position, block)| sets.put(0, *position, *block, Block::Bits(&all)).is_some());
        assert_eq!(put.count() as u64, BYTES_MOST / 8192 - 1);
        assert!(sets.bytes() <= BYTES_MOST);
    }
}
