//! One number an id for all fields that have few values: its cell. Two documents of a cell have the same value in each of
//! these fields, so what tests of them let through is a set of cells, and an id is tested for all of them with one read.
//! How many documents of a block have which cell says how many of them pass.
//!
//! Made from a segment's sets, and kept as long as the segment is open; see
//! [`Segment::cells`](super::segment::Segment::cells). All that the process keeps is bounded.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::Value,
};
use smallvec::SmallVec;

use super::{
    BLOCK_BITS, BLOCKS_PER_SEGMENT, SEGMENT_BITS, columns::Column, postings::Postings, segment::Segment, value::Term,
};
use crate::{log::Result, mapping::ahead::fetch};

/// Bytes that the cells of all open segments may take: an id takes hardly more than one.
const BYTES_MOST: usize = 256 << 20;
/// Terms of a field.
pub const TERMS_MOST: usize = 32;
/// Cells of a segment.
const CELLS_MOST: usize = 4096;
/// The cell of an id that is no document.
const ABSENT: u16 = 0;
/// Stands for the cells that have greater numbers.
const RARE: u8 = u8::MAX;
const IDS: usize = 1 << SEGMENT_BITS;
/// Of all documents with a code one in so many is late, at most.
const LATE: usize = 64;
/// Or so many.
const LATE_LEAST: usize = 64;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// A bit for each cell.
pub type Mask = SmallVec<[u64; 32]>;

#[derive(Debug)]
pub struct Cells {
    fields: Vec<CellField>,
    /// The most frequent cells have the smallest numbers.
    cells: usize,
    /// By id within the segment, up to the last document.
    near: Vec<u8>,
    /// Of those that are `RARE`, by block: id within it, and cell; ids ascend.
    rare: Vec<Vec<(u16, u16)>>,
    /// Documents, by block, then by cell.
    counts: Vec<u32>,
    /// Documents, by cell.
    totals: Vec<u32>,
    /// See [`Cells::late`].
    late: OnceLock<Late>,
    bytes: usize,
}

/// The documents with the greatest codes of one column.
#[derive(Debug)]
pub struct Late {
    /// All that have greater codes are there.
    since: u64,
    /// By code, ascending.
    documents: Vec<LateDocument>,
}

#[derive(Debug)]
struct LateDocument {
    code: u64,
    /// Of its block in the segment.
    block: u16,
    cell: u16,
}

/// Which cells documents of a field's values have.
#[derive(Debug)]
pub struct CellField {
    field: FieldId,
    /// Ascending.
    values: Vec<Value>,
    /// First that of documents without a value, then by value.
    masks: Vec<Vec<u64>>,
}

impl CellField {
    /// The cells of documents without a value.
    pub fn none(&self) -> &[u64] {
        self.masks.first().map_or(&[], Vec::as_slice)
    }

    /// The cells of documents that have a value.
    pub fn of(&self, value: &Value) -> Option<&[u64]> {
        let at = self.values.binary_search(value).ok()?;
        self.masks.get(at + 1).map(Vec::as_slice)
    }

    /// Each value with the cells of documents that have it.
    pub fn values(&self) -> impl Iterator<Item = (&Value, &[u64])> {
        self.values.iter().zip(self.masks.iter().skip(1).map(Vec::as_slice))
    }
}

impl Drop for Cells {
    fn drop(&mut self) {
        HELD.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether another segment's may be made.
pub(super) fn has_room() -> bool {
    held() + IDS <= BYTES_MOST
}

/// Bytes that cells take, of heap.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// Cells that are told apart by the fields that were looked at so far.
struct Making {
    /// By id within the segment.
    of: Vec<u16>,
    /// By cell: which value it has of each field, plus one; 0: none.
    cells: Vec<SmallVec<[u8; 12]>>,
    fields: Vec<CellField>,
}

impl Cells {
    /// `fields`: those that documents have one value of. `None` where they tell nothing apart.
    pub(super) fn of(segment: &Segment, fields: &[FieldId]) -> Result<Option<Self>> {
        let Some(present) = segment.posting(KEY_FIELD, Term::Exists)? else { return Ok(None) };
        let Some(last) = present.blocks().checked_sub(1) else { return Ok(None) };
        let (number, block) = present.nth(last)?;
        let behind = block.iter().next_back().map_or(0, |id| within(number, id) + 1);
        let mut making = Making { of: vec![ABSENT; behind], cells: vec![SmallVec::new(); 2], fields: Vec::new() };
        for n in 0..present.blocks() {
            let (number, block) = present.nth(n)?;
            block.for_each(|id| {
                if let Some(cell) = making.of.get_mut(within(number, id)) {
                    *cell = ABSENT + 1;
                }
            });
        }
        // Where there are none, no document has a value.
        let terms = |postings: Option<&Postings>| postings.map_or(0, Postings::len);
        let few = fields.iter().map(|field| (*field, segment.postings(*field)));
        let mut few: Vec<_> = few.filter(|(_, postings)| terms(*postings) <= TERMS_MOST).collect();
        few.sort_by_key(|(_, postings)| terms(*postings));
        let mut values = Vec::new();
        for (field, postings) in few {
            making.tell_apart(field, postings, &mut values)?;
        }
        if making.fields.is_empty() {
            return Ok(None);
        }
        let made = making.finish();
        HELD.fetch_add(made.bytes, Ordering::Relaxed);
        Ok(Some(made))
    }

    /// The cells that all documents together have.
    pub fn all(&self) -> Mask {
        let mut all: Mask = SmallVec::from_elem(u64::MAX, self.cells.div_ceil(64));
        if let Some(first) = all.first_mut() {
            *first &= !(1 << ABSENT);
        }
        if let Some(last) = all.last_mut()
            && !self.cells.is_multiple_of(64)
        {
            *last &= (1 << (self.cells % 64)) - 1;
        }
        all
    }

    /// What cells say of a field; `None`: nothing.
    pub fn field(&self, field: FieldId) -> Option<&CellField> {
        self.fields.iter().find(|it| it.field == field)
    }

    /// Those of a block, by its number in the segment.
    pub fn block(&self, n: usize) -> CellsOf<'_> {
        let first = n << BLOCK_BITS;
        let behind = (first + (1 << BLOCK_BITS)).min(self.near.len());
        CellsOf {
            near: self.near.get(first..behind).unwrap_or_default(),
            rare: self.rare.get(n).map_or(&[], Vec::as_slice),
        }
    }

    /// Whether the cell of an id of the segment is in the mask.
    #[inline]
    pub fn passes(&self, id: u32, mask: &[u64]) -> bool {
        self.near_passes(id, self.near(id), mask)
    }

    /// The cell of an id of the segment as one byte tells it; see [`Cells::near_passes`].
    pub(super) fn near(&self, id: u32) -> u8 {
        self.near.get(id as usize & (IDS - 1)).copied().unwrap_or(ABSENT as u8)
    }

    /// Whether the cell of an id of the segment is in the mask, by its byte.
    #[inline]
    pub fn near_passes(&self, id: u32, cell: u8, mask: &[u64]) -> bool {
        match cell {
            RARE => is_in(self.block((id as usize & (IDS - 1)) >> BLOCK_BITS).rarely(id as u16), mask),
            cell => is_in(cell.into(), mask),
        }
    }

    /// Asks for the cell of an id of the segment before it is read.
    #[inline]
    pub fn fetch(&self, id: u32) {
        self.near.get(id as usize & (IDS - 1)).into_iter().for_each(fetch);
    }

    /// The documents of a block whose cells are in the mask.
    pub fn count(&self, n: usize, mask: &[u64]) -> u64 {
        Self::sum(self.counts.get(n * self.cells..(n + 1) * self.cells).unwrap_or_default(), mask)
    }

    /// The same of all blocks.
    pub fn count_all(&self, mask: &[u64]) -> u64 {
        Self::sum(&self.totals, mask)
    }

    /// The documents of its segment that have the greatest codes in a column: always the same one. `None`: there may be
    /// others with a greater code than `most`.
    pub fn late(&self, column: &Column, most: u64) -> Result<Option<&Late>> {
        let late = match self.late.get() {
            Some(late) => late,
            None => {
                let late = self.latest(column)?;
                self.late.get_or_init(|| late)
            }
        };
        Ok(Some(late).filter(|late| late.since <= most))
    }

    fn latest(&self, column: &Column) -> Result<Late> {
        let first = column.len().saturating_sub((column.len() / LATE).max(LATE_LEAST));
        let (mut pairs, mut documents) = (Vec::new(), Vec::new());
        column.ranked_pairs(first.saturating_sub(1)..column.len(), &mut pairs)?;
        // The first is the greatest of all others.
        let since = if first > 0 { pairs.first().map_or(u64::MAX, |(code, _)| *code) } else { 0 };
        for (code, id) in pairs.into_iter().filter(|(code, _)| *code > since) {
            let block = (id >> BLOCK_BITS) as u16 % BLOCKS_PER_SEGMENT;
            documents.push(LateDocument { code, block, cell: self.block(block.into()).cell(id as u16) });
        }
        Ok(Late { since, documents })
    }

    fn sum(counts: &[u32], mask: &[u64]) -> u64 {
        let mut sum = 0;
        for (word, counts) in mask.iter().zip(counts.chunks(64)) {
            let mut rest = *word;
            while rest != 0 {
                sum += u64::from(counts.get(rest.trailing_zeros() as usize).copied().unwrap_or(0));
                rest &= rest - 1;
            }
        }
        sum
    }
}

/// The cells of a block's ids.
#[derive(Debug, Clone, Copy)]
pub struct CellsOf<'a> {
    near: &'a [u8],
    rare: &'a [(u16, u16)],
}

impl Late {
    /// Those with greater codes than `most` whose cells are in the mask, and whose blocks are in `blocks` (a bit each).
    pub fn count(&self, most: u64, mask: &[u64], blocks: u16) -> u64 {
        let from = self.documents.partition_point(|document| document.code <= most);
        let counts = |document: &&LateDocument| blocks >> document.block & 1 == 1 && is_in(document.cell, mask);
        self.documents.get(from..).unwrap_or_default().iter().filter(counts).count() as u64
    }
}

#[inline]
fn is_in(cell: u16, mask: &[u64]) -> bool {
    mask.get(usize::from(cell >> 6)).is_some_and(|word| word >> (cell & 63) & 1 == 1)
}

impl CellsOf<'_> {
    /// Whether an id's cell is in the mask.
    #[inline]
    pub fn passes(&self, id: u16, mask: &[u64]) -> bool {
        is_in(self.cell(id), mask)
    }

    #[inline]
    fn cell(&self, id: u16) -> u16 {
        match self.near.get(usize::from(id)) {
            Some(&RARE) => self.rarely(id),
            Some(cell) => (*cell).into(),
            None => ABSENT,
        }
    }

    fn rarely(&self, id: u16) -> u16 {
        let at = self.rare.binary_search_by_key(&id, |(id, _)| *id);
        at.ok().and_then(|at| self.rare.get(at)).map_or(ABSENT, |(_, cell)| *cell)
    }

    /// Asks for the cell of an id before it is read.
    #[inline]
    pub fn fetch(&self, id: u16) {
        self.near.get(usize::from(id)).into_iter().for_each(fetch);
    }
}

/// Number of an id within its segment. `number`: of its block, over the whole index.
fn within(number: u16, id: u16) -> usize {
    usize::from(number % BLOCKS_PER_SEGMENT) << BLOCK_BITS | usize::from(id)
}

impl Making {
    /// Tells documents with different values apart, unless any has several, or there would be too many cells. `values`:
    /// room.
    fn tell_apart(&mut self, field: FieldId, postings: Option<&Postings>, values: &mut Vec<u8>) -> Result<()> {
        values.clear();
        values.resize(self.of.len(), 0);
        let mut found = Vec::new();
        for (postings, position) in postings.into_iter().flat_map(|it| (0..it.len()).map(move |at| (it, at))) {
            let (Term::Value(value), posting) = postings.at(position)? else { continue };
            found.push(value.to_value());
            let (value, mut several) = (found.len() as u8, false);
            for n in 0..posting.blocks() {
                let (number, block) = posting.nth(n)?;
                block.for_each(|id| {
                    if let Some(held) = values.get_mut(within(number, id)) {
                        several |= std::mem::replace(held, value) != 0;
                    }
                });
            }
            if several {
                return Ok(());
            }
        }
        let choices = found.len() + 1;
        let mut numbers = vec![ABSENT; self.cells.len() * choices];
        let mut cells = vec![SmallVec::new()];
        for (cell, value) in self.of.iter().zip(values.iter()).filter(|(cell, _)| **cell != ABSENT) {
            let number = &mut numbers[usize::from(*cell) * choices + usize::from(*value)];
            if *number == ABSENT {
                if cells.len() == CELLS_MOST {
                    return Ok(());
                }
                *number = cells.len() as u16;
                let mut parts = self.cells[usize::from(*cell)].clone();
                parts.push(*value);
                cells.push(parts);
            }
        }
        for (cell, value) in self.of.iter_mut().zip(values.iter()) {
            *cell = numbers[usize::from(*cell) * choices + usize::from(*value)];
        }
        self.cells = cells;
        self.fields.push(CellField { field, values: found, masks: Vec::new() });
        Ok(())
    }

    fn finish(self) -> Cells {
        let Self { of, cells, mut fields } = self;
        let mut documents = vec![0_u32; cells.len()];
        of.iter().for_each(|cell| documents[usize::from(*cell)] += 1);
        // Old numbers in their new order.
        let mut order: Vec<u16> = (1..cells.len() as u16).collect();
        order.sort_by_key(|cell| std::cmp::Reverse(documents[usize::from(*cell)]));
        order.insert(0, ABSENT);
        let mut numbers = vec![ABSENT; cells.len()];
        for (old, new) in order.iter().zip(0..) {
            numbers[usize::from(*old)] = new;
        }
        let length = of.iter().rposition(|cell| *cell != ABSENT).map_or(0, |last| last + 1);
        let blocks = length.div_ceil(1 << BLOCK_BITS);
        let (mut near, mut rare) = (Vec::with_capacity(length), vec![Vec::new(); blocks]);
        let mut counts = vec![0; blocks * cells.len()];
        let totals = order.iter().map(|cell| documents[usize::from(*cell)]).collect();
        for (id, cell) in of.iter().take(length).enumerate() {
            let (cell, block) = (numbers[usize::from(*cell)], id >> BLOCK_BITS);
            counts[block * cells.len() + usize::from(cell)] += 1;
            if cell < RARE.into() {
                near.push(cell as u8);
            } else {
                near.push(RARE);
                rare[block].push((id as u16, cell));
            }
        }
        rare.iter_mut().for_each(Vec::shrink_to_fit);
        let words = cells.len().div_ceil(64);
        for (n, field) in fields.iter_mut().enumerate() {
            field.masks = vec![vec![0; words]; field.values.len() + 1];
            for (cell, old) in order.iter().enumerate().skip(1) {
                let value = cells[usize::from(*old)][n];
                field.masks[usize::from(value)][cell >> 6] |= 1 << (cell & 63);
            }
        }
        let masks: usize = fields.iter().map(|field| field.masks.len() * words * 8).sum();
        let rarely: usize = rare.iter().map(|ids| ids.len() * 4).sum();
        let late = length.div_ceil(LATE).max(LATE_LEAST) * size_of::<LateDocument>();
        let bytes = near.len() + rarely + counts.len() * 4 + masks + late;
        Cells { fields, cells: cells.len(), near, rare, counts, totals, late: OnceLock::new(), bytes }
    }
}
