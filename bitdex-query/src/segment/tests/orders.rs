//! The ids of terms in the order of a column, against the documents that they are of.

use std::collections::BTreeMap;

use rand::RngExt as _;

use super::*;
use crate::segment::{Index, Spec, builder::SegmentBuilder, orders::IDS_LEAST, segment::Segment};

const SEGMENT: u32 = 3;
const OWNER: usize = 1;
const LEVEL: usize = 2;
const KIND: usize = 3;
const AT: usize = 4;
const COUNT: usize = 5;

fn spec() -> Spec {
    let int = |index| (index, FieldType::Int);
    let fields = vec![
        int(Index::None),
        int(Index::Terms),
        int(Index::Terms),
        int(Index::Terms),
        (Index::Column, FieldType::Timestamp),
        int(Index::Column),
    ];
    Spec { slots: 1, fields }
}

#[test]
fn ids_lie_in_the_order_of_their_codes_with_their_cells() {
    let mut rng = seeded();
    let file = File::new();
    let mut builder = SegmentBuilder::create(&disk(), &file.path(), STORE, &spec(), SEGMENT, 1).unwrap();
    let mut of_owner = BTreeMap::<i64, Vec<(i64, u32, i64)>>::new();
    for n in (0..150_000_u32).filter(|_| rng.random_ratio(9, 10)).collect::<Vec<_>>() {
        let id = SEGMENT << 20 | n;
        builder.document(id, &[None], true).unwrap();
        // Of some there are many, of most few; levels and kinds together make more cells than one byte tells apart.
        let owner = (1.0 / rng.random_range(0.0001..1.0_f64)) as i64;
        let (level, kind) = (rng.random_range(0..20_i64), rng.random_range(0..20_i64));
        let at = rng.random_ratio(19, 20).then(|| i64::from(n) / 7 * 100 + rng.random_range(0..2000) / 500 * 100);
        builder.value(OWNER, ValueRef::Int(owner));
        builder.value(LEVEL, ValueRef::Int(level));
        builder.value(KIND, ValueRef::Int(kind));
        builder.value(COUNT, ValueRef::Int(rng.random_range(0..1000)));
        if let Some(at) = at {
            builder.value(AT, ValueRef::Int(at));
            of_owner.entry(owner).or_default().push((at, id, level));
        }
    }
    builder.finish(0).unwrap();
    let segment = Segment::open(&file.path(), STORE, &spec()).unwrap().unwrap();
    assert!(segment.order(OWNER, AT).is_none(), "without cells");
    let cells = segment.cells(&[OWNER, LEVEL, KIND]).unwrap();
    assert!(segment.order(OWNER, COUNT).is_none(), "codes that have nothing to do with ids");
    assert!(segment.made_orders().next().is_none());
    let orders = segment.order(OWNER, AT).unwrap();
    assert_eq!(segment.made_orders().collect::<Vec<_>>(), [(OWNER, AT)]);
    let passing = cells.field(LEVEL).unwrap().of(&Value::Int(3)).unwrap();
    let (mut listed, mut passed) = (0, 0);
    for (owner, mut documents) in of_owner {
        let posting = segment.posting(OWNER, Term::Value(ValueRef::Int(owner))).unwrap().unwrap();
        let Some(entries) = orders.of_term(&posting) else {
            assert!(posting.len() < IDS_LEAST, "{owner}");
            continue;
        };
        documents.sort_by_key(|(at, id, _)| std::cmp::Reverse((*at, *id)));
        let ids: Vec<u32> = documents.iter().map(|(_, id, _)| *id).collect();
        assert_eq!(entries.iter().map(|entry| SEGMENT << 20 | entry.id()).collect::<Vec<_>>(), ids, "{owner}");
        for (entry, (_, id, level)) in entries.iter().zip(&documents) {
            let passes = cells.near_passes(entry.id(), entry.cell(), passing);
            assert_eq!((passes, cells.passes(*id, passing)), (*level == 3, *level == 3), "{owner}, {id}");
            passed += u32::from(passes);
        }
        listed += 1;
    }
    assert!(listed > 50 && passed > 1000, "{listed}, {passed}");
}
