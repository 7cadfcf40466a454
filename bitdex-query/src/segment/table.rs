//! (place, key) → bytes, sorted: the rows of a lookup, the rows of a checkpoint, the rows of a staged file.
//!
//! A data section has the rows one behind the other. Each place that has any has a section of [parts](super::parts):
//!
//! ```text
//! 0     meta     u64 number of rows
//! 1–3   keys     key + 2^63, see `keys`
//! 4     groups   24 bytes for each 64 rows: u64 where the first one begins in the data, u64 which of them are gone (a
//!                bit each), u32 where its ends begin (in units of 2 bytes), u32 width of an end: 2 or 4
//! 5     ends     u16 or u32 a row: where it ends, from the group's first row on
//! ```

use std::{ops::Range, sync::Arc};

use bytemuck::{Pod, Zeroable};

use super::{
    keys::{GROUP, Keys, KeysWriter},
    parts::{self, Part},
};
use crate::{
    log::{Error, Result},
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

const DATA: SectionId = SectionId { kind: SectionKind::TableData, place: 0 };

#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Group {
    start: u64,
    gone: u64,
    ends: u32,
    width: u32,
}

fn code(key: i64) -> u64 {
    key as u64 ^ 1 << 63
}

/// Writes rows in ascending order of (place, key), data front to back; keys stay in memory.
#[derive(Debug)]
pub struct TableWriter {
    /// The last one is that which rows are added to.
    places: Vec<PlaceWriter>,
    length: u64,
}

#[derive(Debug)]
struct PlaceWriter {
    place: u16,
    keys: KeysWriter,
    groups: Vec<Group>,
    ends: Vec<u16>,
    /// Of the group that is not closed yet.
    start: u64,
    gone: u64,
    open: Vec<u32>,
}

impl PlaceWriter {
    fn new(place: u16, start: u64) -> Self {
        Self {
            place,
            keys: KeysWriter::default(),
            groups: Vec::new(),
            ends: Vec::new(),
            start,
            gone: 0,
            open: Vec::with_capacity(GROUP),
        }
    }

    fn close(&mut self) {
        let Some(&last) = self.open.last() else { return };
        let width = if last <= u32::from(u16::MAX) { 2 } else { 4 };
        // Beyond u32: refused by `finish`.
        self.groups.push(Group { start: self.start, gone: self.gone, ends: self.ends.len() as u32, width });
        for end in self.open.drain(..) {
            self.ends.push(end as u16);
            if width == 4 {
                self.ends.push((end >> 16) as u16);
            }
        }
        self.start += u64::from(last);
        self.gone = 0;
    }

    fn bytes(&self) -> usize {
        self.keys.bytes() + self.groups.capacity() * size_of::<Group>() + self.ends.capacity() * 2
    }

    fn finish(mut self, pack: &mut PackWriter) -> Result<()> {
        self.close();
        if self.ends.len() > u32::MAX as usize {
            return Err(Error::foreign("a file would have more rows than its format can tell apart"));
        }
        let count = self.keys.len() as u64;
        let (bases, groups, deltas) = self.keys.finish()?;
        parts::write(
            pack,
            SectionId { kind: SectionKind::TableIndex, place: self.place },
            [
                bytemuck::bytes_of(&count),
                bytemuck::cast_slice(&bases),
                bytemuck::cast_slice(&groups),
                &deltas,
                bytemuck::cast_slice(&self.groups),
                bytemuck::cast_slice(&self.ends),
            ],
        )
    }
}

impl TableWriter {
    /// Starts the data section.
    pub fn new(pack: &mut PackWriter) -> Result<Self> {
        pack.section(DATA)?;
        Ok(Self { places: Vec::new(), length: 0 })
    }

    /// `None`: the row is gone (overrides one below).
    pub fn push(&mut self, pack: &mut PackWriter, place: u16, key: i64, row: Option<&[u8]>) -> Result<()> {
        if self.places.last().is_none_or(|last| last.place != place) {
            debug_assert!(self.places.last().is_none_or(|last| last.place < place), "places ascend");
            self.places.push(PlaceWriter::new(place, self.length));
        }
        let Some(last) = self.places.last_mut() else { return Ok(()) };
        if last.open.len() == GROUP {
            last.close();
        }
        self.length += row.map_or(0, <[u8]>::len) as u64;
        let Ok(end) = u32::try_from(self.length - last.start) else {
            return Err(Error::foreign(format!("the row of key {key} and those next to it exceed 4 GiB")));
        };
        last.keys.push(code(key));
        if row.is_none() {
            last.gone |= 1 << last.open.len();
        }
        last.open.push(end);
        row.map_or(Ok(()), |row| pack.write(row))
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        self.places.iter().map(PlaceWriter::bytes).sum()
    }

    pub fn finish(self, pack: &mut PackWriter) -> Result<()> {
        self.places.into_iter().try_for_each(|place| place.finish(pack))
    }
}

#[derive(Debug)]
pub struct Table {
    data: Section,
    places: Vec<Place>,
    rows: usize,
}

#[derive(Debug)]
struct Place {
    place: u16,
    /// Position of its first row among all.
    first: usize,
    index: Section,
    keys: Keys,
    groups: Part,
    ends: Part,
}

impl Table {
    pub fn open(pack: &Arc<Pack>) -> Result<Self> {
        let data = pack.require(DATA)?;
        let mut places = Vec::new();
        let mut rows = 0_usize;
        let kind = SectionKind::TableIndex;
        let mut numbers: Vec<u16> =
            pack.sections().into_iter().filter(|section| section.0 == kind as u16).map(|section| section.1).collect();
        numbers.sort_unstable();
        for place in numbers {
            let index = pack.require(SectionId { kind, place })?;
            let [meta, bases, key_groups, deltas, groups, ends] = parts::open(&index)?;
            let keys = Keys::open(&index, [bases, key_groups, deltas], meta.get(&index, 0)?)?;
            let first = rows;
            rows = rows.checked_add(keys.len()).ok_or_else(|| index.damaged(0, "it has more rows than bytes"))?;
            places.push(Place { place, first, index, keys, groups, ends });
        }
        Ok(Self { data, places, rows })
    }

    fn place(&self, place: u16) -> Option<&Place> {
        self.places.iter().find(|one| one.place == place)
    }

    /// `None`: says nothing of this row. `Some(None)`: it is gone.
    pub fn get(&self, place: u16, key: i64) -> Result<Option<Option<&[u8]>>> {
        let Some(place) = self.place(place) else { return Ok(None) };
        match place.keys.find(&place.index, code(key))? {
            Ok(position) => self.row(place, position).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Positions of the rows of a place with keys from `first` to `last`, ascending; see [`Table::at`].
    pub fn range(&self, place: u16, first: i64, last: i64) -> Result<Range<usize>> {
        let Some(place) = self.place(place).filter(|_| first <= last) else { return Ok(0..0) };
        let low = place.keys.find(&place.index, code(first))?.unwrap_or_else(|at| at);
        let high = place.keys.find(&place.index, code(last))?.map_or_else(|at| at, |at| at + 1);
        Ok(place.first + low..place.first + high.max(low))
    }

    /// Key and row at a position.
    pub fn at(&self, position: usize) -> Result<(i64, Option<&[u8]>)> {
        let after = self.places.partition_point(|place| place.first <= position);
        let Some(place) = after.checked_sub(1).and_then(|n| self.places.get(n)).filter(|_| position < self.rows) else {
            return Err(self.data.damaged(0, "it has fewer rows than it should have"));
        };
        let position = position - place.first;
        let key = place.keys.at(&place.index, position)?;
        Ok((code(key as i64) as i64, self.row(place, position)?))
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn row(&self, place: &Place, position: usize) -> Result<Option<&[u8]>> {
        let Place { index, groups, ends, .. } = place;
        let group = groups.get::<Group>(index, position / GROUP)?;
        let n = position % GROUP;
        if group.gone >> n & 1 == 1 {
            return Ok(None);
        }
        let (start, end) = parts::span(*ends, index, group.ends, group.width, n)?;
        let at = usize::try_from(group.start).ok().and_then(|from| from.checked_add(start as usize));
        let (Some(at), Some(length)) = (at, end.checked_sub(start)) else {
            return Err(index.damaged(groups.position::<Group>(position / GROUP), "a row is not where it says"));
        };
        self.data.bytes(at, length as usize).map(Some)
    }
}
