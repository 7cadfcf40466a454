//! A set of ids of one block that is being made.

use crate::{
    log::Result,
    segment::{
        lanes::{LANES, LaneWords, lane_of},
        sets::{Block, BlockBuffer, WORDS},
    },
};

const LANE_WORDS: usize = WORDS / LANES;

/// A result with at most this many ids is kept as an array: testing them one by one is then the cheapest.
pub(super) const SPARSE: u32 = 512;

/// Owns its room, and keeps it from block to block.
#[derive(Debug, Clone, Default)]
pub(super) struct Set(BlockBuffer);

impl Set {
    pub(super) fn as_block(&self) -> Block<'_> {
        self.0.block()
    }

    /// May be false for a set without ids.
    pub(super) fn is_empty(&self) -> bool {
        matches!(self.as_block(), Block::Empty)
    }

    pub(super) fn is_sparse(&self) -> bool {
        !matches!(self.as_block(), Block::Bits(_))
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[inline]
    pub(super) fn contains(&self, id: u16) -> bool {
        self.as_block().contains(id)
    }

    pub(super) fn len(&self) -> u32 {
        self.as_block().len()
    }

    pub(super) fn and(&mut self, block: Block<'_>) {
        self.0.and(block);
    }

    pub(super) fn and_not(&mut self, block: Block<'_>) {
        self.0.and_not(block);
    }

    pub(super) fn or(&mut self, block: Block<'_>) {
        self.0.or_all([block]);
    }

    pub(super) fn insert(&mut self, id: u16) {
        self.0.insert(id);
    }

    /// Puts an id in, or takes it out.
    pub(super) fn put(&mut self, id: u16, within: bool) {
        if within {
            self.0.insert(id);
        } else {
            self.0.remove(id);
        }
    }

    /// Keeps what is in any of `blocks`.
    pub(super) fn and_any(&mut self, blocks: &[Block<'_>]) {
        self.0.and_any(blocks);
    }

    /// Adds ids, and makes words of the set.
    pub(super) fn or_words(&mut self, block: Block<'_>) {
        self.0.bits();
        self.0.or(block);
    }

    /// `None` where it is no set of words.
    pub(super) fn as_words(&self) -> Option<&[u64; WORDS]> {
        match self.as_block() {
            Block::Bits(words) => Some(words),
            _ => None,
        }
    }

    /// Its words, to be changed in place.
    pub(super) fn words(&mut self) -> &mut [u64; WORDS] {
        self.0.bits()
    }

    /// Its ids of the n-th lane.
    pub(super) fn lane(&self, n: usize) -> LaneWords {
        match self.as_block() {
            Block::Empty => [0; LANE_WORDS],
            Block::Bits(words) => words.as_chunks().0.get(n).copied().unwrap_or_default(),
            Block::Array(ids) => {
                let mut words = [0; LANE_WORDS];
                let from = ids.partition_point(|id| lane_of(*id) < n);
                let ids = ids.get(from..).unwrap_or_default().iter().take_while(|id| lane_of(**id) == n);
                ids.for_each(|id| words[usize::from(id >> 6) % LANE_WORDS] |= 1 << (id & 63));
                words
            }
        }
    }

    /// The words of the n-th lane, to be changed in place.
    pub(super) fn lane_mut(&mut self, n: usize) -> &mut [u64] {
        self.words().get_mut(n * LANE_WORDS..(n + 1) * LANE_WORDS).unwrap_or_default()
    }

    /// Keeps those of few ids that `keep` lets through.
    pub(super) fn keep(&mut self, keep: impl Fn(u16) -> bool) {
        self.0.keep(keep);
    }

    /// Adds all ids from `first` to `last`.
    pub(super) fn or_range(&mut self, first: u16, last: u16) {
        if first > last {
            return;
        }
        let words = self.0.bits();
        let (from, to) = (usize::from(first >> 6), usize::from(last >> 6));
        let head = u64::MAX << (first & 63);
        let tail = u64::MAX >> (63 - (last & 63));
        if from == to {
            words[from] |= head & tail;
            return;
        }
        words[from] |= head;
        words[from + 1..to].fill(u64::MAX);
        words[to] |= tail;
    }

    /// Makes an array of few bits.
    pub(super) fn narrow(&mut self) {
        if !self.is_sparse() && self.len() <= SPARSE {
            self.0.shrink();
        }
    }

    /// Calls `each` with its ids from `first` to `last`, ascending.
    pub(super) fn each_within(&self, first: u16, last: u16, mut each: impl FnMut(u16) -> Result<()>) -> Result<()> {
        match self.as_block() {
            Block::Empty => Ok(()),
            Block::Array(ids) => {
                let from = ids.partition_point(|id| *id < first);
                let ids = ids.get(from..).unwrap_or_default().iter();
                ids.take_while(|id| **id <= last).try_for_each(|id| each(*id))
            }
            Block::Bits(words) => {
                for at in first >> 6..=last >> 6 {
                    let mut rest = words[usize::from(at)];
                    while rest != 0 {
                        let id = at << 6 | rest.trailing_zeros() as u16;
                        rest &= rest - 1;
                        if first <= id && id <= last {
                            each(id)?;
                        }
                    }
                }
                Ok(())
            }
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(u16) -> Result<bool>) -> Result<()> {
        if self.is_sparse() {
            let mut failed = None;
            let ids = if self.is_empty() { &mut Vec::new() } else { &mut self.0.ids };
            ids.retain(|id| match keep(*id) {
                Ok(keep) => keep,
                Err(error) => {
                    failed.get_or_insert(error);
                    false
                }
            });
            return failed.map_or(Ok(()), Err);
        }
        for (at, word) in self.0.words.iter_mut().enumerate() {
            let mut rest = *word;
            while rest != 0 {
                let bit = rest.trailing_zeros();
                rest &= rest - 1;
                if !keep((at as u32 * 64 + bit) as u16)? {
                    *word &= !(1 << bit);
                }
            }
        }
        Ok(())
    }
}

/// Calls `each` with the ids of a block, ascending or descending, until it answers false. Answers whether it never did.
pub(super) fn each_id<E>(
    block: Block<'_>,
    descending: bool,
    mut each: impl FnMut(u16) -> Result<bool, E>,
) -> Result<bool, E> {
    let mut ids = block.iter();
    while let Some(id) = if descending { ids.next_back() } else { ids.next() } {
        if !each(id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::testing::seeded;

    type Change<'a> = &'a dyn Fn(&mut Set);

    /// An owned block: empty, an array or bits, with runs and single ids.
    fn random_block(rng: &mut ChaCha8Rng) -> (BTreeSet<u16>, Set) {
        let mut ids = BTreeSet::new();
        let top = [64, 3000, u16::MAX][rng.random_range(0..3)];
        for _ in 0..[0, 1, 20, 3000][rng.random_range(0..4)] {
            ids.insert(rng.random_range(0..=top));
        }
        if rng.random() {
            let first = rng.random_range(0..=top);
            ids.extend(first..=first.saturating_add(rng.random_range(0..500)));
        }
        let mut set = Set::default();
        let array: Vec<u16> = ids.iter().copied().collect();
        if !array.is_empty() {
            set.or(Block::Array(&array));
        }
        if rng.random() {
            set.0.bits();
        }
        (ids, set)
    }

    fn ids(set: &Set, descending: bool) -> Vec<u16> {
        let mut ids = Vec::new();
        each_id(set.as_block(), descending, |id| {
            ids.push(id);
            Ok::<_, crate::log::Error>(true)
        })
        .unwrap();
        ids
    }

    #[test]
    fn combines_every_kind_with_every_other() {
        let mut rng = seeded();
        for _ in 0..500 {
            let ((a, one), (b, other)) = (random_block(&mut rng), random_block(&mut rng));
            let (c, third) = random_block(&mut rng);
            let (first, last) = (rng.random_range(0..=u16::MAX), rng.random_range(0..=u16::MAX));
            let results: [(Vec<u16>, Change<'_>); 7] = [
                (a.iter().copied().filter(|id| b.contains(id) || c.contains(id)).collect(), &|set| {
                    set.and_any(&[other.as_block(), third.as_block()]);
                }),
                (a.intersection(&b).copied().collect(), &|set| set.and(other.as_block())),
                (a.difference(&b).copied().collect(), &|set| set.and_not(other.as_block())),
                (a.union(&b).copied().collect(), &|set| set.or(other.as_block())),
                (a.iter().copied().chain(first..=last).collect::<BTreeSet<_>>().into_iter().collect(), &|set| {
                    set.or_range(first, last)
                }),
                (a.iter().copied().filter(|id| id % 3 > 0).collect(), &|set| {
                    set.retain(|id| Ok(id % 3 > 0)).unwrap();
                }),
                (a.iter().copied().collect(), &Set::narrow),
            ];
            for (expected, change) in results {
                let mut set = one.clone();
                change(&mut set);
                assert_eq!(ids(&set, false), expected);
                assert_eq!(set.len() as usize, expected.len());
                assert!(expected.is_empty() || !set.is_empty());
                let mut down = ids(&set, true);
                down.reverse();
                assert_eq!(down, expected);
                assert!(expected.iter().all(|id| set.contains(*id)));
                assert!(!set.contains(first) || expected.contains(&first));
                let mut within = Vec::new();
                set.each_within(first.min(last), first.max(last), |id| {
                    within.push(id);
                    Ok(())
                })
                .unwrap();
                let between = expected.iter().copied().filter(|id| (first.min(last)..=first.max(last)).contains(id));
                assert_eq!(within, between.collect::<Vec<_>>());
                let mut changed = set.clone();
                changed.put(first, true);
                changed.put(last, false);
                assert_eq!(changed.contains(first), first != last);
                assert!(!changed.contains(last));
            }
        }
    }
}
