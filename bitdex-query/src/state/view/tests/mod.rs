//! Random documents in random layers, against plain maps: whatever lies in which layer, a version shows the same.

mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bitdex_proto::{
    schema::{FieldId, KEY_FIELD},
    value::{FieldValue, Value},
};
use rand::{RngExt, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

use self::store::{Model, Store, ids_near, random_value};
use super::super::{State, layout::Place, tests::model};
use crate::{
    segment::{
        BLOCK_BITS, Index,
        lanes::{LANE, LANES, LaneWords},
        sets::{Block, BlockBuffer},
        value::{Term, ValueRef},
    },
    testing::{scaled, seeded},
};

/// Ids of a block, without their upper bits.
pub(super) fn ids(block: Block<'_>) -> Vec<u16> {
    match block {
        Block::Empty => Vec::new(),
        Block::Array(ids) => ids.to_vec(),
        Block::Bits(_) => (0..=u16::MAX).filter(|id| block.contains(*id)).collect(),
    }
}

fn set(state: &State, field: FieldId, term: Term<'_>) -> BTreeSet<u32> {
    let operand = state.operand(field, term).unwrap();
    let blocks = operand.blocks();
    assert!(blocks.is_sorted_by(|one, next| one < next));
    let mut buffer = BlockBuffer::default();
    let mut all = BTreeSet::new();
    for number in 0..=u16::MAX {
        if blocks.binary_search(&number).is_err() && number % 4096 != 0 {
            continue;
        }
        let block = ids(operand.block(number, &mut buffer).unwrap());
        assert!(block.is_empty() || blocks.contains(&number));
        all.extend(block.into_iter().map(|id| u32::from(number) << BLOCK_BITS | u32::from(id)));
    }
    assert!(operand.estimate() >= all.len() as u64);
    if !state.heap_layers().any(|layer| !layer.sets.is_empty()) && state.files.checkpoint().is_none() {
        assert_eq!(operand.estimate(), all.len() as u64);
    }
    all
}

fn check_sets(state: &State, model: &Model, rng: &mut ChaCha8Rng) {
    let layout = state.layout();
    let present: BTreeSet<u32> = model.present().collect();
    assert_eq!(set(state, KEY_FIELD, Term::Exists), present);
    let blocks = state.blocks();
    assert!(present.iter().all(|id| blocks.contains(&((id >> BLOCK_BITS) as u16))));
    for (field, (index, ty)) in layout.spec().fields.iter().enumerate() {
        if *index == Index::None {
            continue;
        }
        assert_eq!(set(state, field, Term::Exists), model.set(field, None), "field {field}");
        if *index == Index::Column {
            continue;
        }
        let mut values = model.values(field);
        values.extend((0..3).map(|_| random_value(*ty, rng)));
        for value in &values {
            let found = set(state, field, Term::Value(ValueRef::of(value)));
            assert_eq!(found, model.set(field, Some(value)), "field {field} value {value:?}");
        }
        let mut bound = || match rng.random_range(0..3) {
            0 => Bound::Unbounded,
            1 => Bound::Included(random_value(*ty, rng)),
            _ => Bound::Excluded(random_value(*ty, rng)),
        };
        let bounds = (bound(), bound());
        let within: BTreeSet<Value> = model.values(field).into_iter().filter(|value| holds(&bounds, value)).collect();
        let found = state.terms_within(field, &bounds, usize::MAX).unwrap();
        assert!(found.is_sorted_by(|one, next| one < next));
        assert!(found.iter().all(|value| holds(&bounds, value)));
        assert!(within.iter().all(|value| found.contains(value)), "field {field} {bounds:?}");
        assert_eq!(state.terms_within(field, &bounds, 2).unwrap(), found.get(..2).unwrap_or(&found));
    }
}

fn holds((first, last): &(Bound<Value>, Bound<Value>), value: &Value) -> bool {
    let above = match first {
        Bound::Included(first) => value >= first,
        Bound::Excluded(first) => value > first,
        Bound::Unbounded => true,
    };
    above
        && match last {
            Bound::Included(last) => value <= last,
            Bound::Excluded(last) => value < last,
            Bound::Unbounded => true,
        }
}

fn check_columns(state: &State, model: &Model, rng: &mut ChaCha8Rng) {
    for (field, (index, _)) in state.layout().spec().fields.iter().enumerate() {
        let Some(column) = state.column(field) else {
            assert_ne!(*index, Index::Column);
            continue;
        };
        let codes = model.codes(field);
        for id in model.documents.keys().copied().chain((0..20).map(|_| ids_near(rng))) {
            assert_eq!(column.get(id).unwrap(), codes.get(&id).copied(), "field {field} id {id}");
        }
        let mut decoded = vec![7; 3];
        for block in model.documents.keys().map(|id| (id >> BLOCK_BITS) as u16).collect::<BTreeSet<_>>() {
            column.block(block, &mut decoded).unwrap();
            assert_eq!(decoded.len(), 1 << BLOCK_BITS);
            let bounds = column.bounds(block).unwrap();
            let first = u32::from(block) << BLOCK_BITS;
            let mut count = 0;
            for (id, code) in codes.range(first..=first | 0xffff) {
                assert_eq!(decoded[(id & 0xffff) as usize], *code);
                assert!((bounds.min..=bounds.max).contains(code));
                count += 1;
            }
            assert!(bounds.count >= count);
            check_each_of(&column, block, &codes, rng);
        }
        let mut ascending: Vec<(u64, u32)> = codes.iter().map(|(id, code)| (*code, *id)).collect();
        ascending.sort_unstable();
        let mut froms = vec![None, Some((0, 0)), Some((u64::MAX, u32::MAX))];
        froms.extend(ascending.choose(rng).map(|from| Some(*from)));
        froms.extend(ascending.choose(rng).map(|(code, id)| Some((*code, id.wrapping_add(1)))));
        froms.extend(ascending.choose(rng).map(|(code, id)| Some((code.wrapping_sub(1), *id))));
        for from in froms {
            let up: Vec<_> = ascending.iter().filter(|at| from.is_none_or(|from| **at >= from)).copied().collect();
            assert_eq!(walked(&column, false, from), up, "field {field} from {from:?}");
            let ids = |pairs: &[(u64, u32)]| pairs.iter().map(|(_, id)| *id).collect::<Vec<_>>();
            assert_eq!(walked_in_runs(&column, false, from, rng), ids(&up), "field {field} from {from:?}");
            let down = ascending.iter().rev().filter(|at| from.is_none_or(|from| **at <= from)).copied();
            let down: Vec<_> = down.collect();
            assert_eq!(walked(&column, true, from), down, "field {field} from {from:?}");
            assert_eq!(walked_in_runs(&column, true, from, rng), ids(&down), "field {field} from {from:?}");
        }
        check_reaching(&column, &codes, rng);
        let all = column.estimate(0, u64::MAX).unwrap();
        assert!(all >= codes.len() as u64 / 2, "field {field}: {all} of {}", codes.len());
    }
}

/// The codes of a set of ids, read together, are those of each.
fn check_each_of(column: &super::ColumnView<'_>, block: u16, codes: &BTreeMap<u32, u64>, rng: &mut ChaCha8Rng) {
    let reader = column.reader(block).unwrap();
    let some = rng.random_range(1..4);
    let words: Vec<LaneWords> = (0..LANES)
        .map(|_| std::array::from_fn(|_| if rng.random_range(0..3) < some { !0 } else { rng.random() }))
        .collect();
    let mut read = BTreeMap::new();
    let mut each = |id, code| {
        assert!(read.insert(id, code).is_none(), "{id} twice");
        Ok(())
    };
    reader.each_of(|n| words[n], &mut each).unwrap();
    let asked = words.iter().flatten().map(|word| word.count_ones() as usize).sum::<usize>();
    assert_eq!(read.len(), asked);
    for (id, code) in read {
        let word = words[usize::from(id) / LANE][usize::from(id) % LANE / 64];
        assert_eq!(word >> (id % 64) & 1, 1, "{id} was not asked for");
        assert_eq!(code, codes.get(&(u32::from(block) << BLOCK_BITS | u32::from(id))).copied(), "{id}");
    }
}

/// The sets of ids that may have the greatest codes hold all that do, however high the layers raise the floor.
fn check_reaching(column: &super::ColumnView<'_>, codes: &BTreeMap<u32, u64>, rng: &mut ChaCha8Rng) {
    let mut sorted: Vec<u64> = codes.values().copied().collect();
    sorted.sort_unstable();
    let Some(greatest) = sorted.last().copied() else { return };
    for most in [0, 1, 5, 1_000] {
        let floor = *sorted.choose(rng).unwrap();
        let raised = column.raised(floor, most).unwrap();
        assert!(raised >= floor);
        assert!(most < 1_000 || raised == floor, "no layer has so many");
        for least in [raised, raised.max(*sorted.choose(rng).unwrap()), greatest.max(raised)] {
            for block in codes.keys().map(|id| (id >> BLOCK_BITS) as u16).collect::<BTreeSet<_>>() {
                let reader = column.reader(block).unwrap();
                let Some(peaks) = column.peaks(block, least, false).unwrap() else { continue };
                let mut reaching = BlockBuffer::default();
                reaching.or(peaks);
                reader.add_reaching(least, reaching.bits());
                let first = u32::from(block) << BLOCK_BITS;
                let of_block = || codes.range(first..=first | 0xffff).map(|(id, code)| (*id as u16, *code));
                for (id, _) in of_block().filter(|(_, code)| *code >= least) {
                    assert!(reaching.block().contains(id), "{id} of those that reach {least}");
                }
                let some: Vec<u16> = of_block().map(|(id, _)| id).filter(|_| rng.random()).collect();
                let (mut of_all, mut of_some) = (Vec::new(), Vec::new());
                reader.each_reaching(least, &mut of_all);
                reader.each_reaching_of(Block::of(&some), least, &mut BlockBuffer::default(), &mut of_some);
                for (id, _) in of_block().filter(|(id, code)| *code >= least && reader.is_overridden(*id)) {
                    assert!(of_all.contains(&id), "{id} of those that are overridden and reach {least}");
                    assert_eq!(of_some.contains(&id), some.contains(&id), "{id} of those");
                }
                assert!(of_some.iter().all(|id| some.contains(id)));
            }
        }
    }
}

fn walked(column: &super::ColumnView<'_>, descending: bool, from: Option<(u64, u32)>) -> Vec<(u64, u32)> {
    let mut walk = column.walk(descending, from).unwrap();
    let mut all = Vec::new();
    while let Some(at) = walk.next().unwrap() {
        all.push(at);
    }
    all
}

fn walked_in_runs(
    column: &super::ColumnView<'_>,
    descending: bool,
    from: Option<(u64, u32)>,
    rng: &mut ChaCha8Rng,
) -> Vec<u32> {
    let mut walk = column.walk(descending, from).unwrap();
    let mut all = Vec::new();
    loop {
        let (before, most) = (all.len(), rng.random_range(1..100));
        walk.run(most, &mut all).unwrap();
        assert!(all.len() <= before + most);
        if all.len() == before {
            return all;
        }
    }
}

fn check_rows(state: &State, model: &Model, rng: &mut ChaCha8Rng) {
    for place in 0..state.layout().places() as Place {
        let keys = model.rows.range((place, i64::MIN)..=(place, i64::MAX)).map(|((_, key), _)| *key);
        let others = (0..20).map(|_| ids_near(rng).into()).chain([-5, 5, i64::MAX]);
        for key in keys.chain(others).collect::<BTreeSet<_>>() {
            let expected = model.rows.get(&(place, key)).map(Vec::as_slice);
            assert_eq!(state.row(place, key).unwrap(), expected, "place {place} key {key}");
        }
    }
}

fn check_documents(state: &State, model: &Model, rng: &mut ChaCha8Rng) {
    let others: Vec<u32> = (0..20).map(|_| ids_near(rng)).collect();
    for id in model.documents.keys().copied().chain(others) {
        let Some(document) = state.document(id).unwrap() else {
            assert!(!model.is_present(id));
            continue;
        };
        assert!(model.is_present(id));
        let fields = [model::RANK, KEY_FIELD, model::LABELS, store::TAGS, model::LEVEL, model::RANK, model::COUNT];
        let expected: Vec<FieldValue> = fields.iter().map(|field| model.field(id, *field)).collect();
        assert_eq!(state.document_reader(&fields).values(id).unwrap(), Some(expected), "document {id}");
        let one = *fields.choose(rng).unwrap();
        assert_eq!(document.value(one).unwrap(), model.field(id, one));
    }
}

/// All that a version shows is what the model holds.
fn check(state: &State, model: &Model, rng: &mut ChaCha8Rng) {
    check_rows(state, model, rng);
    check_documents(state, model, rng);
    check_sets(state, model, rng);
    check_columns(state, model, rng);
}

/// What the files alone show, by the ways around a state.
fn check_files(store: &Store, model: &Model, rng: &mut ChaCha8Rng) {
    let layout = store.files.layout();
    for place in 0..layout.places() as Place {
        let mut ends = [i64::from(ids_near(rng)), ids_near(rng).into()];
        ends.sort_unstable();
        for (first, last) in [(i64::MIN, i64::MAX), (ends[0], ends[1]), (-3, 3)] {
            let mut found = Vec::new();
            let mut rows = store.files.rows(place, first, last).unwrap();
            while let Some((key, row)) = rows.next().unwrap() {
                found.push((key, row.to_vec()));
            }
            let range = model.rows.range((place, first)..=(place, last));
            let expected: Vec<_> = range.map(|((_, key), row)| (*key, row.clone())).collect();
            assert_eq!(found, expected, "place {place} from {first} to {last}");
        }
    }
}

#[test]
fn layers_in_memory_show_what_was_put_into_them() {
    let mut rng = seeded();
    for _ in 0..scaled(2) {
        let mut store = Store::new();
        let mut model = Model::default();
        store.change(&mut model, 60, &mut rng);
        check(&store.state(), &model, &mut rng);
        let below = model.clone();
        let first = store.state();
        store.freeze();
        store.change(&mut model, 40, &mut rng);
        check(&store.state(), &model, &mut rng);
        check(&first, &below, &mut rng);
    }
}

/// Checkpoint upon checkpoint: the files grow beneath the layers that say the same, and then stand without them.
fn flush_often(store: &mut Store, model: &mut Model, rng: &mut ChaCha8Rng) {
    for round in 0..4 {
        store.change(model, 60, rng);
        let frozen = model.clone();
        store.freeze();
        store.change(model, 30, rng);
        check(&store.state(), model, rng);
        let flushed = store.flush();
        store.open(flushed);
        check_files(store, &frozen, rng);
        check(&store.state(), model, rng);
        store.forget_frozen();
        check(&store.state(), model, rng);
        if round % 2 == 1 && !store.files.segments().is_empty() {
            store.compact(&frozen, rng);
            check_files(store, &frozen, rng);
            check(&store.state(), model, rng);
        }
    }
}

#[test]
fn checkpoints_without_a_base_show_what_was_frozen() {
    let mut rng = seeded();
    for _ in 0..scaled(1) {
        flush_often(&mut Store::new(), &mut Model::default(), &mut rng);
    }
}

#[test]
fn all_layers_together_show_one_version() {
    let mut rng = seeded();
    for _ in 0..scaled(1) {
        let (mut store, mut model) = (Store::new(), Model::default());
        store.build(&mut model, 300, &mut rng);
        check(&store.state(), &model, &mut rng);
        check_files(&store, &model, &mut rng);
        flush_often(&mut store, &mut model, &mut rng);
    }
}

#[test]
fn a_cancelled_flush_leaves_no_file() {
    let mut rng = seeded();
    let mut store = Store::new();
    store.change(&mut Model::default(), 5, &mut rng);
    store.freeze();
    let error = store.try_flush(true).unwrap_err().to_string();
    assert!(error.contains("cancelled"), "{error}");
    assert_eq!(std::fs::read_dir(store.folder.root()).unwrap().count(), 0);
}

#[test]
fn what_the_base_has_taken_in_is_left_out() {
    let mut rng = seeded();
    let (mut store, mut model) = (Store::new(), Model::default());
    store.build(&mut model, 100, &mut rng);
    store.change(&mut model, 200, &mut rng);
    store.freeze();
    let many = store.flush();
    let bytes = many.bytes;
    store.open(many);
    store.forget_frozen();
    store.compact_all(&model);
    // Nothing new: all of the old checkpoint is in the base.
    store.freeze();
    let none = store.flush();
    assert!(none.bytes * 4 < bytes, "{} of {bytes} bytes are left", none.bytes);
    store.open(none);
    assert!(store.files.checkpoint().unwrap().rows().is_empty());
    store.forget_frozen();
    check_files(&store, &model, &mut rng);
    check(&store.state(), &model, &mut rng);
}

#[test]
fn every_damaged_byte_of_a_checkpoint_is_refused() {
    let mut rng = seeded();
    let (mut store, mut model) = (Store::new(), Model::default());
    store.change(&mut model, 30, &mut rng);
    store.freeze();
    let flushed = store.flush();
    let path = store.folder.named(&flushed.checkpoint.file);
    let good = std::fs::read(&path).unwrap();
    store.manifest.checkpoint = Some(flushed.checkpoint);
    for _ in 0..scaled(200) {
        let mut bytes = good.clone();
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1 << rng.random_range(0..8);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let error = store.open_anew().unwrap_err().to_string();
        assert!(error.contains("checkpoint-"), "byte {at}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(store.open_anew().unwrap().is_none());
    std::fs::write(&path, &good).unwrap();
    store.files = store.open_anew().unwrap().unwrap();
    store.forget_frozen();
    check(&store.state(), &model, &mut rng);
}
