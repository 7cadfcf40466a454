//! A naive index in plain maps that are cheap to clone, so that a test keeps one for each batch it sent; and random ops.

use std::{collections::BTreeSet, sync::Arc};

use bitdex_proto::{
    definition::Definition,
    ops::{Change, Op},
    query::{Comparator, Filter},
    schema::{DOCUMENT_SOURCE, FieldId, Function, Origin, Path, Schema, SourceId, SourceKind},
    value::{FieldType, FieldValue, Literal, Value},
};
use imbl::OrdMap;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

pub(crate) const DEFINITION: &str = include_str!("things.yaml");

pub(crate) fn schema() -> Arc<Schema> {
    Arc::clone(Definition::parse(DEFINITION).unwrap().schema())
}

type Row = Arc<[Option<Value>]>;
type Set = Arc<BTreeSet<Value>>;

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) schema: Arc<Schema>,
    rows: OrdMap<(SourceId, i64), Row>,
    members: OrdMap<(SourceId, u32), Set>,
    external: OrdMap<(FieldId, u32), Set>,
}

impl Model {
    pub(crate) fn new() -> Self {
        Self { schema: schema(), rows: OrdMap::new(), members: OrdMap::new(), external: OrdMap::new() }
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::Upsert { source, key, row: Some(row) } => {
                self.rows.insert((*source, *key), Arc::clone(row));
            }
            Op::Upsert { source, key, row: None } => {
                self.rows.remove(&(*source, *key));
            }
            Op::Member { source, document, value, present } => {
                change_set(&mut self.members, (*source, *document), |set| {
                    if *present {
                        set.insert(value.clone());
                    } else {
                        set.remove(value);
                    }
                });
            }
            Op::Truncate { source } => {
                self.rows = self.rows.iter().filter(|((of, _), _)| of != source).map(owned).collect();
                self.members = self.members.iter().filter(|((of, _), _)| of != source).map(owned).collect();
            }
            Op::Retain { source, first, last, keys } => {
                let kept = |(of, key): &(SourceId, i64)| {
                    let within = i64::from(*first) <= *key && *key <= i64::from(*last);
                    of != source || !within || keys.iter().any(|kept| i64::from(*kept) == *key)
                };
                self.rows = self.rows.iter().filter(|(key, _)| kept(key)).map(owned).collect();
            }
            Op::Field { document, field, change } => self.change(*document, *field, change),
            Op::QueryOpSet { filter, changes } => {
                for id in self.matching(filter) {
                    changes.iter().for_each(|(field, change)| self.change(id, *field, change));
                }
            }
        }
    }

    fn change(&mut self, document: u32, field: FieldId, change: &Change) {
        change_set(&mut self.external, (field, document), |set| match change {
            Change::Set(value) => *set = value.values().iter().cloned().collect(),
            Change::Delete => set.clear(),
            Change::Add(value) => {
                set.insert(value.clone());
            }
            Change::Remove(value) => {
                set.remove(value);
            }
        });
    }

    /// What the next generation keeps of this one: metrics and external fields.
    pub(crate) fn kept_by_a_load(&self) -> Self {
        let metrics = |source: SourceId| matches!(self.schema.sources[source].kind, SourceKind::Metrics { .. });
        Self {
            rows: self.rows.iter().filter(|((source, _), _)| metrics(*source)).map(owned).collect(),
            members: OrdMap::new(),
            ..self.clone()
        }
    }

    /// Rows of a source of rows, by key.
    pub(crate) fn rows_of(&self, source: SourceId) -> impl Iterator<Item = (i64, &Row)> {
        self.rows.range((source, i64::MIN)..=(source, i64::MAX)).map(|((_, key), row)| (*key, row))
    }

    /// Pairs of a source of members, by document.
    pub(crate) fn members_of(&self, source: SourceId) -> impl Iterator<Item = (u32, &Value)> {
        let sets = self.members.range((source, 0)..=(source, u32::MAX));
        sets.flat_map(|((_, document), set)| set.iter().map(|value| (*document, value)))
    }

    /// Ids of all documents, ascending.
    pub(crate) fn ids(&self) -> impl Iterator<Item = u32> {
        self.rows_of(DOCUMENT_SOURCE).map(|(key, _)| u32::try_from(key).unwrap())
    }

    pub(crate) fn has(&self, id: u32) -> bool {
        self.rows.contains_key(&(DOCUMENT_SOURCE, id.into()))
    }

    /// The field's value of a document that is present.
    pub(crate) fn value(&self, id: u32, field: FieldId) -> FieldValue {
        let spec = &self.schema.fields[field];
        let row = &self.rows[&(DOCUMENT_SOURCE, i64::from(id))];
        let set = |set: Option<&Set>| set.map(|set| set.iter().cloned().collect()).unwrap_or_default();
        let mut values: Vec<Value> = match &spec.origin {
            Origin::Key => vec![Value::Int(id.into())],
            Origin::Document { column } => row[*column].iter().cloned().collect(),
            Origin::Lookup { by, path, column } => self.reach(row[*by].as_ref(), path, *column).into_iter().collect(),
            Origin::Members { source } => set(self.members.get(&(*source, id))),
            Origin::Through { members, path, column } => {
                let members: Vec<Value> = set(self.members.get(&(*members, id)));
                members.iter().filter_map(|key| self.reach(Some(key), path, *column)).collect()
            }
            Origin::Derived { function, inputs } => {
                let inputs = inputs.iter().flat_map(|input| self.value(id, *input).values().to_vec());
                match function {
                    Function::Exists => vec![Value::Bool(inputs.count() > 0)],
                    Function::Coalesce => inputs.take(1).collect(),
                    Function::Greatest => inputs.max().into_iter().collect(),
                    Function::Least => inputs.min().into_iter().collect(),
                }
            }
            Origin::Metric { source, column, default } => match self.rows.get(&(*source, i64::from(id))) {
                Some(row) => row[*column].iter().cloned().collect(),
                None => default.iter().cloned().collect(),
            },
            Origin::External => set(self.external.get(&(field, id))),
        };
        if spec.many { FieldValue::many(values) } else { FieldValue::one(values.pop()) }
    }

    fn reach(&self, key: Option<&Value>, path: &Path, column: usize) -> Option<Value> {
        let row = |source: SourceId, key: Option<&Value>| match key {
            Some(Value::Int(key)) => self.rows.get(&(source, *key)),
            _ => None,
        };
        let mut at = row(path.first, key)?;
        for hop in &path.hops {
            at = row(hop.source, at[hop.by].as_ref())?;
        }
        at[column].clone()
    }

    pub(crate) fn matches(&self, id: u32, filter: &Filter) -> bool {
        let field = |name: &str| self.schema.field(name).unwrap();
        match filter {
            Filter::And(filters) => filters.iter().all(|filter| self.matches(id, filter)),
            Filter::Or(filters) => filters.iter().any(|filter| self.matches(id, filter)),
            Filter::Not(filter) => !self.matches(id, filter),
            Filter::Named { name } => self.matches(id, &self.schema.named_filter(name).unwrap().filter),
            Filter::IsNull { field: name } => self.value(id, field(name).0).is_null(),
            Filter::Compare { field: name, comparator, value } => {
                let (field, spec) = field(name);
                let other = value.to_value(spec.ty, name).unwrap();
                let held = self.value(id, field);
                let any = |test: fn(&Value, &Value) -> bool| held.values().iter().any(|value| test(value, &other));
                match comparator {
                    Comparator::Eq => any(|a, b| a == b),
                    Comparator::Ne => !any(|a, b| a == b),
                    Comparator::Lt => any(|a, b| a < b),
                    Comparator::Le => any(|a, b| a <= b),
                    Comparator::Gt => any(|a, b| a > b),
                    Comparator::Ge => any(|a, b| a >= b),
                }
            }
            Filter::In { field: name, values, negated, all } => {
                let (field, spec) = field(name);
                let held = self.value(id, field);
                let mut tests =
                    values.iter().map(|value| held.values().contains(&value.to_value(spec.ty, name).unwrap()));
                (if *all { tests.all(|test| test) } else { tests.any(|test| test) }) != *negated
            }
        }
    }

    /// Ids of all matches, ascending.
    pub(crate) fn matching(&self, filter: &Filter) -> Vec<u32> {
        self.ids().filter(|id| self.matches(*id, filter)).collect()
    }

    /// Ids of all matches in the order of one field: nulls last, ties by id in the same direction.
    pub(crate) fn search(&self, filter: &Filter, sort: &str, descending: bool) -> Vec<u32> {
        let field = self.schema.field(sort).unwrap().0;
        let mut keyed: Vec<(Option<Value>, u32)> =
            self.matching(filter).into_iter().map(|id| (self.value(id, field).values().first().cloned(), id)).collect();
        keyed.sort_by(|(a, a_id), (b, b_id)| {
            let nulls = a.is_none().cmp(&b.is_none());
            let values = (a, a_id).cmp(&(b, b_id));
            nulls.then(if descending { values.reverse() } else { values })
        });
        keyed.into_iter().map(|(_, id)| id).collect()
    }
}

fn owned<K: Clone, V: Clone>((key, value): (&K, &V)) -> (K, V) {
    (key.clone(), value.clone())
}

fn change_set<K: Ord + Clone>(sets: &mut OrdMap<K, Set>, key: K, change: impl FnOnce(&mut BTreeSet<Value>)) {
    let mut set = sets.remove(&key).unwrap_or_default();
    change(Arc::make_mut(&mut set));
    if !set.is_empty() {
        sets.insert(key, set);
    }
}

/// The document that says in its field `level` which batch an answer has seen; random ops leave its row alone.
pub(crate) const MARKER: u32 = 0;

/// Sets the marker: the batch `n` has been applied.
pub(crate) fn mark(n: u64) -> Op {
    let level = Value::Int(i64::try_from(n).unwrap());
    Op::Upsert { source: DOCUMENT_SOURCE, key: MARKER.into(), row: Some([Some(level), None, None, None, None].into()) }
}

/// Random ops over a number of documents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Random {
    /// Documents that may exist, beside the marker.
    pub(crate) documents: u32,
    pub(crate) posts: i64,
    /// Whether sources may be emptied, and ranges of rows dropped.
    pub(crate) upheaval: bool,
}

impl Random {
    /// The n-th id, from 1: in four blocks, far from each other.
    pub(crate) fn id(n: u32) -> u32 {
        match n % 4 {
            0 => n,
            1 => (1 << 16) + n,
            2 => (1 << 20) + n,
            _ => u32::MAX - n,
        }
    }

    pub(crate) fn ids(self) -> impl Iterator<Item = u32> {
        (1..=self.documents).map(Self::id)
    }

    pub(crate) fn any_id(self, rng: &mut ChaCha8Rng) -> u32 {
        Self::id(rng.random_range(1..=self.documents))
    }

    fn value(self, rng: &mut ChaCha8Rng, column: &str, ty: FieldType) -> Option<Value> {
        if rng.random_range(0..8) == 0 {
            return None;
        }
        Some(match (column, ty) {
            ("postId", _) => Value::Int(rng.random_range(1..=self.posts)),
            ("modelId", _) => Value::Int(rng.random_range(0..6)),
            ("madeAt", _) => Value::Int(1_700_000_000_000_000 + rng.random_range(0..5_000) * 1_000_000),
            (_, FieldType::Int) => Value::Int(rng.random_range(-3..300)),
            (_, FieldType::Bool) => Value::Bool(rng.random()),
            _ => Value::Text(["a", "ab", "abcdefgh", "abcdefghi", "b", "é", ""][rng.random_range(0..7)].into()),
        })
    }

    pub(crate) fn row(self, rng: &mut ChaCha8Rng, schema: &Schema, source: SourceId) -> Row {
        let columns = schema.sources[source].columns();
        columns.iter().map(|column| self.value(rng, &column.name, column.ty)).collect()
    }

    pub(crate) fn key(self, rng: &mut ChaCha8Rng, schema: &Schema, source: SourceId) -> i64 {
        match (&schema.sources[source].kind, schema.sources[source].name.as_str()) {
            (SourceKind::Lookup { .. }, "post") => rng.random_range(1..=self.posts),
            (SourceKind::Lookup { .. }, _) => rng.random_range(0..10),
            _ => self.any_id(rng).into(),
        }
    }

    pub(crate) fn op(self, rng: &mut ChaCha8Rng, schema: &Schema) -> Op {
        let field = |name: &str| schema.field(name).unwrap().0;
        let label = |rng: &mut ChaCha8Rng| Value::Text(format!("label {}", rng.random_range(0..5)).into());
        let step = |rng: &mut ChaCha8Rng| rng.random_range(0..4_i64);
        match rng.random_range(0..1_000) {
            0 if self.upheaval && rng.random_range(0..5) == 0 => {
                // Not the documents, among which the marker is.
                Op::Truncate { source: rng.random_range(1..schema.sources.len()) }
            }
            1..4 if self.upheaval => {
                let (a, b) = (self.any_id(rng), self.any_id(rng));
                let (first, last) = (a.min(b), a.max(b));
                let mut keys: Vec<u32> = (0..10).map(|_| self.any_id(rng)).collect();
                keys.retain(|key| (first..=last).contains(key));
                keys.sort_unstable();
                keys.dedup();
                Op::Retain { source: schema.source("events").unwrap().0, first, last, keys: keys.into() }
            }
            // A turn of a wheel: a batch that is applied twice turns it too far.
            4..12 => {
                let (from, to) = (step(rng), step(rng));
                let filter = Filter::eq("step", Literal::Int(from));
                Op::QueryOpSet { filter, changes: vec![(field("step"), Change::Set(FieldValue::One(Value::Int(to))))] }
            }
            12..20 => {
                let filter = Filter::eq("labels", Literal::Text(format!("label {}", rng.random_range(0..5))));
                let change = if rng.random() { Change::Add(label(rng)) } else { Change::Remove(label(rng)) };
                Op::QueryOpSet { filter, changes: vec![(field("labels"), change)] }
            }
            20..120 => {
                let change = Change::Set(FieldValue::One(Value::Int(step(rng))));
                let change = if rng.random_range(0..5) == 0 { Change::Delete } else { change };
                Op::Field { document: self.any_id(rng), field: field("step"), change }
            }
            120..220 => {
                let change = match rng.random_range(0..6) {
                    0 => Change::Delete,
                    1 => Change::Set(FieldValue::many(vec![label(rng), label(rng)])),
                    2 => Change::Remove(label(rng)),
                    _ => Change::Add(label(rng)),
                };
                Op::Field { document: self.any_id(rng), field: field("labels"), change }
            }
            220..620 => {
                let rows = schema.sources.iter().enumerate().filter(|(_, source)| !source.columns().is_empty());
                let rows: Vec<SourceId> = rows.map(|(id, _)| id).collect();
                let source = if rng.random() { DOCUMENT_SOURCE } else { rows[rng.random_range(0..rows.len())] };
                let row = (rng.random_range(0..6) > 0).then(|| self.row(rng, schema, source));
                Op::Upsert { source, key: self.key(rng, schema, source), row }
            }
            _ => {
                let source = schema.source(if rng.random() { "tags" } else { "versionIds" }).unwrap().0;
                let value = Value::Int(rng.random_range(0..10));
                Op::Member { source, document: self.any_id(rng), value, present: rng.random_range(0..4) > 0 }
            }
        }
    }

    /// A search's filter.
    pub(crate) fn filter(self, rng: &mut ChaCha8Rng, depth: u32) -> Filter {
        if depth > 0 && rng.random() {
            let filters = (0..rng.random_range(1..4)).map(|_| self.filter(rng, depth - 1)).collect();
            return match rng.random_range(0..5) {
                0..3 => Filter::And(filters),
                3 => Filter::Or(filters),
                _ => Filter::Not(Box::new(Filter::Or(filters))),
            };
        }
        let text = |rng: &mut ChaCha8Rng| Literal::Text(["a", "ab", "abcdefghi", "b"][rng.random_range(0..4)].into());
        let least = |field: &str, value| Filter::Compare { field: field.into(), comparator: Comparator::Ge, value };
        match rng.random_range(0..13) {
            0 => least("level", Literal::Int(rng.random_range(0..300))),
            1 => Filter::eq("kind", text(rng)),
            2 => Filter::any_of("postId", (0..3).map(|_| Literal::Int(rng.random_range(1..=self.posts))).collect()),
            3 => least("rank", Literal::Int(rng.random_range(0..300))),
            4 => Filter::eq("state", text(rng)),
            5 => Filter::any_of("tags", (0..2).map(|_| Literal::Int(rng.random_range(0..10))).collect()),
            6 => Filter::eq("bases", text(rng)),
            7 => Filter::eq("resourcePoi", Literal::Bool(rng.random())),
            8 => least("best", Literal::Int(rng.random_range(0..300))),
            9 => Filter::eq("hasPost", Literal::Bool(rng.random())),
            10 => least("clicks", Literal::Int(rng.random_range(0..100))),
            11 => Filter::eq("labels", Literal::Text(format!("label {}", rng.random_range(0..5)))),
            _ => Filter::IsNull { field: "step".into() },
        }
    }
}
