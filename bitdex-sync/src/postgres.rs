//! Sessions with Postgres, all pinned alike, so that the definition's SQL means the same wherever it runs: UTC, an empty
//! search path, no row security, bounded waits.

use std::{str::FromStr as _, time::Duration};

use anyhow::Context as _;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgDatabaseError, PgRow},
};

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a session is for; decides how long its statements may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Short reads and writes.
    Poll,
    /// COPY of a part: as long as it takes.
    Load,
    /// Catalog reads and DDL.
    Admin,
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Poll => "bitdex-sync poll",
            Self::Load => "bitdex-sync load",
            Self::Admin => "bitdex-sync admin",
        }
    }

    fn statement_timeout(self) -> &'static str {
        match self {
            Self::Poll => "5min",
            Self::Load => "6h",
            Self::Admin => "10min",
        }
    }
}

/// The address of the database, checked once.
#[derive(Debug, Clone)]
pub struct Database {
    options: PgConnectOptions,
}

impl Database {
    pub fn new(url: &str) -> anyhow::Result<Self> {
        let options = PgConnectOptions::from_str(url).context("--database-url is no Postgres URL")?;
        Ok(Self { options: options.disable_statement_logging() })
    }

    /// Connects, with everything pinned.
    pub async fn connect(&self, purpose: Purpose) -> anyhow::Result<PgConnection> {
        let options = self.options.clone().application_name(purpose.name()).options([
            ("TimeZone", "UTC"),
            ("row_security", "off"),
            ("lock_timeout", "1s"),
            ("statement_timeout", purpose.statement_timeout()),
            ("idle_in_transaction_session_timeout", "10min"),
            ("default_transaction_isolation", "read committed"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("bytea_output", "hex"),
            ("xmlbinary", "base64"),
            ("jit", "off"),
            // Notices are for people at a prompt.
            ("client_min_messages", "error"),
        ]);
        let connecting = async {
            let mut connection = PgConnection::connect_with(&options).await?;
            // As a statement, because an empty value cannot be given among the startup options.
            sqlx::raw_sql("SET search_path TO ''").execute(&mut connection).await?;
            anyhow::Ok(connection)
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| anyhow::anyhow!("no connection within {CONNECT_TIMEOUT:?}"))
            .and_then(|connected| connected)
            .with_context(|| {
                format!("Postgres at {}:{} cannot be reached", self.options.get_host(), self.options.get_port())
            })
    }
}

/// Runs generated SQL of one or more statements without parameters.
pub async fn run(connection: &mut PgConnection, sql: impl Into<String>) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(connection).await.map(|_| ())
}

/// Rows of generated SQL without parameters, each value as text.
pub async fn text_rows(connection: &mut PgConnection, sql: impl Into<String>) -> sqlx::Result<Vec<PgRow>> {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).fetch_all(connection).await
}

/// The error as Postgres sent it, where it did.
pub fn database_error(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    error.as_database_error().and_then(|error| error.try_downcast_ref())
}

/// SQLSTATE of an error that Postgres sent.
pub fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    database_error(error).map(PgDatabaseError::code)
}

/// Another transaction changed the same row (40001), or a deadlock (40P01).
pub fn is_serialization_failure(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error), Some("40001" | "40P01"))
}

/// `lock_timeout` passed (55P03).
pub fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sqlstate(error) == Some("55P03")
}

/// The data itself cannot be computed with (class 22): division by zero, a value out of range.
pub fn is_data_exception(error: &sqlx::Error) -> bool {
    sqlstate(error).is_some_and(|code| code.starts_with("22"))
}

/// Quotes an identifier.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text literal.
pub fn quote_literal(text: &str) -> String {
    let escaped = text.replace('\'', "''");
    if escaped.contains('\\') { format!("E'{}'", escaped.replace('\\', "\\\\")) } else { format!("'{escaped}'") }
}

/// The schema that holds an index's tables.
pub fn schema_name(index: &str) -> String {
    format!("bitdex_{index}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes() {
        assert_eq!(quote_identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(quote_literal("it's"), "'it''s'");
        assert_eq!(quote_literal("a\\b"), "E'a\\\\b'");
    }
}
