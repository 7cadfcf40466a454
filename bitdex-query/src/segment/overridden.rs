//! Which ids of a block a checkpoint's column speaks of, and where in it: found in one step, however many there are.
//!
//! It is made at the first look into a block, and kept as long as the file is open: up to 10 KiB a block.

use std::ops::Range;

use super::BLOCK_BITS;

const WORDS: usize = 1 << (BLOCK_BITS - 6);
/// Up to so many ids are a list.
const FEW: usize = 256;

#[derive(Debug)]
pub(super) struct Overridden {
    /// Where the block's first id stands.
    first: usize,
    count: usize,
    ids: Ids,
}

#[derive(Debug)]
enum Ids {
    Few(Box<[u16]>),
    /// A bit for each id, and how many there are before each word.
    Many(Box<[u64; WORDS]>, Box<[u16; WORDS]>),
}

impl Overridden {
    /// `ids`: within the block, ascending; the first of them stands at `first`.
    pub(super) fn new(first: usize, ids: Vec<u16>) -> Self {
        let count = ids.len();
        if count <= FEW {
            return Self { first, count, ids: Ids::Few(ids.into()) };
        }
        let (mut words, mut before) = (Box::new([0_u64; WORDS]), Box::new([0_u16; WORDS]));
        for id in ids {
            if let Some(word) = words.get_mut(usize::from(id >> 6)) {
                *word |= 1 << (id & 63);
            }
        }
        let mut sum = 0_u16;
        for (before, word) in before.iter_mut().zip(words.iter()) {
            *before = sum;
            // Behind the last word it may be 2^16, which nothing reads.
            sum = sum.wrapping_add(word.count_ones() as u16);
        }
        Self { first, count, ids: Ids::Many(words, before) }
    }

    pub(super) fn positions(&self) -> Range<usize> {
        self.first..self.first + self.count
    }

    /// Where an id stands; `id`: within the block.
    #[inline]
    pub(super) fn find(&self, id: u16) -> Option<usize> {
        match &self.ids {
            Ids::Few(ids) => ids.binary_search(&id).ok().map(|at| self.first + at),
            Ids::Many(words, before) => {
                let word = words.get(usize::from(id >> 6))?;
                let bit = 1_u64 << (id & 63);
                if word & bit == 0 {
                    return None;
                }
                let before = usize::from(*before.get(usize::from(id >> 6))?);
                Some(self.first + before + (word & (bit - 1)).count_ones() as usize)
            }
        }
    }

    /// Ascending.
    pub(super) fn each(&self, mut each: impl FnMut(u16)) {
        match &self.ids {
            Ids::Few(ids) => ids.iter().copied().for_each(each),
            Ids::Many(words, _) => {
                for (first, word) in (0_u32..).step_by(64).zip(words.iter()) {
                    let mut left = *word;
                    while left != 0 {
                        each((first + left.trailing_zeros()) as u16);
                        left &= left - 1;
                    }
                }
            }
        }
    }
}
