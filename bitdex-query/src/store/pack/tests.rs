use std::fs;

use rand::{Rng as _, RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    log::{
        Cause,
        disk::{Disk, RealDisk},
        faults::{EIO, ENOSPC, FaultyDisk},
    },
    store::format,
    testing::seed,
};

const STORE: u128 = 7;

fn real() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

fn id(place: u16) -> SectionId {
    SectionId { kind: SectionKind::Header, place }
}

/// Sections of random lengths, written in random pieces.
fn write(path: &Path, stamp: Stamp, lengths: &[usize], rng: &mut ChaCha8Rng) -> Vec<Vec<u8>> {
    let mut writer = PackWriter::create(&real(), path, PackKind::Table, stamp).unwrap();
    let sections = lengths.iter().enumerate().map(|(place, length)| {
        let mut bytes = vec![0; *length];
        rng.fill_bytes(&mut bytes);
        writer.section(id(place as u16)).unwrap();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.random_range(1..=rest.len().min(3 << 20)));
            writer.write(now).unwrap();
            rest = later;
        }
        assert_eq!(writer.position(), *length as u64);
        bytes
    });
    let sections = sections.collect();
    let length = writer.finish().unwrap();
    assert_eq!(length, fs::metadata(path).unwrap().len());
    sections
}

#[test]
fn reads_what_was_written_in_both_formats() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let fixed: [&[usize]; 5] =
        [&[], &[0], &[0, 1, 0, 64, 63], &[BLOCK - 64, BLOCK, 1], &[(16 << 20) + 5, (1 << 20) - 64, 3]];
    for format in [format::OLDEST, format::NEWEST] {
        for lengths in fixed {
            let stamp = Stamp { store: STORE, format };
            let sections = write(&path, stamp, lengths, &mut rng);
            let pack = Pack::open(&path, PackKind::Table, STORE).unwrap().unwrap();
            assert_eq!(pack.stamp(), stamp);
            assert_eq!(pack.sections().len(), lengths.len());
            for (place, expected) in sections.iter().enumerate() {
                let section = pack.require(id(place as u16)).unwrap();
                assert_eq!(section.len(), expected.len());
                for _ in 0..20 {
                    let at = rng.random_range(0..=expected.len());
                    let length = rng.random_range(0..=expected.len() - at);
                    assert_eq!(section.bytes(at, length).unwrap(), &expected[at..at + length]);
                }
                let words = section.slice::<u64>(0, expected.len() / 8).unwrap();
                assert_eq!(bytemuck::cast_slice::<u64, u8>(words), &expected[..expected.len() / 8 * 8]);
            }
            assert!(pack.section(id(lengths.len() as u16)).is_none());
            pack.verify().unwrap();
        }
    }
    assert!(!temporary(folder.path()));
}

#[test]
fn ranges_outside_of_a_section_are_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    write(&path, STORE.into(), &[100, 200], &mut rng);
    let pack = Pack::open(&path, PackKind::Table, STORE).unwrap().unwrap();
    let section = pack.require(id(0)).unwrap();
    for (at, length) in [(0, 101), (101, 0), (100, 1), (1, 100), (usize::MAX, 1), (1, usize::MAX), (usize::MAX, 0)] {
        let error = section.bytes(at, length).unwrap_err().to_string();
        assert!(error.contains("is damaged at byte"), "{error}");
    }
    assert!(section.slice::<u64>(0, 13).is_err());
    assert!(section.slice::<u64>(0, usize::MAX).is_err());
    assert!(section.slice::<u64>(4, 1).is_err());
    assert_eq!(section.bytes(100, 0).unwrap(), b"");
    assert!(pack.require(id(2)).is_err());
}

#[test]
fn aligns_from_the_start_of_the_section() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let mut writer = PackWriter::create(&real(), &path, PackKind::Segment, STORE).unwrap();
    writer.section(id(0)).unwrap();
    writer.write(b"abc").unwrap();
    writer.section(id(1)).unwrap();
    writer.write(b"abc").unwrap();
    for (to, at) in [(1, 3), (2, 4), (2, 4), (64, 64)] {
        writer.align(to).unwrap();
        assert_eq!(writer.position(), at);
    }
    writer.finish().unwrap();
    let pack = Pack::open(&path, PackKind::Segment, STORE).unwrap().unwrap();
    assert_eq!(pack.require(id(0)).unwrap().len(), 3);
    let mut expected = [0; 64];
    expected[..3].copy_from_slice(b"abc");
    assert_eq!(pack.require(id(1)).unwrap().bytes(0, 64).unwrap(), expected);
}

#[test]
fn every_flipped_bit_is_detected_and_named() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("the-pack");
    for format in [format::OLDEST, format::NEWEST] {
        write(&path, Stamp { store: STORE, format }, &[70, 0, 300], &mut rng);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << rng.random_range(0..8);
            fs::write(&path, &bytes).unwrap();
            let opened = Pack::open(&path, PackKind::Table, STORE);
            let error = opened.and_then(|pack| pack.unwrap().verify()).unwrap_err().to_string();
            assert!(error.contains("the-pack"), "{error}");
        }
        for length in 0..good.len() {
            fs::write(&path, &good[..length]).unwrap();
            assert!(Pack::open(&path, PackKind::Table, STORE).is_err(), "cut at {length}");
        }
        fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(Pack::open(&path, PackKind::Table, STORE).is_err());
    }
}

#[test]
fn a_damaged_block_is_named_on_each_touch_and_the_others_are_served() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let sections = write(&path, STORE.into(), &[10 * BLOCK], &mut rng);
    let mut bytes = fs::read(&path).unwrap();
    // A page of the fourth block is torn.
    bytes[3 * BLOCK + 4096..3 * BLOCK + 8192].fill(0);
    fs::write(&path, bytes).unwrap();
    let pack = Pack::open(&path, PackKind::Table, STORE).unwrap().unwrap();
    let section = pack.require(id(0)).unwrap();
    for _ in 0..2 {
        for range in [2 * BLOCK..2 * BLOCK + 100, 4 * BLOCK..6 * BLOCK] {
            assert_eq!(section.bytes(range.start, range.len()).unwrap(), &sections[0][range]);
        }
        for range in [3 * BLOCK..3 * BLOCK + 1, 0..10 * BLOCK, 3 * BLOCK - 65..3 * BLOCK + 1] {
            let error = section.bytes(range.start, range.len()).unwrap_err();
            let Cause::Damaged { path: named, offset, .. } = error.cause() else { panic!("{error}") };
            assert_eq!((named, *offset), (&path, 3 * BLOCK as u64));
        }
    }
    assert!(pack.verify().is_err());
}

#[test]
fn another_kind_store_or_format_is_refused() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    assert!(Pack::open(&path, PackKind::Table, STORE).unwrap().is_none());
    write(&path, STORE.into(), &[10], &mut rng);
    let error = Pack::open(&path, PackKind::Segment, STORE).unwrap_err().to_string();
    assert!(error.contains("it is a table, not a segment"), "{error}");
    let error = Pack::open(&path, PackKind::Table, 8).unwrap_err().to_string();
    assert!(error.contains("belongs to store"), "{error}");
    for found in [format::OLDEST - 1, format::NEWEST + 1] {
        let mut bytes = fs::read(&path).unwrap();
        bytes[8..12].copy_from_slice(&found.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = Pack::open(&path, PackKind::Table, STORE).unwrap_err();
        assert!(matches!(error.cause(), Cause::Format { found: told, .. } if *told == found), "{error}");
    }
}

fn temporary(folder: &Path) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| entry.unwrap().path().extension().is_some_and(|name| name == "tmp"))
}

fn write_on(disk: &Arc<dyn Disk>, path: &Path, bytes: &[u8]) -> Result<u64> {
    let mut writer = PackWriter::create(disk, path, PackKind::Staged, STORE)?;
    writer.section(id(0))?;
    for piece in bytes.chunks(100_000) {
        writer.write(piece)?;
    }
    writer.finish()
}

#[test]
fn failed_writes_leave_nothing_behind() {
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let mut bytes = vec![0; 40 << 20];
    rng.fill_bytes(&mut bytes);
    for after in [0, 1, 63, (1 << 20) + 1, 39 << 20, bytes.len() as u64 + 100] {
        for errno in [EIO, ENOSPC] {
            let faulty = FaultyDisk::default();
            faulty.fail_writes_after(after, errno);
            let disk: Arc<dyn Disk> = Arc::new(faulty);
            let error = write_on(&disk, &path, &bytes).unwrap_err();
            assert_eq!(matches!(error.cause(), Cause::Full { .. }), errno == ENOSPC, "{error}");
            assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
        }
    }
    // Of three steps (two of 16 MiB and the last), and of the folder.
    for after in 0..4 {
        let faulty = FaultyDisk::default();
        faulty.fail_syncs_after(after);
        let disk: Arc<dyn Disk> = Arc::new(faulty);
        assert!(matches!(write_on(&disk, &path, &bytes).unwrap_err().cause(), Cause::Io { action: "sync", .. }));
        assert!(!temporary(folder.path()));
    }
    let disk = Arc::new(FaultyDisk::default());
    write_on(&(Arc::clone(&disk) as Arc<dyn Disk>), &path, &bytes).unwrap();
    assert_eq!(disk.syncs(), 4);
    assert!(Pack::open(&path, PackKind::Staged, STORE).unwrap().is_some());
}

#[test]
fn a_writer_that_failed_or_is_dropped_publishes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p");
    let disk = Arc::new(FaultyDisk::default());
    let mut writer = PackWriter::create(&(Arc::clone(&disk) as Arc<dyn Disk>), &path, PackKind::Staged, STORE).unwrap();
    assert!(writer.write(b"x").is_err());
    writer.section(id(0)).unwrap();
    assert!(writer.section(id(0)).is_err());
    disk.fail_writes_after(10, ENOSPC);
    assert!(matches!(writer.write(&vec![0; 3 << 20]).unwrap_err().cause(), Cause::Full { .. }));
    disk.heal();
    assert!(writer.finish().is_err());
    drop(PackWriter::create(&real(), &path, PackKind::Staged, STORE).unwrap());
    assert!(fs::read_dir(folder.path()).unwrap().next().is_none());
}
