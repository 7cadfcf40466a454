//! The changes between two snapshots: which keys of which sources, which tables were emptied, which external ops.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bitdex_proto::{
    schema::SourceId,
    snapshot::{PgCursor, PgSnapshot},
};
use futures::TryStreamExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::postgres::{quote_identifier, schema_name};

/// A member's value as its trigger records it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum RecordedValue {
    Int(i64),
    Text(String),
}

/// What changed, each thing once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Changes {
    pub(super) truncated: Vec<SourceId>,
    /// Keys of row sources.
    pub(super) rows: BTreeMap<SourceId, Vec<i64>>,
    /// (document, value) of member sources.
    pub(super) members: BTreeMap<SourceId, Vec<(i64, RecordedValue)>>,
}

impl Changes {
    /// Number of keys and pairs.
    pub(super) fn len(&self) -> usize {
        self.rows.values().map(Vec::len).sum::<usize>() + self.members.values().map(Vec::len).sum::<usize>()
    }

    fn dedup(&mut self) {
        self.truncated.sort_unstable();
        self.truncated.dedup();
        for keys in self.rows.values_mut() {
            keys.sort_unstable();
            keys.dedup();
        }
        for pairs in self.members.values_mut() {
            pairs.sort_unstable();
            pairs.dedup();
        }
    }
}

/// One row of `external_ops`.
#[derive(Debug, Clone)]
pub(super) struct ExternalRow {
    pub(super) id: i64,
    pub(super) document: Option<i64>,
    /// JSON text.
    pub(super) op: String,
}

/// Reads what the ops tables hold beyond a snapshot. Everything is of the transaction's own snapshot.
#[derive(Debug, Clone)]
pub(super) struct Window {
    any: String,
    ops: String,
    external: String,
}

const BEYOND: &str = "(xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[]))";
/// The same of another snapshot, in one statement with the above.
const EXTERNAL_BEYOND: &str = "(xid >= $3::text::xid8 OR xid = ANY ($4::text[]::xid8[]))";

impl Window {
    pub(super) fn new(index: &str) -> Self {
        let schema = quote_identifier(&schema_name(index));
        Self {
            any: format!(
                "SELECT EXISTS (SELECT FROM {schema}.ops WHERE {BEYOND}) OR \
                 EXISTS (SELECT FROM {schema}.external_ops WHERE {EXTERNAL_BEYOND} AND error IS NULL)"
            ),
            ops: format!("SELECT source, key, value, value_text, truncate FROM {schema}.ops WHERE {BEYOND}"),
            external: format!(
                "SELECT id, document, op::text FROM {schema}.external_ops WHERE {BEYOND} AND error IS NULL ORDER BY id"
            ),
        }
    }

    /// Whether there is anything at all; cheap, and needs no transaction of its own.
    pub(super) async fn any(&self, connection: &mut PgConnection, from: &PgCursor) -> anyhow::Result<bool> {
        let (xmax, in_progress) = parameters(&from.snapshot);
        let (external_xmax, external_in_progress) = parameters(from.external_from());
        let row = sqlx::query(AssertSqlSafe(self.any.as_str()))
            .bind(xmax)
            .bind(in_progress)
            .bind(external_xmax)
            .bind(external_in_progress)
            .fetch_one(connection)
            .await?;
        Ok(row.try_get(0)?)
    }

    /// The keys. `sources` gives the schema's source for each number that triggers write; ops of sources that the
    /// definition no longer has are left out.
    pub(super) async fn changes(
        &self,
        connection: &mut PgConnection,
        from: &PgSnapshot,
        sources: &BTreeMap<i16, TrackedSource>,
    ) -> anyhow::Result<Changes> {
        let (xmax, in_progress) = parameters(from);
        let mut rows = sqlx::query(AssertSqlSafe(self.ops.as_str())).bind(xmax).bind(in_progress).fetch(connection);
        let mut changes = Changes::default();
        while let Some(row) = rows.try_next().await? {
            let number: i16 = row.try_get(0)?;
            let Some(source) = sources.get(&number) else { continue };
            if row.try_get(4)? {
                changes.truncated.push(source.id);
                continue;
            }
            let key: i64 = row.try_get(1).with_context(|| format!("an op of source {number} without a key"))?;
            if source.members {
                let value = match (row.try_get::<Option<i64>, _>(2)?, row.try_get::<Option<String>, _>(3)?) {
                    (Some(int), _) => RecordedValue::Int(int),
                    (None, Some(text)) => RecordedValue::Text(text),
                    (None, None) => anyhow::bail!("an op of member source {number}, document {key}, without a value"),
                };
                changes.members.entry(source.id).or_default().push((key, value));
            } else {
                changes.rows.entry(source.id).or_default().push(key);
            }
        }
        changes.dedup();
        Ok(changes)
    }

    /// External ops that are not yet known to be wrong, in the order of their ids.
    pub(super) async fn external(
        &self,
        connection: &mut PgConnection,
        from: &PgSnapshot,
    ) -> anyhow::Result<Vec<ExternalRow>> {
        let (xmax, in_progress) = parameters(from);
        sqlx::query(AssertSqlSafe(self.external.as_str()))
            .bind(xmax)
            .bind(in_progress)
            .fetch_all(connection)
            .await?
            .into_iter()
            .map(|row| Ok(ExternalRow { id: row.try_get(0)?, document: row.try_get(1)?, op: row.try_get(2)? }))
            .collect()
    }
}

/// What a number that triggers write stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TrackedSource {
    pub(super) id: SourceId,
    pub(super) members: bool,
}

fn parameters(from: &PgSnapshot) -> (String, Vec<String>) {
    (from.xmax().to_string(), from.in_progress().iter().map(u64::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_kept_once() {
        let pair = |document, value| (document, RecordedValue::Int(value));
        let mut changes = Changes {
            truncated: vec![2, 1, 2],
            rows: BTreeMap::from([(0, vec![5, 3, 5])]),
            members: BTreeMap::from([(3, vec![pair(1, 2), pair(1, 1), pair(1, 2)])]),
        };
        changes.dedup();
        assert_eq!(changes.truncated, [1, 2]);
        assert_eq!(changes.rows[&0], [3, 5]);
        assert_eq!(changes.members[&3], [pair(1, 1), pair(1, 2)]);
        assert_eq!(changes.len(), 4);
    }
}
