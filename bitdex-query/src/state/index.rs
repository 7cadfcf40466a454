//! The index of one field: value → ids of the present documents that hold it, in the order of the values, and the ids
//! that hold none.

use std::{collections::HashMap, ops::Bound, sync::Arc};

use bitdex_proto::value::{FieldValue, Value};
use imbl::OrdMap;
use roaring::RoaringBitmap;

use super::postings::Postings;

#[derive(Debug, Clone, Default)]
pub(crate) struct FieldIndex {
    pub(crate) values: OrdMap<Value, Postings>,
    pub(crate) nulls: Arc<RoaringBitmap>,
}

/// Both ends of a range of values.
pub(crate) type Bounds = (Bound<Value>, Bound<Value>);

/// Whether no value can lie within.
fn is_void(bounds: &Bounds) -> bool {
    match bounds {
        (Bound::Included(lo), Bound::Included(hi)) => lo > hi,
        (Bound::Included(lo) | Bound::Excluded(lo), Bound::Included(hi) | Bound::Excluded(hi)) => lo >= hi,
        _ => false,
    }
}

impl FieldIndex {
    /// The entries within, ascending.
    pub(crate) fn range(&self, bounds: &Bounds) -> impl DoubleEndedIterator<Item = (&Value, &Postings)> + use<'_> {
        (!is_void(bounds))
            .then(|| self.values.range::<_, Value>((bounds.0.as_ref(), bounds.1.as_ref())))
            .into_iter()
            .flatten()
    }

    /// Applies (value, id, holds) in any order; of one (value, id), at most one.
    pub(crate) fn change(&mut self, mut changes: Vec<(Value, u32, bool)>) {
        changes.sort_unstable();
        let mut rest = changes.as_slice();
        let mut ids = Vec::new();
        while let Some((value, ..)) = rest.first() {
            let (group, others) = rest.split_at(rest.partition_point(|(other, ..)| other == value));
            rest = others;
            ids.clear();
            ids.extend(group.iter().map(|(_, id, holds)| (*id, *holds)));
            match self.values.get_mut(value) {
                Some(postings) => {
                    postings.change(&ids);
                    if postings.is_empty() {
                        self.values.remove(value);
                    }
                }
                None => {
                    let held: Vec<_> = ids.iter().filter(|(_, holds)| *holds).map(|(id, _)| *id).collect();
                    if !held.is_empty() {
                        self.values.insert(value.clone(), Postings::from_sorted(&held));
                    }
                }
            }
        }
    }

    pub(crate) fn change_nulls(&mut self, changes: &[(u32, bool)]) {
        if changes.is_empty() {
            return;
        }
        let nulls = Arc::make_mut(&mut self.nulls);
        for (id, null) in changes {
            if *null {
                nulls.insert(*id);
            } else {
                nulls.remove(*id);
            }
        }
    }
}

/// Builds an index at once from documents in ascending order of their ids.
#[derive(Debug, Default)]
pub(crate) struct IndexBuilder<'a> {
    values: HashMap<&'a Value, Vec<u32>>,
    nulls: RoaringBitmap,
}

impl<'a> IndexBuilder<'a> {
    pub(crate) fn add(&mut self, id: u32, value: &'a FieldValue) {
        if value.is_null() {
            self.nulls.insert(id);
        }
        for value in value.values() {
            self.values.entry(value).or_default().push(id);
        }
    }

    pub(crate) fn finish(self) -> FieldIndex {
        let mut sorted: Vec<_> = self.values.into_iter().collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0));
        FieldIndex {
            values: sorted.into_iter().map(|(value, ids)| (value.clone(), Postings::from_sorted(&ids))).collect(),
            nulls: Arc::new(self.nulls),
        }
    }
}
