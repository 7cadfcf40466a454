//! A store of the workload's rows on disk, built in this process as a load is, and opened again by every later run.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::{Context as _, Result};
use bitdex_proto::{
    definition::Definition,
    schema::Schema,
    wire::{self, record::Kind},
};
use bitdex_query::{
    build::generation::{Limits, build},
    log::disk::{Disk, RealDisk},
    state::{CLICKHOUSE, Files, POSTGRES, State, write_checkpoint},
    store::{
        Folder, format,
        manifest::{Manifest, Prepared},
    },
};

use crate::{
    bench::store::{
        feed,
        rows::{self, Rows},
    },
    stage::definition_file,
    workload::Workload,
};

const STORE: u128 = 1;
const GENERATION: u64 = 1;
/// Bytes of rows of one staged file.
const STAGED: usize = 64 << 20;
const MEMORY: usize = 1 << 30;

struct Building {
    state: State,
    disk: Arc<dyn Disk>,
    folder: Folder,
    manifest: Manifest,
    staged: usize,
}

/// Where the load is, its files all built.
pub(super) fn state(workload: Workload, data: &Path) -> Result<State> {
    let definition = Definition::load(definition_file())?;
    let schema = Arc::clone(definition.schema());
    let folder = Folder::open(data, true)?;
    let manifest = match Manifest::read(&folder.manifest())? {
        Some(manifest) => manifest,
        None => {
            let made = tempfile::tempdir_in(data)?;
            let rows = rows::make(workload, &schema, made.path())?;
            built(&schema, &folder, &rows)?
        }
    };
    let mut state = State::new(Arc::clone(&schema));
    apply(&mut state, genesis(&schema))?;
    apply(&mut state, begin(Vec::new()))?;
    let files = Files::open_prepared(&folder, &manifest, &schema)?.context("files of the store are missing")?;
    state.prepare(files);
    apply(&mut state, Kind::LoadEnd(wire::LoadEnd {}))?;
    Ok(state)
}

fn apply(state: &mut State, kind: Kind) -> Result<()> {
    Ok(state.apply(state.sequence() + 1, &wire::Record { kind: Some(kind) })?)
}

fn genesis(schema: &Schema) -> Kind {
    Kind::Genesis(wire::Genesis { store: "1".into(), definition_hash: schema.hash.clone() })
}

fn begin(parts: Vec<wire::LoadPart>) -> Kind {
    let load = wire::LoadOpen { source: POSTGRES.into(), load_id: "1".into(), parts, ..wire::LoadOpen::default() };
    Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: GENERATION })
}

fn built(schema: &Arc<Schema>, folder: &Folder, rows: &Rows) -> Result<Manifest> {
    let manifest = Manifest { epoch: 1, ..Manifest::new(format::NEWEST, STORE, &schema.hash) };
    let mut building = Building {
        state: State::new(Arc::clone(schema)),
        disk: Arc::new(RealDisk),
        folder: folder.clone(),
        manifest,
        staged: 0,
    };
    building.stage(schema, rows)?;
    let Building { state, disk, folder, mut manifest, .. } = building;
    let prepared = Prepared { generation: GENERATION, sequence: state.sequence(), ..Prepared::default() };
    let limits = Limits { memory: MEMORY, threads: 1 };
    let never = AtomicBool::new(false);
    let prepared = build(&state, &disk, &folder, STORE, &prepared, limits, &never, &mut |_| Ok(()))?;
    for name in manifest.staged.drain(..).chain(manifest.checkpoint.take().map(|checkpoint| checkpoint.file)) {
        std::fs::remove_file(folder.named(&name))?;
    }
    manifest.prepared = Some(Prepared { complete: true, ..prepared });
    manifest.publish(&*disk, &folder.manifest())?;
    Ok(manifest)
}

impl Building {
    fn stage(&mut self, schema: &Arc<Schema>, rows: &Rows) -> Result<()> {
        apply(&mut self.state, genesis(schema))?;
        let mut previous_cursor = bytes::Bytes::new();
        for (n, ops) in (1_u64..).zip(feed::metrics(schema, &rows.metrics)?) {
            let new_cursor = feed::cursor(n);
            let previous_cursor = std::mem::replace(&mut previous_cursor, new_cursor.clone());
            let source = CLICKHOUSE.into();
            let batch = wire::Batch { source, previous_cursor, new_cursor, ops, caught_up: true, backlog: 0 };
            apply(&mut self.state, Kind::Batch(batch))?;
        }
        apply(&mut self.state, begin(rows.parts.iter().map(|part| part.part).collect()))?;
        for (number, part) in (0..).zip(&rows.parts) {
            part.each(|copy_rows| {
                self.staged += copy_rows.len();
                apply(&mut self.state, Kind::LoadRows(wire::LoadRows { part: number, copy_rows }))?;
                if self.staged >= STAGED { self.flush(schema) } else { Ok(()) }
            })?;
            apply(&mut self.state, Kind::LoadPartDone(wire::LoadPartDone { part: number, rows: part.rows }))?;
        }
        self.flush(schema)
    }

    fn flush(&mut self, schema: &Arc<Schema>) -> Result<()> {
        apply(&mut self.state, Kind::Freeze(wire::Freeze {}))?;
        let frozen = Arc::clone(self.state.frozen().context("nothing is frozen")?);
        let before = self.manifest.checkpoint.take();
        let flushed = write_checkpoint(&frozen, &self.disk, &self.folder, STORE, &AtomicBool::new(false))?;
        self.manifest.staged.extend(flushed.staged);
        self.manifest.checkpoint = Some(flushed.checkpoint);
        let files = Files::open(&self.folder, &self.manifest, schema, None)?.context("a checkpoint is missing")?;
        self.state.adopt(files)?;
        if let Some(before) = before {
            std::fs::remove_file(self.folder.named(&before.file))?;
        }
        self.staged = 0;
        Ok(())
    }
}
