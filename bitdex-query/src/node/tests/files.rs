//! What goes into files in the background, and what a failure or an end at any step leaves.

use super::*;

/// Ids from `from` on, as rows of the document source.
fn rows(from: i64, count: i64) -> wire::LoadRows {
    let mut copy_rows = Vec::new();
    for key in from..from + count {
        copy_rows.extend(1_i16.to_be_bytes());
        copy_rows.extend(8_i32.to_be_bytes());
        copy_rows.extend(key.to_be_bytes());
    }
    wire::LoadRows { part: 0, copy_rows: copy_rows.into() }
}

fn load_begin(id: &str, generation: u64, cursor: &str) -> wire::Record {
    let load = wire::LoadOpen {
        source: "postgres".into(),
        load_id: id.into(),
        cursor: Bytes::copy_from_slice(cursor.as_bytes()),
        parts: vec![wire::LoadPart { source: 0, lo: 0, hi: 1 << 32 }],
        ..wire::LoadOpen::default()
    };
    wire::Record { kind: Some(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation })) }
}

fn load_rows(from: i64, count: i64) -> wire::Record {
    wire::Record { kind: Some(Kind::LoadRows(rows(from, count))) }
}

fn part_done(rows: u64) -> wire::Record {
    wire::Record { kind: Some(Kind::LoadPartDone(wire::LoadPartDone { part: 0, rows })) }
}

fn load_end() -> wire::Record {
    wire::Record { kind: Some(Kind::LoadEnd(wire::LoadEnd {})) }
}

/// Options with which every load has a base built.
fn building(data: &Path) -> NodeOptions {
    NodeOptions { small_load: 0, build_threads: 1, build_memory: 64 << 20, ..options(data) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_goes_over_to_new_files_under_ingestion_and_says_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let small = NodeOptions { segment_bytes: 2_000, flush: often(30), ..options(folder.path()) };
    let node = Node::open(small).await.unwrap();
    let reader = open_reader(folder.path()).await;
    let mut last = 0;
    for n in 0..600 {
        last = node.writer().unwrap().submit(step("a", n)).await.unwrap().sequence;
    }
    reaches(&reader, last).await;
    until(|| node.current().frozen().is_none() && node.current().files().sequence() > 300).await;
    until(|| reader.current().files().sequence() == node.current().files().sequence()).await;
    let last = node.current().sequence();
    let state = reaches(&reader, last).await;
    assert_eq!((state.hash(), state.documents()), (node.current().hash(), node.current().documents()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_was_frozen_when_the_writer_ended_is_flushed_by_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let often = NodeOptions { flush: often(10), ..options(folder.path()) };
    let node = Node::open_on(often, Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    disk.fail_writes_of("checkpoint-", EIO);
    for n in 0..30 {
        node.writer().unwrap().submit(step("a", n)).await.unwrap();
    }
    until(|| node.health().problem.is_some_and(|problem| problem.contains("checkpoint-"))).await;
    let frozen = node.current().frozen().unwrap().sequence();
    let hash = node.current().hash();
    assert!(!node.health().fatal && !node.health().stale);
    end(node, folder.path()).await;

    let next = open(folder.path()).await;
    until(|| next.current().files().sequence() == frozen).await;
    until(|| next.current().frozen().is_none()).await;
    assert_eq!((steps_of(&next.current(), "a"), next.current().hash()), (30, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_changes_in_memory_up_to_the_bound_and_then_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let flush = policy::Settings { memory: 20_000, interval: Duration::ZERO, ..policy::Settings::default() };
    let small = NodeOptions { flush, ..options(folder.path()) };
    let node = Node::open_on(small, Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let reader = open_reader(folder.path()).await;
    let writer = node.writer().unwrap();
    disk.fail_writes_of("checkpoint-", ENOSPC);
    let mut n = 0;
    let error = loop {
        match writer.submit(step("a", n)).await {
            Ok(_) => n += 1,
            Err(error) => break error,
        }
        assert!(n < 100_000, "memory is not bounded");
    };
    assert!(matches!(&error, Error::Exhausted(message) if message.contains("full")), "{error}");
    assert!(n > 10 && node.health().problem.is_some() && !node.health().fatal);
    disk.heal();
    until(|| node.health().problem.is_none()).await;
    let mut ack = None;
    for n in n..n + 100 {
        ack = Some(writer.submit(step("a", n)).await.unwrap());
    }
    let state = reaches(&reader, ack.unwrap().sequence).await;
    assert_eq!((steps_of(&state, "a"), state.hash()), (n + 100, node.current().hash()));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_a_version_in_use_needs_stay_mapped_and_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(NodeOptions { flush: often(10), ..options(folder.path()) }).await.unwrap();
    let feed = |from: u64| {
        let node = Arc::clone(&node);
        async move {
            for n in from..from + 20 {
                node.writer().unwrap().submit(step("a", n)).await.unwrap();
            }
        }
    };
    feed(0).await;
    until(|| node.current().files().sequence() > 0).await;
    let held = node.current();
    let (hash, sequence) = (held.hash(), held.files().sequence());
    feed(20).await;
    until(|| node.current().files().sequence() > sequence).await;
    until(|| node.pinned_bytes().unwrap() > 0).await;
    assert_eq!((held.hash(), held.files().sequence()), (hash, sequence));
    drop(held);
    until(|| node.pinned_bytes().unwrap() == 0).await;
}

/// A record of which the group fails, and one that was applied behind it while that was written.
async fn fail_two(errno: i32) -> (tempfile::TempDir, Arc<Node>, Arc<FaultyDisk>, [Error; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let writer = node.writer().unwrap();
    writer.submit(step("a", 0)).await.unwrap();
    disk.close_gate("");
    let submit = |record| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.submit(record).await })
    };
    let first = submit(step("a", 1));
    until(|| disk.is_anyone_at_the_gate()).await;
    let second = submit(step("a", 2));
    // It waits in the commands, or is applied.
    until(|| node.shared.queue.available_permits() <= (64 << 10) - 2).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(node.current().sequence(), 2);
    disk.fail_writes_after(0, errno);
    disk.open_gate();
    let errors = [first.await.unwrap().unwrap_err(), second.await.unwrap().unwrap_err()];
    assert_eq!(node.current().sequence(), 2);
    (folder, node, disk, errors)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_behind_a_group_that_found_the_disk_full_is_refused_with_it() {
    let (folder, node, disk, [first, second]) = fail_two(ENOSPC).await;
    assert!(matches!(&first, Error::Exhausted(_)), "{first}");
    assert!(matches!(&second, Error::Exhausted(_) | Error::Precondition(_)), "{second}");
    disk.heal();
    let writer = node.writer().unwrap();
    for n in 1..5 {
        assert_eq!(writer.submit(step("a", n)).await.unwrap().sequence, n + 2);
    }
    let hash = node.current().hash();
    drop(writer);
    end(node, folder.path()).await;
    let node = open(folder.path()).await;
    assert_eq!((steps_of(&node.current(), "a"), node.current().hash()), (5, hash));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_behind_a_group_that_failed_is_acknowledged() {
    let (folder, node, disk, errors) = fail_two(EIO).await;
    for error in errors {
        assert!(matches!(&error, Error::Unavailable { .. }), "{error}");
    }
    assert!(node.failed().await.contains("cannot write"));
    disk.heal();
    end(node, folder.path()).await;
    assert_eq!(steps_of(&open(folder.path()).await.current(), "a"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_wait_for_what_they_depend_on() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let writer = node.writer().unwrap();
    disk.close_gate("");
    let submit = |record| {
        let writer = writer.clone();
        tokio::spawn(async move { writer.submit(record).await })
    };
    let first = submit(step("a", 0));
    until(|| disk.is_anyone_at_the_gate()).await;
    let again = submit(step("a", 0));
    disk.open_gate();
    assert_eq!(first.await.unwrap().unwrap().sequence, 2);
    assert!(matches!(again.await.unwrap(), Err(Error::Precondition(_))));
    assert_eq!(node.current().sequence(), 2);
}

/// Ends the writer at each of its syncs in turn, within a flush, and opens the folder again.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_at_any_step_of_a_flush_loses_nothing() {
    for step_at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        disk.crash_on_failure();
        let node = Node::open_on(options(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
        let reader = open_reader(folder.path()).await;
        for n in 0..20 {
            node.writer().unwrap().submit(step("a", n)).await.unwrap();
        }
        let hash = node.current().hash();
        let before = disk.syncs();
        disk.fail_syncs_after(step_at);
        node.drain().await;
        let whole = disk.syncs() - before < step_at;
        end(node, folder.path()).await;
        let next = open(folder.path()).await;
        let state = next.current();
        assert_eq!((steps_of(&state, "a"), state.hash()), (20, hash), "after {step_at} syncs");
        let ack = next.writer().unwrap().submit(step("a", 20)).await.unwrap();
        let followed = reaches(&reader, ack.sequence).await;
        assert_eq!((steps_of(&followed, "a"), followed.hash()), (21, next.current().hash()));
        assert_eq!(reader.health().problem, None);
        if whole {
            assert!(step_at > 3, "a flush takes more than {step_at} syncs");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_is_built_beside_what_is_served_and_then_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::open(building(folder.path())).await.unwrap();
    let reader = open_reader(folder.path()).await;
    let writer = node.writer().unwrap();
    let late = || Instant::now() + 10 * SECOND;
    let mut served = 0;
    for (generation, count) in [(1, 1000), (2, 700)] {
        writer.submit(load_begin(&format!("load{generation}"), generation, "c")).await.unwrap();
        for from in (0..count).step_by(100) {
            writer.submit(load_rows(from, 100)).await.unwrap();
            // Others go on, and show.
            let n = steps_of(&node.current(), "events");
            writer.submit(step("events", n)).await.unwrap();
        }
        let ack = writer.submit(part_done(count as u64)).await.unwrap();
        if generation > 1 {
            let state = reaches(&reader, ack.sequence).await;
            assert!(state.readiness().ready && !state.is_loaded());
            for node in [&node, &reader] {
                let state = node.wait_for(None, ack.sequence, late()).await.unwrap();
                assert_eq!((state.generation(), state.is_loaded()), (generation - 1, false));
                assert!(state.documents() >= served, "{} of {served}", state.documents());
            }
        }
        let ack = writer.submit(load_end()).await.unwrap();
        // The others' documents are there too.
        assert!((count as u64..count as u64 + 30).contains(&node.current().documents()));
        let error = reader.wait_for(None, ack.sequence, Instant::now() + Duration::from_millis(20)).await;
        assert!(matches!(error, Err(Error::Unavailable { .. } | Error::Deadline(_))), "{error:?}");
        let ack = writer.submit(batch("postgres", "c", "c")).await.unwrap();
        let documents = node.current().documents();
        served = documents;
        for node in [&node, &reader] {
            reaches(node, ack.sequence).await;
            let state = node.wait_for(None, ack.sequence, late()).await.unwrap();
            assert_eq!((state.documents(), state.generation()), (documents, generation));
        }
        until(|| reader.current().files().segments().len() == 1).await;
        until(|| node.current().files().staged().is_empty() && node.current().frozen().is_none()).await;
        let last = node.current().sequence();
        assert_eq!(reaches(&reader, last).await.hash(), node.current().hash());
    }
    let (hash, documents) = (node.current().hash(), node.current().documents());
    drop(writer);
    node.drain().await;
    end(node, folder.path()).await;
    let again = open(folder.path()).await;
    assert_eq!((again.current().hash(), again.current().documents()), (hash, documents));
}

/// Ends the writer at each sync between a load's last row and the flush behind its end, and goes on with the load in the
/// next process.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_whose_end_is_interrupted_at_any_step_goes_on_in_the_next_process() {
    let mut expected = None;
    for step_at in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        disk.crash_on_failure();
        let node = Node::open_on(building(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
        let reader = open_reader(folder.path()).await;
        let writer = node.writer().unwrap();
        writer.submit(load_begin("load", 1, "c")).await.unwrap();
        writer.submit(load_rows(5, 500)).await.unwrap();
        writer.submit(part_done(500)).await.unwrap();
        let before = disk.syncs();
        disk.fail_syncs_after(step_at);
        let ended = writer.submit(load_end()).await.is_ok();
        if ended {
            let flushed = |state: &State| state.frozen().is_none() && state.files().staged().is_empty();
            until(|| flushed(&node.current()) || node.health().problem.is_some()).await;
        }
        let whole = ended && disk.syncs() - before < step_at;
        drop(writer);
        end(node, folder.path()).await;

        let next = Node::open(building(folder.path())).await.unwrap();
        if !next.current().is_loaded() {
            assert!(!ended, "after {step_at} syncs: an acknowledged end of a load is lost");
            assert_eq!(next.current().load().unwrap().rows, 500);
            next.writer().unwrap().submit(load_end()).await.unwrap();
        }
        let ack = next.writer().unwrap().submit(batch("postgres", "c", "c")).await.unwrap();
        let state = reaches(&reader, ack.sequence).await;
        let found = (state.hash(), state.documents());
        assert_eq!(found, (next.current().hash(), next.current().documents()), "after {step_at} syncs");
        assert_eq!(found, *expected.get_or_insert(found), "after {step_at} syncs");
        assert_eq!(reader.health().problem, None, "after {step_at} syncs");
        // One freeze may take in the end of that load and the beginning of the next.
        let ack = next.writer().unwrap().submit(load_begin("second", 2, "d")).await.unwrap();
        until(|| next.current().files().sequence() >= ack.sequence).await;
        end(next, folder.path()).await;
        let again = open(folder.path()).await;
        assert_eq!((again.current().hash(), again.current().documents()), found, "after {step_at} syncs");
        if whole {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_takes_over_while_a_base_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FaultyDisk::default());
    let node = Node::open_on(building(folder.path()), Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
    let other = Node::open(building(folder.path())).await.unwrap();
    let writer = node.writer().unwrap();
    writer.submit(load_begin("load", 1, "c")).await.unwrap();
    writer.submit(load_rows(0, 500)).await.unwrap();
    writer.submit(part_done(500)).await.unwrap();
    disk.fail_writes_of("segment-", ENOSPC);
    let error = writer.submit(load_end()).await.unwrap_err();
    assert!(matches!(error, Error::Exhausted(_)), "{error}");
    assert!(!node.health().fatal);
    drop(writer);
    node.drain().await;
    promoted(&other).await;
    let ack = other.writer().unwrap().submit(load_end()).await.unwrap();
    for node in [&other, &node] {
        let state = reaches(node, ack.sequence).await;
        assert_eq!((state.documents(), state.is_loaded()), (500, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_load_drops_what_the_one_before_staged() {
    let folder = tempfile::tempdir().unwrap();
    let flush = policy::Settings { age: Duration::ZERO, ..often(1) };
    let node = Node::open(NodeOptions { flush, ..building(folder.path()) }).await.unwrap();
    let writer = node.writer().unwrap();
    writer.submit(load_begin("first", 1, "c")).await.unwrap();
    writer.submit(load_rows(0, 500)).await.unwrap();
    writer.submit(part_done(500)).await.unwrap();
    until(|| !node.current().files().staged().is_empty()).await;
    writer.submit(load_begin("second", 2, "d")).await.unwrap();
    until(|| node.current().files().staged().is_empty()).await;
    writer.submit(load_rows(1000, 50)).await.unwrap();
    writer.submit(part_done(50)).await.unwrap();
    writer.submit(load_end()).await.unwrap();
    assert_eq!((node.current().documents(), node.current().generation()), (50, 2));
    drop(writer);
    end(node, folder.path()).await;
    assert_eq!(open(folder.path()).await.current().documents(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_do_to_loaded_rows_while_the_base_is_built_is_kept() {
    for freezes in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        let flush = if freezes { often(1) } else { policy::Settings::default() };
        let options = NodeOptions { flush, ..building(folder.path()) };
        let node = Node::open_on(options, Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
        let reader = open_reader(folder.path()).await;
        let writer = node.writer().unwrap();
        writer.submit(load_begin("load", 1, "c")).await.unwrap();
        writer.submit(load_rows(0, 10)).await.unwrap();
        writer.submit(part_done(10)).await.unwrap();
        disk.close_gate("segment-");
        let ending = tokio::spawn({
            let writer = writer.clone();
            async move { writer.submit(load_end()).await }
        });
        until(|| disk.is_anyone_at_the_gate()).await;
        writer.submit(step("service", 0)).await.unwrap();
        disk.open_gate();
        let ack = ending.await.unwrap().unwrap();
        for node in [&node, &reader] {
            let state = reaches(node, ack.sequence).await;
            assert_eq!((state.documents(), state.is_loaded()), (11, true));
        }
        drop(writer);
        end(node, folder.path()).await;
        assert_eq!(open(folder.path()).await.current().documents(), 11);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_comes_to_an_end_however_often_there_is_something_to_flush() {
    // Each batch is flushed, and another one waits already.
    let folder = tempfile::tempdir().unwrap();
    let node =
        Node::open(NodeOptions { compact_fraction: 0.0, flush: often(1), ..options(folder.path()) }).await.unwrap();
    make_ready(&node.writer().unwrap(), "c").await;
    let ended = Arc::<AtomicBool>::default();
    let feeds = ["a", "b"].map(|source| {
        let (writer, ended) = (node.writer().unwrap(), Arc::clone(&ended));
        tokio::spawn(async move {
            let batches = (0..).take_while(|_| !ended.load(Ordering::Relaxed));
            for n in batches {
                writer.submit(step(source, n)).await.unwrap();
            }
        })
    });
    let compacted = || {
        let manifest = Manifest::read(&folder.path().join("MANIFEST")).unwrap().unwrap();
        manifest.segments.iter().map(|segment| segment.sequence).max()
    };
    for _ in 0..3 {
        let before = compacted();
        until(|| compacted() != before).await;
    }
    ended.store(true, Ordering::Relaxed);
    for feed in feeds {
        feed.await.unwrap();
    }
}

/// Its records are in memory, and brought into files before anything else can happen.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_of_the_log_that_is_removed_while_it_is_written_is_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    let (node, reader) = (open(folder.path()).await, open_reader(folder.path()).await);
    let writer = node.writer().unwrap();
    make_ready(&writer, "c").await;
    let names =
        || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let newest = || names().filter_map(|name| segment_number(&name)).max().unwrap();
    let needed = || Manifest::read(&folder.path().join("MANIFEST")).unwrap().unwrap().first_segment;
    // What the load left is in files, and the next flush of its own accord is far.
    until(|| node.current().frozen().is_none() && needed() == newest() && node.current().unflushed().rows == 0).await;
    for n in 0..10 {
        writer.submit(step("a", n)).await.unwrap();
    }
    let removed = newest();
    std::fs::remove_file(segment_path(folder.path(), removed)).unwrap();
    for n in 10..20 {
        writer.submit(step("a", n)).await.unwrap();
    }
    until(|| needed() > removed).await;
    writer.submit(step("a", 20)).await.unwrap();
    until(|| reader.current().sequence() == node.current().sequence()).await;
    assert_eq!(reader.current().hash(), node.current().hash());
    let (sequence, hash) = (node.current().sequence(), node.current().hash());
    drop(writer);
    end(reader, folder.path()).await;
    end(node, folder.path()).await;
    let next = open(folder.path()).await;
    assert_eq!((next.current().sequence(), next.current().hash()), (sequence, hash));
    assert_eq!(steps_of(&next.current(), "a"), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_that_cannot_be_read_or_written_ends_no_writer() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["RAISE", "WRITER"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    let node =
        Node::open(NodeOptions { advertise: Some("127.0.0.1:1".into()), ..options(folder.path()) }).await.unwrap();
    let writer = node.writer().unwrap();
    let started = Instant::now();
    let mut n = 0;
    // It looks for wishes meanwhile.
    while started.elapsed() < 5 * write::TICK {
        writer.submit(step("a", n)).await.unwrap();
        n += 1;
    }
    assert_eq!((node.role(), node.health().fatal), (Role::Writer, false));
}

/// Those that run go on; those that start later could not.
#[tokio::test(flavor = "multi_thread")]
async fn a_frontier_that_is_removed_shows_in_health() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    node.writer().unwrap().submit(step("a", 0)).await.unwrap();
    let path = folder.path().join("FRONTIER");
    std::fs::rename(&path, folder.path().join("elsewhere")).unwrap();
    until(|| node.health().problem.is_some_and(|problem| problem.contains("FRONTIER was removed"))).await;
    node.writer().unwrap().submit(step("a", 1)).await.unwrap();
    assert!(
        matches!(Node::open(NodeOptions { reader_only: true, ..options(folder.path()) }).await.unwrap_err(), Error::DataLoss(text) if text.contains("FRONTIER"))
    );
    std::fs::rename(folder.path().join("elsewhere"), &path).unwrap();
    until(|| node.health().problem.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_lost_its_manifest_is_no_new_one_for_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let node = open(folder.path()).await;
    make_ready(&node.writer().unwrap(), "c").await;
    end(node, folder.path()).await;
    std::fs::remove_file(folder.path().join("MANIFEST")).unwrap();
    for reader_only in [false, true] {
        let error = Node::open(NodeOptions { reader_only, ..options(folder.path()) }).await.unwrap_err();
        assert!(matches!(&error, Error::Precondition(text) if text.contains("restore the manifest")), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn room_of_documents_that_are_gone_comes_back() {
    const COUNT: i64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let options = NodeOptions { compact_fraction: 0.1, flush: often(1), ..building(folder.path()) };
    let node = Node::open(options).await.unwrap();
    let writer = node.writer().unwrap();
    writer.submit(load_begin("load", 1, "c")).await.unwrap();
    writer.submit(load_rows(0, COUNT)).await.unwrap();
    writer.submit(part_done(COUNT as u64)).await.unwrap();
    writer.submit(load_end()).await.unwrap();
    writer.submit(batch("postgres", "c", "c")).await.unwrap();
    let bytes = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap());
        let packs = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "pack"));
        // Some are unlinked meanwhile.
        packs.filter_map(|pack| Some(pack.metadata().ok()?.len())).sum::<u64>()
    };
    until(|| node.current().files().staged().is_empty() && node.current().frozen().is_none()).await;
    let full = bytes();
    let gone = |key| {
        let upsert = wire::Upsert { source: 0, key, values: Vec::new(), tombstone: true };
        wire::Op { kind: Some(wire::op::Kind::Upsert(upsert)) }
    };
    let mut record = batch("events", "", "1");
    if let Some(Kind::Batch(batch)) = &mut record.kind {
        batch.ops = (100..200_000).map(gone).collect();
    }
    writer.submit(record).await.unwrap();
    assert_eq!(node.current().documents(), 100);
    // Neither the base nor a checkpoint says anything of them any more.
    until(|| {
        let version = node.current();
        let rows = version.files().checkpoint().map_or(0, |checkpoint| checkpoint.rows().len());
        rows < 1_000 && bytes() * 10 < full
    })
    .await;
    println!("{full} bytes, and {} without what is gone", bytes());
    assert_eq!((node.current().documents(), node.current().files().segments().len()), (100, 1));
    drop(writer);
    node.drain().await;
    end(node, folder.path()).await;

    let entries = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let segment = entries.filter_map(|name| name.into_string().ok()).find(|name| name.starts_with("segment-")).unwrap();
    std::fs::remove_file(folder.path().join(&segment)).unwrap();
    assert!(matches!(refused(folder.path()).await, Error::DataLoss(message) if message.contains(&segment)));
}

/// Ends without rows, in this process or the next, before a flush has taken in that it began.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_takes_nothing_of_the_one_before_that_it_broke_off() {
    for other_process in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FaultyDisk::default());
        let flush = policy::Settings { age: Duration::ZERO, ..often(1) };
        let options = NodeOptions { flush, ..building(folder.path()) };
        let mut node = Node::open_on(options, Arc::clone(&disk) as Arc<dyn Disk>).await.unwrap();
        node.writer().unwrap().submit(load_begin("first", 1, "c")).await.unwrap();
        node.writer().unwrap().submit(load_rows(0, 500)).await.unwrap();
        until(|| !node.current().files().staged().is_empty() && node.current().frozen().is_none()).await;
        disk.fail_writes_of("checkpoint-", EIO);
        node.writer().unwrap().submit(load_begin("second", 2, "d")).await.unwrap();
        node.writer().unwrap().submit(part_done(0)).await.unwrap();
        if other_process {
            end(node, folder.path()).await;
            node = Node::open(building(folder.path())).await.unwrap();
        } else {
            // A flush that fails later would refuse the load's end.
            until(|| node.health().problem.is_some()).await;
            disk.heal();
        }
        node.writer().unwrap().submit(load_end()).await.unwrap();
        assert_eq!((node.current().documents(), node.current().generation()), (0, 2));
        end(node, folder.path()).await;
        assert_eq!(open(folder.path()).await.current().documents(), 0);
    }
}
