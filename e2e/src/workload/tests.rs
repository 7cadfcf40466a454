use std::collections::HashMap;

use super::{
    Workload,
    changes::Changes,
    generate::{Blocks, table},
    queries::Queries,
};

const SMALL: Workload = Workload { images: 2_000, seed: 7, now_us: 1_767_225_600_000_000 };

/// Hash of every byte of rows, changes and queries.
fn digest(workload: Workload) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut blocks = Blocks::new(workload);
    for block in blocks.by_ref() {
        block.tables.iter().chain([&block.metrics]).for_each(|rows| {
            hasher.update(rows);
        });
    }
    for change in Changes::new(workload, blocks.into_generator()).take(2_000) {
        hasher.update(format!("{change:?}").as_bytes());
    }
    for query in Queries::new(workload, "images").take(2_000) {
        // As JSON, which says what is asked for and nothing else.
        hasher.update(&query.pages.to_be_bytes());
        hasher.update(&serde_json::to_vec(&query.request).unwrap());
    }
    hasher.finalize().to_hex().to_string()
}

#[test]
fn a_seed_gives_the_same_bytes() {
    let first = digest(SMALL);
    assert_eq!(first, digest(SMALL));
    assert_ne!(first, digest(Workload { seed: 8, ..SMALL }));
    // Changing the generator changes what older measurements were made on: do it knowingly.
    assert_eq!(first, "210c98e954bf5cea02e8278fc6333560f95f9dadf649ab5ac1c8932c357a3896");
}

#[test]
fn rows_tell_of_nothing_after_their_writing() {
    let mut generator = Blocks::new(SMALL).into_generator();
    let now_us = SMALL.now_us;
    for size in 1..200 {
        let (_, images) = generator.post_of(size % 20, now_us - 5_000_000, Some(now_us), now_us);
        assert!(images.iter().all(|image| image.created_us <= now_us && image.scanned_us <= Some(now_us)));
    }
}

/// The values of a column of COPY's text, with how often each occurs.
fn column(rows: &[u8], column: usize) -> HashMap<String, f64> {
    let text = std::str::from_utf8(rows).unwrap();
    let mut counts: HashMap<String, f64> = HashMap::new();
    for line in text.lines() {
        *counts.entry(line.split('\t').nth(column).unwrap().to_owned()).or_default() += 1.0;
    }
    counts
}

#[track_caller]
fn near(what: &str, seen: f64, wanted: f64, tolerance: f64) {
    assert!((seen - wanted).abs() <= wanted * tolerance, "{what}: {seen} is not near {wanted}");
}

#[test]
fn shares_are_those_of_the_site() {
    let workload = Workload { images: 50_000, ..SMALL };
    let n = f64::from(workload.images);
    let mut tables = <[Vec<u8>; 10]>::default();
    let (mut rows, mut metrics) = ([0; 10], Vec::new());
    for block in Blocks::new(workload) {
        for (i, bytes) in block.tables.iter().enumerate() {
            tables[i].extend_from_slice(bytes);
            rows[i] += block.rows[i];
        }
        metrics.extend_from_slice(&block.metrics);
    }
    let rows = rows.map(|rows| rows as f64 / n);
    assert_eq!(rows[table::IMAGE], 1.0);
    near("posts", rows[table::POST], 0.230, 0.05);
    near("tags", rows[table::TAG], 10.0, 0.05);
    near("tools", rows[table::TOOL], 0.180, 0.05);
    near("techniques", rows[table::TECHNIQUE], 0.160, 0.05);
    near("resources", rows[table::RESOURCE], 2.7, 0.08);
    near("items", rows[table::COLLECTION], 0.100, 0.05);
    near("versions", rows[table::VERSION], 0.0095, 0.05);
    near("models", rows[table::MODEL], 0.0077, 0.05);

    let levels = column(&tables[table::IMAGE], 3);
    near("nsfwLevel 1", levels["1"] / n, 0.72, 0.02);
    near("nsfwLevel 16", levels["16"] / n, 0.05, 0.1);
    near("images", column(&tables[table::IMAGE], 5)["image"] / n, 0.93, 0.01);
    near("not blocked", column(&tables[table::IMAGE], 7)["\\N"] / n, 0.98, 0.01);
    near("not scanned", column(&tables[table::IMAGE], 8)["\\N"] / n, 0.03, 0.1);
    let posts = rows[table::POST] * n;
    near("drafts", column(&tables[table::POST], 2)["\\N"] / posts, 0.15, 0.05);
    near("public", column(&tables[table::POST], 3)["Public"] / posts, 0.975, 0.01);
    near("disabled tags", column(&tables[table::TAG], 2)["1024"] / (rows[table::TAG] * n), 0.03, 0.05);
    near("detected", column(&tables[table::RESOURCE], 2)["t"] / (rows[table::RESOURCE] * n), 0.8, 0.02);

    let tags = column(&tables[table::TAG], 1);
    assert!(tags["1"] / n > 0.4, "the first tag is on {} of the images", tags["1"] / n);
    let mut sums: HashMap<(&str, &str), i64> = HashMap::new();
    let text = std::str::from_utf8(&metrics).unwrap();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('\t').collect();
        *sums.entry((cells[1], cells[0])).or_default() += cells[2].parse::<i64>().unwrap();
    }
    for (metric, share) in [("reactionCount", 0.60), ("commentCount", 0.03), ("collectedCount", 0.15)] {
        let values: Vec<i64> = sums.iter().filter(|((name, _), _)| *name == metric).map(|(_, sum)| *sum).collect();
        near(metric, values.len() as f64 / n, share, 0.1);
        assert!(values.iter().all(|value| *value > 0));
    }
}

#[test]
fn queries_are_those_of_the_site() {
    let queries: Vec<_> = Queries::new(SMALL, "images").take(20_000).collect();
    let share = |test: &dyn Fn(&str) -> bool| {
        queries.iter().filter(|query| test(&serde_json::to_string(&query.request).unwrap())).count() as f64 / 20_000.0
    };
    near("safety", share(&|text| text.contains("availability")), 0.85, 0.02);
    near("user", share(&|text| text.contains("userId")), 0.45, 0.05);
    near("by time", share(&|text| text.contains("\"field\":\"sortAt\",\"descending\":true")), 0.79, 0.02);
    near("windows", share(&|text| text.contains("\"now\":")), 0.12, 0.1);
    near("500", share(&|text| text.contains("\"limit\":500")), 0.41, 0.05);
    let long = queries.iter().filter(|query| query.pages == 3).count();
    near("three pages", long as f64 / 20_000.0, 0.10, 0.1);
    queries.iter().for_each(|query| query.request.validate().unwrap());
}
