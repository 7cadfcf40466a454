//! Where the sets of a term lie in all segments, of fields that have few terms: sought once for all queries. Of fields
//! with many, each query seeks its terms in each segment.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bitdex_proto::{schema::FieldId, value::Value};

use crate::{
    log::Result,
    segment::{
        postings::Posting,
        segment::Segment,
        value::{Term, ValueRef},
    },
};

/// Terms of a field in one segment, up to which they are known.
pub(super) const TERMS_MOST: usize = 64;

/// By field.
#[derive(Debug, Default)]
pub(super) struct KnownTerms(Vec<OnceLock<Option<Box<[KnownTerm]>>>>);

/// A term of the base.
#[derive(Debug)]
pub(crate) struct KnownTerm {
    /// `None`: `Exists`.
    pub(crate) value: Option<Value>,
    /// Number of ids.
    pub(crate) ids: u64,
    /// Numbers of the blocks that are not empty, ascending.
    pub(crate) blocks: Vec<u16>,
    /// By position of the segment: that of the term there.
    pub(crate) positions: Vec<Option<u32>>,
}

impl KnownTerm {
    pub(super) fn new(value: Option<Value>, segments: usize) -> Self {
        Self { value, ids: 0, blocks: Vec::new(), positions: vec![None; segments] }
    }

    /// Its set in the segment at a position, all of whose ids are above those of the segments before.
    pub(super) fn add(&mut self, at: usize, position: usize, posting: &Posting<'_>) {
        self.ids += posting.len();
        self.blocks.extend(posting.numbers());
        if let Some(place) = self.positions.get_mut(at) {
            *place = Some(position as u32);
        }
    }
}

impl KnownTerms {
    pub(super) fn new(fields: usize) -> Self {
        Self((0..fields).map(|_| OnceLock::new()).collect())
    }

    /// All terms of a field, ascending; `None` where they are not known.
    pub(super) fn all(&self, segments: &[Arc<Segment>], field: FieldId) -> Option<&[KnownTerm]> {
        let place = self.0.get(field)?;
        let terms = match place.get() {
            Some(terms) => terms,
            None => {
                // Who reads what is damaged is told of it.
                let terms = of_field(segments, field).ok()?;
                place.get_or_init(|| terms)
            }
        };
        terms.as_deref()
    }

    /// `None` where the terms of the field are not known; `Some(None)` where no segment has this one.
    pub(super) fn get(&self, segments: &[Arc<Segment>], field: FieldId, term: Term<'_>) -> Option<Option<&KnownTerm>> {
        let terms = self.all(segments, field)?;
        let value = match term {
            Term::Exists => None,
            Term::Value(value) => Some(value),
        };
        let at = terms.binary_search_by(|known| known.value.as_ref().map(ValueRef::of).cmp(&value)).ok();
        Some(at.and_then(|at| terms.get(at)))
    }
}

fn of_field(segments: &[Arc<Segment>], field: FieldId) -> Result<Option<Box<[KnownTerm]>>> {
    let mut terms = BTreeMap::<Option<Value>, KnownTerm>::new();
    for (at, segment) in segments.iter().enumerate() {
        let Some(postings) = segment.postings(field) else { continue };
        if postings.len() > TERMS_MOST {
            return Ok(None);
        }
        for position in 0..postings.len() {
            let (term, posting) = postings.at(position)?;
            let value = match term {
                Term::Exists => None,
                Term::Value(value) => Some(value.to_value()),
            };
            let known = terms.entry(value.clone()).or_insert_with(|| KnownTerm::new(value, segments.len()));
            known.add(at, position, &posting);
        }
    }
    Ok(Some(terms.into_values().collect()))
}
