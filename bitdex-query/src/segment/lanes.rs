//! What a layer says of the codes of some ids of a block, lane by lane: whether it speaks of an id, and where its code
//! stands, is found in one step, however many there are; bounds tell of a whole lane whether its codes matter. Those of
//! all lanes of a block stand side by side: most searches need no more of most lanes.

use super::BLOCK_BITS;
use crate::mapping::ahead::fetch;

/// Ids of a lane.
pub const LANE: usize = 1024;
/// Lanes of a block.
pub const LANES: usize = (1 << BLOCK_BITS) / LANE;
const WORDS: usize = LANE / 64;

/// The ids of a lane, a bit for each.
pub type LaneWords = [u64; WORDS];

/// Of the codes of the ids of a lane; they stand elsewhere, one for each id that is spoken of, ascending by id.
#[derive(Debug, Clone)]
pub struct Lane {
    said: LaneWords,
    /// Those that have no code; where theirs would stand is any number.
    codeless: LaneWords,
    /// How many are spoken of before each word.
    before: [u16; WORDS],
}

/// Bounds of the codes of each lane of a block.
#[derive(Debug, Clone)]
pub struct LaneBounds {
    /// The greater one where a lane has no codes.
    min: [u64; LANES],
    max: [u64; LANES],
    /// Of the whole block.
    all: (u64, u64),
}

impl LaneBounds {
    pub const NOTHING: Self = Self { min: [u64::MAX; LANES], max: [0; LANES], all: (u64::MAX, 0) };

    /// The least code of the n-th lane and the greatest; `None`: it has none.
    #[inline]
    pub fn of(&self, n: usize) -> Option<(u64, u64)> {
        let (min, max) = (*self.min.get(n)?, *self.max.get(n)?);
        (min <= max).then_some((min, max))
    }

    /// Those of the whole block.
    #[inline]
    pub fn all(&self) -> Option<(u64, u64)> {
        (self.all.0 <= self.all.1).then_some(self.all)
    }

    /// The lanes that have a code of `least` or greater.
    pub fn reaching(&self, least: u64) -> impl Iterator<Item = usize> {
        let lanes = self.min.iter().zip(&self.max).enumerate();
        lanes.filter(move |(_, (min, max))| **max >= least && min <= max).map(|(n, _)| n)
    }

    pub fn set(&mut self, n: usize, bounds: Option<(u64, u64)>) {
        if let (Some(min), Some(max)) = (self.min.get_mut(n), self.max.get_mut(n)) {
            (*min, *max) = bounds.unwrap_or((u64::MAX, 0));
        }
        let least = self.min.iter().fold(u64::MAX, |least, min| least.min(*min));
        let most = self.max.iter().fold(0, |most, max| most.max(*max));
        self.all = (least, most);
    }
}

/// The lane of an id, which is within its block.
#[inline]
pub fn lane_of(id: u16) -> usize {
    usize::from(id) / LANE
}

#[inline]
fn place(id: u16) -> (usize, u64) {
    (usize::from(id) / 64 % WORDS, 1 << (id & 63))
}

impl Lane {
    pub const NOTHING: Self = Self { said: [0; WORDS], codeless: [0; WORDS], before: [0; WORDS] };

    /// Speaks of this id, too, or says something else of it; counts are wrong until [`Lane::count`].
    fn say(&mut self, id: u16, has_code: bool) {
        let (n, bit) = place(id);
        self.said[n] |= bit;
        match has_code {
            true => self.codeless[n] &= !bit,
            false => self.codeless[n] |= bit,
        }
    }

    /// Makes counts right.
    fn count(&mut self) {
        let mut sum = 0_u16;
        for (before, said) in self.before.iter_mut().zip(&self.said) {
            *before = sum;
            sum += said.count_ones() as u16;
        }
    }

    /// Of entries of one lane, ascending by id; the codes go behind those in `codes`.
    pub fn of(entries: &[(u16, Option<u64>)], codes: &mut Vec<u64>) -> Self {
        let mut lane = Self::NOTHING;
        for (id, code) in entries {
            lane.say(*id, code.is_some());
            codes.push(code.unwrap_or_default());
        }
        lane.count();
        lane
    }

    /// With `entries`, which ascend by id, put before what `codes` says. Answers with all codes.
    pub fn with(&self, codes: &[u64], entries: &[(u16, Option<u64>)]) -> (Self, Vec<u64>) {
        let mut lane = self.clone();
        let mut all = Vec::with_capacity(codes.len() + entries.len());
        let mut taken = 0;
        for (id, code) in entries {
            let (rank, is_said) = self.rank(*id);
            all.extend_from_slice(codes.get(taken..rank).unwrap_or_default());
            all.push(code.unwrap_or_default());
            taken = rank + usize::from(is_said);
            lane.say(*id, code.is_some());
        }
        all.extend_from_slice(codes.get(taken..).unwrap_or_default());
        lane.count();
        (lane, all)
    }

    /// How many ids are spoken of before this one, and whether it is.
    #[inline]
    fn rank(&self, id: u16) -> (usize, bool) {
        let (n, bit) = place(id);
        let before = usize::from(self.before[n]) + (self.said[n] & (bit - 1)).count_ones() as usize;
        (before, self.said[n] & bit != 0)
    }

    /// Where an id stands among those that are spoken of.
    #[inline]
    pub fn find(&self, id: u16) -> Option<usize> {
        let (rank, is_said) = self.rank(id);
        is_said.then_some(rank)
    }

    /// Asks for what tells whether an id is spoken of.
    #[inline]
    pub fn fetch(&self, id: u16) {
        fetch(&self.said[place(id).0]);
    }

    /// The same, and for what tells where its code stands.
    #[inline]
    pub fn fetch_place(&self, id: u16) {
        self.fetch(id);
        fetch(&self.before[place(id).0]);
    }

    #[inline]
    pub fn says(&self, id: u16) -> bool {
        let (n, bit) = place(id);
        self.said[n] & bit != 0
    }

    /// How many ids are spoken of.
    pub fn ids(&self) -> usize {
        usize::from(self.before[WORDS - 1]) + self.said[WORDS - 1].count_ones() as usize
    }
}

/// A lane with its codes.
#[derive(Debug, Clone, Copy)]
pub struct LaneCodes<'a> {
    pub lane: &'a Lane,
    pub codes: &'a [u64],
}

impl<'a> LaneCodes<'a> {
    /// The least code and the greatest, found by a look at all.
    pub fn bounds(self) -> Option<(u64, u64)> {
        let all = self.codes.get(..self.lane.ids()).unwrap_or_default();
        if self.lane.codeless == [0; WORDS] {
            return Some((*all.iter().min()?, *all.iter().max()?));
        }
        let mut bounds: Option<(u64, u64)> = None;
        self.each(|_, code| {
            if let Some(code) = code {
                let (min, max) = bounds.unwrap_or((code, code));
                bounds = Some((min.min(code), max.max(code)));
            }
        });
        bounds
    }

    /// What is said of an id of the block; `None`: nothing.
    #[inline]
    pub fn get(self, id: u16) -> Option<Option<u64>> {
        let (n, bit) = place(id);
        if self.lane.said[n] & bit == 0 {
            return None;
        }
        if self.lane.codeless[n] & bit != 0 {
            return Some(None);
        }
        let (rank, _) = self.lane.rank(id);
        Some(self.codes.get(rank).copied())
    }

    /// Asks for the code of an id that is spoken of.
    #[inline]
    pub fn fetch(self, id: u16) {
        self.lane.find(id).and_then(|place| self.codes.get(place)).into_iter().for_each(fetch);
    }

    /// The ids that are spoken of, and those of them that have a code.
    pub fn words(self) -> (&'a LaneWords, LaneWords) {
        (&self.lane.said, std::array::from_fn(|n| self.lane.said[n] & !self.lane.codeless[n]))
    }

    /// Adds the ids whose codes are `least` or greater. `ids`: the words of the lane.
    pub fn add_from(self, least: u64, ids: &mut [u64]) {
        for (n, ids) in ids.iter_mut().enumerate().take(WORDS) {
            let first = usize::from(self.lane.before[n]);
            let (mut left, mut found) = (self.lane.said[n], 0);
            for code in self.codes.get(first..).unwrap_or_default().iter().take(left.count_ones() as usize) {
                let bit = left & left.wrapping_neg();
                left ^= bit;
                found |= if *code >= least { bit } else { 0 };
            }
            *ids |= found & !self.lane.codeless[n];
        }
    }

    /// Ascending by id, which is within the lane.
    pub fn each(self, mut each: impl FnMut(u16, Option<u64>)) {
        let mut codes = self.codes.iter();
        for (n, (said, codeless)) in (0_u16..).zip(self.lane.said.iter().zip(&self.lane.codeless)) {
            let mut left = *said;
            while left != 0 {
                let bit = left & left.wrapping_neg();
                left ^= bit;
                let code = codes.next().copied().filter(|_| codeless & bit == 0);
                each((n * 64) | bit.trailing_zeros() as u16, code);
            }
        }
    }

    /// As [`LaneCodes::each`], of those alone that are in `of` too.
    pub fn each_of<E>(self, of: &LaneWords, mut each: impl FnMut(u16, Option<u64>) -> Result<(), E>) -> Result<(), E> {
        for (n, of) in of.iter().enumerate() {
            let mut left = self.lane.said[n] & of;
            while left != 0 {
                let bit = left & left.wrapping_neg();
                left ^= bit;
                let rank = usize::from(self.lane.before[n]) + (self.lane.said[n] & (bit - 1)).count_ones() as usize;
                let code = self.codes.get(rank).copied().filter(|_| self.lane.codeless[n] & bit == 0);
                each((n * 64) as u16 | bit.trailing_zeros() as u16, code)?;
            }
        }
        Ok(())
    }
}
