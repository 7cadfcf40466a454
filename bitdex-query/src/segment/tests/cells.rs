//! Cells against the documents that they are of.

use rand::RngExt as _;

use super::*;
use crate::segment::{Index, Spec, builder::SegmentBuilder, segment::Segment};

const SEGMENT: u32 = 2;
const LEVEL: usize = 1;
const KIND: usize = 2;
const FLAGS: usize = 3;
const OWNER: usize = 4;
const AT: usize = 5;
/// No document has a value of it.
const NOTHING: usize = 6;
/// A day, in microseconds.
const DAY: i64 = 24 * 3600 * 1_000_000;

struct Document {
    id: u32,
    level: Option<i64>,
    kind: Option<usize>,
    at: i64,
}

fn spec() -> Spec {
    let fields = vec![
        (Index::None, FieldType::Int),
        (Index::Terms, FieldType::Int),
        (Index::Terms, FieldType::String),
        (Index::Terms, FieldType::Bool),
        (Index::Terms, FieldType::Int),
        (Index::Column, FieldType::Timestamp),
        (Index::Terms, FieldType::Bool),
    ];
    Spec { slots: 1, fields }
}

/// Levels up to `levels` and 30 kinds, most of them rare.
fn random_segment(rng: &mut ChaCha8Rng, file: &File, levels: f64) -> (Segment, Vec<Document>) {
    let mut builder = SegmentBuilder::create(&disk(), &file.path(), STORE, &spec(), SEGMENT, 1).unwrap();
    let mut documents = Vec::new();
    for n in (0..200_000).filter(|n| n >> 16 != 1) {
        let (id, present) = (SEGMENT << 20 | n, rng.random_ratio(9, 10));
        builder.document(id, &[None], present).unwrap();
        if !present {
            continue;
        }
        let skewed = |rng: &mut ChaCha8Rng, most: f64| (rng.random_range(0.0..1.0_f64).powi(4) * most) as usize;
        let level = rng.random_ratio(9, 10).then(|| skewed(rng, levels) as i64);
        let kind = rng.random_ratio(1, 2).then(|| skewed(rng, 30.0));
        let late = if rng.random_ratio(1, 200) { rng.random_range(0..3 * DAY) } else { -rng.random_range(0..DAY) };
        let at = 10 * DAY + late;
        level.into_iter().for_each(|level| builder.value(LEVEL, ValueRef::Int(level)));
        kind.into_iter().for_each(|kind| builder.value(KIND, ValueRef::Text(&format!("kind {kind:02}"))));
        // Now and then both.
        builder.value(FLAGS, ValueRef::Bool(rng.random()));
        builder.value(FLAGS, ValueRef::Bool(rng.random()));
        builder.value(OWNER, ValueRef::Int(rng.random_range(0..100)));
        builder.value(AT, ValueRef::Int(at));
        documents.push(Document { id, level, kind, at });
    }
    builder.finish(0).unwrap();
    (Segment::open(&file.path(), STORE, &spec()).unwrap().unwrap(), documents)
}

#[test]
fn cells_tell_what_documents_of_few_values_have() {
    let mut rng = seeded();
    let file = File::new();
    let (segment, documents) = random_segment(&mut rng, &file, 20.0);
    let cells = segment.cells(&[LEVEL, KIND, FLAGS, OWNER, NOTHING]).unwrap();
    for (field, is) in [(LEVEL, true), (KIND, true), (FLAGS, false), (OWNER, false), (NOTHING, true)] {
        assert_eq!(cells.field(field).is_some(), is, "field {field}");
    }
    let column = segment.column(AT).unwrap();
    for _ in 0..20 {
        let (most, kind, at) = (rng.random_range(0..20), rng.random_range(0..30), rng.random_range(10 * DAY..13 * DAY));
        let no_kind = rng.random::<bool>();
        let passes = |document: &&Document| {
            document.level.is_some_and(|level| level <= most)
                && (document.kind.is_none() == no_kind || document.kind == Some(kind))
        };
        let mut mask = cells.all();
        let mut keep = |passing: &dyn Fn(Option<&Value>) -> bool, field: usize| {
            let of_field = cells.field(field).unwrap();
            let values = of_field.values().filter(|(value, _)| passing(Some(value))).map(|(_, mask)| mask);
            let masks: Vec<&[u64]> = values.chain(passing(None).then_some(of_field.none())).collect();
            for (n, word) in mask.iter_mut().enumerate() {
                *word &= masks.iter().fold(0, |all, mask| all | mask[n]);
            }
        };
        keep(&|value| matches!(value, Some(Value::Int(level)) if *level <= most), LEVEL);
        let wanted = Value::Text(format!("kind {kind:02}").into());
        keep(&|value| value.is_none() == no_kind || value == Some(&wanted), KIND);
        let found: Vec<&Document> = documents.iter().filter(passes).collect();
        assert_eq!(cells.count_all(&mask), found.len() as u64);
        let mut late = 0;
        for n in 0..5_u16 {
            let here = |id: u32| id >> 16 == SEGMENT << 4 | u32::from(n);
            let expected: BTreeSet<u16> = found.iter().filter(|it| here(it.id)).map(|it| it.id as u16).collect();
            let block = cells.block(n.into());
            let passing = (0..=u16::MAX).filter(|id| block.passes(*id, &mask)).collect::<BTreeSet<u16>>();
            assert!(passing == expected, "block {n}: {} pass, not {}", passing.len(), expected.len());
            assert_eq!(cells.count(n.into(), &mask), expected.len() as u64);
            let code = Value::Int(at);
            let code = ValueRef::of(&code).code();
            let of_block = cells.late(column, code).unwrap().unwrap().count(code, &mask, 1 << n);
            assert_eq!(of_block, found.iter().filter(|it| here(it.id) && it.at > at).count() as u64);
            late += of_block;
            assert_eq!(cells.late(column, code).unwrap().unwrap().count(code, &mask, (2 << n) - 1), late);
        }
    }
    let long_before = Value::Int(-20 * DAY);
    assert!(cells.late(column, ValueRef::of(&long_before).code()).unwrap().is_none(), "nearly all are later than that");
}

#[test]
fn fields_of_many_values_are_left_out() {
    let mut rng = seeded();
    let file = File::new();
    let (segment, _) = random_segment(&mut rng, &file, 1_000.0);
    let cells = segment.cells(&[LEVEL, KIND]).unwrap();
    assert!(cells.field(LEVEL).is_none() && cells.field(KIND).is_some());
    assert!(Segment::open(&file.path(), STORE, &spec()).unwrap().unwrap().cells(&[LEVEL, OWNER]).is_none());
}
