//! Filters of the definition whose sets are kept: found where a query contains them, and right whatever changes.

use rand::seq::SliceRandom as _;

use super::*;
use crate::engine::filter::{self, implies};

/// Name and text: what is kept of them are tests of sets.
const FILTERS: [(&str, &str); 5] = [
    ("safe", "flag = true AND NOT ownPoi = true"),
    ("wordy", "words EXISTS AND safe"),
    ("odd", "tags NOT IN [1, 3] AND NOT (words IS NULL OR resourcePoi = true) AND flag EXISTS"),
    ("fresh", "safe AND tags IN [0, 1, 2] AND sortAt >= now - 20us"),
    ("either", "tags IN [1, 2, 3] OR flag = false"),
];

fn schema_with_filters() -> Schema {
    let mut schema = schema();
    for (name, text) in FILTERS {
        schema.filters.push(NamedFilter::parse(name, text, &schema).unwrap());
    }
    schema
}

/// A filter that contains one of the schema's, by name or spelled out in any order.
fn containing(rng: &mut ChaCha8Rng, schema: &Schema) -> Filter {
    let named = &schema.filters[rng.random_range(0..schema.filters.len())];
    let mut all: Vec<Filter> = match rng.random_range(0..3) {
        0 => vec![Filter::Named { name: named.name.clone() }],
        _ => named.filter.conjuncts().into_iter().cloned().collect(),
    };
    for _ in 0..rng.random_range(0..3) {
        all.push(random_filter(rng, schema, 1, true));
    }
    all.shuffle(rng);
    match rng.random_range(0..4) {
        0 => Filter::Not(Box::new(Filter::And(all))),
        1 => Filter::Or(vec![Filter::And(all), random_filter(rng, schema, 1, true)]),
        _ => Filter::And(all),
    }
}

#[test]
fn kept_filters_equal_the_naive_model() {
    let (seed, rounds) = (seed(), scaled(6));
    let schema = Arc::new(schema_with_filters());
    let (mut found, mut recognised, mut kept) = (0, 0, 0);
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let ids = [12, 60, 300][rng.random_range(0..3)];
        let (mut state, mut model) = (State::new(schema.clone()), Model::default());
        state.apply(1, &genesis(&schema)).unwrap();
        let mut store = Store::new(&schema);
        for n in 0..14_u64 {
            let what = format!("seed {seed}, round {round}, batch {n}");
            // A few changes over much, too: most blocks are then as files have them.
            let ops = if rng.random() { rng.random_range(1..4) } else { rng.random_range(1..=ids * 4) };
            let ops: Vec<Op> = (0..ops).map(|_| random_op(&mut rng, &schema, ids)).collect();
            let cursor = |n: u64| if n == 0 { String::new() } else { n.to_string() };
            state.apply(state.sequence() + 1, &batch(&schema, &cursor(n), &cursor(n + 1), &ops)).unwrap();
            ops.iter().for_each(|op| model.apply(&schema, op));
            if rng.random() && state.frozen().is_none() {
                state.apply(state.sequence() + 1, &freeze()).unwrap();
            }
            if rng.random() && state.frozen().is_some() {
                state.adopt(store.flush(&state, &[])).unwrap();
            }
            while rng.random()
                && let Some(files) = store.compact(state.files(), 0.0)
            {
                state.adopt(files).unwrap();
            }
            let documents = model.documents(&schema);
            for _ in 0..12 {
                let filter = Some(containing(&mut rng, &schema));
                let request = SearchRequest { filter, ..random_request(&mut rng, &schema) };
                let now = NOW + rng.random_range(-30..40);
                let expected = expected(&schema, &documents, &request, now);
                for plan in all_plans() {
                    assert_eq!(
                        pages(&state, &request, now, plan),
                        expected,
                        "{what}, now {now}, {plan:?}: {request:?}"
                    );
                }
                explain::check(&state, &request, now, &expected, &what);
                found += expected.len();
                let told = crate::engine::explain(&state, &bitdex_proto::query::ExplainRequest::Search(request), now);
                recognised += usize::from(told.unwrap().text.contains("named filter"));
            }
            kept += usize::from((0..schema.filters.len()).any(|n| state.files().filter_sets().estimate(n).is_some()));
        }
    }
    println!("{found} rows found, {recognised} queries with a named filter, {kept} versions with kept blocks");
    assert!(found > 100 && recognised as u64 > 20 * rounds && kept as u64 > 2 * rounds);
}

#[test]
fn a_filter_is_found_where_its_conjuncts_are() {
    let schema = Arc::new(schema_with_filters());
    let state = State::new(schema.clone());
    let named = state.layout().named();
    let names = |text: &str| {
        let bound = filter::bind(Some(&Filter::parse(text, &schema).unwrap()), &schema, Some(NOW)).unwrap();
        let nodes = match bound {
            filter::Node::And(nodes) => nodes,
            node => vec![node],
        };
        let found = named.within(&nodes);
        let mut names: Vec<_> = found.iter().map(|(n, _)| named.get(*n).unwrap().name.clone()).collect();
        names.sort_unstable();
        let stand_for = found.iter().fold(0, |all, (_, covered)| all | covered);
        (names.join(" "), nodes.len() - stand_for.count_ones() as usize)
    };
    for (text, expected, left) in [
        ("safe", "safe", 0),
        ("NOT ownPoi = true AND level > 3 AND flag = true", "safe", 1),
        ("flag = true AND flag EXISTS AND ownPoi != true AND words IS NOT NULL", "wordy", 1),
        ("flag = true AND ownPoi = false", "", 2),
        ("flag = true", "", 1),
        // Only what does not follow the clock is kept, and narrower tests stay.
        ("fresh", "fresh", 1),
        ("safe AND tags IN [2] AND sortAt >= now - 20us", "fresh", 2),
        ("safe AND tags IN [1, 3] AND words IN [a, b]", "safe", 2),
        ("either AND level = 1", "either", 1),
        ("NOT (tags IN [1, 3] OR words IS NULL) AND NOT resourcePoi = true AND flag EXISTS", "odd", 0),
    ] {
        assert_eq!(names(text), (expected.to_owned(), left), "{text}");
    }
}

#[test]
fn what_follows_from_a_test_follows() {
    let schema = schema();
    let mut rng = ChaCha8Rng::seed_from_u64(seed());
    let schema = Arc::new(schema);
    let (_, documents) = random_state(&mut rng, &schema, 60, 3);
    let mut follow = 0;
    for _ in 0..rounds(200_000, 20) {
        let field = schema.fields.iter().filter(|field| field.filter).nth(rng.random_range(0..8)).unwrap().name.clone();
        let mut test = || {
            loop {
                let filter = random_filter(&mut rng, &schema, 1, false);
                let of_field = match &filter {
                    Filter::Compare { field: of, .. } | Filter::In { field: of, .. } => *of == field,
                    _ => false,
                };
                if of_field {
                    return filter;
                }
            }
        };
        let (one, other) = (test(), test());
        let bound = |filter: &Filter| filter::bind(Some(filter), &schema, Some(NOW)).unwrap();
        if implies(&bound(&one), &bound(&other)) {
            follow += 1;
            for document in documents.values() {
                let (one_passes, other_passes) =
                    (matches(&one, document, &schema, NOW), matches(&other, document, &schema, NOW));
                assert!(!one_passes || other_passes, "{one:?} and {other:?}: {document:?}");
            }
        }
    }
    assert!(follow > 100, "{follow}");
}
