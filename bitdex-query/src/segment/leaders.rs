//! Of terms that many documents have, but not most: the ids with the greatest codes of a column, in the order of (code,
//! id) from the greatest down. Who looks for a term's first rows in that order begins there, and needs none of the others.
//!
//! Such lists are made for each column whose codes do not follow the ids and are exact. A section for each field of terms
//! that has any in directories, of two parts; the directory of a term says where its lists begin, see
//! [`postings`](super::postings):
//!
//! ```text
//! 0   columns   u32: the fields whose columns they are of, ascending
//! 1   lists     for each term: u32 a column: number of ids; then for each column 3 bytes an id (of its segment's 2^20);
//!               zeros up to a multiple of 4 bytes
//! ```
//!
//! All ids of the term that are not in a list come after its last one, or have the column's least code in the segment, or
//! none.

use std::sync::Arc;

use bitdex_proto::{schema::FieldId, value::FieldType};

use super::{
    columns::Codes,
    parts::{self, Part},
    postings::Postings,
    sets::Block,
    value::Term,
};
use crate::{
    log::Result,
    mapping::ahead::fetch,
    store::pack::{Pack, PackWriter, Section, SectionId, SectionKind},
};

/// Terms of fewer ids have no lists: all of them are quickly looked at.
pub const IDS_LEAST: u64 = 256;
/// A term that more than one in so many documents have has none: the column's own order does as well.
pub const ONE_IN: u64 = 8;
/// Ids of a list. In tests fewer, so that some come to their ends.
pub const MOST: usize = if cfg!(test) { 100 } else { 1024 };
/// Bytes of an id.
pub const WIDTH: usize = 3;

/// A column that lists are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leading<'a> {
    pub(super) field: FieldId,
    pub(super) codes: Codes<'a>,
}

/// Makes the lists of one field's terms.
#[derive(Debug)]
pub(super) struct LeadersWriter<'a> {
    columns: &'a [Leading<'a>],
    /// Of the segment.
    documents: u64,
    lists: Vec<u8>,
    /// Room.
    pairs: Vec<(u64, u32)>,
}

impl<'a> LeadersWriter<'a> {
    /// `documents`: of the segment. `bytes`: of lists, at most.
    pub(super) fn new(columns: &'a [Leading<'a>], documents: u64, bytes: usize) -> Self {
        Self { columns, documents, lists: Vec::with_capacity(bytes), pairs: Vec::new() }
    }

    /// Makes the lists of a term of so many ids. `blocks`: calls with each of its blocks and that one's number. Answers
    /// with what its directory says of them.
    pub(super) fn add(&mut self, ids: u64, blocks: impl Fn(&mut dyn FnMut(u16, Block<'_>))) -> u64 {
        if !has_lists(ids, self.documents) {
            return 0;
        }
        let place = self.lists.len() / 4 + 1;
        let counts = self.lists.len();
        self.lists.resize(counts + self.columns.len() * 4, 0);
        for (n, column) in self.columns.iter().enumerate() {
            lead(column.codes, &blocks, &mut self.pairs);
            self.lists[counts + n * 4..][..4].copy_from_slice(&(self.pairs.len() as u32).to_le_bytes());
            self.lists.extend(self.pairs.iter().flat_map(|(_, id)| id.to_le_bytes().into_iter().take(WIDTH)));
        }
        self.lists.resize(self.lists.len().next_multiple_of(4), 0);
        place as u64
    }

    pub(super) fn bytes(&self) -> usize {
        self.lists.capacity()
    }

    /// Writes the section of a field.
    pub(super) fn finish(self, pack: &mut PackWriter, field: FieldId) -> Result<()> {
        let columns: Vec<u32> = self.columns.iter().map(|column| column.field as u32).collect();
        let id = SectionId::of(SectionKind::Leaders, field);
        parts::write(pack, id, [bytemuck::cast_slice(&columns), &self.lists])
    }
}

/// Whether columns of such values have lists: of texts, equal codes may stand for different values.
pub(super) fn are_made_for(ty: FieldType) -> bool {
    ty != FieldType::String
}

fn has_lists(ids: u64, documents: u64) -> bool {
    (IDS_LEAST..=documents / ONE_IN).contains(&ids)
}

/// `pairs` becomes the first of a set's ids, each with its code; without those that have the least code of all.
fn lead(codes: Codes<'_>, blocks: impl Fn(&mut dyn FnMut(u16, Block<'_>)), pairs: &mut Vec<(u64, u32)>) {
    pairs.clear();
    let descending = |a: &(u64, u32), b: &(u64, u32)| b.cmp(a);
    // Those that have no greater code do not come first.
    let mut floor = codes.least();
    blocks(&mut |number, block| {
        let reader = codes.of_block(number);
        block.for_each(|id| {
            if let Some(code) = reader.get(id)
                && code > floor
            {
                pairs.push((code, u32::from(codes.place_of(number)) << 16 | u32::from(id)));
                if pairs.len() == 2 * MOST {
                    let (_, (least, _), _) = pairs.select_nth_unstable_by(MOST - 1, descending);
                    // Another id with that code may come before it.
                    floor = floor.max(least.saturating_sub(1));
                    pairs.truncate(MOST);
                }
            }
        });
    });
    pairs.sort_unstable_by(descending);
    pairs.truncate(MOST);
}

/// Whether the lists of a field's terms are what follows from their sets and from these columns. `documents`: of the
/// segment.
pub(super) fn agree(postings: &Postings, columns: &[Leading<'_>], documents: u64) -> Result<bool> {
    if !postings.leading().iter().copied().eq(columns.iter().map(|column| column.field)) {
        return Ok(false);
    }
    let mut pairs = Vec::new();
    for position in 0..postings.len() {
        let (term, posting) = postings.at(position)?;
        let blocks = (0..posting.blocks()).map(|n| posting.nth(n)).collect::<Result<Vec<_>>>()?;
        let has_lists = term != Term::Exists && has_lists(posting.len(), documents);
        for column in columns {
            let listed = posting.leaders(column.field)?;
            if !has_lists && listed.is_some() {
                return Ok(false);
            }
            if has_lists {
                lead(column.codes, |each| blocks.iter().for_each(|(number, block)| each(*number, *block)), &mut pairs);
                let ids = pairs.iter().flat_map(|(_, id)| id.to_le_bytes().into_iter().take(WIDTH));
                if !listed.is_some_and(|listed| ids.eq(listed.iter().copied())) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}

/// The lists of a field's terms, as they lie in a file.
#[derive(Debug)]
pub(super) struct Leaders {
    section: Section,
    columns: Vec<FieldId>,
    lists: Part,
}

impl Leaders {
    pub(super) fn open(pack: &Arc<Pack>, field: FieldId) -> Result<Option<Self>> {
        let Some(section) = pack.section(SectionId::of(SectionKind::Leaders, field)) else { return Ok(None) };
        let [columns, lists] = parts::open(&section)?;
        let columns = columns.all::<u32>(&section)?.iter().map(|field| *field as FieldId).collect();
        Ok(Some(Self { section, columns, lists }))
    }

    pub(super) fn columns(&self) -> &[FieldId] {
        &self.columns
    }

    /// The list of a column: 3 bytes an id. `place`: what the term's directory says; `None`: there is none.
    pub(super) fn list(&self, place: u64, column: FieldId) -> Result<Option<&[u8]>> {
        let Some(at) = place.checked_sub(1) else { return Ok(None) };
        let Some(n) = self.columns.iter().position(|field| *field == column) else { return Ok(None) };
        let at = at as usize;
        let counts = self.lists.slice::<u32>(&self.section, at, self.columns.len())?;
        let before: usize = counts.iter().take(n).map(|count| *count as usize).sum();
        let count = counts.get(n).map_or(0, |count| *count as usize);
        let first = at.saturating_add(counts.len()).saturating_mul(4).saturating_add(before.saturating_mul(WIDTH));
        self.lists.slice::<u8>(&self.section, first, count.saturating_mul(WIDTH)).map(Some)
    }

    /// Asks for where a term's lists begin.
    pub(super) fn fetch(&self, place: u64) {
        if let Some(at) = place.checked_sub(1)
            && let Ok(counts) = self.lists.slice::<u32>(&self.section, at as usize, 1)
        {
            counts.iter().for_each(fetch);
        }
    }

    /// Reads it.
    pub(super) fn warm(&self) -> Result<()> {
        self.section.verify()
    }
}
