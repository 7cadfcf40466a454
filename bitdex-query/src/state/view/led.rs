//! The ids of a set with the greatest codes of a column, in that order, as files list them: of each segment by itself, and
//! without what layers above the base say.

use super::{ColumnView, Operand};
use crate::{
    log::{Error, Result},
    segment::{
        SEGMENT_BITS,
        columns::Column,
        leaders::{IDS_LEAST, MOST, WIDTH},
        postings::Posting,
    },
};

/// What a segment lists of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lead<'s> {
    /// It has none of its ids.
    Nothing,
    /// So few ids that there is no list.
    Few(u64),
    /// More ids than are listed, and no list.
    NoList,
    List(LeadList<'s>),
}

/// Ids of one segment, the greatest code first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeadList<'s> {
    column: &'s Column,
    ids: Ids<'s>,
    /// How many ids the set has.
    of: u64,
    position: usize,
}

#[derive(Debug, Clone, Copy)]
enum Ids<'s> {
    /// As a term's list has them.
    Listed(&'s [u8]),
    /// All ids of the segment that have a code, by the column's order.
    All,
}

impl<'s> LeadList<'s> {
    pub(crate) fn len(&self) -> usize {
        match self.ids {
            Ids::Listed(bytes) => bytes.len() / WIDTH,
            Ids::All => self.column.len(),
        }
    }

    /// Where its segment stands among all.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// How many ids the set has in the segment.
    pub(crate) fn of(&self) -> u64 {
        self.of
    }

    pub(crate) fn id(&self, n: usize) -> Result<Option<u32>> {
        let mut found = None;
        self.each(n, 1, |id| found = Some(id))?;
        Ok(found)
    }

    /// Calls `each` with some ids, as far as there are so many.
    #[inline]
    pub(crate) fn each(&self, from: usize, count: usize, mut each: impl FnMut(u32)) -> Result<()> {
        let left = self.len().saturating_sub(from);
        let count = count.min(left);
        match self.ids {
            Ids::Listed(bytes) => {
                let bytes = bytes.get(from * WIDTH..(from + count) * WIDTH).unwrap_or_default();
                bytes.as_chunks().0.iter().for_each(|id| each(self.column.id(*id)));
            }
            Ids::All => {
                let bytes = self.column.ranked_bytes(left - count..left)?;
                bytes.as_chunks().0.iter().rev().for_each(|id| each(self.column.id(*id)));
            }
        }
        Ok(())
    }

    /// The code that the segment says an id has.
    #[inline]
    pub(crate) fn code(&self, id: u32) -> Result<u64> {
        self.column.get(id)?.ok_or_else(|| self.damaged("an id is listed that has no code"))
    }

    #[cold]
    pub(crate) fn damaged(&self, reason: &str) -> Error {
        self.column.damaged(reason)
    }

    /// Asks for codes before they are read.
    #[inline]
    pub(crate) fn fetch(&self, id: u32) {
        self.column.fetch(id);
    }

    /// None of the set's ids that are not listed has a place in the order before this code and id. `None`: those have
    /// no code.
    pub(crate) fn end(&self) -> Result<Option<(u64, u32)>> {
        if matches!(self.ids, Ids::All) {
            return Ok(None);
        }
        if self.len() < MOST {
            return Ok(self.column.span().map(|(least, _)| (least, u32::MAX)));
        }
        match self.id(self.len() - 1)? {
            Some(last) => Ok(Some((self.code(last)?, last))),
            None => Ok(None),
        }
    }
}

impl<'s> ColumnView<'s> {
    /// What each segment lists of a set, by position of the segment. `None`: of all ids.
    pub(crate) fn leads(&self, of: Option<&Operand<'s>>) -> Result<Vec<Lead<'s>>> {
        let segments = self.files.segments().iter().map(|segment| segment.column(self.field())).enumerate();
        let Some(operand) = of else {
            let all = |(position, column): (usize, Option<&'s Column>)| {
                let Some(column) = column else { return Ok(Lead::Nothing) };
                Ok(Lead::List(LeadList { column, ids: Ids::All, of: column.len() as u64, position }))
            };
            return segments.map(all).collect();
        };
        operand.seek();
        let postings = (0..self.files.segments().len()).map(|position| operand.segment(position));
        let postings = postings.collect::<Result<Vec<_>>>()?;
        postings.iter().flatten().for_each(Posting::fetch_leaders);
        let lead = |((position, column), posting): ((usize, Option<&'s Column>), Option<Posting<'s>>)| {
            let (Some(column), Some(posting)) = (column, posting) else { return Ok(Lead::Nothing) };
            Ok(match posting.leaders(self.field())? {
                Some(bytes) => Lead::List(LeadList { column, ids: Ids::Listed(bytes), of: posting.len(), position }),
                None if posting.len() < IDS_LEAST => Lead::Few(posting.len()),
                None => Lead::NoList,
            })
        };
        segments.zip(postings).map(lead).collect()
    }

    /// The column of the segment at a position.
    pub(crate) fn of_segment(&self, position: usize) -> Option<&'s Column> {
        self.files.segments().get(position)?.column(self.field())
    }

    /// Whether a layer above the base says something of an id.
    #[inline]
    pub(crate) fn is_overridden(&self, id: u32) -> Result<bool> {
        if self.is_of_base() {
            return Ok(false);
        }
        if [self.active, self.frozen].into_iter().flatten().any(|layer| layer.overrides(id)) {
            return Ok(true);
        }
        match self.checkpoint {
            Some(checkpoint) if !self.files.has_taken_in(id >> SEGMENT_BITS) => checkpoint.overrides(id),
            _ => Ok(false),
        }
    }
}
