//! Documents, through all layers.

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, Origin},
    value::{FieldValue, Value},
};
use smallvec::SmallVec;

use super::super::{
    Recent, State,
    compute::Document,
    layer::Layer,
    layout::{Layout, Place},
};
use crate::{
    log::{self, Result},
    segment::{SEGMENT_BITS, documents::Slots},
};

/// Documents whose rows are asked for before the first of them is decoded.
const ROWS_AHEAD: usize = 64;
/// There is room for two to the power of this many lookups' rows that were found for one document, and for many.
const OF_ONE: u32 = 4;
const OF_MANY: u32 = 8;

/// A present document, of which nothing is decoded yet.
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
        let mut reader = DocumentReader::new(self.state, &[field], OF_ONE);
        let slots = reader.slots(self.id, Some(self.row))?;
        Ok(reader.values_of(self.id, &slots)?.pop().unwrap_or(FieldValue::Null))
    }
}

/// Reads the values of some fields, of one document after the other.
pub(crate) struct DocumentReader<'s> {
    state: &'s State,
    fields: SmallVec<[ReadField; 32]>,
    /// The slots that these are computed from, and that of the document source: ascending.
    needed: SmallVec<[(usize, Place); 16]>,
    /// Where the rows of the document source stand.
    of_document: usize,
    /// Those in memory that have rows, the newest first.
    layers: SmallVec<[&'s Layer; 2]>,
    lookups: Recent<'s, State>,
    /// Room.
    many: Vec<Value>,
}

#[derive(Debug, Clone, Copy)]
struct ReadField {
    field: FieldId,
    many: bool,
}

impl State {
    /// Reads these fields of the layout.
    pub(crate) fn document_reader(&self, fields: &[FieldId]) -> DocumentReader<'_> {
        DocumentReader::new(self, fields, OF_MANY)
    }
}

impl<'s> DocumentReader<'s> {
    fn new(state: &'s State, fields: &[FieldId], recent_bits: u32) -> Self {
        let layout = &*state.layout;
        let of_document = layout.slot(DOCUMENT_SOURCE as Place).unwrap_or_default();
        let mut slots: SmallVec<[usize; 16]> = SmallVec::new();
        slots.push(of_document);
        fields.iter().for_each(|field| need(layout, *field, &mut slots));
        slots.sort_unstable();
        slots.dedup();
        Self {
            state,
            fields: fields.iter().map(|field| ReadField { field: *field, many: is_many(layout, *field) }).collect(),
            needed: slots.into_iter().map(|slot| (slot, layout.place(slot))).collect(),
            of_document,
            layers: state.heap_layers().rev().filter(|layer| !layer.rows.is_empty()).collect(),
            lookups: Recent::new(state, recent_bits),
            many: Vec::new(),
        }
    }

    /// Calls `each` with every id and [`DocumentReader::values`] of it: what many of them need is asked for at once.
    pub(crate) fn each<E: From<log::Error>>(
        &mut self,
        ids: &[u32],
        mut each: impl FnMut(u32, Option<Vec<FieldValue>>) -> Result<(), E>,
    ) -> Result<(), E> {
        for some in ids.chunks(ROWS_AHEAD) {
            self.fetch(some);
            for id in some {
                each(*id, self.values(*id)?)?;
            }
        }
        Ok(())
    }

    /// Asks for what [`DocumentReader::values`] will read of the documents themselves.
    fn fetch(&self, ids: &[u32]) {
        let documents = |id: u32| self.state.files.segment(id >> SEGMENT_BITS).map(|segment| segment.documents());
        for id in ids {
            documents(*id).into_iter().for_each(|documents| documents.fetch_group(*id));
        }
        for id in ids {
            documents(*id).into_iter().for_each(|documents| documents.fetch_ends(*id));
        }
        for id in ids {
            documents(*id).into_iter().for_each(|documents| documents.fetch_record(*id));
        }
    }

    /// One value for each of the fields, in their order; `None`: there is no such document.
    pub(crate) fn values(&mut self, id: u32) -> Result<Option<Vec<FieldValue>>> {
        let slots = self.slots(id, None)?;
        match slots.get(self.of_document) {
            Some(Some(_)) => self.values_of(id, &slots).map(Some),
            _ => Ok(None),
        }
    }

    fn values_of(&mut self, id: u32, slots: &Slots<'_>) -> Result<Vec<FieldValue>> {
        let mut document = Document::new(&self.state.layout, slots, &self.lookups, id);
        let mut values = Vec::with_capacity(self.fields.len());
        for ReadField { field, many } in &self.fields {
            values.push(match many {
                false => FieldValue::one(document.scalar(*field)?.map(|value| value.to_value())),
                true => {
                    self.many.clear();
                    document.each(*field, &mut |value| self.many.push(value.to_value()))?;
                    match self.many.is_empty() {
                        true => FieldValue::Null,
                        false => FieldValue::Many(self.many.drain(..).collect()),
                    }
                }
            });
        }
        Ok(values)
    }

    /// The rows that the fields are computed from. `own`: that of the document source, where it is known.
    fn slots(&self, id: u32, own: Option<&'s [u8]>) -> Result<Slots<'s>> {
        if let (Some(_), 1) = (own, self.needed.len()) {
            let mut slots = Slots::from_elem(None, self.of_document + 1);
            if let Some(to) = slots.last_mut() {
                *to = own;
            }
            return Ok(slots);
        }
        let (files, segment) = (&self.state.files, id >> SEGMENT_BITS);
        let mut slots = match files.segment(segment) {
            Some(segment) => segment.documents().get(id)?.unwrap_or_default(),
            None => Slots::new(),
        };
        let checkpoint = files.checkpoint().filter(|_| !files.has_taken_in(segment));
        if self.layers.is_empty() && checkpoint.is_none() {
            return Ok(slots);
        }
        slots.resize(self.state.layout.spec().slots, None);
        for (slot, place) in &self.needed {
            let in_memory = self.layers.iter().find_map(|layer| layer.rows.get(*place, id.into()));
            let newer = match (in_memory, checkpoint) {
                (None, Some(checkpoint)) => checkpoint.rows().get(*place, id.into())?,
                (row, _) => row,
            };
            if let (Some(row), Some(to)) = (newer, slots.get_mut(*slot)) {
                *to = row;
            }
        }
        Ok(slots)
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
