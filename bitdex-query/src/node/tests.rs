//! Nodes on one folder: who writes, what readers see, what survives.

mod faults;
mod files;

use std::{fs, path::Path, sync::mpsc, time::Duration};

use bitdex_proto::{
    query::OpaqueBytes,
    schema::{Field, Origin, Schema, Source, SourceKind},
    snapshot::PgCursor,
    value::FieldType,
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use wire::record::Kind;

use super::*;
use crate::{
    log::{
        faults::{EIO, ENOSPC, FaultyDisk},
        reader::{Followed, LogReader},
        segment::{segment_number, segment_path},
    },
    mapping::Frontier,
    store::policy,
    testing::seeded,
};

const SECOND: Duration = Duration::from_secs(1);

fn schema(hash: &str) -> Arc<Schema> {
    Arc::new(Schema {
        index: "things".into(),
        hash: hash.into(),
        sources: vec![Source { name: "document".into(), kind: SourceKind::Document { columns: Vec::new() } }],
        fields: vec![Field {
            name: "id".into(),
            ty: FieldType::Int,
            many: false,
            filter: true,
            sort: true,
            origin: Origin::Key,
        }],
        visible_at: None,
        filters: Vec::new(),
    })
}

fn options(data: &Path) -> NodeOptions {
    NodeOptions::new(schema("one"), data)
}

/// Flushes after so many rows, however soon after the flush before.
fn often(rows: u64) -> policy::Settings {
    policy::Settings { rows, interval: Duration::ZERO, ..policy::Settings::default() }
}

async fn open(data: &Path) -> Arc<Node> {
    Node::open(options(data)).await.unwrap()
}

async fn open_reader(data: &Path) -> Arc<Node> {
    Node::open(NodeOptions { reader_only: true, ..options(data) }).await.unwrap()
}

fn batch(source: &str, previous: &str, new: &str) -> wire::Record {
    let document = 1 + u64::from(crc32fast::hash(new.as_bytes()) % 100_000);
    let upsert = wire::Upsert { source: 0, key: document as i64, values: Vec::new(), tombstone: false };
    wire::Record {
        kind: Some(Kind::Batch(wire::Batch {
            source: source.into(),
            previous_cursor: Bytes::copy_from_slice(previous.as_bytes()),
            new_cursor: Bytes::copy_from_slice(new.as_bytes()),
            ops: vec![wire::Op { kind: Some(wire::op::Kind::Upsert(upsert)) }],
            caught_up: true,
            backlog: 0,
        })),
    }
}

/// The batch that moves a source from its `n`th cursor to the next; the cursors are numbers.
fn step(source: &str, n: u64) -> wire::Record {
    let cursor = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    batch(source, &cursor(n), &cursor(n + 1))
}

fn steps_of(state: &State, source: &str) -> u64 {
    let cursor = state.cursor(source);
    if cursor.is_empty() { 0 } else { std::str::from_utf8(&cursor).unwrap().parse().unwrap() }
}

async fn reaches(node: &Node, sequence: u64) -> Arc<State> {
    let mut versions = node.subscribe();
    tokio::time::timeout(10 * SECOND, versions.wait_for(|version| *version >= sequence)).await.unwrap().unwrap();
    node.current()
}

async fn until(mut condition: impl FnMut() -> bool) {
    tokio::time::timeout(30 * SECOND, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

async fn promoted(node: &Node) {
    tokio::time::timeout(10 * SECOND, node.promoted()).await.unwrap();
}

/// Drops a node and waits until its thread has given up the lock.
async fn end(node: Arc<Node>, data: &Path) {
    let shared = Arc::downgrade(&node.shared);
    drop(node);
    tokio::time::timeout(10 * SECOND, async {
        while shared.strong_count() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    assert!(data.exists());
}

/// Loads nothing, and catches up: the index is then ready.
async fn make_ready(writer: &WriterHandle, cursor: &str) {
    let load = wire::LoadOpen {
        source: "postgres".into(),
        load_id: "load".into(),
        cursor: Bytes::copy_from_slice(cursor.as_bytes()),
        ..wire::LoadOpen::default()
    };
    let begin = Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: 1 });
    for kind in [begin, Kind::LoadEnd(wire::LoadEnd {})] {
        writer.submit(wire::Record { kind: Some(kind) }).await.unwrap();
    }
    writer.submit(batch("postgres", cursor, cursor)).await.unwrap();
}

fn pg(snapshot: &str) -> String {
    PgCursor { snapshot: snapshot.parse().unwrap(), token: "t".into(), page: None, external: None }.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart_and_numbers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    assert_eq!((node.role(), node.epoch(), node.current().sequence()), (Role::Writer, 1, 1));
    let ack = node.writer().unwrap().submit(step("a", 0)).await.unwrap();
    assert_eq!(ack.sequence, 2);
    let store = node.current().store().to_owned();
    assert_eq!(store.len(), 32);
    let token = Token::from_bytes(&ack.token).unwrap();
    assert_eq!((token.store, token.sequence), (store.clone(), 2));
    node.drain().await;
    assert!(matches!(node.writer(), Err(Error::Unavailable { .. })));
    end(node, folder.path()).await;

    for epoch in 2..5 {
        let node = open(folder.path()).await;
        assert_eq!((node.epoch(), node.current().store(), steps_of(&node.current(), "a")), (epoch, &*store, epoch - 1));
        // The drain has logged a `Freeze`.
        assert_eq!(node.writer().unwrap().submit(step("a", epoch - 1)).await.unwrap().sequence, epoch + 2);
        end(node, folder.path()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_writes_the_others_follow_and_take_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let address = |name: &str| NodeOptions { advertise: Some(format!("http://{name}")), ..options(folder.path()) };
    let first = Node::open(address("first")).await.unwrap();
    let second = Node::open(address("second")).await.unwrap();
    let reader = open_reader(folder.path()).await;
    assert_eq!((first.role(), second.role(), reader.role()), (Role::Writer, Role::Reader, Role::Reader));
    let Err(Error::Unavailable { writer, .. }) = reader.writer() else { panic!("a reader gave the right to write") };
    assert_eq!(writer.as_deref(), Some("http://first"));

    for n in 0..20 {
        let ack = first.writer().unwrap().submit(step("a", n)).await.unwrap();
        for follower in [&second, &reader] {
            let state = reaches(follower, ack.sequence).await;
            assert_eq!((steps_of(&state, "a"), state.hash()), (n + 1, first.current().hash()));
        }
    }
    let started = Instant::now();
    first.drain().await;
    let drained = started.elapsed();
    promoted(&second).await;
    println!("drained after {drained:?}, the next is the writer after {:?}", started.elapsed());
    assert_eq!((second.epoch(), second.writer_address().as_deref()), (2, Some("http://second")));
    let ack = second.writer().unwrap().submit(step("a", 20)).await.unwrap();
    // The drain has logged a `Freeze`.
    assert_eq!(ack.sequence, 23);
    // The former writer follows too, until its process ends.
    for follower in [&first, &reader] {
        assert_eq!(steps_of(&*reaches(follower, 23).await, "a"), 21);
        assert_eq!((follower.role(), follower.epoch()), (Role::Reader, 2));
    }
    // Neither one that drained nor one that only reads stands for election.
    end(second, folder.path()).await;
    let third = open(folder.path()).await;
    assert_eq!(third.role(), Role::Writer);
    third.writer().unwrap().submit(step("a", 21)).await.unwrap();
    assert_eq!(steps_of(&*reaches(&reader, 24).await, "a"), 22);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_fsync_serves_many_acknowledgements() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let writer = node.writer().unwrap();
    let before = disk.syncs();
    let feeders: Vec<_> = (0..64)
        .map(|feeder| {
            let writer = writer.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    writer.submit(step(&format!("feeder{feeder}"), n)).await.unwrap();
                }
            })
        })
        .collect();
    for feeder in feeders {
        feeder.await.unwrap();
    }
    let syncs = disk.syncs() - before;
    println!("1280 acknowledgements, {syncs} fsyncs");
    assert!(syncs < 640, "{syncs}");
    assert_eq!(node.current().sequence(), 1281);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_must_go_on_from_the_durable_cursor_and_bad_records_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    let writer = node.writer().unwrap();
    writer.submit(step("a", 0)).await.unwrap();
    let error = writer.submit(step("a", 0)).await.unwrap_err();
    assert!(
        matches!(&error, Error::Precondition(message) if message.contains("source a") && message.contains("\"1\""))
    );
    // Valid by itself, but not in this state: found when it is applied.
    let rows = Kind::LoadRows(wire::LoadRows { part: 7, copy_rows: Bytes::new() });
    let error = writer.submit(wire::Record { kind: Some(rows) }).await.unwrap_err();
    assert!(matches!(error, Error::Precondition(_) | Error::Invalid(_)), "{error}");
    let genesis = Kind::Genesis(wire::Genesis { store: "x".into(), definition_hash: "one".into() });
    assert!(writer.submit(wire::Record { kind: Some(genesis) }).await.is_err());
    assert!(matches!(writer.submit(wire::Record { kind: None }).await, Err(Error::Invalid(_))));
    assert_eq!(writer.submit(step("a", 1)).await.unwrap().sequence, 3);
    let hash = node.current().hash();
    drop(writer);
    end(node, folder.path()).await;
    let node = open(folder.path()).await;
    assert_eq!((node.current().sequence(), node.current().hash()), (3, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_fsync_ends_the_writer_and_another_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let other = open(folder.path()).await;
    let writer = node.writer().unwrap();
    writer.submit(step("a", 0)).await.unwrap();
    disk.fail_syncs_after(0);
    assert!(matches!(writer.submit(step("a", 1)).await, Err(Error::Unavailable { .. })));
    let reason = tokio::time::timeout(SECOND, node.failed()).await.unwrap();
    assert!(reason.contains("cannot sync") && reason.contains(".seg"), "{reason}");
    assert!(node.health().fatal);
    assert_eq!((node.role(), node.current().sequence()), (Role::Reader, 2));
    disk.heal();
    assert!(writer.submit(step("a", 1)).await.is_err());

    promoted(&other).await;
    // The record was whole in the file, so it may be kept; it was never shown before it was durable.
    let kept = steps_of(&other.current(), "a");
    assert!(kept == 1 || kept == 2);
    other.writer().unwrap().submit(step("a", kept)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_lock_file_was_replaced_acknowledges_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path()).await;
    let writer = first.writer().unwrap();
    writer.submit(step("a", 0)).await.unwrap();
    std::fs::remove_file(first.shared.folder.lock()).unwrap();
    let second = open(folder.path()).await;
    assert_eq!((second.role(), second.epoch()), (Role::Writer, 2));
    assert!(matches!(writer.submit(step("a", 1)).await, Err(Error::Unavailable { .. })));
    let reason = tokio::time::timeout(SECOND, first.failed()).await.unwrap();
    assert!(reason.contains("LOCK was replaced"), "{reason}");
    second.writer().unwrap().submit(step("a", 1)).await.unwrap();
    assert_eq!(steps_of(&second.current(), "a"), 2);
    drop(writer);
    end(first, folder.path()).await;
    end(second, folder.path()).await;
    let third = open(folder.path()).await;
    assert_eq!(steps_of(&third.current(), "a"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_cannot_take_over_goes_on_answering_and_tries_again() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    let disk = Arc::new(FaultyDisk::default());
    let other = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    node.writer().unwrap().submit(step("a", 0)).await.unwrap();
    reaches(&other, 2).await;
    disk.fail_writes_after(30, ENOSPC);
    end(node, folder.path()).await;
    let reader = open_reader(folder.path()).await;
    tokio::time::timeout(SECOND, async {
        while other.health().problem.is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
    let health = other.health();
    assert!(health.problem.is_some_and(|problem| problem.contains("is full")) && !health.fatal);
    assert!(!health.stale, "queries are well");
    assert_eq!((other.role(), steps_of(&other.current(), "a")), (Role::Reader, 1));
    disk.heal();
    promoted(&other).await;
    assert_eq!(other.health().problem, None);
    let ack = other.writer().unwrap().submit(step("a", 1)).await.unwrap();
    reaches(&reader, ack.sequence).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_promotion_is_forgotten_once_another_process_writes() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    node.writer().unwrap().submit(step("a", 0)).await.unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let unable = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    reaches(&unable, 2).await;
    disk.fail_writes_after(0, ENOSPC);
    end(node, folder.path()).await;
    let hindered = |wanted: bool| {
        let unable = &unable;
        async move {
            while unable.health().problem.is_some() != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    tokio::time::timeout(10 * SECOND, hindered(true)).await.unwrap();
    let able = open(folder.path()).await;
    promoted(&able).await;
    able.writer().unwrap().submit(step("a", 1)).await.unwrap();
    tokio::time::timeout(10 * SECOND, hindered(false)).await.unwrap();
    assert_eq!((unable.role(), unable.health().stale), (Role::Reader, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_records_and_the_writer_goes_on_once_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let reader = open_reader(folder.path()).await;
    let writer = node.writer().unwrap();
    for n in 0..10 {
        disk.fail_writes_after(n * 5, ENOSPC);
        let error = writer.submit(step("a", n)).await.unwrap_err();
        assert!(
            matches!(&error, Error::Exhausted(message) if message.contains("full") && message.contains("free space"))
        );
        assert!(node.health().problem.is_some() && !node.health().fatal);
        disk.heal();
        let ack = writer.submit(step("a", n)).await.unwrap();
        assert_eq!(node.health().problem, None);
        assert_eq!(steps_of(&*reaches(&reader, ack.sequence).await, "a"), n + 1);
    }
    drop(writer);
    end(node, folder.path()).await;
    assert_eq!(steps_of(&open(folder.path()).await.current(), "a"), 10);
}

/// The frontier is not synced either.
fn lose_power(disk: &FaultyDisk, data: &Path, rng: &mut ChaCha8Rng) {
    disk.lose_power(rng);
    if let Ok(frontier) = Frontier::open(&data.join("FRONTIER"), true) {
        frontier.store(rng.random_range(0..=frontier.load()));
    }
}

/// Reads the whole log, and counts its `Freeze` records; each batch goes on from the one before of its source.
fn freezes(data: &Path, archive: &Path, last: u64) -> u64 {
    let whole = tempfile::tempdir().unwrap();
    // A segment may be on its way from the folder to the archive.
    for folder in [data, archive] {
        for number in segments(folder) {
            let [from, to] = [folder, whole.path()].map(|folder| segment_path(folder, number));
            let copied = fs::copy(from, to);
            assert!(copied.is_ok() || folder == data, "{copied:?}");
        }
    }
    let store = Manifest::read(&data.join("MANIFEST")).unwrap().unwrap().store;
    let mut log = LogReader::open(whole.path(), store, 1, 1).unwrap().unwrap();
    let (mut freezes, mut cursors) = (0, std::collections::HashMap::new());
    let followed = log.follow(last, &mut |_, payload| {
        match wire::Record::decode(payload).unwrap().kind {
            Some(Kind::Freeze(_)) => freezes += 1,
            Some(Kind::Batch(batch)) => {
                let before = cursors.insert(batch.source, batch.new_cursor).unwrap_or_default();
                assert_eq!(batch.previous_cursor, before);
            }
            _ => {}
        }
        Ok(())
    });
    assert_eq!(followed.unwrap(), Followed::UpToDate);
    freezes
}

/// The writer ends at random instants, by faults of the disk at any byte or by being dropped, with feeders at work and
/// sometimes with the power lost; each time it is opened again.
#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_record_is_there_once_whatever_ends_the_writer() {
    const FEEDERS: usize = 4;
    let mut rng = seeded();
    let [folder, archive] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let mut acknowledged = [0; FEEDERS];
    for round in 0..40 {
        let disk = Arc::new(FaultyDisk::default());
        disk.crash_on_failure();
        disk.archive(archive.path());
        let small = NodeOptions {
            segment_bytes: rng.random_range(200..5_000),
            flush: often(rng.random_range(5..200)),
            ..options(folder.path())
        };
        if rng.random_ratio(1, 4) {
            // The end may come within the promotion.
            match rng.random() {
                true => disk.fail_writes_after(rng.random_range(0..1_000), EIO),
                false => disk.fail_syncs_after(rng.random_range(0..6)),
            }
        }
        let opened = Node::open_on(small, Arc::clone(&disk) as Arc<dyn Disk>).await;
        if rng.random_ratio(1, 4) && opened.is_err() {
            lose_power(&disk, folder.path(), &mut rng);
        }
        let Ok(node) = opened else { continue };
        let reader = open_reader(folder.path()).await;
        let state = node.current();
        let mut total = 1;
        for (feeder, acknowledged) in acknowledged.iter_mut().enumerate() {
            let steps = steps_of(&state, &format!("feeder{feeder}"));
            assert!(steps >= *acknowledged, "round {round}: an acknowledged record is lost");
            *acknowledged = steps;
            total += steps;
        }
        let freezes = freezes(folder.path(), archive.path(), state.sequence());
        assert_eq!(state.sequence(), total + freezes, "round {round}");

        disk.heal();
        match rng.random_range(0..3) {
            0 => disk.fail_writes_after(rng.random_range(0..20_000), EIO),
            1 => disk.fail_syncs_after(rng.random_range(0..60)),
            _ => {}
        }
        let Ok(writer) = node.writer() else {
            // It ended already, in the background.
            end(node, folder.path()).await;
            continue;
        };
        let feeders: Vec<_> = acknowledged
            .iter()
            .enumerate()
            .map(|(feeder, from)| {
                let (writer, from) = (writer.clone(), *from);
                tokio::spawn(async move {
                    let mut acknowledged = from;
                    while acknowledged < from + 50
                        && writer.submit(step(&format!("feeder{feeder}"), acknowledged)).await.is_ok()
                    {
                        acknowledged += 1;
                    }
                    acknowledged
                })
            })
            .collect();
        let target = node.current().sequence() + rng.random_range(0..100);
        let mut versions = node.subscribe();
        tokio::select! {
            _ = versions.wait_for(|version| *version >= target) => {}
            _ = node.failed() => {}
        }
        drop((versions, writer));
        end(node, folder.path()).await;
        for (feeder, acknowledged) in feeders.into_iter().zip(&mut acknowledged) {
            *acknowledged = feeder.await.unwrap();
        }
        assert_eq!(reader.health().problem, None, "round {round}");
        drop(reader);
        if rng.random() {
            lose_power(&disk, folder.path(), &mut rng);
        }
    }
    println!("acknowledged: {acknowledged:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_version_is_ahead_of_the_frontier() {
    let folder = tempfile::tempdir().unwrap();
    let writer = open(folder.path()).await;
    let reader = open_reader(folder.path()).await;
    let frontier = Frontier::open(&folder.path().join("FRONTIER"), false).unwrap();
    let (stop, stopped) = mpsc::channel::<()>();
    let watching = std::thread::spawn({
        let (writer, reader) = (Arc::clone(&writer), Arc::clone(&reader));
        move || {
            let mut looks = 0_u64;
            while stopped.try_recv() != Err(mpsc::TryRecvError::Disconnected) {
                let shown = writer.current().sequence().max(reader.current().sequence());
                assert!(shown <= frontier.load());
                looks += 1;
            }
            looks
        }
    });
    for n in 0..300 {
        writer.writer().unwrap().submit(step("a", n)).await.unwrap();
    }
    reaches(&reader, 301).await;
    drop(stop);
    assert!(watching.join().unwrap() > 0);
}

fn segments(data: &Path) -> Vec<u64> {
    let names = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut numbers: Vec<u64> = names.filter_map(|name| segment_number(&name)).collect();
    numbers.sort_unstable();
    numbers
}

fn checkpoints(data: &Path) -> Vec<String> {
    let names = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with("checkpoint-")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_replace_the_log_and_a_follower_that_lagged_starts_from_the_newest() {
    let folder = tempfile::tempdir().unwrap();
    let archive = tempfile::tempdir().unwrap();
    let small = NodeOptions { segment_bytes: 500, flush: often(20), ..options(folder.path()) };
    let disk = Arc::new(FaultyDisk::default());
    disk.archive(archive.path());
    let node = Node::open_on(small, disk as Arc<dyn Disk>).await.unwrap();
    // A follower that looks only when it is told to.
    let (shared, commands) =
        Shared::new(NodeOptions { reader_only: true, ..options(folder.path()) }, Arc::new(RealDisk)).unwrap();
    let mut slow = worker::Worker::new(Arc::clone(&shared), commands);
    slow.follow().unwrap();
    assert_eq!(shared.current.load().sequence(), 1);
    let quick = open_reader(folder.path()).await;
    let mut rng = seeded();
    for n in 0..400 {
        let ack = node.writer().unwrap().submit(step("a", n)).await.unwrap();
        if rng.random_ratio(1, 40) {
            slow.follow().unwrap();
            let (slow, writer) = (shared.current.load(), node.current());
            // A `Freeze` may have been logged behind it.
            assert!((ack.sequence..=writer.sequence()).contains(&slow.sequence()));
            assert_eq!((steps_of(&slow, "a"), slow.hash()), (n + 1, writer.hash()));
            assert_eq!(slow.sequence(), 1 + n + 1 + freezes(folder.path(), archive.path(), slow.sequence()));
        }
    }
    let state = reaches(&quick, node.current().sequence()).await;
    assert_eq!((steps_of(&state, "a"), state.hash()), (400, node.current().hash()));
    until(|| segments(folder.path())[0] > 20).await;
    node.drain().await;
    let last = node.current().sequence();
    let freezes = freezes(folder.path(), archive.path(), last);
    assert_eq!(last, 401 + freezes);
    // At least 20 rows are flushed at once, but for what the drain flushes.
    assert!((2..=21).contains(&freezes), "{freezes}");
    // What the drain flushed, this process looks through as any follower does.
    until(|| node.current().files().sequence() == last).await;
    assert_eq!(checkpoints(folder.path()).len(), 1, "{:?}", checkpoints(folder.path()));
    assert_eq!(segments(folder.path()).len(), 1);
    slow.follow().unwrap();
    assert_eq!((shared.current.load().sequence(), shared.current.load().hash()), (last, state.hash()));
    end(node, folder.path()).await;
    let again = open(folder.path()).await;
    assert_eq!((again.current().sequence(), again.current().hash()), (last, state.hash()));
    assert_eq!(again.writer().unwrap().submit(step("a", 400)).await.unwrap().sequence, last + 1);
}

async fn refused(data: &Path) -> Error {
    let [writer, reader] = [false, true].map(|reader_only| NodeOptions { reader_only, ..options(data) });
    let error = Node::open(writer).await.unwrap_err();
    assert_eq!(Node::open(reader).await.unwrap_err(), error);
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_ours_or_damaged_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let node = open(data).await;
    for n in 0..10 {
        node.writer().unwrap().submit(step("a", n)).await.unwrap();
    }
    node.drain().await;
    end(node, data).await;

    let error = Node::open(NodeOptions::new(schema("other"), data)).await.unwrap_err();
    let Error::Precondition(message) = &error else { panic!("{error:?}") };
    assert!(
        message.contains("definition one") && message.contains("definition other") && message.contains("empty folder")
    );

    let checkpoint = data.join(&checkpoints(data)[0]);
    let good = fs::read(&checkpoint).unwrap();
    let mut rng = seeded();
    for _ in 0..50 {
        let mut bytes = good.clone();
        let at = rng.random_range(12..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        if rng.random_ratio(1, 4) {
            bytes = good[..at].to_vec();
        }
        fs::write(&checkpoint, &bytes).unwrap();
        let error = refused(data).await;
        assert!(
            matches!(&error, Error::DataLoss(message) if message.contains("checkpoint-") && message.contains("byte"))
        );
    }
    fs::remove_file(&checkpoint).unwrap();
    assert!(matches!(refused(data).await, Error::DataLoss(message) if message.contains("MANIFEST")));
    fs::write(&checkpoint, &good).unwrap();
    assert_eq!(open_reader(data).await.current().sequence(), 12);

    let manifest = fs::read(data.join("MANIFEST")).unwrap();
    fs::write(data.join("MANIFEST"), b"garbage").unwrap();
    assert!(matches!(refused(data).await, Error::DataLoss(message) if message.contains("MANIFEST")));
    fs::remove_file(data.join("MANIFEST")).unwrap();
    let error = Node::open(options(data)).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(message) if message.contains("no MANIFEST")), "{error}");
    fs::write(data.join("MANIFEST"), manifest).unwrap();

    let segment = segment_path(data, segments(data)[0]);
    fs::write(&segment, b"garbage").unwrap();
    assert!(matches!(refused(data).await, Error::DataLoss(message) if message.contains(".seg")));
    fs::remove_file(&segment).unwrap();
    assert!(matches!(refused(data).await, Error::DataLoss(message) if message.contains(".seg")));
}

#[tokio::test(flavor = "multi_thread")]
async fn queries_wait_for_what_they_demand() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    let reader = open_reader(folder.path()).await;
    let writer = node.writer().unwrap();
    let soon = || Instant::now() + Duration::from_millis(50);
    let late = || Instant::now() + 10 * SECOND;
    let error = node.wait_for(None, 0, late()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable { message, .. } if message.contains("first load")), "{error}");
    make_ready(&writer, &pg("10:20:12")).await;
    reaches(&reader, node.current().sequence()).await;

    let xid = |xid| Some(Consistency::PostgresXid(xid));
    let token = |bytes: Bytes| Some(Consistency::Token(OpaqueBytes(bytes)));
    reader.wait_for(xid(19).as_ref(), 0, soon()).await.unwrap();
    for missing in [12, 20] {
        let error = reader.wait_for(xid(missing).as_ref(), 0, soon()).await.unwrap_err();
        assert!(
            matches!(&error, Error::Deadline(message)
            if message.contains(&missing.to_string()) && message.contains("10:20:12")),
            "{error}"
        );
    }
    let error = reader.wait_for(None, 999, soon()).await.unwrap_err();
    assert!(matches!(&error, Error::Deadline(message) if message.contains("999")), "{error}");
    assert!(matches!(node.wait_for(token(Bytes::from_static(b"?")).as_ref(), 0, soon()).await, Err(Error::Invalid(_))));

    // Whoever feeds the index hears that a query waits, also one in another process.
    let waiting = tokio::spawn({
        let reader = Arc::clone(&reader);
        async move { reader.wait_for(xid(25).as_ref(), 0, late()).await }
    });
    tokio::time::timeout(SECOND, node.progress_wanted()).await.unwrap();
    let ack = writer.submit(batch("postgres", &pg("10:20:12"), &pg("30:30:"))).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().sequence(), ack.sequence);
    reader.wait_for(token(ack.token.clone()).as_ref(), 0, late()).await.unwrap();

    // Of another replica group: comparable by the snapshot alone.
    let foreign = |snapshot: Option<&str>| {
        let postgres_cursor = snapshot.map(|snapshot| Bytes::from(pg(snapshot))).unwrap_or_default();
        let token = Token { store: "another".into(), sequence: 1 << 40, postgres_cursor, ..Token::default() };
        Some(Consistency::Token(OpaqueBytes(token.to_bytes())))
    };
    reader.wait_for(foreign(Some("29:30:29")).as_ref(), 0, soon()).await.unwrap();
    assert!(matches!(reader.wait_for(foreign(Some("30:31:")).as_ref(), 0, soon()).await, Err(Error::Deadline(_))));
    let error = reader.wait_for(foreign(None).as_ref(), 0, soon()).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(message) if message.contains("another")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_a_source_and_a_load_or_the_end_of_writing_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    let writer = node.writer().unwrap();
    let mut first = writer.session("postgres").await;
    let mut other = writer.session("clickhouse").await;
    let waiting = tokio::spawn({
        let writer = writer.clone();
        async move { writer.session("postgres").await }
    });
    assert!(!first.is_superseded() && !waiting.is_finished());
    writer.supersede("postgres");
    first.superseded().await;
    assert!(!waiting.is_finished());
    drop(first);
    let mut second = waiting.await.unwrap();
    assert!(!second.is_superseded() && !other.is_superseded());
    node.drain().await;
    second.superseded().await;
    other.superseded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_opens_before_there_is_a_store_and_then_follows() {
    let folder = tempfile::tempdir().unwrap();
    let reader = open_reader(folder.path()).await;
    assert_eq!(reader.current().sequence(), 0);
    let writer = open(folder.path()).await;
    writer.writer().unwrap().submit(step("a", 0)).await.unwrap();
    let state = reaches(&reader, 2).await;
    assert_eq!(state.store(), writer.current().store());
}
