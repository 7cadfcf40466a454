//! Queries on a writer and on a reader under steady ingestion: each answer is the model's at the version that it names.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bitdex_proto::{
    client::Client,
    ops::Op,
    query::Filter,
    schema::{DOCUMENT_SOURCE, Schema},
    value::Value,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{
    alone,
    feed::{acknowledged, commit, first_load, folder, open, search, to_wire},
    long,
    model::{Model, Random},
    random, report,
};

const RANDOM: Random = Random { documents: 1_000, posts: 100, upheaval: false };
const TICK: Duration = Duration::from_millis(20);
/// How often each of those that ask does: the naive model takes its time, too.
const ASK: Duration = Duration::from_millis(10);
const ASKING: usize = 3;

/// Three in four are metrics, and one in a hundred is of any kind, of which some reach many documents: about as in the
/// workload of the benchmarks.
fn usual(rng: &mut ChaCha8Rng, schema: &Schema) -> Op {
    let source = |name: &str| schema.source(name).unwrap().0;
    let upsert = |rng: &mut ChaCha8Rng, source| Op::Upsert {
        source,
        key: RANDOM.key(rng, schema, source),
        row: Some(RANDOM.row(rng, schema, source)),
    };
    match rng.random_range(0..100) {
        0 => RANDOM.op(rng, schema),
        1..7 => upsert(rng, DOCUMENT_SOURCE),
        7..25 => Op::Member {
            source: source("tags"),
            document: RANDOM.any_id(rng),
            value: Value::Int(rng.random_range(0..10)),
            present: rng.random_range(0..4) > 0,
        },
        _ => upsert(rng, source("events")),
    }
}

/// The models by the sequence numbers of their batches.
#[derive(Debug)]
struct Versions {
    models: Mutex<BTreeMap<u64, Arc<Model>>>,
    /// Which version each of those that ask saw last: they never go back behind it.
    seen: [AtomicU64; ASKING],
    done: AtomicBool,
}

impl Versions {
    fn add(&self, sequence: u64, model: &Model) {
        let seen = self.seen.iter().map(|seen| seen.load(Ordering::Acquire)).min().unwrap();
        let mut models = self.models.lock().unwrap();
        models.insert(sequence, Arc::new(model.clone()));
        // The last one up to there is that version's.
        if let Some((first, _)) = models.range(..=seen).next_back() {
            let first = *first;
            *models = models.split_off(&first);
        }
    }

    /// The model at a sequence number, once it is known: records that are no batches change nothing.
    async fn at(&self, sequence: u64) -> Arc<Model> {
        loop {
            let done = self.done.load(Ordering::Acquire);
            {
                let models = self.models.lock().unwrap();
                if done || models.last_key_value().is_some_and(|(last, _)| sequence <= *last) {
                    return models.range(..=sequence).next_back().unwrap().1.clone();
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
    }
}

#[derive(Debug, Default)]
struct Answers {
    /// How long each took, as its client saw it.
    took: Vec<Duration>,
    versions: u64,
}

/// Asks one process until the feed has ended, and compares.
async fn ask(versions: Arc<Versions>, number: usize, (who, address): (&'static str, String), seed: u64) -> Answers {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let schema = crate::model::schema();
    let client = Client::connect(vec![address]).unwrap().with_deadline(Duration::from_secs(10));
    let (mut answers, mut last) = (Answers::default(), 0);
    let mut pace = interval(ASK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !versions.done.load(Ordering::Acquire) {
        pace.tick().await;
        let filter = RANDOM.filter(&mut rng, 2);
        let descending = rng.random();
        let sort = ["level", "madeAt", "rank", "best", "clicks", "step", "id"][rng.random_range(0..7)];
        let limit = [1, 7, 50, 10_000][rng.random_range(0..4)];
        let mut request = search(&schema, &filter, sort, descending, limit);
        request.count = true;
        let start = Instant::now();
        let answer = client.search(request).await.unwrap();
        answers.took.push(start.elapsed());
        let sequence = answer.info.unwrap().sequence;
        assert!(sequence >= last, "{who} went back from {last} to {sequence}");
        answers.versions += u64::from(sequence > last);
        last = sequence;
        let found: Vec<u32> = answer.hits.iter().map(|hit| hit.id).collect();
        let asked = (&filter, sort, descending, limit as usize);
        compare(&*versions.at(sequence).await, who, sequence, asked, &found, answer.count);
        versions.seen[number].store(sequence, Ordering::Release);
    }
    answers
}

fn compare(
    model: &Model,
    who: &str,
    sequence: u64,
    (filter, sort, descending, limit): (&Filter, &str, bool, usize),
    found: &[u32],
    count: Option<u64>,
) {
    let wanted = model.search(filter, sort, descending);
    assert_eq!(count, Some(wanted.len() as u64), "{who} at {sequence}: {filter:?}");
    let page = &wanted[..limit.min(wanted.len())];
    assert_eq!(found, page, "{who} at {sequence}: {filter:?} by {sort}, descending {descending}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_the_version_that_they_name() {
    let _alone = alone().await;
    let mut rng = random("churn");
    // Ops a tick, and for how long: what is usual, and then ops of any kind, of which many reach most documents.
    let (usually, any) = if long() { ((1_000, 120), (200, 30)) } else { ((500, 4), (100, 4)) };
    let folder = folder();
    let options = ["--drain-seconds=0", "--flush-seconds=1", "--unflushed-mb=1"];
    let (writer, reader) = (folder.start_with(&options), folder.start_with(&options));
    let mut model = Model::new();
    let schema = Arc::clone(&model.schema);
    for _ in 0..5_000 {
        let op = RANDOM.op(&mut rng, &schema);
        if matches!(op, Op::Upsert { source, .. } | Op::Member { source, .. } if schema.sources[source].is_postgres()) {
            model.apply(&op);
        }
    }
    let ack = first_load(&[&writer, &reader], &model).await;
    crate::feed::ready(&writer).await;
    crate::feed::ready(&reader).await;
    let versions = Arc::new(Versions {
        models: Mutex::new([(ack.sequence, Arc::new(model.clone()))].into()),
        seen: Default::default(),
        done: AtomicBool::new(false),
    });
    let whom: [_; ASKING] = [("the writer", &writer), ("the reader", &reader), ("the reader", &reader)];
    let asking: Vec<_> = (0..)
        .zip(whom)
        .map(|(number, (who, process))| {
            tokio::spawn(ask(Arc::clone(&versions), number, (who, process.grpc.clone()), rng.random()))
        })
        .collect();

    let mut session = open(&[&writer, &reader], &schema, "postgres").await;
    let mut pace = interval(TICK);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut n, mut rates) = (2, Vec::new());
    for (is_usual, (ops_a_tick, lasts)) in [(true, usually), (false, any)] {
        let (start, mut sent) = (Instant::now(), 0);
        pace.reset();
        while start.elapsed() < Duration::from_secs(lasts) && asking.iter().all(|task| !task.is_finished()) {
            pace.tick().await;
            let mut op = || if is_usual { usual(&mut rng, &schema) } else { RANDOM.op(&mut rng, &schema) };
            let ops: Vec<Op> = (0..ops_a_tick).map(|_| op()).collect();
            let ack = acknowledged(&mut session, to_wire(&schema, &ops), commit(n, n + 1)).await;
            ops.iter().for_each(|op| model.apply(op));
            versions.add(ack.sequence, &model);
            n += 1;
            sent += ops.len();
        }
        rates.push(sent as f64 / start.elapsed().as_secs_f64());
    }
    versions.done.store(true, Ordering::Release);
    let mut answers = Answers::default();
    for task in asking {
        let more = task.await.unwrap();
        answers.took.extend(more.took);
        answers.versions += more.versions;
    }
    let Answers { mut took, versions: seen } = answers;
    assert!(seen > 10, "the answers are of {seen} versions alone");
    took.sort_unstable();
    let p99 = took[took.len() * 99 / 100];
    report(&format!(
        "{:.0} usual ops/s, then {:.0} of any kind; {} answers of {seen} versions compared, 99 in 100 within {p99:.1?}",
        rates[0],
        rates[1],
        took.len()
    ));
}
