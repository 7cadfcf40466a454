//! Keeps the last op for each target of a batch.
//!
//! Guarantee: applying the answer to any state, also to one that contains a part of the batch already, gives the state
//! that applying all of the batch gives. The last op of a target always stays: nothing cancels to nothing.
//!
//! Targets are a source's row, a (document, member value), and a (document, external field); of a set field each value
//! is one, until a `Set` or `Delete` of the whole field. A truncate takes every earlier op of its source with it, a
//! retain the earlier upserts of the keys that it removes; it stays itself, between what came before and after it. A
//! query op reads the whole state, so ops before it and after it are never merged. Two query ops in direct succession
//! with the same filter become one where the filter reads none of the fields that they change.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use super::{Change, Op};
use crate::{
    query::Filter,
    schema::{FieldId, Schema, SourceId},
    value::Value,
};

/// See the module's documentation. The order of what stays is kept.
pub fn dedup(ops: Vec<Op>, schema: &Schema) -> Vec<Op> {
    let mut kept: Vec<Op> = Vec::with_capacity(ops.len());
    let mut seen = Seen::default();
    // From the back, so that the last op of a target is the first one met.
    for op in ops.into_iter().rev() {
        match op {
            Op::QueryOpSet { filter, changes } => {
                seen = Seen::default();
                match kept.last_mut() {
                    Some(Op::QueryOpSet { filter: next, changes: later })
                        if *next == filter && !reads(&filter, &[&changes, later], schema) =>
                    {
                        let changes = changes.into_iter().chain(std::mem::take(later)).collect();
                        *later = last_changes(changes);
                    }
                    _ => kept.push(Op::QueryOpSet { filter, changes: last_changes(changes) }),
                }
            }
            op => {
                if seen.is_last(&op) {
                    kept.push(op);
                }
            }
        }
    }
    kept.reverse();
    kept
}

/// What the ops behind the current one settle.
#[derive(Default)]
struct Seen {
    truncated: HashSet<SourceId>,
    rows: HashSet<(SourceId, i64)>,
    retained: HashMap<SourceId, Vec<Retained>>,
    members: HashSet<(SourceId, u32, Value)>,
    fields: SeenFields<u32>,
}

impl Seen {
    /// Whether no later op settles what `op` sets.
    fn is_last(&mut self, op: &Op) -> bool {
        match op {
            Op::Truncate { source } => self.truncated.insert(*source),
            Op::Upsert { source, key, .. } => {
                !self.truncated.contains(source)
                    && !self.retained.get(source).is_some_and(|all| all.iter().any(|retained| retained.removes(*key)))
                    && self.rows.insert((*source, *key))
            }
            Op::Retain { source, first, last, keys } => {
                let stays = !self.truncated.contains(source);
                if stays {
                    let retained = Retained { first: *first, last: *last, keys: Arc::clone(keys) };
                    self.retained.entry(*source).or_default().push(retained);
                }
                stays
            }
            Op::Member { source, document, value, .. } => {
                !self.truncated.contains(source) && self.members.insert((*source, *document, value.clone()))
            }
            Op::Field { document, field, change } => self.fields.is_last(*document, *field, change),
            Op::QueryOpSet { .. } => true,
        }
    }
}

struct Retained {
    first: u32,
    last: u32,
    keys: Arc<[u32]>,
}

impl Retained {
    fn removes(&self, key: i64) -> bool {
        u32::try_from(key)
            .is_ok_and(|key| (self.first..=self.last).contains(&key) && self.keys.binary_search(&key).is_err())
    }
}

/// Later changes of external fields, by document or whatever else owns the fields.
struct SeenFields<K> {
    whole: HashSet<(K, FieldId)>,
    values: HashSet<(K, FieldId, Value)>,
}

impl<K> Default for SeenFields<K> {
    fn default() -> Self {
        Self { whole: HashSet::new(), values: HashSet::new() }
    }
}

impl<K: Copy + Eq + std::hash::Hash> SeenFields<K> {
    fn is_last(&mut self, owner: K, field: FieldId, change: &Change) -> bool {
        match change {
            Change::Set(_) | Change::Delete => self.whole.insert((owner, field)),
            Change::Add(value) | Change::Remove(value) => {
                !self.whole.contains(&(owner, field)) && self.values.insert((owner, field, value.clone()))
            }
        }
    }
}

/// The last change of each field, or of each value since the whole field was last set.
fn last_changes(changes: Vec<(FieldId, Change)>) -> Vec<(FieldId, Change)> {
    let mut seen = SeenFields::default();
    let mut kept: Vec<_> =
        changes.into_iter().rev().filter(|(field, change)| seen.is_last((), *field, change)).collect();
    kept.reverse();
    kept
}

/// Whether the filter's answer can depend on a field that one of the changes sets. Other fields of the index do not
/// follow external ones.
fn reads(filter: &Filter, changes: &[&Vec<(FieldId, Change)>], schema: &Schema) -> bool {
    match filter {
        Filter::And(filters) | Filter::Or(filters) => filters.iter().any(|filter| reads(filter, changes, schema)),
        Filter::Not(filter) => reads(filter, changes, schema),
        Filter::Compare { field, .. } | Filter::In { field, .. } | Filter::IsNull { field } => {
            changes.iter().copied().flatten().any(|(id, _)| schema.fields[*id].name == *field)
        }
        // No op has one; were there one, it may read any field.
        Filter::Named { .. } => true,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::{
        definition::Definition,
        ops::Row,
        query::Comparator,
        value::{FieldValue, Literal},
    };

    const DEFINITION: &str = "
index: a
document: { table: t, key: id }
fields:
  x: { type: int, filter: true }
members:
  m: { table: u, key: id, value: v, type: int, filter: true }
external:
  one: { type: int, filter: true }
  set: { type: int, many: true, filter: true }
";
    const MEMBERS: SourceId = 1;
    const X: FieldId = 1;
    const M: FieldId = 2;
    const ONE: FieldId = 3;
    const SET: FieldId = 4;

    fn schema() -> std::sync::Arc<Schema> {
        Definition::parse(DEFINITION).unwrap().schema().clone()
    }

    /// The simplest state that ops can be applied to.
    #[derive(Debug, Clone, Default, PartialEq)]
    struct Model {
        rows: BTreeMap<i64, Row>,
        members: BTreeSet<(u32, i64)>,
        one: BTreeMap<u32, Value>,
        set: BTreeSet<(u32, i64)>,
    }

    impl Model {
        fn apply(&mut self, op: &Op) {
            match op {
                Op::Upsert { key, row: Some(row), .. } => drop(self.rows.insert(*key, row.clone())),
                Op::Upsert { key, row: None, .. } => drop(self.rows.remove(key)),
                Op::Member { document, value, present, .. } => {
                    let pair = (*document, int(value));
                    if *present {
                        self.members.insert(pair)
                    } else {
                        self.members.remove(&pair)
                    };
                }
                Op::Truncate { source: MEMBERS } => self.members.clear(),
                Op::Truncate { .. } => self.rows.clear(),
                Op::Retain { first, last, keys, .. } => self.rows.retain(|key, _| {
                    let within = (i64::from(*first)..=i64::from(*last)).contains(key);
                    !within || keys.iter().any(|kept| i64::from(*kept) == *key)
                }),
                Op::Field { document, field, change } => self.change(*document, *field, change),
                Op::QueryOpSet { filter, changes } => {
                    let documents: Vec<u32> = self
                        .rows
                        .keys()
                        .map(|key| *key as u32)
                        .filter(|document| self.matches(*document, filter))
                        .collect();
                    for document in documents {
                        for (field, change) in changes {
                            self.change(document, *field, change);
                        }
                    }
                }
            }
        }

        fn change(&mut self, document: u32, field: FieldId, change: &Change) {
            match (field, change) {
                (ONE, Change::Set(FieldValue::One(value))) => drop(self.one.insert(document, value.clone())),
                (ONE, _) => drop(self.one.remove(&document)),
                (_, Change::Add(value)) => drop(self.set.insert((document, int(value)))),
                (_, Change::Remove(value)) => drop(self.set.remove(&(document, int(value)))),
                (_, Change::Delete) => self.set.retain(|(other, _)| *other != document),
                (_, Change::Set(values)) => {
                    self.set.retain(|(other, _)| *other != document);
                    self.set.extend(values.values().iter().map(|value| (document, int(value))));
                }
            }
        }

        fn matches(&self, document: u32, filter: &Filter) -> bool {
            let Filter::Compare { field, value: Literal::Int(wanted), .. } = filter else { return true };
            match field.as_str() {
                "x" => self.rows[&i64::from(document)][0] == Some(Value::Int(*wanted)),
                "m" => self.members.contains(&(document, *wanted)),
                "one" => self.one.get(&document) == Some(&Value::Int(*wanted)),
                _ => self.set.contains(&(document, *wanted)),
            }
        }

        fn all(mut self, ops: &[Op]) -> Self {
            ops.iter().for_each(|op| self.apply(op));
            self
        }
    }

    fn int(value: &Value) -> i64 {
        match value {
            Value::Int(int) => *int,
            other => panic!("{other:?} is no int"),
        }
    }

    fn change() -> impl Strategy<Value = (FieldId, Change)> {
        let value = || (0_i64..3).prop_map(Value::Int);
        prop_oneof![
            value().prop_map(|value| (ONE, Change::Set(FieldValue::One(value)))),
            Just((ONE, Change::Set(FieldValue::Null))),
            Just((ONE, Change::Delete)),
            value().prop_map(|value| (SET, Change::Add(value))),
            value().prop_map(|value| (SET, Change::Remove(value))),
            prop::collection::vec(value(), 0..3).prop_map(|values| (SET, Change::Set(FieldValue::many(values)))),
            Just((SET, Change::Delete)),
        ]
    }

    fn op() -> impl Strategy<Value = Op> {
        let filter =
            (prop::sample::select(vec![X, M, ONE, SET]), 0_i64..2).prop_map(|(field, value)| Filter::Compare {
                field: schema().fields[field].name.clone(),
                comparator: Comparator::Eq,
                value: Literal::Int(value),
            });
        prop_oneof![
            4 => (0_i64..4, prop::option::of(0_i64..3)).prop_map(|(key, value)| Op::Upsert {
                source: 0,
                key,
                row: value.map(|value| [Some(Value::Int(value))].into()),
            }),
            4 => (0_u32..4, 0_i64..3, any::<bool>()).prop_map(|(document, value, present)| Op::Member {
                source: MEMBERS,
                document,
                value: Value::Int(value),
                present,
            }),
            1 => (0_usize..2).prop_map(|source| Op::Truncate { source }),
            2 => (0_u32..4, 0_u32..4, prop::collection::vec(any::<bool>(), 4)).prop_map(|(a, b, kept)| {
                let (first, last) = (a.min(b), a.max(b));
                let keys = (first..=last).filter(|key| kept[*key as usize]).collect();
                Op::Retain { source: 0, first, last, keys }
            }),
            6 => (0_u32..4, change()).prop_map(|(document, (field, change))| Op::Field { document, field, change }),
            4 => (filter, prop::collection::vec(change(), 0..4))
                .prop_map(|(filter, changes)| Op::QueryOpSet { filter, changes }),
        ]
    }

    fn ops(length: usize) -> impl Strategy<Value = Vec<Op>> {
        prop::collection::vec(op(), 0..length)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_same_state_from_any_prior_state(before in ops(20), batch in ops(40), applied in 0_usize..40) {
            let prior = Model::default().all(&before);
            let fewer = dedup(batch.clone(), &schema());
            prop_assert!(fewer.len() <= batch.len());
            prop_assert_eq!(prior.clone().all(&fewer), prior.clone().all(&batch), "{:#?}", fewer);
            // A state that contains a part of the batch already.
            let part = prior.all(&batch[..applied.min(batch.len())]);
            prop_assert_eq!(part.clone().all(&fewer), part.all(&batch), "{:#?}", fewer);
            prop_assert_eq!(dedup(fewer.clone(), &schema()), fewer);
        }
    }

    fn add(value: i64) -> (FieldId, Change) {
        (SET, Change::Add(Value::Int(value)))
    }

    fn query(field: &str, changes: Vec<(FieldId, Change)>) -> Op {
        Op::QueryOpSet { filter: Filter::eq(field, Literal::Int(1)), changes }
    }

    #[test]
    fn the_last_op_of_a_target_always_stays() {
        let member = |present| Op::Member { source: MEMBERS, document: 1, value: Value::Int(1), present };
        let upsert = |value| Op::Upsert { source: 0, key: 1, row: Some([Some(Value::Int(value))].into()) };
        let gone = Op::Upsert { source: 0, key: 1, row: None };
        let truncate = Op::Truncate { source: MEMBERS };
        let retain = |keys: &[u32]| Op::Retain { source: 0, first: 0, last: 9, keys: keys.into() };
        for (batch, expected) in [
            (vec![member(true), member(false)], vec![member(false)]),
            (vec![upsert(1), upsert(2), gone.clone()], vec![gone.clone()]),
            (vec![member(true), upsert(1), truncate.clone()], vec![upsert(1), truncate.clone()]),
            (vec![truncate.clone(), truncate.clone(), member(true)], vec![truncate.clone(), member(true)]),
            (vec![upsert(1), retain(&[]), upsert(2)], vec![retain(&[]), upsert(2)]),
            (vec![upsert(1), upsert(2), retain(&[1])], vec![upsert(2), retain(&[1])]),
            (vec![upsert(1), retain(&[0, 2])], vec![retain(&[0, 2])]),
            (vec![retain(&[1]), Op::Truncate { source: 0 }], vec![Op::Truncate { source: 0 }]),
        ] {
            assert_eq!(dedup(batch, &schema()), expected);
        }
    }

    #[test]
    fn query_ops_are_barriers_and_merge_only_where_that_is_safe() {
        let schema = schema();
        let field =
            |value| Op::Field { document: 1, field: ONE, change: Change::Set(FieldValue::One(Value::Int(value))) };
        let barrier = vec![field(1), query("x", vec![add(1)]), field(2)];
        assert_eq!(dedup(barrier.clone(), &schema), barrier);
        // The same filter twice in a row: one op with both changes, and no less.
        assert_eq!(
            dedup(vec![query("x", vec![add(1)]), query("x", vec![add(2)]), query("x", vec![add(1)])], &schema),
            [query("x", vec![add(2), add(1)])]
        );
        for apart in [
            vec![query("x", vec![add(1)]), query("m", vec![add(2)])],
            vec![query("x", vec![add(1)]), field(1), query("x", vec![add(2)])],
            // The first changes what the second asks for.
            vec![query("set", vec![add(1)]), query("set", vec![add(2)])],
        ] {
            assert_eq!(dedup(apart.clone(), &schema), apart);
        }
    }
}
