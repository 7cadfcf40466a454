//! Id → the rows of all places of that document (its slots), of one segment.
//!
//! Two sections. The first is the data: one record a document that has any row, in the order of their ids:
//!
//! ```text
//! mask      a bit for each slot that has a row, (slots + 7) / 8 bytes
//! lengths   of the rows but the last one: 7 bits a byte, lowest first, the top bit says that more follow
//! rows      one behind the other
//! ```
//!
//! The second is made of [parts](super::parts), and says where records lie. Ids are in groups of 64 (of the segment's
//! ids, from 0 on; groups behind the last one with a record are left out):
//!
//! ```text
//! 0   meta     u32 segment, u32 slots
//! 1   groups   16 bytes a group: u64 where its first record begins, u32 where its ends begin (in units of 2 bytes),
//!              u32 width of an end: 2, 4, or 0 for a group without records
//! 2   ends     u16 or u32 an id: where its record ends, from the group's first on; one that has none ends where the
//!              one before does
//! ```

use std::sync::Arc;

use bytemuck::{Pod, Zeroable};
use smallvec::SmallVec;

use super::{
    SEGMENT_BITS,
    parts::{self, Part},
};
use crate::{
    log::{Error, Result},
    mapping::ahead::{fetch, fetch_all},
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

/// The rows of one document, by slot; `None`: there is none.
pub type Slots<'a> = SmallVec<[Option<&'a [u8]>; 16]>;

const GROUP: usize = 64;
const DATA: SectionId = SectionId { kind: SectionKind::DocumentData, place: 0 };
const INDEX: SectionId = SectionId { kind: SectionKind::DocumentIndex, place: 0 };

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Meta {
    segment: u32,
    slots: u32,
}

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Group {
    start: u64,
    ends: u32,
    width: u32,
}

/// Writes front to back while ids come in; only offsets stay in memory.
#[derive(Debug)]
pub struct DocumentsWriter {
    meta: Meta,
    groups: Vec<Group>,
    ends: Vec<u16>,
    /// Of the group that is not closed yet.
    start: u64,
    open: Vec<u32>,
    length: u64,
    record: Vec<u8>,
}

fn within(id: u32) -> usize {
    (id & ((1 << SEGMENT_BITS) - 1)) as usize
}

impl DocumentsWriter {
    /// Starts the data section.
    pub fn new(pack: &mut PackWriter, segment: u32, slots: usize) -> Result<Self> {
        pack.section(DATA)?;
        Ok(Self {
            meta: Meta { segment, slots: slots as u32 },
            groups: Vec::new(),
            ends: Vec::new(),
            start: 0,
            open: Vec::with_capacity(GROUP),
            length: 0,
            record: Vec::new(),
        })
    }

    /// Ids ascending. Rows may be of a document that is not present.
    pub fn push(&mut self, pack: &mut PackWriter, id: u32, slots: &[Option<&[u8]>]) -> Result<()> {
        let Some(last) = slots.iter().rposition(Option::is_some) else { return Ok(()) };
        let mask = (self.meta.slots as usize).div_ceil(8);
        self.record.clear();
        self.record.resize(mask, 0);
        for (slot, row) in slots.iter().enumerate() {
            let Some(row) = row else { continue };
            if let Some(byte) = self.record.get_mut(slot / 8) {
                *byte |= 1 << (slot % 8);
            }
            if slot != last {
                put_length(&mut self.record, row.len());
            }
        }
        let rows = slots.iter().flatten().map(|row| row.len()).sum::<usize>();
        let record = self.record.len() + rows;
        let group = within(id) / GROUP;
        while self.groups.len() < group {
            self.close();
        }
        let end = self.length + record as u64 - self.start;
        let Ok(end) = u32::try_from(end) else {
            return Err(Error::foreign(format!("the rows of document {id} and those next to it exceed 4 GiB")));
        };
        let before = (self.length - self.start) as u32;
        self.open.resize(within(id) % GROUP, before);
        self.open.push(end);
        self.length += record as u64;
        pack.write(&self.record)?;
        for row in slots.iter().flatten() {
            pack.write(row)?;
        }
        Ok(())
    }

    fn close(&mut self) {
        let last = (self.length - self.start) as u32;
        let ends = self.ends.len() as u32;
        let width = match self.open.is_empty() {
            true => 0,
            false if last <= u32::from(u16::MAX) => 2,
            false => 4,
        };
        if width > 0 {
            self.open.resize(GROUP, last);
        }
        for end in self.open.drain(..) {
            self.ends.push(end as u16);
            if width == 4 {
                self.ends.push((end >> 16) as u16);
            }
        }
        self.groups.push(Group { start: self.start, ends, width });
        self.start = self.length;
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Group>() + self.ends.capacity() * 2
    }

    pub fn finish(mut self, pack: &mut PackWriter) -> Result<()> {
        if !self.open.is_empty() {
            self.close();
        }
        let parts =
            [bytemuck::bytes_of(&self.meta), bytemuck::cast_slice(&self.groups), bytemuck::cast_slice(&self.ends)];
        parts::write(pack, INDEX, parts)
    }
}

pub(super) fn put_length(to: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        to.push(length as u8 | 0x80);
        length >>= 7;
    }
    to.push(length as u8);
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let mut length = 0;
    for shift in (0..32).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(length);
        }
    }
    None
}

#[derive(Debug)]
pub struct Documents {
    data: Section,
    index: Section,
    segment: u32,
    slots: usize,
    groups: Part,
    ends: Part,
}

impl Documents {
    pub fn open(pack: &Arc<Pack>, segment: u32, slots: usize) -> Result<Self> {
        let (data, index) = (pack.require(DATA)?, pack.require(INDEX)?);
        let [meta, groups, ends] = parts::open(&index)?;
        let found = meta.get::<Meta>(&index, 0)?;
        if found.segment != segment || found.slots as usize != slots {
            return Err(index.damaged(meta.position::<u8>(0), "it has another segment's documents"));
        }
        Ok(Self { data, index, segment, slots, groups, ends })
    }

    fn has_group(&self, id: u32) -> bool {
        within(id) / GROUP < self.groups.len() / size_of::<Group>()
    }

    /// Where the record of an id begins and ends.
    fn record(&self, id: u32) -> Result<Option<&[u8]>> {
        let n = within(id);
        if id >> SEGMENT_BITS != self.segment || !self.has_group(id) {
            return Ok(None);
        }
        let group = self.groups.get::<Group>(&self.index, n / GROUP)?;
        if group.width == 0 {
            return Ok(None);
        }
        let (start, end) = self.ends(&group, n % GROUP)?;
        if start == end {
            return Ok(None);
        }
        let at = usize::try_from(group.start).ok().and_then(|from| from.checked_add(start as usize));
        let (Some(at), Some(length)) = (at, end.checked_sub(start)) else {
            return Err(self.damaged(n));
        };
        self.data.bytes(at, length as usize).map(Some)
    }

    fn ends(&self, group: &Group, n: usize) -> Result<(u32, u32)> {
        parts::span(self.ends, &self.index, group.ends, group.width, n)
    }

    fn damaged(&self, n: usize) -> Error {
        self.index.damaged(self.groups.position::<Group>(n / GROUP), "a document's rows are not where it says")
    }

    /// All rows of an id of this segment; `None` where it has none at all.
    pub fn get(&self, id: u32) -> Result<Option<Slots<'_>>> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        let mut slots = Slots::from_elem(None, self.slots);
        rows(record, self.slots, |slot, row| {
            if let Some(to) = slots.get_mut(slot) {
                *to = Some(row);
            }
            true
        })
        .ok_or_else(|| self.damaged(within(id)))?;
        Ok(Some(slots))
    }

    /// Asks for what tells where the ends of an id's group lie.
    pub fn fetch_group(&self, id: u32) {
        if self.has_group(id)
            && let Ok(group) = self.groups.slice::<Group>(&self.index, within(id) / GROUP, 1)
        {
            group.iter().for_each(fetch);
        }
    }

    /// Asks for what tells where the record of an id ends.
    pub fn fetch_ends(&self, id: u32) {
        if self.has_group(id)
            && let Ok(group) = self.groups.get::<Group>(&self.index, within(id) / GROUP)
            && group.width > 0
        {
            let at = group.ends as usize + within(id) % GROUP * (group.width as usize / 2);
            self.ends.slice::<u16>(&self.index, at, 1).unwrap_or_default().iter().for_each(fetch);
        }
    }

    /// Asks for the record of an id.
    pub fn fetch_record(&self, id: u32) {
        if let Ok(Some(record)) = self.record(id) {
            fetch_all(record);
        }
    }

    /// One of them.
    pub fn slot(&self, id: u32, slot: usize) -> Result<Option<&[u8]>> {
        let Some(record) = self.record(id)? else { return Ok(None) };
        let mut found = None;
        rows(record, self.slots, |at, row| {
            if at == slot {
                found = Some(row);
            }
            at < slot
        })
        .ok_or_else(|| self.damaged(within(id)))?;
        Ok(found)
    }

    /// The first id from `from` on that has rows.
    pub fn next(&self, from: u32) -> Result<Option<u32>> {
        let first = self.segment << SEGMENT_BITS;
        if from >> SEGMENT_BITS > self.segment {
            return Ok(None);
        }
        let mut n = if from < first { 0 } else { within(from) };
        let groups = self.groups.len() / size_of::<Group>();
        while n / GROUP < groups {
            let group = self.groups.get::<Group>(&self.index, n / GROUP)?;
            if group.width > 0 {
                for n in n..n / GROUP * GROUP + GROUP {
                    let (start, end) = self.ends(&group, n % GROUP)?;
                    if start != end {
                        return Ok(Some(first | n as u32));
                    }
                }
            }
            n = n / GROUP * GROUP + GROUP;
        }
        Ok(None)
    }
}

/// Calls `each` with the rows of a record until it answers false; `None` where the record is broken.
fn rows<'a>(record: &'a [u8], slots: usize, mut each: impl FnMut(usize, &'a [u8]) -> bool) -> Option<()> {
    let (mask, rest) = record.split_at_checked(slots.div_ceil(8))?;
    let count = mask.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    let mut lengths = rest;
    // Rows begin behind the lengths, of which each takes one byte that has not the top bit.
    let mut rows = rest;
    for _ in 1..count {
        take_length(&mut rows)?;
    }
    let mut left = count;
    for slot in (0..slots).filter(|slot| mask.get(slot / 8).is_some_and(|byte| byte >> (slot % 8) & 1 == 1)) {
        left = left.checked_sub(1)?;
        let length = if left == 0 { rows.len() } else { take_length(&mut lengths)? };
        let (row, behind) = rows.split_at_checked(length)?;
        rows = behind;
        if !each(slot, row) {
            return Some(());
        }
    }
    (left == 0).then_some(())
}
