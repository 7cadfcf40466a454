//! Searches, counts and documents compared with the naive model, on random rows, after random batches, by every plan.

use std::{cmp::Ordering, collections::BTreeSet, rc::Rc, sync::Arc};

use bitdex_proto::{
    Error,
    ops::Op,
    query::{CountRequest, Fields, Filter, GetRequest, OpaqueBytes, SearchRequest, Sort},
    schema::{Field, NamedFilter, Schema},
    value::{FieldValue, Literal, Value},
    wire,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

mod explain;
mod features;
mod fuzz;
mod leading;
mod named;
mod ordered;

use super::{Counted, How, Plan, count, cursor_sequence, get, matching, search, search_how, trace::Trace};
use crate::{
    state::{
        Decoded, POSTGRES, State,
        tests::{
            Store, batch as batch_of, freeze, genesis,
            model::{Documents, Model, NOW, matches, random_filter, random_op, row, schema},
            record,
        },
    },
    testing::{rounds, scaled, seed},
};

fn batch(schema: &Schema, previous: &str, new: &str, ops: &[Op]) -> wire::Record {
    record(batch_of(schema, POSTGRES, previous, new, ops))
}

/// The answer, said without indexes: filter, drop what is pending, sort, all of it.
fn expected(schema: &Schema, documents: &Documents, request: &SearchRequest, now_us: i64) -> Vec<u32> {
    let visible = |document: &[FieldValue]| {
        let at = schema.visible_at.and_then(|field| document[field].values().first().cloned());
        request.include_pending || at.is_none_or(|at| at <= Value::Int(now_us))
    };
    let passes = |document: &[FieldValue]| {
        visible(document) && request.filter.as_ref().is_none_or(|filter| matches(filter, document, schema, now_us))
    };
    let mut found: Vec<_> = documents.iter().filter(|(_, document)| passes(document)).collect();
    found.sort_by(|a, b| {
        for sort in &request.sort {
            let (field, _) = schema.field(&sort.field).unwrap();
            let ordering = match (a.1[field].values().first(), b.1[field].values().first()) {
                (Some(a), Some(b)) if sort.descending => b.cmp(a),
                (Some(a), Some(b)) => a.cmp(b),
                (a, b) => a.is_none().cmp(&b.is_none()),
            };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        if request.sort.last().is_some_and(|sort| sort.descending) { b.0.cmp(a.0) } else { a.0.cmp(b.0) }
    });
    let mut seen = BTreeSet::new();
    let distinct = request.distinct.as_ref().map(|name| schema.field(name).unwrap().0);
    found.retain(|(_, document)| match distinct.and_then(|field| document[field].values().first()) {
        Some(value) => seen.insert(value.clone()),
        None => true,
    });
    found.into_iter().map(|(id, _)| *id).collect()
}

/// All pages of a request, one after the other.
fn pages(state: &State, request: &SearchRequest, now_us: i64, plan: Option<Plan>) -> Vec<u32> {
    let (mut request, mut all) = (request.clone(), Vec::new());
    loop {
        // The first page's clock counts, whatever later requests say.
        let clock = if request.cursor.is_some() { now_us + 1_000_000 } else { now_us };
        let page = search_how(state, &request, clock, How { plan, trace: None }).unwrap();
        assert_eq!(page.now_us, now_us);
        assert!(page.ids.len() <= request.limit as usize);
        all.extend(page.ids);
        match page.next_cursor {
            Some(cursor) => request.cursor = Some(OpaqueBytes(cursor)),
            None => return all,
        }
    }
}

/// The one that is picked, and each that there is.
/// How the first page comes about, where lists are gone through.
fn told_of_lead(state: &State, request: &SearchRequest, now: i64) -> String {
    let trace = Rc::new(Trace::default());
    search_how(state, request, now, How { plan: Some(Plan::Lead), trace: Some(&trace) }).unwrap();
    Rc::try_unwrap(trace).unwrap().finish().runs.pop().unwrap().plan
}

fn all_plans() -> impl Iterator<Item = Option<Plan>> {
    [None].into_iter().chain(Plan::ALL.map(Some))
}

fn is_relative(filter: &Filter) -> bool {
    format!("{filter:?}").contains("Now {")
}

/// The schema, with named filters.
fn named_schema() -> Schema {
    let mut schema = schema();
    for (name, text) in
        [("low", "level <= 3 AND NOT kind = a"), ("recent", "sortAt >= now - 20us OR low"), ("none", "FALSE")]
    {
        schema.filters.push(NamedFilter::parse(name, text, &schema).unwrap());
    }
    schema
}

/// The schema, with a field that has few values and no column: the same as `level`.
fn graded_schema() -> Schema {
    let mut schema = schema();
    let (_, level) = schema.field("level").unwrap();
    let grade = Field { name: "grade".into(), sort: false, ..level.clone() };
    schema.fields.push(grade);
    schema
}

/// A state after some random batches, in random layers, and what it holds.
fn random_state(rng: &mut ChaCha8Rng, schema: &Arc<Schema>, ids: u32, batches: u64) -> (State, Documents) {
    let (mut state, mut model) = (State::new(schema.clone()), Model::default());
    state.apply(1, &genesis(schema)).unwrap();
    let mut store = Store::new(schema);
    for n in 0..batches {
        match rng.random_range(0..4) {
            0 if state.frozen().is_none() => state.apply(state.sequence() + 1, &freeze()).unwrap(),
            1 if state.frozen().is_some() => {
                state.adopt(store.flush(&state, &[])).unwrap();
                if rng.random()
                    && let Some(files) = store.compact(state.files(), 0.0)
                {
                    state.adopt(files).unwrap();
                }
            }
            _ => {}
        }
        let ops: Vec<Op> = (0..ids * 3).map(|_| random_op(rng, schema, ids)).collect();
        let cursor = |n: u64| if n == 0 { String::new() } else { n.to_string() };
        state.apply(state.sequence() + 1, &batch(schema, &cursor(n), &cursor(n + 1), &ops)).unwrap();
        ops.iter().for_each(|op| model.apply(schema, op));
    }
    let documents = model.documents(schema);
    (state, documents)
}

fn random_request(rng: &mut ChaCha8Rng, schema: &Schema) -> SearchRequest {
    let sortable: Vec<_> = schema.fields.iter().filter(|field| field.sort).collect();
    let keys = [0, 1, 1, 1, 2, 3][rng.random_range(0..6)];
    let sort = |rng: &mut ChaCha8Rng| Sort {
        field: sortable[rng.random_range(0..sortable.len())].name.clone(),
        descending: rng.random(),
    };
    SearchRequest {
        filter: (rng.random_range(0..8) > 0).then(|| random_filter(rng, schema, 3, true)),
        sort: (0..keys).map(|_| sort(rng)).collect(),
        limit: [1, 2, 3, 7, 50, 10_000][rng.random_range(0..6)],
        include_pending: rng.random_range(0..4) == 0,
        ..SearchRequest::new(schema.index.clone())
    }
}

#[test]
fn answers_equal_the_naive_model() {
    let (seed, rounds) = (seed(), scaled(12));
    let schema = Arc::new(schema());
    let (mut batches, mut searches, mut found) = (0_u64, 0_u64, 0_u64);
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let ids = [12, 60, 300][rng.random_range(0..3)];
        let (mut state, mut model) = (State::new(schema.clone()), Model::default());
        state.apply(1, &genesis(&schema)).unwrap();
        let mut store = Store::new(&schema);
        for n in 0..20_u64 {
            let what = format!("seed {seed}, round {round}, batch {n}");
            // Rows get into frozen layers, checkpoints, segments and tables at different times.
            match rng.random_range(0..5) {
                0 if state.frozen().is_none() => state.apply(state.sequence() + 1, &freeze()).unwrap(),
                1 if state.frozen().is_some() => state.adopt(store.flush(&state, &[])).unwrap(),
                2 => {
                    while let Some(files) = store.compact(state.files(), 0.01) {
                        state.adopt(files).unwrap();
                    }
                }
                _ => {}
            }
            let ops = rng.random_range(1..=ids * 4);
            let ops: Vec<Op> = (0..ops).map(|_| random_op(&mut rng, &schema, ids)).collect();
            let cursor = |n: u64| if n == 0 { String::new() } else { n.to_string() };
            let record = batch(&schema, &cursor(n), &cursor(n + 1), &ops);
            Decoded::new(&schema, record.clone()).unwrap();
            state.apply(state.sequence() + 1, &record).unwrap();
            ops.iter().for_each(|op| model.apply(&schema, op));
            batches += 1;

            let documents = model.documents(&schema);
            assert_eq!(state.documents(), documents.len() as u64, "{what}");
            for _ in 0..10 {
                let request = random_request(&mut rng, &schema);
                let now = NOW + rng.random_range(-30..15);
                let expected = expected(&schema, &documents, &request, now);
                for plan in all_plans() {
                    let found = pages(&state, &request, now, plan);
                    assert_eq!(found, expected, "{what}, now {now}, {plan:?}: {request:?}");
                }
                let counted = SearchRequest { count: true, ..request.clone() };
                let all = Counted { count: expected.len() as u64, is_lower_bound: false };
                assert_eq!(search(&state, &counted, now).unwrap().count, Some(all), "{what}");
                let count_request = CountRequest {
                    index: request.index.clone(),
                    filter: request.filter.clone(),
                    include_pending: request.include_pending,
                    now_us: Some(now),
                    ..CountRequest::new("things")
                };
                assert_eq!(count(&state, &count_request, 0).unwrap(), all, "{what}");
                if let Some(filter) = request.filter.as_ref().filter(|filter| !is_relative(filter)) {
                    let mut found = Vec::new();
                    matching(&state, filter, &mut |id| {
                        found.push(id);
                        Ok(())
                    })
                    .unwrap();
                    let matching = documents.iter().filter(|(_, document)| matches(filter, document, &schema, now));
                    assert_eq!(found, matching.map(|(id, _)| *id).collect::<Vec<_>>(), "{what}: {filter:?}");
                }
                explain::check(&state, &request, now, &expected, &what);
                searches += 1;
                found += expected.len() as u64;
            }
        }
    }
    println!("{rounds} rounds, {batches} batches, {searches} searches by every plan, {found} rows found");
    assert!(found > searches, "the searches found nothing to speak of");
}

/// Documents whose times follow their ids, over several blocks; some come late, some only later.
fn document_in_time(rng: &mut ChaCha8Rng, n: i64, level: Option<i64>) -> Vec<Op> {
    let time = |at: i64| Some(Value::Int(at));
    let at = match rng.random_range(0..12) {
        0 => NOW - rng.random_range(0..40),
        _ => NOW - 20 * (COUNT - n) + rng.random_range(-30..30),
    };
    let published = match rng.random_range(0..10) {
        0 => None,
        1 => time(NOW + rng.random_range(0..50)),
        _ => time((at + rng.random_range(-10..10)).min(NOW)),
    };
    let mut values = vec![None; 7];
    values[0] = level.map(Value::Int);
    values[4] = Some(Value::Bool(rng.random()));
    values[5] = Some(Value::Int(n));
    values[6] = (rng.random_range(0..10) > 0).then_some(Value::Int(at.min(NOW)));
    vec![
        Op::Upsert { source: 1, key: n, row: Some(row(vec![published, None])) },
        Op::Upsert { source: 0, key: n * 1000, row: Some(row(values)) },
        Op::Upsert { source: 7, key: n * 1000, row: Some(row(vec![Some(Value::Int(rng.random_range(0..9)))])) },
    ]
}

const COUNT: i64 = 400;

/// Applies the n-th batch, and brings it into a layer.
fn bring(state: &mut State, store: &mut Store, n: u64, ops: &[Op], layer: &str) {
    let schema = state.schema().clone();
    let cursor = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    state.apply(state.sequence() + 1, &batch(&schema, &cursor(n), &cursor(n + 1), ops)).unwrap();
    if layer != "active" && state.frozen().is_none() {
        state.apply(state.sequence() + 1, &freeze()).unwrap();
    }
    if layer == "checkpoint" || layer == "base" {
        state.adopt(store.flush(state, &[])).unwrap();
    }
}

/// Has up to so many files take in what the checkpoint says.
fn compact(state: &mut State, store: &mut Store, files: usize) {
    for _ in 0..files {
        let Some(files) = store.compact(state.files(), 0.0) else { break };
        state.adopt(files).unwrap();
    }
}

/// Counts and pages by every plan, of random requests.
fn check_answers(rng: &mut ChaCha8Rng, state: &State, model: &Model, what: &str) -> u64 {
    let schema = state.schema().clone();
    let documents = model.documents(&schema);
    let mut found = 0;
    for _ in 0..25 {
        let mut request = random_request(rng, &schema);
        if rng.random() {
            let field = ["sortAt", "count", "level"][rng.random_range(0..3)];
            request.sort = by(field, rng.random_range(0..4) > 0);
        }
        if rng.random_range(0..3) == 0 {
            // Most of the values that there are.
            let levels: Vec<_> = (0..4).filter(|_| rng.random_range(0..5) > 0).map(|level| level.to_string()).collect();
            let most = Filter::parse(&format!("grade IN [{}]", levels.join(", ")), &schema).unwrap();
            let beside = match rng.random() {
                true => request.filter,
                // Some of these ids have no document.
                false => Some(Filter::parse(&format!("id >= {}", rng.random_range(0..500_000)), &schema).unwrap()),
            };
            request.filter = Some(Filter::And(beside.into_iter().chain([most]).collect()));
        }
        let now = NOW + rng.random_range(-30..60);
        let expected = expected(&schema, &documents, &request, now);
        for plan in all_plans() {
            assert_eq!(pages(state, &request, now, plan), expected, "{what}, now {now}, {plan:?}: {request:?}");
        }
        explain::check(state, &request, now, &expected, what);
        let counted = SearchRequest { count: true, ..request };
        let all = Counted { count: expected.len() as u64, is_lower_bound: false };
        assert_eq!(search(state, &counted, now).unwrap().count, Some(all), "{what}: {counted:?}");
        found += expected.len() as u64;
    }
    found
}

#[test]
fn answers_over_all_layers_equal_the_naive_model() {
    let (seed, rounds) = (seed(), scaled(2));
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let schema = Arc::new(graded_schema());
        let (mut state, mut model) = (State::new(schema.clone()), Model::default());
        state.apply(1, &genesis(&schema)).unwrap();
        let mut store = Store::new(&schema);
        let (mut found, with_nulls) = (0, round % 2 == 1);
        for (n, layer) in
            (0_u64..).zip(["active", "frozen", "checkpoint", "base", "active", "checkpoint", "frozen", "active"])
        {
            // The first time all of it, later some. What the base holds has levels of 0 to 3, the last one seldom; in some
            // rounds each has one.
            let mut ops = Vec::new();
            for document in 0..COUNT {
                if n == 0 || rng.random_range(0..20) == 0 {
                    let level = match rng.random_range(0..80) {
                        0 => Some(3),
                        1..7 if n > 3 || with_nulls => None,
                        7..10 if n > 3 => Some(4),
                        _ => Some(rng.random_range(0..3)),
                    };
                    ops.extend(document_in_time(&mut rng, document, level));
                }
            }
            if n > 3 || with_nulls {
                let more = random_op(&mut rng, &schema, 60);
                ops.extend((!matches!(more, Op::Truncate { .. })).then_some(more));
            }
            ops.iter().for_each(|op| model.apply(&schema, op));
            bring(&mut state, &mut store, n, &ops, layer);
            if layer == "base" {
                compact(&mut state, &mut store, usize::MAX);
            }
            let what = format!("seed {seed}, round {round}, step {n}, {layer}");
            found += check_answers(&mut rng, &state, &model, &what);
        }
        assert!(found > 0, "the searches found nothing");
    }
}

fn state_of(rows: &[(i64, Option<i64>)]) -> State {
    let schema = Arc::new(schema());
    let mut state = State::new(schema.clone());
    state.apply(1, &genesis(&schema)).unwrap();
    let ops: Vec<_> = rows
        .iter()
        .map(|(key, level)| {
            let mut values = vec![None; 7];
            values[0] = level.map(Value::Int);
            Op::Upsert { source: 0, key: *key, row: Some(row(values)) }
        })
        .collect();
    state.apply(2, &batch(&schema, "", "a", &ops)).unwrap();
    state
}

fn by(field: &str, descending: bool) -> Vec<Sort> {
    vec![Sort { field: field.into(), descending }]
}

#[test]
fn a_field_that_no_document_of_the_base_has_is_told_by_layers() {
    let mut state = state_of(&[(1, Some(5)), (2, Some(4)), (3, Some(3)), (4, None)]);
    let schema = state.schema().clone();
    let mut store = Store::new(&schema);
    let tagged = |document| Op::Member { source: 4, document, value: Value::Int(7), present: true };
    let ops: Vec<Op> = (1..=3).map(tagged).collect();
    state.apply(state.sequence() + 1, &batch(&schema, "a", "b", &ops)).unwrap();
    let flush = |state: &mut State, store: &mut Store| {
        state.apply(state.sequence() + 1, &freeze()).unwrap();
        state.adopt(store.flush(state, &[])).unwrap();
    };
    flush(&mut state, &mut store);
    while let Some(files) = store.compact(state.files(), 0.0) {
        state.adopt(files).unwrap();
    }
    for key in [2, 3] {
        let mut values = vec![None; 7];
        values[0] = Some(Value::Int(9));
        values[4] = Some(Value::Bool(key == 2));
        let ops = [Op::Upsert { source: 0, key, row: Some(row(values)) }];
        let cursor = |n: u64| if n == 1 { "b".into() } else { n.to_string() };
        state.apply(state.sequence() + 1, &batch(&schema, &cursor(key as u64 - 1), &cursor(key as u64), &ops)).unwrap();
    }
    for layer in ["active", "checkpoint"] {
        for (filter, expected) in [
            ("flag = true", vec![2]),
            ("flag IS NULL", vec![1, 4]),
            ("flag != true", vec![1, 3, 4]),
            ("flag EXISTS AND ownPoi IS NULL", vec![2, 3]),
            ("tags = 7 AND flag IS NULL", vec![1]),
            ("tags = 7 AND flag != true", vec![1, 3]),
            ("tags = 7 AND flag = true AND ownPoi IS NULL", vec![2]),
        ] {
            let filter = Filter::parse(filter, &schema).unwrap();
            let request = SearchRequest { filter: Some(filter), ..SearchRequest::new("things") };
            for plan in all_plans() {
                assert_eq!(pages(&state, &request, NOW, plan), expected, "{layer}: {:?}", request.filter);
            }
            let counted = count(&state, &CountRequest::of_search(&request), NOW).unwrap();
            assert_eq!(counted.count, expected.len() as u64, "{layer}: {:?}", request.filter);
        }
        if layer == "active" {
            flush(&mut state, &mut store);
        }
    }
}

#[test]
fn nulls_come_last_both_ways_and_ties_follow_the_direction() {
    let state = state_of(&[(1, Some(5)), (2, None), (3, Some(5)), (4, Some(1)), (5, None)]);
    let ids = |sort| search(&state, &SearchRequest { sort, ..SearchRequest::new("things") }, NOW).unwrap().ids;
    assert_eq!(ids(by("level", false)), [4, 1, 3, 2, 5]);
    assert_eq!(ids(by("level", true)), [3, 1, 4, 5, 2]);
    assert_eq!(ids(by("id", true)), [5, 4, 3, 2, 1]);
    assert_eq!(ids(vec![]), [1, 2, 3, 4, 5]);
}

#[test]
fn a_page_begins_behind_the_row_of_its_cursor_whatever_became_of_that() {
    let rows: Vec<(i64, Option<i64>)> =
        [(0, Some(5)), (u32::MAX.into(), Some(5))].into_iter().chain((1..9).map(|n| (n * 70_000, Some(n)))).collect();
    for (descending, cut) in [(true, 3), (true, 5), (true, 6), (false, 1), (false, 5), (false, 6)] {
        for (became, file) in (0..5).flat_map(|became| [(became, false), (became, true)]) {
            let mut state = state_of(&rows);
            let schema = state.schema().clone();
            if file {
                let mut store = Store::new(&schema);
                state.apply(state.sequence() + 1, &freeze()).unwrap();
                state.adopt(store.flush(&state, &[])).unwrap();
                compact(&mut state, &mut store, usize::MAX);
            }
            let request = SearchRequest { sort: by("level", descending), limit: cut, ..SearchRequest::new("things") };
            let page = search(&state, &request, NOW).unwrap();
            let last = *page.ids.last().unwrap();
            let of_last = rows.iter().find(|(id, _)| *id == i64::from(last)).unwrap().1.unwrap();
            let level = match became {
                0 => Some(of_last),
                1 => Some(0),
                2 => Some(9),
                _ => None,
            };
            let values = (became < 4).then(|| std::iter::once(level.map(Value::Int)).chain((0..6).map(|_| None)));
            let ops = [Op::Upsert { source: 0, key: last.into(), row: values.map(|it| row(it.collect())) }];
            state.apply(state.sequence() + 1, &batch(&schema, "a", "b", &ops)).unwrap();

            let mut now: Vec<(Option<i64>, i64)> = rows.iter().map(|(id, level)| (*level, *id)).collect();
            now.retain(|(_, id)| *id != i64::from(last));
            now.extend((became < 4).then_some((level, i64::from(last))));
            let key = |(level, id): (Option<i64>, i64)| match level {
                Some(level) if descending => (false, -level, -id),
                Some(level) => (false, level, id),
                None => (true, 0, if descending { -id } else { id }),
            };
            now.sort_by_key(|row| key(*row));
            now.retain(|row| key(*row) > key((Some(of_last), last.into())));
            let expected: Vec<u32> = now.into_iter().map(|(_, id)| id as u32).collect();
            let request = SearchRequest { cursor: page.next_cursor.map(OpaqueBytes), limit: 100, ..request };
            for plan in all_plans() {
                let page = search_how(&state, &request, NOW, How { plan, trace: None }).unwrap();
                assert_eq!(page.ids, expected, "behind {last}, which became {level:?}, {became}, {file}, {plan:?}");
            }
        }
    }
}

#[test]
fn a_cursor_belongs_to_its_query_store_and_generation() {
    let state = state_of(&[(1, Some(5)), (2, Some(4)), (3, Some(3))]);
    let request = SearchRequest { limit: 1, sort: by("level", true), ..SearchRequest::new("things") };
    let page = search(&state, &request, NOW).unwrap();
    let cursor = Some(OpaqueBytes(page.next_cursor.unwrap()));
    let next = SearchRequest { cursor: cursor.clone(), limit: 2, ..request.clone() };
    assert_eq!(cursor_sequence(&state, &next), Ok(Some(2)));
    let last = search(&state, &next, NOW).unwrap();
    assert_eq!((last.ids, last.next_cursor), (vec![2, 3], None));

    let refused = |request: SearchRequest| search(&state, &request, NOW).unwrap_err();
    for other in [
        SearchRequest { sort: by("level", false), ..next.clone() },
        SearchRequest { include_pending: true, ..next.clone() },
        SearchRequest { filter: Some(Filter::eq("level", Literal::Int(1))), ..next.clone() },
    ] {
        let error = refused(other);
        assert!(matches!(&error, Error::Invalid(message) if message.contains("another query")), "{error}");
    }
    let garbage = SearchRequest { cursor: Some(OpaqueBytes("garbage".into())), ..next.clone() };
    assert!(matches!(refused(garbage), Error::Invalid(_)));
    let elsewhere = State::new(Arc::new(schema()));
    assert!(matches!(search(&elsewhere, &next, NOW), Err(Error::Precondition(_))));
    assert!(matches!(cursor_sequence(&elsewhere, &next), Err(Error::Precondition(_))));
}

#[test]
fn errors_name_what_is_wrong() {
    let state = state_of(&[(1, Some(5))]);
    let base = SearchRequest::new("things");
    let filter = |field: &str, literal| SearchRequest { filter: Some(Filter::eq(field, literal)), ..base.clone() };
    for (request, expected) in [
        (filter("nothing", Literal::Int(1)), "unknown field nothing"),
        (filter("price", Literal::Int(1)), "price cannot be filtered by"),
        (filter("level", Literal::Text("x".into())), "level is of type int"),
        (filter("level", Literal::Now { offset_us: 0 }), "level is no timestamp"),
        (filter("sortAt", Literal::Now { offset_us: i64::MAX }), "sortAt: now+9223372036854775807us does not fit"),
        (SearchRequest { sort: by("nothing", false), ..base.clone() }, "unknown field nothing"),
        (SearchRequest { sort: by("flag", false), ..base.clone() }, "flag cannot be sorted by"),
        (SearchRequest { sort: by("tags", false), ..base.clone() }, "tags holds many values"),
        (SearchRequest { limit: 0, ..base.clone() }, "limit is 0"),
        (SearchRequest { limit: 1_000_000_000, ..base.clone() }, "limit is 1000000000"),
        (SearchRequest { fields: Fields::Named(vec!["nothing".into()]), ..base.clone() }, "unknown field nothing"),
    ] {
        let error = search(&state, &request, NOW).unwrap_err();
        assert!(matches!(&error, Error::Invalid(message) if message.contains(expected)), "{expected}: {error}");
    }
    let error = search(&state, &SearchRequest::new("images"), NOW).unwrap_err();
    assert!(matches!(&error, Error::NotFound(text) if text.contains("images") && text.contains("things")), "{error}");
}

#[test]
fn get_answers_in_the_order_asked_for() {
    let mut state = state_of(&[(1, Some(5)), (3, None)]);
    let schema = state.schema().clone();
    let mut values = vec![None; 7];
    values[5] = Some(Value::Int(8));
    let pending = [
        Op::Upsert { source: 1, key: 8, row: Some(row(vec![Some(Value::Int(NOW + 1)), None])) },
        Op::Upsert { source: 0, key: 4, row: Some(row(values)) },
    ];
    state.apply(3, &batch(&schema, "a", "b", &pending)).unwrap();
    let request = GetRequest {
        index: "things".into(),
        ids: vec![3, 4, 9, 1, 3],
        fields: Fields::Named(vec!["level".into(), "id".into()]),
        include_pending: false,
        now_us: None,
        consistency: None,
    };
    let int = |int| FieldValue::One(Value::Int(int));
    let answer = get(&state, &request, NOW).unwrap();
    assert_eq!(answer.ids, [3, 1, 3]);
    assert_eq!(answer.rows[..2], [vec![FieldValue::Null, int(3)], vec![int(5), int(1)]]);
    assert_eq!(get(&state, &request, NOW + 1).unwrap().ids, [3, 4, 1, 3]);
    let all = GetRequest { include_pending: true, fields: Fields::None, ..request };
    let answer = get(&state, &all, NOW).unwrap();
    assert_eq!((answer.ids.len(), answer.fields.len()), (4, schema.fields.len()));
    assert_eq!(answer.rows[0].len(), schema.fields.len());
}
