//! Where the sets of terms lie in all segments that many documents have, of fields with many terms: sought once for all
//! queries, in a thread of its own. Until it is done, and of all other terms, each query seeks them in each segment; so it
//! does those of texts.
//!
//! Kept as long as a version has the same segments; see [`known_terms`](super::known_terms) for fields with few terms.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bitdex_proto::schema::FieldId;

use super::{
    files::{AT_ONCE, aside},
    known_terms::{KnownTerm, TERMS_MOST},
};
use crate::{
    log::Result,
    segment::{
        segment::Segment,
        value::{Term, ValueRef},
    },
};

/// Of heap, of a version. Of the terms for which there is no room those are left out that the fewest documents have.
const BYTES_MOST: usize = 32 << 20;
/// Of a term, beside what it says of segments and blocks.
const BYTES: usize = size_of::<KnownTerm>() + size_of::<u64>() + 32;

#[derive(Debug, Default)]
pub(super) struct FrequentTerms {
    terms: OnceLock<Terms>,
    seeking: AtomicBool,
}

type Terms = Vec<FieldTerms>;

/// By code, ascending.
#[derive(Debug, Default)]
struct FieldTerms {
    codes: Vec<u64>,
    terms: Vec<KnownTerm>,
}

impl FrequentTerms {
    /// `None` where nothing is known of the term. `segments`: always the same ones.
    pub(super) fn get(
        self: &Arc<Self>,
        segments: &[Arc<Segment>],
        field: FieldId,
        value: ValueRef<'_>,
    ) -> Option<&KnownTerm> {
        if matches!(value, ValueRef::Text(_)) {
            return None;
        }
        if self.terms.get().is_none() {
            self.seek(segments);
        }
        let FieldTerms { codes, terms } = self.terms.get()?.get(field)?;
        terms.get(codes.binary_search(&value.code()).ok()?)
    }

    /// Begins to, if nobody has.
    pub(super) fn seek(self: &Arc<Self>, segments: &[Arc<Segment>]) {
        if self.seeking.swap(true, Ordering::Relaxed) {
            return;
        }
        if segments.iter().map(|segment| segment.documents_present()).sum::<u64>() <= AT_ONCE {
            return self.fill(segments);
        }
        let (frequent, segments) = (Arc::clone(self), segments.to_vec());
        aside("bitdex-terms", move || frequent.fill(&segments));
    }

    fn fill(&self, segments: &[Arc<Segment>]) {
        // Who reads what is damaged is told of it.
        let _ = self.terms.set(of(segments).unwrap_or_default());
    }
}

/// See [`FrequentTerms`].
fn of(segments: &[Arc<Segment>]) -> Result<Terms> {
    let fields = segments.iter().map(|segment| segment.fields()).max().unwrap_or(0);
    let most = BYTES_MOST / (BYTES + segments.len() * size_of::<Option<u32>>());
    let mut found = Vec::new();
    for field in 0..fields {
        let postings = || segments.iter().filter_map(|segment| segment.postings(field));
        if postings().all(|postings| postings.len() <= TERMS_MOST) {
            continue;
        }
        let mut ids = HashMap::<u64, u64>::new();
        for postings in postings() {
            postings.each_frequent(|code, posting| *ids.entry(code).or_default() += posting.len())?;
        }
        found.extend(ids.into_iter().map(|(code, ids)| (ids, field, code)));
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(most);
    }
    let mut terms: Vec<Vec<(u64, KnownTerm)>> = (0..fields).map(|_| Vec::new()).collect();
    let mut bytes = 0;
    for (_, field, code) in found {
        let known = known(segments, field, code)?;
        bytes += BYTES + known.positions.len() * size_of::<Option<u32>>() + known.blocks.len() * size_of::<u16>();
        if bytes > BYTES_MOST {
            break;
        }
        if let Some(of_field) = terms.get_mut(field) {
            of_field.push((code, known));
        }
    }
    let by_code = |mut terms: Vec<(u64, KnownTerm)>| {
        terms.sort_unstable_by_key(|(code, _)| *code);
        let (codes, terms) = terms.into_iter().unzip();
        FieldTerms { codes, terms }
    };
    Ok(terms.into_iter().map(by_code).collect())
}

fn known(segments: &[Arc<Segment>], field: FieldId, code: u64) -> Result<KnownTerm> {
    let mut known = KnownTerm::new(None, segments.len());
    for (at, postings) in segments.iter().enumerate().filter_map(|(at, it)| Some((at, it.postings(field)?))) {
        if let Some(value) = postings.value(code)
            && let Some((position, posting)) = postings.get_with_position(Term::Value(ValueRef::of(&value)))?
        {
            known.add(at, position, &posting);
            known.value = Some(value);
        }
    }
    known.blocks.shrink_to_fit();
    Ok(known)
}
