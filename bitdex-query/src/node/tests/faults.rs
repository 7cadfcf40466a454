//! Faults under the file layer, at every step; torn and short writes; flipped bits. Whatever happens: what was
//! acknowledged is there, nothing else is, and an answer is right or an error that names the file.

use std::collections::BTreeMap;

use bitdex_proto::query::{Fields, GetRequest, SearchRequest};

use super::*;
use crate::{
    engine,
    inspect::check::check,
    state::tests::model::{self, copy_row, random_filter, random_op},
    store::Folder,
    testing::long,
};

fn rich() -> Arc<Schema> {
    Arc::new(model::schema())
}

/// Every load has a base built, and there is always something to flush and to compact.
fn busy(data: &Path, schema: &Arc<Schema>) -> NodeOptions {
    NodeOptions {
        small_load: 0,
        build_threads: 1,
        build_memory: 64 << 20,
        compact_fraction: 0.005,
        flush: often(60),
        segment_bytes: 4_000,
        ..NodeOptions::new(Arc::clone(schema), data)
    }
}

/// Rows of all sources, and changes of others meanwhile.
fn load(rng: &mut ChaCha8Rng, schema: &Schema, generation: u64, ops: usize) -> Vec<wire::Record> {
    let kind = |kind| wire::Record { kind: Some(kind) };
    let postgres = schema.sources.iter().filter(|source| source.is_postgres()).count();
    let load = wire::LoadOpen {
        source: "postgres".into(),
        load_id: format!("load {generation}"),
        cursor: Bytes::from_static(b"loaded"),
        parts: (0..postgres as u32).map(|source| wire::LoadPart { source, lo: 0, hi: 1 << 32 }).collect(),
        ..wire::LoadOpen::default()
    };
    let mut records = vec![kind(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation }))];
    let mut rows = vec![Vec::new(); postgres];
    for _ in 0..ops {
        if let Some((source, row)) = copy_row(schema, &random_op(rng, schema, 300)) {
            rows[source].extend(row);
        }
    }
    for (part, rows) in (0..).zip(rows) {
        records.push(kind(Kind::LoadRows(wire::LoadRows { part, copy_rows: rows.into() })));
        records.push(kind(Kind::LoadPartDone(wire::LoadPartDone { part, rows: 1 })));
    }
    records.push(kind(Kind::LoadEnd(wire::LoadEnd {})));
    records
}

/// Batches of a source, from its `from`th cursor on.
fn batches(rng: &mut ChaCha8Rng, schema: &Schema, source: &str, from: u64, count: u64) -> Vec<wire::Record> {
    let cursor = |n: u64| match (n, source) {
        (0, "postgres") => Bytes::from_static(b"loaded"),
        (0, _) => Bytes::new(),
        (n, _) => n.to_string().into(),
    };
    let batch = |n| wire::Batch {
        source: source.into(),
        previous_cursor: cursor(n),
        new_cursor: cursor(n + 1),
        ops: (0..20).map(|_| random_op(rng, schema, 300).to_wire(schema)).collect(),
        caught_up: true,
        backlog: 0,
    };
    (from..from + count).map(batch).map(|batch| wire::Record { kind: Some(Kind::Batch(batch)) }).collect()
}

/// All that a version is, but for its number: `Freeze` records have numbers too.
fn content(state: &State) -> impl PartialEq + std::fmt::Debug + use<> {
    (state.hash(), state.documents(), state.cursors(), state.load(), state.generation(), state.is_loaded())
}

/// A store that one client feeds, whatever happens to its writer.
struct Fed {
    schema: Arc<Schema>,
    folder: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    node: Option<Arc<Node>>,
    /// What the acknowledged records leave, by a state that never sees a file.
    reference: State,
    /// Writers that ended by the fault, or did not come up.
    ends: u32,
}

impl Fed {
    async fn new(disk: FaultyDisk) -> Self {
        let schema = rich();
        let folder = tempfile::tempdir().unwrap();
        let reference = State::new(Arc::clone(&schema));
        Self { schema, folder, disk: Arc::new(disk), node: None, reference, ends: 0 }
    }

    fn after(&self, record: &wire::Record) -> State {
        let mut state = self.reference.clone();
        state.apply(state.sequence() + 1, record).unwrap();
        state
    }

    async fn node(&mut self) -> Arc<Node> {
        while self.node.is_none() {
            let options = busy(self.folder.path(), &self.schema);
            match Node::open_on(options, Arc::clone(&self.disk) as Arc<dyn Disk>).await {
                Ok(node) => {
                    until(|| node.role() == Role::Writer || node.health().fatal).await;
                    if node.health().fatal {
                        self.ends += 1;
                        assert!(self.ends < 5, "one fault ends many writers: {:?}", node.health().problem);
                        end(node, self.folder.path()).await;
                        continue;
                    }
                    if self.reference.sequence() == 0 {
                        let store = node.current().store().to_owned();
                        let genesis = wire::Genesis { store, definition_hash: self.schema.hash.clone() };
                        let genesis = wire::Record { kind: Some(Kind::Genesis(genesis)) };
                        self.reference = self.after(&genesis);
                    }
                    self.node = Some(node);
                }
                Err(error) => {
                    assert!(!matches!(error, Error::DataLoss(_)), "{error}");
                    self.ends += 1;
                    assert!(self.ends < 5, "one fault ends many writers: {error}");
                }
            }
        }
        Arc::clone(self.node.as_ref().unwrap())
    }

    async fn end(&mut self) {
        if let Some(node) = self.node.take() {
            end(node, self.folder.path()).await;
        }
    }

    async fn submit(&mut self, record: &wire::Record) {
        loop {
            let node = self.node().await;
            let after = self.after(record);
            let refused = match node.writer() {
                Ok(writer) => writer.submit(record.clone()).await.err(),
                Err(error) => Some(error),
            };
            let Some(error) = refused else {
                self.reference = after;
                assert_eq!(content(&node.current()), content(&self.reference));
                return;
            };
            assert!(
                matches!(error, Error::Unavailable { .. } | Error::Exhausted(_) | Error::Internal(_)),
                "{error:?} of {:?}",
                record.kind
            );
            if !matches!(&error, Error::Unavailable { .. }) && !node.health().fatal {
                assert_eq!(content(&node.current()), content(&self.reference), "{error}");
                continue;
            }
            drop(node);
            self.ends += 1;
            self.end().await;
            // It was not acknowledged: it may be there, and then it is whole.
            let found = content(&self.node().await.current());
            if found != content(&self.reference) {
                assert_eq!(found, content(&after), "behind {error}");
                self.reference = after;
                return;
            }
            // Rows of a load may be there unseen; twice they are the same.
        }
    }

    /// Until what was frozen is in files, or the writer has failed.
    async fn settle(&mut self) {
        let node = self.node().await;
        until(|| node.health().fatal || node.current().frozen().is_none() && node.health().problem.is_none()).await;
        if node.health().fatal {
            drop(node);
            self.ends += 1;
            self.end().await;
        }
    }

    async fn assert_whole(&mut self) {
        let node = self.node().await;
        assert_eq!(content(&node.current()), content(&self.reference));
        model::assert_same(&node.current(), &self.reference);
        drop(node);
        self.end().await;
        let folder = Folder::open(self.folder.path(), false).unwrap();
        let checked = check(&folder, &self.schema, &mut |_| {}).unwrap();
        assert_eq!(checked.findings.lines(), [] as [String; 0]);
    }
}

/// A life of a store: a load, changes with flushes and compactions, changes of writers, another load.
async fn live(fed: &mut Fed, seed: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let schema = Arc::clone(&fed.schema);
    for record in load(&mut rng, &schema, 1, 300) {
        fed.submit(&record).await;
    }
    for record in batches(&mut rng, &schema, "postgres", 0, 8) {
        fed.submit(&record).await;
    }
    fed.settle().await;
    fed.end().await;
    for record in batches(&mut rng, &schema, "service", 0, 6) {
        fed.submit(&record).await;
    }
    for record in load(&mut rng, &schema, 2, 100) {
        fed.submit(&record).await;
    }
    fed.settle().await;
    if let Some(node) = &fed.node {
        node.drain().await;
    }
    fed.end().await;
    for record in batches(&mut rng, &schema, "postgres", 0, 3) {
        fed.submit(&record).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_at_any_step_loses_nothing_and_adds_nothing() {
    let mut seeds = seeded();
    let stride = if long() { 1 } else { 41 };
    let (mut runs, mut ends) = (0, 0);
    for errno in [EIO, ENOSPC] {
        let mut step = seeds.random_range(0..stride);
        loop {
            let seed = seeds.random();
            println!("error {errno} at step {step}, seed {seed}");
            let disk = FaultyDisk::default();
            disk.fail_step_after(step, errno);
            let mut fed = Fed::new(disk).await;
            live(&mut fed, seed).await;
            let reached = fed.disk.has_failed_step();
            fed.assert_whole().await;
            (runs, ends) = (runs + 1, ends + fed.ends);
            if !reached {
                assert!(step > 100, "a life takes more than {step} steps");
                break;
            }
            step += stride;
        }
    }
    println!("{runs} runs, {ends} writers ended by them");
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_may_be_short() {
    let mut seeds = seeded();
    for bytes in [1_000, 61] {
        let disk = FaultyDisk::default();
        disk.write_short(bytes);
        let mut fed = Fed::new(disk).await;
        live(&mut fed, seeds.random()).await;
        assert_eq!(fed.ends, 0);
        fed.assert_whole().await;
    }
}

/// A store with a file of every kind: a load under way, and a log behind the checkpoint.
struct Example {
    schema: Arc<Schema>,
    folder: tempfile::TempDir,
    /// Content by version.
    versions: BTreeMap<u64, (u128, u64)>,
    requests: Vec<SearchRequest>,
    ids: Vec<u32>,
}

/// Hash and documents of each version that the files and the log behind them lead to.
fn versions(data: &Path, schema: &Arc<Schema>) -> BTreeMap<u64, (u128, u64)> {
    let folder = Folder::open(data, false).unwrap();
    let manifest = Manifest::read(&folder.manifest()).unwrap().unwrap();
    let mut state = State::open(Files::open(&folder, &manifest, schema, None).unwrap().unwrap()).unwrap();
    let mut versions = BTreeMap::from([(state.sequence(), (state.hash(), state.documents()))]);
    let next = state.sequence() + 1;
    let mut log = LogReader::open(data, manifest.store, manifest.first_segment, next).unwrap().unwrap();
    let last = Frontier::open(&folder.frontier(), false).unwrap().load();
    let followed = log.follow(last, &mut |sequence, payload| {
        state.apply(sequence, &wire::Record::decode(payload).unwrap()).unwrap();
        versions.insert(sequence, (state.hash(), state.documents()));
        Ok(())
    });
    assert_eq!(followed.unwrap(), Followed::UpToDate);
    versions
}

impl Example {
    async fn new(rng: &mut ChaCha8Rng) -> Self {
        let schema = rich();
        let folder = tempfile::tempdir().unwrap();
        let node = Node::open(NodeOptions {
            advertise: Some("http://writer".into()),
            segment_bytes: 64 << 20,
            ..busy(folder.path(), &schema)
        })
        .await
        .unwrap();
        let mut records = load(rng, &schema, 1, 2_000);
        records.extend(batches(rng, &schema, "postgres", 0, 30));
        records.extend(batches(rng, &schema, "clickhouse", 0, 1));
        let writer = node.writer().unwrap();
        for record in records {
            writer.submit(record).await.unwrap();
        }
        let named = || Manifest::read(&folder.path().join("MANIFEST")).unwrap().unwrap();
        until(|| node.current().frozen().is_none()).await;
        let mut next = load(rng, &schema, 2, 500);
        next.pop();
        for record in next {
            writer.submit(record).await.unwrap();
        }
        let mut n = 1;
        let is_whole = |manifest: Manifest| {
            ["checkpoint-", "segment-", "table-", "staged-"]
                .iter()
                .all(|prefix| manifest.packs().any(|name| name.starts_with(prefix)))
        };
        let start = std::time::Instant::now();
        while !is_whole(named()) || node.current().frozen().is_some() {
            for record in batches(rng, &schema, "clickhouse", n, 1) {
                writer.submit(record).await.unwrap();
                n += 1;
            }
            assert!(start.elapsed() < 30 * SECOND, "{n} batches: {:?}", named());
        }
        drop(writer);
        end(node, folder.path()).await;
        // Behind the checkpoint.
        let options = NodeOptions { segment_bytes: 64 << 20, ..NodeOptions::new(Arc::clone(&schema), folder.path()) };
        let node = Node::open(NodeOptions { advertise: Some("http://writer".into()), ..options }).await.unwrap();
        for record in batches(rng, &schema, "clickhouse", n, 3) {
            node.writer().unwrap().submit(record).await.unwrap();
        }
        end(node, folder.path()).await;
        let versions = versions(folder.path(), &schema);
        let sorts = ["id", "level", "kind", "sortAt", "count"];
        let requests = (0..40).map(|_| SearchRequest {
            filter: Some(random_filter(rng, &schema, 2, false)),
            sort: vec![bitdex_proto::query::Sort {
                field: sorts[rng.random_range(0..sorts.len())].into(),
                descending: rng.random(),
            }],
            limit: 1_000,
            count: true,
            include_pending: true,
            ..SearchRequest::new(schema.index.clone())
        });
        let requests = requests.collect();
        Self { schema, folder, versions, requests, ids: (0..300).chain([70_000, u32::MAX]).collect() }
    }

    async fn open(&self) -> Result<Arc<Node>> {
        Node::open(NodeOptions { reader_only: true, ..NodeOptions::new(Arc::clone(&self.schema), self.folder.path()) })
            .await
    }

    /// Answers to all questions.
    fn ask(&self, state: &State) -> Vec<Result<String>> {
        let found = self.requests.iter().map(|request| {
            let page = engine::search(state, request, model::NOW)?;
            Ok(format!("{:?} {:?}", page.ids, page.count))
        });
        let documents = self.ids.iter().map(|id| {
            let request = GetRequest {
                index: self.schema.index.clone(),
                ids: vec![*id],
                fields: Fields::All,
                include_pending: true,
                now_us: None,
                consistency: None,
            };
            engine::get(state, &request, model::NOW).map(|documents| format!("{documents:?}"))
        });
        found.chain(documents).collect()
    }

    fn names(&self) -> Vec<String> {
        let names = Folder::open(self.folder.path(), false).unwrap().names().unwrap();
        names.into_iter().filter(|name| name != "LOCK").collect()
    }
}

/// Bytes that mean something, and some at random.
fn places(rng: &mut ChaCha8Rng, length: usize, count: usize) -> Vec<usize> {
    if length <= 16 {
        return (0..length).collect();
    }
    let edges = (0..64.min(length)).chain(length.saturating_sub(160)..length);
    let edges: Vec<usize> = edges.collect();
    let share = count / 2;
    let mut places: Vec<usize> = (0..share).map(|_| edges[rng.random_range(0..edges.len())]).collect();
    if long() {
        places = edges;
    }
    places.extend((0..count - share).map(|_| rng.random_range(0..length)));
    places
}

/// Another file in the place of one that a process which is about to end may still have mapped.
fn put(path: &Path, bytes: &[u8]) {
    let new = path.with_extension("put");
    fs::write(&new, bytes).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_never_leads_to_a_wrong_answer() {
    let mut rng = seeded();
    let example = Example::new(&mut rng).await;
    let whole = example.open().await.unwrap();
    let (last, _) = example.versions.last_key_value().unwrap();
    assert_eq!(whole.current().sequence(), *last);
    let right: Vec<String> = example.ask(&whole.current()).into_iter().map(Result::unwrap).collect();
    drop(whole);
    let (mut refused, mut failed, mut unharmed) = (0, 0, 0);
    for name in example.names() {
        let path = example.folder.path().join(&name);
        let good = fs::read(&path).unwrap();
        for at in places(&mut rng, good.len(), if long() { 1_000 } else { 40 }) {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << rng.random_range(0..8);
            put(&path, &bytes);
            let named = |error: &Error| {
                let is_named = error.to_string().contains(&name);
                // What is durable the log is asked for.
                is_named || name == "FRONTIER" && error.to_string().contains(".seg")
            };
            match example.open().await {
                Err(error) => {
                    assert!(
                        matches!(&error, Error::DataLoss(_) | Error::Precondition(_)) && named(&error),
                        "{name}, byte {at}: {error:?}"
                    );
                    refused += 1;
                }
                Ok(node) => {
                    let state = node.current();
                    let version = (state.hash(), state.documents());
                    assert_eq!(example.versions.get(&state.sequence()), Some(&version), "{name}, byte {at}");
                    if state.sequence() == *last {
                        for (answer, right) in example.ask(&state).into_iter().zip(&right) {
                            match answer {
                                Ok(answer) => assert_eq!(&answer, right, "{name}, byte {at}"),
                                Err(error) => {
                                    assert!(matches!(&error, Error::DataLoss(_)), "{name}, byte {at}: {error:?}");
                                    assert!(named(&error), "{name}, byte {at}: {error:?}");
                                    failed += 1;
                                }
                            }
                        }
                    }
                    unharmed += 1;
                }
            }
            put(&path, &good);
        }
    }
    println!("{refused} refused, {unharmed} opened, {failed} calls failed with DATA_LOSS");
    assert!(refused > 0 && unharmed > 0);
}

/// The rest of a damaged load is neither built nor lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_staged_file_is_named_when_the_load_ends() {
    let mut rng = seeded();
    let example = Example::new(&mut rng).await;
    // A flush that was broken off may have left another, which is written again out of the log.
    let manifest = Manifest::read(&example.folder.path().join("MANIFEST")).unwrap().unwrap();
    let name = manifest.staged.first().unwrap().clone();
    let path = example.folder.path().join(&name);
    let good = fs::read(&path).unwrap();
    let mut bytes = good.clone();
    let at = rng.random_range(0..bytes.len());
    bytes[at] ^= 1;
    put(&path, &bytes);
    let options =
        || NodeOptions { small_load: 0, ..NodeOptions::new(Arc::clone(&example.schema), example.folder.path()) };
    let node = Node::open(options()).await.unwrap();
    let before = content(&node.current());
    let end_load = || wire::Record { kind: Some(Kind::LoadEnd(wire::LoadEnd {})) };
    let error = node.writer().unwrap().submit(end_load()).await.unwrap_err();
    // A bit of the format number makes it a file of another release.
    let is_named = matches!(&error, Error::DataLoss(message) | Error::Precondition(message) if message.contains(&name));
    assert!(is_named, "byte {at}: {error:?}");
    assert_eq!(content(&node.current()), before);
    end(node, example.folder.path()).await;
    put(&path, &good);
    let node = Node::open(options()).await.unwrap();
    node.writer().unwrap().submit(end_load()).await.unwrap();
    assert_eq!(node.current().generation(), 2);
}

/// The files are mapped: what happens to them shows at once, but for blocks that were verified before.
#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_under_a_serving_process_fails_the_calls_that_touch_it() {
    use std::os::unix::fs::FileExt as _;
    let mut rng = seeded();
    let schema = rich();
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(busy(folder.path(), &schema)).await.unwrap();
    let writer = node.writer().unwrap();
    let mut records = load(&mut rng, &schema, 1, 0);
    let end_load = records.pop().unwrap();
    // Documents of some hundred bytes, so that they take many blocks of 64 KiB.
    let mut rows = Vec::new();
    for id in 0..4_000_i64 {
        let int = |int: i64| Some(int.to_be_bytes().to_vec());
        let text = Some(format!("{:0>200}", id % 7).into_bytes());
        let fields = [int(id), int(id % 9), text, None, None, None, None, None];
        rows.extend((fields.len() as i16).to_be_bytes());
        for field in fields {
            rows.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
            rows.extend(field.unwrap_or_default());
        }
    }
    let rows = Kind::LoadRows(wire::LoadRows { part: 0, copy_rows: rows.into() });
    records.push(wire::Record { kind: Some(rows) });
    records.push(end_load);
    for record in records {
        writer.submit(record).await.unwrap();
    }
    until(|| node.current().frozen().is_none() && node.current().files().segments().len() == 1).await;
    drop(writer);
    end(node, folder.path()).await;

    let names = Folder::open(folder.path(), false).unwrap().names().unwrap();
    let name = names.into_iter().find(|name| name.starts_with("segment-")).unwrap();
    let get = |state: &State, id: u32| {
        let request = GetRequest {
            index: schema.index.clone(),
            ids: vec![id],
            fields: Fields::All,
            include_pending: true,
            now_us: None,
            consistency: None,
        };
        engine::get(state, &request, model::NOW).map(|documents| format!("{documents:?}"))
    };
    let open = || Node::open(NodeOptions { reader_only: true, ..NodeOptions::new(Arc::clone(&schema), folder.path()) });
    let node = open().await.unwrap();
    let right: Vec<String> = (0..4_000).map(|id| get(&node.current(), id).unwrap()).collect();
    drop(node);

    let path = folder.path().join(&name);
    let length = fs::metadata(&path).unwrap().len();
    assert!(length > 6 << 16, "{length}");
    let file = fs::File::options().read(true).write(true).open(&path).unwrap();
    let flip = |at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 8], at).unwrap();
    };
    let (mut hurt, mut well) = (0, 0);
    for block in 0..(length >> 16) {
        let at = (block << 16) + rng.random_range(64..1 << 16);
        flip(at);
        let opened = open().await;
        flip(at);
        if let Err(error) = opened {
            // What is touched then is verified before it serves.
            assert!(matches!(&error, Error::DataLoss(message) if message.contains(&name)), "{error}");
            continue;
        }
        let node = open().await.unwrap();
        flip(at);
        let mut failed = 0;
        for (id, right) in (0..).zip(&right) {
            match get(&node.current(), id) {
                Ok(answer) => assert_eq!(&answer, right),
                Err(Error::DataLoss(message)) => {
                    assert!(message.contains(&name) && message.contains(&format!("block {block} ")), "{message}");
                    failed += 1;
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        (hurt, well) = (hurt + failed, well + right.len() - failed);
        assert!(node.health().problem.is_none());
        let found = check(&Folder::open(folder.path(), false).unwrap(), &schema, &mut |_| {}).unwrap().findings;
        assert!(found.lines().iter().any(|line| line.contains(&name)), "{:?}", found.lines());
        flip(at);
        // It reads the block again, and finds it whole.
        assert_eq!(get(&node.current(), 5).unwrap(), right[5]);
    }
    assert!(hurt > 0 && well > 0);
    println!("{hurt} calls failed, {well} were answered");
}
