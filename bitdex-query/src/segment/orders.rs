//! Of a field of which a document has one value: the ids of each term in the order of a column whose codes follow the ids,
//! the greatest code first, each with its [cell](super::cells). Who wants a term's first rows in that order reads one
//! number after the other, and neither codes nor cells, which lie all over the segment.
//!
//! Made from a segment's sets, its column and its cells, and kept as long as the segment is open; see
//! [`Segment::order`](super::segment::Segment::order). All that the process keeps is bounded.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    SEGMENT_BITS,
    cells::Cells,
    columns::Column,
    postings::{Posting, Postings},
};
use crate::log::Result;

/// Bytes that the orders of all open segments may take: an id takes four.
const BYTES_MOST: usize = 256 << 20;
/// Terms of fewer ids have none: their ids are as quickly looked at one by one. In tests fewer.
pub const IDS_LEAST: u64 = if cfg!(test) { 3 } else { 32 };
const IN_SEGMENT: u32 = (1 << SEGMENT_BITS) - 1;

static HELD: AtomicUsize = AtomicUsize::new(0);

/// Bytes that orders take, of heap.
pub fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// An id of a segment, and its cell as one byte tells it.
#[derive(Debug, Clone, Copy)]
pub struct Entry(u32);

impl Entry {
    fn new(id: u32, cell: u8) -> Self {
        Self(id & IN_SEGMENT | u32::from(cell) << SEGMENT_BITS)
    }

    /// Within its segment.
    #[inline]
    pub fn id(self) -> u32 {
        self.0 & IN_SEGMENT
    }

    #[inline]
    pub fn cell(self) -> u8 {
        (self.0 >> SEGMENT_BITS) as u8
    }
}

/// The orders of one field's terms.
#[derive(Debug)]
pub struct Orders {
    /// By number of the term, ascending: where its entries end; they begin where those of the one before do.
    terms: Vec<(u32, u32)>,
    entries: Vec<Entry>,
    bytes: usize,
}

impl Drop for Orders {
    fn drop(&mut self) {
        HELD.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Whether those of another segment may be made.
pub(super) fn has_room() -> bool {
    held() + (size_of::<Entry>() << SEGMENT_BITS) <= BYTES_MOST
}

impl Orders {
    /// `postings`: of a field of which a document has one value.
    pub(super) fn of(postings: &Postings, column: &Column, cells: &Cells) -> Result<Self> {
        let mut ranks = vec![0_u32; 1 << SEGMENT_BITS];
        let bytes = column.ranked_bytes(0..column.len())?;
        for (id, rank) in bytes.as_chunks::<3>().0.iter().zip(1..) {
            // 0 stands for no code.
            if let Some(place) = ranks.get_mut((column.id(*id) & IN_SEGMENT) as usize) {
                *place = rank;
            }
        }
        let (mut terms, mut entries, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        postings.each_with_ids(IDS_LEAST, |term, posting| {
            ids.clear();
            for n in 0..posting.blocks() {
                let (number, block) = posting.nth(n)?;
                let first = u32::from(number) << 16 & IN_SEGMENT;
                block.for_each(|id| {
                    let id = first | u32::from(id);
                    ids.extend(ranks.get(id as usize).filter(|rank| **rank > 0).map(|rank| (*rank, id)));
                });
            }
            ids.sort_unstable_by(|a, b| b.cmp(a));
            entries.extend(ids.iter().map(|(_, id)| Entry::new(*id, cells.near(*id))));
            terms.push((term, entries.len() as u32));
            Ok(())
        })?;
        terms.shrink_to_fit();
        entries.shrink_to_fit();
        let bytes = size_of_val(&*terms) + size_of_val(&*entries);
        HELD.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self { terms, entries, bytes })
    }

    /// Of a term, by its set; `None`: it has too few ids.
    pub fn of_term(&self, posting: &Posting<'_>) -> Option<&[Entry]> {
        let at = self.terms.binary_search_by_key(&posting.term(), |(term, _)| *term).ok()?;
        let first = at.checked_sub(1).and_then(|before| self.terms.get(before)).map_or(0, |(_, end)| *end);
        self.entries.get(first as usize..self.terms.get(at)?.1 as usize)
    }
}
