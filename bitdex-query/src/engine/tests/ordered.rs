//! Pages of one term in an order that follows ids, by the ids that lie in that order with their cells: over several
//! segments, in all layers.

use std::collections::BTreeMap;

use super::*;

const DOCUMENTS: i64 = 2400;
/// So many that cells do not tell them apart. Some have more documents than others.
const GRADES: i64 = 150;

/// Over four segments, and several blocks of each.
fn key(n: i64) -> i64 {
    ((n / 600) << 20) + n % 600 * 300
}

/// The values of each document, as they were put last.
type Known = BTreeMap<i64, Vec<Option<Value>>>;

fn document(rng: &mut ChaCha8Rng, n: i64, may_lack: bool, known: &mut Known) -> Vec<Op> {
    let at = match rng.random_range(0..30) {
        0 => NOW - rng.random_range(0..20 * DOCUMENTS),
        _ => NOW - 20 * (DOCUMENTS - n) + rng.random_range(-200..200),
    };
    let published = match rng.random_range(0..30) {
        0 => None,
        1 => Some(NOW + rng.random_range(0..50)),
        _ => Some(at.min(NOW)),
    };
    let mut values = vec![None; 7];
    // Few have a great one.
    values[0] = Some(Value::Int((GRADES as f64 * rng.random_range(0.0..1.0_f64).powi(2)) as i64));
    values[4] = Some(Value::Bool(rng.random()));
    values[5] = Some(Value::Int(n));
    values[6] = (!may_lack || rng.random_range(0..10) > 0).then_some(Value::Int(at.min(NOW)));
    known.insert(n, values.clone());
    vec![
        Op::Upsert { source: 1, key: n, row: Some(row(vec![published.map(Value::Int), None])) },
        Op::Upsert { source: 0, key: key(n), row: Some(row(values)) },
    ]
}

fn request(rng: &mut ChaCha8Rng, schema: &Schema) -> SearchRequest {
    let beside = match rng.random_range(0..8) {
        0 => " AND flag = true",
        1 => " AND flag = false AND isPublished = true",
        2 => " AND isPublished = true",
        3 => " AND sortAt >= now - 9000us",
        4 => " AND sortAt < now - 20000us AND flag = true",
        5 => " AND NOT tags = 3",
        _ => "",
    };
    let grade = rng.random_range(0..GRADES) * rng.random_range(0..GRADES) / GRADES;
    SearchRequest {
        filter: Some(Filter::parse(&format!("grade = {grade}{beside}"), schema).unwrap()),
        sort: by("sortAt", true),
        limit: [1, 7, 40, 300][rng.random_range(0..4)],
        include_pending: rng.random_ratio(1, 4),
        ..SearchRequest::new(schema.index.clone())
    }
}

#[test]
fn pages_of_a_term_in_order_equal_the_naive_model_in_all_layers() {
    let (seed, rounds) = (seed(), scaled(2));
    let (mut led, mut searches) = (0, 0);
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let schema = Arc::new(graded_schema());
        let (mut state, mut model) = (State::new(schema.clone()), Model::default());
        state.apply(1, &genesis(&schema)).unwrap();
        let mut store = Store::new(&schema);
        let mut known = Known::new();
        for (n, layer) in (0_u64..).zip(["base", "active", "checkpoint", "frozen", "active"]) {
            let mut ops = Vec::new();
            let old = if n == 0 { 0 } else { DOCUMENTS };
            for document in old..DOCUMENTS + n as i64 * 30 {
                ops.extend(self::document(&mut rng, document, round % 2 == 1, &mut known));
            }
            // Changes lie close together, so that most blocks stay as they are.
            let changed = rng.random_range(0..DOCUMENTS - 40);
            for document in changed..changed + if n == 0 { 0 } else { 40 } {
                match rng.random_range(0..4) {
                    0 => ops.extend(self::document(&mut rng, document, false, &mut known)),
                    1 => ops.push(Op::Upsert { source: 0, key: key(document), row: None }),
                    // What cells tell changes, and nothing else.
                    2 => {
                        let Some(values) = known.get_mut(&document) else { continue };
                        values[4] = Some(Value::Bool(values[4] != Some(Value::Bool(true))));
                        ops.push(Op::Upsert { source: 0, key: key(document), row: Some(row(values.clone())) });
                    }
                    _ => {
                        let published = row(vec![Some(Value::Int(NOW - rng.random_range(0..500))), None]);
                        ops.push(Op::Upsert { source: 1, key: document, row: Some(published) });
                    }
                }
            }
            ops.iter().for_each(|op| model.apply(&schema, op));
            bring(&mut state, &mut store, n, &ops, layer);
            match layer {
                "base" => compact(&mut state, &mut store, usize::MAX),
                "checkpoint" => compact(&mut state, &mut store, 1),
                _ => {}
            }
            let documents = model.documents(&schema);
            for _ in 0..30 {
                let request = request(&mut rng, &schema);
                let now = NOW + rng.random_range(-300..60);
                let expected = expected(&schema, &documents, &request, now);
                let what = format!("seed {seed}, round {round}, {layer}, now {now}: {request:?}");
                for plan in all_plans() {
                    assert_eq!(pages(&state, &request, now, plan), expected, "{plan:?}, {what}");
                }
                let plan = told_of_lead(&state, &request, now);
                led += u32::from(plan.starts_with("page: lead by"));
                searches += 1;
            }
        }
    }
    println!("{led} of {searches} searches found their first page in lists");
    assert!(led * 3 > searches, "{led} of {searches}");
}
