//! Term → set of ids, for one field of one file. Blocks are numbered over the whole index (id >> 16).
//!
//! One section for each field and [`Role`], made of [parts](super::parts):
//!
//! ```text
//! 0      meta          u64 number of terms that are values; u32 directory of `Exists`, u32 its blocks (0: none)
//! 1      bits          1 024 words a block
//! 2–4    keys          the terms' codes, see `keys`; of texts: nothing
//! 5, 6   texts         u32 a term and one more: where it begins in the bytes; the bytes, sorted
//! 7      starts        u32 for each 64 terms: where the first one's ids begin in `few`
//! 8      forms         u8 a term
//! 9      few           u16: ids of terms that have few
//! 10     directories   of terms that have many
//! 11     arrays        u16: ids of blocks that are neither in `few` nor bits, each at a multiple of 8 bytes
//! ```
//!
//! A term's form says how it lies in `few`, one term behind the other:
//!
//! ```text
//! 1 … 127          that many ids of one block: its number, the ids
//! 128 + (5 … 126)  that many u16: n, n numbers of blocks, n ends of their ids (from the first id on), the ids
//! 255              4 u16: where its directory begins, in units of 8 bytes; the number of its blocks (u32 each)
//! ```
//!
//! A directory is the number of ids (u64), then for each block: its number (u16), ids less one (u16), and where they
//! begin (u32), in units of 8 bytes: in `arrays`, or in `bits` where there are more than [`ARRAY_MAX`]. Where the field has
//! a section of [leaders](super::leaders), one u64 more: where the term's lists begin in there, in units of 4 bytes, plus
//! one; 0: it has none.

mod seek;

use std::{
    cmp::Ordering,
    ops::{Bound, Range, RangeInclusive},
    sync::{Arc, OnceLock},
};

use bitdex_proto::{
    schema::FieldId,
    value::{FieldType, Value},
};
use bytemuck::{Pod, Zeroable};

pub use seek::{seek, sets_at};

use super::{
    kept::Kept,
    keys::{GROUP, Keys, KeysWriter},
    leaders::{Leaders, LeadersWriter},
    parts::{self, Part},
    sets::{ARRAY_MAX, Block, WORDS},
    value::{self, Term, ValueRef},
};
use crate::{
    log::{Error, Result},
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

/// Which of a file's sets of one field: a segment has `Held`, a checkpoint `Added` and `Removed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Held,
    Added,
    Removed,
}

const ONE_MAX: usize = 127;
const FEW: u8 = 128;
const FEW_MAX: usize = 126;
const MANY: u8 = 255;
/// Forms of terms that [`Postings::each_frequent`] tells; in tests several ids are enough.
const FREQUENT: RangeInclusive<u8> = if cfg!(test) { 3..=MANY } else { MANY..=MANY };
/// [`Posting::term`] of `Exists`.
const EXISTS: u32 = u32::MAX;
/// u16 in `few` of a term with a directory.
const MANY_UNITS: usize = 4;

fn section_id(role: Role, field: FieldId) -> SectionId {
    let kind = match role {
        Role::Held => SectionKind::Held,
        Role::Added => SectionKind::Added,
        Role::Removed => SectionKind::Removed,
    };
    SectionId::of(kind, field)
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    number: u16,
    /// Number of ids less one.
    last: u16,
    at: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Meta {
    values: u64,
    exists: u32,
    exists_blocks: u32,
}

impl Entry {
    fn block<'b>(&self, bits: &'b [u64], arrays: &'b [u16]) -> Block<'b> {
        let (count, at) = (usize::from(self.last) + 1, self.at as usize);
        if count <= ARRAY_MAX {
            return Block::of(arrays.get(at * 4..at * 4 + count).unwrap_or_default());
        }
        bits.get(at..).and_then(<[u64]>::first_chunk).map_or(Block::Empty, Block::Bits)
    }
}

/// Writes one field's sets; terms come in ascending order (`Exists` first), and blocks of a term too.
#[derive(Debug)]
pub struct PostingsWriter<'a> {
    role: Role,
    field: FieldId,
    text: bool,
    current: Current,
    exists: (u32, u32),
    values: u64,
    keys: KeysWriter,
    offsets: Vec<u32>,
    texts: Vec<u8>,
    starts: Vec<u32>,
    forms: Vec<u8>,
    few: Vec<u16>,
    directories: Vec<u64>,
    arrays: Vec<u16>,
    bits: Vec<u64>,
    leaders: Option<LeadersWriter<'a>>,
}

/// The term that is being written.
#[derive(Debug, Default)]
struct Current {
    exists: bool,
    code: u64,
    text: Vec<u8>,
    /// Blocks that may become one of the small forms; once there are too many ids, all are in `entries`.
    numbers: Vec<u16>,
    ends: Vec<u16>,
    ids: Vec<u16>,
    entries: Vec<Entry>,
}

impl<'a> PostingsWriter<'a> {
    pub fn new(role: Role, field: FieldId, ty: FieldType) -> Self {
        Self::with_leaders(role, field, ty, None)
    }

    pub(super) fn with_leaders(role: Role, field: FieldId, ty: FieldType, leaders: Option<LeadersWriter<'a>>) -> Self {
        Self {
            role,
            field,
            text: ty == FieldType::String,
            current: Current::default(),
            exists: (0, 0),
            values: 0,
            keys: KeysWriter::default(),
            offsets: Vec::new(),
            texts: Vec::new(),
            starts: Vec::new(),
            forms: Vec::new(),
            few: Vec::new(),
            directories: Vec::new(),
            arrays: Vec::new(),
            bits: Vec::new(),
            leaders,
        }
    }

    /// Starts the next term.
    pub fn term(&mut self, term: Term<'_>) {
        self.close();
        self.current.exists = term == Term::Exists;
        if let Term::Value(value) = term {
            self.current.code = value.code();
            self.current.text.clear();
            if let ValueRef::Text(text) = value {
                self.current.text.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// Adds a block to the current term. Empty ones are left out.
    pub fn block(&mut self, number: u16, block: Block<'_>) {
        let count = block.len() as usize;
        if count == 0 {
            return;
        }
        if self.current.entries.is_empty() {
            if !self.current.exists && self.current.ids.len() + count <= ONE_MAX {
                self.current.numbers.push(number);
                block.for_each(|id| self.current.ids.push(id));
                self.current.ends.push(self.current.ids.len() as u16);
                return;
            }
            self.spill();
        }
        self.entry(number, block, count);
    }

    /// Moves what the current term has so far into a directory.
    fn spill(&mut self) {
        let (numbers, ends, ids) = (
            std::mem::take(&mut self.current.numbers),
            std::mem::take(&mut self.current.ends),
            std::mem::take(&mut self.current.ids),
        );
        let mut start = 0;
        for (number, end) in numbers.iter().zip(&ends) {
            let block = &ids[start..usize::from(*end)];
            self.entry(*number, Block::Array(block), block.len());
            start = usize::from(*end);
        }
        self.current.numbers = numbers;
        self.current.ends = ends;
        self.current.ids = ids;
        self.current.clear_small();
    }

    fn entry(&mut self, number: u16, block: Block<'_>, count: usize) {
        let at = if count > ARRAY_MAX {
            let at = self.bits.len();
            match block {
                Block::Bits(words) => self.bits.extend_from_slice(words),
                _ => {
                    self.bits.resize(at + WORDS, 0);
                    let words = &mut self.bits[at..];
                    block.for_each(|id| words[usize::from(id >> 6)] |= 1 << (id & 63));
                }
            }
            at
        } else {
            let at = self.arrays.len();
            match block {
                Block::Array(ids) => self.arrays.extend_from_slice(ids),
                _ => block.for_each(|id| self.arrays.push(id)),
            }
            self.arrays.resize(self.arrays.len().next_multiple_of(4), 0);
            at / 4
        };
        // Beyond u32: refused by `finish`.
        self.current.entries.push(Entry { number, last: (count - 1) as u16, at: at as u32 });
    }

    /// Writes the current term.
    fn close(&mut self) {
        let blocks = self.current.numbers.len();
        if blocks == 0 && self.current.entries.is_empty() {
            return;
        }
        let units = 1 + 2 * blocks + self.current.ids.len();
        if blocks > 1 && units > FEW_MAX {
            self.spill();
        }
        if !self.current.exists {
            if self.values.is_multiple_of(GROUP as u64) {
                self.starts.push(self.few.len() as u32);
            }
            self.values += 1;
            if self.text {
                self.offsets.push(self.texts.len() as u32);
                self.texts.extend_from_slice(&self.current.text);
            } else {
                self.keys.push(self.current.code);
            }
        }
        let current = &mut self.current;
        if !current.entries.is_empty() {
            let directory = self.directories.len() as u32;
            let ids = current.entries.iter().map(|entry| u64::from(entry.last) + 1).sum();
            self.directories.push(ids);
            self.directories.extend_from_slice(bytemuck::cast_slice(&current.entries));
            if let Some(leaders) = &mut self.leaders {
                let (entries, bits, arrays) = (&current.entries, &self.bits, &self.arrays);
                let lists = match current.exists {
                    true => 0,
                    false => leaders.add(ids, |each| {
                        entries.iter().for_each(|entry| each(entry.number, entry.block(bits, arrays)));
                    }),
                };
                self.directories.push(lists);
            }
            let blocks = current.entries.len() as u32;
            current.entries.clear();
            if current.exists {
                self.exists = (directory, blocks);
            } else {
                self.forms.push(MANY);
                self.few.extend([directory, directory >> 16, blocks, blocks >> 16].map(|half| half as u16));
            }
        } else if blocks == 1 {
            self.forms.push(current.ids.len() as u8);
            self.few.push(current.numbers[0]);
            self.few.extend_from_slice(&current.ids);
        } else {
            self.forms.push(FEW | units as u8);
            self.few.push(blocks as u16);
            self.few.extend_from_slice(&current.numbers);
            self.few.extend_from_slice(&current.ends);
            self.few.extend_from_slice(&current.ids);
        }
        self.current.clear_small();
    }

    /// Bytes held in memory until then.
    pub fn bytes(&self) -> usize {
        self.keys.bytes()
            + self.offsets.capacity() * 4
            + self.texts.capacity()
            + self.starts.capacity() * 4
            + self.forms.capacity()
            + self.few.capacity() * 2
            + self.directories.capacity() * 8
            + self.arrays.capacity() * 2
            + self.bits.capacity() * 8
            + self.leaders.as_ref().map_or(0, LeadersWriter::bytes)
    }

    /// Writes the sections; terms without ids are left out.
    pub fn finish(mut self, pack: &mut PackWriter) -> Result<()> {
        self.close();
        if self.values == 0 && self.exists.1 == 0 {
            return Ok(());
        }
        let most = [self.texts.len(), self.few.len(), self.directories.len(), self.arrays.len() / 4, self.bits.len()];
        if most.into_iter().any(|length| length > u32::MAX as usize) {
            let field = self.field;
            return Err(Error::foreign(format!("the sets of field {field} are larger than one file can hold")));
        }
        if self.text {
            self.offsets.push(self.texts.len() as u32);
        }
        if let Some(leaders) = self.leaders {
            leaders.finish(pack, self.field)?;
        }
        let meta = Meta { values: self.values, exists: self.exists.0, exists_blocks: self.exists.1 };
        let (bases, groups, deltas) = self.keys.finish()?;
        parts::write(
            pack,
            section_id(self.role, self.field),
            [
                bytemuck::bytes_of(&meta),
                bytemuck::cast_slice(&self.bits),
                bytemuck::cast_slice(&bases),
                bytemuck::cast_slice(&groups),
                &deltas,
                bytemuck::cast_slice(&self.offsets),
                &self.texts,
                bytemuck::cast_slice(&self.starts),
                &self.forms,
                bytemuck::cast_slice(&self.few),
                bytemuck::cast_slice(&self.directories),
                bytemuck::cast_slice(&self.arrays),
            ],
        )
    }
}

impl Current {
    fn clear_small(&mut self) {
        self.numbers.clear();
        self.ends.clear();
        self.ids.clear();
    }
}

/// Of one term, by the order of its blocks.
type KeptBlocks = Box<[Kept]>;

#[derive(Debug)]
pub struct Postings {
    section: Section,
    ty: FieldType,
    meta: Meta,
    values: usize,
    keys: Keys,
    bits: Part,
    offsets: Part,
    texts: Part,
    starts: Part,
    forms: Part,
    few: Part,
    directories: Part,
    arrays: Part,
    leaders: Option<Leaders>,
    /// By position of the term; see [`Postings::kept`].
    kept: OnceLock<Box<[OnceLock<KeptBlocks>]>>,
}

impl Postings {
    /// `None` where the file has none of that field.
    pub fn open(pack: &Arc<Pack>, role: Role, field: FieldId, ty: FieldType) -> Result<Option<Self>> {
        let Some(section) = pack.section(section_id(role, field)) else { return Ok(None) };
        let [meta, bits, bases, groups, deltas, offsets, texts, starts, forms, few, directories, arrays] =
            parts::open(&section)?;
        let meta = meta.get::<Meta>(&section, 0)?;
        let text = ty == FieldType::String;
        let keys = Keys::open(&section, [bases, groups, deltas], if text { 0 } else { meta.values })?;
        let values = forms.len();
        if meta.values != values as u64
            || starts.len() != values.div_ceil(GROUP) * 4
            || (text && offsets.len() != (values + 1) * 4)
        {
            return Err(section.damaged(0, "its parts have other lengths than its number of terms says"));
        }
        let leaders = if role == Role::Held { Leaders::open(pack, field)? } else { None };
        let kept = OnceLock::new();
        let all = Self {
            section,
            ty,
            meta,
            values,
            keys,
            bits,
            offsets,
            texts,
            starts,
            forms,
            few,
            directories,
            arrays,
            leaders,
            kept,
        };
        Ok(Some(all))
    }

    /// The fields in whose columns' orders terms have lists.
    pub(super) fn leading(&self) -> &[FieldId] {
        self.leaders.as_ref().map_or(&[], Leaders::columns)
    }

    /// Reads it.
    pub fn warm(&self) -> Result<()> {
        self.section.verify()?;
        self.leaders.as_ref().map_or(Ok(()), Leaders::warm)
    }

    fn has_exists(&self) -> usize {
        usize::from(self.meta.exists_blocks > 0)
    }

    pub fn get(&self, term: Term<'_>) -> Result<Option<Posting<'_>>> {
        Ok(self.get_with_position(term)?.map(|(_, posting)| posting))
    }

    /// With the term's position.
    pub fn get_with_position(&self, term: Term<'_>) -> Result<Option<(usize, Posting<'_>)>> {
        match term {
            Term::Exists if self.meta.exists_blocks == 0 => Ok(None),
            Term::Exists => self.exists().map(|posting| Some((0, posting))),
            Term::Value(value) => match self.find(value)? {
                Ok(position) => self.posting(position).map(|posting| Some((position + self.has_exists(), posting))),
                Err(_) => Ok(None),
            },
        }
    }

    /// Room for what becomes of the blocks of the set at a position, by their order.
    pub fn kept(&self, position: usize, posting: &Posting<'_>) -> &[Kept] {
        let all = self.kept.get_or_init(|| (0..self.len()).map(|_| OnceLock::new()).collect());
        let of_term = all.get(position).map(|kept| kept.get_or_init(|| vec![Kept::new(); posting.blocks()].into()));
        of_term.map_or(&[], |kept| &**kept)
    }

    /// Position among the values, or where it would stand.
    fn find(&self, value: ValueRef<'_>) -> Result<Result<usize, usize>> {
        match (value, self.ty) {
            (ValueRef::Text(text), FieldType::String) => {
                let (mut low, mut high) = (0, self.values);
                while low < high {
                    let middle = low + (high - low) / 2;
                    match self.text(middle)?.cmp(text.as_bytes()) {
                        Ordering::Less => low = middle + 1,
                        Ordering::Equal => return Ok(Ok(middle)),
                        Ordering::Greater => high = middle,
                    }
                }
                Ok(Err(low))
            }
            (ValueRef::Text(_), _) | (_, FieldType::String) => Ok(Err(0)),
            _ => self.keys.find(&self.section, value.code()),
        }
    }

    fn text(&self, position: usize) -> Result<&[u8]> {
        let &[start, end] = self.offsets.slice::<u32>(&self.section, position, 2)? else {
            return Err(self.section.damaged(0, "a text is missing"));
        };
        let Some(length) = end.checked_sub(start) else {
            let at = self.offsets.position::<u32>(position);
            return Err(self.section.damaged(at, "a text ends before it begins"));
        };
        self.texts.slice(&self.section, start as usize, length as usize)
    }

    /// Terms that are values within the bounds, ascending. (Position of the first, position behind the last: see
    /// [`Postings::at`].)
    pub fn range(&self, bounds: (Bound<&Value>, Bound<&Value>)) -> Result<Range<usize>> {
        let low = match bounds.0 {
            Bound::Unbounded => 0,
            Bound::Included(value) => self.find(ValueRef::of(value))?.unwrap_or_else(|at| at),
            Bound::Excluded(value) => self.find(ValueRef::of(value))?.map_or_else(|at| at, |at| at + 1),
        };
        let high = match bounds.1 {
            Bound::Unbounded => self.values,
            Bound::Included(value) => self.find(ValueRef::of(value))?.map_or_else(|at| at, |at| at + 1),
            Bound::Excluded(value) => self.find(ValueRef::of(value))?.unwrap_or_else(|at| at),
        };
        let exists = self.has_exists();
        Ok(low + exists..high.max(low) + exists)
    }

    /// The term at a position, with its set.
    pub fn at(&self, position: usize) -> Result<(Term<'_>, Posting<'_>)> {
        let set = self.set_at(position)?;
        let Some(position) = position.checked_sub(self.has_exists()) else { return Ok((Term::Exists, set)) };
        let value = if self.ty == FieldType::String {
            let text = std::str::from_utf8(self.text(position)?)
                .map_err(|_| self.section.damaged(self.offsets.position::<u32>(position), "a text is not UTF-8"))?;
            ValueRef::Text(text)
        } else {
            match value::decode(self.keys.at(&self.section, position)?, self.ty) {
                Some(Value::Bool(bool)) => ValueRef::Bool(bool),
                Some(Value::Int(int)) => ValueRef::Int(int),
                Some(Value::Float(float)) => ValueRef::Float(float),
                Some(Value::Text(_)) | None => return Err(self.section.damaged(0, "a term has no value")),
            }
        };
        Ok((Term::Value(value), set))
    }

    /// The value that has this code in files of the field's type.
    pub fn value(&self, code: u64) -> Option<Value> {
        value::decode(code, self.ty)
    }

    /// Calls `each` with the codes and sets of values that have a directory; of a field of texts, of none.
    pub fn each_frequent(&self, mut each: impl FnMut(u64, Posting<'_>)) -> Result<()> {
        if self.ty == FieldType::String {
            return Ok(());
        }
        for (position, _) in
            self.forms.all::<u8>(&self.section)?.iter().enumerate().filter(|(_, form)| FREQUENT.contains(form))
        {
            each(self.keys.at(&self.section, position)?, self.posting(position)?);
        }
        Ok(())
    }

    /// Calls `each` with the values that have so many ids or more: the number that [`Posting::term`] tells, and the set.
    pub(super) fn each_with_ids(&self, least: u64, mut each: impl FnMut(u32, Posting<'_>) -> Result<()>) -> Result<()> {
        for (position, form) in self.forms.all::<u8>(&self.section)?.iter().enumerate() {
            if u64::from(form & !FEW) >= least {
                let posting = self.posting(position)?;
                if posting.len() >= least {
                    each(posting.term, posting)?;
                }
            }
        }
        Ok(())
    }

    /// The set of the term at a position.
    pub fn set_at(&self, position: usize) -> Result<Posting<'_>> {
        match position.checked_sub(self.has_exists()) {
            Some(position) => self.posting(position),
            None => self.exists(),
        }
    }

    fn exists(&self) -> Result<Posting<'_>> {
        self.many(EXISTS, self.meta.exists, self.meta.exists_blocks)
    }

    /// Number of terms.
    pub fn len(&self) -> usize {
        self.values + self.has_exists()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The set of the n-th value.
    fn posting(&self, position: usize) -> Result<Posting<'_>> {
        self.formed(self.place(position)?)
    }

    fn place(&self, position: usize) -> Result<Place> {
        let (group, within) = (position / GROUP, position % GROUP);
        let start = self.starts.get::<u32>(&self.section, group)? as usize;
        let forms = self.forms.slice::<u8>(&self.section, group * GROUP, within + 1)?;
        let (&form, before) = forms.split_last().ok_or_else(|| self.no_such_form(position))?;
        let at = start + before.iter().map(|form| u32::from(units(*form))).sum::<u32>() as usize;
        Ok(Place { position, form, at })
    }

    #[cold]
    fn no_such_form(&self, position: usize) -> Error {
        self.section.damaged(self.forms.position::<u8>(position), "a term has no such form")
    }

    fn formed(&self, Place { position, form, at }: Place) -> Result<Posting<'_>> {
        let damaged = || self.no_such_form(position);
        let few = self.few.slice::<u16>(&self.section, at, units(form).into())?;
        let shape = match (form, few) {
            (0, _) => return Err(damaged()),
            (MANY, &[low, high, blocks, blocks_high]) => {
                let join = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
                return self.many(position as u32, join(low, high), join(blocks, blocks_high));
            }
            (1..FEW, [number, ids @ ..]) => Shape::One { number: *number, ids },
            (_, [blocks, rest @ ..]) => {
                let (numbers, rest) = rest.split_at_checked((*blocks).into()).ok_or_else(damaged)?;
                let (ends, ids) = rest.split_at_checked(numbers.len()).ok_or_else(damaged)?;
                if ends.last().copied() != Some(ids.len() as u16) {
                    return Err(damaged());
                }
                Shape::Few { numbers, ends, ids }
            }
            _ => return Err(damaged()),
        };
        Ok(Posting { postings: self, term: position as u32, shape })
    }

    fn many(&self, term: u32, directory: u32, blocks: u32) -> Result<Posting<'_>> {
        let at = directory as usize;
        let total = self.directories.get::<u64>(&self.section, at)?;
        let entries = self.directories.slice::<Entry>(&self.section, at + 1, blocks as usize)?;
        Ok(Posting { postings: self, term, shape: Shape::Many { total, entries, behind: at + 1 + entries.len() } })
    }
}

/// How the set of a value lies in `few`.
#[derive(Debug, Clone, Copy)]
struct Place {
    position: usize,
    form: u8,
    at: usize,
}

/// u16 that a term of this form takes.
fn units(form: u8) -> u16 {
    match form {
        MANY => MANY_UNITS as u16,
        FEW.. => u16::from(form & !FEW),
        _ => u16::from(form) + 1,
    }
}

/// The set of one term.
#[derive(Debug, Clone, Copy)]
pub struct Posting<'a> {
    postings: &'a Postings,
    term: u32,
    shape: Shape<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Shape<'a> {
    One {
        number: u16,
        ids: &'a [u16],
    },
    Few {
        numbers: &'a [u16],
        ends: &'a [u16],
        ids: &'a [u16],
    },
    /// `behind`: where its directory goes on after the entries.
    Many {
        total: u64,
        entries: &'a [Entry],
        behind: usize,
    },
}

impl<'a> Posting<'a> {
    /// Its number among the field's values.
    pub(super) fn term(&self) -> u32 {
        self.term
    }

    /// Number of ids. Cheap.
    pub fn len(&self) -> u64 {
        match self.shape {
            Shape::One { ids, .. } | Shape::Few { ids, .. } => ids.len() as u64,
            Shape::Many { total, .. } => total,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of blocks that are not empty.
    pub fn blocks(&self) -> usize {
        match self.shape {
            Shape::One { .. } => 1,
            Shape::Few { numbers, .. } => numbers.len(),
            Shape::Many { entries, .. } => entries.len(),
        }
    }

    /// Number and ids of the n-th block that is not empty.
    pub fn nth(&self, n: usize) -> Result<(u16, Block<'a>)> {
        match self.shape {
            Shape::One { number, ids } if n == 0 => Some(Ok((number, Block::Array(ids)))),
            Shape::One { .. } => None,
            Shape::Few { numbers, .. } => numbers.get(n).map(|number| Ok((*number, self.few(n)?))),
            Shape::Many { entries, .. } => entries.get(n).map(|entry| Ok((entry.number, self.entry(entry)?))),
        }
        .unwrap_or_else(|| Err(self.postings.section.damaged(0, "a set has fewer blocks than it should have")))
    }

    /// Numbers of the blocks that are not empty, ascending.
    pub fn numbers(&self) -> impl Iterator<Item = u16> + use<'a> {
        let posting = *self;
        (0..posting.blocks()).map_while(move |n| posting.number(n))
    }

    /// Number of the n-th block that is not empty.
    fn number(&self, n: usize) -> Option<u16> {
        match self.shape {
            Shape::One { number, .. } => (n == 0).then_some(number),
            Shape::Few { numbers, .. } => numbers.get(n).copied(),
            Shape::Many { entries, .. } => entries.get(n).map(|entry| entry.number),
        }
    }

    /// Where a block stands among those that are not empty.
    pub fn position(&self, number: u16) -> Option<usize> {
        match self.shape {
            Shape::One { number: only, .. } => (only == number).then_some(0),
            Shape::Few { numbers, .. } => numbers.binary_search(&number).ok(),
            Shape::Many { entries, .. } => entries.binary_search_by_key(&number, |entry| entry.number).ok(),
        }
    }

    /// A block by its number.
    pub fn block(&self, number: u16) -> Result<Block<'a>> {
        match self.shape {
            Shape::One { number: only, ids } if only == number => Ok(Block::Array(ids)),
            Shape::One { .. } => Ok(Block::Empty),
            Shape::Few { numbers, .. } => match numbers.binary_search(&number) {
                Ok(n) => self.few(n),
                Err(_) => Ok(Block::Empty),
            },
            Shape::Many { entries, .. } => find(entries, number).map_or(Ok(Block::Empty), |entry| self.entry(entry)),
        }
    }

    /// The ids with the greatest codes of a column, see [`leaders`](super::leaders): 3 bytes an id, the greatest first.
    /// `None`: it has no such list.
    pub fn leaders(&self, column: FieldId) -> Result<Option<&'a [u8]>> {
        match (self.shape, &self.postings.leaders) {
            (Shape::Many { behind, .. }, Some(leaders)) => leaders.list(self.lists(behind)?, column),
            _ => Ok(None),
        }
    }

    /// Asks for where its lists begin.
    pub fn fetch_leaders(&self) {
        if let (Shape::Many { behind, .. }, Some(leaders)) = (self.shape, &self.postings.leaders)
            && let Ok(place) = self.lists(behind)
        {
            leaders.fetch(place);
        }
    }

    fn lists(&self, behind: usize) -> Result<u64> {
        self.postings.directories.get::<u64>(&self.postings.section, behind)
    }

    /// Number of ids in a block, without touching them.
    pub fn block_len(&self, number: u16) -> Result<u32> {
        Ok(match self.shape {
            Shape::One { .. } | Shape::Few { .. } => self.block(number)?.len(),
            Shape::Many { entries, .. } => find(entries, number).map_or(0, |entry| u32::from(entry.last) + 1),
        })
    }

    fn few(&self, n: usize) -> Result<Block<'a>> {
        let Shape::Few { ends, ids, .. } = self.shape else { return Ok(Block::Empty) };
        let start = n.checked_sub(1).and_then(|before| ends.get(before)).copied().unwrap_or(0);
        let end = ends.get(n).copied().unwrap_or(0);
        match ids.get(start.into()..end.into()) {
            Some(ids) if !ids.is_empty() => Ok(Block::Array(ids)),
            _ => {
                let section = &self.postings.section;
                Err(section.damaged(self.postings.few.position::<u16>(0), "a block ends before it begins"))
            }
        }
    }

    fn entry(&self, entry: &Entry) -> Result<Block<'a>> {
        let Postings { section, bits, arrays, .. } = self.postings;
        let (count, at) = (usize::from(entry.last) + 1, entry.at as usize);
        if count <= ARRAY_MAX {
            return Ok(Block::Array(arrays.slice(section, at * 4, count)?));
        }
        match bits.slice::<u64>(section, at, WORDS)?.first_chunk() {
            Some(words) => Ok(Block::Bits(words)),
            None => Err(section.damaged(bits.position::<u64>(at), "a block has too few words")),
        }
    }
}

/// Blocks mostly follow each other without a gap, so the first place to look is the right one.
fn find(entries: &[Entry], number: u16) -> Option<&Entry> {
    let guess = usize::from(number.checked_sub(entries.first()?.number)?);
    if let Some(entry) = entries.get(guess)
        && entry.number == number
    {
        return Some(entry);
    }
    let at = entries.binary_search_by_key(&number, |entry| entry.number).ok()?;
    entries.get(at)
}
