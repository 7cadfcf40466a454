//! Records, layers, loads, deferred ops: states compared with a naive model and with each other, whatever their layers.

mod loads;
pub(crate) mod model;
mod store;

use std::sync::Arc;

use bitdex_proto::{
    Error,
    ops::{Change, Op},
    query::Filter,
    schema::Schema,
    value::{FieldValue, Literal, Value},
    wire::{self, record::Kind},
};
use bytes::Bytes;
use prost::Message as _;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

pub(crate) use self::store::Store;

use self::model::{LABELS, LEVEL, Model, RANK, row, schema, schema_by_column};
use super::{CLICKHOUSE, Decoded, POSTGRES, State, Unsettled};
use crate::{
    segment::value::ValueRef,
    testing::{scaled, seeded},
};

pub(crate) fn genesis(schema: &Schema) -> wire::Record {
    let genesis = wire::Genesis { store: "store".into(), definition_hash: schema.hash.clone() };
    wire::Record { kind: Some(Kind::Genesis(genesis)) }
}

pub(crate) fn batch(schema: &Schema, source: &str, previous: &str, new: &str, ops: &[Op]) -> wire::Batch {
    wire::Batch {
        source: source.into(),
        previous_cursor: Bytes::copy_from_slice(previous.as_bytes()),
        new_cursor: Bytes::copy_from_slice(new.as_bytes()),
        ops: ops.iter().map(|op| op.to_wire(schema)).collect(),
        caught_up: false,
        backlog: 0,
    }
}

pub(crate) fn record(batch: wire::Batch) -> wire::Record {
    wire::Record { kind: Some(Kind::Batch(batch)) }
}

pub(crate) fn freeze() -> wire::Record {
    wire::Record { kind: Some(Kind::Freeze(wire::Freeze {})) }
}

/// The state as a process finds it that opens the store.
pub(crate) fn round_trip(state: &State) -> State {
    let mut state = state.clone();
    let mut store = Store::new(state.schema());
    let sequence = state.sequence();
    state.apply(sequence + 1, &freeze()).unwrap();
    let files = store.flush(&state, &[]);
    drop(state);
    State::open(files).unwrap()
}

fn new_state() -> State {
    state_of(schema())
}

fn state_of(schema: Schema) -> State {
    let schema = Arc::new(schema);
    let mut state = State::new(schema.clone());
    state.apply(1, &genesis(&schema)).unwrap();
    state
}

fn apply(state: &mut State, record: &wire::Record) {
    state.validate(record).unwrap();
    state.apply(state.sequence() + 1, record).unwrap();
}

fn document(key: i64, level: i64) -> Op {
    let mut values = vec![None; 7];
    values[0] = Some(Value::Int(level));
    Op::Upsert { source: 0, key, row: Some(row(values)) }
}

fn load_begin(id: &str, parts: u32) -> wire::Record {
    let load = wire::LoadOpen {
        source: POSTGRES.into(),
        load_id: id.into(),
        cursor: Bytes::from_static(b"S0"),
        parts: (0..parts).map(|part| wire::LoadPart { source: part, lo: 0, hi: 1 << 32 }).collect(),
        ..wire::LoadOpen::default()
    };
    wire::Record { kind: Some(Kind::LoadBegin(wire::LoadBegin { load: Some(load), generation: 7 })) }
}

fn part_done(part: u32, rows: u64) -> wire::Record {
    wire::Record { kind: Some(Kind::LoadPartDone(wire::LoadPartDone { part, rows })) }
}

fn load_end() -> wire::Record {
    wire::Record { kind: Some(Kind::LoadEnd(wire::LoadEnd {})) }
}

#[test]
fn a_batch_must_begin_at_the_cursor_of_its_source() {
    let mut state = new_state();
    let schema = state.schema().clone();
    apply(&mut state, &record(batch(&schema, POSTGRES, "", "a", &[document(1, 5)])));
    apply(&mut state, &record(batch(&schema, "service", "", "x", &[])));
    assert_eq!(state.cursors(), [(POSTGRES.into(), "a".into()), ("service".into(), Bytes::from_static(b"x"))]);

    let wrong = record(batch(&schema, POSTGRES, "x", "b", &[document(2, 5)]));
    assert!(matches!(state.validate(&wrong), Err(Error::Precondition(message)) if message.contains(POSTGRES)));
    let before = state.hash();
    assert!(state.clone().apply(9, &wrong).is_err());
    assert_eq!((state.hash(), state.documents()), (before, 1));
    assert!(state.apply(state.sequence(), &record(batch(&schema, POSTGRES, "a", "b", &[]))).is_err());
}

#[test]
fn a_clone_does_not_see_later_records() {
    let mut state = new_state();
    let schema = state.schema().clone();
    let ops: Vec<_> = (0..200).map(|key| document(key, 1)).collect();
    apply(&mut state, &record(batch(&schema, POSTGRES, "", "a", &ops)));
    let (before, hash) = (state.clone(), state.hash());
    let ops: Vec<_> = (0..200).map(|key| document(key, 2)).collect();
    apply(&mut state, &record(batch(&schema, POSTGRES, "a", "b", &ops)));
    assert_eq!(before.hash(), hash);
    let level = |state: &State, level| model::indexes(state)[&LEVEL].2.iter().filter(|it| it.0 == level).count();
    let code = |level| ValueRef::Int(level).code();
    assert_eq!((level(&before, code(1)), level(&before, code(2))), (200, 0));
    assert_eq!((level(&state, code(1)), level(&state, code(2))), (0, 200));
}

#[test]
fn records_that_are_worked_out_together_leave_what_each_by_itself_does() {
    let mut rng = seeded();
    for round in 0..scaled(2) {
        let mut one_by_one = state_of(if round % 2 == 0 { schema() } else { schema_by_column() });
        let schema = one_by_one.schema().clone();
        let mut together = one_by_one.clone();
        let (mut model, mut unsettled, mut room) = (Model::default(), Unsettled::default(), Vec::new());
        for step in 0..12 {
            // Without those that are worked out at once, so that many rows are left.
            let ops = (0..1_000).map(|_| model::random_op(&mut rng, &schema, 5_000));
            let waits = |op: &Op| !matches!(op, Op::Truncate { .. } | Op::QueryOpSet { .. });
            let ops: Vec<_> = ops.filter(waits).collect();
            ops.iter().for_each(|op| model.apply(&schema, op));
            let name = |step: u32| if step == 0 { String::new() } else { step.to_string() };
            let record = record(batch(&schema, POSTGRES, &name(step), &name(step + 1), &ops));
            apply(&mut one_by_one, &record);
            let decoded = Decoded::read(&schema, &record.encode_to_vec(), &mut room).unwrap();
            assert!(room.is_empty() && room.capacity() >= ops.len());
            together.take(one_by_one.sequence(), &decoded, &mut unsettled).unwrap();
            if step % 6 == 5 {
                together.settle_all(std::mem::take(&mut unsettled)).unwrap();
                model::assert_same(&together, &one_by_one);
                model::assert_is(&together, &model);
            }
        }
        assert!(together.unflushed().rows > 2_000);
    }
}

#[test]
fn a_record_without_a_kind_is_refused_whatever_room_there_is() {
    let schema = schema();
    let mut room = vec![document(1, 1).to_wire(&schema)];
    assert!(matches!(Decoded::read(&schema, &[], &mut room), Err(Error::Invalid(_))));
    assert!(matches!(Decoded::read(&schema, &[0xff], &mut room), Err(Error::Invalid(_))));
    let read = Decoded::read(&schema, &freeze().encode_to_vec(), &mut room).unwrap();
    assert_eq!(read.into_record(), freeze());
}

#[test]
fn readiness_takes_a_load_and_every_source_that_has_to_catch_up() {
    let mut state = new_state();
    let schema = state.schema().clone();
    let progress = |state: &State| state.readiness().progress;
    assert_eq!(progress(&state), "waiting for the first load");
    apply(&mut state, &load_begin("one", 3));
    apply(&mut state, &part_done(1, 10));
    apply(&mut state, &part_done(0, 5));
    apply(&mut state, &part_done(1, 10));
    assert_eq!(progress(&state), "loading: 2 of 3 parts, 15 rows");
    assert_eq!(state.load().unwrap().done, [0, 1]);
    assert!(matches!(state.validate(&load_end()), Err(Error::Precondition(message)) if message.contains("2 of 3")));
    assert!(matches!(state.validate(&part_done(3, 1)), Err(Error::Invalid(message)) if message.contains("part 3")));
    assert!(state.validate(&record(batch(&schema, POSTGRES, "", "a", &[]))).is_err());
    state = round_trip(&state);
    apply(&mut state, &part_done(2, 0));
    apply(&mut state, &load_end());
    assert_eq!(
        (state.cursor(POSTGRES), state.generation(), state.load(), state.is_loaded()),
        ("S0".into(), 7, None, true)
    );
    assert_eq!(progress(&state), "loaded; waiting to catch up with postgres");
    let mut caught_up = batch(&schema, POSTGRES, "S0", "S1", &[]);
    (caught_up.caught_up, caught_up.backlog) = (true, 100_001);
    apply(&mut state, &record(caught_up));
    assert!(state.catching_up());
    assert_eq!(progress(&state), "loaded; waiting to catch up with clickhouse");
    let mut caught_up = batch(&schema, CLICKHOUSE, "", "m", &[]);
    caught_up.caught_up = true;
    apply(&mut state, &record(caught_up));
    apply(&mut state, &record(batch(&schema, POSTGRES, "S1", "S2", &[])));
    assert!(state.readiness().ready && !state.catching_up());
    apply(&mut state, &load_begin("two", 0));
    // The first generation goes on being served; only the source that loads has to wait.
    assert!(state.readiness().ready && state.is_caught_up(POSTGRES) && !state.is_loaded());
    assert!(state.validate(&record(batch(&schema, POSTGRES, "S2", "S3", &[]))).is_err());
    apply(&mut state, &load_end());
    assert_eq!(state.cursor(POSTGRES), "S0");
    assert_eq!(progress(&state), "loaded; waiting to catch up with postgres");
    assert!(state.is_caught_up(CLICKHOUSE));
}

#[test]
fn a_load_replaces_postgres_rows_and_keeps_the_others() {
    let mut state = new_state();
    let schema = state.schema().clone();
    let metric = |count| Op::Upsert { source: 7, key: 1, row: Some(row(vec![Some(Value::Int(count))])) };
    let rank = |rank| Op::Field { document: 1, field: RANK, change: Change::Set(FieldValue::One(Value::Int(rank))) };
    apply(&mut state, &record(batch(&schema, POSTGRES, "", "a", &[document(1, 5), document(2, 5)])));
    apply(&mut state, &record(batch(&schema, "service", "", "x", &[rank(3)])));
    apply(&mut state, &load_begin("one", 0));
    // What was there is there until the load ends.
    assert_eq!(state.documents(), 2);
    // Sources other than the one that loads go on.
    apply(&mut state, &record(batch(&schema, CLICKHOUSE, "", "m", &[metric(9)])));
    let filter = Filter::eq("rank", Literal::Int(3));
    let label = Change::Add(Value::Text("top".into()));
    let everyone = Op::QueryOpSet { filter, changes: vec![(LABELS, label)] };
    apply(&mut state, &record(batch(&schema, "service", "x", "y", &[everyone, rank(4)])));
    assert_eq!(state.documents(), 2);
    state = round_trip(&state);
    apply(&mut state, &load_end());
    assert_eq!(state.documents(), 0);
    apply(&mut state, &record(batch(&schema, POSTGRES, "S0", "b", &[document(1, 6)])));
    let values = document_of(&state, 1);
    // No document was there when the query op ran, but the rank that came after it was kept.
    assert_eq!((&values[RANK], &values[LABELS]), (&FieldValue::One(Value::Int(4)), &FieldValue::Null));
    assert_eq!(values[model::COUNT], FieldValue::One(Value::Int(9)));
    assert_eq!(state.hash(), model::hash(&state));
}

fn document_of(state: &State, id: u32) -> Vec<FieldValue> {
    let fields: Vec<_> = (0..state.schema().fields.len()).collect();
    state.document_reader(&fields).values(id).unwrap().unwrap()
}

/// Rows as COPY … (FORMAT binary) gives them.
fn copy_rows(rows: &[Vec<Option<Vec<u8>>>]) -> Bytes {
    let mut bytes = Vec::new();
    for row in rows {
        bytes.extend((row.len() as i16).to_be_bytes());
        for field in row {
            bytes.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
            bytes.extend(field.iter().flatten());
        }
    }
    bytes.into()
}

fn load_rows(part: u32, copy_rows: Bytes) -> wire::Record {
    wire::Record { kind: Some(Kind::LoadRows(wire::LoadRows { part, copy_rows })) }
}

#[test]
fn a_load_equals_the_same_rows_as_ops() {
    let (mut loaded, mut expected) = (new_state(), new_state());
    let schema = loaded.schema().clone();
    let int = |int: i64| Some(int.to_be_bytes().to_vec());
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let mut parts: Vec<Vec<_>> = vec![Vec::new(); 7];
    let mut ops = Vec::new();
    for id in 0..500_i64 {
        let post = (id % 5 > 0).then_some(id / 4);
        parts[0].push(vec![int(id), int(id % 9), text("a"), None, None, None, post.and_then(int), None]);
        let mut values = vec![Some(Value::Int(id % 9)), Some(Value::Text("a".into())), None, None, None];
        values.extend([post.map(Value::Int), None]);
        ops.push(Op::Upsert { source: 0, key: id, row: Some(row(values)) });
        for (source, value) in [(4, id % 3), (4, id % 2), (5, id % 40)] {
            parts[source].push(vec![int(id), int(value)]);
            let (document, value) = (id as u32, Value::Int(value));
            ops.push(Op::Member { source, document, value, present: true });
        }
    }
    for key in 0..50 {
        // One lookup leads to the next: post → version → model.
        parts[1].push(vec![int(key), None, int(key % 20)]);
        parts[2].push(vec![int(key), text(["a", "b"][key as usize % 2]), int(key % 7)]);
        parts[3].push(vec![int(key), Some(vec![(key % 3 == 0).into()])]);
        let base = Value::Text(["a", "b"][key as usize % 2].into());
        let rows = [
            vec![None, Some(Value::Int(key % 20))],
            vec![Some(base), Some(Value::Int(key % 7))],
            vec![Some(Value::Bool(key % 3 == 0))],
        ];
        ops.extend((1..).zip(rows).map(|(source, values)| Op::Upsert { source, key, row: Some(row(values)) }));
    }
    apply(&mut expected, &record(batch(&schema, POSTGRES, "", "a", &ops)));

    apply(&mut loaded, &load_begin("one", 7));
    for (part, rows) in (0..).zip(&parts) {
        apply(&mut loaded, &load_rows(part, copy_rows(rows)));
        // A part that is sent again after a break changes nothing.
        apply(&mut loaded, &load_rows(part, copy_rows(&rows[..rows.len() / 2])));
        apply(&mut loaded, &part_done(part, rows.len() as u64));
        assert_eq!(loaded.documents(), 0);
    }
    let error = loaded.validate(&load_rows(0, copy_rows(&parts[4]))).unwrap_err();
    assert!(matches!(&error, Error::Invalid(message) if message.contains("document")), "{error}");
    apply(&mut loaded, &load_end());
    assert_eq!(loaded.hash(), expected.hash());
    assert_eq!(loaded.hash(), model::hash(&loaded));
    model::assert_same(&loaded, &expected);
    assert_eq!(loaded.load(), None);
    assert!(State::check_load_rows(&schema, &[], &load_rows_of(0)).is_err());
}

fn load_rows_of(part: u32) -> wire::LoadRows {
    wire::LoadRows { part, copy_rows: Bytes::new() }
}

#[test]
fn a_query_op_sees_what_stands_before_it_in_its_batch() {
    let mut state = new_state();
    let schema = state.schema().clone();
    let set = |level, rank| Op::QueryOpSet {
        filter: Filter::eq("level", Literal::Int(level)),
        changes: vec![(RANK, Change::Set(FieldValue::One(Value::Int(rank))))],
    };
    let ops = [document(1, 5), set(5, 1), document(2, 5), document(1, 6), set(6, 2), set(5, 3)];
    apply(&mut state, &record(batch(&schema, POSTGRES, "", "a", &ops)));
    let rank = |id| document_of(&state, id)[RANK].clone();
    assert_eq!([rank(1), rank(2)], [2, 3].map(|rank| FieldValue::One(Value::Int(rank))));
}

#[test]
fn what_a_retain_does_not_name_is_gone_within_its_range() {
    let mut state = new_state();
    let schema = state.schema().clone();
    let count = |key, count| Op::Upsert { source: 7, key, row: Some(row(vec![Some(Value::Int(count))])) };
    let retain = |first, last, keys: &[u32]| Op::Retain { source: 7, first, last, keys: keys.into() };
    let mut ops: Vec<_> = (1..=5).map(|key| document(key, 1)).collect();
    ops.extend((1..=6).map(|key| count(key, key)));
    apply(&mut state, &record(batch(&schema, CLICKHOUSE, "", "a", &ops)));
    let counts = |state: &State| [1, 2, 3, 4, 5].map(|id| document_of(state, id)[model::COUNT].clone());
    let ints = |ints: [i64; 5]| ints.map(|int| FieldValue::One(Value::Int(int)));

    // 2 and 4 lose their rows and show the default; a later upsert of the same batch stands.
    let ops = [retain(2, 4, &[3]), count(4, 44)];
    apply(&mut state, &record(batch(&schema, CLICKHOUSE, "a", "b", &ops)));
    assert_eq!(counts(&state), ints([1, 0, 3, 44, 5]));
    let hash = state.hash();
    apply(&mut state, &record(batch(&schema, CLICKHOUSE, "b", "c", &ops)));
    assert_eq!(state.hash(), hash, "a repeated batch changes nothing");
    // A row without a document goes too, though nothing shows it.
    apply(&mut state, &record(batch(&schema, CLICKHOUSE, "c", "d", &[retain(5, u32::MAX, &[9])])));
    assert_eq!(counts(&state), ints([1, 0, 3, 44, 0]));
    apply(&mut state, &record(batch(&schema, POSTGRES, "", "a", &[document(6, 1)])));
    assert_eq!(document_of(&state, 6)[model::COUNT], FieldValue::One(Value::Int(0)));
    assert_eq!(state.hash(), model::hash(&state));
    model::assert_same(&state, &round_trip(&state));
}

#[test]
fn many_changes_at_once_equal_the_same_one_by_one() {
    let (mut at_once, mut singly) = (new_state(), new_state());
    let schema = at_once.schema().clone();
    let documents: Vec<_> = (0..25_000).map(|key| document(key, key % 7)).collect();
    let tags = (0..25_000).map(|document| Op::Member {
        source: 4,
        document,
        value: Value::Int(i64::from(document % 3)),
        present: true,
    });
    let tags: Vec<_> = tags.collect();
    for (n, ops) in [documents.as_slice(), &tags, &[Op::Truncate { source: 4 }], &tags[..100]].into_iter().enumerate() {
        let name = |n: usize| if n == 0 { String::new() } else { n.to_string() };
        apply(&mut at_once, &record(batch(&schema, POSTGRES, &name(n), &name(n + 1), ops)));
        for ops in ops.chunks(999) {
            let cursor = singly.sequence().to_string();
            let previous = singly.cursor(POSTGRES);
            let previous = std::str::from_utf8(&previous).unwrap();
            let record = record(batch(&schema, POSTGRES, previous, &cursor, ops));
            apply(&mut singly, &record);
        }
        assert_eq!(at_once.hash(), singly.hash());
        assert_eq!(at_once.hash(), model::hash(&at_once));
        model::assert_same(&at_once, &singly);
        model::assert_same(&at_once, &round_trip(&at_once));
    }
}

#[test]
fn what_does_not_decode_is_refused_by_name() {
    let schema = schema();
    let check = |ops: Vec<wire::Op>| {
        let batch = wire::Batch { source: POSTGRES.into(), ops, ..wire::Batch::default() };
        Decoded::new(&schema, record(batch)).unwrap_err().to_string()
    };
    let field = |name: &str| wire::Op {
        kind: Some(wire::op::Kind::Field(wire::FieldOp { document: 1, field: name.into(), change: None })),
    };
    assert!(check(vec![field("nothing")]).contains("unknown field nothing"));
    assert!(check(vec![field("level")]).contains("only external fields"));
    let retain = |source, first, last, keys: &[u32]| wire::Op {
        kind: Some(wire::op::Kind::Retain(wire::Retain { source, first, last, keys: keys.to_vec() })),
    };
    assert!(check(vec![retain(8, 0, 9, &[])]).contains("source 8 does not exist"));
    for (source, name) in [(1, "post"), (4, "tags")] {
        assert!(check(vec![retain(source, 0, 9, &[])]).contains(&format!("{name}: retain needs a source of rows")));
    }
    for (first, last, keys) in [(9, 0, &[][..]), (1, 9, &[0]), (1, 9, &[10]), (1, 9, &[5, 4]), (1, 9, &[4, 4])] {
        let said = check(vec![retain(7, first, last, keys)]);
        assert!(said.contains("events: retain from") && said.contains("ascending"), "{said}");
    }
    let mut too_large = document(1, 1).to_wire(&schema);
    if let Some(wire::op::Kind::Upsert(upsert)) = &mut too_large.kind {
        upsert.key = 1 << 32;
    }
    assert!(check(vec![too_large]).contains("document key 4294967296"));
    let foreign = wire::Genesis { store: "s".into(), definition_hash: "other".into() };
    let error = Decoded::new(&schema, wire::Record { kind: Some(Kind::Genesis(foreign)) }).unwrap_err();
    assert!(error.to_string().contains("definition other"), "{error}");
}

#[test]
fn random_batches_equal_the_model_whatever_the_layers() {
    let mut rng = seeded();
    for round in 0..scaled(4) {
        let mut plain = state_of(if round % 2 == 0 { schema() } else { schema_by_column() });
        let schema = plain.schema().clone();
        let mut layered = plain.clone();
        let (mut store, mut eager) = (Store::new(&schema), Store::new(&schema));
        let mut model = Model::default();
        let ids = [20, 300][rng.random_range(0..2)];
        for step in 0..30_u32 {
            let ops: Vec<_> = (0..rng.random_range(1..60)).map(|_| model::random_op(&mut rng, &schema, ids)).collect();
            ops.iter().for_each(|op| model.apply(&schema, op));
            let name = |step: u32| if step == 0 { String::new() } else { step.to_string() };
            let record = record(batch(&schema, POSTGRES, &name(step), &name(step + 1), &ops));
            let before = (layered.clone(), layered.hash(), (step % 7 == 0).then(|| model::indexes(&layered)));
            apply(&mut plain, &record);
            layered.validate(&record).unwrap();
            layered.apply(plain.sequence(), &record).unwrap();
            model::assert_is(&layered, &model);
            model::assert_same(&layered, &plain);
            if let Some(indexes) = before.2 {
                assert_eq!((before.0.hash(), model::indexes(&before.0)), (before.1, indexes), "a clone has changed");
            }
            match rng.random_range(0..4) {
                0 if layered.frozen().is_none() => {
                    apply(&mut layered, &freeze());
                    apply(&mut plain, &freeze());
                    // One adopts later; the other at once, or is opened anew.
                    let files = eager.flush(&plain, &[]);
                    if rng.random() {
                        plain = State::open(files).unwrap();
                    } else {
                        plain.adopt(files).unwrap();
                    }
                }
                1 if layered.frozen().is_some() => {
                    let files = store.flush(&layered, &[]);
                    layered.adopt(files).unwrap();
                    assert!(layered.frozen().is_none());
                    model::assert_is(&layered, &model);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn a_row_that_reaches_many_documents_moves_them_as_the_model_does() {
    let mut rng = seeded();
    for schema in [schema(), schema_by_column()] {
        reach_many(&mut rng, schema);
    }
}

fn reach_many(rng: &mut ChaCha8Rng, schema: Schema) {
    let mut state = state_of(schema);
    let schema = state.schema().clone();
    let mut model = Model::default();
    let mut cursor = 0;
    let mut step = |state: &mut State, ops: Vec<Op>| {
        ops.iter().for_each(|op| model.apply(&schema, op));
        let name = |cursor: u32| if cursor == 0 { String::new() } else { cursor.to_string() };
        apply(state, &record(batch(&schema, POSTGRES, &name(cursor), &name(cursor + 1), &ops)));
        cursor += 1;
        model::assert_is(state, &model);
    };
    let document = |id: i64, post: i64| {
        let mut values = vec![None; 7];
        (values[5], values[6]) = (Some(Value::Int(post)), Some(Value::Int(id % 5)));
        Op::Upsert { source: 0, key: id, row: Some(row(values)) }
    };
    let member = |id: i64| Op::Member { source: 5, document: id as u32, value: Value::Int(id % 2), present: true };
    let ids = || (0..5_000_i64).map(|id| id * 20);
    step(&mut state, ids().map(|id| document(id, id / 20 % 2)).chain(ids().map(member)).collect());
    for _ in 0..scaled(8) {
        let mut ops = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let key = rng.random_range(0..2);
            let int = |rng: &mut ChaCha8Rng| (rng.random_range(0..5) > 0).then(|| Value::Int(rng.random_range(0..3)));
            let text = Some(Value::Text(["a", "b"][rng.random_range(0..2)].into()));
            let (source, values) = match rng.random_range(0..3) {
                0 => (1, vec![int(rng), int(rng)]),
                1 => (2, vec![text, int(rng)]),
                _ => (3, vec![Some(Value::Bool(rng.random()))]),
            };
            let row = (rng.random_range(0..6) > 0).then(|| row(values));
            ops.push(Op::Upsert { source, key, row });
        }
        // Some documents move in the same batch.
        ops.extend(
            (0..rng.random_range(0..3)).map(|_| document(rng.random_range(0..5_000) * 20, rng.random_range(0..3))),
        );
        step(&mut state, ops);
    }
}
