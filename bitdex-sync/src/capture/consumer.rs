//! The consumer's row: what the index is known to hold, and the proof that this database still has the history that led
//! there.
//!
//! Each poll writes a fresh random token into the row, in a transaction that is flushed before the batch with that token
//! goes out. A token that the row does not know is therefore of a history that this database lost (failover, restore, a
//! crash under asynchronous commit), or of another database.

use anyhow::Context as _;
use bitdex_proto::snapshot::{PgCursor, PgSnapshot};
use rand::RngExt as _;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::postgres::{quote_identifier, schema_name};

/// Tokens kept. Two would do for a sender whose every answer arrives; the rest are for those whose batch became durable
/// after its session had broken. Keeping more is as safe: each was committed in this history.
const TOKENS_KEPT: usize = 8;

/// Why the index's cursor cannot be followed from in this database.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    #[error(
        "this database does not know consumer {0:?}, though the index has a cursor of it: is it another database, or an \
         older restore? If it is the right one, load anew with `bitdex-sync dump --anew`"
    )]
    Unknown(String),
    #[error(
        "the database lost history that the index already has (failover, restore, or a crash under asynchronous \
         commit): token {token} of the index's cursor is not among those of consumer {consumer:?}; load anew with \
         `bitdex-sync dump --anew`"
    )]
    Lost { consumer: String, token: String },
    #[error(
        "the index stands at {cursor}, but ops before transaction {horizon} were cleaned up: it needs a load \
         (`bitdex-sync dump --anew`) or a newer snapshot"
    )]
    BeforeHorizon { cursor: String, horizon: u64 },
    #[error(
        "the index stands at {cursor}, before transaction {gap} mended triggers that had not recorded all that its \
         definition wants: it needs a load (`bitdex-sync dump --anew`)"
    )]
    BeforeGap { cursor: String, gap: u64 },
}

#[derive(Debug, Clone)]
pub struct Consumer {
    schema: String,
    name: String,
}

impl Consumer {
    pub fn new(index: &str, name: &str) -> Self {
        Self { schema: quote_identifier(&schema_name(index)), name: name.into() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Registers the consumer for a load and takes the snapshot from which changes will follow it. Any transaction that
    /// wrote before the triggers were there is in it. Ops on external fields follow from `external`.
    pub async fn register(&self, connection: &mut PgConnection, external: &PgSnapshot) -> anyhow::Result<PgCursor> {
        let token = fresh_token();
        let row = sqlx::query(AssertSqlSafe(format!(
            "INSERT INTO {}.consumers AS c (name, cursor, tokens)
             VALUES ($1, pg_catalog.pg_current_snapshot()::text || '|' || $2 || '||' || $3, ARRAY[$2])
             ON CONFLICT (name) DO UPDATE SET cursor = excluded.cursor, updated_at = pg_catalog.now(),
                 tokens = (excluded.tokens || c.tokens)[1:{TOKENS_KEPT}]
             RETURNING cursor",
            self.schema
        )))
        .bind(&self.name)
        .bind(&token)
        .bind(external.to_string())
        .fetch_one(connection)
        .await
        .context("the consumer cannot be registered")?;
        Ok(row.try_get::<String, _>(0)?.parse()?)
    }

    /// Whether `cursor` is of this database's history, however old.
    pub async fn knows(&self, connection: &mut PgConnection, cursor: &PgCursor) -> anyhow::Result<bool> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT EXISTS (SELECT FROM {}.consumers WHERE name = $1 AND $2 = ANY (tokens))",
            self.schema
        )))
        .bind(&self.name)
        .bind(&cursor.token)
        .fetch_one(connection)
        .await
        .context("the consumer cannot be read")?;
        Ok(row.try_get(0)?)
    }

    /// Whether the index, at `cursor`, can be followed from here.
    pub async fn check(&self, connection: &mut PgConnection, cursor: &PgCursor) -> anyhow::Result<()> {
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT c.tokens, m.value, (SELECT value FROM {0}.meta WHERE key = 'gap') \
             FROM {0}.consumers c, {0}.meta m WHERE c.name = $1 AND m.key = 'horizon'",
            self.schema
        )))
        .bind(&self.name)
        .fetch_optional(connection)
        .await
        .context("the consumer cannot be read")?;
        let row = row.ok_or_else(|| HistoryError::Unknown(self.name.clone()))?;
        let tokens: Vec<String> = row.try_get(0)?;
        let horizon: PgSnapshot = row.try_get::<String, _>(1)?.parse()?;
        let gap = row.try_get::<Option<String>, _>(2)?.map(|gap| gap.parse()).transpose()?;
        Ok(self.judge(cursor, &tokens, &horizon, gap)?)
    }

    fn judge(
        &self,
        cursor: &PgCursor,
        tokens: &[String],
        horizon: &PgSnapshot,
        gap: Option<u64>,
    ) -> Result<(), HistoryError> {
        // First, because the tokens of so old a cursor are forgotten too.
        // The horizon has no transactions in progress, so covering it means having none in progress below it.
        if cursor.snapshot.xmin() < horizon.xmax() {
            return Err(HistoryError::BeforeHorizon { cursor: cursor.snapshot.to_string(), horizon: horizon.xmax() });
        }
        if !tokens.contains(&cursor.token) {
            return Err(HistoryError::Lost { consumer: self.name.clone(), token: cursor.token.clone() });
        }
        if let Some(gap) = gap.filter(|gap| !cursor.snapshot.contains(*gap)) {
            return Err(HistoryError::BeforeGap { cursor: cursor.snapshot.to_string(), gap });
        }
        Ok(())
    }

    /// Writes `token` as the newest, and `from` (which the index has made durable) as the place up to which cleanup may
    /// go. Keeps `from`'s own token. Nobody gets past a gap that came up since the last [`Consumer::check`]: whoever polls
    /// over it would have a cursor from behind it, and look well.
    pub async fn advance(
        &self,
        connection: &mut PgConnection,
        from: &PgCursor,
        token: &str,
    ) -> Result<(), AdvanceError> {
        let done = sqlx::query(AssertSqlSafe(format!(
            "UPDATE {0}.consumers SET cursor = $2, updated_at = pg_catalog.now(),
                 tokens = (ARRAY[$3, $4] || pg_catalog.array_remove(tokens, $4))[1:{TOKENS_KEPT}]
             WHERE name = $1 AND $4 = ANY (tokens) AND NOT EXISTS (SELECT FROM {0}.meta WHERE key = 'gap' \
                 AND NOT pg_catalog.pg_visible_in_snapshot(value::xid8, $5::text::pg_catalog.pg_snapshot))",
            self.schema
        )))
        .bind(&self.name)
        .bind(from.to_string())
        .bind(token)
        .bind(&from.token)
        .bind(from.snapshot.to_string())
        .execute(&mut *connection)
        .await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        self.check(connection, from).await.map_err(AdvanceError::Refused)?;
        Err(HistoryError::Lost { consumer: self.name.clone(), token: from.token.clone() }.into())
    }
}

#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error("the consumer's token cannot be written: {0}")]
    Postgres(#[from] sqlx::Error),
    /// By [`Consumer::check`].
    #[error("{0:#}")]
    Refused(anyhow::Error),
}

/// 96 random bits, in hexadecimal.
pub fn fresh_token() -> String {
    let mut rng = rand::rng();
    format!("{:016x}{:08x}", rng.random::<u64>(), rng.random::<u32>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_must_contain_the_cursor() {
        let consumer = Consumer::new("images", "main");
        let cursor: PgCursor = "100:120:100,105|t2".parse().unwrap();
        let tokens = ["t3".to_owned(), "t2".to_owned()];
        let judge = |tokens: &[String], horizon: &str| consumer.judge(&cursor, tokens, &horizon.parse().unwrap(), None);
        assert_eq!(judge(&tokens, "100:100:"), Ok(()));
        assert!(matches!(judge(&tokens, "101:101:"), Err(HistoryError::BeforeHorizon { .. })));
        assert!(matches!(judge(&tokens[..1], "101:101:"), Err(HistoryError::BeforeHorizon { .. })));
        assert!(matches!(judge(&tokens[..1], "1:1:"), Err(HistoryError::Lost { .. })));
        for (gap, covered) in [(99, true), (100, false), (104, true), (105, false), (120, false)] {
            let outcome = consumer.judge(&cursor, &tokens, &"1:1:".parse().unwrap(), Some(gap));
            assert_eq!(outcome.is_ok(), covered, "{gap}: {outcome:?}");
        }
    }
}
