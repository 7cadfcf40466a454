//! Source rows as they arrived: documents, lookups, members, metrics and external values, each on its own, whether or
//! not the document is there. Their hash is kept in step.

use std::{collections::BTreeMap, sync::Arc};

use bitdex_proto::{
    ops::{Change, Row},
    schema::{FieldId, SourceId},
    value::{FieldValue, Value},
};
use imbl::{OrdMap, OrdSet};

use super::{
    encode::{Kind, digest, put_field, put_optional, put_values},
    layout::Layout,
};

/// Sorted, without duplicates, never empty.
pub(crate) type MemberSet = Arc<[Value]>;

#[derive(Debug, Clone)]
pub(crate) struct Rows {
    /// By source; of row sources.
    pub(crate) rows: Vec<OrdMap<i64, Row>>,
    /// By source; of member sources.
    pub(crate) members: Vec<OrdMap<u32, MemberSet>>,
    /// By field; of external fields. Never null.
    pub(crate) external: Vec<OrdMap<u32, FieldValue>>,
    /// By hop of the layout: (value of the column, key of the row).
    back: Vec<OrdSet<(i64, i64)>>,
    /// By source.
    source_hashes: Vec<u128>,
    external_hash: u128,
}

fn row_hash(source: SourceId, key: i64, row: &Row) -> u128 {
    digest(Kind::Row, source, key, |out| row.iter().for_each(|value| put_optional(out, value.as_ref())))
}

fn members_hash(source: SourceId, document: u32, values: &MemberSet) -> u128 {
    digest(Kind::Members, source, document.into(), |out| put_values(out, values))
}

fn external_hash(field: FieldId, document: u32, value: &FieldValue) -> u128 {
    digest(Kind::External, field, document.into(), |out| put_field(out, value))
}

impl Rows {
    pub(crate) fn new(layout: &Layout) -> Self {
        let sources = layout.schema.sources.len();
        Self {
            rows: vec![OrdMap::new(); sources],
            members: vec![OrdMap::new(); sources],
            external: vec![OrdMap::new(); layout.schema.fields.len()],
            back: vec![OrdSet::new(); layout.hops.len()],
            source_hashes: vec![0; sources],
            external_hash: 0,
        }
    }

    pub(crate) fn hash(&self) -> u128 {
        self.source_hashes.iter().fold(self.external_hash, |sum, hash| sum.wrapping_add(*hash))
    }

    /// The hash, from nothing but the rows.
    #[cfg(test)]
    pub(crate) fn recompute_hash(&self) -> u128 {
        let mut sum = 0_u128;
        for (source, rows) in self.rows.iter().enumerate() {
            sum = rows.iter().fold(sum, |sum, (key, row)| sum.wrapping_add(row_hash(source, *key, row)));
        }
        for (source, members) in self.members.iter().enumerate() {
            sum = members.iter().fold(sum, |sum, (id, values)| sum.wrapping_add(members_hash(source, *id, values)));
        }
        for (field, values) in self.external.iter().enumerate() {
            sum = values.iter().fold(sum, |sum, (id, value)| sum.wrapping_add(external_hash(field, *id, value)));
        }
        sum
    }

    /// Replaces the row of a key; tells whether that changed anything.
    pub(crate) fn set_row(&mut self, layout: &Layout, source: SourceId, key: i64, row: Option<&Row>) -> bool {
        let old = match row {
            Some(row) => self.rows[source].insert(key, row.clone()),
            None => self.rows[source].remove(&key),
        };
        if old.as_ref() == row {
            return false;
        }
        let hash = &mut self.source_hashes[source];
        if let Some(old) = &old {
            *hash = hash.wrapping_sub(row_hash(source, key, old));
        }
        if let Some(row) = row {
            *hash = hash.wrapping_add(row_hash(source, key, row));
        }
        for (back, (_, column)) in self.back.iter_mut().zip(&layout.hops).filter(|(_, hop)| hop.0 == source) {
            if let Some(Some(Value::Int(value))) = old.as_ref().map(|old| &old[*column]) {
                back.remove(&(*value, key));
            }
            if let Some(Some(Value::Int(value))) = row.map(|row| &row[*column]) {
                back.insert((*value, key));
            }
        }
        true
    }

    /// Keys from `first` to `last` that have a row and are not among `keys`, which are sorted.
    pub(crate) fn keys_without(&self, source: SourceId, first: u32, last: u32, keys: &[u32]) -> Vec<i64> {
        let within = self.rows[source].range(i64::from(first)..=i64::from(last)).map(|(key, _)| *key);
        within.filter(|key| keys.binary_search_by_key(key, |kept| i64::from(*kept)).is_err()).collect()
    }

    /// Keys of the hop's rows that hold `value`.
    pub(crate) fn keys_by(&self, hop: usize, value: i64) -> impl Iterator<Item = i64> + use<'_> {
        self.back[hop].range((value, i64::MIN)..=(value, i64::MAX)).map(|(_, key)| *key)
    }

    /// Puts in or takes out members of one document, the last change of a value winning; tells whether that changed
    /// anything.
    pub(crate) fn change_members(&mut self, source: SourceId, document: u32, changes: &[(Value, bool)]) -> bool {
        let last: BTreeMap<&Value, bool> = changes.iter().map(|(value, present)| (value, *present)).collect();
        let old = self.members[source].get(&document);
        let held = old.map_or(&[][..], |old| old);
        let changes_any = last.iter().any(|(value, present)| held.binary_search(value).is_ok() != *present);
        if !changes_any {
            return false;
        }
        let kept = held.iter().filter(|value| !last.contains_key(value));
        let mut values: Vec<Value> =
            kept.chain(last.iter().filter(|(_, present)| **present).map(|(value, _)| *value)).cloned().collect();
        values.sort_unstable();
        let hash = &mut self.source_hashes[source];
        if let Some(old) = old {
            *hash = hash.wrapping_sub(members_hash(source, document, old));
        }
        if values.is_empty() {
            self.members[source].remove(&document);
        } else {
            let values = values.into();
            *hash = hash.wrapping_add(members_hash(source, document, &values));
            self.members[source].insert(document, values);
        }
        true
    }

    /// Removes every row of a source.
    pub(crate) fn truncate(&mut self, layout: &Layout, source: SourceId) {
        self.rows[source].clear();
        self.members[source].clear();
        self.source_hashes[source] = 0;
        for (back, _) in self.back.iter_mut().zip(&layout.hops).filter(|(_, hop)| hop.0 == source) {
            back.clear();
        }
    }

    /// Tells whether that changed anything.
    pub(crate) fn change_external(&mut self, field: FieldId, document: u32, change: &Change) -> bool {
        let old = self.external[field].get(&document).unwrap_or(&FieldValue::Null);
        let new = match change {
            Change::Set(value) => value.clone(),
            Change::Delete => FieldValue::Null,
            Change::Add(value) => FieldValue::many(old.values().iter().chain([value]).cloned().collect()),
            Change::Remove(value) => {
                FieldValue::many(old.values().iter().filter(|held| *held != value).cloned().collect())
            }
        };
        if new == *old {
            return false;
        }
        if !old.is_null() {
            self.external_hash = self.external_hash.wrapping_sub(external_hash(field, document, old));
        }
        if new.is_null() {
            self.external[field].remove(&document);
        } else {
            self.external_hash = self.external_hash.wrapping_add(external_hash(field, document, &new));
            self.external[field].insert(document, new);
        }
        true
    }
}
