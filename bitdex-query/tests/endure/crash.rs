//! `kill -9` at random instants, under ops, loads, flushes, compactions, recoveries and promotions.
//!
//! After each: the store opens, `check` passes, what was acknowledged is there, once, and nothing else but whole batches
//! that were sent; the cursors say which; a reader that lived through it never showed what was then lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bitdex_proto::{
    client::{Client, IngestClient, Session, SessionEvent},
    ops::{Change, Op},
    value::{FieldValue, Value},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::{
    alone,
    feed::{
        Documents, Part, acknowledged, commit, expected, first_load, folder, get, load, number, open, parts, search,
        session_open, to_wire,
    },
    long,
    model::{MARKER, Model, Random, mark},
    process::{Folder, Process, eventually},
    random, report,
};

const RANDOM: Random = Random { documents: 400, posts: 40, upheaval: true };
/// Batches under way.
const WINDOW: usize = 4;
/// Documents that a service stamps in turn.
const STAMPED: u64 = 16;
/// Models that are kept for answers still to come.
const KEPT: usize = 3_000;
/// So small that flushes and compactions are under way at many of the kills.
const SMALL: [&str; 3] = ["--drain-seconds=0", "--flush-seconds=1", "--unflushed-mb=1"];

/// What one source sent.
#[derive(Debug, Default)]
struct Sent {
    /// The last batch known to be durable.
    durable: u64,
    /// Sent behind it, in order.
    open: Vec<u64>,
    /// Sent, and lost by a crash.
    lost: BTreeSet<u64>,
    /// Shown by any process.
    shown: BTreeSet<u64>,
    next: u64,
}

impl Sent {
    fn send(&mut self) -> u64 {
        // Numbers are never used again, so that what was lost can be told from what came instead.
        self.next += 1;
        self.open.push(self.next);
        self.next
    }

    fn acknowledged(&mut self, n: u64) {
        assert_eq!(self.open.first(), Some(&n), "acknowledgements come in order");
        self.open.remove(0);
        self.durable = n;
    }

    /// Told by a cursor where the store stands now.
    fn recovered(&mut self, n: u64) {
        let kept = self.open.iter().position(|open| *open == n);
        assert!(
            n == self.durable || kept.is_some(),
            "the cursor is {n}: neither {} nor of {:?}",
            self.durable,
            self.open
        );
        let lost = self.open.split_off(kept.map_or(0, |kept| kept + 1));
        self.lost.extend(lost);
        self.open.clear();
        self.durable = n;
        self.look();
    }

    fn show(&mut self, n: u64) {
        self.shown.insert(n);
        self.look();
    }

    fn look(&self) {
        let wrong = self.shown.intersection(&self.lost).next();
        assert_eq!(wrong, None, "a batch was shown, and then lost");
    }
}

/// What is known of the index, shared by all that feed and look.
#[derive(Debug)]
struct World {
    postgres: Mutex<Sent>,
    service: Mutex<Sent>,
    /// By number of the batch.
    models: Mutex<BTreeMap<u64, Model>>,
    /// Sequence number → hash, as any process said.
    hashes: Mutex<BTreeMap<u64, String>>,
    answers: AtomicU64,
}

impl World {
    fn new(model: Model) -> Self {
        Self {
            postgres: Mutex::new(Sent { durable: 2, next: 2, ..Sent::default() }),
            service: Mutex::default(),
            models: Mutex::new([(1, model.clone()), (2, model)].into()),
            hashes: Mutex::default(),
            answers: AtomicU64::new(0),
        }
    }

    fn model(&self, n: u64) -> Model {
        self.models.lock().unwrap().get(&n).unwrap_or_else(|| panic!("no batch {n} was sent")).clone()
    }

    fn keep(&self, n: u64, model: Model) {
        let mut models = self.models.lock().unwrap();
        models.insert(n, model);
        while models.len() > KEPT {
            models.pop_first();
        }
    }

    /// The last stamp of a place among the stamped, when the service's batch `n` was the last.
    fn stamp(&self, n: u64, place: u64) -> Option<u64> {
        let service = self.service.lock().unwrap();
        (1..=n).rev().take(1_000).find(|n| n % STAMPED == place && !service.lost.contains(n))
    }

    /// Compares documents with the models at the versions that the marker among them names. `None` while there is no
    /// marker.
    fn compare(&self, who: &str, ids: &[u32], mut found: Documents) -> Option<(u64, u64)> {
        let schema = crate::model::schema();
        let (level, stamp) = (schema.field("level").unwrap().0, schema.field("stamp").unwrap().0);
        let number = |value: &FieldValue| match value {
            FieldValue::One(Value::Int(n)) => u64::try_from(*n).unwrap(),
            _ => 0,
        };
        let marker = found.get(&MARKER)?;
        let (n, stamped) = (number(&marker[&level]), number(&marker[&stamp]));
        self.postgres.lock().unwrap().show(n);
        self.service.lock().unwrap().show(stamped);
        for place in 0..STAMPED {
            if let Some(document) = found.get(&stamped_id(place)) {
                let wanted = self.stamp(stamped, place).unwrap_or(0);
                assert_eq!(number(&document[&stamp]), wanted, "{who}: stamp {place} at batch {stamped} of the service");
            }
        }
        let mut wanted = expected(&self.model(n), ids.iter().copied());
        for document in found.values_mut().chain(wanted.values_mut()) {
            document.remove(&stamp);
        }
        for (id, document) in &wanted {
            assert_eq!(found.get(id), Some(document), "{who}: document {id} at batch {n}");
        }
        assert_eq!(found.len(), wanted.len(), "{who}: documents that are not there at batch {n}");
        self.answers.fetch_add(1, Ordering::Relaxed);
        Some((n, stamped))
    }

    fn hash(&self, sequence: u64, hash: String) {
        let mut hashes = self.hashes.lock().unwrap();
        let before = hashes.insert(sequence, hash.clone());
        assert!(before.is_none_or(|before| before == hash), "two states at sequence number {sequence}");
        while hashes.len() > KEPT {
            hashes.pop_first();
        }
    }
}

fn stamped_id(place: u64) -> u32 {
    Random::id(1 + u32::try_from(place).unwrap())
}

/// Sends batches until the session breaks.
async fn feed(world: &World, session: Session, mut rng: ChaCha8Rng, model: Model) {
    let schema = Arc::clone(&model.schema);
    let from = world.postgres.lock().unwrap().durable;
    let batch = |rng: &mut ChaCha8Rng, model: &mut Model, n| {
        let most = if rng.random_range(0..20) == 0 { 2_000 } else { 60 };
        let mut ops: Vec<Op> = (0..rng.random_range(0..most)).map(|_| RANDOM.op(rng, &schema)).collect();
        ops.push(mark(n));
        ops.iter().for_each(|op| model.apply(op));
        world.keep(n, model.clone());
        ops
    };
    deliver(&world.postgres, session, from, {
        let schema = Arc::clone(&schema);
        let mut model = model;
        move |n| to_wire(&schema, &batch(&mut rng, &mut model, n))
    })
    .await;
}

/// A service that writes its own field, beside.
async fn stamp(world: &World, session: Session) {
    let schema = crate::model::schema();
    let field = schema.field("stamp").unwrap().0;
    let from = world.service.lock().unwrap().durable;
    deliver(&world.service, session, from, |n| {
        let change = Change::Set(FieldValue::One(Value::Int(i64::try_from(n).unwrap())));
        let stamp = |document| Op::Field { document, field, change: change.clone() };
        to_wire(&schema, &[stamp(MARKER), stamp(stamped_id(n % STAMPED))])
    })
    .await;
}

/// Batches one behind the other, some under way at once, until the session breaks.
async fn deliver(
    sent: &Mutex<Sent>,
    mut session: Session,
    mut from: u64,
    mut batch: impl FnMut(u64) -> Vec<bitdex_proto::wire::Op>,
) {
    let mut broken = false;
    loop {
        if !broken && sent.lock().unwrap().open.len() < WINDOW {
            let n = sent.lock().unwrap().send();
            let ops = batch(n);
            broken = session.send(ops).await.is_err() || session.commit(commit(from, n)).await.is_err();
            from = n;
            continue;
        }
        match session.recv().await {
            Ok(SessionEvent::Ack(ack)) => sent.lock().unwrap().acknowledged(number(&ack.cursor).unwrap()),
            Ok(SessionEvent::ProgressWanted) => {}
            Ok(SessionEvent::Refused(refused)) => panic!("{refused:?}"),
            Err(_) => return,
        }
    }
}

/// One batch that only marks, so that what came before it shows.
async fn catch_up(world: &World, session: &mut Session, from: u64) -> u64 {
    let n = world.postgres.lock().unwrap().send();
    let mut model = world.model(from);
    model.apply(&mark(n));
    let ops = to_wire(&model.schema, &[mark(n)]);
    world.keep(n, model);
    acknowledged(session, ops, commit(from, n)).await;
    world.postgres.lock().unwrap().acknowledged(n);
    n
}

/// Both processes come to one version, and its hash is the same.
async fn same_hash(world: &World, a: &Process, b: &Process) {
    eventually("the same version in both processes", || async {
        let (a, b) = (a.client().describe("things").await.ok()?, b.client().describe("things").await.ok()?);
        let same = a.sequence == b.sequence;
        world.hash(a.sequence, a.state_hash);
        world.hash(b.sequence, b.state_hash);
        same.then_some(())
    })
    .await;
}

/// A load that is under way, over several lives of the writer.
#[derive(Debug)]
struct Loading {
    id: String,
    n: u64,
    parts: Vec<Part>,
}

impl Loading {
    fn begin(world: &World, rng: &mut ChaCha8Rng) -> Self {
        let n = world.postgres.lock().unwrap().send();
        let durable = world.postgres.lock().unwrap().durable;
        let mut model = world.model(durable).kept_by_a_load();
        let schema = Arc::clone(&model.schema);
        for _ in 0..3_000 {
            let op = RANDOM.op(rng, &schema);
            if matches!(op, Op::Upsert { source, .. } | Op::Member { source, .. } if schema.sources[source].is_postgres())
            {
                model.apply(&op);
            }
        }
        model.apply(&mark(n));
        let parts = parts(&model, rng.random_range(1..6), rng.random_range(1..200));
        world.keep(n, model);
        Self { id: format!("load {n}"), n, parts }
    }
}

/// Looks at a process for as long as it is told to.
async fn watch(world: Arc<World>, who: &'static str, address: String, seed: u64, stop: Arc<AtomicBool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let schema = crate::model::schema();
    let client = Client::connect(vec![address]).unwrap().with_deadline(Duration::from_millis(200));
    let all: Vec<u32> = RANDOM.ids().collect();
    while !stop.load(Ordering::Relaxed) {
        let mut ids: Vec<u32> = (0..20).map(|_| all[rng.random_range(0..all.len())]).collect();
        ids.extend((0..STAMPED).map(stamped_id));
        ids.push(MARKER);
        // It may just be starting, or ending.
        if let Ok((documents, _)) = get(&client, &schema, ids.clone()).await {
            world.compare(who, &ids, documents);
        }
        if let Ok(described) = client.describe("things").await
            && described.ready
        {
            world.hash(described.sequence, described.state_hash);
        }
        sleep(Duration::from_millis(3)).await;
    }
}

/// A reader that never stands for election, looked at all the time.
struct Reader {
    process: Process,
    stop: Arc<AtomicBool>,
    watch: tokio::task::JoinHandle<()>,
}

impl Reader {
    fn start(world: &Arc<World>, folder: &Folder, seed: u64) -> Self {
        let process = folder.start_with(&[&SMALL[..], &["--reader-only"]].concat());
        let stop = Arc::new(AtomicBool::new(false));
        let watch = tokio::spawn(watch(Arc::clone(world), "a reader", process.grpc.clone(), seed, Arc::clone(&stop)));
        Self { process, stop, watch }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.watch.await.unwrap();
    }
}

/// Everything there is, in one process, after a recovery.
async fn compare_all(world: &World, who: &str, process: &Process, durable: u64, rng: &mut ChaCha8Rng) {
    let schema = crate::model::schema();
    let ids: Vec<u32> = std::iter::once(MARKER).chain(RANDOM.ids()).collect();
    let client = process.client();
    let (seen, _) = eventually("the last batch", || async {
        let (documents, _) = get(&client, &schema, ids.clone()).await.ok()?;
        world.compare(who, &ids, documents).filter(|(n, _)| *n == durable)
    })
    .await;
    let model = world.model(seen);
    for _ in 0..3 {
        let (filter, descending) = (RANDOM.filter(rng, 2), rng.random());
        let sort = ["level", "madeAt", "rank", "best", "clicks", "step", "id"][rng.random_range(0..7)];
        let mut request = search(&schema, &filter, sort, descending, 10_000);
        request.count = true;
        let answer = client.search(request).await.unwrap();
        let found: Vec<u32> = answer.hits.iter().map(|hit| hit.id).collect();
        let wanted = model.search(&filter, sort, descending);
        assert_eq!(answer.count, Some(wanted.len() as u64), "{who}: {filter:?}");
        assert_eq!(found, wanted, "{who}: {filter:?} by {sort}");
    }
}

/// `bitdex-query check` passes.
pub(crate) fn check(folder: &Folder) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_bitdex-query"))
        .arg("check")
        .arg("--definition")
        .arg(folder.definition())
        .arg("--data")
        .arg(folder.data())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "check: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing_that_was_acknowledged() {
    let _alone = alone().await;
    let mut rng = random("crash");
    let kills = if long() { 1_000 } else { 100 };
    let folder = folder();
    let mut model = Model::new();
    let schema = Arc::clone(&model.schema);
    for _ in 0..2_000 {
        let op = RANDOM.op(&mut rng, &schema);
        if matches!(op, Op::Upsert { source, .. } | Op::Member { source, .. } if schema.sources[source].is_postgres()) {
            model.apply(&op);
        }
    }
    model.apply(&mark(1));
    let mut writer = folder.start_with(&SMALL);
    first_load(&[&writer], &model).await;
    let world = Arc::new(World::new(model));
    // The second batch, which ended the load, was empty.
    world.postgres.lock().unwrap().shown.insert(1);
    let mut reader = Reader::start(&world, &folder, rng.random());
    let mut loading: Option<Loading> = None;
    let (mut loads, mut promotions, mut early) = (0, 0, 0);

    for kill in 0..kills {
        // Where the store stands, as the cursors say.
        let mut session = open(&[&writer], &schema, "postgres").await;
        let service = open(&[&writer], &schema, "service").await;
        world.service.lock().unwrap().recovered(number(&service.opened.cursor).unwrap_or(0));
        let half = session.opened.load.is_some();
        if !half {
            let at = number(&session.opened.cursor).unwrap();
            let begun = loading.take_if(|loading| loading.n == at).is_some();
            loads += u32::from(begun);
            if loading.is_none() {
                world.postgres.lock().unwrap().recovered(at);
                let mut durable = at;
                // A new generation serves once it has caught up; and the first batch of all marked nothing.
                if begun || at == 2 {
                    durable = catch_up(&world, &mut session, at).await;
                }
                compare_all(&world, "the writer", &writer, durable, &mut rng).await;
                compare_all(&world, "the reader", &reader.process, durable, &mut rng).await;
                same_hash(&world, &writer, &reader.process).await;
            }
        }
        drop(session);
        if loading.is_none() && rng.random_range(0..12) == 0 {
            loading = Some(Loading::begin(&world, &mut rng));
        }

        // Who takes over is there already, or comes later.
        let standby = (rng.random_range(0..4) == 0).then(|| folder.start_with(&SMALL));
        let lives = Duration::from_millis(if rng.random_range(0..10) == 0 { 700 } else { rng.random_range(0..250) });
        let client = IngestClient::new(vec![writer.grpc.clone()]).unwrap();
        let feeding = async {
            if let Some(loading) = &loading {
                // Its outcome is read from the cursor, after the kill.
                let _ = load(&client, &schema, &loading.id, loading.n, &loading.parts).await;
            } else {
                let durable = world.postgres.lock().unwrap().durable;
                let rng = ChaCha8Rng::seed_from_u64(rng.random());
                // The kill may come first.
                if let Ok(session) = client.session(session_open(&schema, "postgres")).await {
                    feed(&world, session, rng, world.model(durable)).await;
                }
            }
        };
        let killing = async {
            sleep(lives).await;
            writer.signal(Signal::KILL);
        };
        tokio::join!(feeding, stamp(&world, service), killing);
        writer.kill();

        if rng.random_range(0..8) == 0 {
            reader.process.kill();
            reader.stop().await;
            reader = Reader::start(&world, &folder, rng.random());
        }
        // Also while the standby takes over.
        check(&folder);
        writer = match standby {
            Some(standby) => {
                promotions += 1;
                standby
            }
            None => {
                while rng.random_range(0..5) == 0 {
                    // Dies while it recovers.
                    early += 1;
                    let mut command = folder.command();
                    let mut child = command.args(SMALL).stderr(std::process::Stdio::null()).spawn().unwrap();
                    sleep(Duration::from_millis(rng.random_range(0..40))).await;
                    child.kill().unwrap();
                    child.wait().unwrap();
                }
                folder.start_with(&SMALL)
            }
        };
        assert!(!reader.watch.is_finished(), "kill {kill}: the reader's watch failed");
    }
    reader.stop().await;
    let acknowledged = world.postgres.lock().unwrap().next;
    report(&format!(
        "{kills} kills and {early} during recovery, {promotions} promotions, {loads} loads; {acknowledged} batches, {} \
         lost that were not acknowledged, {} answers compared",
        world.postgres.lock().unwrap().lost.len(),
        world.answers.load(Ordering::Relaxed)
    ));
}
