//! Id → code of one field, and the ids in the order of (code, id).
//!
//! A column of a segment is a section of [parts](super::parts):
//!
//! ```text
//! 0   meta     u32 segment, u32 number of blocks that follow (from the segment's first on), u64 ids with a value
//! 1   blocks   64 bytes a block: u64 smallest code, u64 largest, u64 scale, u64 null, u64 where its numbers begin in
//!              `codes`, u32 ids with a value, u32 numbers, u32 bytes a number (0 to 8), 12 bytes 0
//! 2   codes    a number an id, as many as the block says; then 8 bytes 0
//! 3   order    3 bytes an id (of its segment's 2^20) that has a value
//! 4   fences   u64: the code of each 256th of the order, from the first on
//! ```
//!
//! Code = smallest + scale × number; an id whose number is `null`, or that is behind the last one, has no value. (A
//! `null` that does not fit into the width stands for "none".)
//!
//! A column of a checkpoint:
//!
//! ```text
//! 0     meta    u64 ids that it says something of, u64 those with a code
//! 1–3   keys    the ids, see `keys`
//! 4     codes   u64 an id
//! 5     codeless  u64 for 64 ids: a bit for each that has no code
//! 6     order   u32: positions of ids that have a code
//! ```

mod sparse;
mod writer;

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use bitdex_proto::schema::FieldId;
use bytemuck::{Pod, Zeroable};
pub use sparse::SparseColumn;
pub use writer::{ColumnWriter, Written};

use super::{
    BLOCKS_PER_SEGMENT, SEGMENT_BITS,
    ahead::Ahead,
    parts::{self, Part},
    peaks::Peaks,
    sets::Block,
    tops::{BlockTops, Tops},
};
use crate::{
    log::{Error, Result},
    mapping::ahead::fetch,
    store::{
        format,
        pack::{Pack, Section, SectionId, SectionKind},
    },
};

const IDS: usize = 1 << 16;
const FENCE: usize = 256;
const IN_SEGMENT: u32 = (1 << SEGMENT_BITS) - 1;

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Meta {
    segment: u32,
    blocks: u32,
    values: u64,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    min: u64,
    max: u64,
    scale: u64,
    null: u64,
    at: u64,
    count: u32,
    numbers: u32,
    width: u32,
    zero: [u32; 3],
}

impl Head {
    fn bounds(&self) -> BlockBounds {
        BlockBounds { count: self.count, min: self.min, max: self.max }
    }
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SparseMeta {
    ids: u64,
    values: u64,
}

/// A column of a segment.
#[derive(Debug)]
pub struct Column {
    section: Section,
    segment: u32,
    heads: Vec<Head>,
    /// Of each block, without its outliers.
    inner: Vec<BlockBounds>,
    whole: SegmentBounds,
    values: usize,
    codes: Part,
    order: Part,
    fences: Part,
    tops: Option<Tops>,
    peaks: Option<Peaks>,
    ahead: OnceLock<Ahead>,
    /// See [`Column::remember`].
    remembered: AtomicUsize,
}

/// A place in the order, and what stands before and behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub rank: usize,
    pub before: Option<(u64, u32)>,
    pub behind: Option<(u64, u32)>,
}

/// Of one block of a dense column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockBounds {
    /// Ids with a value.
    pub count: u32,
    /// Smallest and largest code; meaningless where `count` is 0.
    pub min: u64,
    pub max: u64,
}

impl BlockBounds {
    pub const NONE: Self = Self { count: 0, min: u64::MAX, max: 0 };

    /// Of what either holds.
    pub fn with(self, other: Self) -> Self {
        match (self.count, other.count) {
            (0, _) => other,
            (_, 0) => self,
            (one, another) => Self { count: one + another, min: self.min.min(other.min), max: self.max.max(other.max) },
        }
    }
}

/// Of a whole segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentBounds {
    /// Without outliers.
    pub inner: BlockBounds,
    /// The greatest code of an outlier.
    pub outlier: Option<u64>,
}

impl SegmentBounds {
    pub const NONE: Self = Self { inner: BlockBounds::NONE, outlier: None };

    /// Whether a code may lie from `first` to `last`.
    pub fn reach_into(&self, first: u64, last: u64) -> bool {
        let SegmentBounds { inner, outlier } = self;
        inner.count > 0 && inner.min <= last && (first <= inner.max || outlier.is_some_and(|most| first <= most))
    }

    /// Whether all codes lie from `first` to `last`.
    pub fn lie_within(&self, first: u64, last: u64) -> bool {
        let SegmentBounds { inner, outlier } = self;
        first <= inner.min && inner.max <= last && outlier.is_none_or(|most| most <= last)
    }
}

impl Column {
    pub fn open(pack: &Arc<Pack>, field: FieldId) -> Result<Option<Self>> {
        let Some(section) = pack.section(SectionId::of(SectionKind::Column, field)) else { return Ok(None) };
        let [meta, heads, codes, order, fences] = parts::open(&section)?;
        let Meta { segment, blocks, values } = meta.get(&section, 0)?;
        let heads_at = heads.position::<u8>(0);
        let heads = heads.all::<Head>(&section)?.to_vec();
        let right = |head: &Head| {
            let length = u64::from(head.numbers) * u64::from(head.width);
            let end = head.at.checked_add(length + 8);
            head.numbers <= IDS as u32
                && head.count <= head.numbers
                && head.width <= 8
                && end.is_some_and(|end| end <= codes.len() as u64)
        };
        if heads.len() != blocks as usize
            || heads.len() > usize::from(BLOCKS_PER_SEGMENT)
            || !heads.iter().all(right)
            || values > 1 << SEGMENT_BITS
            || order.len() as u64 != values * 3
            || fences.len() as u64 != values.div_ceil(FENCE as u64) * 8
        {
            return Err(section.damaged(heads_at, "its parts have other lengths than its numbers say"));
        }
        let tops = Tops::open(pack, field, heads.len())?;
        let peaks = Peaks::open(pack, field, heads.len())?;
        let limit = |n: usize| tops.as_ref().and_then(|tops| tops.limit(n));
        let inner = |(n, head): (usize, &Head)| BlockBounds { max: limit(n).unwrap_or(head.max), ..head.bounds() };
        let inner: Vec<_> = heads.iter().enumerate().map(inner).collect();
        let whole = SegmentBounds {
            inner: inner.iter().copied().fold(BlockBounds::NONE, BlockBounds::with),
            outlier: tops.as_ref().and_then(Tops::most),
        };
        Ok(Some(Self {
            section,
            segment,
            heads,
            inner,
            whole,
            values: values as usize,
            codes,
            order,
            fences,
            tops,
            peaks,
            ahead: OnceLock::new(),
            remembered: AtomicUsize::new(0),
        }))
    }

    /// Number of the segment.
    pub fn segment(&self) -> u32 {
        self.segment
    }

    fn head(&self, block: u16) -> Option<&Head> {
        self.heads.get(usize::from(block.checked_sub(self.first_block())?))
    }

    /// The code of an id of this segment; `None`: null.
    pub fn get(&self, id: u32) -> Result<Option<u64>> {
        let Some(head) = self.head((id >> 16) as u16) else { return Ok(None) };
        let n = id as usize & (IDS - 1);
        if n >= head.numbers as usize {
            return Ok(None);
        }
        let at = head.at as usize + n * head.width as usize;
        let bytes = self.codes.slice::<u8>(&self.section, at, 8)?;
        let number = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let number = number & mask(head.width);
        Ok((number != head.null).then(|| head.min.wrapping_add(head.scale.wrapping_mul(number))))
    }

    /// `block`: number over the whole index.
    pub fn bounds(&self, block: u16) -> Result<BlockBounds> {
        Ok(self.head(block).map_or(BlockBounds::NONE, Head::bounds))
    }

    /// As [`Column::bounds`], without the outliers of a block whose codes follow the ids.
    pub fn inner_bounds(&self, block: u16) -> BlockBounds {
        let n = block.checked_sub(self.first_block());
        n.and_then(|n| self.inner.get(usize::from(n))).copied().unwrap_or(BlockBounds::NONE)
    }

    /// Bounds of the codes of all blocks.
    pub fn whole_bounds(&self) -> SegmentBounds {
        self.whole
    }

    /// The codes of a whole block, decoded into `codes` (65 536 of them; of ids without a value: anything).
    pub fn block(&self, block: u16, codes: &mut Vec<u64>) -> Result<()> {
        codes.clear();
        if let Some(head) = self.head(block) {
            let count = head.numbers as usize;
            let bytes = self.codes.slice::<u8>(&self.section, head.at as usize, count * head.width as usize)?;
            unpack(bytes, head.width, count, codes);
            let (min, scale) = (head.min, head.scale);
            if scale == 1 {
                codes.iter_mut().for_each(|code| *code = code.wrapping_add(min));
            } else {
                codes.iter_mut().for_each(|code| *code = code.wrapping_mul(scale).wrapping_add(min));
            }
        }
        codes.resize(IDS, 0);
        Ok(())
    }

    /// The codes of a block as they lie, for many looks into the same one.
    pub fn reader(&self, block: u16) -> Result<BlockReader<'_>> {
        let Some(head) = self.head(block) else { return Ok(BlockReader { bytes: &[], head: Head::zeroed() }) };
        let length = head.numbers as usize * head.width as usize + 8;
        Ok(BlockReader { bytes: self.codes.slice(&self.section, head.at as usize, length)?, head: *head })
    }

    /// Narrow bounds; `None` where codes do not follow ids, and in files of older formats.
    pub fn tops(&self) -> Option<&Tops> {
        self.tops.as_ref()
    }

    /// Whether there are sets of the ids with the greatest codes.
    pub fn has_peaks(&self) -> bool {
        self.peaks.is_some()
    }

    /// [`Peaks::block`] of a block of this segment.
    pub fn block_peaks(&self, block: u16, floor: u64, few: bool) -> Result<Option<Block<'_>>> {
        match (&self.peaks, block.checked_sub(self.first_block())) {
            (Some(peaks), Some(n)) => peaks.block(n.into(), floor, few),
            _ => Ok(None),
        }
    }

    /// The code that this part of the ids with a value reach: those that have greater ones, and perhaps more that have
    /// the same.
    pub fn reached_by(&self, share: f64) -> Result<Option<u64>> {
        let above = ((self.len() as f64 * share) as usize).max(1);
        match self.len().checked_sub(above) {
            Some(rank) => self.get(self.ranked(rank)?),
            None => Ok(None),
        }
    }

    /// Where it is ahead of another column of its segment: always the same one.
    pub fn ahead_of(&self, other: &Self) -> Result<&Ahead> {
        if let Some(ahead) = self.ahead.get() {
            return Ok(ahead);
        }
        let ahead = Ahead::of(self.len(), |ranks, pairs| self.ranked_pairs(ranks, pairs), |id| other.get(id))?;
        Ok(self.ahead.get_or_init(|| ahead))
    }

    /// [`Column::tops`] of a block.
    pub fn block_tops(&self, block: u16) -> Result<Option<BlockTops<'_>>> {
        match (&self.tops, block.checked_sub(self.first_block())) {
            (Some(tops), Some(n)) => tops.block(n.into()),
            _ => Ok(None),
        }
    }

    /// Reads it, so that no query has to wait for it.
    pub fn warm(&self) -> Result<()> {
        self.section.verify()?;
        self.tops.as_ref().map_or(Ok(()), Tops::warm)?;
        self.peaks.as_ref().map_or(Ok(()), Peaks::warm)
    }

    /// All that lies in the file of codes.
    pub(super) fn all_codes(&self) -> Result<Codes<'_>> {
        Ok(Codes {
            segment: self.segment,
            heads: &self.heads,
            codes: self.codes.all(&self.section)?,
            order: self.order.all(&self.section)?,
        })
    }

    /// Whether bounds and sets of the greatest codes are what follows from the codes.
    pub fn agrees(&self) -> Result<bool> {
        if self.section.format() < format::BOUNDS {
            return Ok(self.tops.is_none() && self.peaks.is_none());
        }
        let codes = self.all_codes()?;
        match &self.tops {
            Some(tops) => Ok(self.peaks.is_none() && tops.is_of(codes)?),
            None if Tops::follow(codes) => Ok(false),
            None => Peaks::is_of(self.peaks.as_ref(), codes),
        }
    }

    fn first_block(&self) -> u16 {
        (self.segment << (SEGMENT_BITS - 16)) as u16
    }

    /// The smallest code and the largest.
    pub fn span(&self) -> Option<(u64, u64)> {
        let SegmentBounds { inner, outlier } = self.whole;
        (inner.count > 0).then(|| (inner.min, outlier.map_or(inner.max, |most| most.max(inner.max))))
    }

    /// Ids that have a value.
    pub fn len(&self) -> usize {
        self.values
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The id at a rank in the ascending order of (code, id).
    pub fn ranked(&self, rank: usize) -> Result<u32> {
        let bytes = self.order.slice::<u8>(&self.section, rank.saturating_mul(3), 3)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| self.id(*bytes)))
    }

    /// (code, id) at these ranks, appended.
    pub fn ranked_pairs(&self, ranks: Range<usize>, pairs: &mut Vec<(u64, u32)>) -> Result<()> {
        let bytes = self.ranked_bytes(ranks)?;
        let mut near = self.near();
        for bytes in bytes.as_chunks::<3>().0 {
            let id = self.id(*bytes);
            pairs.extend(near.get(id)?.map(|code| (code, id)));
        }
        Ok(())
    }

    /// For the codes of ids many of which, one behind the other, are of one block.
    pub fn near(&self) -> Near<'_> {
        Near { column: self, last: None, block: None }
    }

    /// The ids at these ranks in the ascending order of (code, id): 3 bytes each, see [`Column::id`].
    pub fn ranked_bytes(&self, ranks: Range<usize>) -> Result<&[u8]> {
        self.order.slice::<u8>(&self.section, ranks.start.saturating_mul(3), ranks.len() * 3)
    }

    /// An error that names its file.
    #[cold]
    pub fn damaged(&self, reason: &str) -> Error {
        self.section.damaged(0, reason)
    }

    /// Asks for the code of an id before it is read.
    #[inline]
    pub fn fetch(&self, id: u32) {
        if let Some(head) = self.head((id >> 16) as u16) {
            let at = head.at as usize + (id as usize & (IDS - 1)) * head.width as usize;
            self.section.fetch(self.codes.position::<u8>(at));
        }
    }

    /// An id of the segment, as files have it.
    #[inline]
    pub fn id(&self, [a, b, c]: [u8; 3]) -> u32 {
        self.segment << SEGMENT_BITS | u32::from_le_bytes([a, b, c, 0]) & IN_SEGMENT
    }

    /// Number of ids with lower codes, about: by the fences alone, between which codes are taken to be even.
    pub fn rank_about(&self, code: u64) -> Result<f64> {
        let Some((_, most)) = self.span().filter(|(least, _)| *least < code) else { return Ok(0.0) };
        if most < code {
            return Ok(self.values as f64);
        }
        let fences = self.fences.all::<u64>(&self.section)?;
        let behind = fences.partition_point(|fence| *fence < code);
        let (before, next) = (behind.saturating_sub(1), (behind * FENCE).min(self.values));
        let (from, to) = (fences.get(before).copied().unwrap_or(0), fences.get(behind).copied().unwrap_or(most));
        let part = code.saturating_sub(from) as f64 / to.saturating_sub(from).max(1) as f64;
        let first = before * FENCE;
        Ok(first as f64 + part.min(1.0) * next.saturating_sub(first) as f64)
    }

    /// The (code, id) at a rank.
    fn pair(&self, rank: usize) -> Result<(u64, u32)> {
        let id = self.ranked(rank)?;
        Ok((self.get(id)?.unwrap_or(0), id))
    }

    /// Has [`Column::remembered`] try a rank first: most walks begin at the clock, and hardly any code lies between that of
    /// the last one and now.
    pub fn remember(&self, rank: usize) {
        self.remembered.store(rank, Ordering::Relaxed);
    }

    /// [`Column::rank`], if it is the one that was remembered last.
    pub fn remembered(&self, code: u64, id: u32) -> Result<Option<Place>> {
        let rank = self.remembered.load(Ordering::Relaxed);
        if rank > self.values {
            return Ok(None);
        }
        let before = rank.checked_sub(1).map(|before| self.pair(before)).transpose()?;
        let behind = (rank < self.values).then(|| self.pair(rank)).transpose()?;
        let is_it = before.is_none_or(|before| before < (code, id)) && behind.is_none_or(|behind| behind >= (code, id));
        Ok(is_it.then_some(Place { rank, before, behind }))
    }

    /// A code that none is greater than of those up to `most`; `None`: there are none. Where greater ones are, that is the
    /// greatest.
    pub fn greatest(&self, most: u64) -> Result<Option<u64>> {
        let Some((least, greatest)) = self.span().filter(|(least, _)| *least <= most) else { return Ok(None) };
        let Some(behind) = most.checked_add(1).filter(|_| greatest > most) else { return Ok(Some(greatest)) };
        let before = match self.remembered(behind, 0)? {
            Some(place) => place.before,
            None => {
                let rank = self.rank(behind, 0)?;
                self.remember(rank);
                rank.checked_sub(1).map(|before| self.pair(before)).transpose()?
            }
        };
        Ok(before.map(|(code, _)| code).filter(|code| *code >= least))
    }

    /// Number of (code, id) below the given one.
    pub fn rank(&self, code: u64, id: u32) -> Result<usize> {
        // Ranks at whose fence (code, id) is still below.
        let fences = self.fences.all::<u64>(&self.section)?;
        let mut low = fences.partition_point(|fence| *fence < code);
        let mut high = match fences.get(low) {
            Some(fence) if *fence == code => fences.partition_point(|fence| *fence <= code),
            _ => low,
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ranked(middle * FENCE)? < id {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(before) = low.checked_sub(1) else { return Ok(0) };
        let (mut low, mut high) = (before * FENCE + 1, (low * FENCE).min(self.values));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.pair(middle)? < (code, id) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

fn mask(width: u32) -> u64 {
    u64::MAX.checked_shr(64 - width * 8).unwrap_or(0)
}

/// The codes of a column of a segment, and their order.
#[derive(Debug, Clone, Copy)]
pub(super) struct Codes<'a> {
    segment: u32,
    heads: &'a [Head],
    /// Then 8 bytes more.
    codes: &'a [u8],
    order: &'a [u8],
}

impl<'a> Codes<'a> {
    /// Of each block, with its number.
    pub(super) fn readers(self) -> impl Iterator<Item = (u16, BlockReader<'a>)> {
        let first = (self.segment << (SEGMENT_BITS - 16)) as u16;
        (first..=u16::MAX).zip(self.heads).map(move |(number, head)| (number, self.reader(head)))
    }

    fn reader(self, head: &Head) -> BlockReader<'a> {
        let length = head.numbers as usize * head.width as usize + 8;
        let start = head.at as usize;
        BlockReader { bytes: self.codes.get(start..start + length).unwrap_or_default(), head: *head }
    }

    /// Of a block by its number over the whole index.
    pub(super) fn of_block(self, number: u16) -> BlockReader<'a> {
        let head = self.heads.get(usize::from(self.place_of(number)));
        head.map_or(BlockReader { bytes: &[], head: Head::zeroed() }, |head| self.reader(head))
    }

    /// Of a block, among those of the segment.
    pub(super) fn place_of(self, number: u16) -> u16 {
        number % BLOCKS_PER_SEGMENT
    }

    pub(super) fn blocks(self) -> usize {
        self.heads.len()
    }

    /// The least code.
    pub(super) fn least(self) -> u64 {
        self.heads.iter().filter(|head| head.count > 0).map(|head| head.min).min().unwrap_or(0)
    }

    /// Ids with a value.
    pub(super) fn len(self) -> usize {
        self.order.len() / 3
    }

    /// The id (within the segment) at a rank in the order of (code, id).
    pub(super) fn id_at(self, rank: usize) -> u32 {
        let bytes = self.order.get(rank * 3..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |[a, b, c]| u32::from_le_bytes([*a, *b, *c, 0]))
    }

    pub(super) fn code_at(self, rank: usize) -> u64 {
        let id = self.id_at(rank);
        let head = self.heads.get((id >> 16) as usize);
        head.and_then(|head| self.reader(head).get(id as u16)).unwrap_or(0)
    }

    /// Number of ids with lower codes.
    pub(super) fn rank_of(self, code: u64) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.code_at(middle) < code {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// See [`Column::near`].
#[derive(Debug)]
pub struct Near<'a> {
    column: &'a Column,
    /// Block of the last id.
    last: Option<u16>,
    block: Option<(u16, BlockReader<'a>)>,
}

impl Near<'_> {
    pub fn get(&mut self, id: u32) -> Result<Option<u64>> {
        let block = (id >> 16) as u16;
        let code = match &self.block {
            Some((of, codes)) if *of == block => codes.get(id as u16),
            // Of a block that only one id is of, nothing but its code is needed.
            _ if self.last == Some(block) => {
                let (_, codes) = self.block.insert((block, self.column.reader(block)?));
                codes.get(id as u16)
            }
            _ => self.column.get(id)?,
        };
        self.last = Some(block);
        Ok(code)
    }
}

/// See [`Column::reader`].
#[derive(Debug, Clone, Copy)]
pub struct BlockReader<'a> {
    bytes: &'a [u8],
    head: Head,
}

impl BlockReader<'_> {
    /// Asks for the code of an id before it is read.
    #[inline]
    pub fn fetch(&self, id: u16) {
        if let Some(byte) = self.bytes.get(usize::from(id) * self.head.width as usize) {
            fetch(byte);
        }
    }

    /// `id`: within the block.
    #[inline]
    pub fn get(&self, id: u16) -> Option<u64> {
        if u32::from(id) >= self.head.numbers {
            return None;
        }
        let bytes = self.bytes.get(usize::from(id) * self.head.width as usize..)?;
        let number = u64::from_le_bytes(*bytes.first_chunk()?) & mask(self.head.width);
        (number != self.head.null).then(|| self.head.min.wrapping_add(self.head.scale.wrapping_mul(number)))
    }
}

/// Appends `count` numbers of `width` bytes.
fn unpack(bytes: &[u8], width: u32, count: usize, to: &mut Vec<u64>) {
    fn of<const W: usize>(bytes: &[u8], to: &mut Vec<u64>) {
        to.extend(bytes.as_chunks::<W>().0.iter().map(|chunk| {
            let mut number = [0; 8];
            number[..W].copy_from_slice(chunk);
            u64::from_le_bytes(number)
        }));
    }
    match width {
        0 => to.resize(to.len() + count, 0),
        1 => of::<1>(bytes, to),
        2 => of::<2>(bytes, to),
        3 => of::<3>(bytes, to),
        4 => of::<4>(bytes, to),
        5 => of::<5>(bytes, to),
        6 => of::<6>(bytes, to),
        7 => of::<7>(bytes, to),
        _ => of::<8>(bytes, to),
    }
}
