//! The log on disks that tear, fail and fill up, and in hands that change.

use std::{fs, path::Path, sync::Arc};

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use super::{
    Cause,
    disk::{Disk, RealDisk, publish},
    faults::{EIO, ENOSPC, FaultyDisk},
    frame::FRAME_HEADER,
    reader::{Followed, LogEnd, LogReader},
    segment::{SEGMENT_HEADER, SegmentEnd, segment_path},
    writer::{LogOptions, LogWriter},
};
use crate::mapping::{Frontier, frontier};

const STORE: u128 = 77;

struct Store {
    folder: TempDir,
    disk: Arc<dyn Disk>,
    frontier: Arc<Frontier>,
    epoch: u64,
    segment_bytes: u64,
}

impl Store {
    fn on(disk: Arc<dyn Disk>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("FRONTIER");
        publish(&RealDisk, &path, &frontier::initial()).unwrap();
        Self {
            disk,
            frontier: Arc::new(Frontier::open(&path, true).unwrap()),
            folder,
            epoch: 0,
            segment_bytes: 1 << 20,
        }
    }

    fn new() -> Self {
        Self::on(Arc::new(RealDisk))
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn reader(&self) -> LogReader {
        LogReader::open(self.path(), STORE, 1, 1).unwrap().unwrap()
    }

    /// What the log says up to `durable`, and its end.
    fn read(&self, durable: u64) -> super::Result<(Vec<Vec<u8>>, LogEnd)> {
        let mut records = Vec::new();
        let end = self.reader().finish(durable, &mut |sequence, payload| {
            records.push(payload.to_vec());
            assert_eq!(sequence, records.len() as u64);
            Ok(())
        })?;
        Ok((records, end))
    }

    fn take_over(&mut self, end: &LogEnd) -> super::Result<LogWriter> {
        self.epoch += 1;
        let options = LogOptions {
            disk: Arc::clone(&self.disk),
            folder: self.path().into(),
            store: STORE,
            epoch: self.epoch,
            frontier: Arc::clone(&self.frontier),
            segment_bytes: self.segment_bytes,
        };
        LogWriter::take_over(options, end)
    }

    fn first_writer(&mut self) -> LogWriter {
        let nothing = SegmentEnd { number: 0, offset: 0, last: 0 };
        self.take_over(&LogEnd { durable: nothing, tail: Vec::new(), torn: 0 }).unwrap()
    }

    fn next_writer(&mut self) -> LogWriter {
        let (_, end) = self.read(self.frontier.load()).unwrap();
        self.take_over(&end).unwrap()
    }
}

fn payload(n: u64) -> Vec<u8> {
    format!("record {n}").into_bytes()
}

fn collect(reader: &mut LogReader, frontier: u64, into: &mut Vec<Vec<u8>>) -> super::Result<Followed> {
    reader.follow(frontier, &mut |_, payload| {
        into.push(payload.to_vec());
        Ok(())
    })
}

/// Four records, each its own group; answers the bytes of the segment and where each frame begins and the last ends.
fn four_records(store: &mut Store) -> (Vec<u8>, Vec<usize>) {
    let mut log = store.first_writer();
    let mut offsets = vec![SEGMENT_HEADER];
    for n in 1..=4 {
        log.commit(&[payload(n)]).unwrap();
        offsets.push(log.end().offset as usize);
    }
    (fs::read(segment_path(store.path(), 1)).unwrap(), offsets)
}

/// The layout that `docs/store-format.md` tells, by its offsets.
#[test]
fn the_formats_are_as_documented() {
    let mut store = Store::new();
    let mut log = store.first_writer();
    log.commit(&[b"ab"]).unwrap();
    log.commit(&[b"cde"]).unwrap();
    let end = log.end().offset;
    log.roll().unwrap();
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());

    let header = fs::read(store.path().join("log-0000000000000002.seg")).unwrap();
    assert_eq!((header.len(), &header[..8]), (88, &b"BITDEXLG"[..]));
    assert_eq!((u32_at(&header, 8), u32_at(&header, 12), u32_at(&header, 80)), (1, 88, 0));
    assert_eq!(header[16..32], STORE.to_le_bytes());
    let numbers: Vec<u64> = (0..6).map(|n| u64_at(&header, 32 + 8 * n)).collect();
    assert_eq!(numbers, [1, 2, 3, 1, end, 2]);
    assert_eq!(u32_at(&header, 84), crc32fast::hash(&header[..84]));

    let frames = fs::read(store.path().join("log-0000000000000001.seg")).unwrap().split_off(88);
    assert_eq!(frames.len(), 32 + 2 + 32 + 3);
    for (frame, sequence, mark, payload) in [(&frames[..34], 1, 0, &b"ab"[..]), (&frames[34..], 2, 1, b"cde")] {
        assert_eq!((u32_at(frame, 0), u32_at(frame, 4)), (crc32fast::hash(&frame[4..]), payload.len() as u32));
        assert_eq!((u64_at(frame, 8), u64_at(frame, 16), u64_at(frame, 24)), (sequence, 1, mark));
        assert_eq!(&frame[32..], payload);
    }
    let frontier = fs::read(store.path().join("FRONTIER")).unwrap();
    assert_eq!((&frontier[..8], u64_at(&frontier, 8), frontier.len()), (&b"BITDEXFR"[..], 2, 16));
}

#[test]
fn a_tail_torn_anywhere_is_left_out_above_the_frontier_and_refused_below() {
    let mut store = Store::new();
    let (bytes, offsets) = four_records(&mut store);
    let path = segment_path(store.path(), 1);
    let (start, end) = (offsets[3], offsets[4]);
    for cut in start..end {
        for zeros in [0, end - cut] {
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + zeros, 0);
            if torn == bytes {
                continue;
            }
            fs::write(&path, &torn).unwrap();
            let (records, log_end) = store.read(3).unwrap();
            assert_eq!(records, (1..=3).map(payload).collect::<Vec<_>>());
            assert_eq!(log_end.durable, SegmentEnd { number: 1, offset: start as u64, last: 3 });
            assert_eq!((log_end.tail.len(), log_end.torn), (0, (torn.len() - start) as u64));

            for error in [store.read(4).unwrap_err(), collect(&mut store.reader(), 4, &mut vec![]).unwrap_err()] {
                let Cause::Damaged { path: named, offset, .. } = error.cause() else { panic!("{error}") };
                assert_eq!((named, *offset), (&path, start as u64), "{error}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_below_a_mark_is_refused_by_name_even_if_the_frontier_is_lost() {
    let mut store = Store::new();
    let (bytes, offsets) = four_records(&mut store);
    let path = segment_path(store.path(), 1);
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        let frame = offsets.iter().rposition(|offset| *offset <= at);
        match frame {
            None => {
                let error = LogReader::open(store.path(), STORE, 1, 1).unwrap_err();
                assert!(matches!(error.cause(), Cause::Damaged { path: named, .. } if *named == path), "{error}");
            }
            // The last group: no later one says that it was durable.
            Some(3) => {
                let (records, end) = store.read(0).unwrap();
                assert_eq!(records.len() + end.tail.len(), 3, "byte {at}");
            }
            Some(frame) => {
                let error = store.read(0).unwrap_err();
                let Cause::Damaged { path: named, offset, .. } = error.cause() else { panic!("{error}") };
                assert_eq!((named, *offset), (&path, offsets[frame] as u64), "byte {at}: {error}");
            }
        }
        if frame.is_some() {
            assert!(collect(&mut store.reader(), 4, &mut vec![]).is_err(), "byte {at}");
        }
    }
    // Of another release, with a header that is right for it.
    let mut other = bytes;
    other[8] += 1;
    let crc_at = SEGMENT_HEADER - 4;
    let crc = crc32fast::hash(&other[..crc_at]);
    other[crc_at..SEGMENT_HEADER].copy_from_slice(&crc.to_le_bytes());
    fs::write(&path, &other).unwrap();
    let error = LogReader::open(store.path(), STORE, 1, 1).unwrap_err();
    assert!(matches!(error.cause(), Cause::Format { .. }), "{error}");
}

#[test]
fn records_above_the_mark_move_to_the_new_writers_segment_and_what_the_old_one_still_writes_is_no_part_of_the_log() {
    let disk = Arc::new(FaultyDisk::default());
    let mut store = Store::on(Arc::clone(&disk) as Arc<dyn Disk>);
    let mut old = store.first_writer();
    let mut reader = store.reader();
    let mut seen = Vec::new();
    old.commit(&[payload(1), payload(2)]).unwrap();
    collect(&mut reader, store.frontier.load(), &mut seen).unwrap();
    // Whole on disk, but never known to be durable.
    disk.fail_syncs_after(0);
    old.commit(&[payload(3), payload(4)]).unwrap_err();
    disk.heal();
    assert_eq!(store.frontier.load(), 2);
    collect(&mut reader, store.frontier.load(), &mut seen).unwrap();
    assert_eq!(seen.len(), 2);

    let (records, end) = store.read(2).unwrap();
    assert_eq!((records.len(), &end.tail), (2, &vec![payload(3), payload(4)]));
    let mut new = store.take_over(&end).unwrap();
    assert_eq!((store.frontier.load(), new.next()), (4, 5));
    // A frame of the old epoch, behind the end that the new segment's header names.
    let path = segment_path(store.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    super::frame::encode(&mut bytes, 5, 1, 2, b"from the old writer");
    fs::write(&path, bytes).unwrap();
    new.commit(&[payload(5)]).unwrap();

    collect(&mut reader, store.frontier.load(), &mut seen).unwrap();
    assert_eq!(seen, (1..=5).map(payload).collect::<Vec<_>>());
    assert_eq!(store.read(5).unwrap().0, seen);
    assert_eq!(reader.epoch(), 2);
}

#[test]
fn after_a_failed_sync_or_write_nothing_more_is_taken_and_no_sync_is_tried_again() {
    for write in [false, true] {
        let disk = Arc::new(FaultyDisk::default());
        let mut store = Store::on(Arc::clone(&disk) as Arc<dyn Disk>);
        let mut log = store.first_writer();
        log.commit(&[payload(1)]).unwrap();
        if write {
            disk.fail_writes_after(10, EIO);
        } else {
            disk.fail_syncs_after(0);
        }
        let error = log.commit(&[payload(2)]).unwrap_err().to_string();
        assert!(error.contains("0000000000000001.seg"), "{error}");
        disk.heal();
        let syncs = disk.syncs();
        for _ in 0..3 {
            assert!(matches!(log.commit(&[payload(2)]).unwrap_err().cause(), Cause::Poisoned(_)));
            assert!(matches!(log.roll().unwrap_err().cause(), Cause::Poisoned(_)));
        }
        assert!(log.is_poisoned());
        assert_eq!((disk.syncs(), store.frontier.load()), (syncs, 1));
    }
}

#[test]
fn a_full_disk_refuses_the_group_whole_and_the_log_goes_on_once_there_is_room() {
    for room in 0..(3 * (FRAME_HEADER + payload(2).len())) as u64 {
        let disk = Arc::new(FaultyDisk::default());
        let mut store = Store::on(Arc::clone(&disk) as Arc<dyn Disk>);
        let mut log = store.first_writer();
        log.commit(&[payload(1)]).unwrap();
        disk.fail_writes_after(room, ENOSPC);
        for _ in 0..2 {
            let error = log.commit(&[payload(7), payload(8), payload(9)]).unwrap_err();
            assert!(matches!(error.cause(), Cause::Full { .. }), "{error}");
        }
        assert_eq!((log.next(), store.frontier.load(), log.is_poisoned()), (2, 1, false));
        disk.heal();
        log.commit(&[payload(2)]).unwrap();
        log.commit(&[payload(3)]).unwrap();
        let mut seen = Vec::new();
        collect(&mut store.reader(), 3, &mut seen).unwrap();
        assert_eq!(seen, (1..=3).map(payload).collect::<Vec<_>>());
        assert_eq!(store.read(0).unwrap().0.len(), 2);
    }
}

#[test]
fn a_follower_whose_segments_were_removed_is_told_so_and_one_at_their_end_goes_on() {
    let mut store = Store::new();
    let mut log = store.first_writer();
    let (mut slow, mut quick) = (store.reader(), store.reader());
    let mut seen = Vec::new();
    log.commit(&[payload(1)]).unwrap();
    collect(&mut quick, 1, &mut seen).unwrap();
    log.roll().unwrap();
    fs::remove_file(segment_path(store.path(), 1)).unwrap();
    log.commit(&[payload(2)]).unwrap();
    // The file is still open, and its successor is there.
    assert_eq!(collect(&mut quick, 2, &mut seen).unwrap(), Followed::UpToDate);
    assert_eq!(seen, [payload(1), payload(2)]);
    log.roll().unwrap();
    fs::remove_file(segment_path(store.path(), 2)).unwrap();
    assert_eq!(collect(&mut slow, 2, &mut vec![]).unwrap(), Followed::Removed);
    assert!(LogReader::open(store.path(), STORE, 2, 2).unwrap().is_none());
    let error = LogReader::open(store.path(), STORE, 3, 2).unwrap_err().to_string();
    assert!(error.contains("record 2 is needed"), "{error}");
}

#[test]
fn a_segment_that_does_not_follow_the_one_before_is_refused() {
    let mut store = Store::new();
    let mut log = store.first_writer();
    log.commit(&[payload(1), payload(2)]).unwrap();
    let before = LogEnd { durable: SegmentEnd { last: 1, ..log.end() }, tail: Vec::new(), torn: 0 };
    store.take_over(&before).unwrap();
    let error = store.read(2).unwrap_err().to_string();
    assert!(error.contains("0000000000000002.seg") && error.contains("follows record 1"), "{error}");

    fs::write(segment_path(store.path(), 3), b"garbage").unwrap();
    let error = super::segment::Segment::open(store.path(), 3, STORE).unwrap_err().to_string();
    assert!(error.contains("0000000000000003.seg is damaged"), "{error}");
}

#[test]
fn a_file_that_is_no_frontier_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("FRONTIER");
    for bytes in [&b"BITDEXFR"[..], b"", b"BITDEXXX00000000"] {
        fs::write(&path, bytes).unwrap();
        let error = Frontier::open(&path, true).unwrap_err().to_string();
        assert!(error.contains("FRONTIER is damaged"), "{error}");
    }
}

/// Any sequence of groups, rolls, crashes, power losses and changes of writers: what was committed is there, once, in
/// order, and a follower never sees anything else.
#[test]
fn committed_records_survive_everything() {
    let seed: u64 = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("SEED={seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..60 {
        let mut disk = Arc::new(FaultyDisk::default());
        let mut store = Store::on(Arc::clone(&disk) as Arc<dyn Disk>);
        store.segment_bytes = rng.random_range(100..3000);
        let mut log = store.first_writer();
        let mut reader = store.reader();
        let (mut committed, mut seen): (Vec<Vec<u8>>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
        for step in 0..40 {
            if rng.random_bool(0.2) {
                disk.crash_on_failure();
                if rng.random() {
                    disk.fail_writes_after(rng.random_range(0..600), EIO);
                } else {
                    disk.fail_syncs_after(rng.random_range(0..4));
                }
            }
            let group: Vec<Vec<u8>> =
                (0..rng.random_range(1..5)).map(|n| vec![step as u8; rng.random_range(1..100) + n]).collect();
            let result =
                if rng.random_bool(0.1) { log.roll() } else { log.commit(&group).map(|()| committed.extend(group)) };
            if result.is_err() || rng.random_bool(0.1) {
                drop(log);
                if rng.random() {
                    disk.lose_power(&mut rng);
                    // The word is not synced either; followers did not survive.
                    store.frontier.store(rng.random_range(0..=store.frontier.load()));
                    (reader, seen) = (store.reader(), Vec::new());
                }
                disk = Arc::new(FaultyDisk::default());
                store.disk = Arc::clone(&disk) as Arc<dyn Disk>;
                let (records, end) = store.read(store.frontier.load()).unwrap();
                let all: Vec<_> = records.iter().chain(&end.tail).cloned().collect();
                assert_eq!(all.get(..committed.len()), Some(&committed[..]), "a committed record is lost");
                log = store.take_over(&end).unwrap();
                // Records that were written but not acknowledged may stay.
                committed = all;
            }
            if rng.random_bool(0.6) {
                collect(&mut reader, store.frontier.load(), &mut seen).unwrap();
                assert_eq!(seen, committed);
            }
        }
        disk.heal();
        drop(log);
        let mut log = store.next_writer();
        log.commit(&[payload(0)]).unwrap();
        committed.push(payload(0));
        collect(&mut reader, store.frontier.load(), &mut seen).unwrap();
        assert_eq!(seen, committed);
    }
}
