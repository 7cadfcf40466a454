//! `bitdex-sync status`: where everything stands, as a table to read.

use std::fmt::Write as _;

use anyhow::Context as _;
use bitdex_proto::{client::Client, definition::Definition, snapshot::PgCursor};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::{
    cli::StatusArgs,
    postgres::{Database, Purpose},
};

/// The whole table.
pub(crate) async fn text(args: StatusArgs) -> anyhow::Result<String> {
    let mut out = String::new();
    if let Some(url) = &args.sync_url {
        out.push_str(&daemon(url).await?);
    }
    let Some(path) = &args.definition else {
        anyhow::ensure!(args.sync_url.is_some(), "give --sync-url, or --definition with --database-url and --query");
        return Ok(out);
    };
    let definition = Definition::load(path)?;
    let mut cursor = None;
    if !args.query.is_empty() {
        let description =
            Client::connect(args.query.clone())?.describe(definition.index()).await.context("bitdex-query")?;
        line(&mut out, "index", &description.index);
        line(&mut out, "documents", description.documents);
        line(&mut out, "ready", format!("{} ({})", description.ready, description.progress));
        line(&mut out, "sequence", description.sequence);
        line(&mut out, "role, writer", format!("{}, {}", description.role, description.writer));
        let same = description.definition_hash == definition.schema().hash;
        line(&mut out, "definition", if same { "the same" } else { "DIFFERENT from this file" });
        for source in &description.cursors {
            line(&mut out, &format!("cursor {}", source.source), String::from_utf8_lossy(&source.cursor));
            if source.source == crate::load::POSTGRES_SOURCE {
                cursor = PgCursor::from_bytes(&source.cursor).ok();
            }
        }
    }
    if let Some(url) = &args.database_url {
        let mut connection = Database::new(url)?.connect(Purpose::Admin).await?;
        out.push_str(&postgres(&mut connection, &definition, cursor.as_ref()).await?);
    }
    Ok(out)
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{name:<24} {value}");
}

async fn postgres(
    connection: &mut PgConnection,
    definition: &Definition,
    cursor: Option<&PgCursor>,
) -> anyhow::Result<String> {
    let mut out = String::new();
    let schema = definition.pg_schema();
    let outdated = crate::setup::verify(connection, definition).await?;
    for outdated in &outdated {
        line(&mut out, "not set up", format!("{}: {}", outdated.source, outdated.reason));
    }
    let row = sqlx::query(AssertSqlSafe(format!(
        "SELECT pg_catalog.pg_current_snapshot()::text, (SELECT value FROM {schema}.meta WHERE key = 'horizon'),
             (SELECT count(*) FROM {schema}.ops), (SELECT count(*) FROM {schema}.external_ops WHERE error IS NULL),
             (SELECT count(*) FROM {schema}.external_ops WHERE error IS NOT NULL)"
    )))
    .fetch_one(&mut *connection)
    .await?;
    line(&mut out, "database now", row.try_get::<String, _>(0)?);
    line(&mut out, "horizon", row.try_get::<String, _>(1)?);
    line(&mut out, "ops kept", row.try_get::<i64, _>(2)?);
    line(&mut out, "external ops kept", row.try_get::<i64, _>(3)?);
    line(&mut out, "external ops refused", row.try_get::<i64, _>(4)?);
    if let Some(cursor) = cursor {
        let in_progress: Vec<String> = cursor.snapshot.in_progress().iter().map(u64::to_string).collect();
        let row = sqlx::query(AssertSqlSafe(format!(
            "SELECT count(*) FROM {schema}.ops WHERE xid >= $1::text::xid8 OR xid = ANY ($2::text[]::xid8[])"
        )))
        .bind(cursor.snapshot.xmax().to_string())
        .bind(in_progress)
        .fetch_one(&mut *connection)
        .await?;
        line(&mut out, "ops behind the cursor", row.try_get::<i64, _>(0)?);
    }
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT name, cursor, extract(epoch FROM pg_catalog.now() - updated_at)::float8 FROM {schema}.consumers ORDER BY 1"
    )))
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let (name, cursor, age): (String, String, f64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        line(&mut out, &format!("consumer {name}"), format!("{cursor}, {age:.1} s ago"));
    }
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT id, error FROM {schema}.external_ops WHERE error IS NOT NULL ORDER BY id DESC LIMIT 5"
    )))
    .fetch_all(connection)
    .await?;
    for row in rows {
        line(&mut out, &format!("external op {}", row.try_get::<i64, _>(0)?), row.try_get::<String, _>(1)?);
    }
    Ok(out)
}

/// Asks a running daemon.
async fn daemon(url: &str) -> anyhow::Result<String> {
    let json = get(url, "/status").await.with_context(|| format!("the daemon at {url}"))?;
    let status: serde_json::Value = serde_json::from_str(&json).context("the daemon's status is not JSON")?;
    let mut out = String::new();
    for name in ["index", "healthy", "ready"] {
        line(&mut out, name, &status[name]);
    }
    for (part, fields) in status["parts"].as_object().into_iter().flatten() {
        for (name, value) in fields.as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), Into::into);
            line(&mut out, &format!("{part} {name}"), value);
        }
    }
    Ok(out)
}

/// GET over plain HTTP/1.0, which is all that the daemon's own answers need.
async fn get(url: &str, path: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(host).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer =
        tokio::time::timeout(std::time::Duration::from_secs(5), exchange).await.context("no answer in time")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    anyhow::ensure!(head.contains(" 200 "), "{}", head.lines().next().unwrap_or_default());
    Ok(body.into())
}
