//! Writing columns.

use bitdex_proto::schema::FieldId;
use bytemuck::Zeroable as _;

use super::{Codes, FENCE, Head, IN_SEGMENT, Meta, SparseMeta, unpack};
use crate::{
    log::Result,
    segment::{SEGMENT_BITS, keys::KeysWriter, parts, peaks, tops},
    store::{
        format,
        pack::{PackWriter, SectionId, SectionKind},
    },
};

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
    pub(in crate::segment) fn finishing(&self) -> usize {
        match &self.kind {
            Writer::Dense(dense) => dense.values * 20,
            Writer::Sparse(sparse) => sparse.ids.len() * 4,
        }
    }

    /// Sorts, and writes the sections.
    pub fn finish(self, pack: &mut PackWriter) -> Result<Written> {
        match self.kind {
            Writer::Dense(dense) => dense.finish(pack, self.field),
            Writer::Sparse(sparse) => sparse.finish(pack, self.field).map(|()| Written(None)),
        }
    }
}

/// The codes of a column of a segment that do not follow its ids.
#[derive(Debug)]
pub struct Written(Option<Dense>);

impl Written {
    /// `None`: they do.
    pub(in crate::segment) fn codes(&self) -> Option<Codes<'_>> {
        let Dense { segment, heads, codes, .. } = self.0.as_ref()?;
        Some(Codes { segment: *segment, heads, codes, order: &[] })
    }
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

    fn finish(mut self, pack: &mut PackWriter, field: FieldId) -> Result<Written> {
        if !self.open.is_empty() {
            self.close();
        }
        self.open = Vec::new();
        self.codes.extend_from_slice(&[0; 8]);
        let (order, fences) = self.sorted();
        let meta = Meta { segment: self.segment, blocks: self.heads.len() as u32, values: self.values as u64 };
        let codes = Codes { segment: self.segment, heads: &self.heads, codes: &self.codes, order: &order };
        parts::write(
            pack,
            SectionId::of(SectionKind::Column, field),
            [
                bytemuck::bytes_of(&meta),
                bytemuck::cast_slice(&self.heads),
                &self.codes,
                &order,
                bytemuck::cast_slice(&fences),
            ],
        )?;
        if pack.format() < format::BOUNDS || tops::write(pack, field, codes)? {
            return Ok(Written(None));
        }
        peaks::write(pack, field, codes)?;
        Ok(Written(Some(self)))
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
            SectionId::of(SectionKind::SparseColumn, field),
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
