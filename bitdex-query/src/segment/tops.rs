//! Narrow bounds of a column whose codes follow the ids.
//!
//! A few codes that lie far above those of the ids around them (of what is scheduled, or was published long after it was
//! made) would make every block's largest code useless. They are told apart, as *outliers*, and listed.
//!
//! They are made from the codes when a column is first asked for them, and kept as long as its file is open.

use std::cmp::Reverse;

use super::{
    BLOCK_BITS,
    columns::BlockReader,
    lanes::{LANE, LANES},
};

/// At most one in so many ids of a block is an outlier.
const OUTLIERS: usize = 64;
/// To have one more outlier must lower a block's bound by as much as this many ids make up.
const WORTH: u64 = 8;
/// Where the codes of a lane reach over a greater part of all codes than 1 in this, they do not follow the ids.
const FOLLOWS: u64 = 5;

/// Smallest code and largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lane {
    pub min: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    pub code: u64,
    pub id: u32,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    min: u64,
    limit: u64,
    most: u64,
    first: u32,
    count: u32,
}

#[derive(Debug)]
pub struct Tops {
    heads: Vec<Head>,
    lanes: Vec<Lane>,
    outliers: Vec<Outlier>,
    /// The outliers again, by (code, id) descending.
    order: Vec<Outlier>,
}

/// Of one block.
#[derive(Debug, Clone, Copy)]
pub struct BlockTops<'a> {
    /// Smallest code; where there is none, the largest number.
    pub min: u64,
    /// Largest code that is not an outlier's.
    pub limit: u64,
    /// Largest code.
    pub most: u64,
    pub lanes: &'a [Lane],
    /// By code, ascending.
    pub outliers: &'a [Outlier],
}

impl<'a> BlockTops<'a> {
    /// Whether any outlier has a code from `first` to `last`.
    pub fn has_outlier(&self, first: u64, last: u64) -> bool {
        self.most >= first && self.limit < last && !self.outliers_within(first, last).is_empty()
    }

    /// The outliers with codes from `first` to `last`.
    pub fn outliers_within(&self, first: u64, last: u64) -> &'a [Outlier] {
        let from = self.outliers.partition_point(|outlier| outlier.code < first);
        let behind = self.outliers.partition_point(|outlier| outlier.code <= last);
        self.outliers.get(from..behind).unwrap_or_default()
    }
}

impl Tops {
    /// `None` where codes do not follow ids. `readers`: of each block, with its number.
    pub(super) fn of<'a>(readers: impl Iterator<Item = (u16, BlockReader<'a>)>) -> Option<Self> {
        let mut tops = Self { heads: Vec::new(), lanes: Vec::new(), outliers: Vec::new(), order: Vec::new() };
        let mut codes = Vec::new();
        for (number, reader) in readers {
            codes.clear();
            codes.extend((0..=u16::MAX).filter_map(|id| reader.get(id).map(|code| (code, id))));
            tops.add(number, &mut codes);
        }
        if !tops.follow_ids() {
            return None;
        }
        tops.order.clone_from(&tops.outliers);
        tops.order.sort_unstable_by_key(|outlier| Reverse((outlier.code, outlier.id)));
        Some(tops)
    }

    /// `n`: of its segment.
    pub fn block(&self, n: usize) -> Option<BlockTops<'_>> {
        let head = self.heads.get(n)?;
        let (first, count) = (head.first as usize, head.count as usize);
        Some(BlockTops {
            min: head.min,
            limit: head.limit,
            most: head.most,
            lanes: self.lanes.get(n * LANES..(n + 1) * LANES)?,
            outliers: self.outliers.get(first..first + count)?,
        })
    }

    /// All outliers, by (code, id) descending.
    pub fn descending(&self) -> &[Outlier] {
        &self.order
    }

    /// The next block's (code, id within the block), in any order.
    fn add(&mut self, number: u16, codes: &mut [(u64, u16)]) {
        let first = self.outliers.len() as u32;
        let lanes = self.lanes.len();
        self.lanes.resize(lanes + LANES, Lane { min: u64::MAX, limit: 0 });
        let Some(min) = codes.iter().map(|(code, _)| *code).min() else {
            self.heads.push(Head { min: u64::MAX, limit: 0, most: 0, first, count: 0 });
            return;
        };
        let last = codes.len() / (OUTLIERS + 1);
        codes.select_nth_unstable_by(last, |a, b| b.cmp(a));
        let (top, _) = codes.split_at_mut(last + 1);
        top.sort_unstable_by(|a, b| b.cmp(a));
        let most = top.first().map_or(min, |(code, _)| *code);
        let core = top.last().map_or(0, |(code, _)| code - min);
        let each = (core >> BLOCK_BITS).saturating_mul(WORTH).max(1);
        let cost = |n: usize, code: u64| (code - min).saturating_add(each.saturating_mul(n as u64));
        let best = top.iter().enumerate().min_by_key(|(n, (code, _))| cost(*n, *code));
        let limit = best.map_or(min, |(_, (code, _))| *code);
        for (code, id) in codes.iter() {
            if *code > limit {
                self.outliers.push(Outlier { code: *code, id: u32::from(number) << BLOCK_BITS | u32::from(*id) });
            } else if let Some(lane) = self.lanes.get_mut(lanes + usize::from(*id) / LANE) {
                *lane = Lane { min: lane.min.min(*code), limit: lane.limit.max(*code) };
            }
        }
        if let Some(outliers) = self.outliers.get_mut(first as usize..) {
            outliers.sort_unstable_by_key(|outlier| (outlier.code, outlier.id));
        }
        let count = self.outliers.len() as u32 - first;
        self.heads.push(Head { min, limit, most, first, count });
    }

    fn follow_ids(&self) -> bool {
        let filled = || self.lanes.iter().filter(|lane| lane.min <= lane.limit);
        let min = filled().map(|lane| lane.min).min().unwrap_or(0);
        let limit = filled().map(|lane| lane.limit).max().unwrap_or(0);
        let widths: u128 = filled().map(|lane| u128::from(lane.limit - lane.min)).sum();
        let all = u128::from(limit.saturating_sub(min)) * filled().count() as u128;
        widths * u128::from(FOLLOWS) < all
    }
}
