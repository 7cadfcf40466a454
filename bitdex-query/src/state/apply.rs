//! Records → state. Nothing here looks at a clock, at randomness or outside.

use std::sync::Arc;

use bitdex_proto::{
    Error, Result, copy,
    ops::{Change, Op},
    query::Filter,
    schema::{FieldId, Schema},
    wire::{self, record::Kind},
};
use bytes::Bytes;

use super::{
    Decoded, Feed, Files, Frozen, LoadProgress, Loading, State, changes::Changes, layer::Layer, layout::Place,
};
use crate::{build::staging::Staging, engine, segment::SEGMENT_BITS};

/// Changes of rows that are worked out at once, at most about.
const MOST: usize = 300_000;

/// See [`State::take`].
#[derive(Debug, Default)]
pub struct Unsettled(Changes);

pub(super) fn malformed(what: &str) -> Error {
    Error::invalid(format!("a record without {what}"))
}

impl State {
    /// Applies the record with the given sequence number. An error means that the record is not valid for this state
    /// ([`State::validate`] tells beforehand) or that files are damaged; the state must then be treated as lost.
    pub fn apply(&mut self, sequence: u64, record: &wire::Record) -> Result<()> {
        let mut unsettled = Unsettled::default();
        self.take(sequence, &Decoded::new(self.schema(), record.clone())?, &mut unsettled)?;
        self.settle_all(unsettled)
    }

    /// As [`State::apply`], with the row changes of batches left in `unsettled`, so that those of many records are worked
    /// out as one. Before [`State::settle_all`] only cursors and the like may be read.
    pub fn take(&mut self, sequence: u64, record: &Decoded, unsettled: &mut Unsettled) -> Result<()> {
        if sequence <= self.header.sequence {
            return Err(Error::Internal(format!("record {sequence} follows record {}", self.header.sequence)));
        }
        let kind = record.kind().ok_or_else(|| malformed("a kind"))?;
        if !matches!(kind, Kind::Batch(_)) || unsettled.0.len() >= MOST {
            self.settle(std::mem::take(&mut unsettled.0))?;
        }
        match kind {
            Kind::Genesis(genesis) => self.begin(genesis)?,
            Kind::Batch(batch) => self.take_batch(batch, record.ops(), &mut unsettled.0)?,
            Kind::LoadBegin(begin) => self.begin_load(sequence, begin)?,
            Kind::LoadRows(rows) => self.stage_rows(rows)?,
            Kind::LoadPartDone(part) => self.end_part(part)?,
            Kind::LoadEnd(_) => self.end_load()?,
            Kind::Freeze(_) => self.freeze(sequence)?,
        }
        self.header.sequence = sequence;
        Ok(())
    }

    /// Works out what was left.
    pub fn settle_all(&mut self, unsettled: Unsettled) -> Result<()> {
        Ok(self.settle(unsettled.0)?)
    }

    /// Whether COPY rows decode as rows of their part's source.
    pub fn check_load_rows(schema: &Schema, parts: &[wire::LoadPart], rows: &wire::LoadRows) -> Result<()> {
        let part = part_of(parts, rows.part)?;
        copy::check_rows(schema, part.source as usize, &rows.copy_rows)
    }

    /// Whether [`State::apply`] would take this record, which decodes, next.
    pub fn validate(&self, record: &wire::Record) -> Result<()> {
        match &record.kind {
            Some(Kind::Genesis(_)) => self.check_genesis(),
            Some(Kind::Batch(batch)) => self.check_cursor(batch),
            Some(Kind::LoadRows(rows)) => Self::check_load_rows(self.schema(), &self.loading()?.progress.parts, rows),
            Some(Kind::LoadPartDone(part)) => self.loading()?.part(part.part).map(|_| ()),
            Some(Kind::LoadEnd(_)) => self.check_load_end(),
            Some(Kind::Freeze(_)) => self.check_freeze(),
            Some(Kind::LoadBegin(_)) | None => Ok(()),
        }
    }

    /// Gives the files of the next generation, which the coming `LoadEnd` swaps in. Without them, `LoadEnd` applies
    /// what is staged as ordinary rows.
    pub fn prepare(&mut self, prepared: Arc<Files>) {
        self.prepared = Some(prepared);
    }

    /// Whether the load that is under way is complete.
    pub fn check_load_end(&self) -> Result<()> {
        self.loading()?.check_complete()
    }

    fn check_genesis(&self) -> Result<()> {
        if self.header.store.is_empty() {
            Ok(())
        } else {
            Err(Error::Internal(format!("store {} begins a second time", self.header.store)))
        }
    }

    fn begin(&mut self, genesis: &wire::Genesis) -> Result<()> {
        self.check_genesis()?;
        check_definition(self.schema(), &genesis.definition_hash)?;
        self.header.store = genesis.store.as_str().into();
        Ok(())
    }

    fn check_freeze(&self) -> Result<()> {
        match &self.frozen {
            None => Ok(()),
            Some(frozen) => Err(Error::Internal(format!(
                "the layer of record {} is frozen still: its checkpoint has to be read first",
                frozen.sequence()
            ))),
        }
    }

    fn freeze(&mut self, sequence: u64) -> Result<()> {
        self.check_freeze()?;
        self.header.sequence = sequence;
        let mut active = Layer::over(&self.files);
        active.defer(self.active.deferred.clone());
        self.frozen = Some(Arc::new(Frozen {
            header: self.header.clone(),
            layer: std::mem::replace(&mut self.active, active),
            below: self.files.clone(),
            layout: self.layout.clone(),
        }));
        Ok(())
    }

    fn check_cursor(&self, batch: &wire::Batch) -> Result<()> {
        if self.header.loading.as_ref().is_some_and(|loading| loading.source == batch.source) {
            return Err(Error::Precondition(format!("{}: a load is under way; finish it first", batch.source)));
        }
        if self.cursor(&batch.source) != batch.previous_cursor {
            return Err(Error::Precondition(format!(
                "{}: the batch does not begin at the durable cursor: open the session again",
                batch.source
            )));
        }
        Ok(())
    }

    fn take_batch(&mut self, batch: &wire::Batch, ops: &[Op], changes: &mut Changes) -> Result<()> {
        self.check_cursor(batch)?;
        self.take_ops(ops, changes)?;
        let caught_up = batch.caught_up || self.is_caught_up(&batch.source);
        let feed = Feed { cursor: owned(&batch.new_cursor), caught_up, backlog: batch.backlog };
        self.header.feeds.insert(batch.source.clone(), feed);
        Ok(())
    }

    fn take_ops<'o>(&mut self, ops: impl IntoIterator<Item = &'o Op>, changes: &mut Changes) -> Result<()> {
        let loading = self.header.loading.is_some();
        // What is deferred waits for the first documents.
        let defers = loading && !self.header.loaded;
        for op in ops {
            if loading && self.is_loaded_source(op) {
                self.active.staged.push_op(op.clone());
                if defers {
                    continue;
                }
            }
            if changes.push(self, op)? {
                continue;
            }
            match op {
                Op::Field { document, field, change } => {
                    if defers && !self.active.deferred.is_empty() {
                        self.active.defer([op.clone()]);
                    } else {
                        changes.external(&self.layout, *field, *document, change.clone());
                    }
                }
                op if defers => self.active.defer([op.clone()]),
                Op::QueryOpSet { filter, changes: sets } => {
                    self.settle(std::mem::take(changes))?;
                    self.add_matches(filter, sets, changes)?;
                    self.settle(std::mem::take(changes))?;
                }
                Op::Upsert { .. } | Op::Member { .. } | Op::Truncate { .. } | Op::Retain { .. } => {}
            }
        }
        Ok(())
    }

    fn add_matches(&self, filter: &Filter, sets: &[(FieldId, Change)], changes: &mut Changes) -> Result<()> {
        engine::matching(self, filter, &mut |id| {
            for (field, change) in sets {
                changes.external(&self.layout, *field, id, change.clone());
            }
            Ok(())
        })
    }

    /// Whether an op changes rows that loads bring.
    fn is_loaded_source(&self, op: &Op) -> bool {
        match op {
            Op::Upsert { source, .. }
            | Op::Member { source, .. }
            | Op::Truncate { source }
            | Op::Retain { source, .. } => self.layout.is_loaded(*source as Place),
            Op::Field { .. } | Op::QueryOpSet { .. } => false,
        }
    }

    fn begin_load(&mut self, sequence: u64, begin: &wire::LoadBegin) -> Result<()> {
        let load = check_load(self.schema(), begin)?;
        drop(self.active.take_staged());
        self.prepared = None;
        self.header.loading = Some(Arc::new(Loading {
            source: load.source.clone(),
            generation: begin.generation,
            began: sequence,
            progress: LoadProgress {
                load_id: load.load_id.clone(),
                cursor: owned(&load.cursor),
                parts: load.parts.clone(),
                done: Vec::new(),
                rows: 0,
            },
        }));
        Ok(())
    }

    fn loading(&self) -> Result<&Arc<Loading>> {
        let loading = self.header.loading.as_ref();
        loading.ok_or_else(|| Error::Precondition("no load is under way: open one first".into()))
    }

    fn stage_rows(&mut self, rows: &wire::LoadRows) -> Result<()> {
        let source = self.loading()?.part(rows.part)?.source as usize;
        self.active.staged.push_rows(source, rows.copy_rows.clone());
        Ok(())
    }

    fn end_part(&mut self, part: &wire::LoadPartDone) -> Result<()> {
        let mut loading = self.loading()?.clone();
        loading.part(part.part)?;
        let progress = &mut Arc::make_mut(&mut loading).progress;
        if let Err(at) = progress.done.binary_search(&part.part) {
            progress.done.insert(at, part.part);
            progress.rows = progress.rows.saturating_add(part.rows);
        }
        self.header.loading = Some(loading);
        Ok(())
    }

    fn end_load(&mut self) -> Result<()> {
        let loading = self.loading()?.clone();
        loading.check_complete()?;
        let staged = self.active.take_staged();
        match self.prepared.take() {
            Some(prepared) => {
                self.swap_in(prepared)?;
                self.add_staged(&staged)?;
            }
            None => self.replace_loaded(&loading, &staged)?,
        }
        let header = &mut self.header;
        header.loading = None;
        header.loaded = true;
        header.generation = loading.generation;
        let feed = Feed { cursor: loading.progress.cursor.clone(), ..Feed::default() };
        header.feeds.insert(loading.source.clone(), feed);
        let deferred = self.active.take_deferred();
        let mut changes = Changes::default();
        self.take_ops(&deferred, &mut changes)?;
        Ok(self.settle(changes)?)
    }

    /// Makes what is staged in memory the rows of all sources that are loaded.
    fn replace_loaded(&mut self, loading: &Loading, staged: &Staging) -> Result<()> {
        let of_this = |other: Option<&Arc<Loading>>| other.is_some_and(|other| other.began == loading.began);
        if !self.files.staged().is_empty()
            && let Some(checkpoint) = self.files.checkpoint()
            && of_this(checkpoint.header().loading.as_ref())
        {
            return Err(Error::Internal("the rows of the load are in files, and nothing was built of them".into()));
        }
        let mut changes = Changes::default();
        for place in (0..self.layout.schema.sources.len()).map(|source| source as Place) {
            if self.layout.is_loaded(place) {
                changes.clear(self, place, (i64::MIN, i64::MAX), |_| false)?;
            }
        }
        let frozen = self.frozen.as_ref().filter(|frozen| of_this(frozen.header.loading.as_ref()));
        let frozen: Option<&Staging> = frozen.map(|frozen| &frozen.layer.staged);
        for staged in frozen.into_iter().chain([staged]) {
            for op in staged.ops(self.schema())? {
                changes.push_staged(&op);
            }
        }
        Ok(self.settle(changes)?)
    }

    /// What others did to loaded sources after the base was built.
    fn add_staged(&mut self, staged: &Staging) -> Result<()> {
        let mut changes = Changes::default();
        for op in staged.ops(self.schema())? {
            changes.push(self, &op)?;
        }
        Ok(self.settle(changes)?)
    }

    /// Makes files the base, under what has changed since in the rows that are not loaded.
    fn swap_in(&mut self, prepared: Arc<Files>) -> Result<()> {
        let mut changes = Changes::default();
        let places = 0..self.layout.places() as Place;
        for place in places.filter(|place| self.layout.slot(*place).is_some() && !self.layout.is_loaded(*place)) {
            self.add_overrides(place, &prepared, &mut changes)?;
        }
        self.header.documents = prepared.segments().iter().map(|segment| segment.documents_present()).sum();
        self.header.hash = hash_of(&prepared);
        self.files = prepared;
        self.frozen = None;
        let deferred = self.active.take_deferred();
        self.active = Layer::over(&self.files);
        self.active.defer(deferred);
        Ok(self.settle(changes)?)
    }

    /// Adds the rows of a place that layers above the base hold, and those of segments that are newer than `prepared`.
    fn add_overrides(&self, place: Place, prepared: &Files, changes: &mut Changes) -> Result<()> {
        let mut add = |key: i64| -> crate::log::Result<()> {
            changes.bytes(place, key, self.row(place, key)?);
            Ok(())
        };
        if let Some(checkpoint) = self.files.checkpoint() {
            let rows = checkpoint.rows();
            for position in rows.range(place, i64::MIN, i64::MAX)? {
                add(rows.at(position)?.0)?;
            }
        }
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.layer);
        for layer in frozen.into_iter().chain([&self.active]) {
            for (key, _) in layer.rows.of(place, i64::MIN, i64::MAX) {
                add(key)?;
            }
        }
        let sequence = prepared.segments().iter().map(|segment| segment.sequence()).min().unwrap_or(0);
        for segment in self.files.segments().iter().filter(|segment| segment.sequence() > sequence) {
            let first = i64::from(segment.number()) << SEGMENT_BITS;
            for files in [&*self.files, prepared] {
                let mut rows = files.rows(place, first, first + (1 << SEGMENT_BITS) - 1)?;
                while let Some((key, _)) = rows.next()? {
                    add(key)?;
                }
            }
        }
        Ok(())
    }
}

/// Sum of the hashes of all rows of a base.
fn hash_of(files: &Files) -> u128 {
    let segments = files.segments().iter().map(|segment| segment.hash());
    let tables = (0..files.layout().schema.sources.len()).map(|source| files.table_hash(source));
    segments.chain(tables).fold(0, u128::wrapping_add)
}

impl Loading {
    fn part(&self, part: u32) -> Result<&wire::LoadPart> {
        part_of(&self.progress.parts, part)
    }

    fn check_complete(&self) -> Result<()> {
        let LoadProgress { load_id, parts, done, .. } = &self.progress;
        if done.len() == parts.len() {
            Ok(())
        } else {
            Err(Error::Precondition(format!("load {load_id}: {} of {} parts are complete", done.len(), parts.len())))
        }
    }
}

fn part_of(parts: &[wire::LoadPart], part: u32) -> Result<&wire::LoadPart> {
    parts
        .get(part as usize)
        .ok_or_else(|| Error::invalid(format!("part {part} does not exist: the load has {}", parts.len())))
}

pub(super) fn check_definition(schema: &Schema, hash: &str) -> Result<()> {
    if hash == schema.hash {
        Ok(())
    } else {
        Err(Error::Precondition(format!(
            "the store is of definition {hash}, this process serves {}: start it with the definition of the store",
            schema.hash
        )))
    }
}

pub(super) fn check_load<'r>(schema: &Schema, begin: &'r wire::LoadBegin) -> Result<&'r wire::LoadOpen> {
    let load = begin.load.as_ref().ok_or_else(|| malformed("its load"))?;
    if load.source.is_empty() {
        return Err(malformed("the name of its source"));
    }
    for part in &load.parts {
        match schema.sources.get(part.source as usize) {
            Some(source) if source.is_postgres() => {}
            Some(source) => return Err(Error::invalid(format!("{} is not loaded from Postgres", source.name))),
            None => {
                return Err(Error::invalid(format!(
                    "source {} does not exist: the definition has {}",
                    part.source,
                    schema.sources.len()
                )));
            }
        }
    }
    Ok(load)
}

/// A copy of its own, so that it does not keep the record's buffer alive.
fn owned(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
