//! Builds a segment from documents in ascending order of their ids.

use std::{path::Path, sync::Arc};

use bitdex_proto::schema::FieldId;

use super::{Spec, value::ValueRef};
use crate::log::{Result, disk::Disk};

#[derive(Debug)]
pub struct SegmentBuilder {}

/// What was built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Built {
    /// Length of the file.
    pub bytes: u64,
    /// Present documents.
    pub documents: u64,
}

impl SegmentBuilder {
    pub fn create(
        _disk: &Arc<dyn Disk>,
        _path: &Path,
        _store: u128,
        _spec: &Spec,
        _number: u32,
        _sequence: u64,
    ) -> Result<Self> {
        todo!("segment")
    }

    /// The next document's rows; ids ascending. Where it is `present`, its values follow by [`SegmentBuilder::value`].
    pub fn document(&mut self, _id: u32, _slots: &[Option<&[u8]>], _present: bool) -> Result<()> {
        todo!("segment")
    }

    /// A value of the current document in an indexed field; those of one field may come in any order and twice.
    pub fn value(&mut self, _field: FieldId, _value: ValueRef<'_>) {
        todo!("segment")
    }

    /// Bytes held in memory.
    pub fn bytes(&self) -> usize {
        todo!("segment")
    }

    /// Writes the rest, and publishes the file under its name. `hash`: sum of the hashes of all rows in it.
    pub fn finish(self, _hash: u128) -> Result<Built> {
        todo!("segment")
    }
}
