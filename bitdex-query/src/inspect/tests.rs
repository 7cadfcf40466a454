use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bitdex_proto::{schema::Schema, wire, wire::record::Kind};
use bytes::Bytes;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    election,
    inspect::check::{Checked, check},
    log::{
        disk::{Disk, RealDisk},
        segment::{SEGMENT_HEADER, SegmentEnd, SegmentHeader, segment_number, segment_path},
    },
    mapping::frontier,
    node::{Node, NodeOptions},
    state::tests::model::{random_op, schema},
    store::{
        Folder, checkpoint_name, format, is_pack,
        manifest::{CheckpointRef, Manifest, SegmentRef},
        pack::{Pack, PackKind, PackWriter, SectionId, SectionKind},
        policy,
        raise::raise,
        segment_name,
    },
    testing::seeded,
};

fn pack(folder: &Folder, name: &str, kind: PackKind, sections: &[(SectionKind, u16, usize)]) {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut writer = PackWriter::create(&disk, &folder.named(name), kind, 1).unwrap();
    for (kind, place, length) in sections {
        writer.section(SectionId { kind: *kind, place: *place }).unwrap();
        writer.write(&vec![7; *length]).unwrap();
    }
    writer.finish().unwrap();
}

/// A folder whose packs are of the right kinds, with contents that no state has.
fn example(folder: &Folder) -> Manifest {
    let segment = |number| SegmentRef { number, file: segment_name(number, 1, 8), sequence: 8 };
    let manifest = Manifest {
        format: format::NEWEST,
        store: 1,
        definition: "abc".into(),
        epoch: 1,
        first_segment: 1,
        next_sequence: 9,
        checkpoint: Some(CheckpointRef { file: checkpoint_name(8), sequence: 8, generation: 1 }),
        segments: vec![segment(0), segment(1)],
        tables: Vec::new(),
        staged: Vec::new(),
        prepared: None,
    };
    manifest.publish(&RealDisk, &folder.manifest()).unwrap();
    fs::write(folder.frontier(), frontier::initial()).unwrap();
    let predecessor = SegmentEnd { number: 0, offset: 0, last: 0 };
    let header = SegmentHeader { store: 1, epoch: 1, number: 1, predecessor };
    fs::write(segment_path(folder.root(), 1), header.encode()).unwrap();
    pack(folder, &checkpoint_name(8), PackKind::Checkpoint, &[(SectionKind::Header, 0, 5)]);
    for number in [0, 1] {
        let sections = [(SectionKind::Held, 3, 100), (SectionKind::Held, 4, 10)];
        pack(folder, &segment_name(number, 1, 8), PackKind::Segment, &sections);
    }
    manifest
}

#[test]
fn adds_up_sections_and_dead_files() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    assert!(Report::read(&folder, None).unwrap_err().to_string().contains("holds no store"));
    example(&folder);
    pack(&folder, &segment_name(1, 1, 5), PackKind::Segment, &[(SectionKind::Held, 3, 1000)]);
    fs::write(root.path().join("staged-1.pack.tmp"), "12345").unwrap();
    let report = Report::read(&folder, None).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let dead = fs::metadata(folder.segment(1, 1, 5)).unwrap().len() + 5;
    assert_eq!(report.dead_bytes, dead);
    let held = report.sections.iter().find(|section| section.field.as_deref() == Some("field 3")).unwrap();
    assert_eq!((held.file.as_str(), held.section.as_str(), held.bytes), ("segment", "sets", 200));
    let of_field = |field: &str, base_bytes, dead_bytes| FieldReport {
        field: field.into(),
        base_bytes,
        checkpoint_bytes: 0,
        dead_bytes,
    };
    assert_eq!(report.fields, [of_field("field 3", 200, 1000), of_field("field 4", 20, 0)]);
    let text = report.to_string();
    for part in ["segment: sets of field 3", "(dead)", "segment 1 at record 8", "checkpoint  at record 8"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["dead_bytes"], dead);
    assert_eq!(json["files"][1]["name"], "MANIFEST");
}

#[test]
fn tells_what_is_missing_or_damaged() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    example(&folder);
    fs::remove_file(folder.segment(0, 1, 8)).unwrap();
    let path = folder.segment(1, 1, 8);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let error = Report::read(&folder, Some(&Arc::new(schema()))).unwrap_err().to_string();
    assert!(error.contains("definition abc"), "a definition that would give wrong names is refused: {error}");
    let problems = Report::read(&folder, None).unwrap().problems;
    assert!(problems[0].contains(&segment_name(0, 1, 8)) && problems[0].contains("missing"), "{problems:?}");
    assert!(problems[1].contains(&segment_name(1, 1, 8)), "{problems:?}");
}

fn batch(previous: u64, new: u64, ops: Vec<wire::Op>) -> wire::Record {
    let cursor = |n: u64| if n == 0 { Bytes::new() } else { n.to_string().into() };
    wire::Record {
        kind: Some(Kind::Batch(wire::Batch {
            source: "service".into(),
            previous_cursor: cursor(previous),
            new_cursor: cursor(new),
            ops,
            caught_up: true,
            backlog: 0,
        })),
    }
}

/// A node that flushes and compacts all the time.
async fn open(folder: &Folder, schema: &Arc<Schema>) -> Arc<Node> {
    let flush = policy::Settings { rows: 100, interval: Duration::ZERO, ..policy::Settings::default() };
    let options = NodeOptions { flush, compact_fraction: 0.001, ..NodeOptions::new(Arc::clone(schema), folder.root()) };
    let node = Node::open(options).await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), node.promoted()).await.unwrap();
    node
}

/// As [`open`], of a new store, loaded with nothing.
async fn loaded(folder: &Folder, schema: &Arc<Schema>) -> Arc<Node> {
    let node = open(folder, schema).await;
    let load = wire::LoadOpen { source: "postgres".into(), load_id: "load".into(), ..wire::LoadOpen::default() };
    let begin = Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: 1 });
    for kind in [begin, Kind::LoadEnd(wire::LoadEnd {})] {
        node.writer().unwrap().submit(wire::Record { kind: Some(kind) }).await.unwrap();
    }
    node
}

/// As [`loaded`], in a folder of its own, which goes with the first of the four.
async fn new_store() -> (tempfile::TempDir, Folder, Arc<Schema>, Arc<Node>) {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    let schema = Arc::new(schema());
    let node = loaded(&folder, &schema).await;
    (root, folder, schema, node)
}

async fn feed(node: &Node, schema: &Schema, rng: &mut ChaCha8Rng, batches: std::ops::Range<u64>) {
    for n in batches {
        let ops = (0..20).map(|_| random_op(rng, schema, 300).to_wire(schema)).collect();
        node.writer().unwrap().submit(batch(n, n + 1, ops)).await.unwrap();
    }
}

async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Drops a node, and waits until its threads no longer change files.
async fn end(node: Arc<Node>, folder: &Folder) {
    drop(node);
    eventually("the end of the writer", || election::try_lock(&folder.lock()).unwrap().is_some()).await;
}

/// Feeds, and waits until there are files of all kinds that ops lead to. (Compaction gives way to flushes, so it gets
/// through once nothing is fed.)
async fn feed_until_compacted(node: &Node, folder: &Folder, schema: &Schema, rng: &mut ChaCha8Rng) -> u64 {
    let mut fed = 0;
    // Now and then the last of them empty the index.
    while fed == 0 || node.current().documents() < 20 {
        feed(node, schema, rng, fed..fed + 100).await;
        fed += 100;
    }
    eventually("compaction", || {
        let manifest = Manifest::read(&folder.manifest()).unwrap().unwrap();
        let has_sets = |name: &str| {
            let pack = Pack::open_any(&folder.named(name)).unwrap();
            pack.is_some_and(|pack| pack.sections().iter().any(|(kind, _, _)| *kind == SectionKind::Held as u16))
        };
        ["table-", "checkpoint-"].iter().all(|kind| manifest.packs().any(|name| name.starts_with(kind)))
            && manifest.packs().any(|name| name.starts_with("segment-") && has_sets(name))
    })
    .await;
    fed
}

fn checked(folder: &Folder, schema: &Arc<Schema>) -> Checked {
    check(folder, schema, &mut |_| {}).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_sound_beside_its_writer_and_after_it() {
    let mut rng = seeded();
    let (_root, folder, schema, node) = new_store().await;
    for round in 0..10 {
        feed(&node, &schema, &mut rng, round * 20..(round + 1) * 20).await;
        let checked = checked(&folder, &schema);
        assert_eq!(checked.findings.lines(), [] as [String; 0]);
    }
    node.drain().await;
    let checked = checked(&folder, &schema);
    assert_eq!(checked.findings.lines(), [] as [String; 0]);
    assert_eq!(checked.documents, node.current().documents());
    assert!(checked.rows > checked.documents);
    let report = Report::read(&folder, Some(&schema)).unwrap();
    assert_eq!(report.problems, [] as [String; 0]);
    assert_eq!(report.frontier, node.current().sequence());
    assert!(report.checkpoint.is_some_and(|at| at <= report.frontier), "{:?}", report.checkpoint);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_any_file_is_found_and_named() {
    let mut rng = seeded();
    let (_root, folder, schema, node) = new_store().await;
    let fed = feed_until_compacted(&node, &folder, &schema, &mut rng).await;
    node.drain().await;
    // Behind the checkpoint, so that there is a log to damage.
    end(node, &folder).await;
    let node = open(&folder, &schema).await;
    feed(&node, &schema, &mut rng, fed..fed + 2).await;
    end(node, &folder).await;
    let names: Vec<String> = folder.names().unwrap();
    for name in names.iter().filter(|name| *name == "MANIFEST" || is_pack(name) || segment_number(name).is_some()) {
        let path = folder.named(name);
        let good = fs::read(&path).unwrap();
        for _ in 0..20 {
            let mut bytes = good.clone();
            bytes[rng.random_range(0..good.len())] ^= 1 << rng.random_range(0..8);
            fs::remove_file(&path).unwrap();
            fs::write(&path, &bytes).unwrap();
            let named = match check(&folder, &schema, &mut |_| {}) {
                Err(error) => error.to_string(),
                Ok(checked) => checked.findings.lines().join("\n"),
            };
            assert!(named.contains(name.as_str()), "{name}: {named:?}");
        }
        fs::write(&path, &good).unwrap();
    }
    assert_eq!(checked(&folder, &schema).findings.lines(), [] as [String; 0]);
    let good = fs::read(folder.frontier()).unwrap();
    for at in (0..8).chain(9..16) {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << rng.random_range(0..8);
        fs::write(folder.frontier(), &bytes).unwrap();
        assert!(!checked(&folder, &schema).findings.is_empty(), "byte {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_looked_at_as_far_as_it_goes_although_the_frontier_is_lost() {
    let mut rng = seeded();
    let (_root, folder, schema, node) = new_store().await;
    feed(&node, &schema, &mut rng, 0..30).await;
    node.drain().await;
    end(node, &folder).await;
    let node = open(&folder, &schema).await;
    // Cursors alone, so that no flush takes them out of the log again.
    for n in 30..34 {
        node.writer().unwrap().submit(batch(n, n + 1, Vec::new())).await.unwrap();
    }
    let sequence = node.current().sequence();
    end(node, &folder).await;
    let whole = checked(&folder, &schema);
    assert_eq!((whole.findings.lines(), whole.unsure), ([].as_slice(), 0));
    assert!(whole.records > 3, "{}", whole.records);
    assert_eq!(Report::read(&folder, Some(&schema)).unwrap().frontier, sequence);

    fs::write(folder.frontier(), frontier::initial()).unwrap();
    let blind = checked(&folder, &schema);
    assert_eq!(blind.findings.lines(), [] as [String; 0]);
    // No mark follows the last group.
    assert_eq!(blind.records + blind.unsure as u64, whole.records);
    assert!(blind.records >= whole.records - 1, "{} of {}", blind.records, whole.records);

    let logs: Vec<String> = folder.names().unwrap().into_iter().filter(|name| segment_number(name).is_some()).collect();
    let path = folder.named(logs.iter().max().unwrap());
    let mut bytes = fs::read(&path).unwrap();
    // In the first frame of the newest segment, behind which marks stand.
    let at = rng.random_range(SEGMENT_HEADER + 8..SEGMENT_HEADER + 32);
    bytes[at] ^= 1 << rng.random_range(0..8);
    fs::write(&path, &bytes).unwrap();
    let found = checked(&folder, &schema).findings;
    assert!(found.lines().iter().any(|line| line.contains(&path.display().to_string())), "{:?}", found.lines());

    let path = segment_path(folder.root(), folder.read_manifest().unwrap().first_segment);
    fs::remove_file(&path).unwrap();
    let problems = Report::read(&folder, Some(&schema)).unwrap().problems;
    assert!(problems.iter().any(|line| line.contains(&path.display().to_string())), "{problems:?}");
}

#[test]
fn a_segment_of_the_log_that_is_shorter_than_its_successor_says_is_told() {
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    example(&folder);
    let first = segment_path(folder.root(), 1);
    let end = fs::metadata(&first).unwrap().len();
    for (offset, is_whole) in [(end, true), (end + 1, false)] {
        let predecessor = SegmentEnd { number: 1, offset, last: 8 };
        let header = SegmentHeader { store: 1, epoch: 1, number: 2, predecessor };
        fs::write(segment_path(folder.root(), 2), header.encode()).unwrap();
        let problems = Report::read(&folder, None).unwrap().problems;
        let is_told = problems.iter().any(|line| line.contains(&first.display().to_string()));
        assert_eq!(is_told, !is_whole, "{problems:?}");
    }
}

/// Writes a pack anew, with one bit flipped in a section, and checksums that are right.
fn forge(path: &std::path::Path, flip: (usize, usize, u32)) {
    let pack = Pack::open_any(path).unwrap().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut writer = PackWriter::create(&disk, path, pack.kind().unwrap(), pack.stamp()).unwrap();
    for (number, (kind, place, _)) in pack.sections().into_iter().enumerate() {
        let id = SectionId { kind: SectionKind::of(kind).unwrap(), place };
        let section = pack.require(id).unwrap();
        let mut bytes = section.bytes(0, section.len()).unwrap().to_vec();
        if number == flip.0 {
            bytes[flip.1] ^= 1 << flip.2;
        }
        writer.section(id).unwrap();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_that_belie_the_rows_are_found_although_their_checksums_are_right() {
    let mut rng = seeded();
    let (_root, folder, schema, node) = new_store().await;
    feed_until_compacted(&node, &folder, &schema, &mut rng).await;
    node.drain().await;
    end(node, &folder).await;
    let mut found = std::collections::BTreeMap::new();
    let manifest = Manifest::read(&folder.manifest()).unwrap().unwrap();
    for name in manifest.packs() {
        let path = folder.named(name);
        let good = fs::read(&path).unwrap();
        let sections = Pack::open_any(&path).unwrap().unwrap().sections();
        for (number, (kind, _, length)) in sections.into_iter().enumerate().filter(|(_, section)| section.2 > 0) {
            if found.get(&kind).is_none_or(|(tried, _)| *tried < 6) {
                forge(&path, (number, rng.random_range(0..length as usize), rng.random_range(0..8)));
                // Nothing here may panic. An error names what hinders the check.
                let sound = check(&folder, &schema, &mut |_| {}).is_ok_and(|checked| checked.findings.is_empty());
                let (tried, seen) = found.entry(kind).or_insert((0, 0));
                (*tried, *seen) = (*tried + 1, *seen + u32::from(!sound));
            }
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, &good).unwrap();
    }
    // Paddings, and what another layer overrides, may be anything.
    println!("{found:?}");
    assert_eq!(checked(&folder, &schema).findings.lines(), [] as [String; 0]);
    use SectionKind::{Column, DocumentData, Held, Peaks, TableData, Tops};
    let some = [Tops, Peaks].into_iter().filter(|kind| found.contains_key(&(*kind as u16)));
    for kind in [Held, Column, DocumentData, TableData].into_iter().chain(some) {
        let (tried, seen) = found.get(&(kind as u16)).copied().unwrap_or_default();
        assert!(seen > 0, "{kind:?}: {seen} of {tried}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_in_the_store_s_format_until_it_is_raised() {
    let mut rng = seeded();
    let root = tempfile::tempdir().unwrap();
    let folder = Folder::open(root.path(), false).unwrap();
    let schema = Arc::new(schema());
    let manifest = || Manifest::read(&folder.manifest()).unwrap().unwrap();
    let formats = || {
        let packs = manifest().packs().map(|name| Pack::open_any(&folder.named(name)).unwrap()).collect::<Vec<_>>();
        packs.into_iter().flatten().map(|pack| pack.stamp().format).collect::<Vec<_>>()
    };
    let node = open(&folder, &schema).await;
    node.drain().await;
    end(node, &folder).await;
    Manifest { format: format::OLDEST, ..manifest() }.publish(&RealDisk, &folder.manifest()).unwrap();
    let node = loaded(&folder, &schema).await;
    let fed = feed_until_compacted(&node, &folder, &schema, &mut rng).await;
    node.drain().await;
    end(node, &folder).await;
    assert!(formats().iter().all(|written| *written == format::OLDEST), "{:?}", formats());
    assert_eq!(checked(&folder, &schema).findings.lines(), [] as [String; 0]);
    let node = open(&folder, &schema).await;
    let asked = Folder::open(root.path(), false).unwrap();
    let raised = tokio::task::spawn_blocking(move || raise(&asked, Duration::from_secs(10))).await.unwrap();
    assert_eq!((raised.unwrap(), manifest().format), (format::OLDEST, format::NEWEST));
    feed(&node, &schema, &mut rng, fed..fed + 30).await;
    // Also those that have not changed since.
    eventually("all files of the new format", || formats().iter().all(|written| *written == format::NEWEST)).await;
    node.drain().await;
    assert_eq!(checked(&folder, &schema).findings.lines(), [] as [String; 0]);
}
