use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Bound,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use bitdex_proto::{
    ops::Op,
    schema::Schema,
    value::{FieldValue, Value},
    wire::{self, record::Kind},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    compaction::{Work, compact, pick},
    generation::{Limits, build},
};
use crate::{
    log::disk::{Disk, RealDisk},
    segment::{sets::BlockBuffer, value::Term},
    state::{
        Files, State,
        tests::model::{Model, copy_row, random_op, schema},
        write_checkpoint,
    },
    store::{
        Folder, is_pack,
        manifest::{Manifest, Prepared},
    },
    testing::{scaled, seeded},
};

const STORE: u128 = 7;
const IDS: u32 = 300;

/// Everything that a state shows.
#[derive(Debug, PartialEq)]
struct Shown {
    hash: u128,
    count: u64,
    documents: BTreeMap<u32, Vec<FieldValue>>,
    sets: BTreeMap<(usize, Option<Value>), Vec<u32>>,
    columns: BTreeMap<usize, Vec<(u64, u32)>>,
}

fn show(state: &State) -> Shown {
    let set = |field, term: Term<'_>| {
        let operand = state.operand(field, term).unwrap();
        let mut buffer = BlockBuffer::default();
        let mut ids = Vec::new();
        for number in operand.blocks() {
            let block = operand.block(number, &mut buffer).unwrap();
            block.for_each(|id| ids.push(u32::from(number) << 16 | u32::from(id)));
        }
        ids
    };
    let fields = state.layout().fields.len();
    let all: Vec<usize> = (0..fields).collect();
    let mut shown = Shown {
        hash: state.hash(),
        count: state.documents(),
        documents: BTreeMap::new(),
        sets: BTreeMap::new(),
        columns: BTreeMap::new(),
    };
    for id in set(0, Term::Exists) {
        shown.documents.insert(id, state.document_reader(&all).values(id).unwrap().unwrap());
    }
    for field in 1..fields {
        shown.sets.insert((field, None), set(field, Term::Exists));
        for value in state.terms_within(field, &(Bound::Unbounded, Bound::Unbounded), usize::MAX).unwrap() {
            let ids = set(field, Term::Value(crate::segment::value::ValueRef::of(&value)));
            if !ids.is_empty() {
                shown.sets.insert((field, Some(value)), ids);
            }
        }
        if let Some(column) = state.column(field) {
            let mut walk = column.walk(false, None).unwrap();
            let codes = shown.columns.entry(field).or_default();
            while let Some(found) = walk.next().unwrap() {
                codes.push(found);
            }
        }
    }
    shown
}

/// A writer without a log: a state, its files, and their manifest.
struct Store {
    state: State,
    schema: Arc<Schema>,
    disk: Arc<dyn Disk>,
    folder: Folder,
    manifest: Manifest,
    sequence: u64,
    _folder: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let schema = Arc::new(schema());
        let folder = tempfile::tempdir().unwrap();
        let mut store = Self {
            state: State::new(schema.clone()),
            disk: Arc::new(RealDisk),
            folder: Folder::open(folder.path(), false).unwrap(),
            manifest: Manifest { epoch: 1, ..Manifest::new(crate::store::format::NEWEST, STORE, &schema.hash) },
            schema,
            sequence: 0,
            _folder: folder,
        };
        let definition_hash = store.schema.hash.clone();
        store.apply(Kind::Genesis(wire::Genesis { store: "7".into(), definition_hash }));
        store
    }

    fn apply(&mut self, kind: Kind) {
        self.sequence += 1;
        let record = wire::Record { kind: Some(kind) };
        self.state.validate(&record).unwrap();
        self.state.apply(self.sequence, &record).unwrap();
    }

    fn batch(&mut self, ops: &[Op]) {
        let ops = ops.iter().map(|op| op.to_wire(&self.schema)).collect();
        self.apply(Kind::Batch(wire::Batch { source: "services".into(), ops, ..Default::default() }));
    }

    /// One part for each source.
    fn begin_load(&mut self, generation: u64) {
        let sources = 0..self.schema.sources.iter().filter(|source| source.is_postgres()).count();
        let parts = sources.map(|source| wire::LoadPart { source: source as u32, ..Default::default() }).collect();
        let load = wire::LoadOpen {
            index: self.schema.index.clone(),
            definition_hash: self.schema.hash.clone(),
            source: "postgres".into(),
            load_id: generation.to_string(),
            parts,
            ..Default::default()
        };
        self.apply(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation }));
    }

    fn end_load(&mut self) {
        for part in 0..self.state.load().unwrap().parts.len() {
            self.apply(Kind::LoadPartDone(wire::LoadPartDone { part: part as u32, rows: 1 }));
        }
        self.apply(Kind::LoadEnd(wire::LoadEnd {}));
    }

    fn flush(&mut self) {
        self.apply(Kind::Freeze(wire::Freeze {}));
        let frozen = self.state.frozen().unwrap().clone();
        let cancel = AtomicBool::new(false);
        let flushed = write_checkpoint(&frozen, &self.disk, &self.folder, STORE, &cancel).unwrap();
        flushed.name_in(&mut self.manifest, &frozen, &[]);
        self.adopt();
    }

    fn adopt(&mut self) {
        let files = Files::open(&self.folder, &self.manifest, &self.schema, Some(self.state.files())).unwrap().unwrap();
        self.state.adopt(files).unwrap();
    }

    fn build(&self, limits: Limits, stop_after: usize, prepared: &mut Prepared) -> crate::log::Result<Prepared> {
        let cancel = AtomicBool::new(false);
        let mut left = stop_after;
        let from = prepared.clone();
        build(&self.state, &self.disk, &self.folder, STORE, &from, limits, &cancel, &mut |named| {
            *prepared = named;
            left -= 1;
            if left == 0 { Err(crate::log::Error::poisoned("killed")) } else { Ok(()) }
        })
    }

    fn compact(&mut self) -> Option<u64> {
        let work = pick(self.state.files(), 0.0, 0).unwrap()?;
        let cancel = AtomicBool::new(false);
        let (compacted, bytes) = compact(self.state.files(), work, &self.disk, &self.folder, STORE, &cancel).unwrap();
        compacted.name_in(&mut self.manifest);
        self.adopt();
        Some(bytes)
    }
}

/// Sends random rows and ops of other sessions, with a flush now and then; the model sees them in the same order.
fn load(store: &mut Store, model: &mut Model, rng: &mut ChaCha8Rng, ops: usize, flushes: bool) {
    for _ in 0..ops {
        let op = random_op(rng, &store.schema, IDS);
        if matches!(op, Op::QueryOpSet { .. }) {
            continue;
        }
        model.apply(&store.schema, &op);
        match copy_row(&store.schema, &op) {
            Some((part, copy_rows)) if rng.random_range(0..10) > 0 => {
                store.apply(Kind::LoadRows(wire::LoadRows { part: part as u32, copy_rows: copy_rows.into() }));
            }
            _ => store.batch(&[op]),
        }
        if rng.random_range(0..400) == 0 && flushes {
            store.flush();
        }
    }
}

/// Some random ops after a load.
fn change(store: &mut Store, model: &mut Model, rng: &mut ChaCha8Rng) {
    for _ in 0..200 {
        let op = random_op(rng, &store.schema, IDS);
        if !matches!(op, Op::QueryOpSet { .. }) {
            model.apply(&store.schema, &op);
            store.batch(&[op]);
        }
    }
}

fn assert_documents(store: &Store, model: &Model) {
    let of_model = model.documents(&store.schema);
    let shown = show(&store.state);
    assert_eq!(shown.documents.keys().collect::<Vec<_>>(), of_model.keys().collect::<Vec<_>>());
    for (id, values) in &of_model {
        assert_eq!(&shown.documents[id][..values.len()], &values[..], "document {id}");
    }
}

const LIMITS: Limits = Limits { memory: 1 << 30, threads: 2 };

#[test]
fn a_built_generation_is_what_applying_the_rows_gives() {
    let mut rng = seeded();
    for round in 0..scaled(6) {
        let seed = rng.random();
        let [mut store, mut plain] = [Store::new(), Store::new()];
        let mut model = Model::default();
        for (store, flushes) in [(&mut store, true), (&mut plain, false)] {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            model = Model::default();
            store.begin_load(1);
            load(store, &mut model, &mut rng, 1500, flushes);
        }
        plain.end_load();
        store.flush();
        // Killed behind each file in turn, it goes on there.
        let mut prepared = Prepared { generation: 1, sequence: store.sequence, ..Prepared::default() };
        let mut built = None;
        for _ in 0..100 {
            let named = prepared.segments.len() + prepared.tables.len();
            match store.build(Limits { threads: 1 + round % 2, ..LIMITS }, 1 + round % 3, &mut prepared) {
                Ok(whole) => {
                    built = Some(whole);
                    break;
                }
                Err(_) => assert!(prepared.segments.len() + prepared.tables.len() > named),
            }
        }
        store.manifest.prepared = Some(Prepared { complete: true, ..built.unwrap() });
        let files = Files::open_prepared(&store.folder, &store.manifest, &store.schema).unwrap().unwrap();
        store.state.prepare(files);
        store.end_load();
        assert_documents(&store, &model);
        assert_eq!(show(&store.state), show(&plain.state));
    }
}

#[test]
fn compaction_changes_nothing_that_a_state_shows() {
    let mut rng = seeded();
    for _ in 0..scaled(4) {
        let mut store = Store::new();
        let mut model = Model::default();
        store.begin_load(1);
        load(&mut store, &mut model, &mut rng, 500, false);
        store.end_load();
        for _ in 0..4 {
            change(&mut store, &mut model, &mut rng);
            store.flush();
            let before = show(&store.state);
            let mut works = 0;
            while store.compact().is_some() {
                works += 1;
                assert!(works < 20, "what was compacted is picked again");
                assert_eq!(show(&store.state), before);
            }
            assert!(works > 0);
            assert_documents(&store, &model);
            let opened = State::open(store.state.files().clone()).unwrap();
            assert_eq!(show(&opened), before);
            // The next checkpoint leaves out what was taken in.
            store.flush();
            assert_eq!(show(&store.state), before);
            let checkpoint = store.state.files().checkpoint().unwrap();
            assert!(checkpoint.rows().is_empty());
        }
    }
}

/// Its checksums were right when they were looked at, and those of the new file would vouch for the damage.
#[test]
fn what_is_damaged_after_it_was_read_once_is_not_rewritten() {
    let mut rng = seeded();
    let (mut store, mut model) = (Store::new(), Model::default());
    store.begin_load(1);
    load(&mut store, &mut model, &mut rng, 500, false);
    store.end_load();
    store.flush();
    while store.compact().is_some() {}
    change(&mut store, &mut model, &mut rng);
    store.flush();
    show(&store.state);
    let work = pick(store.state.files(), 0.0, 0).unwrap().unwrap();
    let Work::Segment(number) = work else { panic!("{work:?}") };
    let inputs = store.manifest.packs().filter(|name| match store.manifest.segments.iter().find(|s| s.file == *name) {
        Some(segment) => segment.number == number,
        None => true,
    });
    let inputs: Vec<_> = inputs.map(|name| store.folder.named(name)).collect();
    assert!(inputs.len() > 2, "{inputs:?}");
    let cancel = AtomicBool::new(false);
    for path in inputs {
        let good = fs::read(&path).unwrap();
        // In place, as a page is that comes back wrong from the disk. The tail is the table of checksums.
        let file = fs::File::options().write(true).open(&path).unwrap();
        for _ in 0..scaled(10) {
            let at = rng.random_range(64..good.len() * 3 / 4);
            file.write_all_at(&[good[at] ^ 1 << rng.random_range(0..8)], at as u64).unwrap();
            let before = store.folder.names().unwrap();
            let written = compact(store.state.files(), work, &store.disk, &store.folder, STORE, &cancel);
            assert!(written.is_err(), "byte {at} of {}", path.display());
            let packs = |names: Vec<String>| names.into_iter().filter(|name| is_pack(name)).collect::<BTreeSet<_>>();
            assert_eq!(packs(store.folder.names().unwrap()), packs(before));
            file.write_all_at(&good[at..=at], at as u64).unwrap();
        }
    }
    assert!(store.compact().is_some());
    assert_documents(&store, &model);
}

#[test]
fn a_build_that_does_not_fit_says_which_setting_to_raise() {
    let mut rng = seeded();
    let mut store = Store::new();
    let mut model = Model::default();
    store.begin_load(1);
    load(&mut store, &mut model, &mut rng, 500, false);
    store.flush();
    let mut prepared = Prepared { generation: 1, sequence: store.sequence, ..Prepared::default() };
    let error = store.build(Limits { memory: 1 << 20, threads: 2 }, 100, &mut prepared).unwrap_err();
    assert!(error.to_string().contains("--build-mb"), "{error}");
    // Room for one, not for two: they are built one after the other.
    store.build(Limits { memory: 64 << 20, threads: 8 }, 100, &mut prepared).unwrap();
    let left = |name: &str| Path::new(name).extension().is_some_and(|it| it == "tmp");
    assert!(!store.folder.names().unwrap().iter().any(|name| left(name)));
}
