use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    definition::Definition,
    query::Comparator,
    value::{FieldType, Literal},
    wire,
};

const DEFINITION: &str = r#"
index: images
document: { table: image, key: id }
fields:
  userId:      { type: int, filter: true, sort: true }
  nsfwLevel:   { type: int, filter: true }
  kind:        { type: string, filter: true }
  price:       { type: decimal(2), filter: true, sort: true }
  score:       { type: float, filter: true }
  hasMeta:     { type: bool, filter: true }
  publishedAt: { type: timestamp, filter: true, sort: true }
  hidden:      { type: int }
members:
  tagIds: { table: tag, key: image, value: tag, type: int, filter: true }
  labels: { table: label, key: image, value: label, type: string, filter: true }
external:
  NOT: { type: string, filter: true }
filters:
  safe:   'nsfwLevel <= 4'
  recent: safe AND publishedAt >= now - 7d
"#;

fn schema() -> std::sync::Arc<Schema> {
    Definition::parse(DEFINITION).unwrap().schema().clone()
}

fn compare(field: &str, comparator: Comparator, value: Literal) -> Filter {
    Filter::Compare { field: field.into(), comparator, value }
}

fn int(field: &str, value: i64) -> Filter {
    Filter::eq(field, Literal::Int(value))
}

fn null(field: &str) -> Filter {
    Filter::IsNull { field: field.into() }
}

fn not(filter: Filter) -> Filter {
    Filter::Not(Box::new(filter))
}

fn in_list(field: &str, values: &[i64], negated: bool, all: bool) -> Filter {
    let values = values.iter().map(|value| Literal::Int(*value)).collect();
    Filter::In { field: field.into(), values, negated, all }
}

fn text(text: &str) -> Literal {
    Literal::Text(text.into())
}

#[test]
fn reads_the_grammar() {
    use Comparator::{Ge, Gt, Le, Lt, Ne};
    let schema = schema();
    let published = |comparator, value| compare("publishedAt", comparator, value);
    let now = |offset_us| Literal::Now { offset_us };
    let named = |name: &str| Filter::Named { name: name.into() };
    for (written, filter) in [
        (
            "nsfwLevel <= 4 AND tagIds IN [1, 2] AND NOT userId = 3 AND publishedAt EXISTS",
            Filter::And(vec![
                compare("nsfwLevel", Le, Literal::Int(4)),
                in_list("tagIds", &[1, 2], false, false),
                not(int("userId", 3)),
                not(null("publishedAt")),
            ]),
        ),
        (
            "userId=1 OR userId = 2 AND nsfwLevel=3",
            Filter::Or(vec![int("userId", 1), Filter::And(vec![int("userId", 2), int("nsfwLevel", 3)])]),
        ),
        (
            "(userId = 1 OR userId = 2) AND NOT (nsfwLevel = 3)",
            Filter::And(vec![Filter::Or(vec![int("userId", 1), int("userId", 2)]), not(int("nsfwLevel", 3))]),
        ),
        ("((((userId = -1))))", int("userId", -1)),
        ("\"userId\" = '1'", int("userId", 1)),
        ("NOT NOT userId = 1", not(not(int("userId", 1)))),
        ("tagIds NOT IN[1,2,]", in_list("tagIds", &[1, 2], true, false)),
        ("tagIds IN []", in_list("tagIds", &[], false, false)),
        ("tagIds ALL [1, 2]", in_list("tagIds", &[1, 2], false, true)),
        ("tagIds NOT ALL [1]", in_list("tagIds", &[1], true, true)),
        ("tagIds IS EMPTY", null("tagIds")),
        ("tagIds IS NOT EMPTY", not(null("tagIds"))),
        ("userId IS NULL", null("userId")),
        ("userId IS NOT NULL", not(null("userId"))),
        ("userId NOT EXISTS", null("userId")),
        (
            "nsfwLevel 1 TO 4",
            Filter::And(vec![compare("nsfwLevel", Ge, Literal::Int(1)), compare("nsfwLevel", Le, Literal::Int(4))]),
        ),
        ("publishedAt now - 2d TO now", Filter::And(vec![published(Ge, now(-172_800_000_000)), published(Le, now(0))])),
        ("kind = image", Filter::eq("kind", text("image"))),
        ("kind != \"say \\\"hi\\\" \\\\ it's\"", compare("kind", Ne, text("say \"hi\" \\ it's"))),
        ("kind = 'a\\nb'", Filter::eq("kind", text("a\\nb"))),
        ("kind = now", Filter::eq("kind", text("now"))),
        ("kind = 'AND'", Filter::eq("kind", text("AND"))),
        ("kind = étoile", Filter::eq("kind", text("étoile"))),
        ("'NOT' = x", Filter::eq("NOT", text("x"))),
        ("price > 12.5", compare("price", Gt, Literal::Decimal { unscaled: 1250, scale: 2 })),
        ("score < -1.5e3", compare("score", Lt, Literal::Float(-1500.0))),
        ("score = -Infinity", Filter::eq("score", Literal::Float(f64::NEG_INFINITY))),
        ("hasMeta = true", Filter::eq("hasMeta", Literal::Bool(true))),
        ("publishedAt < 2026-01-01T00:00:00Z", published(Lt, Literal::TimestampUs(1_767_225_600_000_000))),
        ("publishedAt < '2026-01-01T01:00:00+01:00'", published(Lt, Literal::TimestampUs(1_767_225_600_000_000))),
        ("publishedAt >= 17", published(Ge, Literal::TimestampUs(17))),
        ("publishedAt >= now", published(Ge, now(0))),
        ("publishedAt >= now-24h", published(Ge, now(-86_400_000_000))),
        ("publishedAt >= now -24h", published(Ge, now(-86_400_000_000))),
        ("publishedAt >= now- 24h", published(Ge, now(-86_400_000_000))),
        ("publishedAt >= now + 5ms", published(Ge, now(5_000))),
        ("safe", named("safe")),
        ("NOT safe AND (recent)", Filter::And(vec![not(named("safe")), named("recent")])),
        ("TRUE", Filter::And(Vec::new())),
        ("FALSE OR userId = 1", Filter::Or(vec![Filter::Or(Vec::new()), int("userId", 1)])),
        ("\n userId\t=\n1 ", int("userId", 1)),
    ] {
        let read = Filter::parse(written, &schema).unwrap_or_else(|error| panic!("{written}: {error}"));
        assert_eq!(read, filter, "{written}");
        read.check(&schema).unwrap();
        assert_eq!(Filter::parse(&read.to_text(), &schema).unwrap(), read, "{}", read.to_text());
    }
}

#[test]
fn errors_point_at_the_column() {
    let schema = schema();
    for (written, expected) in [
        (
            "nsfwLevel <= AND tagIds IN [1]",
            "column 14: expected a value of type int for field nsfwLevel, found `AND`; to mean the text AND, put it in \
             quotes\nnsfwLevel <= AND tagIds IN [1]\n             ^^^",
        ),
        ("userid = 1", "column 1: unknown field userid (did you mean `userId`?)\nuserid = 1\n^^^^^^"),
        ("hidden = 1", "column 1: field hidden cannot be filtered by"),
        ("saef", "column 1: unknown filter or field saef (did you mean `safe`?)"),
        ("safe = 1", "column 1: safe is a filter of the definition, and stands alone"),
        ("hasMeta AND safe", "column 9: expected a test behind the field: write `hasMeta = true` or `hasMeta = false`"),
        ("userId 7", "column 8: expected a test behind the field: = != < <= > >= IN"),
        ("userId = abc", "column 10: expected a value of type int for field userId, found `abc`"),
        ("userId = 99999999999999999999", "column 10: expected a value of type int"),
        ("userId = 1.5", "column 10: expected a value of type int"),
        ("price = 1.005", "column 9: expected a value of type decimal(2) for field price, found `1.005`"),
        ("score = 1e999", "column 9: expected a value of type float"),
        ("hasMeta = yes", "which is true or false, found `yes`"),
        ("publishedAt > yesterday", "as in 2026-01-01T00:00:00Z, or now - 24h, found `yesterday`"),
        ("publishedAt > now - 3 weeks", "column 15: expected a time relative to the clock"),
        (
            "userId = 1 and nsfwLevel = 2",
            "column 12: expected AND, OR, or the end, found `and`; keywords are in capitals: AND",
        ),
        ("userId = 1 userId = 2", "column 12: expected AND, OR, or the end, found `userId`"),
        ("userId = 1 && nsfwLevel = 2", "column 12: write AND"),
        ("userId == 1", "column 8: write `=` for equality"),
        ("userId <> 1", "column 8: write `!=` for inequality"),
        ("!userId = 1", "column 1: expected `!=`; to negate a test, write NOT"),
        ("(userId = 1", "column 1: this `(` is not closed"),
        ("userId = 1)", "column 11: this `)` closes nothing"),
        ("userId IN [1, 2", "column 11: this `[` is not closed"),
        ("userId IN [1 2]", "column 14: expected `,` or `]`, found `2`"),
        ("userId IN 1", "column 11: expected a list, as in [1, 2], found `1`"),
        ("userId = [1]", "column 10: a list needs IN"),
        ("kind = 'a", "column 8: this quote has no end: close it with '"),
        ("userId ALL [1]", "column 8: field userId holds one value"),
        ("tagIds 1 TO 2", "column 8: field tagIds holds many values"),
        ("userId = NULL", "column 10: compare with null by `userId IS NULL`"),
        ("kind IS EMPTY", "column 9: field kind holds one value: write IS NULL"),
        ("kind CONTAINS a", "column 6: CONTAINS and STARTS WITH are not supported"),
        ("kind NOT STARTS WITH a", "column 10: CONTAINS and STARTS WITH are not supported"),
        ("_geoRadius(1, 2, 3)", "column 1: _geoRadius is not supported: there are no places here"),
        ("userId = 1 AND _geoBoundingBox([1, 2], [3, 4])", "column 16: _geoBoundingBox is not supported"),
        ("", "column 1: expected a filter, as in `userId = 7`, found the end"),
        ("  \t ", "expected a filter"),
        ("userId = ; DROP", "column 10: unexpected ';'"),
        ("userId = 1\nOR nope = 2", "line 2, column 4: unknown field nope\nOR nope = 2\n   ^^^^"),
        ("kind = 'é€' AND nope = 2", "column 17: unknown field nope\nkind = 'é€' AND nope = 2\n                ^^^^"),
    ] {
        let error = Filter::parse(written, &schema).unwrap_err().to_string();
        assert!(error.contains(expected), "{written}:\n{error}\n  does not contain\n{expected}");
    }
    let long = format!("{} nope = 1 {}", "userId = 1 OR ".repeat(100), "OR userId = 1".repeat(100));
    let error = Filter::parse(&long, &schema).unwrap_err().to_string();
    let lines: Vec<_> = error.lines().collect();
    assert!(lines[1].starts_with('…') && lines[1].ends_with('…') && lines[1].chars().count() < 110, "{error}");
    let mark = lines[2].find('^').unwrap();
    assert_eq!(lines[1].chars().skip(mark).take(4).collect::<String>(), "nope", "{error}");
}

#[test]
fn depth_and_length_are_limited() {
    let schema = schema();
    let refused = |text: &str, expected: &str| {
        let error = Filter::parse(text, &schema).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    for n in [41, 100_000] {
        refused(&format!("{}userId = 1{}", "(".repeat(n), ")".repeat(n)), "nested deeper than 40 levels");
        refused(&format!("{}userId = 1", "NOT ".repeat(n)), "nested deeper than 40 levels");
        refused(&format!("{}userId = 1", "NOT (".repeat(n)), "nested deeper than 40 levels");
    }
    assert!(Filter::parse(&format!("{}userId = 1", "NOT ".repeat(39)), &schema).is_ok());
    refused(&" ".repeat(MAX_TEXT + 1), "a filter of 2097153 bytes; at most 2097152 are allowed");
    refused(&format!("userId IN [{}]", "1,".repeat(100_001)), "more than 100000 values");
    let wide = format!("userId = 1{}", " OR userId = 1".repeat(10_000));
    assert!(matches!(Filter::parse(&wide, &schema), Ok(Filter::Or(filters)) if filters.len() == 10_001));
    let amplified = vec!["recent"; 60_000].join(" OR ");
    let error = Filter::parse(&amplified, &schema).unwrap().check(&schema).unwrap_err();
    assert!(error.to_string().contains("more than 100000 tests and values"), "{error}");
}

#[test]
fn sorts_are_read() {
    let schema = schema();
    let sort = |field: &str, descending| Sort { field: field.into(), descending };
    for (written, sorts) in [
        ("publishedAt:desc", vec![sort("publishedAt", true)]),
        (
            " price:asc ,publishedAt:desc, id:asc",
            vec![sort("price", false), sort("publishedAt", true), sort("id", false)],
        ),
    ] {
        assert_eq!(Sort::parse(written, &schema).unwrap(), sorts, "{written}");
    }
    for (written, expected) in [
        ("publishedAt", "column 1: expected a field and its direction, as in `sortAt:desc`\npublishedAt\n^^^^^^^^^^^"),
        ("price:asc, publishedAt:down", "column 24: expected `asc` or `desc` behind the field"),
        ("pric:asc", "column 1: unknown field pric (did you mean `price`?)"),
        ("price:asc,,", "column 11: expected a field and its direction"),
        ("kind:asc", "column 1: field kind cannot be sorted by"),
        ("tagIds:asc", "column 1: field tagIds holds many values"),
        ("_geoPoint(48.8, 2.3):asc", "column 1: expected a field"),
        ("", "column 1: expected a field"),
        (&"id:asc,".repeat(9), "at most 8 sort keys"),
    ] {
        let error = Sort::parse(written, &schema).unwrap_err().to_string();
        assert!(error.contains(expected) || error.contains("_geoPoint is not supported"), "{written}: {error}");
    }
}

#[test]
fn a_definition_names_filters() {
    let schema = schema();
    let names: Vec<_> = schema.filters.iter().map(|filter| (filter.name.as_str(), filter.text.as_str())).collect();
    assert_eq!(names, [("safe", "nsfwLevel <= 4"), ("recent", "safe AND publishedAt >= now - 7d")]);
    assert!(!schema.filters[1].filter.has_names(), "names within are expanded: {:?}", schema.filters[1].filter);
    let spelled = Filter::parse("nsfwLevel <= 4 AND publishedAt >= now - 7d", &schema).unwrap();
    assert_eq!(Filter::parse("recent", &schema).unwrap().expanded(&schema).unwrap(), spelled);

    let without = Definition::parse(&DEFINITION[..DEFINITION.find("filters:\n").unwrap()]).unwrap();
    assert_eq!(without.schema().hash, schema.hash, "names are no part of what the index holds");
    for (filters, expected) in [
        ("  a: nope = 1", "filter a: column 1: unknown field nope"),
        ("  a: b\n  b: userId = 1", "line 19: filter a: column 1: unknown filter or field b"),
        ("  userId: userId = 1", "filter userId: there is a field userId"),
        ("  AND: userId = 1", "filter AND: AND is a word of the filters' grammar"),
        ("  a: 7", "filter a must be text, not 7"),
        ("  a: userId = 1\n  a: userId = 2", "line 20: this is no valid YAML: duplicate mapping key: a"),
        ("  a b: userId = 1", "\"a b\" is no name"),
    ] {
        let yaml = format!("{}filters:\n{filters}\n", &DEFINITION[..DEFINITION.find("filters:\n").unwrap()]);
        let error = Definition::parse(&yaml).unwrap_err().to_string();
        assert!(error.contains(expected), "{filters}:\n{error}");
    }
    let error = Filter::Named { name: "saef".into() }.check(&schema).unwrap_err().to_string();
    assert_eq!(error, "the definition has no filter \"saef\" (did you mean `safe`?)");
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// `full` runs with `BITDEX_TEST_LONG`, else a fiftieth.
fn runs(full: u64) -> u64 {
    if std::env::var_os("BITDEX_TEST_LONG").is_some() {
        return full;
    }
    full / 50 * number("BITDEX_TEST_SCALE", 1)
}

fn seed() -> u64 {
    let seed = number("BITDEX_TEST_SEED", rand::random());
    println!("BITDEX_TEST_SEED={seed}");
    seed
}

fn random_text(rng: &mut ChaCha8Rng) -> String {
    const PARTS: [&str; 14] = ["a", "B", "é", " ", "\"", "'", "\\", "AND", "now", "-", "\n", "🦀", "]", "1"];
    (0..rng.random_range(0..6)).map(|_| PARTS[rng.random_range(0..PARTS.len())]).collect()
}

/// As the parser gives it.
fn random_literal(rng: &mut ChaCha8Rng, ty: FieldType) -> Literal {
    let int = |rng: &mut ChaCha8Rng| match rng.random_range(0..4) {
        0 => [i64::MIN, i64::MAX, 0, -1][rng.random_range(0..4)],
        1 => rng.random(),
        _ => rng.random_range(-100..100),
    };
    match ty {
        FieldType::Int => Literal::Int(int(rng)),
        FieldType::Decimal(scale) => Literal::Decimal { unscaled: int(rng), scale: scale.into() },
        FieldType::Float => Literal::Float(match rng.random_range(0..4) {
            0 => [f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE, f64::MAX][rng.random_range(0..5)],
            1 => f64::from_bits(rng.random()),
            _ => f64::from(rng.random_range(-50..50)) / 8.0,
        }),
        FieldType::Bool => Literal::Bool(rng.random()),
        FieldType::Timestamp if rng.random() => {
            let unit = [1, 1_000, 1_000_000, 60_000_000, 3_600_000_000][rng.random_range(0..5)];
            Literal::Now { offset_us: int(rng).checked_mul(unit).unwrap_or(i64::MIN) }
        }
        FieldType::Timestamp => Literal::TimestampUs(int(rng)),
        FieldType::String => Literal::Text(random_text(rng)),
    }
}

/// A filter of a form that the parser gives: lists of one part are that part.
fn random_filter(rng: &mut ChaCha8Rng, schema: &Schema, depth: u32) -> Filter {
    if depth > 0 && rng.random_range(0..3) > 0 {
        let parts = [0, 2, 2, 3, 4][rng.random_range(0..5)];
        let parts = |rng: &mut ChaCha8Rng| (0..parts).map(|_| random_filter(rng, schema, depth - 1)).collect();
        return match rng.random_range(0..5) {
            0 | 1 => Filter::And(parts(rng)),
            2 | 3 => Filter::Or(parts(rng)),
            _ => not(random_filter(rng, schema, depth - 1)),
        };
    }
    if rng.random_range(0..10) == 0 {
        return Filter::Named { name: ["safe", "recent"][rng.random_range(0..2)].into() };
    }
    let filterable: Vec<_> = schema.fields.iter().filter(|field| field.filter).collect();
    let field = filterable[rng.random_range(0..filterable.len())];
    let name = field.name.clone();
    match rng.random_range(0..6) {
        0 => null(&name),
        1 | 2 => {
            let values = (0..rng.random_range(0..5)).map(|_| random_literal(rng, field.ty)).collect();
            Filter::In { field: name, values, negated: rng.random(), all: field.many && rng.random() }
        }
        _ => {
            let wire = wire::Operator::try_from(rng.random_range(1..7)).unwrap();
            compare(&name, Comparator::try_from(wire).unwrap(), random_literal(rng, field.ty))
        }
    }
}

#[test]
fn every_filter_is_read_as_it_was_printed() {
    let (schema, seed) = (schema(), seed());
    for round in 0..runs(1_000_000) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let filter = random_filter(&mut rng, &schema, 4);
        let text = filter.to_text();
        let read = Filter::parse(&text, &schema).unwrap_or_else(|error| panic!("round {round}: {text}\n{error}"));
        // NaN differs from itself, but not in how it is told.
        assert_eq!(format!("{read:?}"), format!("{filter:?}"), "round {round}: {text}");
        read.check(&schema).unwrap();
        assert_eq!(
            format!("{:?}", Filter::try_from(&wire::Filter::from(&read)).unwrap()),
            format!("{read:?}"),
            "round {round}"
        );
    }
}

/// Whatever the text: a filter that means the same when printed, or an error whose mark is within its line.
#[test]
fn no_text_makes_the_parser_fall() {
    let (schema, seed) = (schema(), seed());
    const PIECES: [&str; 48] = [
        "userId",
        "nsfwLevel",
        "kind",
        "price",
        "score",
        "hasMeta",
        "publishedAt",
        "tagIds",
        "labels",
        "hidden",
        "nope",
        "safe",
        "recent",
        "AND",
        "OR",
        "NOT",
        "IN",
        "TO",
        "EXISTS",
        "IS",
        "NULL",
        "EMPTY",
        "ALL",
        "CONTAINS",
        "TRUE",
        "FALSE",
        "(",
        ")",
        "[",
        "]",
        ",",
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "1",
        "-7",
        "1.5",
        "true",
        "now",
        "- 24h",
        "'a'",
        "\"é\"",
        "2026-01-01T00:00:00Z",
        "\\",
        "🦀",
    ];
    let mut understood = 0_u64;
    for round in 0..runs(1_000_000) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add(round));
        let mut text = if rng.random() {
            let piece = |rng: &mut ChaCha8Rng| PIECES[rng.random_range(0..PIECES.len())];
            let pieces: Vec<_> = (0..rng.random_range(0..12)).map(|_| piece(&mut rng)).collect();
            pieces.join([" ", "", "\n"][rng.random_range(0..3)])
        } else {
            random_filter(&mut rng, &schema, 3).to_text()
        };
        for _ in 0..[0, 1, 1, 3][rng.random_range(0..4)] {
            let mut chars: Vec<char> = text.chars().collect();
            let at = rng.random_range(0..=chars.len());
            match rng.random_range(0..3) {
                0 if at < chars.len() => drop(chars.remove(at)),
                1 if at < chars.len() => chars[at] = char::from_u32(rng.random_range(0..0x2_0000)).unwrap_or('x'),
                _ => chars.insert(at, ['(', ')', '[', '"', '\'', '\\', ' ', '=', '\0', '-'][rng.random_range(0..10)]),
            }
            text = chars.into_iter().collect();
        }
        match Filter::parse(&text, &schema) {
            Ok(filter) => {
                understood += 1;
                filter.check(&schema).unwrap_or_else(|error| panic!("round {round}: {text:?}: {error}"));
                let again = Filter::parse(&filter.to_text(), &schema).unwrap();
                assert_eq!(format!("{again:?}"), format!("{filter:?}"), "round {round}: {text:?}");
            }
            Err(error) => {
                let error = error.to_string();
                let [_, line, mark] = error.lines().collect::<Vec<_>>()[..] else {
                    panic!("round {round}: {text:?}: no line and mark in {error}")
                };
                let marked = mark.trim_start().chars().all(|c| c == '^') && !mark.trim().is_empty();
                assert!(marked && mark.find('^').unwrap() <= line.chars().count(), "round {round}: {text:?}: {error}");
            }
        }
        let _ = Sort::parse(&text, &schema);
    }
    assert!(understood > runs(1_000_000) / 20, "only {understood} texts were filters");
}

#[test]
fn json_has_every_form() {
    use crate::query::{FacetRequest, FilterForm, SearchRequest, SortForm};
    type Form = SearchRequest<FilterForm, SortForm>;
    let schema = schema();
    let read = |json: &str| {
        let form: Form = serde_json::from_str(json).map_err(|error| error.to_string())?;
        form.resolve(&schema).map_err(|error| error.to_string())
    };
    let structured = read(
        r#"{"index": "images", "filter": {"and": [{"field": "userId", "eq": 7}, {"or": [{"named": "safe"},
            {"field": "score", "eq": "-Infinity"}]}]},
            "sort": [{"field": "price", "descending": true}, {"field": "id"}]}"#,
    );
    for other in [
        r#"{"index": "images", "filter": "userId = 7 AND (safe OR score = -Infinity)", "sort": "price:desc,id:asc"}"#,
        r#"{"index": "images", "filter": ["userId = 7", ["safe", "score = -Infinity"]], "sort": ["price:desc", "id:asc"]}"#,
        r#"{"index": "images", "filter": ["userId = 7", "safe OR score = -Infinity"],
            "sort": ["price:desc", {"field": "id"}]}"#,
    ] {
        let other = read(other).unwrap();
        let bound = |request: &SearchRequest| {
            (serde_json::to_value(&request.filter).unwrap(), serde_json::to_value(&request.sort).unwrap())
        };
        assert_eq!(bound(&other), bound(structured.as_ref().unwrap()));
    }
    for (json, expected) in [
        (r#"{"index": "images", "filter": 7}"#, "a filter is an object"),
        (r#"{"index": "images", "filter": [7]}"#, "a list of filters has texts, not 7"),
        (r#"{"index": "images", "filter": ["userId = "]}"#, "column 10: expected a value"),
        (r#"{"index": "images", "sort": 7}"#, "`sort` takes a list of"),
        (r#"{"index": "images", "sort": ["price"]}"#, "expected a field and its direction"),
        (r#"{"index": "images", "count": true, "count_up_to": 5}"#, "not both"),
        (r#"{"index": "images", "colour": 1}"#, "unknown field `colour`"),
    ] {
        let error = read(json).unwrap_err();
        assert!(error.contains(expected), "{json}: {error}");
    }
    let facets: FacetRequest<FilterForm> =
        serde_json::from_str(r#"{"index": "images", "facets": ["kind", {"field": "tagIds", "limit": 3}]}"#).unwrap();
    let facets = facets.resolve(&schema).unwrap().facets;
    let facets: Vec<_> = facets.iter().map(|facet| (facet.field.as_str(), facet.limit)).collect();
    assert_eq!(facets, [("kind", 10), ("tagIds", 3)]);
}
