//! Stores that were written once, by a release of each format, and are read by every later one. How they were made:
//! README.md.

// Clippy allows these in test functions; this whole program is a test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contents;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use bitdex_proto::{
    query::{CountRequest, Fields, Filter, GetRequest, SearchRequest, Sort},
    value::{FieldType, FieldValue, Float, Literal, Value},
    wire::{self, record::Kind},
};
use bitdex_query::{
    engine::{self, Plan},
    inspect::{Report, check::check},
    node::{Node, NodeOptions},
    state::State,
    store::{
        Folder, format,
        pack::{Pack, PackKind, SectionKind},
    },
};
use contents::Contents;

const FORMATS: std::ops::RangeInclusive<u32> = format::OLDEST..=format::NEWEST;

type Make = fn(&Path, u32) -> Contents;
const STORES: [(&str, Make); 2] = [("serving", store::serving), ("loading", store::loading)];

fn golden(name: &str, format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/format-{format}/{name}"))
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|it| read(it.unwrap()))
        .collect()
}

/// A copy, so that the golden files stay as they are.
fn copy(name: &str, format: u32) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (name, bytes) in files(&golden(name, format)) {
        fs::write(copy.path().join(name), bytes).unwrap();
    }
    copy
}

#[test]
fn the_writers_write_the_very_same_bytes_today() {
    for format in FORMATS {
        for (name, make) in STORES {
            let made = tempfile::tempdir().unwrap();
            make(made.path(), format);
            let (made, golden) = (files(made.path()), files(&golden(name, format)));
            assert_eq!(made.keys().collect::<Vec<_>>(), golden.keys().collect::<Vec<_>>(), "{name}, format {format}");
            for (file, bytes) in &made {
                let other = &golden[file];
                let same = bytes.iter().zip(other).take_while(|(one, other)| one == other).count();
                assert!(
                    bytes == other,
                    "{name}, format {format}: {file} differs from byte {same} on; a change of format needs a new number \
                     (store/format.rs), golden files of its own and its place in docs/store-format.md"
                );
            }
        }
    }
}

#[test]
fn there_is_a_file_of_each_kind_and_a_section_of_each_kind() {
    for format in FORMATS {
        let (mut kinds, mut sections) = (BTreeSet::new(), BTreeSet::new());
        for (name, _) in STORES {
            for file in files(&golden(name, format)).keys().filter(|file| file.ends_with(".pack")) {
                let pack = Pack::open_any(&golden(name, format).join(file)).unwrap().unwrap();
                assert_eq!(pack.stamp().format, format);
                kinds.insert(pack.kind().unwrap() as u16);
                sections.extend(pack.sections().into_iter().filter(|section| section.2 > 0).map(|section| section.0));
            }
        }
        assert_eq!(kinds, PackKind::ALL.map(|kind| kind as u16).into());
        let known = (0..100).filter_map(SectionKind::of).filter(|kind| kind.since() <= format);
        let all: BTreeSet<u16> = known.map(|kind| kind as u16).collect();
        assert_eq!(sections, all, "format {format}");
    }
}

#[test]
fn nothing_is_wrong_with_them() {
    for format in FORMATS {
        for (name, _) in STORES {
            let folder = Folder::open(golden(name, format), false).unwrap();
            let checked = check(&folder, &store::schema(), &mut |_| {}).unwrap();
            assert_eq!(checked.findings.lines(), [] as [String; 0], "{name}, format {format}");
            let report = Report::read(&folder, Some(&store::schema())).unwrap();
            assert_eq!((report.problems, report.format), (Vec::new(), format));
        }
    }
}

fn options(folder: &Path) -> NodeOptions {
    NodeOptions::new(store::schema(), folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_answers_from_them() {
    for format in FORMATS {
        let wanted = store::serving(tempfile::tempdir().unwrap().path(), format);
        let copy = copy("serving", format);
        let node = Node::open(NodeOptions { reader_only: true, ..options(copy.path()) }).await.unwrap();
        compare(&node.current(), &wanted, format);
        // A release that knows this format and none later.
        let node = Node::open(NodeOptions { newest_format: format, ..options(copy.path()) }).await.unwrap();
        compare(&node.current(), &wanted, format);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_was_broken_off_is_ended() {
    for format in FORMATS {
        let wanted = store::loading(tempfile::tempdir().unwrap().path(), format);
        let copy = copy("loading", format);
        let node = Node::open(options(copy.path())).await.unwrap();
        node.promoted().await;
        assert!(!node.current().readiness().ready);
        node.writer().unwrap().submit(wire::Record { kind: Some(Kind::LoadEnd(wire::LoadEnd {})) }).await.unwrap();
        compare(&node.current(), &wanted, format);
    }
}

fn one(value: Option<Value>) -> FieldValue {
    FieldValue::one(value)
}

fn many<V>(values: impl IntoIterator<Item = V>, value: impl Fn(V) -> Value) -> FieldValue {
    FieldValue::many(values.into_iter().map(value).collect())
}

fn text(text: &str) -> Value {
    Value::Text(text.into())
}

/// What the documents have in a field.
fn value(all: &Contents, id: u32, field: &str) -> FieldValue {
    let row = &all.rows[&id];
    match field {
        "id" => one(Some(Value::Int(id.into()))),
        "level" => one(row.level.map(Value::Int)),
        "kind" => one(row.kind.map(text)),
        "title" => one(row.title.as_deref().map(text)),
        "ratio" => one(row.ratio.map(|ratio| Value::Float(Float::new(ratio)))),
        "price" => one(row.price.map(Value::Int)),
        "flag" => one(row.flag.map(Value::Bool)),
        "madeAt" => one(row.made_at.map(Value::Int)),
        "postId" => one(row.post.map(Value::Int)),
        "rank" => one(all.rank(id).map(Value::Int)),
        "tags" => many(all.tags.get(&id).into_iter().flatten(), |tag| Value::Int(*tag)),
        "words" => many(all.words.get(&id).into_iter().flatten(), |word| text(word)),
        "versionIds" => many(all.version_ids.get(&id).into_iter().flatten(), |id| Value::Int(*id)),
        "bases" => many(all.bases(id), text),
        "poi" => many(all.poi(id), Value::Bool),
        "clicks" => one(Some(Value::Int(all.clicks.get(&id).copied().unwrap_or(0)))),
        "step" => one(all.step.get(&id).copied().map(Value::Int)),
        "labels" => many(all.labels.get(&id).into_iter().flatten(), |label| text(label)),
        other => panic!("{other}"),
    }
}

/// The first rows of a filter, from the greatest values down, by the lists of files where they have such.
fn first_of(state: &State, all: &Contents, (name, filter): (&str, &Option<Filter>), matching: &[u32]) {
    for sort in ["price", "clicks"] {
        let mut expected: Vec<_> =
            matching.iter().map(|id| (value(all, *id, sort).values().first().cloned(), *id)).collect();
        expected.sort_by(|a, b| b.cmp(a));
        let expected: Vec<u32> = expected.into_iter().take(40).map(|(_, id)| id).collect();
        let sort = vec![Sort { field: sort.into(), descending: true }];
        let request = SearchRequest { filter: filter.clone(), sort, limit: 40, ..SearchRequest::new("golden") };
        let found = engine::search_by(state, &request, 0, Plan::Lead).unwrap();
        assert_eq!(found.ids, expected, "by {name}: {request:?}");
    }
}

/// Every document with all of its fields, a filter by each value of each field, and each order.
fn compare(state: &Arc<State>, all: &Contents, format: u32) {
    let schema = store::schema();
    let index = schema.index.clone();
    let ids: Vec<u32> = all.rows.keys().copied().collect();
    assert_eq!(state.documents(), ids.len() as u64);
    let request = |ids: &[u32]| GetRequest {
        index: index.clone(),
        ids: ids.to_vec(),
        fields: Fields::All,
        include_pending: false,
        now_us: None,
        consistency: None,
    };
    for some in ids.chunks(500) {
        let got = engine::get(state, &request(some), 0).unwrap();
        assert_eq!(got.ids, some);
        for (id, row) in got.ids.iter().zip(got.rows) {
            for (field, found) in got.fields.iter().zip(row) {
                let name = &schema.fields[*field].name;
                assert_eq!(found, value(all, *id, name), "format {format}, document {id}, {name}");
            }
        }
    }
    for spec in &schema.fields {
        let held: Vec<(u32, FieldValue)> = ids.iter().map(|id| (*id, value(all, *id, &spec.name))).collect();
        let values: BTreeSet<Value> = held.iter().flat_map(|(_, value)| value.values().to_vec()).collect();
        if spec.filter && spec.name != "id" {
            for wanted in values {
                let literal = match &wanted {
                    Value::Int(int) => match spec.ty {
                        FieldType::Timestamp => Literal::TimestampUs(*int),
                        FieldType::Decimal(_) => Literal::Decimal { unscaled: *int, scale: 2 },
                        _ => Literal::Int(*int),
                    },
                    Value::Bool(bool) => Literal::Bool(*bool),
                    Value::Float(float) => Literal::Float(float.get()),
                    Value::Text(text) => Literal::Text(text.to_string()),
                };
                let filter = Some(Filter::eq(&spec.name, literal));
                let expected: Vec<u32> =
                    held.iter().filter(|(_, value)| value.values().contains(&wanted)).map(|(id, _)| *id).collect();
                let page = SearchRequest { filter: filter.clone(), limit: 10_000, ..SearchRequest::new(index.clone()) };
                let found = engine::search(state, &page, 0).unwrap();
                assert_eq!(found.ids, expected, "format {format}: {} = {wanted:?}", spec.name);
                first_of(state, all, (&spec.name, &filter), &expected);
                let index = index.clone();
                let count = CountRequest { filter, ..CountRequest::new(index) };
                assert_eq!(engine::count(state, &count, 0).unwrap().count, expected.len() as u64);
            }
        }
        if spec.sort {
            for descending in [false, true] {
                let mut order = held.clone();
                order.sort_by(|(a, one), (b, other)| {
                    let (one, other) = (one.values().first(), other.values().first());
                    // Nulls last, both ways.
                    let ascending = one.is_none().cmp(&other.is_none()).then_with(|| {
                        let order = one.cmp(&other);
                        if descending { order.reverse() } else { order }
                    });
                    ascending.then_with(|| if descending { b.cmp(a) } else { a.cmp(b) })
                });
                let expected: Vec<u32> = order.into_iter().map(|(id, _)| id).collect();
                let sort = vec![Sort { field: spec.name.clone(), descending }];
                let page = SearchRequest { sort, limit: 10_000, ..SearchRequest::new(index.clone()) };
                assert_eq!(engine::search(state, &page, 0).unwrap().ids, expected, "format {format}, by {}", spec.name);
            }
        }
    }
}
