//! The checkpoint file: the header, and what changed since the base.

use std::sync::{Arc, atomic::AtomicBool};

use super::Frozen;
use crate::{
    log::{Result, disk::Disk},
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
