//! DDL that never queues the application behind it: each attempt waits for its lock at most `lock_timeout` (1 s), pauses,
//! and says who stands in the way.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sqlx::{PgConnection, Row as _};

use crate::{
    backoff::Backoff,
    postgres::{Database, Purpose, is_lock_timeout, is_serialization_failure, run},
};

/// Who held a lock that was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    pub pid: i32,
    pub what: String,
}

/// Runs `sql` as one transaction, again and again while its locks cannot be had, for at most `patience`.
/// `waiting` is told who blocks.
pub(super) async fn with_patience(
    connection: &mut PgConnection,
    database: &Database,
    sql: &str,
    what: &str,
    patience: Duration,
    waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));
    let pid: i32 = sqlx::query("SELECT pg_catalog.pg_backend_pid()").fetch_one(&mut *connection).await?.try_get(0)?;
    loop {
        let attempt = run(connection, format!("BEGIN; {sql}; COMMIT"));
        let (outcome, blockers) = watched(attempt, database, pid).await;
        let error = match outcome {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        run(connection, "ROLLBACK").await.context("the connection was lost")?;
        if !is_lock_timeout(&error) && !is_serialization_failure(&error) {
            return Err(anyhow::Error::from(error).context(format!("{what} failed")));
        }
        waiting(what, &blockers);
        let pause = backoff.step();
        if Instant::now() + pause > deadline {
            let names: Vec<_> = blockers.iter().map(|blocker| format!("{} ({})", blocker.pid, blocker.what)).collect();
            anyhow::bail!(
                "{what}: no lock within {} s; in the way: {}",
                patience.as_secs(),
                if names.is_empty() { "unknown sessions".to_owned() } else { names.join(", ") }
            );
        }
        tokio::time::sleep(pause).await;
    }
}

/// Awaits `attempt`; if it takes long enough to be waiting for a lock, looks from another session who holds it.
async fn watched(
    attempt: impl Future<Output = sqlx::Result<()>>,
    database: &Database,
    pid: i32,
) -> (sqlx::Result<()>, Vec<Blocker>) {
    let look = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        match blockers(database, pid).await {
            Ok(blockers) => blockers,
            Err(error) => {
                tracing::debug!(%error, "who blocks cannot be told");
                Vec::new()
            }
        }
    };
    let mut attempt = std::pin::pin!(attempt);
    tokio::select! {
        outcome = &mut attempt => (outcome, Vec::new()),
        blockers = look => (attempt.await, blockers),
    }
}

async fn blockers(database: &Database, pid: i32) -> anyhow::Result<Vec<Blocker>> {
    let mut connection = database.connect(Purpose::Admin).await?;
    let rows = sqlx::query(
        "SELECT a.pid, pg_catalog.concat_ws(', ', a.usename, nullif(a.application_name, ''), a.state,
             'since ' || pg_catalog.date_trunc('second', a.xact_start)::text, pg_catalog.left(a.query, 80))
         FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS b(pid) JOIN pg_catalog.pg_stat_activity a USING (pid)",
    )
    .bind(pid)
    .fetch_all(&mut connection)
    .await?;
    rows.into_iter().map(|row| Ok(Blocker { pid: row.try_get(0)?, what: row.try_get(1)? })).collect()
}
