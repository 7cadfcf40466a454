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

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use bitdex_proto::schema::FieldId;
use bytemuck::{Pod, Zeroable};

use super::{
    BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS,
    ahead::Ahead,
    keys::{Keys, KeysWriter},
    overridden::Overridden,
    parts::{self, Part},
    peaks::Peaks,
    sets::Block,
    tops::{BlockTops, Tops},
};
use crate::{
    log::Result,
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
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

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SparseMeta {
    ids: u64,
    values: u64,
}

/// Writes a column of a segment (every id of the segment may have a value: `Dense`) or of a checkpoint (`Sparse`).
#[derive(Debug)]
pub struct ColumnWriter {
    field: FieldId,
    kind: Writer,
}

#[derive(Debug)]
enum Writer {
    Dense(Dense),
    Sparse(Sparse),
}

#[derive(Debug)]
struct Dense {
    segment: u32,
    values: usize,
    heads: Vec<Head>,
    codes: Vec<u8>,
    /// Of the block that is not closed yet: (id within it, code).
    open: Vec<(u16, u64)>,
}

#[derive(Debug, Default)]
struct Sparse {
    keys: KeysWriter,
    ids: Vec<u32>,
    codes: Vec<u64>,
    codeless: Vec<u64>,
}

impl ColumnWriter {
    /// Of the segment with this number.
    pub fn dense(field: FieldId, segment: u32) -> Self {
        let dense = Dense { segment, values: 0, heads: Vec::new(), codes: Vec::new(), open: Vec::new() };
        Self { field, kind: Writer::Dense(dense) }
    }

    /// Of any ids; `None` overrides a value below.
    pub fn sparse(field: FieldId) -> Self {
        Self { field, kind: Writer::Sparse(Sparse::default()) }
    }

    /// Ids ascending. A dense column leaves out ids without a value.
    pub fn push(&mut self, id: u32, code: Option<u64>) {
        match &mut self.kind {
            Writer::Dense(dense) => {
                if let Some(code) = code {
                    dense.push(id, code);
                }
            }
            Writer::Sparse(sparse) => sparse.push(id, code),
        }
    }

    pub fn bytes(&self) -> usize {
        match &self.kind {
            Writer::Dense(dense) => dense.codes.capacity() + dense.open.capacity() * 16,
            Writer::Sparse(sparse) => sparse.keys.bytes() + sparse.ids.capacity() * 4 + sparse.codes.capacity() * 8,
        }
    }

    /// Bytes that `finish` takes beside.
    pub(super) fn finishing(&self) -> usize {
        match &self.kind {
            Writer::Dense(dense) => dense.values * 20,
            Writer::Sparse(sparse) => sparse.ids.len() * 4,
        }
    }

    /// Sorts, and writes the sections.
    pub fn finish(self, pack: &mut PackWriter) -> Result<()> {
        match self.kind {
            Writer::Dense(dense) => dense.finish(pack, self.field),
            Writer::Sparse(sparse) => sparse.finish(pack, self.field),
        }
    }
}

fn section_id(kind: SectionKind, field: FieldId) -> SectionId {
    SectionId { kind, place: field as u16 }
}

impl Dense {
    fn push(&mut self, id: u32, code: u64) {
        let block = ((id & IN_SEGMENT) >> 16) as usize;
        while self.heads.len() < block {
            self.close();
        }
        self.open.push((id as u16, code));
        self.values += 1;
    }

    fn close(&mut self) {
        let at = self.codes.len() as u64;
        let (mut min, mut max) = (u64::MAX, 0);
        for (_, code) in &self.open {
            min = min.min(*code);
            max = max.max(*code);
        }
        let Some(&(last, first_code)) = self.open.last() else {
            self.heads.push(Head { scale: 1, at, ..Head::zeroed() });
            return;
        };
        let mut scale = 0;
        for (_, code) in &self.open {
            let delta = code.abs_diff(first_code);
            if scale == 1 || delta == 0 {
                continue;
            }
            if scale == 0 || delta % scale != 0 {
                scale = greatest_divisor(scale, delta);
            }
        }
        let scale = scale.max(1);
        let range = (max - min) / scale;
        let (count, numbers) = (self.open.len(), usize::from(last) + 1);
        let null = if range < u64::MAX { range + 1 } else { self.unused(min) };
        let greatest = if count < numbers { range.max(null) } else { range };
        let width = (8 - greatest.leading_zeros() as usize / 8).min(8);
        let start = self.codes.len();
        let empty = if count < numbers { null } else { 0 };
        fill(&mut self.codes, numbers, width, empty);
        let bytes = &mut self.codes[start..];
        for (id, code) in &self.open {
            let number = if scale == 1 { code - min } else { (code - min) / scale };
            let at = usize::from(*id) * width;
            bytes[at..at + width].copy_from_slice(&number.to_le_bytes()[..width]);
        }
        let [count, numbers, width] = [count, numbers, width].map(|number| number as u32);
        self.heads.push(Head { min, max, scale, null, at, count, numbers, width, zero: [0; 3] });
        self.open.clear();
    }

    /// A number that no id of the block has; 65 536 ids cannot have all of them.
    fn unused(&self, min: u64) -> u64 {
        let mut numbers: Vec<u64> = self.open.iter().map(|(_, code)| code.wrapping_sub(min)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.iter().zip(0..).find_map(|(number, n)| (*number != n).then_some(n)).unwrap_or(numbers.len() as u64)
    }

    fn finish(mut self, pack: &mut PackWriter, field: FieldId) -> Result<()> {
        if !self.open.is_empty() {
            self.close();
        }
        self.open = Vec::new();
        self.codes.extend_from_slice(&[0; 8]);
        let (order, fences) = self.sorted();
        let meta = Meta { segment: self.segment, blocks: self.heads.len() as u32, values: self.values as u64 };
        parts::write(
            pack,
            section_id(SectionKind::Column, field),
            [
                bytemuck::bytes_of(&meta),
                bytemuck::cast_slice(&self.heads),
                &self.codes,
                &order,
                bytemuck::cast_slice(&fences),
            ],
        )
    }

    /// Order and fences.
    fn sorted(&self) -> (Vec<u8>, Vec<u64>) {
        let with_values = || self.heads.iter().filter(|head| head.count > 0);
        let min = with_values().map(|head| head.min).min().unwrap_or(0);
        let max = with_values().map(|head| head.max).max().unwrap_or(0);
        let mut block = Vec::new();
        let mut fences = Vec::with_capacity(self.values.div_ceil(FENCE));
        let mut order = Vec::with_capacity(self.values * 3);
        let mut each = |rank: usize, code: u64, id: u32| {
            if rank.is_multiple_of(FENCE) {
                fences.push(code);
            }
            order.extend_from_slice(&id.to_le_bytes()[..3]);
        };
        if (max - min) >> (64 - SEGMENT_BITS) == 0 {
            // Code and id fit into one number.
            let mut pairs = Vec::with_capacity(self.values);
            self.for_each(&mut block, |id, code| pairs.push((code - min) << SEGMENT_BITS | u64::from(id)));
            sort(&mut pairs, 64 - (max - min).leading_zeros());
            for (rank, pair) in pairs.into_iter().enumerate() {
                each(rank, min + (pair >> SEGMENT_BITS), pair as u32 & IN_SEGMENT);
            }
        } else {
            let mut pairs = Vec::with_capacity(self.values);
            self.for_each(&mut block, |id, code| pairs.push((code, id)));
            pairs.sort_unstable();
            for (rank, (code, id)) in pairs.into_iter().enumerate() {
                each(rank, code, id);
            }
        }
        (order, fences)
    }

    fn for_each(&self, block: &mut Vec<u64>, mut each: impl FnMut(u32, u64)) {
        for (n, head) in self.heads.iter().enumerate() {
            let length = head.numbers as usize * head.width as usize;
            block.clear();
            unpack(&self.codes[head.at as usize..][..length], head.width, head.numbers as usize, block);
            for (id, number) in block.iter().enumerate() {
                if *number != head.null {
                    each((n << 16 | id) as u32, head.min + head.scale * number);
                }
            }
        }
    }
}

fn greatest_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Sorts by the bits from `SEGMENT_BITS` on; the lower ones are in order already.
fn sort(pairs: &mut Vec<u64>, bits: u32) {
    const DIGIT: u32 = 11;
    if pairs.is_sorted() {
        return;
    }
    if pairs.len() < 4096 {
        pairs.sort_unstable();
        return;
    }
    let mut other = vec![0; pairs.len()];
    for shift in (0..bits).step_by(DIGIT as usize).map(|shift| shift + SEGMENT_BITS) {
        let digit = |pair: u64| (pair >> shift) as usize & ((1 << DIGIT) - 1);
        let mut ends = [0_usize; 1 << DIGIT];
        for pair in pairs.iter() {
            ends[digit(*pair)] += 1;
        }
        let mut start = 0;
        for end in &mut ends {
            start += std::mem::replace(end, start);
        }
        for pair in pairs.iter() {
            let place = &mut ends[digit(*pair)];
            other[*place] = *pair;
            *place += 1;
        }
        std::mem::swap(pairs, &mut other);
    }
}

/// `count` times the same number.
fn fill(bytes: &mut Vec<u8>, count: usize, width: usize, number: u64) {
    let number = number.to_le_bytes();
    let to = bytes.len() + count * width;
    if number == [0; 8] {
        bytes.resize(to, 0);
    } else {
        (0..count).for_each(|_| bytes.extend_from_slice(&number[..width]));
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

impl Sparse {
    fn push(&mut self, id: u32, code: Option<u64>) {
        let n = self.ids.len();
        self.keys.push(id.into());
        self.ids.push(id);
        self.codes.push(code.unwrap_or(0));
        if n.is_multiple_of(64) {
            self.codeless.push(0);
        }
        if let (None, Some(word)) = (code, self.codeless.last_mut()) {
            *word |= 1 << (n % 64);
        }
    }

    fn finish(self, pack: &mut PackWriter, field: FieldId) -> Result<()> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let has = |n: usize| self.codeless[n / 64] >> (n % 64) & 1 == 0;
        let mut order: Vec<u32> = (0..self.ids.len()).filter(|n| has(*n)).map(|n| n as u32).collect();
        order.sort_unstable_by_key(|n| (self.codes[*n as usize], *n));
        let meta = SparseMeta { ids: self.ids.len() as u64, values: order.len() as u64 };
        let (bases, groups, deltas) = self.keys.finish()?;
        parts::write(
            pack,
            section_id(SectionKind::SparseColumn, field),
            [
                bytemuck::bytes_of(&meta),
                bytemuck::cast_slice(&bases),
                bytemuck::cast_slice(&groups),
                &deltas,
                bytemuck::cast_slice(&self.codes),
                bytemuck::cast_slice(&self.codeless),
                bytemuck::cast_slice(&order),
            ],
        )
    }
}

/// A column of a segment.
#[derive(Debug)]
pub struct Column {
    section: Section,
    segment: u32,
    heads: Vec<Head>,
    values: usize,
    codes: Part,
    order: Part,
    fences: Part,
    tops: OnceLock<Option<Tops>>,
    peaks: OnceLock<Peaks>,
    ahead: OnceLock<Ahead>,
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

impl Column {
    pub fn open(pack: &Arc<Pack>, field: FieldId) -> Result<Option<Self>> {
        let Some(section) = pack.section(section_id(SectionKind::Column, field)) else { return Ok(None) };
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
        Ok(Some(Self {
            section,
            segment,
            heads,
            values: values as usize,
            codes,
            order,
            fences,
            tops: OnceLock::new(),
            peaks: OnceLock::new(),
            ahead: OnceLock::new(),
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
        Ok(self.head(block).map_or(BlockBounds { count: 0, min: 0, max: 0 }, |head| BlockBounds {
            count: head.count,
            min: head.min,
            max: head.max,
        }))
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

    /// Narrow bounds, where codes follow ids.
    pub fn tops(&self) -> Result<Option<&Tops>> {
        if let Some(tops) = self.tops.get() {
            return Ok(tops.as_ref());
        }
        let mut readers = Vec::with_capacity(self.heads.len());
        for (number, _) in (self.first_block()..=u16::MAX).zip(&self.heads) {
            readers.push((number, self.reader(number)?));
        }
        Ok(self.tops.get_or_init(|| Tops::of(readers.into_iter())).as_ref())
    }

    /// The ids with the greatest codes.
    pub fn peaks(&self) -> Result<&Peaks> {
        if let Some(peaks) = self.peaks.get() {
            return Ok(peaks);
        }
        let peaks = Peaks::of(self)?;
        Ok(self.peaks.get_or_init(|| peaks))
    }

    /// [`Peaks::block`] of a block of this segment.
    pub fn block_peaks(&self, block: u16, floor: u64, few: bool) -> Result<Option<Block<'_>>> {
        let Some(n) = block.checked_sub(self.first_block()) else { return Ok(None) };
        Ok(self.peaks()?.block(n.into(), floor, few))
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
        let Some(n) = block.checked_sub(self.first_block()) else { return Ok(None) };
        Ok(self.tops()?.and_then(|tops| tops.block(n.into())))
    }

    /// Whether queries have looked at what is made of its codes.
    pub fn is_used(&self) -> bool {
        self.tops.get().is_some()
    }

    /// Reads it, and makes what queries would make at their first look. `beside`: the column that it may be ahead of.
    pub fn warm(&self, beside: Option<&Self>) -> Result<()> {
        self.section.verify()?;
        if self.tops()?.is_none() {
            self.peaks()?;
        }
        beside.map_or(Ok(()), |beside| self.ahead_of(beside).map(|_| ()))
    }

    fn first_block(&self) -> u16 {
        (self.segment << (SEGMENT_BITS - 16)) as u16
    }

    /// The largest code.
    pub fn most(&self) -> Option<u64> {
        self.heads.iter().filter(|head| head.count > 0).map(|head| head.max).max()
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
        let bytes = self.order.slice::<u8>(&self.section, ranks.start.saturating_mul(3), ranks.len() * 3)?;
        // Where the order follows the ids, many in a row are of one block.
        let mut last = None;
        let mut near: Option<(u16, BlockReader<'_>)> = None;
        for bytes in bytes.as_chunks::<3>().0 {
            let id = self.id(*bytes);
            let block = (id >> 16) as u16;
            let code = match &near {
                Some((of, codes)) if *of == block => codes.get(id as u16),
                _ if last == Some(block) => {
                    let (_, codes) = near.insert((block, self.reader(block)?));
                    codes.get(id as u16)
                }
                _ => self.get(id)?,
            };
            last = Some(block);
            pairs.extend(code.map(|code| (code, id)));
        }
        Ok(())
    }

    fn id(&self, [a, b, c]: [u8; 3]) -> u32 {
        self.segment << SEGMENT_BITS | u32::from_le_bytes([a, b, c, 0]) & IN_SEGMENT
    }

    /// Number of (code, id) below the given one.
    pub fn rank(&self, code: u64, id: u32) -> Result<usize> {
        // Ranks at whose fence (code, id) is still below.
        let fences = self.fences.all::<u64>(&self.section)?;
        let (mut low, mut high) =
            (fences.partition_point(|fence| *fence < code), fences.partition_point(|fence| *fence <= code));
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
            let at = self.ranked(middle)?;
            if (self.get(at)?.unwrap_or(0), at) < (code, id) {
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

/// See [`Column::reader`].
#[derive(Debug, Clone, Copy)]
pub struct BlockReader<'a> {
    bytes: &'a [u8],
    head: Head,
}

impl BlockReader<'_> {
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

/// A column of a checkpoint.
#[derive(Debug)]
pub struct SparseColumn {
    section: Section,
    keys: Keys,
    values: usize,
    codes: Part,
    codeless: Part,
    order: Part,
    /// By number of the block, once it was looked into.
    blocks: Box<[OnceLock<Box<Overridden>>]>,
    ahead: OnceLock<Ahead>,
}

impl SparseColumn {
    pub fn open(pack: &Arc<Pack>, field: FieldId) -> Result<Option<Self>> {
        let Some(section) = pack.section(section_id(SectionKind::SparseColumn, field)) else { return Ok(None) };
        let [meta, bases, groups, deltas, codes, codeless, order] = parts::open(&section)?;
        let meta = meta.get::<SparseMeta>(&section, 0)?;
        let keys = Keys::open(&section, [bases, groups, deltas], meta.ids)?;
        let (ids, values) = (keys.len(), order.len() / 4);
        if codes.len() != ids * 8 || codeless.len() != ids.div_ceil(64) * 8 || values as u64 != meta.values {
            return Err(section.damaged(0, "its parts have other lengths than its numbers say"));
        }
        let blocks = match ids.checked_sub(1) {
            Some(last) => (keys.at(&section, last)? >> BLOCK_BITS).saturating_add(1).min(1 << (u32::BITS - BLOCK_BITS)),
            None => 0,
        };
        let blocks = (0..blocks).map(|_| OnceLock::new()).collect();
        let ahead = OnceLock::new();
        Ok(Some(Self { section, keys, values, codes, codeless, order, blocks, ahead }))
    }

    /// `None`: says nothing of this id. `Some(None)`: null.
    #[inline]
    pub fn get(&self, id: u32) -> Result<Option<Option<u64>>> {
        match self.find(id)? {
            Some(n) => self.code(n).map(Some),
            None => Ok(None),
        }
    }

    /// Whether it says something of this id.
    #[inline]
    pub fn overrides(&self, id: u32) -> Result<bool> {
        Ok(self.find(id)?.is_some())
    }

    #[inline]
    fn find(&self, id: u32) -> Result<Option<usize>> {
        Ok(self.block((id >> BLOCK_BITS) as u16)?.and_then(|block| block.find(id as u16)))
    }

    /// What it says of the ids of a block, and their codes; `None`: nothing.
    pub fn overridden(&self, number: u16) -> Result<Option<(&Overridden, &[u64])>> {
        let Some(block) = self.block(number)? else { return Ok(None) };
        let positions = block.positions();
        if positions.is_empty() {
            return Ok(None);
        }
        Ok(Some((block, self.codes.slice(&self.section, positions.start, positions.len())?)))
    }

    fn block(&self, number: u16) -> Result<Option<&Overridden>> {
        let Some(place) = self.blocks.get(usize::from(number)) else { return Ok(None) };
        if let Some(block) = place.get() {
            return Ok(Some(block));
        }
        let first = self.position(u32::from(number) << BLOCK_BITS)?;
        let behind = match number.checked_add(1) {
            Some(next) => self.position(u32::from(next) << BLOCK_BITS)?,
            None => self.len(),
        };
        let ids = (first..behind).map(|n| Ok((self.id(n)? as u16, self.code(n)?))).collect::<Result<Vec<_>>>()?;
        Ok(Some(place.get_or_init(|| Box::new(Overridden::new(first, &ids)))))
    }

    /// Where it is not known to be behind another column of its checkpoint, always the same one; `None`: there is none.
    pub fn ahead_of(&self, other: Option<&Self>) -> Result<&Ahead> {
        if let Some(ahead) = self.ahead.get() {
            return Ok(ahead);
        }
        let ranked = |mut ranks: Range<usize>, pairs: &mut Vec<(u64, u32)>| {
            ranks.try_for_each(|rank| self.ranked(rank).map(|pair| pairs.push(pair)))
        };
        let beside = |id| other.map_or(Ok(None), |other| other.get(id).map(Option::flatten));
        let ahead = Ahead::of(self.values, ranked, beside)?;
        Ok(self.ahead.get_or_init(|| ahead))
    }

    /// Reads it, and makes what queries would make at their first look. `beside`: as for [`SparseColumn::ahead_of`],
    /// where there may be such a column.
    pub fn warm(&self, beside: Option<Option<&Self>>) -> Result<()> {
        (0..self.blocks.len()).try_for_each(|number| self.block(number as u16).map(|_| ()))?;
        beside.map_or(Ok(()), |beside| self.ahead_of(beside).map(|_| ()))
    }

    fn code(&self, n: usize) -> Result<Option<u64>> {
        if self.codeless.get::<u64>(&self.section, n / 64)? >> (n % 64) & 1 == 1 {
            return Ok(None);
        }
        self.codes.get(&self.section, n).map(Some)
    }

    fn id(&self, n: usize) -> Result<u32> {
        let id = self.keys.at(&self.section, n)?;
        u32::try_from(id).map_err(|_| self.section.damaged(0, "an id exceeds 2^32"))
    }

    /// Ids it says something of.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The n-th id, ascending, and what it says of it.
    pub fn nth(&self, n: usize) -> Result<(u32, Option<u64>)> {
        Ok((self.id(n)?, self.code(n)?))
    }

    /// Number of ids below this one.
    pub fn position(&self, id: u32) -> Result<usize> {
        Ok(self.keys.find(&self.section, id.into())?.unwrap_or_else(|at| at))
    }

    /// Ids that have a code.
    pub fn values(&self) -> usize {
        self.values
    }

    /// As [`Column::ranked`], with the code.
    pub fn ranked(&self, rank: usize) -> Result<(u64, u32)> {
        let n = self.order.get::<u32>(&self.section, rank)? as usize;
        Ok((self.codes.get(&self.section, n)?, self.id(n)?))
    }

    /// As [`Column::rank`].
    pub fn rank(&self, code: u64, id: u32) -> Result<usize> {
        let (mut low, mut high) = (0, self.values);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.ranked(middle)? < (code, id) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}
