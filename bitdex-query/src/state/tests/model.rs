//! A naive index: plain maps, everything computed from scratch, nothing shared with the code under test but the schema
//! and the types of the wire. With it, random ops, and a schema that has every kind of source and field.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bitdex_proto::{
    ops::{Change, Op, Row},
    query::{Comparator, Filter},
    schema::{Column, Field, FieldId, Function, Hop, KEY_FIELD, Origin, Path, Schema, Source, SourceKind},
    value::{FieldType, FieldValue, Float, Literal, Value},
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use crate::{
    segment::{
        Index,
        sets::{Block, BlockBuffer},
        value::{Term, ValueRef},
    },
    state::{State, compute::row_hash, layout::Layout},
};

pub(crate) const LEVEL: usize = 1;
pub(crate) const COUNT: usize = 18;
pub(crate) const RANK: usize = 19;
pub(crate) const LABELS: usize = 20;
/// The clock about which the timestamps lie.
pub(crate) const NOW: i64 = 1_000_000;

pub(crate) fn row(values: Vec<Option<Value>>) -> Row {
    values.into()
}

fn source(name: &str, kind: SourceKind) -> Source {
    Source { name: name.into(), kind }
}

fn columns(columns: &[(&str, FieldType)]) -> Vec<Column> {
    columns.iter().map(|(name, ty)| Column { name: (*name).into(), ty: *ty }).collect()
}

/// Every kind of source and origin; `postId` and `versions` are no fields themselves, so the state has to lead from
/// lookups back to documents on its own.
pub(crate) fn schema() -> Schema {
    use FieldType::{Bool, Decimal, Float, Int, String, Timestamp};
    let document = [
        ("level", Int),
        ("kind", String),
        ("ratio", Float),
        ("price", Decimal(2)),
        ("flag", Bool),
        ("postId", Int),
        ("existedAt", Timestamp),
    ];
    let sources = vec![
        source("document", SourceKind::Document { columns: columns(&document) }),
        source("post", SourceKind::Lookup { columns: columns(&[("publishedAt", Timestamp), ("versionId", Int)]) }),
        source("version", SourceKind::Lookup { columns: columns(&[("baseModel", String), ("modelId", Int)]) }),
        source("model", SourceKind::Lookup { columns: columns(&[("poi", Bool)]) }),
        source("tags", SourceKind::Members { ty: Int }),
        source("versions", SourceKind::Members { ty: Int }),
        source("words", SourceKind::Members { ty: String }),
        source("events", SourceKind::Metrics { columns: columns(&[("count", Int)]) }),
    ];
    let path = |first, hops: &[(usize, usize)]| Path {
        first,
        hops: hops.iter().map(|(by, source)| Hop { by: *by, source: *source }).collect(),
    };
    let of_post = |hops: &[(usize, usize)], column| Origin::Lookup { by: 5, path: path(1, hops), column };
    let through = |hops: &[(usize, usize)], column| Origin::Through { members: 5, path: path(2, hops), column };
    let derived = |function, inputs: &[usize]| Origin::Derived { function, inputs: inputs.to_vec() };
    let metric = Origin::Metric { source: 7, column: 0, default: Some(Value::Int(0)) };
    let fields = [
        ("id", Int, "filter sort", Origin::Key),
        ("level", Int, "filter sort", Origin::Document { column: 0 }),
        ("kind", String, "filter sort", Origin::Document { column: 1 }),
        ("ratio", Float, "filter sort", Origin::Document { column: 2 }),
        ("price", Decimal(2), "sort", Origin::Document { column: 3 }),
        ("flag", Bool, "filter", Origin::Document { column: 4 }),
        ("existedAt", Timestamp, "", Origin::Document { column: 6 }),
        ("publishedAt", Timestamp, "", of_post(&[], 0)),
        ("ownBase", String, "filter sort", of_post(&[(1, 2)], 0)),
        ("ownPoi", Bool, "filter", of_post(&[(1, 2), (1, 3)], 0)),
        ("tags", Int, "filter many", Origin::Members { source: 4 }),
        ("words", String, "filter many", Origin::Members { source: 6 }),
        ("baseModels", String, "filter many", through(&[], 0)),
        ("resourcePoi", Bool, "filter many", through(&[(1, 3)], 0)),
        ("sortAt", Timestamp, "filter sort", derived(Function::Greatest, &[6, 7])),
        ("earliest", Timestamp, "sort", derived(Function::Least, &[6, 7])),
        ("shownAt", Timestamp, "filter", derived(Function::Coalesce, &[7, 6])),
        ("isPublished", Bool, "filter sort", derived(Function::Exists, &[7])),
        ("count", Int, "filter sort", metric),
        ("rank", Int, "filter sort", Origin::External),
        ("labels", String, "filter many", Origin::External),
    ];
    let fields = fields.into_iter().map(|(name, ty, flags, origin)| Field {
        name: name.into(),
        ty,
        many: flags.contains("many"),
        filter: flags.contains("filter"),
        sort: flags.contains("sort"),
        origin,
    });
    let (index, hash) = ("things".into(), "hash".into());
    Schema { index, hash, sources, fields: fields.collect(), visible_at: Some(7), filters: Vec::new() }
}

/// As [`schema`], but the way from posts back to documents leads through a column.
pub(crate) fn schema_by_column() -> Schema {
    let mut schema = schema();
    let origin = Origin::Document { column: 5 };
    schema.fields.push(Field {
        name: "postId".into(),
        ty: FieldType::Int,
        many: false,
        filter: true,
        sort: true,
        origin,
    });
    schema
}

/// Source rows in plain maps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Model {
    rows: BTreeMap<(usize, i64), Row>,
    members: BTreeMap<(usize, u32), BTreeSet<Value>>,
    external: BTreeMap<(usize, u32), BTreeSet<Value>>,
}

pub(crate) type Documents = BTreeMap<u32, Vec<FieldValue>>;

impl Model {
    pub(crate) fn apply(&mut self, schema: &Schema, op: &Op) {
        match op {
            Op::Upsert { source, key, row: Some(row) } => {
                self.rows.insert((*source, *key), row.clone());
            }
            Op::Upsert { source, key, row: None } => {
                self.rows.remove(&(*source, *key));
            }
            Op::Member { source, document, value, present } => {
                let set = self.members.entry((*source, *document)).or_default();
                if *present {
                    set.insert(value.clone());
                } else {
                    set.remove(value);
                }
            }
            Op::Truncate { source } => {
                self.rows.retain(|(of, _), _| of != source);
                self.members.retain(|(of, _), _| of != source);
            }
            Op::Retain { source, first, last, keys } => self.rows.retain(|(of, key), _| {
                let within = i64::from(*first) <= *key && *key <= i64::from(*last);
                of != source || !within || keys.iter().any(|kept| i64::from(*kept) == *key)
            }),
            Op::Field { document, field, change } => self.change(*document, *field, change),
            Op::QueryOpSet { filter, changes } => {
                for (id, values) in self.documents(schema) {
                    if matches(filter, &values, schema, NOW) {
                        changes.iter().for_each(|(field, change)| self.change(id, *field, change));
                    }
                }
            }
        }
    }

    /// What a load does that brings these ops: rows that come from Postgres are these, and no others.
    pub(crate) fn load(&mut self, schema: &Schema, ops: &[Op]) {
        let loaded = |source: usize| schema.sources[source].is_postgres();
        self.rows.retain(|(source, _), _| !loaded(*source));
        self.members.clear();
        ops.iter().for_each(|op| self.apply(schema, op));
    }

    fn change(&mut self, document: u32, field: usize, change: &Change) {
        let set = self.external.entry((field, document)).or_default();
        match change {
            Change::Set(value) => *set = value.values().iter().cloned().collect(),
            Change::Delete => set.clear(),
            Change::Add(value) => {
                set.insert(value.clone());
            }
            Change::Remove(value) => {
                set.remove(value);
            }
        }
    }

    pub(crate) fn documents(&self, schema: &Schema) -> Documents {
        let of_documents = self.rows.range((0, i64::MIN)..=(0, i64::MAX));
        of_documents.map(|((_, key), row)| (*key as u32, self.document(schema, *key as u32, row))).collect()
    }

    fn document(&self, schema: &Schema, id: u32, row: &Row) -> Vec<FieldValue> {
        let mut all: Vec<FieldValue> = Vec::new();
        let no_members = BTreeSet::new();
        for (number, field) in schema.fields.iter().enumerate() {
            let values: Vec<Value> = match &field.origin {
                Origin::Key => vec![Value::Int(id.into())],
                Origin::Document { column } => row[*column].iter().cloned().collect(),
                Origin::Lookup { by, path, column } => self.reach(row[*by].as_ref(), path, *column),
                Origin::Members { source } => {
                    self.members.get(&(*source, id)).unwrap_or(&no_members).iter().cloned().collect()
                }
                Origin::Through { members, path, column } => {
                    let members = self.members.get(&(*members, id)).unwrap_or(&no_members);
                    let reached: BTreeSet<_> =
                        members.iter().flat_map(|key| self.reach(Some(key), path, *column)).collect();
                    reached.into_iter().collect()
                }
                Origin::Derived { function, inputs } => {
                    let mut inputs: Vec<_> = inputs.iter().flat_map(|input| all[*input].values().to_vec()).collect();
                    match function {
                        Function::Exists => inputs = vec![Value::Bool(!inputs.is_empty())],
                        Function::Coalesce => inputs.truncate(1),
                        Function::Greatest | Function::Least => {
                            inputs.sort();
                            if *function == Function::Greatest {
                                inputs.reverse();
                            }
                            inputs.truncate(1);
                        }
                    }
                    inputs
                }
                Origin::Metric { source, column, default } => match self.rows.get(&(*source, id.into())) {
                    Some(row) => row[*column].iter().cloned().collect(),
                    None => default.iter().cloned().collect(),
                },
                Origin::External => self.external.get(&(number, id)).unwrap_or(&no_members).iter().cloned().collect(),
            };
            all.push(match (field.many, values.as_slice()) {
                (_, []) => FieldValue::Null,
                (false, [value]) => FieldValue::One(value.clone()),
                (false, values) => panic!("{} has {values:?}", field.name),
                (true, values) => FieldValue::Many(values.into()),
            });
        }
        all
    }

    fn reach(&self, key: Option<&Value>, path: &Path, column: usize) -> Vec<Value> {
        let mut stops = vec![(path.first, None)];
        stops.extend(path.hops.iter().map(|hop| (hop.source, Some(hop.by))));
        let mut row: Option<Row> = None;
        for (source, by) in stops {
            let next = match (by, &row) {
                (None, _) => key.cloned(),
                (Some(by), Some(row)) => row[by].clone(),
                (Some(_), None) => None,
            };
            row = match next {
                Some(Value::Int(key)) => self.rows.get(&(source, key)).cloned(),
                _ => None,
            };
        }
        row.and_then(|row| row[column].clone()).into_iter().collect()
    }
}

/// What a filter means, said without sets or indexes.
pub(crate) fn matches(filter: &Filter, document: &[FieldValue], schema: &Schema, now_us: i64) -> bool {
    let values = |field: &str| schema.field(field).map(|(id, _)| document[id].values().to_vec()).unwrap();
    let value = |field: &str, literal: &Literal| match literal {
        Literal::Now { offset_us } => Value::Int(now_us + offset_us),
        literal => literal.to_value(schema.field(field).unwrap().1.ty, field).unwrap(),
    };
    match filter {
        Filter::And(filters) => filters.iter().all(|filter| matches(filter, document, schema, now_us)),
        Filter::Or(filters) => filters.iter().any(|filter| matches(filter, document, schema, now_us)),
        Filter::Not(filter) => !matches(filter, document, schema, now_us),
        Filter::IsNull { field } => values(field).is_empty(),
        Filter::Named { name } => matches(&schema.named_filter(name).unwrap().filter, document, schema, now_us),
        Filter::Compare { field, comparator, value: literal } => {
            let other = value(field, literal);
            let any = |test: fn(&Value, &Value) -> bool| values(field).iter().any(|value| test(value, &other));
            match comparator {
                Comparator::Eq => any(|a, b| a == b),
                Comparator::Ne => !any(|a, b| a == b),
                Comparator::Lt => any(|a, b| a < b),
                Comparator::Le => any(|a, b| a <= b),
                Comparator::Gt => any(|a, b| a > b),
                Comparator::Ge => any(|a, b| a >= b),
            }
        }
        Filter::In { field, values: literals, negated, all } => {
            let held = values(field);
            let mut tests = literals.iter().map(|literal| held.contains(&value(field, literal)));
            (if *all { tests.all(|test| test) } else { tests.any(|test| test) }) != *negated
        }
    }
}

/// A value for a field or column, from a domain small enough for equal ones to meet.
pub(crate) fn random_value(rng: &mut ChaCha8Rng, ty: FieldType) -> Value {
    match ty {
        FieldType::Int => Value::Int(rng.random_range(-2..10)),
        FieldType::Decimal(_) => Value::Int(rng.random_range(-300..300)),
        FieldType::Float => {
            Value::Float(Float::new([0.0, -0.0, 1.5, -2.5, f64::NAN, f64::INFINITY][rng.random_range(0..6)]))
        }
        FieldType::Bool => Value::Bool(rng.random()),
        FieldType::Timestamp => Value::Int(NOW + rng.random_range(-60..20)),
        FieldType::String => {
            // The last three have the same code.
            let texts = ["", "a", "ab", "b", "B", "é", "same firsZ", "same first", "same firsts"];
            Value::Text(texts[rng.random_range(0..texts.len())].into())
        }
    }
}

fn copied(ty: FieldType, value: &Value) -> Vec<u8> {
    match (ty, value) {
        (FieldType::Timestamp, Value::Int(us)) => (us - 946_684_800_000_000).to_be_bytes().into(),
        (FieldType::Decimal(scale), Value::Int(unscaled)) => {
            // Postgres' numeric: digits of four figures each, here one before the point and one behind it.
            let one = 10_u64.pow(scale.into());
            let whole = u16::try_from(unscaled.unsigned_abs() / one).unwrap();
            let part = unscaled.unsigned_abs() % one * 10_u64.pow(4 - u32::from(scale));
            let sign = if *unscaled < 0 { 0x4000 } else { 0 };
            let numbers = [2, 0, sign, u16::from(scale), whole, u16::try_from(part).unwrap()];
            numbers.into_iter().flat_map(u16::to_be_bytes).collect()
        }
        (_, Value::Int(int)) => int.to_be_bytes().into(),
        (_, Value::Float(float)) => float.get().to_be_bytes().into(),
        (_, Value::Bool(bool)) => vec![u8::from(*bool)],
        (_, Value::Text(text)) => text.as_bytes().into(),
    }
}

/// An op as a row of COPY, where it can be one, with its source.
pub(crate) fn copy_row(schema: &Schema, op: &Op) -> Option<(usize, Vec<u8>)> {
    let key = |key: i64| Some(key.to_be_bytes().to_vec());
    let (source, fields) = match op {
        Op::Upsert { source, key: of, row: Some(row) } if schema.sources[*source].is_postgres() => {
            let columns = schema.sources[*source].columns().iter().zip(row.iter());
            let values = columns.map(|(column, value)| value.as_ref().map(|value| copied(column.ty, value)));
            (*source, std::iter::once(key(*of)).chain(values).collect::<Vec<_>>())
        }
        Op::Member { source, document, value, present: true } => {
            let SourceKind::Members { ty } = schema.sources[*source].kind else { return None };
            (*source, vec![key((*document).into()), Some(copied(ty, value))])
        }
        _ => return None,
    };
    let mut bytes = (fields.len() as i16).to_be_bytes().to_vec();
    for field in fields {
        bytes.extend(field.as_ref().map_or(-1, |field| field.len() as i32).to_be_bytes());
        bytes.extend(field.unwrap_or_default());
    }
    Some((source, bytes))
}

fn random_id(rng: &mut ChaCha8Rng, ids: u32) -> u32 {
    match rng.random_range(0..50) {
        0 => u32::MAX,
        1 => 70_000,
        _ => rng.random_range(0..ids),
    }
}

fn random_change(rng: &mut ChaCha8Rng, schema: &Schema, field: usize) -> Change {
    let field = &schema.fields[field];
    let value = random_value(rng, field.ty);
    match (rng.random_range(0..5), field.many) {
        (0, _) => Change::Delete,
        (1, true) => Change::Remove(value),
        (2 | 3, true) => Change::Add(value),
        (_, true) => Change::Set(FieldValue::many(vec![value, random_value(rng, field.ty)])),
        (_, false) => Change::Set(FieldValue::One(value)),
    }
}

pub(crate) fn random_op(rng: &mut ChaCha8Rng, schema: &Schema, ids: u32) -> Op {
    match rng.random_range(0..100) {
        0 => Op::Truncate { source: rng.random_range(0..schema.sources.len()) },
        1..10 => {
            let field = if rng.random() { RANK } else { LABELS };
            Op::Field { document: random_id(rng, ids), field, change: random_change(rng, schema, field) }
        }
        10..12 => Op::QueryOpSet {
            filter: random_filter(rng, schema, 2, false),
            changes: [RANK, LABELS].map(|field| (field, random_change(rng, schema, field))).to_vec(),
        },
        12 => {
            let ends = [0, 1].map(|_| random_id(rng, ids));
            let (first, last) = (ends[0].min(ends[1]), ends[0].max(ends[1]));
            let mut keys: Vec<_> = (0..30).map(|_| random_id(rng, ids)).collect();
            keys.retain(|key| (first..=last).contains(key));
            keys.sort_unstable();
            keys.dedup();
            Op::Retain { source: [0, 7][rng.random_range(0..2)], first, last, keys: keys.into() }
        }
        _ => {
            // Documents as often as all lookups.
            let id = [0, 0, 0, 1, 2, 3, 4, 5, 6, 7][rng.random_range(0..10)];
            let source = &schema.sources[id];
            if let SourceKind::Members { ty } = source.kind {
                return Op::Member {
                    source: id,
                    document: random_id(rng, ids),
                    value: random_value(rng, ty),
                    present: rng.random_range(0..4) > 0,
                };
            }
            let key = match source.kind {
                SourceKind::Lookup { .. } => rng.random_range(-2..10),
                _ => random_id(rng, ids).into(),
            };
            let present = rng.random_range(0..5) > 0;
            let values = source
                .columns()
                .iter()
                .map(|column| (rng.random_range(0..5) > 0).then(|| random_value(rng, column.ty)));
            Op::Upsert { source: id, key, row: present.then(|| values.collect()) }
        }
    }
}

pub(crate) fn random_filter(rng: &mut ChaCha8Rng, schema: &Schema, depth: u32, relative: bool) -> Filter {
    if depth > 0 && rng.random_range(0..3) > 0 {
        let filters = (0..rng.random_range(0..4)).map(|_| random_filter(rng, schema, depth - 1, relative)).collect();
        return match rng.random_range(0..5) {
            0 | 1 => Filter::And(filters),
            2 | 3 => Filter::Or(filters),
            _ => Filter::Not(Box::new(random_filter(rng, schema, depth - 1, relative))),
        };
    }
    let filterable: Vec<_> = schema.fields.iter().filter(|field| field.filter).collect();
    let field = filterable[rng.random_range(0..filterable.len())];
    let mut literal = || {
        if relative && field.ty == FieldType::Timestamp && rng.random() {
            return Literal::Now { offset_us: rng.random_range(-40..10) };
        }
        let key = matches!(field.origin, Origin::Key).then(|| Value::Int(rng.random_range(-3..400)));
        match (key.unwrap_or_else(|| random_value(rng, field.ty)), field.ty) {
            (Value::Int(unscaled), FieldType::Decimal(scale)) => Literal::Decimal { unscaled, scale: scale.into() },
            (Value::Int(us), FieldType::Timestamp) => Literal::TimestampUs(us),
            (Value::Int(int), _) => Literal::Int(int),
            (Value::Float(float), _) => Literal::Float(float.get()),
            (Value::Bool(bool), _) => Literal::Bool(bool),
            (Value::Text(text), _) => Literal::Text(text.to_string()),
        }
    };
    let (one, some) = (literal(), vec![literal(), literal(), literal()]);
    let some = some[..rng.random_range(0..4)].to_vec();
    let field = field.name.clone();
    let comparator = [Comparator::Eq, Comparator::Ne, Comparator::Lt, Comparator::Le, Comparator::Gt, Comparator::Ge];
    match rng.random_range(0..10) {
        0 => Filter::IsNull { field },
        1..4 => {
            let all = schema.field(&field).is_some_and(|(_, field)| field.many) && rng.random();
            Filter::In { field, values: some, negated: rng.random(), all }
        }
        _ => Filter::Compare { field, comparator: comparator[rng.random_range(0..6)], value: one },
    }
}

/// By field of the layout that is indexed, and the key field: the ids that have a value, and what there is of each: term →
/// ids, or the ids with their codes in the order of the column.
pub(crate) type Indexes = BTreeMap<FieldId, (Vec<u32>, BTreeMap<Value, Vec<u32>>, Vec<(u64, u32)>)>;

/// What the documents say that the indexes hold. Fields of the schema only.
pub(crate) fn expected(documents: &Documents, layout: &Layout) -> Indexes {
    let mut indexes = Indexes::new();
    for (field, (index, _)) in layout.spec().fields.iter().enumerate().take(layout.schema.fields.len()) {
        if *index == Index::None && field != KEY_FIELD {
            continue;
        }
        let (exists, terms, column) = indexes.entry(field).or_default();
        for (id, values) in documents {
            exists.extend((!values[field].is_null()).then_some(*id));
            for value in values[field].values() {
                match index {
                    Index::None => {}
                    Index::Terms => terms.entry(value.clone()).or_default().push(*id),
                    Index::Column => column.push((ValueRef::of(value).code(), *id)),
                }
            }
        }
        column.sort_unstable();
    }
    indexes
}

fn ids(state: &State, field: FieldId, term: Term<'_>) -> Vec<u32> {
    let operand = state.operand(field, term).unwrap();
    let mut buffer = BlockBuffer::default();
    let mut ids = Vec::new();
    for number in operand.blocks() {
        let first = u32::from(number) << 16;
        match operand.block(number, &mut buffer).unwrap() {
            Block::Empty => {}
            Block::Array(array) => ids.extend(array.iter().map(|id| first | u32::from(*id))),
            bits => ids.extend((0..=u16::MAX).filter(|id| bits.contains(*id)).map(|id| first | u32::from(id))),
        }
    }
    ids
}

/// The indexes of a state, hidden fields too.
pub(crate) fn indexes(state: &State) -> Indexes {
    let mut indexes = Indexes::new();
    for (field, (index, _)) in state.layout().spec().fields.iter().enumerate() {
        if *index == Index::None && field != KEY_FIELD {
            continue;
        }
        let (exists, terms, order) = indexes.entry(field).or_default();
        *exists = ids(state, field, Term::Exists);
        if let Some(column) = state.column(field) {
            let mut walk = column.walk(false, None).unwrap();
            while let Some(next) = walk.next().unwrap() {
                assert_eq!(column.get(next.1).unwrap(), Some(next.0));
                order.push(next);
            }
        } else if *index == Index::Terms {
            let all = (Bound::Unbounded, Bound::Unbounded);
            for value in state.terms_within(field, &all, usize::MAX).unwrap() {
                let ids = ids(state, field, Term::Value(ValueRef::of(&value)));
                if !ids.is_empty() {
                    terms.insert(value, ids);
                }
            }
        }
    }
    indexes
}

/// The hash, from nothing but the rows.
pub(crate) fn hash(state: &State) -> u128 {
    let layout = state.layout();
    let places = layout.schema.sources.len() + layout.schema.fields.len();
    let mut hash = 0_u128;
    for place in 0..places as u16 {
        let mut keys = Vec::new();
        state.each_key(place, i64::MIN, i64::MAX, &mut |key| keys.push(key)).unwrap();
        let before = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), before, "a key of place {place} is told twice");
        for key in keys {
            hash = hash.wrapping_add(row_hash(place, key, state.row(place, key).unwrap().unwrap()));
        }
    }
    hash
}

/// Two states say the same, in whatever layers.
pub(crate) fn assert_same(a: &State, b: &State) {
    assert_eq!((a.hash(), a.documents()), (b.hash(), b.documents()));
    assert_eq!(indexes(a), indexes(b));
}

/// A state holds the model's documents, indexes that agree with them, and its counts are right.
pub(crate) fn assert_is(state: &State, model: &Model) {
    let layout = state.layout();
    let documents = model.documents(&layout.schema);
    assert_eq!(state.documents(), documents.len() as u64);
    let fields: Vec<_> = (0..layout.schema.fields.len()).collect();
    for (id, values) in &documents {
        assert_eq!(&state.document_reader(&fields).values(*id).unwrap().unwrap(), values, "document {id}");
    }
    let mut held = indexes(state);
    held.retain(|field, _| *field < fields.len());
    for (field, expected) in expected(&documents, layout) {
        assert_eq!(held[&field], expected, "{}", layout.schema.fields[field].name);
    }
    assert_eq!(state.hash(), hash(state));
}
