//! Which ids a column of a layer speaks of: asked in one step, cloned at the cost of a pointer, changed at that of the
//! leaves that are touched.

use std::sync::Arc;

use crate::segment::BLOCK_BITS;

/// 2^12 ids.
type Leaf = [u64; 64];
const LEAF_BITS: u32 = 12;
type Block = [Option<Arc<Leaf>>; 1 << (BLOCK_BITS - LEAF_BITS)];

#[derive(Debug, Clone, Default)]
pub(super) struct Marks {
    /// By number of the block.
    blocks: Arc<Vec<Option<Arc<Block>>>>,
    leaves: usize,
}

impl Marks {
    pub(super) fn insert(&mut self, ids: impl Iterator<Item = u32>) {
        let blocks = Arc::make_mut(&mut self.blocks);
        for id in ids {
            let at = (id >> BLOCK_BITS) as usize;
            if at >= blocks.len() {
                blocks.resize(at + 1, None);
            }
            let Some(block) = blocks.get_mut(at) else { continue };
            let block = Arc::make_mut(block.get_or_insert_default());
            let Some(leaf) = block.get_mut(leaf_of(id)) else { continue };
            let leaf = leaf.get_or_insert_with(|| {
                self.leaves += 1;
                Arc::new([0; 64])
            });
            if let Some(word) = Arc::make_mut(leaf).get_mut(word_of(id)) {
                *word |= 1 << (id & 63);
            }
        }
    }

    #[inline]
    pub(super) fn contains(&self, id: u32) -> bool {
        let block = self.blocks.get((id >> BLOCK_BITS) as usize).and_then(Option::as_ref);
        let leaf = block.and_then(|block| block.get(leaf_of(id))?.as_ref());
        let word = leaf.and_then(|leaf| leaf.get(word_of(id)));
        word.is_some_and(|word| word >> (id & 63) & 1 == 1)
    }

    /// Of heap, about.
    pub(super) fn bytes(&self) -> u64 {
        (self.leaves * size_of::<Leaf>() + self.blocks.len() * size_of::<Block>()) as u64
    }
}

fn leaf_of(id: u32) -> usize {
    ((id >> LEAF_BITS) & ((1 << (BLOCK_BITS - LEAF_BITS)) - 1)) as usize
}

fn word_of(id: u32) -> usize {
    ((id >> 6) & 63) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    #[test]
    fn what_was_put_in_is_there_and_clones_keep_what_they_had() {
        let mut rng = seeded();
        let (mut marks, mut model) = (Marks::default(), BTreeSet::<u32>::new());
        for _ in 0..20 {
            let (before, had) = (marks.clone(), model.clone());
            let most = 1 << rng.random_range(4..24);
            let ids: Vec<u32> = (0..200).map(|_| rng.random_range(0..most)).chain([u32::MAX >> 8]).collect();
            marks.insert(ids.iter().copied());
            model.extend(&ids);
            for id in ids.into_iter().chain((0..200).map(|_| rng.random_range(0..most))) {
                assert_eq!(marks.contains(id), model.contains(&id), "{id}");
                assert_eq!(before.contains(id), had.contains(&id), "{id} in the clone");
            }
        }
    }
}
