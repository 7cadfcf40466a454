//! Fills Postgres by COPY and ClickHouse by INSERT, with the rows of a [`Workload`].

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sqlx::PgConnection;
use tokio::sync::mpsc;

use super::{
    Workload,
    generate::{Block, Blocks, Generator, table},
    schema::{self, CONSTRAINTS, TABLES},
};
use crate::{
    clickhouse::ClickHouse,
    postgres::{Postgres, execute},
    terminal,
};

/// What was loaded; the generator goes on where it ended.
#[derive(Debug)]
pub struct Loaded {
    pub generator: Generator,
    /// Rows by position in [`TABLES`].
    pub rows: [u64; TABLES.len()],
    pub events: u64,
    pub elapsed: Duration,
}

/// Makes the tables and fills them; a progress bar shows where standard error is a terminal.
pub async fn load(workload: Workload, postgres: &Postgres, clickhouse: &ClickHouse) -> Result<Loaded> {
    let start = Instant::now();
    let mut first = postgres.connect().await?;
    let mut second = postgres.connect().await?;
    for table in &TABLES {
        execute(&mut first, &schema::create(table)).await?;
    }
    clickhouse.execute(schema::METRICS).await?;

    let bar = terminal::bar("Generate and copy images", workload.images.into());
    let (sender, mut blocks) = mpsc::channel::<Block>(2);
    let generation = tokio::task::spawn_blocking(move || {
        let mut all = Blocks::new(workload);
        // A send fails only where the receiver gave up, and its own error is the one to tell.
        for block in all.by_ref() {
            if sender.blocking_send(block).is_err() {
                break;
            }
        }
        all.into_generator()
    });
    let mut rows = [0; TABLES.len()];
    let mut events = 0;
    while let Some(mut block) = blocks.recv().await {
        for (total, more) in rows.iter_mut().zip(block.rows) {
            *total += more;
        }
        events += block.events;
        let images = block.images;
        let tags = std::mem::take(&mut block.tables[table::TAG]);
        let metrics = std::mem::take(&mut block.metrics);
        tokio::try_join!(
            copy(&mut first, TABLES[table::TAG].name, tags),
            copy_all(&mut second, block),
            insert_metrics(clickhouse, metrics),
        )?;
        bar.inc(images);
    }
    let generator = generation.await.context("the generator panicked")?;
    terminal::done(&bar, "images");

    let bar = terminal::bar("Keys and indexes", CONSTRAINTS.len() as u64);
    for statement in CONSTRAINTS {
        execute(&mut first, statement).await?;
        bar.inc(1);
    }
    execute(&mut first, "VACUUM ANALYZE").await?;
    terminal::done(&bar, "statements");
    Ok(Loaded { generator, rows, events, elapsed: start.elapsed() })
}

async fn copy_all(connection: &mut PgConnection, block: Block) -> Result<()> {
    for (table, rows) in TABLES.iter().zip(block.tables) {
        copy(connection, table.name, rows).await?;
    }
    Ok(())
}

/// COPY's text format into a table.
pub async fn copy(connection: &mut PgConnection, table: &str, rows: Vec<u8>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut copy = connection.copy_in_raw(&format!("COPY {table} FROM STDIN")).await?;
    copy.send(rows).await?;
    copy.finish().await.map(|_| ()).with_context(|| format!("copy into {table}"))
}

/// Lines as [`super::rows::MetricEvent::write`] makes them.
pub async fn insert_metrics(clickhouse: &ClickHouse, rows: Vec<u8>) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    clickhouse.insert("imageMetricEvents (imageId, metric, delta, createdAt)", &rows).await
}
