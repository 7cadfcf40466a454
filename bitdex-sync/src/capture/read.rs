//! Reads the current rows of changed keys, with the definition's SQL, and makes ops of them: a row that is missing is a
//! tombstone, a pair is present or absent. What cannot be decoded stops everything, by name.

use std::collections::HashSet;

use anyhow::Context as _;
use bitdex_proto::{
    copy::decode_value,
    definition::{Definition, SourceSpec},
    ops::{Op, Row, document_key},
    schema::{Column, SourceId},
    value::{FieldType, Value},
};
use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres, Row as _, ValueRef as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::window::RecordedValue;
use crate::postgres::{is_data_exception, run};

/// Keys read by one statement.
pub(super) const KEYS_PER_READ: usize = 10_000;

/// The data of a row cannot be taken into the index. Nothing gets past it until the row, or the definition, changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{source_name} (table {table}), key {key}: {reason}")]
pub struct DataError {
    pub source_name: String,
    pub table: String,
    pub key: String,
    pub reason: String,
}

/// What is to be read of one source.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keys<'a> {
    Rows(&'a [i64]),
    Pairs(&'a [(i64, RecordedValue)]),
}

impl Keys<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Rows(keys) => keys.len(),
            Self::Pairs(pairs) => pairs.len(),
        }
    }

    /// The first `at`, and the rest.
    fn split_at(self, at: usize) -> (Self, Self) {
        match self {
            Self::Rows(keys) => {
                let (first, rest) = keys.split_at(at);
                (Self::Rows(first), Self::Rows(rest))
            }
            Self::Pairs(pairs) => {
                let (first, rest) = pairs.split_at(at);
                (Self::Pairs(first), Self::Pairs(rest))
            }
        }
    }

    /// The key for people, where it is one.
    fn only(&self) -> Option<String> {
        match self {
            Self::Rows([key]) => Some(key.to_string()),
            Self::Pairs([(document, RecordedValue::Int(value))]) => Some(format!("{document}, value {value}")),
            Self::Pairs([(document, RecordedValue::Text(value))]) => Some(format!("{document}, value {value:?}")),
            Self::Rows(_) | Self::Pairs(_) => None,
        }
    }
}

/// How one source is read.
#[derive(Debug, Clone)]
pub(super) struct SourceReader {
    id: SourceId,
    name: String,
    table: String,
    sql: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Rows { columns: Vec<Column>, document: bool },
    Members { ty: FieldType },
}

impl SourceReader {
    /// `None` for a source that is not read from Postgres.
    pub(super) fn new(definition: &Definition, id: SourceId) -> anyhow::Result<Option<Self>> {
        let spec = definition.source(id)?;
        let Some(table) = spec.table() else { return Ok(None) };
        let kind = match spec {
            SourceSpec::Document(_) | SourceSpec::Lookup(_) => Kind::Rows {
                columns: definition.schema().sources[id].columns().to_vec(),
                document: matches!(spec, SourceSpec::Document(_)),
            },
            SourceSpec::Members(source) => Kind::Members { ty: source.ty },
            SourceSpec::Metrics(_) => return Ok(None),
        };
        Ok(Some(Self { id, name: spec.name().into(), table: table.to_string(), sql: definition.read_sql(id)?, kind }))
    }

    /// Current state of rows by key.
    pub(super) async fn rows(
        &self,
        connection: &mut PgConnection,
        keys: &[i64],
        out: &mut Vec<Op>,
    ) -> anyhow::Result<()> {
        let Kind::Rows { columns, document } = &self.kind else {
            anyhow::bail!("{} is a member source", self.name);
        };
        let mut answered = HashSet::with_capacity(keys.len());
        let mut rows = self.query(Keys::Rows(keys))?.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            let key = self.key(&row)?;
            if !answered.insert(key) {
                return Err(self.error(key, "the table holds this key twice; keys must be unique").into());
            }
            let present: bool = row.try_get(1)?;
            if *document && let Err(error) = self.document(key) {
                if present {
                    return Err(error.into());
                }
                // It never was in the index.
                continue;
            }
            let values = present.then(|| {
                let values = columns.iter().enumerate();
                values
                    .map(|(i, column)| self.value(&row, i + 2, column.ty, &column.name, key))
                    .collect::<Result<Row, _>>()
            });
            out.push(Op::Upsert { source: self.id, key, row: values.transpose()? });
        }
        anyhow::ensure!(
            answered.len() == keys.len(),
            "{}: {} of {} keys were answered",
            self.name,
            answered.len(),
            keys.len()
        );
        Ok(())
    }

    /// Whether pairs are there now.
    pub(super) async fn members(
        &self,
        connection: &mut PgConnection,
        pairs: &[(i64, RecordedValue)],
        out: &mut Vec<Op>,
    ) -> anyhow::Result<()> {
        let Kind::Members { ty } = &self.kind else {
            anyhow::bail!("{} is no member source", self.name);
        };
        let mut rows = self.query(Keys::Pairs(pairs))?.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            let key = self.key(&row)?;
            let present: bool = row.try_get(2)?;
            let document = match self.document(key) {
                Ok(document) => document,
                // It never was in the index.
                Err(_) if !present => continue,
                Err(error) => return Err(error.into()),
            };
            let value = self
                .value(&row, 1, *ty, &self.name, key)?
                .ok_or_else(|| self.error(key, "a member's value is null"))?;
            out.push(Op::Member { source: self.id, document, value, present });
        }
        Ok(())
    }

    fn query<'q>(&'q self, keys: Keys<'q>) -> Result<Query<'q, Postgres, PgArguments>, DataError> {
        let query = sqlx::query(AssertSqlSafe(self.sql.as_str()));
        let pairs = match keys {
            Keys::Rows(keys) => return Ok(query.bind(keys)),
            Keys::Pairs(pairs) => pairs,
        };
        let query = query.bind(pairs.iter().map(|(document, _)| *document).collect::<Vec<_>>());
        Ok(if matches!(self.kind, Kind::Members { ty: FieldType::Int }) {
            let values = pairs.iter().map(|(document, value)| match value {
                RecordedValue::Int(int) => Ok(*int),
                RecordedValue::Text(_) => Err(self.error(*document, "its op holds text where an integer is due")),
            });
            query.bind(values.collect::<Result<Vec<_>, _>>()?)
        } else {
            let values = pairs.iter().map(|(document, value)| match value {
                RecordedValue::Text(text) => Ok(text.clone()),
                RecordedValue::Int(_) => Err(self.error(*document, "its op holds an integer where text is due")),
            });
            query.bind(values.collect::<Result<Vec<_>, _>>()?)
        })
    }

    fn key(&self, row: &PgRow) -> anyhow::Result<i64> {
        row.try_get(0).with_context(|| format!("{} (table {}): the key cannot be read", self.name, self.table))
    }

    fn document(&self, key: i64) -> Result<u32, DataError> {
        document_key(key, &self.name).map_err(|error| self.error(key, error.to_string()))
    }

    fn value(&self, row: &PgRow, at: usize, ty: FieldType, column: &str, key: i64) -> Result<Option<Value>, DataError> {
        let fail = |reason: String| self.error(key, format!("column {column}: {reason}"));
        let raw = row.try_get_raw(at).map_err(|error| fail(error.to_string()))?;
        let bytes = if raw.is_null() { None } else { Some(raw.as_bytes().map_err(|error| fail(error.to_string()))?) };
        decode_value(bytes, ty, column).map_err(|error| self.error(key, error.to_string()))
    }

    fn error(&self, key: impl ToString, reason: impl Into<String>) -> DataError {
        DataError {
            source_name: self.name.clone(),
            table: self.table.clone(),
            key: key.to_string(),
            reason: reason.into(),
        }
    }

    /// After a read of these keys failed with a data exception: which key it is. Runs in transactions of its own, so
    /// what it sees may be newer; `None` where nothing fails any more.
    pub(super) async fn culprit(
        &self,
        connection: &mut PgConnection,
        keys: Keys<'_>,
    ) -> anyhow::Result<Option<DataError>> {
        let mut suspects = keys;
        loop {
            let (half, rest) = suspects.split_at(suspects.len().div_ceil(2));
            match self.try_read(connection, half).await? {
                Ok(()) if rest.len() == 0 => return Ok(None),
                Ok(()) => suspects = rest,
                Err(error) if is_data_exception(&error) => {
                    if let Some(key) = half.only() {
                        return Ok(Some(self.error(key, error.to_string())));
                    }
                    suspects = half;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether these can be read, and if not, how Postgres puts it.
    async fn try_read(&self, connection: &mut PgConnection, keys: Keys<'_>) -> anyhow::Result<sqlx::Result<()>> {
        // Row by row, by the key's index: a scan of the table would fail on rows of other keys.
        run(
            connection,
            "BEGIN READ ONLY; SET LOCAL enable_seqscan = off; SET LOCAL enable_hashjoin = off; \
             SET LOCAL enable_mergejoin = off; SET LOCAL plan_cache_mode = force_custom_plan",
        )
        .await?;
        let outcome = self.query(keys)?.persistent(false).fetch_all(&mut *connection).await;
        run(connection, "ROLLBACK").await?;
        Ok(outcome.map(|_| ()))
    }
}
