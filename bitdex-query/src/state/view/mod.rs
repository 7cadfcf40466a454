//! What queries read of a version: all layers seen as one. The newest layer that says something of a row, of an id in a
//! set, or of an id in a column, is right.

mod cells;
mod column;
pub(crate) mod combine;
mod document;
mod led;
mod operand;
mod ordered;
mod terms;
mod walk;

pub(crate) use cells::CellBlock;
pub(crate) use column::{CodeReader, ColumnView};
pub(crate) use document::DocumentView;
pub(crate) use led::{Lead, LeadList};
pub(crate) use operand::Operand;
pub(crate) use ordered::Ordered;
pub(crate) use walk::Walk;

use std::ops::Bound;

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::Value,
};

use super::{
    State,
    layer::{Layer, SetKey},
};
use crate::{
    log::Result,
    segment::{
        postings::{Postings, Role},
        value::{Term, ValueRef},
    },
};

/// Both ends of a range of values.
pub(crate) type Bounds = (Bound<Value>, Bound<Value>);

impl State {
    /// Numbers of the blocks in which a document may be present, ascending.
    pub(crate) fn blocks(&self) -> Vec<u16> {
        match self.operand(KEY_FIELD, Term::Exists) {
            Ok(present) => present.blocks(),
            // Whoever reads one of them meets the damage.
            Err(_) => (0..=u16::MAX).collect(),
        }
    }

    /// The set of a term (of a field with index `Terms`; `Exists` also of columns and of the key field).
    pub(crate) fn operand<'s>(&'s self, field: FieldId, term: Term<'_>) -> Result<Operand<'s>> {
        Operand::new(self, field, term)
    }

    /// The values within bounds that any layer has a set of, ascending, at most `limit` (then there may be more). Some
    /// may have empty sets.
    pub(crate) fn terms_within(&self, field: FieldId, bounds: &Bounds, limit: usize) -> Result<Vec<Value>> {
        let mut values: Vec<ValueRef<'_>> = Vec::new();
        let in_file = |postings: &Option<&'_ Postings>| postings.is_some();
        let segments = self.files.segments().iter().map(|segment| segment.postings(field));
        let changed = self.files.checkpoint().and_then(|checkpoint| checkpoint.sets(Role::Added, field));
        for postings in segments.chain([changed]).filter(in_file).flatten() {
            for position in postings.range((bounds.0.as_ref(), bounds.1.as_ref()))?.take(limit) {
                if let (Term::Value(value), _) = postings.at(position)? {
                    values.push(value);
                }
            }
        }
        for layer in self.heap_layers() {
            values.extend(terms_of(layer, field, bounds).take(limit));
        }
        values.sort_unstable();
        values.dedup();
        values.truncate(limit);
        Ok(values.into_iter().map(ValueRef::to_value).collect())
    }

    /// `None` where the field has no column.
    pub(crate) fn column(&self, field: FieldId) -> Option<ColumnView<'_>> {
        ColumnView::new(self, field)
    }

    /// Whether a field is the greatest of `visible_at` and others.
    pub(crate) fn follows_visible_at(&self, field: FieldId) -> bool {
        self.layout.follows_visible_at(field)
    }

    /// A present document; nothing of it is decoded yet.
    pub(crate) fn document(&self, id: u32) -> Result<Option<DocumentView<'_>>> {
        DocumentView::new(self, id)
    }

    /// The layers in memory, from below.
    fn heap_layers(&self) -> impl DoubleEndedIterator<Item = &Layer> {
        self.frozen.iter().map(|frozen| &frozen.layer).chain([&self.active])
    }
}

impl State {
    /// Calls `each` with the blocks in which a layer in memory changes the set of a value within bounds, or of `Exists`;
    /// some perhaps twice.
    pub(crate) fn changed_blocks(
        &self,
        field: FieldId,
        values: Option<(Bound<&Value>, Bound<&Value>)>,
        each: &mut impl FnMut(u16),
    ) {
        for layer in self.heap_layers().filter(|layer| !layer.sets.is_empty()) {
            let (first, last) = match values {
                Some((first, last)) => (first_key(field, first), last_key(field, last)),
                None => {
                    let key = |block| Bound::Included(SetKey { field, term: None, block });
                    (key(0), key(u16::MAX))
                }
            };
            layer.sets.range(first.as_ref(), last.as_ref()).for_each(|(key, _)| each(key.block));
        }
    }
}

/// Where the sets of values from a bound on begin.
fn first_key(field: FieldId, bound: Bound<&Value>) -> Bound<SetKey> {
    let key = |value: &Value, block| SetKey { field, term: Some(value.clone()), block };
    match bound {
        Bound::Included(value) => Bound::Included(key(value, 0)),
        Bound::Excluded(value) => Bound::Excluded(key(value, u16::MAX)),
        Bound::Unbounded => Bound::Excluded(SetKey { field, term: None, block: u16::MAX }),
    }
}

/// Where the sets of values up to a bound end.
fn last_key(field: FieldId, bound: Bound<&Value>) -> Bound<SetKey> {
    let key = |value: &Value, block| SetKey { field, term: Some(value.clone()), block };
    match bound {
        Bound::Included(value) => Bound::Included(key(value, u16::MAX)),
        Bound::Excluded(value) => Bound::Excluded(key(value, 0)),
        Bound::Unbounded => Bound::Excluded(SetKey { field: field + 1, term: None, block: 0 }),
    }
}

/// Values within bounds of which a layer changes sets, ascending.
fn terms_of<'s>(layer: &'s Layer, field: FieldId, bounds: &Bounds) -> impl Iterator<Item = ValueRef<'s>> {
    let (first, last) = (first_key(field, bounds.0.as_ref()), last_key(field, bounds.1.as_ref()));
    let mut previous = None;
    let values =
        layer.sets.range(first.as_ref(), last.as_ref()).filter_map(|(key, _)| key.term.as_ref().map(ValueRef::of));
    values.filter(move |value| previous.replace(*value) != Some(*value))
}

#[cfg(test)]
mod tests;
