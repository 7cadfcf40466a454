//! Pages from the greatest values down, by the lists that files have of the first ids of terms: of so many documents that
//! there are such lists, in all layers.

use super::*;

const DOCUMENTS: i64 = 9000;
/// Grades: in the first two segments so many documents have each that there are lists of it. So it is with tags.
const GRADES: i64 = 11;

/// Half of them are in one segment, four tenths in another; of the rest, in a third one, no term has many.
fn key(n: i64) -> i64 {
    match n % 10 {
        0..5 => n * 17,
        5..9 => (1 << 20) + n * 3,
        _ => (2 << 20) + n,
    }
}

fn document(rng: &mut ChaCha8Rng, n: i64) -> Vec<Op> {
    let key = key(n);
    let published = match rng.random_range(0..10) {
        0 => None,
        1 => Some(NOW + rng.random_range(0..50)),
        _ => Some(NOW - rng.random_range(0..1000)),
    };
    let mut values = vec![None; 7];
    values[0] = Some(Value::Int(rng.random_range(0..GRADES)));
    values[3] = rng.random_ratio(9, 10).then(|| Value::Int(rng.random_range(-20..20)));
    values[4] = Some(Value::Bool(rng.random()));
    values[5] = Some(Value::Int(n % 500));
    // Most are the least.
    let count = (0.2 / rng.random_range(0.01..1.0_f64)) as i64;
    let mut ops = vec![
        Op::Upsert { source: 1, key: n % 500, row: Some(row(vec![published.map(Value::Int), None])) },
        Op::Upsert { source: 0, key, row: Some(row(values)) },
        Op::Upsert { source: 7, key, row: Some(row(vec![Some(Value::Int(count))])) },
    ];
    ops.extend(tags(rng, n));
    ops
}

/// Of two tags, each there or not.
fn tags(rng: &mut ChaCha8Rng, n: i64) -> [Op; 2] {
    [16, 17].map(|tags| Op::Member {
        source: 4,
        document: key(n) as u32,
        value: Value::Int(rng.random_range(0..tags)),
        present: rng.random_ratio(if n % 3 == 0 { 3 } else { 9 }, 10),
    })
}

fn request(rng: &mut ChaCha8Rng, schema: &Schema) -> SearchRequest {
    let grade = |rng: &mut ChaCha8Rng| rng.random_range(0..11);
    let (one, other) = (grade(rng), grade(rng));
    let first = match rng.random_range(0..6) {
        0 => format!("grade = {one}"),
        1 => format!("grade IN [{one}, {other}]"),
        2 => format!("tags = {one}"),
        3 => format!("tags IN [{one}, {other}, {}]", rng.random_range(0..20)),
        4 => format!("tags = {one} AND grade >= {}", other / 2),
        _ => "level EXISTS".into(),
    };
    let beside = match rng.random_range(0..8) {
        0 => " AND flag = true",
        1 => " AND NOT tags IN [3, 19]",
        2 => " AND count < 3",
        5 | 6 => " AND count >= 3",
        3 => " AND sortAt >= now - 700us",
        _ => "",
    };
    let filter = Filter::parse(&format!("{first}{beside}"), schema).unwrap();
    let mut sort = by(["count", "price", "count"][rng.random_range(0..3)], true);
    if rng.random_ratio(1, 4) {
        sort.extend(by("level", rng.random()));
    }
    SearchRequest {
        filter: Some(filter),
        sort,
        limit: [5, 40, 100][rng.random_range(0..3)],
        include_pending: rng.random_ratio(1, 4),
        ..SearchRequest::new(schema.index.clone())
    }
}

#[test]
fn pages_of_lists_equal_the_naive_model_in_all_layers() {
    let (seed, rounds) = (seed(), scaled(2));
    let (mut led, mut searches) = (0, 0);
    for round in 0..rounds {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let schema = Arc::new(graded_schema());
        let (mut state, mut model) = (State::new(schema.clone()), Model::default());
        state.apply(1, &genesis(&schema)).unwrap();
        let mut store = Store::new(&schema);
        for (n, layer) in (0_u64..).zip(["base", "active", "checkpoint", "frozen", "active"]) {
            let mut ops = Vec::new();
            for document in 0..DOCUMENTS + n as i64 * 20 {
                if n == 0 || rng.random_ratio(1, 25) || document >= DOCUMENTS {
                    ops.extend(self::document(&mut rng, document));
                } else if rng.random_ratio(1, 10) {
                    ops.extend(tags(&mut rng, document));
                }
            }
            ops.iter().for_each(|op| model.apply(&schema, op));
            bring(&mut state, &mut store, n, &ops, layer);
            // Later one alone takes in what the checkpoint says.
            match layer {
                "base" => compact(&mut state, &mut store, usize::MAX),
                "checkpoint" => compact(&mut state, &mut store, 1),
                _ => {}
            }
            let documents = model.documents(&schema);
            for _ in 0..12 {
                let request = request(&mut rng, &schema);
                let expected = expected(&schema, &documents, &request, NOW);
                let what = format!("seed {seed}, round {round}, {layer}: {request:?}");
                for plan in [None, Some(Plan::Lead), Some(Plan::Gather)] {
                    assert_eq!(pages(&state, &request, NOW, plan), expected, "{plan:?}, {what}");
                }
                let plan = told_of_lead(&state, &request, NOW);
                led += u32::from(plan.starts_with("page: lead by"));
                searches += 1;
            }
        }
    }
    println!("{led} of {searches} searches found their first page in lists");
    assert!(led * 3 > searches, "{led} of {searches}");
}
