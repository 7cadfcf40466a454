//! A model of what a version shows, and files and layers made of the same changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::{
    schema::{DOCUMENT_SOURCE, FieldId, KEY_FIELD, Origin, Schema},
    value::{FieldType, FieldValue, Float, Value},
};
use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use super::super::super::{
    Files, Flushed, Frozen, Header, State,
    encode::{put_field, put_optional, put_values},
    layer::{Layer, SetChange, SetKey},
    layout::{Layout, Place},
    tests::model::{COUNT, LABELS, LEVEL, RANK, schema},
    write_checkpoint,
};
use crate::{
    build::table::TableHeader,
    log::{
        Result,
        disk::{Disk, RealDisk},
    },
    segment::{BLOCK_BITS, Index, SEGMENT_BITS, builder::SegmentBuilder, table::TableWriter, value::ValueRef},
    store::{
        Folder,
        manifest::{Manifest, SegmentRef, TableRef},
        pack::{PackKind, PackWriter},
    },
};

pub(super) const STORE: u128 = 77;
/// Field and source.
pub(super) const TAGS: FieldId = 10;
const TAGS_PLACE: Place = 4;
const EVENTS_PLACE: Place = 7;

/// The rows of a document are not what its values are computed from, but for the fields that [`Model::field`] knows.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) rows: BTreeMap<(Place, i64), Vec<u8>>,
    /// Values in indexed fields; a document that is not present has none.
    pub(super) documents: BTreeMap<u32, BTreeMap<FieldId, BTreeSet<Value>>>,
    fields: BTreeMap<(u32, FieldId), FieldValue>,
}

impl Model {
    pub(super) fn is_present(&self, id: u32) -> bool {
        self.rows.contains_key(&(DOCUMENT_SOURCE as Place, id.into()))
    }

    pub(super) fn present(&self) -> impl Iterator<Item = u32> {
        self.documents.keys().copied().filter(|id| self.is_present(*id))
    }

    pub(super) fn set(&self, field: FieldId, term: Option<&Value>) -> BTreeSet<u32> {
        let holds = |values: &BTreeSet<Value>| term.is_none_or(|term| values.contains(term));
        let documents = self.documents.iter();
        documents.filter(|(_, values)| values.get(&field).is_some_and(holds)).map(|(id, _)| *id).collect()
    }

    pub(super) fn values(&self, field: FieldId) -> BTreeSet<Value> {
        self.documents.values().filter_map(|values| values.get(&field)).flatten().cloned().collect()
    }

    pub(super) fn codes(&self, field: FieldId) -> BTreeMap<u32, u64> {
        let first = |values: &BTreeSet<Value>| values.first().map(|value| ValueRef::of(value).code());
        let documents = self.documents.iter();
        documents.filter_map(|(id, values)| Some((*id, first(values.get(&field)?)?))).collect()
    }

    pub(super) fn field(&self, id: u32, field: FieldId) -> FieldValue {
        match self.fields.get(&(id, field)) {
            Some(value) => value.clone(),
            None if field == KEY_FIELD => FieldValue::One(Value::Int(id.into())),
            None if field == COUNT => FieldValue::One(Value::Int(0)),
            None => FieldValue::Null,
        }
    }
}

/// Two dense blocks, some thin ones, and the last id of all; the second segment is a gap.
pub(super) fn ids_near(rng: &mut ChaCha8Rng) -> u32 {
    match rng.random_range(0..20) {
        0..8 => rng.random_range(0..200),
        8..12 => (2 << SEGMENT_BITS) + rng.random_range(0..300),
        12..17 => rng.random_range(0..8) << BLOCK_BITS | rng.random_range(0..4),
        17 | 18 => (3 << SEGMENT_BITS) + (rng.random_range(0..3) << BLOCK_BITS) + rng.random_range(0..3),
        _ => u32::MAX - rng.random_range(0..2),
    }
}

pub(super) fn random_value(ty: FieldType, rng: &mut ChaCha8Rng) -> Value {
    match ty {
        FieldType::Bool => Value::Bool(rng.random()),
        FieldType::Float => Value::Float(Float::new(f64::from(rng.random_range(-20..20)) / 4.0)),
        FieldType::String => {
            let text = ["", "a", "ab", "b", "much longer than eight bytes", "much longer, too", "ü"];
            Value::Text((*text.choose(rng).unwrap()).into())
        }
        _ => Value::Int(match rng.random_range(0..10) {
            0 => i64::MIN,
            1 => i64::MAX,
            _ => rng.random_range(-8..8),
        }),
    }
}

fn is_many(layout: &Layout, field: FieldId) -> bool {
    matches!(layout.fields[field].origin, Origin::Members { .. } | Origin::Through { .. })
        || layout.schema.fields.get(field).is_some_and(|field| field.many)
}

/// A store of its own, without a log.
pub(super) struct Store {
    layout: Arc<Layout>,
    schema: Arc<Schema>,
    disk: Arc<dyn Disk>,
    pub(super) folder: Folder,
    _temporary: tempfile::TempDir,
    pub(super) manifest: Manifest,
    pub(super) files: Arc<Files>,
    pub(super) sequence: u64,
    frozen: Option<Arc<Frozen>>,
    active: Layer,
}

impl Store {
    pub(super) fn new() -> Self {
        let schema = Arc::new(schema());
        let temporary = tempfile::tempdir().unwrap();
        let files = Files::none(schema.clone());
        let layout = files.layout().clone();
        Self {
            folder: Folder::open(temporary.path(), false).unwrap(),
            _temporary: temporary,
            manifest: manifest(),
            schema,
            disk: Arc::new(RealDisk),
            sequence: 1,
            frozen: None,
            active: Layer::over(&files),
            files,
            layout,
        }
    }

    pub(super) fn header(&self) -> Header {
        Header {
            sequence: self.sequence,
            store: "store".into(),
            generation: 1,
            feeds: Default::default(),
            loading: None,
            loaded: true,
            documents: 0,
            hash: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        State {
            layout: self.layout.clone(),
            header: self.header(),
            files: self.files.clone(),
            frozen: self.frozen.clone(),
            active: self.active.clone(),
            prepared: None,
        }
    }

    /// A base of random documents.
    pub(super) fn build(&mut self, model: &mut Model, documents: usize, rng: &mut ChaCha8Rng) {
        self.change(model, documents, rng);
        self.active = Layer::over(&self.files);
        self.compact_all(model);
    }

    fn number(&self, place: Place, key: i64) -> Option<u32> {
        self.layout.slot(place).map(|_| key as u32 >> SEGMENT_BITS)
    }

    /// Rewrites a segment and a table as they stand at the checkpoint.
    pub(super) fn compact(&mut self, model: &Model, rng: &mut ChaCha8Rng) {
        if let Some(named) = self.manifest.segments.choose(rng).cloned() {
            self.write_segment(model, named.number);
        }
        if let Some(named) = self.manifest.tables.choose(rng).cloned() {
            self.write_table(model, named.source);
        }
        self.reopen();
    }

    pub(super) fn compact_all(&mut self, model: &Model) {
        let numbers: BTreeSet<u32> = model.rows.keys().filter_map(|(place, key)| self.number(*place, *key)).collect();
        numbers.into_iter().for_each(|number| self.write_segment(model, number));
        let tables = (0..self.schema.sources.len()).filter(|source| self.layout.slot(*source as Place).is_none());
        tables.collect::<Vec<_>>().into_iter().for_each(|source| self.write_table(model, source));
        self.reopen();
    }

    fn write_segment(&mut self, model: &Model, number: u32) {
        let sequence = self.files.sequence();
        let file = format!("segment-{number}-{sequence}");
        let path = self.folder.named(&file);
        let spec = self.layout.spec();
        let mut builder = SegmentBuilder::create(&self.disk, &path, STORE, spec, number, sequence).unwrap();
        let ids: BTreeSet<u32> = model
            .rows
            .keys()
            .filter(|(place, key)| self.number(*place, *key) == Some(number))
            .map(|(_, key)| *key as u32)
            .collect();
        for id in ids {
            let row = |slot| model.rows.get(&(self.layout.place(slot), id.into())).map(Vec::as_slice);
            let slots: Vec<_> = (0..spec.slots).map(row).collect();
            builder.document(id, &slots, model.is_present(id)).unwrap();
            for (field, values) in model.documents.get(&id).into_iter().flatten() {
                if *field != KEY_FIELD {
                    values.iter().for_each(|value| builder.value(*field, ValueRef::of(value)));
                }
            }
        }
        builder.finish(0).unwrap();
        let named = SegmentRef { number, file, sequence };
        self.manifest.segments.retain(|other| other.number != number);
        self.manifest.segments.push(named);
        self.manifest.segments.sort_by_key(|named| named.number);
    }

    fn write_table(&mut self, model: &Model, source: usize) {
        let sequence = self.files.sequence();
        let file = format!("table-{source}-{sequence}");
        let mut pack = PackWriter::create(&self.disk, &self.folder.named(&file), PackKind::Table, STORE).unwrap();
        TableHeader { sequence, hash: 0 }.write(&mut pack).unwrap();
        let mut table = TableWriter::new(&mut pack).unwrap();
        for ((place, key), row) in &model.rows {
            if self.files.table_of(*place) == Some(source) {
                table.push(&mut pack, *place, *key, Some(row)).unwrap();
            }
        }
        table.finish(&mut pack).unwrap();
        pack.finish().unwrap();
        self.manifest.tables.retain(|other| other.source != source);
        self.manifest.tables.push(TableRef { source, file, sequence });
        self.manifest.tables.sort_by_key(|named| named.source);
    }

    fn reopen(&mut self) {
        let previous = Some(&self.files);
        self.files = Files::open(&self.folder, &self.manifest, &self.schema, previous).unwrap().unwrap();
    }

    pub(super) fn open(&mut self, flushed: Flushed) {
        self.manifest.checkpoint = Some(flushed.checkpoint);
        self.reopen();
    }

    pub(super) fn freeze(&mut self) {
        self.sequence += 1;
        assert!(self.frozen.is_none());
        let layer = std::mem::replace(&mut self.active, Layer::over(&self.files));
        let (header, layout) = (self.header(), self.layout.clone());
        self.frozen = Some(Arc::new(Frozen { header, layer, below: self.files.clone(), layout }));
    }

    pub(super) fn forget_frozen(&mut self) {
        self.frozen = None;
    }

    pub(super) fn flush(&self) -> Flushed {
        self.try_flush(false).unwrap()
    }

    pub(super) fn try_flush(&self, cancel: bool) -> Result<Flushed> {
        let frozen = self.frozen.as_ref().unwrap();
        write_checkpoint(frozen, &self.disk, &self.folder, STORE, &AtomicBool::new(cancel))
    }

    /// As another process would.
    pub(super) fn open_anew(&self) -> Result<Option<Arc<Files>>> {
        Files::open(&self.folder, &self.manifest, &self.schema, None)
    }

    /// Changes documents and rows of lookups, in the model and in the active layer.
    pub(super) fn change(&mut self, model: &mut Model, times: usize, rng: &mut ChaCha8Rng) {
        for _ in 0..times {
            let id = ids_near(rng);
            self.change_document(model, id, rng);
            let place = rng.random_range(0..self.layout.places()) as Place;
            if self.files.table_of(place).is_some() {
                let row = rng.random_bool(0.7).then(|| vec![rng.random(); rng.random_range(1..20)]);
                self.put_row(model, place, rng.random_range(-30..30), row);
            }
        }
    }

    fn put_row(&mut self, model: &mut Model, place: Place, key: i64, row: Option<Vec<u8>>) {
        self.active.rows.change(&[((place, key), row.as_deref())]);
        match row {
            Some(row) => model.rows.insert((place, key), row),
            None => model.rows.remove(&(place, key)),
        };
    }

    fn change_document(&mut self, model: &mut Model, id: u32, rng: &mut ChaCha8Rng) {
        let layout = self.layout.clone();
        let present = rng.random_bool(0.8);
        for slot in 0..layout.spec().slots {
            let place = layout.place(slot);
            let is_document = usize::from(place) == DOCUMENT_SOURCE;
            if is_document || rng.random_bool(0.4) {
                let (row, field) = if is_document && !present || !is_document && rng.random_bool(0.3) {
                    (None, FieldValue::Null)
                } else {
                    random_row(&layout, place, rng)
                };
                self.put_row(model, place, id.into(), row.clone());
                if let Some(known) = known_field(&layout, place) {
                    if row.is_none() {
                        model.fields.remove(&(id, known));
                    } else {
                        model.fields.insert((id, known), field);
                    }
                }
            }
        }
        let mut new: BTreeMap<FieldId, BTreeSet<Value>> = BTreeMap::new();
        if present {
            new.insert(KEY_FIELD, BTreeSet::from([Value::Int(id.into())]));
            for (field, (index, ty)) in layout.spec().fields.iter().enumerate() {
                if *index != Index::None && rng.random_bool(0.8) {
                    let count = if is_many(&layout, field) { rng.random_range(1..4) } else { 1 };
                    new.insert(field, (0..count).map(|_| random_value(*ty, rng)).collect());
                }
            }
        }
        let old = model.documents.insert(id, new.clone()).unwrap_or_default();
        self.change_sets(id, &old, &new, rng);
    }

    fn change_sets(
        &mut self,
        id: u32,
        old: &BTreeMap<FieldId, BTreeSet<Value>>,
        new: &BTreeMap<FieldId, BTreeSet<Value>>,
        rng: &mut ChaCha8Rng,
    ) {
        let layout = self.layout.clone();
        let empty = BTreeSet::new();
        for (field, (index, _)) in layout.spec().fields.iter().enumerate() {
            if *index == Index::None && field != KEY_FIELD {
                continue;
            }
            let (old, new) = (old.get(&field).unwrap_or(&empty), new.get(&field).unwrap_or(&empty));
            // To say again what the layers below say changes nothing.
            let again = rng.random_bool(0.1);
            if again || old.is_empty() != new.is_empty() {
                self.put_in_set(field, None, id, !new.is_empty());
            }
            if *index == Index::Terms {
                for value in old.union(new) {
                    if again || old.contains(value) != new.contains(value) {
                        self.put_in_set(field, Some(value.clone()), id, new.contains(value));
                    }
                }
            }
            if *index == Index::Column && (again || old != new) {
                let code = new.first().map(|value| ValueRef::of(value).code());
                self.active.columns[field].change(&[(id, code)]);
            }
        }
    }

    fn put_in_set(&mut self, field: FieldId, term: Option<Value>, id: u32, is_in: bool) {
        let key = SetKey { field, term, block: (id >> BLOCK_BITS) as u16 };
        let id = [id as u16];
        let (put, taken): (&[u16], &[u16]) = if is_in { (&id, &[]) } else { (&[], &id) };
        let layout = self.layout.clone();
        self.active.sets.change(&[SetChange { key, put, taken }], |field| layout.cell_tells(field));
    }
}

fn manifest() -> Manifest {
    Manifest { epoch: 1, ..Manifest::new(crate::store::format::NEWEST, STORE, "hash") }
}

/// The field whose value stands in the rows of a place.
fn known_field(layout: &Layout, place: Place) -> Option<FieldId> {
    match place {
        0 => Some(LEVEL),
        TAGS_PLACE => Some(TAGS),
        EVENTS_PLACE => Some(COUNT),
        _ => [RANK, LABELS].into_iter().find(|field| layout.external(*field) == place),
    }
}

fn random_row(layout: &Layout, place: Place, rng: &mut ChaCha8Rng) -> (Option<Vec<u8>>, FieldValue) {
    let mut out = Vec::new();
    let int = |rng: &mut ChaCha8Rng| Value::Int(rng.random_range(-9..9));
    let value = match place {
        0 => {
            let level = rng.random_bool(0.8).then(|| int(rng));
            put_optional(&mut out, level.as_ref());
            (1..7).for_each(|_| put_optional(&mut out, None));
            FieldValue::one(level)
        }
        EVENTS_PLACE => {
            let count = rng.random_bool(0.8).then(|| int(rng));
            put_optional(&mut out, count.as_ref());
            FieldValue::one(count)
        }
        _ if known_field(layout, place) == Some(RANK) => {
            let value = FieldValue::One(int(rng));
            put_field(&mut out, &value);
            value
        }
        _ => {
            let ty = match place {
                TAGS_PLACE | 5 => FieldType::Int,
                _ => FieldType::String,
            };
            let value = FieldValue::many((0..rng.random_range(1..4)).map(|_| random_value(ty, rng)).collect());
            if known_field(layout, place) == Some(LABELS) {
                put_field(&mut out, &value);
            } else {
                put_values(&mut out, value.values());
            }
            value
        }
    };
    (Some(out), value)
}
