//! Lookups' rows that were found lately: documents that follow each other often show the same ones.

use std::cell::{Cell, OnceCell};

use bitdex_proto::schema::SourceId;

use super::compute::Lookups;
use crate::log::Result;

/// Rows that were found, for as long as this is kept; some are forgotten for others.
pub(crate) struct Recent<'a, L> {
    inner: &'a L,
    /// There is room for two to the power of this many.
    bits: u32,
    found: OnceCell<Vec<Cell<Found<'a>>>>,
}

#[derive(Clone, Copy)]
struct Found<'a> {
    /// Plus one; 0: nothing.
    source: u32,
    key: i64,
    row: Option<&'a [u8]>,
}

impl<'a, L: Lookups> Recent<'a, L> {
    pub(crate) fn new(inner: &'a L, bits: u32) -> Self {
        Self { inner, bits, found: OnceCell::new() }
    }
}

impl<L: Lookups> Lookups for Recent<'_, L> {
    fn lookup(&self, source: SourceId, key: i64) -> Result<Option<&[u8]>> {
        let room = || vec![Cell::new(Found { source: 0, key: 0, row: None }); 1 << self.bits];
        let source_key = source as u32 + 1;
        let mixed = (key as u64 ^ (source as u64) << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let Some(place) = self.found.get_or_init(room).get((mixed >> (64 - self.bits)) as usize) else {
            return self.inner.lookup(source, key);
        };
        let found = place.get();
        if found.source == source_key && found.key == key {
            return Ok(found.row);
        }
        let row = self.inner.lookup(source, key)?;
        place.set(Found { source: source_key, key, row });
        Ok(row)
    }
}
