//! Narrow bounds of a column whose codes follow the ids.
//!
//! A few codes that lie far above those of the ids around them (of what is scheduled, or was published long after it was
//! made) would make every block's largest code useless. They are told apart, as *outliers*, and listed.
//!
//! Four parts; there is no such section where the codes do not follow the ids.
//!
//! ```text
//! 0   blocks    32 bytes a block of the column: u64 smallest code (2^64 - 1: there is none), u64 largest that is not an
//!               outlier's, u64 largest, u32 outliers of the blocks before, u32 outliers of this one
//! 1   lanes     16 bytes for 1 024 ids, 64 a block: u64 smallest code, u64 largest, outliers left out; 2^64 - 1 and 0
//!               where there is none
//! 2   outliers  16 bytes: u64 code, u32 id, u32 0; of each block by (code, id)
//! 3   order     the outliers again, by (code, id) descending
//! ```

use std::{cmp::Reverse, sync::Arc};

use bitdex_proto::schema::FieldId;
use bytemuck::{Pod, Zeroable};

use super::{
    BLOCK_BITS, BLOCKS_PER_SEGMENT,
    columns::Codes,
    lanes::{LANE, LANES},
    parts::{self, Part},
};
use crate::{
    log::Result,
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

/// At most one in so many ids of a block is an outlier.
const OUTLIERS: usize = 64;
/// To have one more outlier must lower a block's bound by as much as this many ids make up.
const WORTH: u64 = 8;
/// Where the codes of a lane reach over a greater part of all codes than 1 in this, they do not follow the ids.
const FOLLOWS: u64 = 5;

/// Of so many outliers the blocks are told one by one.
pub(super) const OUTLYING_MOST: usize = 256;

/// Smallest code and largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Lane {
    pub min: u64,
    pub limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub struct Outlier {
    pub code: u64,
    pub id: u32,
    zero: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
struct Head {
    min: u64,
    limit: u64,
    most: u64,
    first: u32,
    count: u32,
}

/// What is written.
#[derive(Debug, Default)]
struct Made {
    heads: Vec<Head>,
    lanes: Vec<Lane>,
    outliers: Vec<Outlier>,
    order: Vec<Outlier>,
}

/// As they lie in a file.
#[derive(Debug)]
pub struct Tops {
    section: Section,
    heads: Vec<Head>,
    lanes: Part,
    outliers: Part,
    order: Part,
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

/// Writes the section; false where codes do not follow ids.
pub(super) fn write(pack: &mut PackWriter, field: FieldId, codes: Codes<'_>) -> Result<bool> {
    let Some(made) = Made::of(codes) else { return Ok(false) };
    parts::write(
        pack,
        SectionId::of(SectionKind::Tops, field),
        [
            bytemuck::cast_slice(&made.heads),
            bytemuck::cast_slice(&made.lanes),
            bytemuck::cast_slice(&made.outliers),
            bytemuck::cast_slice(&made.order),
        ],
    )?;
    Ok(true)
}

impl Tops {
    /// `blocks`: of the column.
    pub(super) fn open(pack: &Arc<Pack>, field: FieldId, blocks: usize) -> Result<Option<Self>> {
        let Some(section) = pack.section(SectionId::of(SectionKind::Tops, field)) else { return Ok(None) };
        let [heads, lanes, outliers, order] = parts::open(&section)?;
        let heads = heads.all::<Head>(&section)?.to_vec();
        let listed = heads
            .iter()
            .try_fold(0_u32, |before, head| (head.first == before).then(|| before.checked_add(head.count)).flatten());
        let fits = heads.len() == blocks
            && lanes.len() == blocks * LANES * size_of::<Lane>()
            && listed.is_some_and(|listed| outliers.len() == listed as usize * size_of::<Outlier>())
            && order.len() == outliers.len();
        if !fits {
            return Err(section.damaged(0, "its parts have other lengths than its numbers say"));
        }
        Ok(Some(Self { section, heads, lanes, outliers, order }))
    }

    /// [`BlockTops::limit`] of a block.
    pub(super) fn limit(&self, n: usize) -> Option<u64> {
        self.heads.get(n).map(|head| head.limit)
    }

    /// The greatest code of an outlier.
    pub(super) fn most(&self) -> Option<u64> {
        self.heads.iter().filter(|head| head.count > 0).map(|head| head.most).max()
    }

    /// `n`: of its segment.
    pub fn block(&self, n: usize) -> Result<Option<BlockTops<'_>>> {
        let Some(head) = self.heads.get(n) else { return Ok(None) };
        Ok(Some(BlockTops {
            min: head.min,
            limit: head.limit,
            most: head.most,
            lanes: self.lanes.slice(&self.section, n * LANES, LANES)?,
            outliers: self.outliers.slice(&self.section, head.first as usize, head.count as usize)?,
        }))
    }

    /// All outliers, by (code, id) descending.
    pub fn descending(&self) -> Result<&[Outlier]> {
        self.order.all(&self.section)
    }

    /// The blocks of the segment in which outliers have codes from `first` to `last`, a bit each; `None`: these are many.
    pub fn outlying(&self, first: u64, last: u64) -> Result<Option<u16>> {
        let all = self.descending()?;
        let from = all.partition_point(|outlier| outlier.code > last);
        let mut blocks = 0;
        for (n, outlier) in all.get(from..).unwrap_or_default().iter().enumerate() {
            if outlier.code < first {
                break;
            }
            if n == OUTLYING_MOST {
                return Ok(None);
            }
            blocks |= 1 << ((outlier.id >> BLOCK_BITS) as u16 % BLOCKS_PER_SEGMENT);
        }
        Ok(Some(blocks))
    }

    /// Reads it.
    pub(super) fn warm(&self) -> Result<()> {
        self.section.verify()
    }

    /// Whether codes follow ids.
    pub(super) fn follow(codes: Codes<'_>) -> bool {
        Made::of(codes).is_some()
    }

    /// Whether it is what follows from the codes.
    pub(super) fn is_of(&self, codes: Codes<'_>) -> Result<bool> {
        let Some(made) = Made::of(codes) else { return Ok(false) };
        Ok(made.heads == self.heads
            && made.lanes == self.lanes.all::<Lane>(&self.section)?
            && made.outliers == self.outliers.all::<Outlier>(&self.section)?
            && made.order == self.descending()?)
    }
}

impl Made {
    /// `None` where codes do not follow ids.
    fn of(codes: Codes<'_>) -> Option<Self> {
        let mut made = Self::default();
        let mut of_block = Vec::new();
        for (number, reader) in codes.readers() {
            of_block.clear();
            of_block.extend((0..=u16::MAX).filter_map(|id| reader.get(id).map(|code| (code, id))));
            made.add(number, &mut of_block);
        }
        if !made.follow_ids() {
            return None;
        }
        made.order.clone_from(&made.outliers);
        made.order.sort_unstable_by_key(|outlier| Reverse((outlier.code, outlier.id)));
        Some(made)
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
                let id = u32::from(number) << BLOCK_BITS | u32::from(*id);
                self.outliers.push(Outlier { code: *code, id, zero: 0 });
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
