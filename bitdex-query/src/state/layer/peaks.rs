//! The ids of a column of a layer that have its greatest codes, as sets: the first so many, twice as many, and so forth
//! up to all of them, as segments have them of theirs ([`peaks`](crate::segment::peaks)). Who looks for the first rows, downwards, need not
//! look at all that the layer says.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    block::BlockSet,
    ranks::{Coded, RankChunk},
};
use crate::{
    segment::{BLOCK_BITS, sets::Block},
    state::sorted::Sorted,
};

/// Ids of the first set, about.
const LEAST: usize = 64;

/// From so many ids of a block on they are kept as bits: ids of other sets are looked up in them.
type Ids = BlockSet<128>;

#[derive(Debug, Clone, Default)]
pub(super) struct Peaks {
    /// The smallest first.
    levels: Vec<Level>,
}

#[derive(Debug, Clone)]
struct Level {
    /// Every id that has this code or a greater one is in the set, and no other.
    floor: u64,
    /// By number of the block.
    blocks: Arc<Vec<Ids>>,
    ids: usize,
    bytes: usize,
}

impl Peaks {
    /// `moved`: the places that ids come to in the order, and those that they leave, ascending. `order`: as it is now.
    pub(super) fn change(&mut self, moved: &[(Coded, bool)], order: &Sorted<RankChunk>) {
        let (mut come, mut go) = (Vec::new(), Vec::new());
        for level in &mut self.levels {
            let reaching = moved.partition_point(|((code, _), _)| *code < level.floor);
            come.clear();
            go.clear();
            for ((_, id), comes) in moved.get(reaching..).unwrap_or_default() {
                if *comes { come.push(*id) } else { go.push(*id) }
            }
            level.change(&mut go, Ids::remove);
            level.change(&mut come, Ids::insert);
        }
        let sizes = (0..usize::BITS).map_while(|n| LEAST.checked_shl(n).filter(|ids| 2 * ids <= order.len()));
        // And all of them.
        let sizes: SmallVec<[Option<usize>; 32]> = sizes.map(Some).chain([None]).collect();
        self.levels.truncate(sizes.len());
        for (n, ids) in sizes.into_iter().enumerate() {
            let level = self.levels.get_mut(n);
            if ids.zip(level.as_ref()).is_some_and(|(ids, level)| (ids / 2..ids * 2).contains(&level.ids)) {
                continue;
            }
            let floor = ids.and_then(|ids| order.reached_by(ids)).unwrap_or(0);
            match level {
                // Of all, or of so many that have the same code.
                Some(level) if level.floor == floor => {}
                Some(level) => *level = Level::new(floor, order),
                None => self.levels.push(Level::new(floor, order)),
            }
        }
    }

    /// Ids of a block, among them all whose codes reach `least`; `None`: nothing has been said yet.
    pub(super) fn block(&self, number: u16, least: u64) -> Option<Block<'_>> {
        let level = self.levels.iter().find(|level| level.floor <= least)?;
        Some(level.blocks.get(usize::from(number)).map_or(Block::Empty, Ids::as_block))
    }

    /// Of heap, about.
    pub(super) fn bytes(&self) -> u64 {
        self.levels.iter().map(|level| (level.bytes + level.blocks.capacity() * size_of::<Ids>()) as u64).sum()
    }
}

impl Level {
    fn new(floor: u64, order: &Sorted<RankChunk>) -> Self {
        let mut level = Self { floor, blocks: Arc::default(), ids: 0, bytes: 0 };
        let mut ids = Vec::new();
        order.order((floor, 0)..).for_each(|(_, id)| ids.push(id));
        level.change(&mut ids, Ids::insert);
        level
    }

    /// Changes its blocks. `ids`: in any order, none twice.
    fn change(&mut self, ids: &mut [u32], change: impl Fn(&mut Ids, &[u16])) {
        if ids.is_empty() {
            return;
        }
        ids.sort_unstable();
        let blocks = Arc::make_mut(&mut self.blocks);
        let mut within = Vec::new();
        for of_block in ids.chunk_by(|a, b| a >> BLOCK_BITS == b >> BLOCK_BITS) {
            let number = of_block.first().map_or(0, |id| (id >> BLOCK_BITS) as usize);
            blocks.resize_with(blocks.len().max(number + 1), Ids::default);
            let Some(block) = blocks.get_mut(number) else { continue };
            within.clear();
            within.extend(of_block.iter().map(|id| *id as u16));
            self.ids -= block.len() as usize;
            self.bytes -= block.bytes();
            change(block, &within);
            self.ids += block.len() as usize;
            self.bytes += block.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    fn ids(peaks: &Peaks, least: u64) -> Option<BTreeSet<u32>> {
        let mut ids = BTreeSet::new();
        for number in 0..4 {
            peaks.block(number, least)?.for_each(|id| {
                ids.insert(u32::from(number) << BLOCK_BITS | u32::from(id));
            });
        }
        Some(ids)
    }

    #[test]
    fn sets_hold_what_reaches_a_code_and_hardly_more_while_codes_change() {
        let mut rng = seeded();
        // The fewest have the same code of many, or many of few.
        for most in [1 << 40, 50] {
            let (mut peaks, mut order, mut model) = (Peaks::default(), Sorted::default(), BTreeMap::<u32, u64>::new());
            for round in 0..60_u64 {
                // Codes grow, and fall again.
                let scale = if round < 40 { round + 1 } else { 60 - round };
                let mut moved = Vec::new();
                for _ in 0..rng.random_range(1..400) {
                    let id = rng.random_range(0..3 << BLOCK_BITS) / 20 * 20;
                    let code = rng.random_range(0..most) * scale / 40;
                    if moved.iter().any(|((_, of), _): &(Coded, bool)| *of == id) {
                        continue;
                    }
                    match model.insert(id, code) {
                        Some(old) if old == code => {}
                        old => {
                            moved.extend(old.map(|old| ((old, id), false)));
                            moved.push(((code, id), true));
                        }
                    }
                }
                moved.sort_unstable();
                let before = peaks.clone();
                let held = ids(&before, most / 2);
                order.change(&moved);
                peaks.change(&moved, &order);
                assert_eq!(ids(&before, most / 2), held, "what was handed out stays as it was");
                let exact = |least: u64| -> BTreeSet<u32> {
                    model.iter().filter(|(_, code)| **code >= least).map(|(id, _)| *id).collect()
                };
                for level in &peaks.levels {
                    assert_eq!(ids(&peaks, level.floor), Some(exact(level.floor)));
                }
                let mut least = 0;
                while least <= most {
                    let exact = exact(least);
                    match ids(&peaks, least) {
                        Some(found) => {
                            assert!(found.is_superset(&exact), "{least}");
                            // Of codes that few have in common.
                            assert!(most == 50 || found.len() <= 5 * exact.len().max(LEAST), "{least}");
                        }
                        None => panic!("{least}"),
                    }
                    least = least * 5 / 4 + 1;
                }
                let bytes: usize = peaks.levels.iter().flat_map(|level| level.blocks.iter()).map(Ids::bytes).sum();
                assert!(peaks.bytes() >= bytes as u64);
            }
        }
    }
}
