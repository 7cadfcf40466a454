//! Whether ClickHouse has the tables and columns of the metrics, and can compute them.

use bitdex_proto::definition::{Definition, MetricsFilter, SourceSpec};

use super::Findings;
use crate::metrics::ClickHouse;

/// Asks ClickHouse for the values of no key of each metrics source. An `Err` means that ClickHouse cannot be asked.
pub async fn check(definition: &Definition, clickhouse: &ClickHouse) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    clickhouse.now().await?;
    for (id, source) in definition.sources() {
        let SourceSpec::Metrics(spec) = source else { continue };
        if let Err(error) = clickhouse.try_query(&format!("SELECT 1 FROM {} LIMIT 0", spec.table)).await {
            findings.error(
                spec.line,
                format!("metrics {}: table {} cannot be read: {}", spec.name, spec.table, root(&error)),
            );
            continue;
        }
        if let Err(error) = clickhouse.try_query(&definition.metrics_sql(id, MetricsFilter::Range(0, 0))?).await {
            findings.error(spec.line, format!("metrics {}: {}", spec.name, root(&error)));
        } else if spec.inserted_at.is_none() {
            findings.warn(
                spec.line,
                format!("metrics {}: without `inserted_at`, changes are found by whole sweeps only", spec.name),
            );
        } else if let Err(error) =
            clickhouse.try_query(&definition.metrics_sql(id, MetricsFilter::ChangedSince(i64::from(i32::MAX)))?).await
        {
            findings.error(spec.line, format!("metrics {}: {}", spec.name, root(&error)));
        }
    }
    Ok(findings)
}

fn root(error: &anyhow::Error) -> String {
    error.root_cause().to_string().trim().to_owned()
}
