//! Rows in memory: keys and bytes of some that follow one another, side by side.

use crate::{
    mapping::ahead::fetch_all,
    state::{
        layout::Place,
        sorted::{Chunk, Sorted, even},
    },
};

/// Rows of a chunk, at most.
const ROWS: usize = 64;
/// No more rows are put into a chunk that has this many bytes.
const LARGE: usize = 1 << 20;

/// Rows, and keys whose rows are gone.
#[derive(Debug, Default)]
pub(crate) struct RowChunk {
    keys: Vec<(Place, i64)>,
    /// Where each row ends in `bytes`, times two; plus one where there is a row.
    ends: Vec<u32>,
    bytes: Vec<u8>,
}

/// What a row becomes; `None`: it is gone.
pub(crate) type RowEntry<'c> = ((Place, i64), Option<&'c [u8]>);

impl RowChunk {
    fn push(&mut self, (key, row): RowEntry<'_>) {
        self.keys.push(key);
        self.bytes.extend_from_slice(row.unwrap_or_default());
        self.ends.push((self.bytes.len() as u32) << 1 | u32::from(row.is_some()));
    }

    fn row(&self, at: usize) -> Option<&[u8]> {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before] >> 1);
        let end = self.ends[at];
        (end & 1 == 1).then(|| &self.bytes[start as usize..(end >> 1) as usize])
    }

    fn entry(&self, at: usize) -> RowEntry<'_> {
        (self.keys[at], self.row(at))
    }
}

impl Chunk for RowChunk {
    type Key = (Place, i64);
    type Change<'c> = RowEntry<'c>;

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn first(&self) -> (Place, i64) {
        self.keys[0]
    }

    fn search(&self, key: &(Place, i64)) -> Result<usize, usize> {
        self.keys.binary_search(key)
    }

    fn key_of<'c>(change: &'c RowEntry<'_>) -> &'c (Place, i64) {
        &change.0
    }

    fn merge(old: Option<&Self>, changes: &[RowEntry<'_>], out: &mut Vec<Self>) {
        let held = old.map_or(0, Self::keys);
        let new = changes.iter().filter(|(key, _)| old.is_none_or(|old| old.search(key).is_err())).count();
        let each = if held + new <= ROWS { ROWS } else { even(held + new, ROWS) };
        let changed: usize = changes.iter().map(|(_, row)| row.map_or(0, <[u8]>::len)).sum();
        let bytes = old.map_or(0, |old| old.bytes.len()) + changed;
        let bytes = if held + new <= each { bytes } else { bytes / (held + new) * each };
        let begin = || Self {
            keys: Vec::with_capacity(each.min(held + new)),
            ends: Vec::with_capacity(each.min(held + new)),
            bytes: Vec::with_capacity(bytes),
        };
        let mut open = begin();
        let mut push = |entry: RowEntry<'_>| {
            if open.keys() == each || open.bytes.len() > LARGE {
                out.push(std::mem::replace(&mut open, begin()));
            }
            open.push(entry);
        };
        let mut at = 0;
        for change in changes {
            while let Some(old) = old
                && at < held
                && old.keys[at] <= change.0
            {
                if old.keys[at] < change.0 {
                    push(old.entry(at));
                }
                at += 1;
            }
            push(*change);
        }
        if let Some(old) = old {
            (at..held).for_each(|at| push(old.entry(at)));
        }
        out.push(open);
    }

    fn fetch(&self) {
        fetch_all(&self.keys);
    }

    fn bytes(&self) -> usize {
        self.keys.capacity() * size_of::<(Place, i64)>() + self.ends.capacity() * 4 + self.bytes.capacity()
    }
}

impl Sorted<RowChunk> {
    /// What the layer says of a row. `None`: nothing. `Some(None)`: that it is gone.
    pub(crate) fn get(&self, place: Place, key: i64) -> Option<Option<&[u8]>> {
        self.find(&(place, key)).map(|(chunk, at)| chunk.row(at))
    }

    /// Of one place, keys from `first` to `last`, ascending.
    pub(crate) fn of(
        &self,
        place: Place,
        first: i64,
        last: i64,
    ) -> impl DoubleEndedIterator<Item = (i64, Option<&[u8]>)> {
        use std::ops::Bound::Included;
        let range = self.range(Included(&(place, first)), Included(&(place, last)));
        range.map(|(chunk, at)| (chunk.keys[at].1, chunk.row(at)))
    }

    /// Ascending.
    pub(crate) fn all(&self) -> impl Iterator<Item = RowEntry<'_>> {
        use std::ops::Bound::Unbounded;
        self.range(Unbounded, Unbounded).map(|(chunk, at)| chunk.entry(at))
    }
}
