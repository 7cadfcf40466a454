//! A large load beside a serving generation: killed while its base is built, and held to its memory.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bitdex_proto::{
    client::{Client, IngestClient},
    ops::Op,
    query::{Comparator, CountRequest, Filter},
    schema::Schema,
    value::Literal,
    wire,
};
use rand::RngExt as _;
use tokio::time::sleep;

use crate::{
    alone,
    cgroup::Cgroup,
    crash::check,
    feed::{Part, acknowledged, commit, cursor, first_load, folder, load, open, ready, search},
    long,
    model::{Model, Random},
    process::{Folder, Process, eventually},
    random, report,
};

const RANDOM: Random = Random { documents: 400, posts: 40, upheaval: false };
/// Rows in a frame.
const FRAME: u64 = 2_000;

/// Documents of which everything follows from their number.
#[derive(Debug, Clone, Copy)]
struct Bulk {
    documents: u64,
    /// From one id to the next.
    stride: u64,
    /// Bytes of text in each.
    note: usize,
}

fn copied(row: &mut Vec<u8>, fields: &[Option<&[u8]>]) {
    row.extend(i16::try_from(fields.len()).unwrap().to_be_bytes());
    for field in fields {
        row.extend(field.map_or(-1, |field| i32::try_from(field.len()).unwrap()).to_be_bytes());
        row.extend(field.unwrap_or_default());
    }
}

impl Bulk {
    fn level(n: u64) -> u64 {
        n % 1_000
    }

    fn tags(n: u64) -> [u64; 2] {
        [n % 7, 100 + n % 5]
    }

    /// Frames are made when they are sent, so as not to hold the whole load here.
    fn parts(self, schema: &Schema) -> Vec<Part> {
        let source = |name: &str| u32::try_from(schema.source(name).unwrap().0).unwrap();
        let note = "n".repeat(self.note);
        let mut parts = Vec::new();
        for (source, each) in [(0, 50_000), (source("tags"), 50_000)] {
            for first in (0..self.documents).step_by(each) {
                let last = (first + each as u64).min(self.documents);
                let key = |n: u64| i64::try_from(n * self.stride).unwrap();
                let (mut frames, mut rows) = (Vec::new(), 0);
                for from in (first..last).step_by(FRAME as usize) {
                    let mut frame = Vec::new();
                    for n in from..(from + FRAME).min(last) {
                        let id = key(n).to_be_bytes();
                        if source == 0 {
                            let level = Self::level(n).to_be_bytes();
                            copied(&mut frame, &[Some(&id), Some(&level), None, None, None, Some(note.as_bytes())]);
                            rows += 1;
                        } else {
                            for tag in Self::tags(n) {
                                copied(&mut frame, &[Some(&id), Some(&tag.to_be_bytes())]);
                                rows += 1;
                            }
                        }
                    }
                    frames.push(frame.into());
                }
                let part = wire::LoadPart { source, lo: key(first), hi: key(last) };
                parts.push(Part { part, frames, rows });
            }
        }
        parts
    }

    /// Counts of a process, each with what it has to be.
    async fn assert_served(self, client: &Client, schema: &Schema) {
        let count = |filter| async move {
            let request = CountRequest { filter, include_pending: true, ..CountRequest::new(schema.index.clone()) };
            client.count(request).await.unwrap().count
        };
        let matching = |test: fn(u64) -> bool| (0..self.documents).filter(|n| test(*n)).count() as u64;
        let int = |field: &str, value| Filter::eq(field, Literal::Int(value));
        let least = Filter::Compare { field: "level".into(), comparator: Comparator::Ge, value: Literal::Int(900) };
        assert_eq!(count(None).await, self.documents);
        assert_eq!(count(Some(int("level", 5))).await, matching(|n| Self::level(n) == 5));
        assert_eq!(count(Some(int("tags", 3))).await, matching(|n| n % 7 == 3));
        let both = Filter::And(vec![least, int("tags", 102)]);
        assert_eq!(count(Some(both.clone())).await, matching(|n| Self::level(n) >= 900 && n % 5 == 2));
        let answer = client.search(search(schema, &both, "id", true, 100)).await.unwrap();
        let found: Vec<u64> = answer.hits.iter().map(|hit| hit.id.into()).collect();
        let wanted = (0..self.documents).rev().filter(|n| Self::level(*n) >= 900 && n % 5 == 2);
        assert_eq!(found, wanted.take(100).map(|n| n * self.stride).collect::<Vec<_>>());
    }
}

/// File and inode of all that is built so far, and whether that is all.
fn prepared(folder: &Folder) -> (BTreeMap<String, u64>, bool) {
    let text = fs::read_to_string(folder.data().join("MANIFEST")).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("prepared_"));
    let names = lines.filter_map(|line| line.split(' ').next_back());
    let inode = |name: &str| fs::metadata(folder.data().join(name)).ok().map(|metadata| metadata.ino());
    let files = names.filter_map(|name| Some((name.to_owned(), inode(name)?))).collect();
    let complete = text.lines().any(|line| line.starts_with("prepared ") && line.ends_with(" complete"));
    (files, complete)
}

fn ingest(process: &Process) -> IngestClient {
    IngestClient::new(vec![process.grpc.clone()]).unwrap()
}

/// What was answered beside a load.
#[derive(Debug, Default)]
struct Answers {
    /// Of the generation before.
    old: u64,
    slowest: Duration,
}

/// Asks a reader all the time, until it has answered often by the new generation. Each answer is of one of the two, and
/// none of the old one comes behind one of the new.
async fn ask(process_grpc: String, model: Model, bulk: Bulk) -> Answers {
    let mut rng = random("questions beside a load");
    let schema = Arc::clone(&model.schema);
    let client = Client::connect(vec![process_grpc]).unwrap().with_deadline(Duration::from_secs(5));
    let mut answers = Answers::default();
    let (mut new, mut was_old) = (0, false);
    while new < 20 {
        let (filter, descending) = (RANDOM.filter(&mut rng, 2), rng.random());
        let start = Instant::now();
        let answer = client.search(search(&schema, &filter, "level", descending, 10_000)).await.unwrap();
        answers.slowest = answers.slowest.max(start.elapsed());
        // Which of the two answers follows from this one's count.
        let tag = rng.random_range(0..7);
        let tagged = Filter::eq("tags", Literal::Int(i64::try_from(tag).unwrap()));
        let counts = [
            model.search(&tagged, "level", true).len() as u64,
            (0..bulk.documents).filter(|n| n % 7 == tag).count() as u64,
        ];
        assert_ne!(counts[0], counts[1]);
        let request = CountRequest { filter: Some(tagged), ..CountRequest::new(schema.index.clone()) };
        let counted = client.count(request).await.unwrap().count;
        assert!(counted == counts[1] || counted == counts[0] && new == 0, "{counted} of {counts:?}, {new}");
        let is_old = counted == counts[0];
        if was_old && is_old {
            let found: Vec<u32> = answer.hits.iter().map(|hit| hit.id).collect();
            assert_eq!(found, model.search(&filter, "level", descending), "{filter:?}");
            answers.old += 1;
        }
        was_old = is_old;
        new += u64::from(!is_old);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_build_goes_on_behind_the_last_file_and_the_old_generation_answers_meanwhile() {
    let _alone = alone().await;
    let mut rng = random("bulk");
    // Ids in so many segments of 1 048 576.
    let (documents, segments) = if long() { (4_000_000, 40) } else { (300_000, 12) };
    let bulk = Bulk { documents, stride: (segments << 20) / documents, note: 20 };
    let folder = folder();
    let options = ["--drain-seconds=0", "--unflushed-mb=8", "--build-threads=1", "--build-mb=256"];
    let mut writer = folder.start_with(&options);
    let mut model = Model::new();
    let schema = Arc::clone(&model.schema);
    for _ in 0..2_000 {
        let op = RANDOM.op(&mut rng, &schema);
        if matches!(op, Op::Upsert { source, .. } | Op::Member { source, .. } if schema.sources[source].is_postgres()) {
            model.apply(&op);
        }
    }
    first_load(&[&writer], &model).await;
    let reader = folder.start_with(&["--reader-only", "--drain-seconds=0"]);
    ready(&reader).await;
    let asking = tokio::spawn(ask(reader.grpc.clone(), model.clone(), bulk));

    let parts = bulk.parts(&schema);
    let (mut kept, mut kills) = (BTreeMap::new(), 0);
    loop {
        let (client, parts, schema) = (ingest(&writer), parts.clone(), Arc::clone(&schema));
        let loading = tokio::spawn(async move { load(&client, &schema, "bulk", 3, &parts).await });
        let killed = loop {
            let (files, complete) = prepared(&folder);
            if files.len() > kept.len() && !complete && kills < segments {
                writer.kill();
                break true;
            }
            if loading.is_finished() {
                break false;
            }
            sleep(Duration::from_millis(1)).await;
        };
        let loaded = loading.await.unwrap();
        if !killed {
            loaded.unwrap();
            break;
        }
        assert!(!asking.is_finished(), "the serving generation failed to answer");
        let (files, _) = prepared(&folder);
        // What was there is there, untouched.
        for (name, inode) in &kept {
            assert_eq!(files.get(name), Some(inode), "{name} was built again");
        }
        kept = files;
        kills += 1;
        writer = folder.start_with(&options);
        eventually("a new writer", || async { (writer.get("/metrics").await.0 == 200).then_some(()) }).await;
    }
    assert!(kills >= 3, "the build was killed {kills} times");
    let mut session = open(&[&writer], &schema, "postgres").await;
    assert_eq!(session.opened.cursor, cursor(3));
    let ack = acknowledged(&mut session, Vec::new(), commit(3, 4)).await;
    let Answers { old, slowest } = asking.await.unwrap();
    assert!(old > 0, "nothing was asked meanwhile");
    for process in [&writer, &reader] {
        let client = process.client();
        eventually("the new generation", || async {
            let described = client.describe(&schema.index).await.ok()?;
            (described.ready && described.sequence >= ack.sequence).then_some(())
        })
        .await;
        bulk.assert_served(&client, &schema).await;
    }
    // The files that were built before the kills are those that are served.
    let named = || fs::read_to_string(folder.data().join("MANIFEST")).unwrap();
    eventually("the new base in the manifest", || async { (!named().contains("prepared")).then_some(()) }).await;
    for (name, inode) in &kept {
        assert!(named().contains(&format!(" {name}\n")), "{name}");
        assert_eq!(fs::metadata(folder.data().join(name)).unwrap().ino(), *inode, "{name}");
    }
    check(&folder);
    report(&format!("{kills} kills, {old} answers of the old generation meanwhile, the slowest after {slowest:?}"));
}

/// Limits what the process may write to that is no file: stacks, heap, anonymous mappings; and in a cgroup, everything.
fn start_limited(folder: &Folder, kib: u64, cgroup: Option<&Cgroup>, options: &[&str]) -> Process {
    let serve = folder.command();
    let mut command = Command::new("sh");
    let enter = cgroup.map(|cgroup| format!("echo $$ > {} || exit; ", cgroup.processes().display()));
    let script = format!("{}ulimit -d {kib}; exec \"$@\"", enter.unwrap_or_default());
    command.arg("-c").arg(script).arg("sh").arg(serve.get_program());
    command.args(serve.get_args()).args(options);
    Process::start(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_larger_than_its_memory_is_built_within_it() {
    let _alone = alone().await;
    let (documents, limit) = if long() { (6_000_000, 320_u64 << 10) } else { (1_000_000, 256_u64 << 10) };
    let bulk = Bulk { documents, stride: 4, note: 300 };
    let folder = folder();
    let schema = folder.schema();
    let options = ["--drain-seconds=0", "--unflushed-mb=32", "--build-mb=64", "--build-threads=2", "--max-queue-mb=8"];
    let cgroup = Cgroup::with_limit(limit << 10);
    let process = start_limited(&folder, limit, cgroup.as_ref().ok(), &options);
    let parts = bulk.parts(&schema);
    let bytes: usize = parts.iter().flat_map(|part| &part.frames).map(bytes::Bytes::len).sum();
    assert!(bytes as u64 > limit << 10, "the load has to be larger than the memory");
    load(&ingest(&process), &schema, "bulk", 1, &parts).await.unwrap();
    let mut session = open(&[&process], &schema, "postgres").await;
    acknowledged(&mut session, Vec::new(), commit(1, 2)).await;
    let mut metrics = open(&[&process], &schema, "clickhouse").await;
    acknowledged(&mut metrics, Vec::new(), commit(0, 1)).await;
    ready(&process).await;
    bulk.assert_served(&process.client(), &schema).await;
    let by = match &cgroup {
        Ok(_) => "a cgroup and ulimit -d".into(),
        Err(error) => format!("ulimit -d alone, as no cgroup could be made ({error})"),
    };
    report(&format!("a load of {} MiB within {} MiB, by {by}", bytes >> 20, limit >> 10));
}
