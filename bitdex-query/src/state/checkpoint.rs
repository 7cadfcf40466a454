//! The checkpoint file: the header, and what changed since the base.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::schema::FieldId;

use super::{Frozen, Header, layout::Layout};
use crate::{
    log::{Result, disk::Disk},
    segment::{
        columns::SparseColumn,
        postings::{Postings, Role},
        table::Table,
    },
    store::{Folder, manifest::CheckpointRef},
};

/// What a flush wrote; the manifest does not name it yet.
#[derive(Debug, Clone)]
pub struct Flushed {
    pub checkpoint: CheckpointRef,
    /// The file with what was staged, where there was something.
    pub staged: Option<String>,
    pub bytes: u64,
}

/// Writes the checkpoint below, merged with the frozen layer, and what was staged. Leaves out what the segments have
/// taken in. Ends early, with an error, once `cancel` is set.
pub fn write_checkpoint(
    _frozen: &Frozen,
    _disk: &Arc<dyn Disk>,
    _folder: &Folder,
    _store: u128,
    _cancel: &AtomicBool,
) -> Result<Flushed> {
    todo!("checkpoint")
}

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {}

impl Checkpoint {
    pub(crate) fn open(_path: &Path, _store: u128, _layout: &Layout) -> Result<Option<Self>> {
        todo!("checkpoint")
    }

    pub(crate) fn path(&self) -> &Path {
        todo!("checkpoint")
    }

    pub(crate) fn header(&self) -> &Header {
        todo!("checkpoint")
    }

    pub(crate) fn sequence(&self) -> u64 {
        self.header().sequence
    }

    pub(crate) fn rows(&self) -> &Table {
        todo!("checkpoint")
    }

    pub(crate) fn sets(&self, _role: Role, _field: FieldId) -> Option<&Postings> {
        todo!("checkpoint")
    }

    pub(crate) fn column(&self, _field: FieldId) -> Option<&SparseColumn> {
        todo!("checkpoint")
    }
}
