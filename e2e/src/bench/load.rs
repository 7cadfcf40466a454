//! The load from Postgres, beside the same `COPY … TO STDOUT` read and thrown away over one connection.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures::TryStreamExt as _;

use super::Results;
use crate::{
    oracle::documents,
    stage::Stage,
    terminal::{count, rate, say, seconds},
};

pub(super) async fn measure(stage: &Stage, results: &mut Results) -> Result<()> {
    let (copy, bytes) = copy_alone(stage).await?;
    let rows: u64 = stage.loaded.rows.iter().skip(1).sum();
    let documents = u64::from(stage.workload.images);
    say(format!(
        "COPY alone: {} MB in {}; load of {} rows until both pods serve: {} ({} rows/s, {} documents/s)",
        bytes / 1_000_000,
        seconds(copy),
        count(rows),
        seconds(stage.loading),
        count(rate(rows, stage.loading)),
        count(rate(documents, stage.loading))
    ));
    results.set("load_over_copy_ratio", copy.as_secs_f64() / stage.loading.as_secs_f64());
    results.set("load_rows_per_s", rate(rows, stage.loading) as f64);
    results.set("load_documents_per_s", rate(documents, stage.loading) as f64);
    Ok(())
}

async fn copy_alone(stage: &Stage) -> Result<(Duration, u64)> {
    let mut connection = stage.postgres.connect().await?;
    documents::pin(&mut connection).await?;
    let start = Instant::now();
    let mut bytes = 0;
    for (source, spec) in stage.definition.sources() {
        if spec.table().is_none() {
            continue;
        }
        let sql = stage.definition.copy_sql(source, i64::MIN, i64::MAX)?;
        let mut rows = connection.copy_out_raw(&sql).await?;
        while let Some(chunk) = rows.try_next().await? {
            bytes += chunk.len() as u64;
        }
    }
    Ok((start.elapsed(), bytes))
}
