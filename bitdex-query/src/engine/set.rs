//! A set of ids of one block that is being made.

use crate::{
    log::Result,
    segment::sets::{Block, BlockBuffer, WORDS},
};

/// A result with at most this many ids is kept as an array: testing them one by one is then the cheapest.
const SPARSE: usize = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    Empty,
    Array,
    Bits,
}

/// Owns its room, and keeps it from block to block.
#[derive(Debug, Clone, Default)]
pub(super) struct Set {
    buffer: BlockBuffer,
    kind: Kind,
}

impl Set {
    pub(super) fn as_block(&self) -> Block<'_> {
        match self.kind {
            Kind::Empty => Block::Empty,
            Kind::Array => Block::Array(&self.buffer.ids),
            Kind::Bits => Block::Bits(&self.buffer.words),
        }
    }

    /// May be false for a set without ids.
    pub(super) fn is_empty(&self) -> bool {
        self.kind == Kind::Empty
    }

    pub(super) fn is_sparse(&self) -> bool {
        self.kind != Kind::Bits
    }

    pub(super) fn clear(&mut self) {
        self.kind = Kind::Empty;
    }

    pub(super) fn contains(&self, id: u16) -> bool {
        self.as_block().contains(id)
    }

    pub(super) fn len(&self) -> u32 {
        match self.kind {
            Kind::Empty => 0,
            Kind::Array => self.buffer.ids.len() as u32,
            Kind::Bits => self.buffer.words.iter().map(|word| word.count_ones()).sum(),
        }
    }

    pub(super) fn assign(&mut self, block: Block<'_>) {
        match block {
            Block::Empty => self.kind = Kind::Empty,
            Block::Array(ids) => {
                self.buffer.ids.clear();
                self.buffer.ids.extend_from_slice(ids);
                self.kind = Kind::Array;
            }
            Block::Bits(words) => {
                *self.buffer.words = *words;
                self.kind = Kind::Bits;
            }
        }
    }

    pub(super) fn and(&mut self, block: Block<'_>) {
        match (self.kind, block) {
            (Kind::Empty, _) => {}
            (_, Block::Empty) => self.kind = Kind::Empty,
            (Kind::Array, Block::Array(ids)) => self.and_ids(ids),
            (Kind::Array, Block::Bits(words)) => {
                self.buffer.ids.retain(|id| has(words, *id));
                self.settle();
            }
            (Kind::Bits, Block::Array(ids)) => {
                let words = &self.buffer.words;
                self.buffer.ids.clear();
                self.buffer.ids.extend(ids.iter().filter(|id| has(words, **id)));
                self.kind = Kind::Array;
                self.settle();
            }
            (Kind::Bits, Block::Bits(words)) => {
                for (word, other) in self.buffer.words.iter_mut().zip(words) {
                    *word &= other;
                }
            }
        }
    }

    /// Both are arrays: steps over the longer one in jumps, or through both where they are of a size.
    fn and_ids(&mut self, other: &[u16]) {
        let own = &mut self.buffer.ids;
        if other.len() / 32 > own.len() {
            let mut rest = other;
            own.retain(|id| {
                let at = rest.partition_point(|it| it < id);
                rest = rest.get(at..).unwrap_or_default();
                rest.first() == Some(id)
            });
        } else {
            let mut rest = other.iter().copied().peekable();
            own.retain(|id| {
                while rest.next_if(|it| it < id).is_some() {}
                rest.peek() == Some(id)
            });
        }
        self.settle();
    }

    pub(super) fn and_not(&mut self, block: Block<'_>) {
        match (self.kind, block) {
            (Kind::Empty, _) | (_, Block::Empty) => {}
            (Kind::Array, Block::Array(ids)) => {
                if ids.len() / 32 > self.buffer.ids.len() {
                    self.buffer.ids.retain(|id| ids.binary_search(id).is_err());
                } else {
                    let mut rest = ids.iter().copied().peekable();
                    self.buffer.ids.retain(|id| {
                        while rest.next_if(|it| it < id).is_some() {}
                        rest.peek() != Some(id)
                    });
                }
                self.settle();
            }
            (Kind::Array, Block::Bits(words)) => {
                self.buffer.ids.retain(|id| !has(words, *id));
                self.settle();
            }
            (Kind::Bits, Block::Array(ids)) => {
                for id in ids {
                    self.buffer.words[usize::from(id >> 6)] &= !(1 << (id & 63));
                }
            }
            (Kind::Bits, Block::Bits(words)) => {
                for (word, other) in self.buffer.words.iter_mut().zip(words) {
                    *word &= !other;
                }
            }
        }
    }

    pub(super) fn or(&mut self, block: Block<'_>) {
        match (self.kind, block) {
            (_, Block::Empty) => {}
            (Kind::Empty, block) => self.assign(block),
            (_, block) => {
                self.widen();
                match block {
                    Block::Empty => {}
                    Block::Array(ids) => {
                        for id in ids {
                            self.buffer.words[usize::from(id >> 6)] |= 1 << (id & 63);
                        }
                    }
                    Block::Bits(words) => {
                        for (word, other) in self.buffer.words.iter_mut().zip(words) {
                            *word |= other;
                        }
                    }
                }
            }
        }
    }

    /// Adds all ids from `first` to `last`.
    pub(super) fn or_range(&mut self, first: u16, last: u16) {
        if first > last {
            return;
        }
        self.widen();
        let (from, to) = (usize::from(first >> 6), usize::from(last >> 6));
        let head = u64::MAX << (first & 63);
        let tail = u64::MAX >> (63 - (last & 63));
        if from == to {
            self.buffer.words[from] |= head & tail;
            return;
        }
        self.buffer.words[from] |= head;
        self.buffer.words[from + 1..to].fill(u64::MAX);
        self.buffer.words[to] |= tail;
    }

    fn widen(&mut self) {
        if self.kind == Kind::Bits {
            return;
        }
        self.buffer.words.fill(0);
        if self.kind == Kind::Array {
            for id in &self.buffer.ids {
                self.buffer.words[usize::from(id >> 6)] |= 1 << (id & 63);
            }
        }
        self.kind = Kind::Bits;
    }

    /// Makes an array of few bits.
    pub(super) fn narrow(&mut self) {
        if self.kind == Kind::Bits {
            let count = self.len() as usize;
            if count <= SPARSE {
                let Self { buffer, .. } = self;
                buffer.ids.clear();
                each_bit(&buffer.words, |id| buffer.ids.push(id));
                self.kind = Kind::Array;
            }
        }
        self.settle();
    }

    fn settle(&mut self) {
        if self.kind == Kind::Array && self.buffer.ids.is_empty() {
            self.kind = Kind::Empty;
        }
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(u16) -> Result<bool>) -> Result<()> {
        match self.kind {
            Kind::Empty => return Ok(()),
            Kind::Array => {
                let mut failed = None;
                self.buffer.ids.retain(|id| match keep(*id) {
                    Ok(keep) => keep,
                    Err(error) => {
                        failed.get_or_insert(error);
                        false
                    }
                });
                if let Some(error) = failed {
                    return Err(error);
                }
            }
            Kind::Bits => {
                for (at, word) in self.buffer.words.iter_mut().enumerate() {
                    let mut rest = *word;
                    while rest != 0 {
                        let bit = rest.trailing_zeros();
                        rest &= rest - 1;
                        if !keep((at as u32 * 64 + bit) as u16)? {
                            *word &= !(1 << bit);
                        }
                    }
                }
            }
        }
        self.settle();
        Ok(())
    }
}

fn has(words: &[u64; WORDS], id: u16) -> bool {
    words[usize::from(id >> 6)] >> (id & 63) & 1 == 1
}

fn each_bit(words: &[u64; WORDS], mut each: impl FnMut(u16)) {
    for (at, word) in words.iter().enumerate() {
        let mut rest = *word;
        while rest != 0 {
            each((at as u32 * 64 + rest.trailing_zeros()) as u16);
            rest &= rest - 1;
        }
    }
}

/// Calls `each` with the ids of a block, ascending or descending, until it answers false. Answers whether it never did.
pub(super) fn each_id<E>(
    block: Block<'_>,
    descending: bool,
    mut each: impl FnMut(u16) -> Result<bool, E>,
) -> Result<bool, E> {
    match block {
        Block::Empty => {}
        Block::Array(ids) if descending => {
            for id in ids.iter().rev() {
                if !each(*id)? {
                    return Ok(false);
                }
            }
        }
        Block::Array(ids) => {
            for id in ids {
                if !each(*id)? {
                    return Ok(false);
                }
            }
        }
        Block::Bits(words) if descending => {
            for (at, word) in words.iter().enumerate().rev() {
                let mut rest = *word;
                while rest != 0 {
                    let bit = 63 - rest.leading_zeros();
                    rest &= !(1 << bit);
                    if !each((at as u32 * 64 + bit) as u16)? {
                        return Ok(false);
                    }
                }
            }
        }
        Block::Bits(words) => {
            for (at, word) in words.iter().enumerate() {
                let mut rest = *word;
                while rest != 0 {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    if !each((at as u32 * 64 + bit) as u16)? {
                        return Ok(false);
                    }
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::{RngExt as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    use super::*;

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
            set.assign(Block::Array(&array));
        }
        if rng.random() {
            set.widen();
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
        let seed = std::env::var("BITDEX_TEST_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
        println!("BITDEX_TEST_SEED={seed}");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..3000 {
            let ((a, one), (b, other)) = (random_block(&mut rng), random_block(&mut rng));
            let (first, last) = (rng.random_range(0..=u16::MAX), rng.random_range(0..=u16::MAX));
            let results: [(Vec<u16>, &dyn Fn(&mut Set)); 6] = [
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
            }
        }
    }
}
