//! All values of a field that has sets, merged from all layers.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    fmt,
    ops::{Bound, Range},
};

use bitdex_proto::{schema::FieldId, value::Value};

use super::super::{State, known_terms::TERMS_MOST, layer::SetKey};
use crate::{
    log::Result,
    segment::{
        postings::{Postings, Role},
        value::{Term, ValueRef},
    },
};

/// Values ascending, each once, with a number of ids that is never too low; it may be of a value that no document has
/// any more.
pub(crate) struct Terms<'s> {
    sources: Vec<Source<'s>>,
    heads: BinaryHeap<Reverse<(ValueRef<'s>, usize, u64)>>,
}

enum Source<'s> {
    File { postings: &'s Postings, positions: Range<usize> },
    Layer(Box<dyn Iterator<Item = (ValueRef<'s>, u64)> + 's>),
}

impl State {
    /// See [`Terms`].
    pub(crate) fn terms(&self, field: FieldId) -> Result<Terms<'_>> {
        let mut terms = Terms { sources: Vec::new(), heads: BinaryHeap::new() };
        for postings in self.postings(field) {
            let positions = postings.range((Bound::Unbounded, Bound::Unbounded))?;
            terms.push(Source::File { postings, positions })?;
        }
        for layer in self.heap_layers() {
            let first = SetKey { field, term: None, block: u16::MAX };
            let behind = SetKey { field: field + 1, term: None, block: 0 };
            let sets = layer.sets.range(Bound::Excluded(&first), Bound::Excluded(&behind));
            let values = sets.filter_map(|(key, delta)| {
                let value = key.term.as_ref().map(ValueRef::of)?;
                Some((value, u64::from(delta.added.len())))
            });
            terms.push(Source::Layer(Box::new(values)))?;
        }
        Ok(terms)
    }

    /// Whether a field has few values.
    pub(crate) fn has_few_terms(&self, field: FieldId) -> bool {
        self.files.known_terms(field).is_some()
    }

    /// All values that a document may have in a field, of those that are `sought`, where they are few and quickly told, in
    /// any order; some perhaps that no document has.
    pub(crate) fn few_terms(&self, field: FieldId, sought: impl Fn(&Value) -> bool) -> Result<Option<Vec<Value>>> {
        let Some(known) = self.files.known_terms(field) else { return Ok(None) };
        let known = known.iter().filter_map(|term| term.value.as_ref());
        let mut values: Vec<Value> = known.filter(|value| sought(value)).cloned().collect();
        let in_base = values.len();
        if let Some(postings) = self.files.checkpoint().and_then(|checkpoint| checkpoint.sets(Role::Added, field)) {
            if postings.len() > TERMS_MOST {
                return Ok(None);
            }
            for position in 0..postings.len() {
                if let (Term::Value(value), _) = postings.at(position)? {
                    values.extend(Some(value.to_value()).filter(&sought));
                }
            }
        }
        for layer in self.heap_layers() {
            let (mut from, mut seen) = (SetKey { field, term: None, block: u16::MAX }, 0);
            while let Some((key, _)) = layer.sets.range(Bound::Excluded(&from), Bound::Unbounded).next()
                && key.field == field
            {
                if seen > TERMS_MOST {
                    return Ok(None);
                }
                seen += 1;
                values.extend(key.term.clone().filter(&sought));
                from = SetKey { field, term: key.term.clone(), block: u16::MAX };
            }
        }
        if values.len() > in_base {
            values.sort_unstable();
            values.dedup();
        }
        Ok(Some(values))
    }

    /// How many steps it takes to go through [`State::terms`], about.
    pub(crate) fn terms_len(&self, field: FieldId) -> usize {
        let files: usize = self.postings(field).map(Postings::len).sum();
        files + self.heap_layers().map(|layer| layer.sets.len()).sum::<usize>()
    }

    fn postings(&self, field: FieldId) -> impl Iterator<Item = &Postings> {
        let segments = self.files.segments().iter().filter_map(move |segment| segment.postings(field));
        segments.chain(self.files.checkpoint().and_then(|checkpoint| checkpoint.sets(Role::Added, field)))
    }
}

impl<'s> Terms<'s> {
    fn push(&mut self, source: Source<'s>) -> Result<()> {
        self.sources.push(source);
        self.advance(self.sources.len() - 1)
    }

    /// Puts the next value of a source among the heads.
    fn advance(&mut self, at: usize) -> Result<()> {
        let next = match self.sources.get_mut(at) {
            Some(Source::File { postings, positions }) => match positions.next() {
                Some(position) => match postings.at(position)? {
                    (Term::Value(value), posting) => Some((value, posting.len())),
                    (Term::Exists, _) => None,
                },
                None => None,
            },
            Some(Source::Layer(values)) => values.next(),
            None => None,
        };
        if let Some((value, ids)) = next {
            self.heads.push(Reverse((value, at, ids)));
        }
        Ok(())
    }

    pub(crate) fn next(&mut self) -> Result<Option<(ValueRef<'s>, u64)>> {
        let Some(Reverse((value, at, mut sum))) = self.heads.pop() else { return Ok(None) };
        self.advance(at)?;
        while let Some(Reverse((next, at, ids))) = self.heads.peek().copied() {
            if next != value {
                break;
            }
            self.heads.pop();
            self.advance(at)?;
            sum = sum.saturating_add(ids);
        }
        Ok(Some((value, sum)))
    }
}

impl fmt::Debug for Terms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terms").field("heads", &self.heads).finish_non_exhaustive()
    }
}
