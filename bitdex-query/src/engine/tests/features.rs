//! Facets, distinct pages, bounded counts, named filters and text, compared with the naive model.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use bitdex_proto::query::{Facet, FacetRequest, FilterForm};

use super::*;
use crate::engine::{
    Stopped, Watch,
    facets::{FacetValues, Way, facet, facet_by},
    filter::bind,
    watch::{self, step},
    watched,
};

fn visible(schema: &Schema, document: &[FieldValue], now_us: i64) -> bool {
    let at = schema.visible_at.and_then(|field| document[field].values().first().cloned());
    at.is_none_or(|at| at <= Value::Int(now_us))
}

/// The facets, said without indexes.
fn expected_facets(
    schema: &Schema,
    documents: &Documents,
    request: &FacetRequest,
    now_us: i64,
) -> (u64, Vec<FacetValues>) {
    let passes = |document: &[FieldValue]| {
        (request.include_pending || visible(schema, document, now_us))
            && request.filter.as_ref().is_none_or(|filter| matches(filter, document, schema, now_us))
    };
    let matching: Vec<_> = documents.values().filter(|document| passes(document)).collect();
    let facet = |facet: &Facet| {
        let (field, _) = schema.field(&facet.field).unwrap();
        let mut counts: BTreeMap<Value, u64> = BTreeMap::new();
        let mut nulls = 0;
        for document in &matching {
            nulls += u64::from(document[field].is_null());
            for value in document[field].values() {
                *counts.entry(value.clone()).or_default() += 1;
            }
        }
        let mut values: Vec<_> = counts.into_iter().collect();
        values.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        values.truncate(facet.limit as usize);
        FacetValues { field, values, nulls }
    };
    (matching.len() as u64, request.facets.iter().map(facet).collect())
}

fn maybe_named(rng: &mut ChaCha8Rng, schema: &Schema) -> Option<Filter> {
    let named = |rng: &mut ChaCha8Rng| {
        let name = schema.filters[rng.random_range(0..schema.filters.len())].name.clone();
        Filter::Named { name }
    };
    Some(match rng.random_range(0..6) {
        0 => return None,
        1 => named(rng),
        2 => Filter::And(vec![named(rng), random_filter(rng, schema, 2, true)]),
        3 => Filter::Or(vec![Filter::Not(Box::new(named(rng))), random_filter(rng, schema, 2, true)]),
        _ => random_filter(rng, schema, 3, true),
    })
}

#[test]
fn facets_and_distinct_pages_equal_the_naive_model() {
    let seed = seed();
    let schema = Arc::new(named_schema());
    let single: Vec<_> = schema.fields.iter().filter(|field| field.filter && !field.many).collect();
    let (mut values, mut hits, mut left_out) = (0, 0, 0);
    for round in 0..rounds(2_000, 50) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let ids = [12, 60, 300][rng.random_range(0..3)];
        let batches = rng.random_range(1..5);
        let (state, documents) = random_state(&mut rng, &schema, ids, batches);
        for n in 0..8 {
            let what = format!("seed {seed}, round {round}, query {n}");
            let now = NOW + rng.random_range(-30..15);
            let facet = |field: &str, rng: &mut ChaCha8Rng| Facet {
                field: field.into(),
                limit: [1, 2, 3, 10, 10_000][rng.random_range(0..5)],
            };
            let fields = schema.fields.iter().filter(|field| field.filter);
            let request = FacetRequest {
                filter: maybe_named(&mut rng, &schema),
                facets: fields.map(|field| facet(&field.name, &mut rng)).collect(),
                include_pending: rng.random(),
                ..FacetRequest::new("things", "id")
            };
            let (count, expected_values) = expected_facets(&schema, &documents, &request, now);
            for way in [None, Some(Way::Sets), Some(Way::Documents), Some(Way::Codes), Some(Way::Walk)] {
                let found = facet_by(&state, &request, now, way).unwrap();
                assert_eq!(found.count, count, "{what}: {request:?}");
                for (found, expected) in found.facets.iter().zip(&expected_values) {
                    let field = &schema.fields[expected.field].name;
                    assert_eq!(found, expected, "{what}, {field} by {way:?}: {request:?}");
                }
            }
            values += expected_values.iter().map(|facet| facet.values.len()).sum::<usize>();

            let mut request = random_request(&mut rng, &schema);
            request.filter = maybe_named(&mut rng, &schema);
            let all = expected(&schema, &documents, &request, now);
            request.distinct = Some(single[rng.random_range(0..single.len())].name.clone());
            let distinct = expected(&schema, &documents, &request, now);
            assert_eq!(pages(&state, &request, now, None), distinct, "{what}: {request:?}");
            hits += distinct.len();
            left_out += all.len() - distinct.len();

            let up_to = rng.random_range(0..20);
            let counted = SearchRequest { count_up_to: Some(up_to), ..request.clone() };
            let Counted { count, is_lower_bound } = search(&state, &counted, now).unwrap().count.unwrap();
            let all = all.len() as u64;
            assert!(if is_lower_bound { count >= up_to && count <= all } else { count == all }, "{what}: {request:?}");
        }
    }
    println!("{values} values of facets, {hits} distinct rows, {left_out} left out");
    assert!(values > 1_000 && hits > 1_000 && left_out > 1_000);
}

#[test]
fn facets_of_whole_blocks() {
    // As many as are decoded at once, over two blocks, some without a value.
    let rows: Vec<_> = (0..24_000).map(|n| (n + 56_000, (n % 7 > 0).then_some(n % 5 + n % 3))).collect();
    let state = state_of(&rows);
    let mut counts: BTreeMap<i64, u64> = BTreeMap::new();
    rows.iter().filter_map(|(_, level)| *level).for_each(|level| *counts.entry(level).or_default() += 1);
    let mut expected: Vec<_> = counts.into_iter().map(|(level, count)| (Value::Int(level), count)).collect();
    expected.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    for way in [Way::Codes, Way::Walk] {
        let found = facet_by(&state, &FacetRequest::new("things", "level"), NOW, Some(way)).unwrap();
        assert_eq!((found.count, found.facets[0].nulls), (24_000, 24_000_u64.div_ceil(7)), "{way:?}");
        assert_eq!(found.facets[0].values, expected, "{way:?}");
    }
}

#[test]
fn text_asks_what_the_structured_form_asks() {
    let seed = seed();
    let schema = Arc::new(named_schema());
    for round in 0..rounds(200_000, 50) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let Some(filter) = maybe_named(&mut rng, &schema) else { continue };
        let text = filter.to_text();
        let read = FilterForm::Text(text.clone()).resolve(&schema).unwrap();
        let bound = |filter: &Filter| format!("{:?}", bind(Some(filter), &schema, Some(NOW)));
        assert_eq!(bound(&read), bound(&filter), "round {round}: {text}");
    }
}

#[test]
fn facets_name_what_is_wrong() {
    let state = state_of(&[(1, Some(5)), (2, Some(5)), (3, Some(4)), (4, None)]);
    let request = FacetRequest::new("things", "level");
    let found = facet(&state, &request, NOW).unwrap();
    assert_eq!((found.count, found.facets[0].nulls), (4, 1));
    assert_eq!(found.facets[0].values, [(Value::Int(5), 2), (Value::Int(4), 1)]);
    let of =
        |field: &str, limit| FacetRequest { facets: vec![Facet { field: field.into(), limit }], ..request.clone() };
    for (request, expected) in [
        (of("levle", 1), "unknown field levle (did you mean `level`?)"),
        (of("price", 1), "field price has no facets"),
        (of("level", 0), "facet level: limit is 0"),
        (of("level", 10_001), "facet level: limit is 10001"),
        (FacetRequest { facets: Vec::new(), ..request.clone() }, "0 facets; give 1 to 32"),
        (FacetRequest { facets: vec![request.facets[0].clone(); 33], ..request.clone() }, "33 facets; give 1 to 32"),
    ] {
        let error = facet(&state, &request, NOW).unwrap_err();
        assert!(matches!(&error, Error::Invalid(message) if message.contains(expected)), "{expected}: {error}");
    }
    assert!(matches!(facet(&state, &FacetRequest::new("images", "id"), NOW), Err(Error::NotFound(_))));

    let distinct = |field: &str| SearchRequest { distinct: Some(field.into()), ..SearchRequest::new("things") };
    for (request, expected) in [
        (distinct("tags"), "distinct: field tags holds many values"),
        (distinct("price"), "distinct: field price cannot be filtered by"),
        (distinct("colour"), "unknown field colour"),
        (SearchRequest { count: true, count_up_to: Some(1), ..SearchRequest::new("things") }, "not both"),
    ] {
        let error = search(&state, &request, NOW).unwrap_err();
        assert!(matches!(&error, Error::Invalid(message) if message.contains(expected)), "{expected}: {error}");
    }
    assert_eq!(search(&state, &distinct("level"), NOW).unwrap().ids, [1, 3, 4]);
}

#[test]
fn a_cursor_of_a_named_filter_ends_with_its_meaning() {
    let mut schema = named_schema();
    let state = |schema: &Schema| {
        let schema = Arc::new(schema.clone());
        let mut state = State::new(schema.clone());
        state.apply(1, &genesis(&schema)).unwrap();
        let row = |level| Some(row(vec![Some(Value::Int(level)), None, None, None, None, None, None]));
        let ops: Vec<_> = (1..4).map(|key| Op::Upsert { source: 0, key, row: row(key) }).collect();
        state.apply(2, &batch(&schema, "", "a", &ops)).unwrap();
        state
    };
    let filter = Some(Filter::Named { name: "low".into() });
    let request = SearchRequest { filter, limit: 1, ..SearchRequest::new("things") };
    let first = search(&state(&schema), &request, NOW).unwrap();
    let next = SearchRequest { cursor: first.next_cursor.map(OpaqueBytes), ..request };
    assert_eq!(search(&state(&schema), &next, NOW).unwrap().ids, [2]);
    let spelled = SearchRequest { filter: Some(schema.filters[0].filter.clone()), ..next.clone() };
    assert_eq!(search(&state(&schema), &spelled, NOW).unwrap().ids, [2]);
    schema.filters.clear();
    schema.filters.push(NamedFilter::parse("low", "level <= 2", &schema).unwrap());
    let error = search(&state(&schema), &next, NOW).unwrap_err();
    assert!(matches!(&error, Error::Invalid(message) if message.contains("another query")), "{error}");
}

#[test]
fn a_watch_ends_a_query() {
    let state = state_of(&[(1, Some(5)), (70_000, Some(4)), (140_000, None)]);
    let request = SearchRequest::new("things");
    let all = search(&state, &request, NOW).unwrap();
    let run = |watch: Watch| watched(watch, || search(&state, &request, NOW));
    let later = Instant::now() + Duration::from_secs(3600);
    assert_eq!(run(Watch { until: Some(later), max_blocks: Some(100), ..Watch::default() }).unwrap(), all);
    assert!(matches!(run(Watch { until: Some(Instant::now()), ..Watch::default() }), Err(Error::Deadline(_))));
    let blocks = |most| run(Watch { max_blocks: Some(most), ..Watch::default() });
    assert_eq!(blocks(3).unwrap(), all);
    let error = blocks(2).unwrap_err();
    assert!(matches!(&error, Error::Exhausted(message) if message.contains("more than the 2 blocks")), "{error}");
    let cancelled = Arc::new(AtomicBool::new(true));
    assert!(matches!(run(Watch { cancelled: Some(cancelled), ..Watch::default() }), Err(Error::Deadline(_))));
    assert_eq!(search(&state, &request, NOW).unwrap(), all, "a watch ends with its query");

    let cancelled = Arc::new(AtomicBool::new(false));
    let (mut steps, setter) = (0_u64, Arc::clone(&cancelled));
    let stopped = watched(Watch { cancelled: Some(cancelled), ..Watch::default() }, || {
        loop {
            match step() {
                Ok(()) => steps += 1,
                Err(error) => return error,
            }
            if steps == 10_000 {
                setter.store(true, Ordering::Relaxed);
            }
        }
    });
    assert!(matches!(stopped.cause(), crate::log::Cause::Stopped(Stopped::Cancelled)), "{stopped}");
    assert!((10_000..12_000).contains(&steps), "{steps}");

    let passed = watched(Watch { max_blocks: Some(2), ..Watch::default() }, || {
        (0..1_000_000).position(|_| {
            step().is_err_and(|error| matches!(error.cause(), crate::log::Cause::Stopped(Stopped::Blocks(2))))
        })
    });
    assert!(passed.is_some_and(|steps| steps.abs_diff(3 << 16) < 2048), "{passed:?}");
    for many in [7, 32, 1000, 1024] {
        let passed = watched(Watch { max_blocks: Some(2), ..Watch::default() }, || {
            (0..1_000_000).position(|_| watch::steps(many).is_err())
        });
        let passed = passed.map(|times| times * many as usize);
        assert!(passed.is_some_and(|steps| steps.abs_diff(3 << 16) < 4096), "{passed:?} by {many}");
    }
}
