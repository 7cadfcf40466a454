//! Measures a load's way into files, on rows of the workload's shape: `build [documents] [memory in MiB] [threads]`.
//! Metrics are left out: they are no part of a load.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a tool for measurements")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bitdex_proto::{
    definition::Definition,
    wire::{self, record::Kind},
};
use bitdex_query::{
    build::generation::{Limits, build},
    log::disk::{Disk, RealDisk},
    state::{Files, State, write_checkpoint},
    store::{
        Folder, format,
        manifest::{Manifest, Prepared},
        pack::Pack,
    },
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const STORE: u128 = 1;
/// Bytes of rows of one record.
const RECORD: usize = 1 << 20;
/// Bytes of rows of one staged file.
const STAGED: usize = 64 << 20;

fn skewed(rng: &mut ChaCha8Rng, n: i64) -> i64 {
    // About Zipf with an exponent of 1: equally many in each power of e.
    let u: f64 = rng.random();
    ((n as f64).powf(u) as i64 - 1).clamp(0, n - 1)
}

fn about(rng: &mut ChaCha8Rng, mean: f64) -> usize {
    let u: f64 = rng.random();
    (-mean * (1.0 - u).ln()) as usize
}

enum Field {
    Null,
    Eight(i64),
    Bool(bool),
    Text(String),
}

fn put(out: &mut Vec<u8>, fields: &[Field]) {
    out.extend((fields.len() as i16).to_be_bytes());
    for field in fields {
        match field {
            Field::Null => out.extend((-1_i32).to_be_bytes()),
            Field::Eight(int) => {
                out.extend(8_i32.to_be_bytes());
                out.extend(int.to_be_bytes());
            }
            Field::Bool(bool) => {
                out.extend(1_i32.to_be_bytes());
                out.push(u8::from(*bool));
            }
            Field::Text(text) => {
                out.extend((text.len() as i32).to_be_bytes());
                out.extend(text.as_bytes());
            }
        }
    }
}

struct Sending {
    state: State,
    schema: Arc<bitdex_proto::schema::Schema>,
    disk: Arc<dyn Disk>,
    folder: Folder,
    manifest: Manifest,
    sequence: u64,
    staged: usize,
    staging: Duration,
}

impl Sending {
    fn apply(&mut self, kind: Kind) {
        self.sequence += 1;
        self.state.apply(self.sequence, &wire::Record { kind: Some(kind) }).unwrap();
    }

    fn rows(&mut self, part: usize, rows: &mut Vec<u8>, least: usize) {
        if rows.len() <= least {
            return;
        }
        self.staged += rows.len();
        let copy_rows = std::mem::take(rows).into();
        self.apply(Kind::LoadRows(wire::LoadRows { part: part as u32, copy_rows }));
        if self.staged >= STAGED {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let started = Instant::now();
        self.apply(Kind::Freeze(wire::Freeze {}));
        let frozen = self.state.frozen().unwrap().clone();
        let flushed = write_checkpoint(&frozen, &self.disk, &self.folder, STORE, &AtomicBool::new(false)).unwrap();
        self.manifest.staged.extend(flushed.staged);
        self.manifest.checkpoint = Some(flushed.checkpoint);
        self.state.adopt(Files::open(&self.folder, &self.manifest, &self.schema, None).unwrap().unwrap()).unwrap();
        self.staged = 0;
        self.staging += started.elapsed();
    }
}

fn anonymous_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let documents = numbers.next().unwrap_or(1_000_000) as i64;
    let memory = numbers.next().unwrap_or(1024) << 20;
    let threads = numbers.next().unwrap_or(1);
    let definition = Definition::parse(include_str!("../../docs/examples/images.yaml")).unwrap();
    let schema = definition.schema().clone();
    let data = tempfile::tempdir_in(".").unwrap();
    let mut sending = Sending {
        state: State::new(schema.clone()),
        schema: schema.clone(),
        disk: Arc::new(RealDisk),
        folder: Folder::open(data.path(), false).unwrap(),
        manifest: Manifest { epoch: 1, ..Manifest::new(format::NEWEST, STORE, &schema.hash) },
        sequence: 0,
        staged: 0,
        staging: Duration::ZERO,
    };
    sending.apply(Kind::Genesis(wire::Genesis { store: "1".into(), definition_hash: schema.hash.clone() }));
    let sources: Vec<usize> = (0..schema.sources.len()).filter(|it| schema.sources[*it].is_postgres()).collect();
    let parts = sources.iter().map(|source| wire::LoadPart { source: *source as u32, ..Default::default() }).collect();
    let load = wire::LoadOpen { source: "postgres".into(), load_id: "1".into(), parts, ..Default::default() };
    sending.apply(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: 1 }));

    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let (posts, versions, models) = (documents * 23 / 100, documents / 105, documents / 130);
    let mut members = 0_u64;
    let mut member_bytes = 0_u64;
    let mut row_bytes = 0_u64;
    for (part, source) in sources.iter().enumerate() {
        let of = &schema.sources[*source];
        let mut out = Vec::new();
        let count = match of.name.as_str() {
            "document" => documents,
            "post" => posts,
            "version" => versions,
            "model" => models,
            _ => 0,
        };
        for key in 0..count {
            let mut fields = vec![Field::Eight(key)];
            for column in of.columns() {
                fields.push(match column.name.as_str() {
                    "url" => Field::Text(format!("{:032x}", rng.random::<u128>())),
                    "hash" => Field::Text(format!("U{:027x}", rng.random::<u128>() >> 20)),
                    "width" | "height" => Field::Eight(512 + 64 * rng.random_range(0..16)),
                    "nsfwLevel" => Field::Eight([1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 16][rng.random_range(0..11)]),
                    "type" => Field::Text(if rng.random_range(0..100) < 93 { "image" } else { "video" }.into()),
                    "userId" => Field::Eight(skewed(&mut rng, documents / 20)),
                    "postId" => Field::Eight(key * posts / documents),
                    "blockedFor" => Field::Null,
                    "existedAt" | "publishedAt" => {
                        let step = 86_400_000_000 * 1000 / count.max(1);
                        Field::Eight(700_000_000_000_000 + key * step + rng.random_range(0..3_600_000_000))
                    }
                    "availability" => Field::Text("Public".into()),
                    "postedToId" if rng.random_range(0..10) > 2 => Field::Null,
                    "postedToId" => Field::Eight(skewed(&mut rng, versions)),
                    "baseModel" => Field::Text(format!("base {}", skewed(&mut rng, 24))),
                    "modelId" => Field::Eight(rng.random_range(0..models)),
                    _ => Field::Bool(rng.random_range(0..3) == 0),
                });
            }
            put(&mut out, &fields);
            row_bytes += out.len() as u64 * u64::from(out.len() > RECORD);
            sending.rows(part, &mut out, RECORD);
        }
        let (mean, terms) = match of.name.as_str() {
            "tagIds" => (11.0, 31_000),
            "toolIds" => (0.18, 60),
            "techniqueIds" => (0.16, 20),
            "modelVersionIds" => (2.7, versions),
            "collectionIds" => (0.1, documents / 50),
            _ => (0.0, 0),
        };
        for key in 0..if terms > 0 { documents } else { 0 } {
            for _ in 0..about(&mut rng, mean) {
                put(&mut out, &[Field::Eight(key), Field::Eight(skewed(&mut rng, terms))]);
                members += 1;
            }
            member_bytes += out.len() as u64 * u64::from(out.len() > RECORD);
            sending.rows(part, &mut out, RECORD);
        }
        sending.rows(part, &mut out, 0);
    }
    let rows = (documents + posts + versions + models) as u64;
    sending.flush();
    println!("{documents} documents, {rows} rows ({row_bytes} B), {members} member rows ({member_bytes} B)");
    println!(
        "staged in {:?}: {:.0} rows/s; {} files",
        sending.staging,
        (rows + members) as f64 / sending.staging.as_secs_f64(),
        sending.manifest.staged.len()
    );

    let before = anonymous_kb();
    let (peak, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    let mut tables = Duration::ZERO;
    let prepared = Prepared { generation: 1, sequence: sending.sequence, ..Prepared::default() };
    let prepared = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                peak.fetch_max(anonymous_kb(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let prepared = build(
            &sending.state,
            &sending.disk,
            &sending.folder,
            STORE,
            &prepared,
            Limits { memory, threads },
            &AtomicBool::new(false),
            &mut |prepared| {
                if prepared.segments.is_empty() {
                    tables = started.elapsed();
                }
                Ok(())
            },
        );
        over.store(true, Ordering::Relaxed);
        prepared.unwrap()
    });
    let segments = started.elapsed() - tables;
    println!(
        "tables in {tables:?}, {} segments in {segments:?}: {:.0} documents/s, {:.0} member rows/s",
        prepared.segments.len(),
        documents as f64 / segments.as_secs_f64(),
        members as f64 / segments.as_secs_f64(),
    );
    println!("heap: {} MiB before, {} MiB at most", before >> 10, peak.load(Ordering::Relaxed) >> 10);

    let mut kinds: BTreeMap<u16, u64> = BTreeMap::new();
    for file in prepared.segments.iter().map(|it| &it.file).chain(prepared.tables.iter().map(|it| &it.file)) {
        let pack = Pack::open_any(&sending.folder.named(file)).unwrap().unwrap();
        for (kind, _, length) in pack.sections() {
            *kinds.entry(kind).or_default() += length;
        }
    }
    for (kind, length) in kinds {
        println!("sections of kind {kind}: {:.1} bytes a document", length as f64 / documents as f64);
    }
}
