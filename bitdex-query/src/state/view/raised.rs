//! The ids that layers in memory raise to the greatest codes, by block: so that whoever looks for these need not look at
//! all that the layers say.

use std::cell::Cell;

use super::ColumnView;
use crate::{
    log::Result,
    segment::{BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS},
};

thread_local! {
    /// Room for ids, which the last query of this thread left.
    static ROOM: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Ids for which room is kept.
const KEPT: usize = 1 << 18;

/// See [`ColumnView::raised`].
#[derive(Debug)]
pub(crate) struct Raised {
    floor: u64,
    /// By number of the block, where its ids end.
    ends: Vec<u32>,
    /// Block after block, in no order.
    ids: Vec<u16>,
}

impl ColumnView<'_> {
    /// How many ids [`ColumnView::raised`] goes through, about.
    pub(crate) fn raised_about(&self, floor: u64, most: usize) -> usize {
        let in_memory = [self.frozen, self.active].into_iter().flatten();
        in_memory.map(|layer| layer.order((floor, 0)..).about().min(most)).sum()
    }

    /// The ids that layers in memory raise to `floor` or a greater code, where that is not too many: the floor is raised
    /// until no layer above the base has more than about `most`. A newer layer may say something else of them.
    pub(crate) fn raised(&self, mut floor: u64, most: usize) -> Result<Raised> {
        if let Some(checkpoint) = self.checkpoint
            && let Some(rank) = checkpoint.values().checked_sub(most.max(1)).filter(|rank| *rank > 0)
        {
            floor = floor.max(checkpoint.ranked(rank)?.0);
        }
        let layers = || [self.frozen, self.active].into_iter().flatten();
        for layer in layers() {
            floor = floor.max(layer.reached_by(most).unwrap_or(0));
        }
        // The layer is gone through once: its entries lie in many places.
        let mut found = ROOM.take();
        layers().for_each(|layer| layer.order((floor, 0)..).ids().for_each(|ids| found.extend_from_slice(ids)));
        let last = self.files.segments().last().map_or(0, |segment| segment.number() << (SEGMENT_BITS - BLOCK_BITS));
        let mut ends: Vec<u32> = vec![0; last as usize + usize::from(BLOCKS_PER_SEGMENT)];
        for id in &found {
            let number = (id >> BLOCK_BITS) as usize;
            match ends.get_mut(number) {
                Some(count) => *count += 1,
                None => {
                    ends.resize(number, 0);
                    ends.push(1);
                }
            }
        }
        let mut all = 0;
        for count in &mut ends {
            // Moved to the end as ids are put in.
            (all, *count) = (all + *count, all);
        }
        let mut ids = vec![0; found.len()];
        for id in &found {
            if let Some(end) = ends.get_mut((id >> BLOCK_BITS) as usize)
                && let Some(place) = ids.get_mut(*end as usize)
            {
                *place = *id as u16;
                *end += 1;
            }
        }
        found.clear();
        found.shrink_to(KEPT);
        ROOM.set(found);
        Ok(Raised { floor, ends, ids })
    }
}

impl Raised {
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// In no order, some perhaps twice.
    pub(crate) fn block(&self, number: u16) -> &[u16] {
        let number = usize::from(number);
        let from = number.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied());
        let to = self.ends.get(number).copied();
        from.zip(to).and_then(|(from, to)| self.ids.get(from as usize..to as usize)).unwrap_or_default()
    }
}
