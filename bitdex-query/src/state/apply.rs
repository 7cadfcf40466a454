//! Records → state. Nothing here looks at a clock, at randomness or outside.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bitdex_proto::{
    Error, Result, copy,
    ops::{Change, Op},
    query::Filter,
    schema::{DOCUMENT_SOURCE, FieldId, Schema, SourceId},
    value::{FieldValue, Value},
    wire::{self, record::Kind},
};
use bytes::Bytes;
use imbl::{OrdMap, Vector};
use roaring::RoaringBitmap;

use super::{
    Document, Feed, FieldIndex, LoadProgress, Loading, State, compute,
    encode::{self, digest, put_field},
    index::IndexBuilder,
    layout::Layout,
    rows::Rows,
};
use crate::engine;

/// From this many documents on, and a quarter of all, computing everything anew is cheaper than moving postings.
const REBUILD_FROM: u64 = 20_000;

/// What may have to be computed again.
#[derive(Debug, Default)]
struct Touched {
    documents: RoaringBitmap,
    lookups: BTreeSet<(SourceId, i64)>,
    all: bool,
}

impl Touched {
    fn row(&mut self, layout: &Layout, source: SourceId, key: i64) {
        if !layout.is_of_document(source) {
            self.lookups.insert((source, key));
        } else if let Ok(id) = u32::try_from(key) {
            self.documents.insert(id);
        }
    }

    fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.lookups.is_empty() && !self.all
    }
}

/// Member changes by (source, document), so that a document's set is written once a batch.
type MemberChanges = BTreeMap<(SourceId, u32), Vec<(Value, bool)>>;

fn document_hash(id: u32, document: &Document) -> u128 {
    digest(encode::Kind::Document, 0, id.into(), |out| document.iter().for_each(|value| put_field(out, value)))
}

fn malformed(what: &str) -> Error {
    Error::invalid(format!("a record without {what}"))
}

impl State {
    /// Applies the record with the given sequence number. An error means that the record is not valid for this state
    /// ([`State::validate`] tells beforehand); the state must then be treated as lost.
    pub fn apply(&mut self, sequence: u64, record: &wire::Record) -> Result<()> {
        if sequence <= self.sequence {
            return Err(Error::Internal(format!("record {sequence} follows record {}", self.sequence)));
        }
        match record.kind.as_ref().ok_or_else(|| malformed("a kind"))? {
            Kind::Genesis(genesis) => self.begin(genesis)?,
            Kind::Batch(batch) => self.apply_batch(batch)?,
            Kind::LoadBegin(begin) => self.begin_load(begin)?,
            Kind::LoadRows(rows) => {
                let ops = self.decode_load_rows(rows)?;
                self.apply_ops(ops)?;
            }
            Kind::LoadPartDone(part) => self.end_part(part)?,
            Kind::LoadEnd(_) => self.end_load()?,
        }
        self.sequence = sequence;
        Ok(())
    }

    /// Whether everything in the record decodes against the schema. The rows of a load are the exception: they need
    /// the load's parts, see [`State::check_load_rows`].
    pub fn check(schema: &Schema, record: &wire::Record) -> Result<()> {
        match record.kind.as_ref().ok_or_else(|| malformed("a kind"))? {
            Kind::Genesis(genesis) => check_definition(schema, &genesis.definition_hash),
            Kind::Batch(batch) => {
                if batch.source.is_empty() {
                    return Err(malformed("the name of its source"));
                }
                batch.ops.iter().try_for_each(|op| Op::from_wire(op, schema).map(|_| ()))
            }
            Kind::LoadBegin(begin) => check_load(schema, begin).map(|_| ()),
            Kind::LoadRows(_) | Kind::LoadPartDone(_) | Kind::LoadEnd(_) => Ok(()),
        }
    }

    /// Whether COPY rows decode as rows of their part's source.
    pub fn check_load_rows(schema: &Schema, parts: &[wire::LoadPart], rows: &wire::LoadRows) -> Result<()> {
        load_ops(schema, parts, rows).map(|_| ())
    }

    /// Whether [`State::apply`] would take this record next: [`State::check`], and what depends on the state.
    pub fn validate(&self, record: &wire::Record) -> Result<()> {
        Self::check(self.schema(), record)?;
        match &record.kind {
            Some(Kind::Genesis(_)) => self.check_genesis(),
            Some(Kind::Batch(batch)) => self.check_cursor(batch),
            Some(Kind::LoadRows(rows)) => self.decode_load_rows(rows).map(|_| ()),
            Some(Kind::LoadPartDone(part)) => self.loading()?.part(part.part).map(|_| ()),
            Some(Kind::LoadEnd(_)) => self.loading()?.check_complete(),
            Some(Kind::LoadBegin(_)) | None => Ok(()),
        }
    }

    fn check_genesis(&self) -> Result<()> {
        if self.store.is_empty() {
            Ok(())
        } else {
            Err(Error::Internal(format!("store {} begins a second time", self.store)))
        }
    }

    fn begin(&mut self, genesis: &wire::Genesis) -> Result<()> {
        self.check_genesis()?;
        check_definition(self.schema(), &genesis.definition_hash)?;
        self.store = genesis.store.as_str().into();
        Ok(())
    }

    fn check_cursor(&self, batch: &wire::Batch) -> Result<()> {
        if self.loading.as_ref().is_some_and(|loading| loading.source == batch.source) {
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

    fn apply_batch(&mut self, batch: &wire::Batch) -> Result<()> {
        self.check_cursor(batch)?;
        let ops = batch.ops.iter().map(|op| Op::from_wire(op, self.schema())).collect::<Result<Vec<_>>>()?;
        self.apply_ops(ops)?;
        let caught_up = batch.caught_up || self.is_caught_up(&batch.source);
        let feed = Feed { cursor: owned(&batch.new_cursor), caught_up, backlog: batch.backlog };
        self.feeds.insert(batch.source.clone(), feed);
        Ok(())
    }

    fn begin_load(&mut self, begin: &wire::LoadBegin) -> Result<()> {
        let load = check_load(self.schema(), begin)?;
        let layout = self.layout.clone();
        for (source, _) in layout.schema.sources.iter().enumerate().filter(|(_, source)| source.is_postgres()) {
            self.rows.truncate(&layout, source);
        }
        self.documents = OrdMap::new();
        self.present = Arc::default();
        self.indexes = vec![FieldIndex::default(); layout.fields.len()];
        self.documents_hash = 0;
        self.generation = begin.generation;
        self.loaded = false;
        self.feeds.insert(load.source.clone(), Feed::default());
        self.loading = Some(Arc::new(Loading {
            source: load.source.clone(),
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
        self.loading.as_ref().ok_or_else(|| Error::Precondition("no load is under way: open one first".into()))
    }

    fn decode_load_rows(&self, rows: &wire::LoadRows) -> Result<Vec<Op>> {
        load_ops(self.schema(), &self.loading()?.progress.parts, rows)
    }

    fn end_part(&mut self, part: &wire::LoadPartDone) -> Result<()> {
        let mut loading = self.loading()?.clone();
        loading.part(part.part)?;
        let progress = &mut Arc::make_mut(&mut loading).progress;
        if let Err(at) = progress.done.binary_search(&part.part) {
            progress.done.insert(at, part.part);
            progress.rows = progress.rows.saturating_add(part.rows);
        }
        self.loading = Some(loading);
        Ok(())
    }

    fn end_load(&mut self) -> Result<()> {
        let loading = self.loading()?.clone();
        loading.check_complete()?;
        self.loading = None;
        self.loaded = true;
        let feed = Feed { cursor: loading.progress.cursor.clone(), ..Feed::default() };
        self.feeds.insert(loading.source.clone(), feed);
        self.rebuild();
        let deferred = std::mem::replace(&mut self.deferred, Vector::new());
        self.apply_ops(deferred.into_iter().collect())
    }

    fn apply_ops(&mut self, ops: Vec<Op>) -> Result<()> {
        let layout = self.layout.clone();
        let mut touched = Touched::default();
        let mut members = MemberChanges::new();
        for op in ops {
            match op {
                Op::Upsert { source, key, row } => {
                    if self.rows.set_row(&layout, source, key, row.as_ref()) {
                        touched.row(&layout, source, key);
                    }
                }
                Op::Member { source, document, value, present } => {
                    members.entry((source, document)).or_default().push((value, present));
                }
                Op::Truncate { source } => {
                    members.retain(|(of, _), _| *of != source);
                    self.truncate(&layout, source, &mut touched);
                }
                Op::Retain { source, first, last, keys } => {
                    for key in self.rows.keys_without(source, first, last, &keys) {
                        if self.rows.set_row(&layout, source, key, None) {
                            touched.row(&layout, source, key);
                        }
                    }
                }
                Op::Field { document, field, change } => {
                    if self.loading.is_some() && !self.deferred.is_empty() {
                        self.deferred.push_back(Op::Field { document, field, change });
                    } else if self.rows.change_external(field, document, &change) {
                        touched.documents.insert(document);
                    }
                }
                Op::QueryOpSet { filter, changes } => {
                    if self.loading.is_some() {
                        self.deferred.push_back(Op::QueryOpSet { filter, changes });
                    } else {
                        self.change_members(std::mem::take(&mut members), &mut touched);
                        self.settle(std::mem::take(&mut touched));
                        self.apply_to_matches(&filter, &changes, &mut touched)?;
                    }
                }
            }
        }
        self.change_members(members, &mut touched);
        self.settle(touched);
        Ok(())
    }

    fn change_members(&mut self, members: MemberChanges, touched: &mut Touched) {
        for ((source, document), changes) in members {
            if self.rows.change_members(source, document, &changes) {
                touched.documents.insert(document);
            }
        }
    }

    fn truncate(&mut self, layout: &Layout, source: SourceId, touched: &mut Touched) {
        if layout.is_of_document(source) {
            let rows = self.rows.rows[source].keys().filter_map(|key| u32::try_from(*key).ok());
            touched.documents.extend(rows);
            touched.documents.extend(self.rows.members[source].keys().copied());
        } else if !self.rows.rows[source].is_empty() && !layout.ways[source].is_empty() {
            touched.all = true;
        }
        self.rows.truncate(layout, source);
    }

    fn apply_to_matches(
        &mut self,
        filter: &Filter,
        changes: &[(FieldId, Change)],
        touched: &mut Touched,
    ) -> Result<()> {
        for id in &engine::matching(self, filter)? {
            for (field, change) in changes {
                if self.rows.change_external(*field, id, change) {
                    touched.documents.insert(id);
                }
            }
        }
        Ok(())
    }

    /// Brings documents and indexes in step with the rows, where `touched` says that they may not be.
    fn settle(&mut self, touched: Touched) {
        if self.loading.is_some() || touched.is_empty() {
            return;
        }
        let mut ids = touched.documents;
        for (source, key) in touched.lookups {
            self.reach(source, key, &mut ids);
        }
        if touched.all {
            ids |= self.present.as_ref();
        }
        if ids.len() >= REBUILD_FROM && ids.len() >= self.present.len() / 4 {
            self.rebuild();
        } else {
            self.recompute(&ids);
        }
    }

    /// Adds the documents that show a lookup's row. Those whose own row, members or nearer lookups changed in the same
    /// batch may be missing here: they are touched by those changes.
    fn reach(&self, source: SourceId, key: i64, ids: &mut RoaringBitmap) {
        for way in &self.layout.ways[source] {
            let mut keys = BTreeSet::from([key]);
            for hop in &way.back {
                keys = keys.into_iter().flat_map(|key| self.rows.keys_by(*hop, key)).collect();
            }
            for key in keys {
                if let Some(postings) = self.indexes[way.field].values.get(&Value::Int(key)) {
                    postings.add_to(ids);
                }
            }
        }
    }

    fn recompute(&mut self, ids: &RoaringBitmap) {
        let layout = self.layout.clone();
        let mut values = vec![Vec::new(); layout.fields.len()];
        let mut nulls = vec![Vec::new(); layout.fields.len()];
        for id in ids {
            let row = self.rows.rows[DOCUMENT_SOURCE].get(&i64::from(id));
            let new = row.map(|row| compute::document(&layout, &self.rows, id, row));
            let old = self.documents.get(&id);
            if old == new.as_ref() {
                continue;
            }
            if let Some(old) = old {
                self.documents_hash = self.documents_hash.wrapping_sub(document_hash(id, old));
            }
            for (field, _) in layout.fields.iter().enumerate().filter(|(_, slot)| slot.indexed) {
                let (old, new) = (old.map(|old| &old[field]), new.as_ref().map(|new| &new[field]));
                if old == new {
                    continue;
                }
                difference(id, old, new, &mut values[field]);
                let is_null = |value: Option<&FieldValue>| value.is_some_and(FieldValue::is_null);
                if is_null(old) != is_null(new) {
                    nulls[field].push((id, is_null(new)));
                }
            }
            match new {
                Some(new) => {
                    self.documents_hash = self.documents_hash.wrapping_add(document_hash(id, &new));
                    if self.documents.insert(id, new).is_none() {
                        Arc::make_mut(&mut self.present).insert(id);
                    }
                }
                None => {
                    self.documents.remove(&id);
                    Arc::make_mut(&mut self.present).remove(id);
                }
            }
        }
        for (field, (values, nulls)) in values.into_iter().zip(nulls).enumerate() {
            self.indexes[field].change(values);
            self.indexes[field].change_nulls(&nulls);
        }
    }

    /// Computes all documents and indexes from the rows.
    pub(super) fn rebuild(&mut self) {
        let layout = self.layout.clone();
        let documents: Vec<(u32, Document)> = self.rows.rows[DOCUMENT_SOURCE]
            .iter()
            .filter_map(|(key, row)| {
                let id = u32::try_from(*key).ok()?;
                Some((id, compute::document(&layout, &self.rows, id, row)))
            })
            .collect();
        let mut builders: Vec<_> = layout.fields.iter().map(|slot| slot.indexed.then(IndexBuilder::default)).collect();
        self.documents_hash = 0;
        for (id, document) in &documents {
            self.documents_hash = self.documents_hash.wrapping_add(document_hash(*id, document));
            for (builder, value) in builders.iter_mut().zip(document.iter()) {
                if let Some(builder) = builder {
                    builder.add(*id, value);
                }
            }
        }
        self.indexes = builders.into_iter().map(|it| it.map(IndexBuilder::finish).unwrap_or_default()).collect();
        self.present = Arc::new(documents.iter().map(|(id, _)| *id).collect());
        self.documents = documents.into_iter().collect();
    }

    /// [`State::hash`], from nothing but the rows and the documents.
    #[cfg(test)]
    pub(crate) fn recompute_hash(&self) -> u128 {
        self.documents
            .iter()
            .fold(self.rows.recompute_hash(), |sum, (id, document)| sum.wrapping_add(document_hash(*id, document)))
    }

    pub(super) fn rows_mut(&mut self) -> (&Arc<Layout>, &mut Rows) {
        (&self.layout, &mut self.rows)
    }
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

/// Records the values that one document gained and lost. Values of a field are sorted.
fn difference(id: u32, old: Option<&FieldValue>, new: Option<&FieldValue>, changes: &mut Vec<(Value, u32, bool)>) {
    let old = old.map_or(&[][..], FieldValue::values);
    let new = new.map_or(&[][..], FieldValue::values);
    let only = |these: &[Value], others: &[Value], holds: bool, changes: &mut Vec<_>| {
        let missing = these.iter().filter(|value| others.binary_search(value).is_err());
        changes.extend(missing.map(|value| (value.clone(), id, holds)));
    };
    only(old, new, false, changes);
    only(new, old, true, changes);
}

fn part_of(parts: &[wire::LoadPart], part: u32) -> Result<&wire::LoadPart> {
    parts
        .get(part as usize)
        .ok_or_else(|| Error::invalid(format!("part {part} does not exist: the load has {}", parts.len())))
}

fn load_ops(schema: &Schema, parts: &[wire::LoadPart], rows: &wire::LoadRows) -> Result<Vec<Op>> {
    let part = part_of(parts, rows.part)?;
    copy::load_ops(schema, part.source as usize, &rows.copy_rows)
}

fn check_definition(schema: &Schema, hash: &str) -> Result<()> {
    if hash == schema.hash {
        Ok(())
    } else {
        Err(Error::Precondition(format!(
            "the store is of definition {hash}, this process serves {}: start it with the definition of the store",
            schema.hash
        )))
    }
}

fn check_load<'r>(schema: &Schema, begin: &'r wire::LoadBegin) -> Result<&'r wire::LoadOpen> {
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
