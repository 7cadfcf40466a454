//! Rows of documents → a segment.

use bitdex_proto::schema::{DOCUMENT_SOURCE, FieldId};

use crate::{
    log::Result,
    mapping::slices::give_way,
    segment::{Index, builder::SegmentBuilder, documents::Slots},
    state::{
        compute::{self, Lookups},
        layout::{Layout, Place},
    },
};

/// Documents between two looks at memory, and at whether to go on: a few milliseconds.
const STRIDE: usize = 512;
/// There is room for two to the power of this many of lookups' rows that were found lately.
pub(super) const RECENT_BITS: u32 = 14;

/// Rows of documents, ids ascending.
pub(super) trait Documents {
    /// Goes on to the next document that has any.
    fn next(&mut self) -> Result<Option<u32>>;

    /// Those of the document that [`Documents::next`] went on to, by slot.
    fn slots<'d>(&'d self, slots: &mut Slots<'d>);
}

/// What a segment was filled with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filled {
    /// Documents that have rows.
    pub(super) documents: u64,
    /// Sum of the hashes of all rows.
    pub(super) hash: u128,
}

/// Calls `step` every few milliseconds, with the bytes that the builder holds.
pub(super) fn fill(
    layout: &Layout,
    lookups: &impl Lookups,
    documents: &mut impl Documents,
    builder: &mut SegmentBuilder,
    step: &mut impl FnMut(usize) -> Result<()>,
) -> Result<Filled> {
    let spec = layout.spec();
    let indexed = spec.fields.iter().enumerate().filter(|(_, (index, _))| *index != Index::None);
    let fields: Vec<FieldId> = indexed.map(|(field, _)| field).collect();
    let places: Vec<Place> = (0..spec.slots).map(|slot| layout.place(slot)).collect();
    let own = layout.slot(DOCUMENT_SOURCE as Place);
    let mut filled = Filled::default();
    while let Some(id) = documents.next()? {
        give_way();
        let mut slots = Slots::new();
        documents.slots(&mut slots);
        let present = own.and_then(|slot| slots.get(slot)).is_some_and(Option::is_some);
        for (place, row) in places.iter().zip(&slots) {
            if let Some(row) = row {
                filled.hash = filled.hash.wrapping_add(compute::row_hash(*place, id.into(), row));
            }
        }
        builder.document(id, &slots, present)?;
        if present {
            compute::values(layout, &slots, lookups, id, &fields, &mut |field, value| builder.value(field, value))?;
        }
        filled.documents += 1;
        if filled.documents.is_multiple_of(STRIDE as u64) {
            step(builder.bytes())?;
        }
    }
    step(builder.bytes())?;
    Ok(filled)
}
