use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
};

use bitdex_proto::value::{FieldType, Float, Value};
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use super::{
    columns::{Column, ColumnWriter, Place, SparseColumn},
    documents::{Documents, DocumentsWriter},
    postings::{Postings, PostingsWriter, Role},
    sets::{self, ARRAY_MAX, Block, BlockBuffer, WORDS},
    table::{Table, TableWriter},
    value::{Term, ValueRef},
};
use crate::{
    log::{
        Cause, Result,
        disk::{Disk, RealDisk},
    },
    store::pack::{Pack, PackKind, PackWriter, SectionId, SectionKind},
    testing::{scaled, seeded},
};

mod cells;
mod leaders;
mod orders;
mod overridden;
mod peaks;
mod segments;
mod tops;

const STORE: u128 = 7;

fn disk() -> Arc<dyn Disk> {
    Arc::new(RealDisk)
}

struct File {
    folder: tempfile::TempDir,
}

impl File {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pack")
    }

    fn write(&self, write: impl FnOnce(&mut PackWriter)) -> Arc<Pack> {
        let mut pack = PackWriter::create(&disk(), &self.path(), PackKind::Segment, STORE).unwrap();
        write(&mut pack);
        pack.finish().unwrap();
        self.open()
    }

    fn open(&self) -> Arc<Pack> {
        open(&self.path())
    }

    /// The same sections with other bytes here and there, and right checksums.
    fn garbled(&self, rng: &mut ChaCha8Rng) -> Arc<Pack> {
        let pack = self.open();
        let garbled = self.folder.path().join("garbled");
        let mut writer = PackWriter::create(&disk(), &garbled, PackKind::Segment, STORE).unwrap();
        for (kind, place, length) in pack.sections() {
            let id = SectionId { kind: SectionKind::of(kind).unwrap(), place };
            let mut bytes = pack.require(id).unwrap().bytes(0, length as usize).unwrap().to_vec();
            for _ in 0..rng.random_range(1..4) {
                // Half of the time where offsets stand.
                let most = if rng.random() { bytes.len() } else { bytes.len().min(400) };
                if most > 0 {
                    bytes[rng.random_range(0..most)] = rng.random();
                }
            }
            if rng.random_range(0..4) == 0 {
                bytes.truncate(rng.random_range(0..=bytes.len()));
            }
            writer.section(id).unwrap();
            writer.write(&bytes).unwrap();
        }
        writer.finish().unwrap();
        open(&garbled)
    }
}

fn open(path: &Path) -> Arc<Pack> {
    Pack::open(path, PackKind::Segment, STORE).unwrap().unwrap()
}

/// What was read, or nothing where it was found to be damaged; any other error fails.
fn intact<T>(result: Result<T>) -> Option<T> {
    match result {
        Ok(read) => Some(read),
        Err(error) if matches!(error.cause(), Cause::Damaged { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn ids_of(block: Block<'_>) -> Vec<u16> {
    let mut ids = Vec::new();
    block.for_each(|id| ids.push(id));
    ids
}

fn words_of(ids: &BTreeSet<u16>) -> Box<[u64; WORDS]> {
    let mut words = Box::new([0; WORDS]);
    for id in ids {
        words[usize::from(id / 64)] |= 1 << (id % 64);
    }
    words
}

/// Of any density, with runs and gaps.
fn random_ids(rng: &mut ChaCha8Rng) -> BTreeSet<u16> {
    match rng.random_range(0..6) {
        0 => BTreeSet::new(),
        1 => (0..rng.random_range(1..8)).map(|_| rng.random()).collect(),
        2 => {
            let first = rng.random_range(0..60_000);
            (first..=first + rng.random_range(0..5_000)).collect()
        }
        3 => (0..=u16::MAX).collect(),
        _ => {
            let share = rng.random_range(0.0..1.0_f64).powi(4);
            (0..=u16::MAX).filter(|_| rng.random_bool(share)).collect()
        }
    }
}

struct Set {
    ids: BTreeSet<u16>,
    array: Vec<u16>,
    words: Box<[u64; WORDS]>,
}

impl Set {
    fn new(ids: BTreeSet<u16>) -> Self {
        Self { array: ids.iter().copied().collect(), words: words_of(&ids), ids }
    }

    fn forms(&self) -> [Block<'_>; 2] {
        [Block::of(&self.array), Block::Bits(&self.words)]
    }
}

#[test]
fn kernels_agree_with_sets_in_every_pair_of_forms() {
    let mut rng = seeded();
    for _ in 0..scaled(60) {
        let (a, b) = (Set::new(random_ids(&mut rng)), Set::new(random_ids(&mut rng)));
        let and: Vec<u16> = a.ids.intersection(&b.ids).copied().collect();
        let or: Vec<u16> = a.ids.union(&b.ids).copied().collect();
        let and_not: Vec<u16> = a.ids.difference(&b.ids).copied().collect();
        let mut buffer = BlockBuffer::default();
        for x in a.forms() {
            assert_eq!(x.len() as usize, a.ids.len());
            assert_eq!(x.is_empty(), a.ids.is_empty());
            assert_eq!(x.iter().collect::<Vec<_>>(), a.array);
            assert_eq!(x.iter().rev().collect::<Vec<_>>(), a.array.iter().rev().copied().collect::<Vec<_>>());
            let n = rng.random_range(0..=a.array.len() as u32);
            assert_eq!(x.nth(n), a.array.get(n as usize).copied());
            let mut words = BTreeSet::new();
            x.for_each_word(|n, word| {
                words.extend((0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| (n * 64 + bit) as u16))
            });
            assert_eq!(words, a.ids);
            // From both ends at once.
            let (mut iter, mut low, mut high) = (x.iter(), Vec::new(), Vec::new());
            while let Some(id) = if rng.random() {
                iter.next().inspect(|id| low.push(*id))
            } else {
                iter.next_back().inspect(|id| high.push(*id))
            } {
                assert!(x.contains(id));
            }
            low.extend(high.iter().rev());
            assert_eq!(low, a.array);
            for y in b.forms() {
                assert_eq!(sets::and_len(x, y) as usize, and.len());
                assert_eq!(sets::or_len(x, y) as usize, or.len());
                assert_eq!(sets::and_not_len(x, y) as usize, and_not.len());
                assert_eq!(sets::intersects(x, y), !and.is_empty());
                buffer.set(x);
                buffer.and(y);
                assert_eq!(ids_of(buffer.block()), and);
                buffer.set_and(x, y);
                assert_eq!(ids_of(buffer.block()), and);
                buffer.set(x);
                buffer.or(y);
                assert_eq!(ids_of(buffer.block()), or);
                buffer.set_or(x, y);
                assert_eq!(ids_of(buffer.block()), or);
                buffer.set(x);
                buffer.and_not(y);
                assert_eq!(ids_of(buffer.block()), and_not);
                buffer.set_and_not(x, y);
                assert_eq!(ids_of(buffer.block()), and_not);
                assert_eq!(buffer.shrink() as usize, and_not.len());
                assert_eq!(ids_of(buffer.block()), and_not);
                match buffer.block() {
                    Block::Empty => assert!(and_not.is_empty()),
                    Block::Array(ids) => assert!((1..=ARRAY_MAX).contains(&ids.len())),
                    Block::Bits(_) => assert!(and_not.len() > ARRAY_MAX),
                }
            }
        }
    }
}

#[test]
fn buffers_follow_single_changes_and_wide_unions() {
    let mut rng = seeded();
    for _ in 0..scaled(20) {
        let first = random_ids(&mut rng);
        let mut model = first.clone();
        let mut buffer = BlockBuffer::default();
        buffer.set(Set::new(first).forms()[usize::from(rng.random::<bool>())]);
        for _ in 0..200 {
            let id = rng.random();
            if rng.random() {
                buffer.insert(id);
                model.insert(id);
            } else {
                buffer.remove(id);
                model.remove(&id);
            }
        }
        assert_eq!(ids_of(buffer.block()), model.iter().copied().collect::<Vec<_>>());
        let many: Vec<Set> = (0..rng.random_range(1..40))
            .map(|_| Set::new((0..rng.random_range(0..20)).map(|_| rng.random()).collect()))
            .collect();
        buffer.or_all(many.iter().map(|set| Block::of(&set.array)));
        model.extend(many.iter().flat_map(|set| &set.array));
        assert_eq!(ids_of(buffer.block()), model.iter().copied().collect::<Vec<_>>());
        buffer.clear();
        assert!(buffer.block().is_empty());
        buffer.fill();
        assert_eq!(buffer.block().len(), 65_536);
    }
}

fn random_value(rng: &mut ChaCha8Rng, ty: FieldType, spread: u32) -> Value {
    match ty {
        FieldType::Bool => Value::Bool(rng.random()),
        FieldType::Float => Value::Float(Float::new(f64::from_bits(rng.random()))),
        FieldType::String => Value::Text(
            (0..rng.random_range(0..12))
                .map(|_| ['a', 'b', 'é', '𝄞'][rng.random_range(0..4)])
                .collect::<String>()
                .into(),
        ),
        _ => Value::Int(rng.random::<i64>() >> spread),
    }
}

type Sets = BTreeMap<Option<Value>, BTreeMap<u16, BTreeSet<u16>>>;

fn random_sets(rng: &mut ChaCha8Rng, ty: FieldType) -> Sets {
    let mut sets = Sets::new();
    let spread = rng.random_range(0..62);
    if rng.random() {
        sets.insert(None, BTreeMap::new());
    }
    for _ in 0..rng.random_range(0..400) {
        sets.insert(Some(random_value(rng, ty, spread)), BTreeMap::new());
    }
    for set in sets.values_mut() {
        for _ in 0..[0, 1, 1, 1, 3, 20, 80][rng.random_range(0..7)] {
            let number = if rng.random() { rng.random_range(16..32) } else { rng.random() };
            let ids = match rng.random_range(0..200) {
                0 => random_ids(rng),
                1..20 => (0..rng.random_range(0..150)).map(|_| rng.random()).collect(),
                _ => (0..rng.random_range(0..5)).map(|_| rng.random()).collect(),
            };
            if !ids.is_empty() {
                set.insert(number, ids);
            }
        }
    }
    sets
}

fn term(value: Option<&Value>) -> Term<'_> {
    value.map_or(Term::Exists, |value| Term::Value(ValueRef::of(value)))
}

fn write_sets(pack: &mut PackWriter, sets: &Sets, field: usize, ty: FieldType) {
    let mut writer = PostingsWriter::new(Role::Held, field, ty);
    for (value, blocks) in sets {
        writer.term(term(value.as_ref()));
        for (number, ids) in blocks {
            let array: Vec<u16> = ids.iter().copied().collect();
            let words = words_of(ids);
            // The form that it is given in decides nothing.
            writer.block(*number, if ids.len() % 2 == 0 { Block::Array(&array) } else { Block::Bits(&words) });
            writer.block(*number, Block::Empty);
        }
    }
    writer.finish(pack).unwrap();
}

const TYPES: [FieldType; 4] = [FieldType::Int, FieldType::Bool, FieldType::Float, FieldType::String];

#[test]
fn sets_come_back_as_they_were_written() {
    let mut rng = seeded();
    for round in 0..scaled(24) {
        let ty = TYPES[round % 4];
        let mut sets = random_sets(&mut rng, ty);
        let file = File::new();
        let pack = file.write(|pack| write_sets(pack, &sets, 3, ty));
        sets.retain(|_, blocks| !blocks.is_empty());
        let postings = Postings::open(&pack, Role::Held, 3, ty).unwrap();
        assert!(Postings::open(&pack, Role::Added, 3, ty).unwrap().is_none());
        let Some(postings) = postings else {
            assert!(sets.is_empty());
            continue;
        };
        assert_eq!(postings.len(), sets.len());
        for (position, (value, blocks)) in sets.iter().enumerate() {
            let (found, _) = postings.at(position).unwrap();
            assert_eq!(found, term(value.as_ref()));
            let posting = postings.get(term(value.as_ref())).unwrap().unwrap();
            assert_eq!(posting.len(), blocks.values().map(|ids| ids.len() as u64).sum::<u64>());
            assert_eq!(posting.blocks(), blocks.len());
            for (n, (number, ids)) in blocks.iter().enumerate() {
                let ids: Vec<u16> = ids.iter().copied().collect();
                let (found, block) = posting.nth(n).unwrap();
                assert_eq!((found, ids_of(block)), (*number, ids.clone()));
                assert!(matches!(block, Block::Bits(_)) == (ids.len() > ARRAY_MAX));
                assert_eq!(ids_of(posting.block(*number).unwrap()), ids);
                assert_eq!(posting.block_len(*number).unwrap() as usize, ids.len());
                let other = number.wrapping_add(1);
                assert_eq!(posting.block_len(other).unwrap() as usize, blocks.get(&other).map_or(0, BTreeSet::len));
                assert_eq!(posting.block(other).unwrap().is_empty(), !blocks.contains_key(&other));
            }
            assert!(posting.nth(blocks.len()).is_err());
        }
        for _ in 0..100 {
            let spread = rng.random_range(0..62);
            let [low, high] = [(); 2].map(|()| {
                match (rng.random_range(0..4), sets.keys().flatten().nth(rng.random_range(0..=sets.len()))) {
                    (0, _) => Bound::Unbounded,
                    (1, Some(value)) => Bound::Included(value.clone()),
                    (2, Some(value)) => Bound::Excluded(value.clone()),
                    _ => Bound::Included(random_value(&mut rng, ty, spread)),
                }
            });
            let within = |value: &Value| {
                (match &low {
                    Bound::Unbounded => true,
                    Bound::Included(low) => value >= low,
                    Bound::Excluded(low) => value > low,
                }) && match &high {
                    Bound::Unbounded => true,
                    Bound::Included(high) => value <= high,
                    Bound::Excluded(high) => value < high,
                }
            };
            let expected: Vec<usize> = sets
                .keys()
                .enumerate()
                .filter(|(_, value)| value.as_ref().is_some_and(within))
                .map(|(n, _)| n)
                .collect();
            let range = postings.range((low.as_ref(), high.as_ref())).unwrap();
            assert_eq!(range.collect::<Vec<_>>(), expected);
            let value = random_value(&mut rng, ty, spread);
            assert_eq!(postings.get(term(Some(&value))).unwrap().is_some(), sets.contains_key(&Some(value)));
        }
    }
}

#[test]
fn three_hundred_thousand_terms_take_few_bytes() {
    let file = File::new();
    let pack = file.write(|pack| {
        let mut writer = PostingsWriter::new(Role::Held, 1, FieldType::Int);
        for n in 0..300_000_u32 {
            writer.term(Term::Value(ValueRef::Int(i64::from(n) * 3 - 70)));
            let ids: Vec<u16> = (0..3).map(|i| (n * 3 + i) as u16).collect();
            writer.block((n / 20_000) as u16, Block::Array(&ids));
        }
        writer.finish(pack).unwrap();
    });
    // Six of ids, two of the block's number, and the directory.
    assert!(pack.len() < 300_000 * (6 + 2 + 4), "{} bytes", pack.len());
    let postings = Postings::open(&pack, Role::Held, 1, FieldType::Int).unwrap().unwrap();
    assert!(postings.get(Term::Value(ValueRef::Int(0))).unwrap().is_none());
    let posting = postings.get(Term::Value(ValueRef::Int(299_999 * 3 - 70))).unwrap().unwrap();
    assert_eq!(posting.len(), 3);
}

fn random_codes(rng: &mut ChaCha8Rng) -> BTreeMap<u32, u64> {
    let mut codes = BTreeMap::new();
    let share = rng.random_range(0.0..1.0_f64);
    let (width, scale) = (rng.random_range(0..=64), [1, 1, 1_000][rng.random_range(0..3)]);
    let base = rng.random::<u64>();
    for block in 0..4_u32 {
        if rng.random_range(0..4) == 0 {
            continue;
        }
        for id in 0..[200, 65_536][rng.random_range(0..2)] {
            if share > 0.9 || rng.random_bool(share) {
                let delta = if width == 0 { 0 } else { rng.random::<u64>() >> (64 - width) };
                codes.insert(block << 16 | id, base.wrapping_add(delta.wrapping_mul(scale)));
            }
        }
    }
    if rng.random_range(0..4) == 0 {
        codes.extend([(70_000, 0), (70_001, u64::MAX), (70_002, 1)]);
    }
    codes
}

/// A column of a segment, written and opened.
fn dense_column(file: &File, segment: u32, codes: &BTreeMap<u32, u64>) -> Column {
    let pack = file.write(|pack| {
        let mut writer = ColumnWriter::dense(4, segment);
        codes.iter().for_each(|(id, code)| writer.push(*id, Some(*code)));
        writer.finish(pack).unwrap();
    });
    Column::open(&pack, 4).unwrap().unwrap()
}

#[test]
fn columns_come_back_as_they_were_written() {
    let mut rng = seeded();
    for _ in 0..scaled(12) {
        let segment = rng.random_range(0..4096_u32);
        let codes: BTreeMap<u32, u64> =
            random_codes(&mut rng).into_iter().map(|(id, code)| (segment << 20 | id, code)).collect();
        let file = File::new();
        let pack = file.write(|pack| {
            let mut writer = ColumnWriter::dense(5, segment);
            codes.iter().for_each(|(id, code)| writer.push(*id, Some(*code)));
            writer.push(segment << 20 | 0xf_ffff, None);
            writer.finish(pack).unwrap();
        });
        let column = Column::open(&pack, 5).unwrap().unwrap();
        assert_eq!(column.len(), codes.len());
        let mut order: Vec<(u64, u32)> = codes.iter().map(|(id, code)| (*code, *id)).collect();
        order.sort_unstable();
        let mut pairs = Vec::new();
        column.ranked_pairs(0..column.len(), &mut pairs).unwrap();
        assert_eq!(pairs, order);
        let mut decoded = Vec::new();
        for block in 0..16 {
            let block = (segment << 4 | block) as u16;
            column.block(block, &mut decoded).unwrap();
            assert_eq!(decoded.len(), 65_536);
            let of_block: Vec<(u32, u64)> = codes
                .range(u32::from(block) << 16..=u32::from(block) << 16 | 0xffff)
                .map(|(id, code)| (*id, *code))
                .collect();
            let bounds = column.bounds(block).unwrap();
            assert_eq!(bounds.count as usize, of_block.len());
            if let Some(min) = of_block.iter().map(|(_, code)| *code).min() {
                assert_eq!(bounds.min, min);
                assert_eq!(bounds.max, of_block.iter().map(|(_, code)| *code).max().unwrap());
            }
            let reader = column.reader(block).unwrap();
            for (id, code) in &of_block {
                assert_eq!(decoded[*id as usize & 0xffff], *code);
                assert_eq!(reader.get(*id as u16), Some(*code));
            }
        }
        for _ in 0..500 {
            let id = segment << 20 | rng.random_range(0..1 << 20);
            assert_eq!(column.get(id).unwrap(), codes.get(&id).copied());
            assert_eq!(column.reader((id >> 16) as u16).unwrap().get(id as u16), codes.get(&id).copied());
            let Some(&(code, id)) = order.get(rng.random_range(0..=order.len())) else { continue };
            let code = [code, code.wrapping_add(1), rng.random()][rng.random_range(0..3)];
            let id = [id, id.wrapping_add(1), 0, u32::MAX][rng.random_range(0..4)];
            let rank = order.partition_point(|pair| *pair < (code, id));
            assert_eq!(column.rank(code, id).unwrap(), rank);
            let remembered = [rank, rank + 1, rank.saturating_sub(1), rng.random_range(0..=order.len() + 1)];
            let remembered = remembered[rng.random_range(0..4)];
            column.remember(remembered);
            let pair = |rank: Option<usize>| rank.and_then(|rank| order.get(rank)).copied();
            let place = Place { rank, before: pair(rank.checked_sub(1)), behind: pair(Some(rank)) };
            assert_eq!(column.remembered(code, id).unwrap(), (remembered == rank).then_some(place));
            let lower = order.partition_point(|(other, _)| *other < code);
            let about = column.rank_about(code).unwrap();
            assert!((about - lower as f64).abs() <= 256.0, "{code}: {about}, {lower}");
            if rank < order.len() {
                assert_eq!(column.ranked(rank).unwrap(), order[rank].1);
            }
        }
        assert!(column.ranked(order.len()).is_err());
    }
}

#[test]
fn sparse_columns_come_back_as_they_were_written() {
    let mut rng = seeded();
    for _ in 0..scaled(20) {
        let mut codes = BTreeMap::new();
        for _ in 0..rng.random_range(1..3000) {
            codes.insert(
                rng.random::<u32>() >> rng.random_range(0..20),
                rng.random_bool(0.7).then(|| rng.random_range(0..500)),
            );
        }
        let file = File::new();
        let pack = file.write(|pack| {
            let mut writer = ColumnWriter::sparse(5);
            codes.iter().for_each(|(id, code)| writer.push(*id, *code));
            writer.finish(pack).unwrap();
        });
        let column = SparseColumn::open(&pack, 5).unwrap().unwrap();
        if rng.random() {
            column.warm(None).unwrap();
        }
        for _ in 0..20 {
            let number: u16 = rng.random();
            let within = u32::from(number) << 16..=u32::from(number) << 16 | 0xffff;
            let is_there = column.overridden(number).unwrap().is_some();
            assert_eq!(is_there, codes.range(within).next().is_some(), "{number}");
        }
        let mut order: Vec<(u64, u32)> = codes.iter().filter_map(|(id, code)| Some(((*code)?, *id))).collect();
        order.sort_unstable();
        assert_eq!((column.len(), column.values()), (codes.len(), order.len()));
        for (n, (id, code)) in codes.iter().enumerate() {
            assert_eq!(column.nth(n).unwrap(), (*id, *code));
            assert_eq!(column.get(*id).unwrap(), Some(*code));
        }
        for (rank, pair) in order.iter().enumerate() {
            assert_eq!(column.ranked(rank).unwrap(), *pair);
            assert_eq!(column.rank(pair.0, pair.1).unwrap(), rank);
        }
        for _ in 0..200 {
            let id = rng.random::<u32>() >> rng.random_range(0..20);
            assert_eq!(column.get(id).unwrap(), codes.get(&id).copied());
            assert_eq!(column.position(id).unwrap(), codes.range(..id).count());
        }
    }
}

type Rows = BTreeMap<u32, Vec<Option<Vec<u8>>>>;

fn random_row(rng: &mut ChaCha8Rng) -> Option<Vec<u8>> {
    let length = match rng.random_range(0..2000) {
        0 => 70_000,
        1..40 => rng.random_range(100..400),
        _ => rng.random_range(0..20),
    };
    rng.random_bool(0.6).then(|| (0..length).map(|_| rng.random()).collect())
}

fn random_rows(rng: &mut ChaCha8Rng, slots: usize) -> Rows {
    let share = rng.random_range(0.01..1.0_f64);
    let mut rows = Rows::new();
    for first in [0, rng.random_range(0..1 << 20), (1 << 20) - 300] {
        for id in first..(first + 300).min(1 << 20) {
            if rng.random_bool(share) {
                rows.insert(id, (0..slots).map(|_| random_row(rng)).collect());
            }
        }
    }
    rows
}

fn borrowed(row: &[Option<Vec<u8>>]) -> Vec<Option<&[u8]>> {
    row.iter().map(Option::as_deref).collect()
}

fn write_documents(pack: &mut PackWriter, segment: u32, slots: usize, rows: &Rows) {
    let mut writer = DocumentsWriter::new(pack, segment, slots).unwrap();
    for (id, row) in rows {
        writer.push(pack, segment << 20 | id, &borrowed(row)).unwrap();
    }
    writer.finish(pack).unwrap();
}

#[test]
fn documents_come_back_as_they_were_written() {
    let mut rng = seeded();
    for _ in 0..scaled(20) {
        let (segment, slots) = (rng.random_range(0..4096_u32), rng.random_range(1..20));
        let mut rows = random_rows(&mut rng, slots);
        let file = File::new();
        let pack = file.write(|pack| write_documents(pack, segment, slots, &rows));
        rows.retain(|_, row| row.iter().any(Option::is_some));
        assert!(intact(Documents::open(&pack, segment ^ 1, slots)).is_none());
        let documents = Documents::open(&pack, segment, slots).unwrap();
        let (mut next, mut found) = (0, Vec::new());
        while let Some(id) = documents.next(next).unwrap() {
            found.push(id & 0xf_ffff);
            let Some(after) = id.checked_add(1) else { break };
            next = after;
        }
        assert_eq!(found, rows.keys().copied().collect::<Vec<_>>());
        for id in rows.keys().copied().chain((0..100).map(|_| rng.random_range(0..1 << 20))) {
            let expected = rows.get(&id).map(|row| borrowed(row));
            let found = documents.get(segment << 20 | id).unwrap();
            assert_eq!(found.as_deref(), expected.as_deref());
            for slot in 0..slots {
                let row = documents.slot(segment << 20 | id, slot).unwrap();
                assert_eq!(row, expected.as_ref().and_then(|row| row[slot]));
            }
        }
        assert!(documents.get((segment ^ 1) << 20).unwrap().is_none());
    }
}

#[test]
fn tables_come_back_as_they_were_written() {
    let mut rng = seeded();
    for _ in 0..scaled(20) {
        let mut rows = BTreeMap::new();
        for _ in 0..rng.random_range(0..2000) {
            let place = rng.random_range(0..4_u16) * 7;
            rows.insert((place, rng.random::<i64>() >> rng.random_range(0..60)), random_row(&mut rng));
        }
        rows.insert((7, i64::MIN), None);
        rows.insert((7, i64::MAX), Some(Vec::new()));
        let file = File::new();
        let pack = file.write(|pack| {
            let mut writer = TableWriter::new(pack).unwrap();
            for ((place, key), row) in &rows {
                writer.push(pack, *place, *key, row.as_deref()).unwrap();
            }
            writer.finish(pack).unwrap();
        });
        let table = Table::open(&pack).unwrap();
        assert_eq!(table.len(), rows.len());
        for (n, ((place, key), row)) in rows.iter().enumerate() {
            assert_eq!(table.at(n).unwrap(), (*key, row.as_deref()));
            assert_eq!(table.get(*place, *key).unwrap(), Some(row.as_deref()));
        }
        assert!(table.at(rows.len()).is_err());
        for _ in 0..200 {
            let place = rng.random_range(0..30);
            let [first, last] = [(); 2].map(|()| rng.random::<i64>() >> rng.random_range(0..60));
            assert_eq!(table.get(place, first).unwrap(), rows.get(&(place, first)).map(Option::as_deref));
            let keys: Vec<i64> = table.range(place, first, last).unwrap().map(|n| table.at(n).unwrap().0).collect();
            let expected: Vec<i64> =
                rows.keys().filter(|(at, key)| *at == place && (first..=last).contains(key)).map(|key| key.1).collect();
            assert_eq!(keys, expected);
        }
        assert_eq!(table.range(7, i64::MIN, i64::MAX).unwrap().len(), rows.keys().filter(|key| key.0 == 7).count());
    }
}

/// Reads all there is, of files with wrong bytes and right checksums: an answer or damage, and never a panic.
#[test]
fn garbled_files_are_damaged_or_readable() {
    let mut rng = seeded();
    for _ in 0..scaled(8) {
        let ty = TYPES[rng.random_range(0..4)];
        let (sets, codes, rows) = (random_sets(&mut rng, ty), random_codes(&mut rng), random_rows(&mut rng, 9));
        let file = File::new();
        file.write(|pack| {
            write_documents(pack, 0, 9, &rows);
            write_sets(pack, &sets, 1, ty);
            let (mut dense, mut sparse) = (ColumnWriter::dense(2, 0), ColumnWriter::sparse(3));
            for (id, code) in codes.iter().take(70_000) {
                dense.push(*id, Some(*code));
                sparse.push(*id, (code % 3 > 0).then_some(*code));
            }
            dense.finish(pack).unwrap();
            sparse.finish(pack).unwrap();
            let mut follows = ColumnWriter::dense(4, 0);
            (0..70_000)
                .for_each(|id| follows.push(id, Some(u64::from(id) * 9 + if id % 97 == 0 { 1 << 20 } else { 0 })));
            follows.finish(pack).unwrap();
            let mut table = TableWriter::new(pack).unwrap();
            for (id, row) in &rows {
                table.push(pack, 4, (*id).into(), row[0].as_deref()).unwrap();
            }
            table.finish(pack).unwrap();
        });
        let mut buffer = BlockBuffer::default();
        for _ in 0..30 {
            let pack = file.garbled(&mut rng);
            if let Some(Some(postings)) = intact(Postings::open(&pack, Role::Held, 1, ty)) {
                for position in 0..postings.len() {
                    let Some((_, posting)) = intact(postings.at(position)) else { continue };
                    for n in 0..posting.blocks().min(50) {
                        let Some((number, block)) = intact(posting.nth(n)) else { continue };
                        buffer.and(block);
                        buffer.or(block);
                        buffer.and_not(block);
                        buffer.or(block);
                        intact(posting.block(number));
                        intact(posting.block_len(number));
                    }
                }
                for value in sets.keys() {
                    intact(postings.get(term(value.as_ref())));
                }
            }
            for column in [2, 4].into_iter().filter_map(|field| intact(Column::open(&pack, field))?) {
                intact(column.agrees());
                if let Some(tops) = column.tops() {
                    intact(tops.descending());
                }
                for block in 0..16 {
                    intact(column.block_tops(block));
                    for few in [false, true] {
                        intact(column.block_peaks(block, rng.random::<u64>() >> rng.random_range(0..64), few));
                    }
                    intact(column.bounds(block));
                    intact(column.block(block, &mut Vec::new()));
                    if let Some(reader) = intact(column.reader(block)) {
                        assert!((0..100).filter_map(|_| reader.get(rng.random())).count() <= 100);
                    }
                }
                for _ in 0..100 {
                    intact(column.get(rng.random_range(0..1 << 20)));
                    intact(column.rank(rng.random(), rng.random()));
                    intact(column.ranked(rng.random_range(0..=column.len())));
                }
            }
            if let Some(Some(column)) = intact(SparseColumn::open(&pack, 3)) {
                for _ in 0..100 {
                    let n = rng.random_range(0..=column.len());
                    intact(column.get(n as u32));
                    intact(column.nth(n));
                    intact(column.ranked(n));
                    intact(column.position(n as u32));
                    intact(column.rank(rng.random(), n as u32));
                }
            }
            if let Some(documents) = intact(Documents::open(&pack, 0, 9)) {
                for id in rows.keys().copied().chain([0, 5, u32::MAX]) {
                    intact(documents.get(id));
                    intact(documents.slot(id, 3));
                    intact(documents.next(id));
                }
            }
            if let Some(table) = intact(Table::open(&pack)) {
                for position in (0..table.len()).take(1000) {
                    intact(table.at(position));
                }
                for id in rows.keys() {
                    intact(table.get(4, (*id).into()));
                    intact(table.range(4, (*id).into(), i64::MAX));
                }
            }
        }
    }
}
