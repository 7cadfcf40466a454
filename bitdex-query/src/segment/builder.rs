//! Builds a segment from documents in ascending order of their ids.
//!
//! Rows go into the file as they come. Codes stay in memory as packed as they will be in the file. Of a field's terms
//! the first few (in a field of few values: all) have a bitmap each; the ids of all others are kept as one stream for
//! the field, in the order of the documents, and counted out by term at the end, one field at a time.

use std::{path::Path, sync::Arc};

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::FieldType,
};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    BLOCKS_PER_SEGMENT, Index, SEGMENT_BITS, Spec,
    columns::ColumnWriter,
    documents::DocumentsWriter,
    leaders::{self, LeadersWriter, Leading},
    postings::{PostingsWriter, Role},
    segment::{HEADER, Header, fingerprint},
    sets::{Block, WORDS},
    value::{self, Term, ValueRef},
};
use crate::{
    log::{Result, disk::Disk},
    store::{
        format::{self, Stamp},
        pack::{PackKind, PackWriter},
    },
};

const IN_SEGMENT: u32 = (1 << SEGMENT_BITS) - 1;
/// Terms of a field that have bitmaps of their own.
const BITMAPS: usize = 32;
/// Integers below this one are numbered by a plain table.
const SMALL: usize = 1 << 16;
/// Begins the numbers of a document's terms in the stream.
const DOCUMENT: u32 = 1 << 31;

#[derive(Debug)]
pub struct SegmentBuilder {
    pack: PackWriter,
    documents: DocumentsWriter,
    header: Header,
    id: u32,
    fields: Vec<FieldBuilder>,
}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Length of the file.
    pub bytes: u64,
    /// Present documents.
    pub documents: u64,
}

impl SegmentBuilder {
    pub fn create(
        disk: &Arc<dyn Disk>,
        path: &Path,
        store: impl Into<Stamp>,
        spec: &Spec,
        number: u32,
        sequence: u64,
    ) -> Result<Self> {
        let mut pack = PackWriter::create(disk, path, PackKind::Segment, store)?;
        let documents = DocumentsWriter::new(&mut pack, number, spec.slots)?;
        let header = Header { number, zero: 0, sequence, documents: 0, hash: [0; 2], spec: fingerprint(spec) };
        let fields = spec.fields.iter().enumerate();
        let fields = fields.map(|(field, (index, ty))| FieldBuilder::new(field, *index, *ty, number)).collect();
        Ok(Self { pack, documents, header, id: 0, fields })
    }

    /// The next document's rows; ids ascending. Where it is `present`, its values follow by [`SegmentBuilder::value`].
    pub fn document(&mut self, id: u32, slots: &[Option<&[u8]>], present: bool) -> Result<()> {
        self.id = id;
        if present {
            self.header.documents += 1;
            if let Some(key) = self.fields.get_mut(KEY_FIELD) {
                key.exists.insert(id & IN_SEGMENT);
            }
        }
        self.documents.push(&mut self.pack, id, slots)
    }

    /// A value of the current document in an indexed field; those of one field may come in any order and twice.
    #[inline]
    pub fn value(&mut self, field: FieldId, value: ValueRef<'_>) {
        if let Some(field) = self.fields.get_mut(field) {
            field.insert(self.id, value);
        }
    }

    /// Bytes held in memory, and what finishing will take beside them. Not for each document: it asks all fields.
    pub fn bytes(&self) -> usize {
        let leading = self.fields.iter().filter(|field| field.may_lead()).count();
        self.documents.bytes()
            + self.fields.iter().map(FieldBuilder::bytes).sum::<usize>()
            + self.fields.iter().map(|field| field.finishing(leading)).max().unwrap_or(0)
    }

    /// Writes the rest, and publishes the file under its name. `hash`: sum of the hashes of all rows in it.
    pub fn finish(self, hash: u128) -> Result<Built> {
        let Self { mut pack, documents, mut header, fields, .. } = self;
        documents.finish(&mut pack)?;
        write_fields(&mut pack, fields, header.documents)?;
        header.hash = [hash as u64, (hash >> 64) as u64];
        pack.section(HEADER)?;
        pack.write(bytemuck::bytes_of(&header))?;
        Ok(Built { bytes: pack.finish()?, documents: header.documents })
    }
}

fn write_fields(pack: &mut PackWriter, mut fields: Vec<FieldBuilder>, documents: u64) -> Result<()> {
    if pack.format() < format::LEADERS {
        for mut field in fields {
            let column = field.column.take();
            field.write_sets(pack, None)?;
            column.map_or(Ok(()), |column| column.finish(pack).map(drop))?;
        }
        return Ok(());
    }
    let mut written = Vec::new();
    for field in &mut fields {
        let may_lead = field.may_lead();
        if let Some(column) = field.column.take() {
            let column = column.finish(pack)?;
            if may_lead {
                written.push((field.field, column));
            }
        }
    }
    let leading = written.iter().filter_map(|(field, column)| Some(Leading { field: *field, codes: column.codes()? }));
    let leading: Vec<_> = leading.collect();
    for field in fields {
        let leaders = (field.index == Index::Terms && !leading.is_empty())
            .then(|| LeadersWriter::new(&leading, documents, field.terms.lists(leading.len())));
        field.write_sets(pack, leaders)?;
    }
    Ok(())
}

/// A set of a segment's ids (from 0 on).
#[derive(Debug, Default)]
struct Bitmap {
    blocks: [Option<Box<[u64; WORDS]>>; BLOCKS_PER_SEGMENT as usize],
}

impl Bitmap {
    #[inline]
    fn insert(&mut self, id: u32) {
        let block = self.blocks[(id >> 16 & 15) as usize].get_or_insert_with(|| Box::new([0; WORDS]));
        block[(id >> 6) as usize & (WORDS - 1)] |= 1 << (id & 63);
    }

    fn write(&self, first_block: u16, to: &mut PostingsWriter<'_>) {
        for (block, number) in self.blocks.iter().zip(first_block..=u16::MAX) {
            if let Some(words) = block {
                to.block(number, Block::Bits(words));
            }
        }
    }

    fn bytes(&self) -> usize {
        self.blocks.iter().flatten().count() * WORDS * 8
    }
}

#[derive(Debug)]
struct FieldBuilder {
    field: FieldId,
    index: Index,
    ty: FieldType,
    segment: u32,
    exists: Bitmap,
    /// Where it has one.
    column: Option<ColumnWriter>,
    /// The document whose value came last: a column takes one of each.
    last: Option<u32>,
    terms: Terms,
}

impl FieldBuilder {
    fn new(field: FieldId, index: Index, ty: FieldType, segment: u32) -> Self {
        let column = (index == Index::Column).then(|| ColumnWriter::dense(field, segment));
        let (exists, terms) = (Bitmap::default(), Terms::default());
        Self { field, index, ty, segment, exists, column, last: None, terms }
    }

    #[inline]
    fn insert(&mut self, id: u32, value: ValueRef<'_>) {
        let first = self.last != Some(id);
        match (self.index, &mut self.column) {
            (Index::Terms, _) => self.terms.insert(id & IN_SEGMENT, value),
            (Index::Column, Some(column)) if first => column.push(id, Some(value.code())),
            _ => return,
        }
        if first {
            self.exists.insert(id & IN_SEGMENT);
            self.last = Some(id);
        }
    }

    fn bytes(&self) -> usize {
        self.exists.bytes() + self.column.as_ref().map_or(0, ColumnWriter::bytes) + self.terms.bytes()
    }

    /// Whether terms may have lists in the order of its column.
    fn may_lead(&self) -> bool {
        self.column.is_some() && leaders::are_made_for(self.ty)
    }

    /// Bytes that writing it takes beside. `leading`: columns in whose order terms may have lists.
    fn finishing(&self, leading: usize) -> usize {
        self.column.as_ref().map_or(0, ColumnWriter::finishing) + self.terms.finishing() + self.terms.lists(leading)
    }

    fn write_sets(self, pack: &mut PackWriter, leaders: Option<LeadersWriter<'_>>) -> Result<()> {
        let Self { field, ty, segment, exists, terms, .. } = self;
        let first_block = (segment << (SEGMENT_BITS - 16)) as u16;
        let mut postings = PostingsWriter::with_leaders(Role::Held, field, ty, leaders);
        postings.term(Term::Exists);
        exists.write(first_block, &mut postings);
        drop(exists);
        terms.write(ty, first_block, &mut postings);
        postings.finish(pack)
    }
}

/// The values of a field, numbered as they first came, and the ids of each.
#[derive(Debug, Default)]
struct Terms {
    /// By number.
    codes: Vec<u64>,
    /// Of texts: by number, where each ends.
    ends: Vec<u32>,
    texts: Vec<u8>,
    /// Code (of a text: its hash) → number + 1; 0: free. Length: a power of two, at least twice the number of terms.
    slots: Vec<(u64, u32)>,
    recent: Option<(u64, u32)>,
    /// Of integers from 0 to 65 535: number + 1.
    small: Vec<u32>,
    bitmaps: Vec<Bitmap>,
    /// For each document that has terms without bitmaps: `DOCUMENT | id`, then their numbers.
    stream: Vec<u32>,
    streamed: Option<u32>,
    /// How often each number stands in the stream (those with bitmaps left out).
    counts: Vec<u32>,
    /// Of these, terms that may have lists of their first ids, and the ids of one list of each.
    terms_listed: usize,
    ids_listed: usize,
}

impl Terms {
    #[inline]
    fn insert(&mut self, id: u32, value: ValueRef<'_>) {
        let number = match value {
            ValueRef::Text(text) => self.text(text),
            _ => {
                let code = value.code();
                match self.recent {
                    Some((recent, number)) if recent == code => number,
                    _ => self.number(code),
                }
            }
        };
        match self.bitmaps.get_mut(number as usize) {
            Some(bitmap) => bitmap.insert(id),
            None => {
                if self.streamed != Some(id) {
                    self.stream.push(DOCUMENT | id);
                    self.streamed = Some(id);
                }
                self.stream.push(number);
                if let Some(count) = self.counts.get_mut(number as usize - BITMAPS) {
                    *count += 1;
                    match u64::from(*count) {
                        leaders::IDS_LEAST => {
                            self.terms_listed += 1;
                            self.ids_listed += leaders::IDS_LEAST as usize;
                        }
                        ids if ids > leaders::IDS_LEAST && ids <= leaders::MOST as u64 => self.ids_listed += 1,
                        _ => {}
                    }
                }
            }
        }
    }

    fn number(&mut self, code: u64) -> u32 {
        let int = (code ^ 1 << 63) as usize;
        if int < SMALL {
            return self.small(int, code);
        }
        self.grow();
        let mask = self.slots.len() - 1;
        let mut at = spread(code) & mask;
        let number = loop {
            match self.slots[at] {
                (_, 0) => {
                    let number = self.add();
                    self.slots[at] = (code, number + 1);
                    self.codes.push(code);
                    break number;
                }
                (found, number) if found == code => break number - 1,
                _ => at = (at + 1) & mask,
            }
        };
        self.recent = Some((code, number));
        number
    }

    #[inline]
    fn small(&mut self, int: usize, code: u64) -> u32 {
        if int >= self.small.len() {
            self.small.resize((int + 1).next_power_of_two(), 0);
        }
        if self.small[int] == 0 {
            self.small[int] = self.add() + 1;
            self.codes.push(code);
        }
        self.small[int] - 1
    }

    fn text(&mut self, text: &str) -> u32 {
        let hash = xxh3_64(text.as_bytes());
        self.grow();
        let mask = self.slots.len() - 1;
        let mut at = spread(hash) & mask;
        loop {
            match self.slots[at] {
                (_, 0) => {
                    let number = self.add();
                    self.slots[at] = (hash, number + 1);
                    self.texts.extend_from_slice(text.as_bytes());
                    self.ends.push(self.texts.len() as u32);
                    return number;
                }
                (found, number) if found == hash && self.bytes_of(number - 1) == text.as_bytes() => return number - 1,
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn bytes_of(&self, number: u32) -> &[u8] {
        let n = number as usize;
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.texts[start as usize..self.ends[n] as usize]
    }

    /// The number of a new term.
    fn add(&mut self) -> u32 {
        let number = self.len() as u32;
        if self.bitmaps.len() < BITMAPS {
            self.bitmaps.push(Bitmap::default());
        } else {
            self.counts.push(0);
        }
        number
    }

    fn len(&self) -> usize {
        self.bitmaps.len() + self.counts.len()
    }

    fn grow(&mut self) {
        if self.len() * 2 < self.slots.len() {
            return;
        }
        let length = (self.slots.len() * 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![(0, 0); length]);
        for slot in old.into_iter().filter(|slot| slot.1 != 0) {
            let mut at = spread(slot.0) & (length - 1);
            while self.slots[at].1 != 0 {
                at = (at + 1) & (length - 1);
            }
            self.slots[at] = slot;
        }
    }

    fn bytes(&self) -> usize {
        self.codes.capacity() * 8
            + self.ends.capacity() * 4
            + self.texts.capacity()
            + self.slots.capacity() * 16
            + self.small.capacity() * 4
            + self.bitmaps.iter().map(Bitmap::bytes).sum::<usize>()
            + self.stream.capacity() * 4
            + self.counts.capacity() * 4
    }

    fn finishing(&self) -> usize {
        // Ids by term; then, without the stream, the postings: at most as much again with their directory.
        self.stream.len() * 4 + self.len() * 16 + self.bitmaps.iter().map(Bitmap::bytes).sum::<usize>()
    }

    /// Bytes of lists in the order of so many columns, at most.
    fn lists(&self, columns: usize) -> usize {
        let of_terms = self.terms_listed + self.bitmaps.len();
        // Each begins with numbers, and ends with zeros.
        let ids = self.ids_listed + self.bitmaps.len() * leaders::MOST;
        columns * (ids * leaders::WIDTH + of_terms * 4) + of_terms * 4
    }

    /// Ids by number of those without bitmaps: number n's end at `ends[n]`, and those of the next begin at
    /// `starts[n + 1]`.
    fn sorted(stream: Vec<u32>, counts: &[u32]) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
        let mut starts = Vec::with_capacity(counts.len());
        let mut total = 0;
        for count in counts {
            starts.push(total);
            total += count;
        }
        let mut ends = starts.clone();
        let mut ids = vec![0; total as usize];
        let mut id = 0;
        for entry in stream {
            if entry & DOCUMENT != 0 {
                id = entry & !DOCUMENT;
                continue;
            }
            let number = entry as usize - BITMAPS;
            let (start, end) = (starts[number] as usize, ends[number] as usize);
            // A value that came twice.
            if end > start && ids[end - 1] == id {
                continue;
            }
            ids[end] = id;
            ends[number] += 1;
        }
        (ids, starts, ends)
    }

    fn write(mut self, ty: FieldType, first_block: u16, to: &mut PostingsWriter<'_>) {
        self.slots = Vec::new();
        self.small = Vec::new();
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        if ty == FieldType::String {
            order.sort_unstable_by(|a, b| self.bytes_of(*a).cmp(self.bytes_of(*b)));
        } else {
            order.sort_unstable_by_key(|number| self.codes[*number as usize]);
        }
        let (ids, starts, ends) = Self::sorted(std::mem::take(&mut self.stream), &self.counts);
        let mut block = Vec::new();
        for number in order {
            let n = number as usize;
            match self.codes.get(n).map(|code| value::decode(*code, ty)) {
                Some(Some(value)) => to.term(Term::Value(ValueRef::of(&value))),
                _ => match std::str::from_utf8(self.bytes_of(number)) {
                    Ok(text) => to.term(Term::Value(ValueRef::Text(text))),
                    Err(_) => continue,
                },
            }
            if let Some(bitmap) = self.bitmaps.get(n) {
                bitmap.write(first_block, to);
                continue;
            }
            let n = n - BITMAPS;
            let mut rest = &ids[starts[n] as usize..ends[n] as usize];
            while let Some(first) = rest.first() {
                let number = first >> 16;
                let length = rest.partition_point(|id| id >> 16 == number);
                block.clear();
                block.extend(rest[..length].iter().map(|id| *id as u16));
                to.block(first_block + number as u16, Block::Array(&block));
                rest = &rest[length..];
            }
        }
    }
}

/// Neighbouring codes come to lie apart, and equal lower bits do not matter.
fn spread(code: u64) -> usize {
    (code.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}
