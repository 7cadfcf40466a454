//! Makes the golden stores with the store's own writers, step by step: the same bytes each time.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::{
    definition::Definition,
    ops::{Change, Op},
    query::{Comparator, Filter},
    schema::Schema,
    value::{FieldValue, Float, Literal, Value},
    wire::{self, record::Kind},
};
use bitdex_query::{
    build::generation::{Limits, build},
    log::{
        disk::{Disk, RealDisk},
        reader::LogEnd,
        segment::{SegmentEnd, segment_path},
        writer::{LogOptions, LogWriter},
    },
    mapping::{Frontier, frontier},
    state::{Files, State, write_checkpoint},
    store::{
        Folder,
        format::Stamp,
        manifest::{Manifest, Prepared},
    },
};
use bytes::Bytes;
use prost::Message as _;

use crate::contents::{Contents, DAY_ONE, Row};

const STORE: u128 = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
/// Microseconds from 1970 to 2000, where COPY counts from.
const COPY_EPOCH_US: i64 = 946_684_800_000_000;

pub(crate) fn schema() -> Arc<Schema> {
    Arc::clone(Definition::parse(include_str!("definition.yaml")).unwrap().schema())
}

/// A writer that flushes when it is told to.
struct Writer {
    schema: Arc<Schema>,
    disk: Arc<dyn Disk>,
    folder: Folder,
    manifest: Manifest,
    log: LogWriter,
    state: State,
}

impl Writer {
    fn new(root: &Path, format: u32) -> Self {
        let (schema, disk) = (schema(), Arc::new(RealDisk) as Arc<dyn Disk>);
        let folder = Folder::open(root, true).unwrap();
        fs::write(folder.frontier(), frontier::initial()).unwrap();
        let manifest = Manifest { epoch: 1, ..Manifest::new(format, STORE, &schema.hash) };
        let options = LogOptions {
            disk: Arc::clone(&disk),
            folder: root.into(),
            store: STORE,
            epoch: manifest.epoch,
            frontier: Arc::new(Frontier::open(&folder.frontier(), true).unwrap()),
            segment_bytes: 1 << 20,
        };
        let durable = SegmentEnd { number: 0, offset: 0, last: 0 };
        let log = LogWriter::take_over(options, &LogEnd { durable, tail: Vec::new(), torn: 0 }).unwrap();
        let state = State::new(Arc::clone(&schema));
        let mut writer = Self { schema, disk, folder, manifest, log, state };
        let definition_hash = writer.schema.hash.clone();
        writer.write(Kind::Genesis(wire::Genesis { store: format!("{STORE:032x}"), definition_hash }));
        writer
    }

    fn stamp(&self) -> Stamp {
        self.manifest.stamp()
    }

    fn write(&mut self, kind: Kind) {
        let record = wire::Record { kind: Some(kind) };
        self.state.validate(&record).unwrap();
        self.state.apply(self.log.next(), &record).unwrap();
        self.log.commit(&[record.encode_to_vec()]).unwrap();
    }

    fn batch(&mut self, source: &str, cursor: &'static str, ops: &[Op]) {
        let ops = ops.iter().map(|op| op.to_wire(&self.schema)).collect();
        self.write(Kind::Batch(wire::Batch {
            source: source.into(),
            previous_cursor: self.state.cursor(source),
            new_cursor: Bytes::from_static(cursor.as_bytes()),
            ops,
            caught_up: true,
            backlog: 0,
        }));
    }

    /// Publishes the manifest, goes over to its files, and removes what it does not name.
    fn publish(&mut self) {
        self.manifest.next_sequence = self.log.next();
        self.manifest.publish(&*self.disk, &self.folder.manifest()).unwrap();
        let files = Files::open(&self.folder, &self.manifest, &self.schema, None).unwrap().unwrap();
        self.state.adopt(files).unwrap();
        self.folder.clean(&*self.disk, &self.manifest).unwrap();
    }

    /// What changed since the last time goes into files.
    fn flush(&mut self) {
        self.write(Kind::Freeze(wire::Freeze {}));
        self.log.roll().unwrap();
        let frozen = Arc::clone(self.state.frozen().unwrap());
        let flushed =
            write_checkpoint(&frozen, &self.disk, &self.folder, self.stamp(), &AtomicBool::new(false)).unwrap();
        self.manifest.staged.extend(flushed.staged);
        self.manifest.checkpoint = Some(flushed.checkpoint);
        self.manifest.first_segment = self.log.end().number;
    }

    fn begin_load(&mut self) {
        let parts = (0..self.schema.sources.len()).filter(|source| self.schema.sources[*source].is_postgres());
        let parts = parts.map(|source| wire::LoadPart { source: source as u32, lo: i64::MIN, hi: i64::MAX });
        let load = wire::LoadOpen {
            index: self.schema.index.clone(),
            definition_hash: self.schema.hash.clone(),
            source: "postgres".into(),
            load_id: "a load".into(),
            cursor: Bytes::from_static(b"10:10:|one"),
            parts: parts.collect(),
        };
        self.write(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: 1 }));
    }

    /// All rows of the load, part after part.
    fn load_rows(&mut self, all: &Contents) {
        let schema = Arc::clone(&self.schema);
        let sources = schema.sources.iter().filter(|source| source.is_postgres());
        for (part, source) in sources.enumerate() {
            let (copy_rows, rows) = copy(&source.name, all);
            let part = part as u32;
            self.write(Kind::LoadRows(wire::LoadRows { part, copy_rows: copy_rows.into() }));
            self.write(Kind::LoadPartDone(wire::LoadPartDone { part, rows }));
        }
    }

    /// The base of the load, out of staged files.
    fn build(&mut self) {
        let sequence = self.manifest.checkpoint.as_ref().unwrap().sequence;
        let prepared = Prepared { generation: 1, sequence, ..Prepared::default() };
        let limits = Limits { memory: 64 << 20, threads: 1 };
        let cancel = AtomicBool::new(false);
        let (disk, stamp) = (&self.disk, self.manifest.stamp());
        let built = build(&self.state, disk, &self.folder, stamp, &prepared, limits, &cancel, &mut |_| Ok(())).unwrap();
        self.manifest.prepared = Some(Prepared { complete: true, ..built });
    }
}

/// A field of COPY's binary format.
fn put(out: &mut Vec<u8>, value: Option<&[u8]>) {
    match value {
        None => out.extend((-1_i32).to_be_bytes()),
        Some(bytes) => {
            out.extend(i32::try_from(bytes.len()).unwrap().to_be_bytes());
            out.extend(bytes);
        }
    }
}

/// The rows of a source, and how many.
fn copy(source: &str, all: &Contents) -> (Vec<u8>, u64) {
    let (mut out, mut rows) = (Vec::new(), 0);
    let mut row = |fields: &[Option<Vec<u8>>]| {
        rows += 1;
        out.extend(i16::try_from(fields.len()).unwrap().to_be_bytes());
        fields.iter().for_each(|field| put(&mut out, field.as_deref()));
    };
    let int = |int: i64| Some(int.to_be_bytes().to_vec());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    match source {
        "document" => all.rows.iter().for_each(|(id, of)| {
            row(&[
                int((*id).into()),
                of.level.and_then(int),
                of.kind.and_then(text),
                of.title.as_deref().and_then(text),
                of.ratio.map(|ratio| ratio.to_be_bytes().to_vec()),
                of.price.map(numeric),
                of.flag.map(|flag| vec![flag.into()]),
                of.made_at.and_then(|at| int(at - COPY_EPOCH_US)),
                of.post.and_then(int),
            ]);
        }),
        "post" => all.posts.iter().for_each(|(id, rank)| row(&[int(*id), rank.and_then(int)])),
        "version" => all.versions.iter().for_each(|(id, (base, model))| row(&[int(*id), text(base), int(*model)])),
        "model" => all.models.iter().for_each(|(id, poi)| row(&[int(*id), Some(vec![(*poi).into()])])),
        "tags" => of_each(&all.tags, |id, tag| row(&[int(id), int(*tag)])),
        "words" => of_each(&all.words, |id, word| row(&[int(id), text(word)])),
        "versionIds" => of_each(&all.version_ids, |id, version| row(&[int(id), int(*version)])),
        other => panic!("{other}"),
    }
    (out, rows)
}

fn of_each<V>(sets: &std::collections::BTreeMap<u32, BTreeSet<V>>, mut each: impl FnMut(i64, &V)) {
    sets.iter().for_each(|(id, set)| set.iter().for_each(|value| each((*id).into(), value)));
}

/// Postgres' binary numeric, of hundredths: digits of base 10 000.
fn numeric(hundredths: i64) -> Vec<u8> {
    let sign: u16 = if hundredths < 0 { 0x4000 } else { 0 };
    let absolute = hundredths.unsigned_abs();
    let digits = [(absolute / 100) as u16, (absolute % 100 * 100) as u16];
    [2, 0, sign, 2, digits[0], digits[1]].into_iter().flat_map(u16::to_be_bytes).collect()
}

fn upsert(source: usize, key: i64, row: Option<Vec<Option<Value>>>) -> Op {
    Op::Upsert { source, key, row: row.map(Into::into) }
}

fn document(id: u32, row: Option<&Row>) -> Op {
    let values = row.map(|row| {
        vec![
            row.level.map(Value::Int),
            row.kind.map(|kind| Value::Text(kind.into())),
            row.title.as_deref().map(|title| Value::Text(title.into())),
            row.ratio.map(|ratio| Value::Float(Float::new(ratio))),
            row.price.map(Value::Int),
            row.flag.map(Value::Bool),
            row.made_at.map(Value::Int),
            row.post.map(Value::Int),
        ]
    });
    upsert(0, id.into(), values)
}

/// A store after its load, with a base, a checkpoint above it, and a log behind that.
pub(crate) fn serving(root: &Path, format: u32) -> Contents {
    let mut writer = Writer::new(root, format);
    let mut all = Contents::loaded(true, format);
    writer.begin_load();
    writer.load_rows(&all);
    writer.flush();
    writer.publish();
    writer.build();
    writer.publish();
    writer.state.prepare(Files::open_prepared(&writer.folder, &writer.manifest, &writer.schema).unwrap().unwrap());
    writer.write(Kind::LoadEnd(wire::LoadEnd {}));
    writer.flush();
    let base = writer.manifest.prepared.take().unwrap();
    (writer.manifest.segments, writer.manifest.tables) = (base.segments, base.tables);
    writer.manifest.staged.clear();
    writer.publish();

    let source = |name: &str| writer.schema.source(name).unwrap().0;
    let (post, version, model) = (source("post"), source("version"), source("model"));
    let (tags, words, version_ids, events) = (source("tags"), source("words"), source("versionIds"), source("events"));
    // Of documents: changed, gone, new, in a segment that has no file.
    let mut ops = Vec::new();
    let new =
        |level| Row { level: Some(level), flag: Some(true), title: Some(format!("new {level}")), ..Row::default() };
    for (id, row) in [(1, Some(new(1))), (2, None), (4_300, Some(new(2))), (2_000_000, Some(Contents::row(2_000_000)))]
    {
        ops.push(document(id, row.as_ref()));
        match row {
            Some(row) => all.rows.insert(id, row),
            None => all.rows.remove(&id),
        };
    }
    ops.push(upsert(post, 4, Some(vec![Some(Value::Int(-7))])));
    all.posts.insert(4, Some(-7));
    ops.push(upsert(version, 1, Some(vec![Some(Value::Text("base three".into())), Some(Value::Int(0))])));
    all.versions.insert(1, ("base three", 0));
    ops.push(upsert(model, 0, Some(vec![Some(Value::Bool(false))])));
    all.models.insert(0, false);
    let member = |source, document, value, present| Op::Member { source, document, value, present };
    ops.push(member(tags, 3, Value::Int(-5), false));
    all.tags.get_mut(&3).unwrap().remove(&-5);
    ops.push(member(words, 10, Value::Text("a word of its own".into()), true));
    all.words.get_mut(&10).unwrap().insert("a word of its own");
    ops.push(member(version_ids, 0, Value::Int(1), true));
    all.version_ids.entry(0).or_default().insert(1);
    writer.batch("postgres", "20:20:|two", &ops);

    let clicks: Vec<Op> = (0..10).map(|id| upsert(events, id, Some(vec![Some(Value::Int(id * id))]))).collect();
    writer.batch("clickhouse", "2024-01-01", &clicks);
    all.clicks = (0..10).map(|id| (id, i64::from(id * id))).collect();

    let field = |name: &str| writer.schema.field(name).unwrap().0;
    let (step, labels) = (field("step"), field("labels"));
    let set = |document, field, change| Op::Field { document, field, change };
    let early = Filter::Compare {
        field: "madeAt".into(),
        comparator: Comparator::Lt,
        value: Literal::TimestampUs(DAY_ONE + 3 * 3_600_000_000),
    };
    let ops = [
        set(5, step, Change::Set(FieldValue::One(Value::Int(50)))),
        set(6, labels, Change::Add(Value::Text("beta".into()))),
        set(6, labels, Change::Add(Value::Text("alpha".into()))),
        Op::QueryOpSet { filter: early, changes: vec![(step, Change::Set(FieldValue::One(Value::Int(1))))] },
    ];
    writer.batch("a service", "1", &ops);
    all.step.insert(5, 50);
    let first = |row: &Row| row.made_at.is_some_and(|at| at < DAY_ONE + 3 * 3_600_000_000);
    let early: Vec<u32> = all.rows.iter().filter(|(_, row)| first(row)).map(|(id, _)| *id).collect();
    all.step.extend(early.into_iter().map(|id| (id, 1)));
    all.labels.insert(6, ["alpha", "beta"].into());
    writer.flush();
    writer.publish();

    // In the log alone.
    let row = Row { level: Some(3), ..all.rows[&7].clone() };
    writer.batch("postgres", "30:30:|three", &[document(7, Some(&row)), document(9, None)]);
    all.rows.insert(7, row);
    all.rows.remove(&9);
    writer.batch("a service", "2", &[set(5, step, Change::Delete)]);
    all.step.remove(&5);
    all
}

/// A store in its first load: rows in a staged file, a base that is built of them, and changes that wait for its end.
pub(crate) fn loading(root: &Path, format: u32) -> Contents {
    let mut writer = Writer::new(root, format);
    let mut all = Contents::loaded(false, format);
    writer.begin_load();
    writer.load_rows(&all);
    let (step, _) = writer.schema.field("step").unwrap();
    let change = vec![(step, Change::Set(FieldValue::One(Value::Int(2))))];
    let deferred = Op::QueryOpSet { filter: Filter::eq("level", Literal::Int(0)), changes: change };
    writer.batch("a service", "1", &[deferred]);
    all.step = all.rows.iter().filter(|(_, row)| row.level == Some(0)).map(|(id, _)| (*id, 2)).collect();
    writer.flush();
    writer.publish();
    writer.build();
    writer.publish();
    assert!(segment_path(root, writer.manifest.first_segment).exists());
    all
}
