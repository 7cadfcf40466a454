//! An open segment.

use std::{path::Path, sync::Arc};

use bitdex_proto::schema::FieldId;

use super::{
    Spec,
    columns::Column,
    documents::Documents,
    postings::{Posting, Postings},
    value::Term,
};
use crate::{log::Result, store::pack::Pack};

#[derive(Debug)]
pub struct Segment {}

impl Segment {
    /// `None` where there is no file of that name.
    pub fn open(_path: &Path, _store: u128, _spec: &Spec) -> Result<Option<Self>> {
        todo!("segment")
    }

    pub fn pack(&self) -> &Arc<Pack> {
        todo!("segment")
    }

    pub fn number(&self) -> u32 {
        todo!("segment")
    }

    /// Sequence number up to which it has taken in changes.
    pub fn sequence(&self) -> u64 {
        todo!("segment")
    }

    /// Present documents.
    pub fn documents_present(&self) -> u64 {
        todo!("segment")
    }

    /// Sum of the hashes of its rows.
    pub fn hash(&self) -> u128 {
        todo!("segment")
    }

    pub fn documents(&self) -> &Documents {
        todo!("segment")
    }

    /// Sets of a field with index `Terms`; of one with index `Column`, and of the key field: the term `Exists` alone.
    pub fn postings(&self, _field: FieldId) -> Option<&Postings> {
        todo!("segment")
    }

    pub fn posting(&self, field: FieldId, term: Term<'_>) -> Result<Option<Posting<'_>>> {
        self.postings(field).map_or(Ok(None), |postings| postings.get(term))
    }

    pub fn column(&self, _field: FieldId) -> Option<&Column> {
        todo!("segment")
    }
}
