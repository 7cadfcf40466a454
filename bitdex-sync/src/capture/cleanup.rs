//! Deletes ops that every consumer has, once they are older than the retention.
//!
//! Ops carry no time. Instead, marks do: each says that at a time, every consumer had everything of a snapshot. A mark
//! older than the retention allows to delete what is older than the oldest transaction that it lacks. How far deletion
//! went (the horizon) is moved in the transaction that deletes, so that nobody can resume from before it unnoticed.

use std::time::Duration;

use anyhow::Context as _;
use bitdex_proto::snapshot::PgCursor;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use crate::postgres::{quote_identifier, schema_name};

/// Rows deleted by one transaction.
const BATCH: i64 = 5_000;
/// Marks are at least this fraction of the retention apart.
const MARKS_PER_RETENTION: u32 = 48;

#[derive(Debug, Clone)]
pub struct Cleanup {
    schema: String,
    retention: Duration,
}

/// What one round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cleaned {
    pub ops: u64,
    pub external_ops: u64,
}

impl Cleanup {
    pub fn new(index: &str, retention: Duration) -> Self {
        Self { schema: quote_identifier(&schema_name(index)), retention }
    }

    /// How often to call [`Cleanup::round`].
    pub fn period(&self) -> Duration {
        (self.retention / MARKS_PER_RETENTION).clamp(Duration::from_secs(1), Duration::from_secs(600))
    }

    /// Sets a mark if it is time for one, and deletes what the newest old enough mark allows.
    pub async fn round(&self, connection: &mut PgConnection) -> anyhow::Result<Cleaned> {
        self.mark(connection).await.context("the cleanup mark cannot be set")?;
        let Some(below) = self.deletable(connection).await? else { return Ok(Cleaned::default()) };
        let mut cleaned = Cleaned::default();
        loop {
            let ops = self.delete(connection, "ops", "", below).await?;
            // Ops that were refused stay, for whoever has to see why.
            let external = self.delete(connection, "external_ops", "AND error IS NULL", below).await?;
            cleaned.ops += ops;
            cleaned.external_ops += external;
            if ops < BATCH as u64 && external < BATCH as u64 {
                break;
            }
        }
        sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM {0}.marks m WHERE m.at < (SELECT max(n.at) FROM {0}.marks n \
             WHERE n.at <= pg_catalog.now() - pg_catalog.make_interval(secs => $1))",
            self.schema
        )))
        .bind(self.retention.as_secs_f64())
        .execute(connection)
        .await?;
        Ok(cleaned)
    }

    /// The oldest place that any consumer still needs: transactions below it are in every index.
    async fn consumed(&self, connection: &mut PgConnection) -> anyhow::Result<Option<u64>> {
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT cursor FROM {}.consumers", self.schema)))
            .fetch_all(connection)
            .await?;
        let mut oldest = None;
        for row in rows {
            let cursor: PgCursor = row.try_get::<String, _>(0)?.parse()?;
            // After a load, what the index lacks of the external ops may be older than what it lacks of the tables.
            let xmin = cursor.snapshot.xmin().min(cursor.external_from().xmin());
            oldest = Some(oldest.map_or(xmin, |oldest: u64| oldest.min(xmin)));
        }
        Ok(oldest)
    }

    async fn mark(&self, connection: &mut PgConnection) -> anyhow::Result<()> {
        let Some(consumed) = self.consumed(connection).await? else { return Ok(()) };
        sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO {0}.marks (snapshot) SELECT $1 WHERE NOT EXISTS \
             (SELECT FROM {0}.marks WHERE at > pg_catalog.now() - pg_catalog.make_interval(secs => $2))",
            self.schema
        )))
        .bind(format!("{consumed}:{consumed}:"))
        .bind((self.retention / MARKS_PER_RETENTION).as_secs_f64())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Ops of transactions below this may go: by an old enough mark, and by what the consumers say now.
    async fn deletable(&self, connection: &mut PgConnection) -> anyhow::Result<Option<u64>> {
        let marked: Option<String> = sqlx::query(AssertSqlSafe(format!(
            "SELECT snapshot FROM {}.marks WHERE at <= pg_catalog.now() - pg_catalog.make_interval(secs => $1) \
             ORDER BY at DESC LIMIT 1",
            self.schema
        )))
        .bind(self.retention.as_secs_f64())
        .fetch_optional(&mut *connection)
        .await?
        .map(|row| row.try_get(0))
        .transpose()?;
        let Some(marked) = marked else { return Ok(None) };
        let marked: bitdex_proto::snapshot::PgSnapshot = marked.parse()?;
        // A consumer may have been registered, or have gone back, since the mark was set.
        Ok(self.consumed(connection).await?.map(|consumed| consumed.min(marked.xmin())))
    }

    async fn delete(&self, connection: &mut PgConnection, table: &str, and: &str, below: u64) -> anyhow::Result<u64> {
        let schema = &self.schema;
        let mut transaction = connection.begin().await?;
        let deleted = sqlx::query(AssertSqlSafe(format!(
            "DELETE FROM {schema}.{table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {schema}.{table} \
             WHERE xid < $1::text::xid8 {and} ORDER BY xid LIMIT {BATCH}))"
        )))
        .bind(below.to_string())
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if deleted > 0 {
            sqlx::query(AssertSqlSafe(format!(
                "UPDATE {schema}.meta SET value = $1 WHERE key = 'horizon' \
                 AND pg_catalog.pg_snapshot_xmax(value::pg_catalog.pg_snapshot) < $2::text::xid8"
            )))
            .bind(format!("{below}:{below}:"))
            .bind(below.to_string())
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(deleted)
    }
}
