//! `check` names every mistake with its line.

use crate::common::{SHOP, SHOP_TABLES, TestDatabase, execute};
use bitdex_proto::definition::Definition;
use bitdex_sync::{
    check::{Severity, check_postgres},
    postgres::Purpose,
};

async fn findings(database: &TestDatabase, yaml: &str) -> Vec<String> {
    let definition = Definition::parse(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
    let mut connection = database.database.connect(Purpose::Admin).await.unwrap();
    check_postgres(&definition, &mut connection).await.unwrap().iter().map(ToString::to_string).collect()
}

fn line_of(yaml: &str, part: &str) -> usize {
    1 + yaml.lines().position(|line| line.contains(part)).unwrap_or_else(|| panic!("{part} is not in {yaml}"))
}

#[tokio::test]
async fn a_right_definition_has_no_findings_and_nothing_is_left_behind() {
    let (database, mut connection) = TestDatabase::with_schema(SHOP_TABLES).await;
    assert_eq!(findings(&database, SHOP).await, Vec::<String>::new());
    let left =
        crate::common::text(&mut connection, "SELECT count(*)::text FROM pg_class WHERE relname LIKE 'bitdex%'").await;
    assert_eq!(left, "0");
}

#[tokio::test]
async fn every_mistake_is_named_with_its_line() {
    let (database, mut connection) = TestDatabase::with_schema(SHOP_TABLES).await;
    execute(
        &mut connection,
        "CREATE TABLE text_key (id text PRIMARY KEY); CREATE TABLE not_unique (id int, v int);
         CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY); CREATE VIEW a_view AS SELECT 1 AS id;
         CREATE TABLE mother (id int PRIMARY KEY); CREATE TABLE daughter () INHERITS (mother);
         CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (id int) SERVER s;
         CREATE SCHEMA odd"
    )
    .await;
    let replace = |from: &str, to: &str| {
        assert!(SHOP.contains(from), "{from}");
        SHOP.replace(from, to)
    };
    let cases = [
        (
            replace("table: category,", "table: categories,"),
            "categories",
            "there is no table \"public\".\"categories\"",
        ),
        (replace("table: category,", "table: '\"Category\"',"), "\"Category\"", "there is public.category"),
        (replace("'price > 100'", "'prize > 100'"), "prize", "column \"prize\" does not exist"),
        (
            replace("  title:       { type: string,", "  title:       { type: int,"),
            "title:",
            "field title is of type int, but",
        ),
        (replace("decimal(2)", "decimal(1)"), "decimal(1)", "has 2 digits after the point"),
        (replace("'price > 100'", "'released_at > now()'"), "now()", "is not immutable"),
        (replace("'price > 100'", "'released_at::text = id::text'"), "::text", "is not immutable"),
        (replace("'price > 100'", "'count(*) > 1'"), "count(*)", "aggregate"),
        (replace("'price > 100'", "'price >> 100'"), ">>", "operator does not exist"),
        (replace("'weight > 0'", "'weight'"), "'weight'", "a condition is boolean, not integer"),
        (replace("'weight > 0'", "'wait > 0'"), "wait", "column \"wait\" does not exist"),
        (replace("value: store,", "value: shop,"), "value: shop", "has no column shop"),
        (replace("table: category, key: id", "table: category, key: ident"), "ident", "has no column ident"),
        (
            replace("table: category, key: id", "table: category, key: name"),
            "key: name",
            "is of type text; keys must be smallint, integer or bigint",
        ),
        (
            replace(
                "lookups:\n",
                "lookups:\n  l: { table: not_unique, key: id, by: category_id, fields: { v: { type: int } } }\n",
            ),
            "not_unique",
            "is not unique",
        ),
        (
            replace("key: product_id, value: store", "key: store, value: store"),
            "key: store",
            "no index that starts with store",
        ),
    ];
    for (yaml, part, expected) in cases {
        let found = findings(&database, &yaml).await;
        let line = format!("line {}: ", line_of(&yaml, part));
        assert!(
            found.iter().any(|finding| finding.starts_with(&line) && finding.contains(expected)),
            "{part}: {found:?}"
        );
    }
    for (table, expected) in [
        ("text_key", "keys must be"),
        ("parts", "is partitioned"),
        ("fleeting", "is unlogged"),
        ("a_view", "is a view"),
        ("mother", "takes part in inheritance"),
        ("daughter", "takes part in inheritance"),
        ("far", "is a foreign table"),
    ] {
        let yaml = format!("index: t\ndocument: {{ table: {table}, key: id }}\n");
        let found = findings(&database, &yaml).await;
        assert!(
            found.iter().any(|finding| finding.starts_with("line 2: error: ") && finding.contains(expected)),
            "{table}: {found:?}"
        );
    }
    // Several mistakes at once, in the order of the file.
    let many = SHOP.replace("'price > 100'", "'prize > 100'").replace("'weight > 0'", "'wait > 0'");
    assert_eq!(findings(&database, &many).await.len(), 2);
}

#[tokio::test]
async fn digits_that_postgres_does_not_limit_are_a_warning() {
    let (database, mut connection) = TestDatabase::with_schema(SHOP_TABLES).await;
    execute(&mut connection, "ALTER TABLE product ALTER price TYPE numeric").await;
    let definition = Definition::parse(SHOP).unwrap();
    let mut session = database.database.connect(Purpose::Admin).await.unwrap();
    let found = check_postgres(&definition, &mut session).await.unwrap();
    assert_eq!((found.count(Severity::Error), found.count(Severity::Warning)), (0, 1));
}

#[tokio::test]
async fn a_lookup_that_moves_too_many_documents_in_an_order_is_a_warning() {
    let (database, mut connection) = TestDatabase::with_schema(SHOP_TABLES).await;
    execute(&mut connection, "INSERT INTO category VALUES (1, 'one'), (2, 'two')").await;
    execute(
        &mut connection,
        "INSERT INTO product (id, title, category_id)
         SELECT n, 'x', CASE WHEN n % 10 = 0 THEN 2 ELSE 1 END FROM generate_series(1, 300000) n",
    )
    .await;
    execute(&mut connection, "ANALYZE product, category").await;
    // Only filtered by: moved as sets.
    assert_eq!(findings(&database, SHOP).await, Vec::<String>::new());
    let sorted = SHOP.replace("name: { type: string, filter: true }", "name: { type: string, sort: true }");
    assert_ne!(sorted, SHOP);
    let found = findings(&database, &sorted).await;
    let line = format!("line {}: warning: field name", line_of(&sorted, "category: {"));
    assert!(
        matches!(found.as_slice(), [one] if one.starts_with(&line) && one.contains("lookup category")),
        "{found:?}"
    );
    // The most used row, not the average one.
    let documents: f64 = found[0].split("about ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((262_000.0..=278_000.0).contains(&documents), "{documents}");
}
