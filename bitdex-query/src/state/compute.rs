//! The values of one document, from its rows and those of lookups.

use bitdex_proto::schema::{FieldId, SourceId};

use super::layout::Layout;
use crate::{log::Result, segment::value::ValueRef};

/// Where rows of lookups are found.
pub(crate) trait Lookups {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>>;
}

/// Calls `emit` with each value of each of `fields` (of the layout, ascending), of a document with the given rows (by
/// slot; that of the document source is there). Values of a field of many come ascending, without duplicates. `scratch`
/// is kept and used again from call to call.
pub(crate) fn values(
    _layout: &Layout,
    _slots: &[Option<&[u8]>],
    _lookups: &impl Lookups,
    _id: u32,
    _fields: &[FieldId],
    _emit: &mut impl FnMut(FieldId, ValueRef<'_>),
) -> Result<()> {
    todo!("state")
}

/// Hash of one row, a term of the state's hash.
pub(crate) fn row_hash(_place: super::layout::Place, _key: i64, _row: &[u8]) -> u128 {
    todo!("state")
}
