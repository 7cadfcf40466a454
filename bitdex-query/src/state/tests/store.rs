//! A folder in which states are brought into files, as the writer does it.

use std::sync::{Arc, atomic::AtomicBool};

use bitdex_proto::schema::Schema;

use super::super::{Files, Frozen, State, write_checkpoint};
use crate::{
    build::{
        compaction::{compact, pick},
        generation::{Limits, build},
    },
    log::{
        Cause, Error, Result,
        disk::{Disk, RealDisk},
    },
    store::{
        Folder,
        manifest::{Manifest, Prepared},
    },
};

pub(crate) struct Store {
    _temporary: tempfile::TempDir,
    folder: Folder,
    schema: Arc<Schema>,
    pub(crate) manifest: Manifest,
    disk: Arc<dyn Disk>,
}

impl Store {
    pub(crate) fn new(schema: &Arc<Schema>) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let manifest = Manifest { epoch: 1, ..Manifest::new(crate::store::format::NEWEST, 7, &schema.hash) };
        Self {
            folder: Folder::open(temporary.path(), true).unwrap(),
            _temporary: temporary,
            schema: schema.clone(),
            manifest,
            disk: Arc::new(RealDisk),
        }
    }

    /// Opens what the manifest names, and removes what it does not.
    pub(crate) fn open(&self, previous: Option<&Arc<Files>>) -> Arc<Files> {
        self.folder.clean(&*self.disk, &self.manifest).unwrap();
        Files::open(&self.folder, &self.manifest, &self.schema, previous).unwrap().unwrap()
    }

    /// Writes what is frozen, and opens it. `began`: where loads began.
    pub(crate) fn flush(&mut self, state: &State, began: &[u64]) -> Arc<Files> {
        self.flush_layer(&state.frozen().unwrap().clone(), began);
        self.open(Some(state.files()))
    }

    pub(crate) fn flush_layer(&mut self, frozen: &Frozen, began: &[u64]) {
        let cancel = AtomicBool::new(false);
        let flushed = write_checkpoint(frozen, &self.disk, &self.folder, self.manifest.stamp(), &cancel).unwrap();
        flushed.name_in(&mut self.manifest, frozen, began);
    }

    /// Rewrites what is most worth it; `None` where nothing is.
    pub(crate) fn compact(&mut self, files: &Arc<Files>, fraction: f64) -> Option<Arc<Files>> {
        let work = pick(files, fraction, 0).unwrap()?;
        let cancel = AtomicBool::new(false);
        let (compacted, _) = compact(files, work, &self.disk, &self.folder, self.manifest.stamp(), &cancel).unwrap();
        compacted.name_in(&mut self.manifest);
        Some(self.open(Some(files)))
    }

    /// Builds the base of the load's generation, on from where a build broke off; breaks off itself behind `files` more
    /// files, and then answers false.
    pub(crate) fn build(&mut self, state: &State, files: usize) -> bool {
        let generation = state.loading_generation().unwrap();
        let sequence = self.manifest.checkpoint.as_ref().unwrap().sequence;
        let prepared = self.manifest.prepared.take_if(|prepared| prepared.generation == generation);
        let mut prepared = prepared.unwrap_or(Prepared { generation, sequence, ..Prepared::default() });
        let from = prepared.clone();
        let mut left = files;
        let mut done = |named: Prepared| -> Result<()> {
            prepared = named;
            left = left.checked_sub(1).ok_or_else(|| Error::poisoned("killed"))?;
            Ok(())
        };
        let limits = Limits { memory: 64 << 20, threads: 2 };
        let (cancel, stamp) = (AtomicBool::new(false), self.manifest.stamp());
        let built = build(state, &self.disk, &self.folder, stamp, &from, limits, &cancel, &mut done);
        let whole = built.is_ok();
        let named = match built {
            Ok(built) => Prepared { complete: true, ..built },
            Err(error) => {
                assert!(matches!(error.cause(), Cause::Poisoned(_)), "{error}");
                prepared
            }
        };
        self.manifest.prepared = Some(named);
        whole
    }

    /// The base of this generation, where it is complete.
    pub(crate) fn prepared(&self, generation: Option<u64>) -> Option<Arc<Files>> {
        self.manifest.prepared.as_ref().filter(|prepared| Some(prepared.generation) == generation)?;
        Files::open_prepared(&self.folder, &self.manifest, &self.schema).unwrap()
    }
}
