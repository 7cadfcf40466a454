//! What a manifest names, opened.

use std::{path::Path, sync::Arc};

use bitdex_proto::schema::Schema;

use super::layout::Layout;
use crate::{
    log::Result,
    segment::{segment::Segment, table::Table},
    store::{Folder, manifest::Manifest},
};

/// The mapped layers of a version: base and checkpoint.
#[derive(Debug)]
pub struct Files {}

impl Files {
    /// No files at all.
    pub fn none(_schema: Arc<Schema>) -> Arc<Self> {
        todo!("files")
    }

    /// Maps all files that the manifest names. `None` where one is gone, which means that there is a newer manifest.
    /// Files that `previous` has open are taken over from it.
    pub fn open(
        _folder: &Folder,
        _manifest: &Manifest,
        _schema: &Arc<Schema>,
        _previous: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>> {
        todo!("files")
    }

    /// The base that a build prepared, once it is complete: no checkpoint, no header.
    pub fn open_prepared(
        _folder: &Folder,
        _manifest: &Manifest,
        _schema: &Arc<Schema>,
    ) -> Result<Option<Arc<Self>>> {
        todo!("files")
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        todo!("files")
    }

    /// Sequence number of the checkpoint; 0: there is none.
    pub fn sequence(&self) -> u64 {
        todo!("files")
    }

    /// By number, ascending.
    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        todo!("files")
    }

    pub(crate) fn segment(&self, _number: u32) -> Option<&Arc<Segment>> {
        todo!("files")
    }

    /// Rows of a lookup and of its hops.
    pub(crate) fn table(&self, _source: usize) -> Option<&Table> {
        todo!("files")
    }

    /// Names of the staged files of an unfinished load, in the order in which their rows came.
    pub(crate) fn staged(&self) -> &[std::path::PathBuf] {
        todo!("files")
    }

    pub(crate) fn folder(&self) -> &Path {
        todo!("files")
    }
}
