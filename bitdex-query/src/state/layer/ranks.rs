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
pub(crate) type Rank = (u64, u32);

impl RankChunk {
    fn with_capacity(ids: usize) -> Self {
        Self { codes: Vec::with_capacity(ids), ids: Vec::with_capacity(ids) }
    }

    fn rank(&self, at: usize) -> Rank {
        (self.codes[at], self.ids[at])
    }

    fn push(&mut self, (code, id): Rank) {
        self.codes.push(code);
        self.ids.push(id);
    }

    fn extend(&mut self, from: &Self, range: std::ops::Range<usize>) {
        self.codes.extend_from_slice(&from.codes[range.clone()]);
        self.ids.extend_from_slice(&from.ids[range]);
    }
}

impl Chunk for RankChunk {
    type Key = Rank;
    /// Whether it is there.
    type Change<'c> = (Rank, bool);

    fn keys(&self) -> usize {
        self.ids.len()
    }

    fn first(&self) -> Rank {
        self.rank(0)
    }

    fn search(&self, (code, id): &Rank) -> Result<usize, usize> {
        let from = self.codes.partition_point(|of| of < code);
        let to = from + self.codes[from..].partition_point(|of| of == code);
        self.ids[from..to].binary_search(id).map(|at| from + at).map_err(|at| from + at)
    }

    fn key_of((rank, _): &(Rank, bool)) -> &Rank {
        rank
    }

    fn merge(old: Option<&Self>, changes: &[(Rank, bool)], out: &mut Vec<Self>) {
        let mut merged = Self::with_capacity(old.map_or(0, Self::keys) + changes.len());
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
        if (1..=IDS).contains(&merged.keys()) {
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
    pub(crate) fn order(&self, bounds: impl RangeBounds<Rank>) -> Order<'_> {
        Order(self.range(bounds.start_bound(), bounds.end_bound()))
    }

    /// A code that about this many ids reach, if there are more.
    pub(crate) fn reached_by(&self, ids: usize) -> Option<u64> {
        if self.len() <= ids {
            return None;
        }
        let mut order = Order(self.last(ids));
        let (least, _) = order.next()?;
        let (most, _) = order.next_back()?;
        // Any number of others may have the least.
        Some(if least < most { least + 1 } else { least })
    }
}

/// Codes and ids, ascending.
#[derive(Debug, Clone)]
pub(crate) struct Order<'s>(Range<'s, RankChunk>);

impl<'s> Order<'s> {
    /// How many there are, about.
    pub(crate) fn about(&self) -> usize {
        self.0.about()
    }

    /// The ids alone, some at a time.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &'s [u32]> + use<'s> {
        self.0.chunks().filter_map(|(chunk, range)| chunk.ids.get(range))
    }
}

impl Iterator for Order<'_> {
    type Item = Rank;

    fn next(&mut self) -> Option<Rank> {
        self.0.next().map(|(chunk, at)| chunk.rank(at))
    }

    fn fold<B, F: FnMut(B, Rank) -> B>(self, init: B, mut each: F) -> B {
        self.0.fold(init, |folded, (chunk, at)| each(folded, chunk.rank(at)))
    }
}

impl DoubleEndedIterator for Order<'_> {
    fn next_back(&mut self) -> Option<Rank> {
        self.0.next_back().map(|(chunk, at)| chunk.rank(at))
    }
}
