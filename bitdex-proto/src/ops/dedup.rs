//! Keeps the last op for each target of a batch.
//!
//! Guarantee: applying the answer to any state, also to one that contains a part of the batch already, gives the state
//! that applying all of the batch gives. The last op of a target always stays: nothing cancels to nothing.
//!
//! Targets are a source's row, a (document, member value), and a (document, external field); of a set field each value
//! is one, until a `Set` or `Delete` of the whole field. A truncate takes every earlier op of its source with it. A
//! query op reads the whole state, so ops before it and after it are never merged. Two query ops in direct succession
//! with the same filter become one where the filter reads none of the fields that they change.

use std::collections::HashSet;

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
    members: HashSet<(SourceId, u32, Value)>,
    fields: SeenFields<u32>,
}

impl Seen {
    /// Whether no later op settles what `op` sets.
    fn is_last(&mut self, op: &Op) -> bool {
        match op {
            Op::Truncate { source } => self.truncated.insert(*source),
            Op::Upsert { source, key, .. } => !self.truncated.contains(source) && self.rows.insert((*source, *key)),
            Op::Member { source, document, value, .. } => {
                !self.truncated.contains(source) && self.members.insert((*source, *document, value.clone()))
            }
            Op::Field { document, field, change } => self.fields.is_last(*document, *field, change),
            Op::QueryOpSet { .. } => true,
        }
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
    let mut kept: Vec<_> = changes.into_iter().rev().filter(|(field, change)| seen.is_last((), *field, change)).collect();
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
    }
}
