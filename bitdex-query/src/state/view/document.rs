//! A document, through all layers.

use std::cell::RefCell;

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, Origin, SourceId},
    value::{FieldValue, Value},
};
use smallvec::SmallVec;

use super::super::{
    State,
    compute::{self, Lookups},
    layout::{Layout, Place},
};
use crate::{
    log::Result,
    segment::{SEGMENT_BITS, documents::Slots, value::ValueRef},
};

/// A document, read where it lies.
#[derive(Debug)]
pub(crate) struct DocumentView<'s> {
    state: &'s State,
    id: u32,
    /// Of the document source.
    row: &'s [u8],
}

impl<'s> DocumentView<'s> {
    pub(super) fn new(state: &'s State, id: u32) -> Result<Option<Self>> {
        Ok(state.row(DOCUMENT_SOURCE as Place, id.into())?.map(|row| Self { state, id, row }))
    }

    /// The value of a field of the layout.
    pub(crate) fn value(&self, field: FieldId) -> Result<FieldValue> {
        Ok(self.values(&[field])?.pop().unwrap_or(FieldValue::Null))
    }

    /// One value for each of `fields`, in their order.
    pub(crate) fn values(&self, fields: &[FieldId]) -> Result<Vec<FieldValue>> {
        if fields.is_sorted_by(|one, next| one < next) {
            return self.ascending(fields);
        }
        let mut ascending: SmallVec<[FieldId; 32]> = fields.into();
        ascending.sort_unstable();
        ascending.dedup();
        let values = self.ascending(&ascending)?;
        let value = |field| ascending.binary_search(field).ok().and_then(|at| values.get(at).cloned());
        Ok(fields.iter().map(|field| value(field).unwrap_or(FieldValue::Null)).collect())
    }

    fn ascending(&self, fields: &[FieldId]) -> Result<Vec<FieldValue>> {
        let layout = &self.state.layout;
        let slots = self.slots(layout, fields)?;
        let mut values = vec![FieldValue::Null; fields.len()];
        let mut many: Vec<Value> = Vec::new();
        let mut at = 0;
        let mut emit = |field: FieldId, value: ValueRef<'_>| {
            if fields.get(at) != Some(&field) {
                close(&mut values, at, &mut many);
                at = fields.partition_point(|other| *other < field);
            }
            if is_many(layout, field) {
                many.push(value.to_value());
            } else if let Some(place) = values.get_mut(at) {
                *place = FieldValue::One(value.to_value());
            }
        };
        let rows = Rows { state: self.state, seen: RefCell::default() };
        compute::values(layout, &slots, &rows, self.id, fields, &mut emit)?;
        close(&mut values, at, &mut many);
        Ok(values)
    }

    /// The rows that these fields are computed from.
    fn slots(&self, layout: &Layout, fields: &[FieldId]) -> Result<Slots<'s>> {
        let state = self.state;
        let mut slots: Slots<'s> = SmallVec::from_elem(None, layout.spec().slots);
        let mut needed: SmallVec<[usize; 16]> = SmallVec::new();
        fields.iter().for_each(|field| need(layout, *field, &mut needed));
        needed.sort_unstable();
        needed.dedup();
        if !needed.is_empty() {
            let base = match state.files.segment(self.id >> SEGMENT_BITS) {
                Some(segment) => segment.documents().get(self.id)?.unwrap_or_default(),
                None => Slots::new(),
            };
            for slot in needed {
                let row = match self.newer(layout.place(slot))? {
                    Some(row) => row,
                    None => base.get(slot).copied().flatten(),
                };
                if let Some(place) = slots.get_mut(slot) {
                    *place = row;
                }
            }
        }
        if let Some(slot) = layout.slot(DOCUMENT_SOURCE as Place)
            && let Some(place) = slots.get_mut(slot)
        {
            *place = Some(self.row);
        }
        Ok(slots)
    }

    /// What a layer above the base says of a row.
    fn newer(&self, place: Place) -> Result<Option<Option<&'s [u8]>>> {
        let key = i64::from(self.id);
        for layer in self.state.heap_layers().rev().filter(|layer| !layer.rows.is_empty()) {
            if let Some(row) = layer.rows.get(place, key) {
                return Ok(Some(row));
            }
        }
        match self.state.files.checkpoint_of(place, key) {
            Some(checkpoint) => checkpoint.rows().get(place, key),
            None => Ok(None),
        }
    }
}

/// Ends a field of many values.
fn close(values: &mut [FieldValue], at: usize, many: &mut Vec<Value>) {
    if let Some(place) = values.get_mut(at)
        && !many.is_empty()
    {
        *place = FieldValue::Many(std::mem::take(many).into());
    }
}

fn is_many(layout: &Layout, field: FieldId) -> bool {
    match layout.fields.get(field).map(|slot| &slot.origin) {
        Some(Origin::Members { .. } | Origin::Through { .. }) => true,
        Some(Origin::External) => layout.schema.fields.get(field).is_some_and(|field| field.many),
        _ => false,
    }
}

/// The slots, other than that of the document's own row, that a field is computed from.
fn need(layout: &Layout, field: FieldId, slots: &mut SmallVec<[usize; 16]>) {
    let place = match layout.fields.get(field).map(|slot| &slot.origin) {
        Some(Origin::Members { source } | Origin::Metric { source, .. }) => *source as Place,
        Some(Origin::Through { members, .. }) => *members as Place,
        Some(Origin::External) => layout.external(field),
        Some(Origin::Derived { inputs, .. }) => {
            inputs.iter().for_each(|input| need(layout, *input, slots));
            return;
        }
        _ => return,
    };
    slots.extend(layout.slot(place));
}

/// Rows of lookups; several fields of a document often come from the same few, which are looked up once.
struct Rows<'s> {
    state: &'s State,
    seen: RefCell<SmallVec<[Seen<'s>; SEEN]>>,
}

/// A lookup that was made, and its row.
type Seen<'s> = (SourceId, i64, Option<&'s [u8]>);

/// Lookups that are kept of one document.
const SEEN: usize = 16;

impl Lookups for Rows<'_> {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        let mut seen = self.seen.borrow_mut();
        if let Some((.., row)) = seen.iter().find(|(of, at, _)| (*of, *at) == (source, key)) {
            return Ok(*row);
        }
        let row = self.state.row(source as Place, key)?;
        if seen.len() < SEEN {
            seen.push((source, key, row));
        }
        Ok(row)
    }
}
