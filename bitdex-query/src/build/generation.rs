//! The base of the next generation, out of staged files.

use std::sync::{Arc, atomic::AtomicBool};

use crate::{
    log::{Result, disk::Disk},
    state::State,
    store::{Folder, manifest::Prepared},
};

/// How much a build may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of heap, of all threads together.
    pub memory: usize,
    pub threads: usize,
}

/// Builds what `prepared` does not name yet, from `state`'s staged files (nothing is staged in memory) and its rows of
/// metrics and external fields. Calls `done` with each file that is durable, so that the manifest can name it.
pub fn build(
    _state: &State,
    _disk: &Arc<dyn Disk>,
    _folder: &Folder,
    _store: u128,
    _prepared: &Prepared,
    _limits: Limits,
    _cancel: &AtomicBool,
    _done: &mut (dyn FnMut(Prepared) -> Result<()> + Send),
) -> Result<Prepared> {
    todo!("build")
}
