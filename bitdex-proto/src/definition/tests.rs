use super::*;
use crate::{
    schema::{Function, Origin},
    value::Value,
};

const IMAGES: &str = include_str!("../../../docs/examples/images.yaml");
const SHOP: &str = include_str!("../../../docs/examples/shop.yaml");

fn images() -> Definition {
    Definition::parse(IMAGES).unwrap()
}

fn shop() -> Definition {
    Definition::parse(SHOP).unwrap()
}

fn source(definition: &Definition, name: &str) -> SourceId {
    definition.schema().source(name).unwrap().0
}

fn origin<'d>(definition: &'d Definition, name: &str) -> &'d Origin {
    &definition.schema().field(name).unwrap().1.origin
}

#[test]
fn the_image_definition_compiles() {
    let definition = images();
    let schema = definition.schema();
    assert_eq!(definition.index(), "images");
    assert_eq!(definition.pg_schema(), "bitdex_images");
    let names: Vec<_> = schema.sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "document",
            "post",
            "version",
            "model",
            "tagIds",
            "toolIds",
            "techniqueIds",
            "modelVersionIds",
            "collectionIds",
            "events"
        ]
    );
    for (id, spec) in definition.sources() {
        assert_eq!(spec.name(), names[id]);
        assert_eq!(definition.source(id).unwrap(), spec);
    }
    assert!(definition.source(names.len()).is_err());
    let names: Vec<_> = schema.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(
        names.join(" "),
        "id url hash width height nsfwLevel type userId postId blockedFor hasMeta onSite minor poi existedAt publishedAt \
         availability postedToId tagIds toolIds techniqueIds modelVersionIds baseModels resourcePoi collectionIds sortAt \
         isPublished reactionCount commentCount collectedCount pinnedRank labels"
    );
    assert_eq!(schema.fields[0].origin, Origin::Key);
    assert!(schema.fields[0].sort && schema.fields[0].filter);
    assert_eq!(schema.fields[schema.visible_at.unwrap()].name, "publishedAt");
    // postId is the document's ninth column.
    let post = source(&definition, "post");
    let (version, model) = (source(&definition, "version"), source(&definition, "model"));
    assert_eq!(
        *origin(&definition, "postedToId"),
        Origin::Lookup { by: 7, path: crate::schema::Path { first: post, hops: vec![] }, column: 2 }
    );
    assert_eq!(
        *origin(&definition, "resourcePoi"),
        Origin::Through {
            members: source(&definition, "modelVersionIds"),
            path: crate::schema::Path { first: version, hops: vec![crate::schema::Hop { by: 1, source: model }] },
            column: 0
        }
    );
    assert_eq!(
        *origin(&definition, "commentCount"),
        Origin::Metric { source: source(&definition, "events"), column: 1, default: Some(Value::Int(0)) }
    );
    let Origin::Derived { function: Function::Greatest, inputs } = origin(&definition, "sortAt") else {
        panic!("sortAt is derived");
    };
    assert_eq!(
        inputs.iter().map(|id| schema.fields[*id].name.as_str()).collect::<Vec<_>>(),
        ["existedAt", "publishedAt"]
    );
    assert_eq!(definition.document().line, 4);
}

#[test]
fn the_shop_definition_compiles() {
    let definition = shop();
    let schema = definition.schema();
    assert_eq!(
        *origin(&definition, "parentCategoryName"),
        Origin::Lookup {
            by: 2,
            path: crate::schema::Path {
                first: source(&definition, "category"),
                hops: vec![crate::schema::Hop { by: 1, source: source(&definition, "parent") }]
            },
            column: 0
        }
    );
    assert_eq!(schema.field("tiers").unwrap().1.ty, FieldType::Decimal(2));
    assert_eq!(definition.lookups()[2].table.to_string(), "\"warehouse\".\"stock\"");
    let tables: Vec<_> = definition.tables().into_iter().map(|used| (used.table.name, used.sources)).collect();
    assert_eq!(
        tables,
        [
            ("product".to_owned(), vec![0]),
            ("category".into(), vec![1, 2]),
            ("stock".into(), vec![3]),
            ("product_tag".into(), vec![4]),
            ("product_price_tier".into(), vec![5])
        ]
    );
    assert_eq!(
        definition.lock_sql(),
        "LOCK TABLE \"public\".\"product\", \"public\".\"category\", \"warehouse\".\"stock\", \
         \"public\".\"product_tag\", \"public\".\"product_price_tier\" IN ACCESS SHARE MODE"
    );
}

#[test]
fn the_hash_follows_the_meaning_only() {
    let hash = |yaml: &str| Definition::parse(yaml).unwrap().schema().hash.clone();
    let base = hash(SHOP);
    assert_eq!(base.len(), 64);
    assert_eq!(hash(&format!("# another comment\n\n{SHOP}")), base);
    assert_eq!(hash(&SHOP.replace("quantity > 0", "'quantity   >  0 -- there'")), base);
    assert_eq!(hash(&SHOP.replace("table: product,", "table: 'public.\"product\"',")), base);
    for (from, to) in [
        ("index: shop", "index: shop2"),
        ("quantity > 0", "quantity > 1"),
        ("type: float", "type: decimal(3)"),
        ("visible_at: listedAt", "visible_at: createdAt"),
        ("active:     { type: bool, filter: true }", "active:     { type: bool }"),
        ("where: approved", "where: not approved"),
        ("least:", "greatest:"),
        ("coalesce: [salePrice, price]", "coalesce: [price, salePrice]"),
    ] {
        let changed = SHOP.replacen(from, to, 1);
        assert_ne!(changed, SHOP, "{from}");
        assert_ne!(hash(&changed), base, "{from} → {to}");
    }
}

const BASE: &str = "index: a
document: { table: t, key: id }
fields:
  x: { type: int }
  s: { type: string }
";

fn errors(yaml: &str) -> String {
    Definition::parse(yaml).unwrap_err().to_string()
}

#[test]
fn each_mistake_is_named_with_its_line() {
    let mut wrong = Vec::new();
    for (more, expected) in [
        ("  x2: { type: integer }", "line 6: field x2: unknown type \"integer\": give one of int, decimal(2)"),
        ("  d: { type: decimal }", "line 6: field d: a decimal needs a scale, e.g. decimal(2)"),
        ("  d: { type: decimal(19) }", "line 6: field d: decimal(19) needs a scale of 0 to 18"),
        ("  d: { type: int, filtr: true }", "line 6: field d has no option `filtr`: it takes type, filter, sort, sql"),
        ("  d: { filter: true }", "line 6: field d has no `type`: give one of int, decimal(2)"),
        ("  d: { type: int, filter: yes }", "line 6: `filter` of field d must be true or false, not \"yes\""),
        ("  d: { type: int, sql: 'a; drop table b' }", "line 6: `sql` of field d: `;` cannot stand in an expression"),
        ("  d: { type: int, sql: 'a) or (b' }", "line 6: `sql` of field d: `)` closes nothing"),
        ("  d: { type: int, sql: 1 }", "line 6: `sql` of field d must be text, not 1"),
        ("  'a b': { type: int }", "line 6: \"a b\" is no name"),
        ("  d: int", "line 6: field d must be a mapping, not \"int\""),
        ("  id: { type: int }", "line 6: field id stands twice: here as a document field, in line 2 as a document key"),
        ("metric: {}", "line 6: the definition has no option `metric`: it takes index, document"),
        (
            "lookups:\n  l: { table: u, key: id, by: nope, fields: { f: { type: int } } }",
            "line 7: lookup l: `by` refers to nope",
        ),
        (
            "lookups:\n  l: { table: u, key: id, by: s, fields: { f: { type: int } } }",
            "line 7: lookup l: `by` must be an int, which s of type string is not",
        ),
        (
            "lookups:\n  l: { table: u, key: id, by: m.k, fields: { f: { type: int } } }",
            "line 7: `by` of lookup l: there is no lookup m",
        ),
        (
            "lookups:\n  l: { table: u, key: id, fields: { f: { type: int } } }",
            "line 7: lookup l is reached by nothing",
        ),
        ("lookups:\n  l: { table: u, key: id, by: x }", "line 7: lookup l has no fields"),
        (
            "lookups:\n  l: { table: u, key: 'id + 1', by: x, fields: { f: { type: int } } }",
            "line 7: `key` of lookup l must be a plain column",
        ),
        (
            "lookups:\n  l: { table: a.b.c, key: id, by: x, fields: { f: { type: int } } }",
            "line 7: table a.b.c has too many parts",
        ),
        ("lookups:\n  l: { key: id, by: x, fields: { f: { type: int } } }", "line 7: lookup l has no `table`"),
        (
            "lookups:\n  l: { table: u, key: id, by: x, fields: { x: { type: int } } }",
            "line 7: field x stands twice: here as a lookup field, in line 4",
        ),
        (
            "lookups:\n  l: { table: u, key: id, by: m.g, fields: { f: { type: int } } }\n  m: { table: u, key: id, by: l.f, fields: { g: { type: int } } }",
            "line 7: lookups refer to each other in a circle: l → m → l",
        ),
        (
            "members:\n  m: { table: u, key: id, value: v, type: int, sort: true }",
            "line 7: field m holds a set, which has no order",
        ),
        ("members:\n  m: { table: u, key: id, type: int }", "line 7: member field m has no `value`"),
        (
            "members:\n  m: { from: n, through: l.f }\nlookups:\n  l: { table: u, key: id, fields: { f: { type: int } } }",
            "line 7: member field m: `from` must name a member field with a table",
        ),
        (
            "members:\n  m: { table: u, key: id, value: v, type: string }\n  n: { from: m, through: l.f }\nlookups:\n  l: { table: u, key: id, fields: { f: { type: int } } }",
            "line 8: member field n: `through` needs values of type int, m has string",
        ),
        (
            "members:\n  m: { table: u, key: id, value: v, type: int }\n  n: { from: m, through: l }",
            "line 8: `through` of member field n must be lookup.field, not l",
        ),
        ("derived:\n  d: { greatest: [x, s] }", "line 7: derived field d: s is of type string, the first field is int"),
        ("derived:\n  d: { greatest: [x, nope] }", "line 7: derived field d: nope is no field of the document"),
        ("derived:\n  d: { greatest: [] }", "line 7: `greatest` of field d needs at least one field"),
        ("derived:\n  d: { exists: [x, s] }", "line 7: `exists` of field d takes one field"),
        (
            "derived:\n  d: { filter: true }",
            "line 7: derived field d needs exactly one of greatest, least, coalesce, exists",
        ),
        (
            "derived:\n  d: { least: e }\n  e: { least: d }",
            "line 8: derived fields refer to each other in a circle: d → e → d",
        ),
        (
            "derived:\n  d: { least: m }\nmembers:\n  m: { table: u, key: id, value: v, type: int }",
            "line 7: derived field d: m is a member field",
        ),
        (
            "derived:\n  d: { least: e }\nexternal:\n  e: { type: int }",
            "line 7: derived field d: e is no field of the document",
        ),
        ("external:\n  e: { type: int, many: true, sort: true }", "line 7: field e holds a set, which has no order"),
        ("external:\n  e: { type: int, sql: x }", "line 7: field e has no option `sql`"),
        (
            "metrics:\n  g: { table: t, key: k, fields: { f: { type: string, sql: any(x) } } }",
            "line 7: metric f cannot be a string",
        ),
        ("metrics:\n  g: { table: t, key: k, fields: { f: { type: int } } }", "line 7: field f has no `sql`"),
        (
            "metrics:\n  g: { table: t, key: k, fields: { f: { type: int, sql: sum(x), default: a } } }",
            "line 7: `default` of field f is of type int, which \"a\" is not",
        ),
        (
            "metrics:\n  g: { table: a b, key: k, fields: { f: { type: int, sql: sum(x) } } }",
            "line 7: `table` of metrics g: \"a b\" is no ClickHouse name",
        ),
        ("visible_at: x", "line 6: visible_at: x is of type int; it must be a timestamp"),
        ("visible_at: nope", "line 6: visible_at: there is no field nope"),
        (
            "members:\n  l: { table: u, key: id, value: v, type: int }\nlookups:\n  l: { table: u, key: id, by: x, fields: { f: { type: int } } }",
            "line 7: source l stands twice",
        ),
        ("  x: { type: int }", "line 6: this is no valid YAML: duplicate mapping key"),
        ("  y: { type: int", "line "),
    ] {
        let found = errors(&format!("{BASE}{more}\n"));
        if !found.starts_with(expected) || found.contains('\n') {
            wrong.push(format!("{more}\n  wanted {expected}\n  found  {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (yaml, expected) in [
        ("", "line 1: the definition must be a mapping, not nothing"),
        ("index: Images\ndocument: { table: t, key: id }", "line 1: index \"Images\": a name is small letters"),
        ("document: { table: t, key: id }", "line 1: the definition has no `index`"),
        ("index: a", "line 1: the definition has no `document`"),
        ("index: a\ndocument: { table: t, key: '\"a b\"' }", "line 2: the document key \"a b\""),
    ] {
        let found = errors(yaml);
        assert!(found.starts_with(expected), "{yaml}\n  wanted {expected}\n  found  {found}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_order() {
    let found = errors(
        "index: A
document: { table: t, key: id, wher: x }
fields:
  x: { type: in }
lookups:
  l: { table: u, key: id, by: x, fields: { f: { type: int } } }
derived:
  d: { least: [x, f] }
  e: { least: nope }
visible_at: d
",
    );
    let lines: Vec<_> = found.lines().map(|line| line.split(':').next().unwrap()).collect();
    // What builds on the wrong type of x is not reported again, until it is known to be wrong by itself.
    assert_eq!(lines, ["line 1", "line 2", "line 4", "line 9", "line 10"], "{found}");
}

#[test]
fn errors_know_their_column() {
    let error = Definition::parse(&format!("{BASE}visible_at: x\n")).unwrap_err();
    assert_eq!(error.0[0].at, Position { line: 6, column: 13 });
}

#[test]
fn aliases_and_merges_are_plain_yaml() {
    let definition = Definition::parse(
        "index: a
document: { table: t, key: id }
fields:
  x: &common { type: int, filter: true }
  y: *common
  z: { <<: *common, sort: true }
",
    )
    .unwrap();
    let fields = &definition.schema().fields;
    assert!(fields[2].filter && fields[3].filter && fields[3].sort);
}

#[test]
fn a_missing_file_is_named() {
    let error = Definition::load("/nonexistent/x.yaml").unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x.yaml"), "{error}");
}

#[test]
fn the_view_reads_and_copies_share_their_selects() {
    let definition = shop();
    let view = definition.view_sql();
    let (stock, tags) = (source(&definition, "stock"), source(&definition, "tags"));
    let rows = "SELECT \"sku\" AS \"$key\", (quantity > 0)::bool AS \"inStock\", (restocked_at)::timestamptz AS \
                \"restockedAt\" FROM \"warehouse\".\"stock\"";
    let pairs = "SELECT \"product_id\" AS \"$key\", (\"tag\")::text COLLATE \"C\" AS \"$value\" FROM \
                 \"public\".\"product_tag\" WHERE (approved) IS TRUE";
    for (sql, part) in [
        (&view, rows),
        (&definition.read_sql(stock).unwrap(), rows),
        (&definition.copy_sql(stock, 0, 9).unwrap(), rows),
        (&view, pairs),
        (&definition.copy_sql(tags, 0, 9).unwrap(), pairs),
    ] {
        assert!(sql.contains(part), "{sql}");
    }
    assert!(view.starts_with("SELECT \"$v\".\"id\", \"$v\".\"sku\", \"$v\".\"title\""), "{view}");
    let paid = "CROSS JOIN LATERAL (SELECT coalesce(\"$v\".\"salePrice\", \"$v\".\"price\") AS \"paidPrice\")";
    assert!(view.contains(paid), "{view}");
    // Parents are joined before what hangs on them, and the document's condition is part of it.
    let hangs_on_it = ") \"$l2\" ON \"$l2\".\"$key\" = \"$l1\".\"parentCategoryId\"";
    assert!(view.find(") \"$l1\" ON").unwrap() < view.find(hangs_on_it).unwrap(), "{view}");
    assert!(view.contains("FROM \"public\".\"product\" WHERE (not deleted) IS TRUE) \"$d\""), "{view}");
    assert!(!view.contains("promotion"), "external fields are not Postgres'");
}

#[test]
fn ranges_cover_every_key() {
    let definition = shop();
    let copy = |lo, hi| definition.copy_sql(0, lo, hi).unwrap();
    assert!(copy(-5, 3).contains("WHERE \"$t\".\"$key\" >= '-5'::int8 AND \"$t\".\"$key\" < '3'::int8) TO STDOUT"));
    assert!(copy(i64::MIN, i64::MAX).contains("WHERE \"$t\".\"$key\" >= '-9223372036854775808'::int8) TO STDOUT"));
    assert!(definition.range_sql(0).unwrap().contains("'\"public\".\"product\"'::regclass"));
    let definition = images();
    let events = source(&definition, "events");
    for sql in [definition.read_sql(events), definition.copy_sql(events, 0, 1), definition.range_sql(events)] {
        assert_eq!(sql.unwrap_err().to_string(), "events comes from ClickHouse, not from Postgres");
    }
}

#[test]
fn members_are_read_in_the_type_that_ops_carry() {
    let definition = images();
    assert_eq!(
        definition.read_sql(source(&definition, "tagIds")).unwrap(),
        "SELECT \"$k\".\"$key\" AS document, \"$k\".\"$value\" AS value, EXISTS (SELECT FROM (SELECT \"imageId\" AS \
         \"$key\", \"tagId\" AS \"$value\" FROM \"public\".\"TagsOnImage\" WHERE ((\"attributes\" & 1024) = 0) IS TRUE) \
         \"$t\" WHERE \"$t\".\"$key\" = \"$k\".\"$key\" AND \"$t\".\"$value\" = \"$k\".\"$value\") AS present FROM \
         unnest($1::int8[], $2::int8[]) AS \"$k\"(\"$key\", \"$value\")"
    );
    let definition = shop();
    let tags = definition.read_sql(source(&definition, "tags")).unwrap();
    assert!(tags.contains("unnest($1::int8[], $2::text[])"), "{tags}");
    assert!(tags.contains(
        "(jsonb_populate_record(NULL::\"public\".\"product_tag\", jsonb_build_object('tag', \"$u\".\"$value\"))).\"tag\""
    ));
}

fn names(columns: &[&str]) -> Vec<String> {
    columns.iter().map(|column| (*column).to_owned()).collect()
}

#[test]
fn triggers_record_keys_where_a_referred_column_changed() {
    let definition = images();
    let tags = source(&definition, "tagIds");
    let columns = names(&["imageId", "tagId", "attributes", "note"]);
    let set = definition.trigger_sql(tags, 7, &columns).unwrap();
    assert_eq!(set.table.to_string(), "\"public\".\"TagsOnImage\"");
    let function = &set.functions[0];
    assert_eq!(function.name, "capture_7");
    assert!(function.sql.contains("SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS"), "{}", function.sql);
    assert!(function.sql.contains(
        "INSERT INTO bitdex_images.ops (xid, source, key, value) VALUES (pg_catalog.pg_current_xact_id(), 7, \
         OLD.\"imageId\", OLD.\"tagId\");"
    ));
    assert!(function.sql.contains("IF NEW.\"imageId\" IS NOT NULL AND NEW.\"tagId\" IS NOT NULL THEN"));
    assert!(set.functions[1].sql.contains("(xid, source, truncate) VALUES (pg_catalog.pg_current_xact_id(), 7, true)"));
    let [row, update, truncate] = set.triggers.as_slice() else { panic!("three triggers") };
    assert_eq!(
        row.sql,
        "CREATE OR REPLACE TRIGGER bitdex_images_7_row AFTER INSERT OR DELETE ON \"public\".\"TagsOnImage\" FOR EACH ROW \
         EXECUTE FUNCTION bitdex_images.capture_7()"
    );
    assert_eq!(
        update.sql,
        "CREATE OR REPLACE TRIGGER bitdex_images_7_update AFTER UPDATE ON \"public\".\"TagsOnImage\" FOR EACH ROW WHEN \
         (ROW(OLD.\"imageId\", OLD.\"tagId\", OLD.\"attributes\")::pg_catalog.record OPERATOR(pg_catalog.*<>) \
         ROW(NEW.\"imageId\", NEW.\"tagId\", NEW.\"attributes\")::pg_catalog.record) EXECUTE FUNCTION \
         bitdex_images.capture_7()"
    );
    assert!(truncate.sql.contains(
        "AFTER TRUNCATE ON \"public\".\"TagsOnImage\" FOR EACH STATEMENT EXECUTE FUNCTION bitdex_images.truncate_7()"
    ));
    assert_eq!(
        update.enable_sql,
        "ALTER TABLE \"public\".\"TagsOnImage\" ENABLE ALWAYS TRIGGER bitdex_images_7_update"
    );
    // The same input, the same hash; a column that nothing refers to changes none.
    assert_eq!(definition.trigger_sql(tags, 7, &columns[..3]).unwrap().hash, set.hash);
    assert_ne!(definition.trigger_sql(tags, 8, &columns).unwrap().hash, set.hash);

    let shop = shop();
    let tags = shop.trigger_sql(source(&shop, "tags"), 4, &names(&["product_id", "tag", "approved"])).unwrap();
    assert!(tags.functions[0].sql.contains("SET datestyle = 'ISO, YMD'"));
    assert!(tags.functions[0].sql.contains("(xid, source, key, value_text)"));
    assert!(tags.functions[0].sql.contains("NEW.\"tag\"::pg_catalog.text"));
}

#[test]
fn referred_columns_are_those_mentioned() {
    let yaml = |sql: &str| {
        let yaml = format!(
            "index: a\ndocument: {{ table: '\"T\"', key: '\"Id\"', where: 'W > 1' }}\nfields:\n  x: {{ type: int, sql: '{sql}' }}\n"
        );
        Definition::parse(&yaml).unwrap()
    };
    let columns = names(&["Id", "w", "a", "A", "b c", "T2"]);
    let referred = |sql: &str| yaml(sql).referred_columns(0, &columns).unwrap().join(",");
    assert_eq!(referred("A + 1"), "Id,w,a");
    assert_eq!(referred("\"A\" + length(\"b c\")"), "Id,w,A,b c");
    // The whole row.
    assert_eq!(referred("to_jsonb(\"T\") ->> 1"), columns.join(","));
    assert_eq!(referred("\"T\".a"), columns.join(","));
    let error = yaml("1").referred_columns(0, &names(&["w"])).unwrap_err().to_string();
    assert_eq!(error, "document: table \"public\".\"T\" has no column \"Id\"");
}

#[test]
fn metrics_are_grouped_by_key_and_decoded() {
    let yaml = "
index: a
document: { table: t, key: id }
metrics:
  g:
    table: stats.daily
    key: '`doc id`'
    where: kind = 'x'
    fields:
      n: { type: int, sql: sum(n) }
      f: { type: float, sql: avg(f), sort: true }
      d: { type: decimal(2), sql: sum(d) }
      t: { type: timestamp, sql: max(t) }
      b: { type: bool, sql: max(b) }
";
    let definition = Definition::parse(yaml).unwrap();
    let sql = definition.metrics_sql(1, MetricsFilter::Keys(&[1, 2])).unwrap();
    assert!(
        sql.ends_with(
            "FROM `stats`.`daily` WHERE `doc id` IN (1, 2) AND (kind = 'x') GROUP BY `doc id`) ORDER BY bitdex_key"
        ),
        "{sql}"
    );
    for part in [
        "SELECT bitdex_key, isNull(bitdex_0), ifNull(bitdex_0, 0), isNull(bitdex_1)",
        "accurateCast((sum(n)), 'Nullable(Int64)') AS bitdex_0",
        "CAST((avg(f)) AS Nullable(Float64)) AS bitdex_1",
        "accurateCast(round((sum(d)) * 100), 'Nullable(Int64)') AS bitdex_2",
        "toUnixTimestamp64Micro(CAST((max(t)) AS Nullable(DateTime64(6, 'UTC')))) AS bitdex_3",
    ] {
        assert!(sql.contains(part), "{part} in {sql}");
    }
    assert!(definition.metrics_sql(1, MetricsFilter::Keys(&[])).unwrap().contains("WHERE 0 AND"));
    assert!(!definition.metrics_sql(1, MetricsFilter::Range(0, u32::MAX)).unwrap().contains(">= 0"));
    let error = definition.metrics_sql(1, MetricsFilter::ChangedSince(5)).unwrap_err().to_string();
    assert!(error.contains("metrics g: name a column as `inserted_at`"), "{error}");
    assert!(definition.changed_keys_sql(0, 5).is_err());

    let mut row = 7_i64.to_le_bytes().to_vec();
    for (null, bits) in [(0_u8, 3_i64), (0, 1.5_f64.to_bits() as i64), (1, 0), (0, 9), (0, 1)] {
        row.push(null);
        row.extend(bits.to_le_bytes());
    }
    let values = [
        Some(Value::Int(3)),
        Some(Value::Float(crate::value::Float::new(1.5))),
        None,
        Some(Value::Int(9)),
        Some(Value::Bool(true)),
    ];
    assert_eq!(
        definition.metrics_ops(1, &row).unwrap(),
        [crate::ops::Op::Upsert { source: 1, key: 7, row: Some(values.into()) }]
    );
    assert!(definition.metrics_ops(1, &row[1..]).unwrap_err().to_string().contains("cut off"));
    row[7] = 0xff;
    assert!(definition.metrics_ops(1, &row).unwrap_err().to_string().contains("is not in 0..=4294967295"));
}

/// No table, column or expression of a definition can be taken for a name of ours, or the other way round.
#[test]
fn every_alias_is_out_of_the_reach_of_tables_and_expressions() {
    let definition = Definition::parse(
        "
index: a
document: { table: d, key: k, where: m }
fields: { v: { type: int }, c: { type: int, sql: u + t } }
lookups: { l: { table: l1, key: t, by: v, fields: { x: { type: int } } } }
members:
  ints: { table: k, key: d, value: v, type: int, where: k.m }
  texts: { table: u, key: d, value: v, type: string }
  through: { from: ints, through: l.x }
derived: { x0: { greatest: [v, x] } }
",
    )
    .unwrap();
    let mut texts = vec![definition.view_sql()];
    for (id, _) in definition.sources() {
        texts.extend(
            [definition.read_sql(id), definition.copy_sql(id, 0, 9), definition.range_sql(id)].map(Result::unwrap),
        );
    }
    for sql in texts {
        // A table of the definition is its schema's, and every other qualifier is an alias of ours.
        for (at, _) in sql.match_indices('.') {
            let before = &sql[..at];
            let qualifier = before.rsplit([' ', '(', ',', ':']).next().unwrap();
            let ours = qualifier.starts_with("\"$") || qualifier.starts_with("'\"");
            let theirs = qualifier == "\"public\"" || (qualifier == "k" && sql[at..].starts_with(".m)"));
            assert!(ours || theirs, "{qualifier} in {sql}");
        }
    }
    let read = definition.read_sql(source(&definition, "ints")).unwrap();
    assert!(
        read.contains("FROM \"public\".\"k\" WHERE (k.m) IS TRUE) \"$t\" WHERE \"$t\".\"$key\" = \"$k\""),
        "{read}"
    );
}
