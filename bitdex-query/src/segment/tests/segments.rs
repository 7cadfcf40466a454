use super::*;
use crate::segment::{Index, Spec, builder::SegmentBuilder, segment::Segment};

const SLOTS: usize = 9;

fn spec() -> Spec {
    Spec {
        slots: SLOTS,
        fields: vec![
            (Index::None, FieldType::Int),
            (Index::Terms, FieldType::Int),
            (Index::Column, FieldType::Timestamp),
            (Index::Terms, FieldType::String),
            (Index::None, FieldType::String),
            (Index::Column, FieldType::Float),
            (Index::Terms, FieldType::Bool),
            (Index::Column, FieldType::String),
        ],
    }
}

struct Document {
    id: u32,
    rows: Vec<Option<Vec<u8>>>,
    present: bool,
    /// By field, as they are given: in any order, some twice.
    values: Vec<Vec<Value>>,
}

fn random_documents(rng: &mut ChaCha8Rng, spec: &Spec, segment: u32) -> Vec<Document> {
    let rows = random_rows(rng, spec.slots);
    let spread = rng.random_range(30..62);
    let mut documents = Vec::new();
    for (id, rows) in rows {
        let values = spec.fields.iter().enumerate().map(|(field, (index, ty))| {
            let most = if *index == Index::Column { 2 } else { 5 };
            let mut values: Vec<Value> =
                (0..rng.random_range(0..most)).map(|_| random_value(rng, *ty, spread)).collect();
            if *index == Index::Terms || values.len() == 1 {
                values.extend(values.first().cloned());
            }
            if field == 0 { vec![Value::Int(id.into())] } else { values }
        });
        let values = values.collect();
        documents.push(Document { id: segment << 20 | id, rows, present: rng.random_bool(0.9), values });
    }
    documents
}

fn build(path: &Path, spec: &Spec, segment: u32, documents: &[Document]) -> u64 {
    let mut builder = SegmentBuilder::create(&disk(), path, STORE, spec, segment, 77).unwrap();
    for document in documents {
        builder.document(document.id, &borrowed(&document.rows), document.present).unwrap();
        for (field, value) in
            document.values.iter().enumerate().flat_map(|(n, all)| all.iter().map(move |one| (n, one)))
        {
            if document.present {
                builder.value(field, ValueRef::of(value));
            }
        }
        assert!(builder.bytes() < 64 << 20);
    }
    let built = builder.finish(5 << 100 | 9).unwrap();
    assert_eq!(built.bytes, std::fs::metadata(path).unwrap().len());
    built.documents
}

fn ids_of_posting(segment: &Segment, field: usize, term: Term<'_>) -> BTreeSet<u32> {
    let Some(posting) = segment.posting(field, term).unwrap() else { return BTreeSet::new() };
    let blocks = (0..posting.blocks()).map(|n| posting.nth(n).unwrap());
    blocks.flat_map(|(number, block)| block.iter().map(move |id| u32::from(number) << 16 | u32::from(id))).collect()
}

#[test]
fn segments_hold_what_was_given() {
    let mut rng = seeded();
    for _ in 0..scaled(6) {
        let (spec, number) = (spec(), rng.random_range(0..4096));
        let documents = random_documents(&mut rng, &spec, number);
        let file = File::new();
        assert!(Segment::open(&file.path(), STORE, &spec).unwrap().is_none());
        let count = build(&file.path(), &spec, number, &documents);
        let segment = Segment::open(&file.path(), STORE, &spec).unwrap().unwrap();
        segment.pack().verify().unwrap();
        assert_eq!((segment.number(), segment.sequence(), segment.hash()), (number, 77, 5 << 100 | 9));
        let present = || documents.iter().filter(|document| document.present);
        assert_eq!((segment.documents_present(), count), (present().count() as u64, present().count() as u64));
        assert_eq!(ids_of_posting(&segment, 0, Term::Exists), present().map(|document| document.id).collect());
        for document in &documents {
            let has = document.rows.iter().any(Option::is_some);
            let found = segment.documents().get(document.id).unwrap();
            assert_eq!(found.as_deref(), has.then(|| borrowed(&document.rows)).as_deref());
        }
        for (field, (index, ty)) in spec.fields.iter().enumerate().skip(1) {
            let mut sets: BTreeMap<&Value, BTreeSet<u32>> = BTreeMap::new();
            for document in present() {
                for value in &document.values[field] {
                    sets.entry(value).or_default().insert(document.id);
                }
            }
            let exists: BTreeSet<u32> = sets.values().flatten().copied().collect();
            let expected = if *index == Index::None { BTreeSet::new() } else { exists.clone() };
            assert_eq!(ids_of_posting(&segment, field, Term::Exists), expected);
            assert_eq!(segment.column(field).is_some(), *index == Index::Column);
            match index {
                Index::None => assert!(segment.postings(field).is_none()),
                Index::Terms => {
                    for (value, ids) in &sets {
                        assert_eq!(ids_of_posting(&segment, field, term(Some(value))), *ids);
                    }
                    let terms = segment.postings(field).map_or(0, Postings::len);
                    assert_eq!(terms, sets.len() + usize::from(!sets.is_empty()));
                }
                Index::Column => {
                    let column = segment.column(field).unwrap();
                    assert_eq!(column.len(), exists.len());
                    let codes: BTreeMap<u32, u64> = sets
                        .iter()
                        .flat_map(|(value, ids)| ids.iter().map(|id| (*id, ValueRef::of(value).code())))
                        .collect();
                    for document in &documents {
                        assert_eq!(column.get(document.id).unwrap(), codes.get(&document.id).copied(), "{ty}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_segment_of_another_definition_or_store_is_refused_by_name() {
    let mut rng = seeded();
    let mut spec = spec();
    let file = File::new();
    let documents = random_documents(&mut rng, &spec, 3);
    build(&file.path(), &spec, 3, &documents);
    let error = Segment::open(&file.path(), STORE + 1, &spec).unwrap_err();
    assert!(matches!(error.cause(), Cause::Damaged { .. }));
    spec.fields[1].1 = FieldType::Decimal(2);
    let error = Segment::open(&file.path(), STORE, &spec).unwrap_err();
    assert!(matches!(error.cause(), Cause::Foreign(message) if message.contains("segment 3")), "{error}");
}

#[test]
fn an_empty_segment_opens() {
    let file = File::new();
    build(&file.path(), &spec(), 9, &[]);
    let segment = Segment::open(&file.path(), STORE, &spec()).unwrap().unwrap();
    assert_eq!(segment.documents().next(0).unwrap(), None);
    assert_eq!(segment.column(2).unwrap().len(), 0);
    assert_eq!(segment.column(2).unwrap().rank(5, 5).unwrap(), 0);
    assert!(segment.posting(0, Term::Exists).unwrap().is_none());
}
