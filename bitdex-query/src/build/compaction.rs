//! Rewrites a segment or a table with what the checkpoint says of it.

use std::sync::{Arc, atomic::AtomicBool};

use crate::{
    log::{Result, disk::Disk},
    state::Files,
    store::{
        Folder,
        manifest::{SegmentRef, TableRef},
    },
};

/// What to rewrite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    Segment(u32),
    Table(usize),
}

/// A rewritten file; the manifest does not name it yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compacted {
    Segment(SegmentRef),
    Table(TableRef),
}

/// What is most worth rewriting: the checkpoint's share of it is at least `fraction` of its rows. `None`: nothing.
pub fn pick(_files: &Files, _fraction: f64) -> Result<Option<Work>> {
    todo!("build")
}

/// Ends early, with an error, once `cancel` is set.
pub fn compact(
    _files: &Files,
    _work: Work,
    _disk: &Arc<dyn Disk>,
    _folder: &Folder,
    _store: u128,
    _cancel: &AtomicBool,
) -> Result<(Compacted, u64)> {
    todo!("build")
}
