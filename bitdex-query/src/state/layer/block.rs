//! The ids of one block that a layer changes in one set.

use std::sync::Arc;

use crate::segment::{
    kept::Kept,
    sets::{Block, WORDS},
};

/// What came into, and went out of, the set of one term, in one block. No id is in both.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockDelta {
    pub(crate) added: BlockSet,
    pub(crate) removed: BlockSet,
    /// The block with this and all layers below, where it was asked for. What those say of it never changes as long as
    /// they lie below.
    pub(crate) merged: Kept,
}

impl BlockDelta {
    /// Ids that come in, and ids that go out; both ascend.
    pub(super) fn change(&mut self, put: &[u16], taken: &[u16]) {
        self.merged.clear();
        self.added.insert(put);
        self.removed.remove(put);
        self.removed.insert(taken);
        self.added.remove(taken);
    }

    /// Of heap.
    pub(super) fn bytes(&self) -> usize {
        self.added.bytes() + self.removed.bytes()
    }
}

/// Ids that stand in the value itself.
const FEW: usize = 7;
/// Ids above which a block is kept as bits, if it is mostly gone through.
const MANY: usize = 4096;

/// A block that is owned. `MANY`: ids above which it is kept as bits.
#[derive(Debug, Clone, Default)]
pub(crate) enum BlockSet<const MANY: usize = { self::MANY }> {
    #[default]
    Empty,
    /// Ascending; the number tells how many of them.
    Few(u8, [u16; FEW]),
    /// Ascending.
    Array(Arc<[u16]>),
    /// With their number.
    Bits(u32, Arc<[u64; WORDS]>),
}

impl<const MANY: usize> From<Vec<u16>> for BlockSet<MANY> {
    /// The ids ascend.
    fn from(ids: Vec<u16>) -> Self {
        match ids.len() {
            0 => Self::Empty,
            length @ 1..=FEW => {
                let mut few = [0; FEW];
                few[..length].copy_from_slice(&ids);
                Self::Few(length as u8, few)
            }
            length if length <= MANY => Self::Array(ids.into()),
            length => Self::Bits(length as u32, Arc::new(bits(&ids))),
        }
    }
}

fn bits(ids: &[u16]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    ids.iter().for_each(|id| words[usize::from(id >> 6)] |= 1 << (id & 63));
    words
}

impl<const MANY: usize> BlockSet<MANY> {
    /// Puts in ids; they ascend.
    pub(super) fn insert(&mut self, ids: &[u16]) {
        if ids.is_empty() {
            return;
        }
        match self {
            Self::Empty => *self = ids.to_vec().into(),
            Self::Bits(count, words) => {
                let words = Arc::make_mut(words);
                for id in ids {
                    let (word, bit) = (&mut words[usize::from(id >> 6)], 1 << (id & 63));
                    *count += u32::from(*word & bit == 0);
                    *word |= bit;
                }
            }
            Self::Few(..) | Self::Array(_) => {
                let held = self.ids();
                // What comes is mostly greater than what is there.
                let merged = if held.last() < ids.first() { [held, ids].concat() } else { union(held, ids) };
                *self = merged.into();
            }
        }
    }

    /// Takes out ids; they ascend.
    pub(super) fn remove(&mut self, ids: &[u16]) {
        if ids.is_empty() {
            return;
        }
        match self {
            Self::Empty => {}
            Self::Few(..) | Self::Array(_) => {
                let held = self.ids();
                if held.iter().any(|id| ids.binary_search(id).is_ok()) {
                    let kept: Vec<u16> = held.iter().filter(|id| ids.binary_search(id).is_err()).copied().collect();
                    *self = kept.into();
                }
            }
            Self::Bits(count, words) => {
                let words = Arc::make_mut(words);
                for id in ids {
                    let (word, bit) = (&mut words[usize::from(id >> 6)], 1 << (id & 63));
                    *count -= u32::from(*word & bit != 0);
                    *word &= !bit;
                }
                // Back to an array well below where bits begin, so that nothing goes to and fro.
                if *count as usize <= MANY / 2 {
                    let is_in = |id: &u16| words[usize::from(id >> 6)] >> (id & 63) & 1 == 1;
                    *self = (0..=u16::MAX).filter(is_in).collect::<Vec<_>>().into();
                }
            }
        }
    }

    /// None of bits.
    fn ids(&self) -> &[u16] {
        match self {
            Self::Empty | Self::Bits(..) => &[],
            Self::Few(length, ids) => &ids[..usize::from(*length)],
            Self::Array(ids) => ids,
        }
    }

    /// Of heap.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Empty | Self::Few(..) => 0,
            Self::Array(ids) => 2 * ids.len() + 16,
            Self::Bits(..) => 8 * WORDS + 16,
        }
    }

    pub(crate) fn as_block(&self) -> Block<'_> {
        match self {
            Self::Empty => Block::Empty,
            Self::Few(..) | Self::Array(_) => Block::Array(self.ids()),
            Self::Bits(_, words) => Block::Bits(words),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Bits(count, _) => *count,
            few => few.ids().len() as u32,
        }
    }
}

/// Both ascend.
fn union(one: &[u16], other: &[u16]) -> Vec<u16> {
    let mut all = Vec::with_capacity(one.len() + other.len());
    all.extend_from_slice(one);
    all.extend_from_slice(other);
    // Two runs, which a stable sort merges.
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    fn ids(set: &BlockSet) -> BTreeSet<u16> {
        match set.as_block() {
            Block::Empty => BTreeSet::new(),
            Block::Array(ids) => ids.iter().copied().collect(),
            Block::Bits(words) => {
                (0..=u16::MAX).filter(|id| words[usize::from(id >> 6)] >> (id & 63) & 1 == 1).collect()
            }
        }
    }

    #[test]
    fn ids_come_and_go_in_every_form() {
        let mut rng = seeded();
        let (mut delta, mut added, mut removed) = (BlockDelta::default(), BTreeSet::new(), BTreeSet::new());
        for round in 0..200 {
            let most = [3, 20, 3_000, 10_000][rng.random_range(0..4)];
            let mut some = |n: usize| (0..rng.random_range(0..=n)).map(|_| rng.random()).collect::<BTreeSet<u16>>();
            let (put, mut taken) =
                if round % 50 < 25 { (some(most), some(most / 4)) } else { (some(most / 4), some(most)) };
            taken.retain(|id| !put.contains(id));
            let list = |ids: &BTreeSet<u16>| ids.iter().copied().collect::<Vec<_>>();
            delta.change(&list(&put), &list(&taken));
            added.extend(put.iter().copied());
            removed.extend(taken.iter().copied());
            added.retain(|id| !taken.contains(id));
            removed.retain(|id| !put.contains(id));
            assert_eq!(ids(&delta.added), added);
            assert_eq!(ids(&delta.removed), removed);
            assert_eq!(delta.added.len() as usize, added.len());
            assert_eq!(delta.removed.len() as usize, removed.len());
        }
    }
}
