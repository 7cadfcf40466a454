//! Ids in the order of their codes. Codes and ids lie side by side: whoever wants the ids alone reads no codes.

use std::ops::RangeBounds;

use crate::{
    mapping::ahead::fetch_all,
    state::sorted::{Chunk, Range, Sorted, even},
};

/// Ids of a chunk, at most.
const IDS: usize = 128;

/// Some ids that follow one another.
#[derive(Debug)]
pub(crate) struct RankChunk {
    codes: Vec<u64>,
    ids: Vec<u32>,
}

/// Code and id.
pub(crate) type Coded = (u64, u32);

impl RankChunk {
    fn with_capacity(ids: usize) -> Self {
        Self { codes: Vec::with_capacity(ids), ids: Vec::with_capacity(ids) }
    }

    fn rank(&self, at: usize) -> Coded {
        (self.codes[at], self.ids[at])
    }

    fn push(&mut self, (code, id): Coded) {
        self.codes.push(code);
        self.ids.push(id);
    }

    fn extend(&mut self, from: &Self, range: std::ops::Range<usize>) {
        self.codes.extend_from_slice(&from.codes[range.clone()]);
        self.ids.extend_from_slice(&from.ids[range]);
    }
}

impl Chunk for RankChunk {
    type Key = Coded;
    /// Whether it is there.
    type Change<'c> = (Coded, bool);

    fn keys(&self) -> usize {
        self.ids.len()
    }

    fn first(&self) -> Coded {
        self.rank(0)
    }

    fn search(&self, (code, id): &Coded) -> Result<usize, usize> {
        let from = self.codes.partition_point(|of| of < code);
        let to = from + self.codes[from..].partition_point(|of| of == code);
        self.ids[from..to].binary_search(id).map(|at| from + at).map_err(|at| from + at)
    }

    fn key_of((rank, _): &(Coded, bool)) -> &Coded {
        rank
    }

    fn merge(old: Option<&Self>, changes: &[(Coded, bool)], out: &mut Vec<Self>) {
        let mut merged = Self::with_capacity(old.map_or(0, Self::keys) + changes.len());
        debug_assert!(changes.is_sorted_by(|(a, _), (b, _)| a < b), "each of another key, ascending");
        let mut at = 0;
        for (rank, present) in changes {
            if let Some(old) = old {
                let found = old.search(rank);
                let (Ok(before) | Err(before)) = found;
                merged.extend(old, at..before);
                at = before + usize::from(found.is_ok());
            }
            if *present {
                merged.push(*rank);
            }
        }
        if let Some(old) = old {
            merged.extend(old, at..old.keys());
        }
        // Changes may be many that take out what is not there.
        if (1..=IDS).contains(&merged.keys()) && merged.ids.capacity() <= 2 * IDS {
            out.push(merged);
            return;
        }
        let each = even(merged.keys(), IDS);
        for from in (0..merged.keys()).step_by(each) {
            let range = from..(from + each).min(merged.keys());
            let mut piece = Self::with_capacity(range.len());
            piece.extend(&merged, range);
            out.push(piece);
        }
    }

    fn fetch(&self) {
        fetch_all(&self.ids);
    }

    fn bytes(&self) -> usize {
        self.codes.capacity() * size_of::<u64>() + self.ids.capacity() * size_of::<u32>()
    }
}

impl Sorted<RankChunk> {
    /// Within bounds.
    pub(crate) fn order(&self, bounds: impl RangeBounds<Coded>) -> Order<'_> {
        Order(self.range(bounds.start_bound(), bounds.end_bound()))
    }

    /// A code that about this many ids reach, if there are more.
    pub(crate) fn reached_by(&self, ids: usize) -> Option<u64> {
        if self.len() <= ids {
            return None;
        }
        let mut order = Order(self.last(ids));
        let (least, _) = order.next()?;
        let most = order.next_back().map_or(least, |(most, _)| most);
        // Any number of others may have the least.
        Some(if least < most { least + 1 } else { least })
    }
}

/// Codes and ids, ascending.
#[derive(Debug, Clone)]
pub(crate) struct Order<'s>(Range<'s, RankChunk>);

impl Order<'_> {
    /// How many there are, about.
    pub(crate) fn about(&self) -> usize {
        self.0.about()
    }
}

impl Iterator for Order<'_> {
    type Item = Coded;

    fn next(&mut self) -> Option<Coded> {
        self.0.next().map(|(chunk, at)| chunk.rank(at))
    }
}

impl DoubleEndedIterator for Order<'_> {
    fn next_back(&mut self) -> Option<Coded> {
        self.0.next_back().map(|(chunk, at)| chunk.rank(at))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::RngExt as _;

    use super::*;
    use crate::testing::seeded;

    #[test]
    fn changes_equal_a_plain_set_and_leave_clones_as_they_were() {
        let mut rng = seeded();
        for _ in 0..10 {
            let (mut ranks, mut model) = (Sorted::<RankChunk>::default(), BTreeSet::new());
            let mut clones: Vec<(Sorted<RankChunk>, BTreeSet<Coded>)> = Vec::new();
            for _ in 0..20 {
                // Few codes, so that many ids share one.
                let codes = [1, 5, 100_000][rng.random_range(0..3)];
                let away = [0.1, 0.6, 1.0][rng.random_range(0..3)];
                let mut changes: Vec<(Coded, bool)> = (0..rng.random_range(0..800))
                    .map(|_| {
                        let rank = (rng.random_range(0..codes), rng.random_range(0..2_000));
                        (rank, !rng.random_bool(away))
                    })
                    .collect();
                changes.sort_unstable();
                changes.dedup_by_key(|(rank, _)| *rank);
                for (rank, present) in &changes {
                    if *present {
                        model.insert(*rank)
                    } else {
                        model.remove(rank)
                    };
                }
                ranks.change(&changes);
                clones.push((ranks.clone(), model.clone()));
            }
            for (ranks, model) in clones {
                let from = (rng.random_range(0..6), rng.random_range(0..2_000));
                let wanted: Vec<Coded> = model.range(from..).copied().collect();
                assert_eq!(ranks.order(from..).collect::<Vec<_>>(), wanted);
                let before: Vec<Coded> = model.range(..=from).rev().copied().collect();
                assert_eq!(ranks.order(..=from).rev().collect::<Vec<_>>(), before);
                assert_eq!(ranks.len(), model.len());
                let few = rng.random_range(0..50);
                assert_eq!(ranks.reached_by(few).is_some(), model.len() > few && few > 0, "{few} of {}", model.len());
            }
        }
    }
}
