//! What befalls the whole index at once, while others write: a load anew, and a transaction of more changes than one
//! batch takes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::client::Client;
use sqlx::PgConnection;

use super::history::History;
use crate::{postgres, processes::Commands, wait};

/// A load of the oracle's few rows takes seconds, also where it is killed on the way.
const LIMIT: Duration = Duration::from_secs(120);
/// Above this many changes, sync cuts a poll into pages.
const PAGE: u64 = 100_000;

/// `bitdex-sync dump --anew`. Where a process that it needs is killed, either the load has begun, and the daemon goes on
/// with it, or it is begun again.
pub async fn load_anew(
    commands: Commands,
    client: Client,
    index: String,
    rows_per_part: u32,
    history: Arc<History>,
) -> Result<()> {
    let generation = || async { anyhow::Ok(client.describe(&index).await?.generation) };
    let before = generation().await?;
    let rows = rows_per_part.to_string();
    let mut last = String::new();
    let begun = std::time::Instant::now();
    while begun.elapsed() < LIMIT {
        history.add("upheaval", "dump --anew");
        let arguments = ["--anew", "--load-rows-per-part", &rows];
        match tokio::time::timeout(LIMIT, commands.run("dump", &arguments)).await.context("dump --anew does not end")? {
            Ok(printed) => {
                history.add("upheaval", printed.trim());
                return wait::until("a new generation", LIMIT, || async {
                    let now = generation().await?;
                    Ok(if now > before { Ok(()) } else { Err(format!("{now}, as before")) })
                })
                .await;
            }
            Err(error) => last = format!("{error:#}"),
        }
        history.add("upheaval", last.as_str());
        if generation().await? > before {
            return Ok(());
        }
    }
    bail!("no load anew began within {LIMIT:?}; last: {last}")
}

/// One transaction that changes more keys than one batch takes.
pub async fn backlog(connection: &mut PgConnection, ops: &str, history: &History) -> Result<()> {
    let change = "BEGIN; \
        UPDATE \"TagsOnImage\" SET attributes = attributes # 1024; \
        INSERT INTO \"ImageResource\" SELECT i.id, 3000000 + n, true FROM \"Image\" i, \
            generate_series(1, (SELECT 110000 / greatest(count(*), 1) + 1 FROM \"Image\")) n ON CONFLICT DO NOTHING";
    for _ in 0..20 {
        let outcome = postgres::execute(connection, change).await;
        if let Err(error) = outcome {
            // The other connections' locks lie in every order.
            history.add("upheaval", format!("backlog: {error:#}; ROLLBACK"));
            postgres::execute(connection, "ROLLBACK").await?;
            continue;
        }
        let keys = format!(
            "SELECT count(DISTINCT (source, key, value))::text FROM {ops}.ops \
             WHERE xid = pg_catalog.pg_current_xact_id()"
        );
        let keys: u64 = postgres::scalar(connection, &keys).await?.parse()?;
        postgres::execute(connection, "COMMIT").await?;
        if keys <= PAGE {
            bail!("{keys} keys changed, which is no backlog: it takes more than {PAGE}");
        }
        history.add("upheaval", format!("every tag of every image, and new resources: {keys} keys in one transaction"));
        return Ok(());
    }
    bail!("the backlog's transaction met a collision each time")
}
