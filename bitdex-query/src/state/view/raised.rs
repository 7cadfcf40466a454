//! The ids that layers in memory raise to the greatest codes, by block: so that whoever looks for these need not look at
//! all that the layers say.

use super::ColumnView;
use crate::{log::Result, segment::BLOCK_BITS};

/// See [`ColumnView::raised`].
#[derive(Debug)]
pub(crate) struct Raised {
    floor: u64,
    /// By number of the block, where its ids end.
    ends: Vec<usize>,
    /// Block after block, in no order.
    ids: Vec<u16>,
}

impl ColumnView<'_> {
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
        let each_id = |each: &mut dyn FnMut(u32)| {
            layers().for_each(|layer| {
                layer.order((floor, 0)..).for_each(|(_, id)| each(id));
            })
        };
        let mut ends: Vec<usize> = Vec::new();
        each_id(&mut |id| {
            let number = (id >> BLOCK_BITS) as usize;
            if number >= ends.len() {
                ends.resize(number + 1, 0);
            }
            if let Some(count) = ends.get_mut(number) {
                *count += 1;
            }
        });
        let mut all = 0;
        for count in &mut ends {
            // Moved to the end as ids are put in.
            (all, *count) = (all + *count, all);
        }
        let mut placed = vec![0; all];
        each_id(&mut |id| {
            if let Some(end) = ends.get_mut((id >> BLOCK_BITS) as usize)
                && let Some(place) = placed.get_mut(*end)
            {
                *place = id as u16;
                *end += 1;
            }
        });
        Ok(Raised { floor, ends, ids: placed })
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
        from.zip(to).and_then(|(from, to)| self.ids.get(from..to)).unwrap_or_default()
    }
}
