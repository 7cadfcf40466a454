//! Lists of the first ids of terms against the values that they follow from.

use rand::RngExt as _;

use super::*;
use crate::{
    segment::{
        Index, Spec,
        builder::SegmentBuilder,
        leaders::{IDS_LEAST, MOST, ONE_IN},
        segment::Segment,
    },
    store::format::{self, Stamp},
};

const SEGMENT: u32 = 3;
const OWNER: usize = 1;
const TAGS: usize = 2;
/// Columns: of counts, of numbers, of what follows the ids, of texts.
const COUNT: usize = 3;
const PRICE: usize = 4;
const AT: usize = 5;
const TITLE: usize = 6;

fn spec() -> Spec {
    let fields = vec![
        (Index::None, FieldType::Int),
        (Index::Terms, FieldType::Int),
        (Index::Terms, FieldType::String),
        (Index::Column, FieldType::Int),
        (Index::Column, FieldType::Decimal(2)),
        (Index::Column, FieldType::Timestamp),
        (Index::Column, FieldType::String),
    ];
    Spec { slots: 1, fields }
}

#[derive(Default)]
struct Documents {
    present: u64,
    owners: BTreeMap<i64, Vec<u32>>,
    tags: BTreeMap<String, Vec<u32>>,
    counts: BTreeMap<u32, i64>,
    prices: BTreeMap<u32, i64>,
}

fn random_segment(rng: &mut ChaCha8Rng, file: &File, format: u32) -> (Segment, Documents) {
    let stamp = Stamp { store: STORE, format };
    let mut builder = SegmentBuilder::create(&disk(), &file.path(), stamp, &spec(), SEGMENT, 1).unwrap();
    let mut all = Documents::default();
    for n in (0..30_000).map(|n| n * 7) {
        let (id, present) = (SEGMENT << 20 | n, rng.random_ratio(9, 10));
        builder.document(id, &[None], present).unwrap();
        if !present {
            continue;
        }
        all.present += 1;
        let skewed = |rng: &mut ChaCha8Rng, most: f64| (rng.random_range(0.0..1.0_f64).powi(4) * most) as i64;
        let owner = skewed(rng, 500.0);
        builder.value(OWNER, ValueRef::Int(owner));
        all.owners.entry(owner).or_default().push(id);
        for tag in BTreeSet::from([skewed(rng, 200.0), skewed(rng, 200.0)]) {
            let tag = format!("tag {tag:03}");
            builder.value(TAGS, ValueRef::Text(&tag));
            all.tags.entry(tag).or_default().push(id);
        }
        let count = if rng.random() { 0 } else { skewed(rng, 1e6) };
        builder.value(COUNT, ValueRef::Int(count));
        all.counts.insert(id, count);
        if rng.random_ratio(3, 4) {
            let price = rng.random_range(-8..8);
            builder.value(PRICE, ValueRef::Int(price));
            all.prices.insert(id, price);
        }
        builder.value(AT, ValueRef::Int(n.into()));
        builder.value(TITLE, ValueRef::Text(["one", "other"][rng.random_range(0..2)]));
    }
    builder.finish(0).unwrap();
    (Segment::open(&file.path(), STORE, &spec()).unwrap().unwrap(), all)
}

/// The list of a column, and the ids that it should have.
fn compare(segment: &Segment, term: Term<'_>, field: usize, ids: &[u32], (all, rows): (&Documents, [usize; 2])) {
    let posting = segment.posting(field, term).unwrap().unwrap();
    let has_lists = ids.len() as u64 >= IDS_LEAST && ids.len() as u64 <= all.present / ONE_IN;
    for (column, values) in rows.into_iter().zip([&all.counts, &all.prices]) {
        let listed = posting.leaders(column).unwrap();
        assert_eq!(listed.is_some(), has_lists, "{term:?} of {} ids", ids.len());
        let Some(listed) = listed else { continue };
        let least = *values.values().min().unwrap();
        let mut expected: Vec<(i64, u32)> = ids.iter().filter_map(|id| Some((*values.get(id)?, *id))).collect();
        expected.retain(|(value, _)| *value > least);
        expected.sort_by(|a, b| b.cmp(a));
        let expected: Vec<u32> = expected.into_iter().take(MOST).map(|(_, id)| id).collect();
        let found: Vec<u32> = listed.as_chunks().0.iter().map(|id| segment.column(column).unwrap().id(*id)).collect();
        assert_eq!(found, expected, "{term:?}, column {column}");
    }
    for column in [AT, TITLE] {
        assert_eq!(posting.leaders(column).unwrap(), None, "column {column}");
    }
}

#[test]
fn lists_have_the_first_ids_of_terms_in_their_order() {
    let mut rng = seeded();
    for _ in 0..scaled(3) {
        let file = File::new();
        let (segment, all) = random_segment(&mut rng, &file, format::LEADERS);
        for (owner, ids) in &all.owners {
            compare(&segment, Term::Value(ValueRef::Int(*owner)), OWNER, ids, (&all, [COUNT, PRICE]));
        }
        for (tag, ids) in &all.tags {
            compare(&segment, Term::Value(ValueRef::Text(tag)), TAGS, ids, (&all, [COUNT, PRICE]));
        }
        assert_eq!(segment.posting(OWNER, Term::Exists).unwrap().unwrap().leaders(COUNT).unwrap(), None);
        assert!((0..spec().fields.len()).all(|field| segment.leaders_agree(field).unwrap()));
    }
}

#[test]
fn lists_that_do_not_follow_from_the_values_are_found() {
    let mut rng = seeded();
    let file = File::new();
    random_segment(&mut rng, &file, format::LEADERS);
    let (pack, forged) = (file.open(), file.folder.path().join("forged"));
    let mut writer = PackWriter::create(&disk(), &forged, PackKind::Segment, STORE).unwrap();
    for (kind, place, length) in pack.sections() {
        let id = SectionId { kind: SectionKind::of(kind).unwrap(), place };
        let mut bytes = pack.require(id).unwrap().bytes(0, length as usize).unwrap().to_vec();
        if id == SectionId::of(SectionKind::Leaders, OWNER) {
            // Behind two parts' places, two columns, and how many ids the first two lists have, the first id.
            bytes[128 + 8] ^= 1;
        }
        writer.section(id).unwrap();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
    let segment = Segment::open(&forged, STORE, &spec()).unwrap().unwrap();
    assert!(!segment.leaders_agree(OWNER).unwrap());
    assert!(segment.leaders_agree(TAGS).unwrap());
}

#[test]
fn garbled_lists_are_damaged_or_readable() {
    let mut rng = seeded();
    let file = File::new();
    let (_, all) = random_segment(&mut rng, &file, format::LEADERS);
    for _ in 0..scaled(60) {
        let garbled = file.garbled(&mut rng);
        // Its header may speak of another definition.
        let Ok(Some(segment)) = Segment::open(garbled.path(), STORE, &spec()) else { continue };
        for (field, values) in [(OWNER, all.owners.len()), (TAGS, all.tags.len())] {
            for posting in (0..values).filter_map(|at| intact(segment.postings(field)?.set_at(at))) {
                for column in [COUNT, PRICE, AT] {
                    intact(posting.leaders(column));
                }
            }
            intact(segment.leaders_agree(field));
        }
    }
}

#[test]
fn the_format_before_has_no_lists() {
    let mut rng = seeded();
    let file = File::new();
    let (segment, all) = random_segment(&mut rng, &file, format::LEADERS - 1);
    for owner in all.owners.keys() {
        let posting = segment.posting(OWNER, Term::Value(ValueRef::Int(*owner))).unwrap().unwrap();
        assert_eq!(posting.leaders(COUNT).unwrap(), None);
    }
    assert!(segment.leaders_agree(OWNER).unwrap());
}
