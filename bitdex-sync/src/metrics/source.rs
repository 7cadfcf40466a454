//! ClickHouse over HTTP: the definition's queries, answered in RowBinary.

use std::time::Duration;

use anyhow::Context as _;
use bitdex_proto::{
    definition::{Definition, MetricsFilter, SourceSpec},
    ops::Op,
    schema::SourceId,
};
use clickhouse::{Client, Compression};

use crate::cli::ClickHouseArgs;

/// How long one query may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone)]
pub struct ClickHouse {
    client: Client,
}

impl std::fmt::Debug for ClickHouse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClickHouse").finish_non_exhaustive()
    }
}

impl ClickHouse {
    pub fn new(args: &ClickHouseArgs) -> anyhow::Result<Self> {
        let url = args.clickhouse_url.as_ref().context("the definition has metrics: give --clickhouse-url")?;
        let mut client = Client::default().with_url(url).with_compression(Compression::None);
        if let Some(user) = &args.clickhouse_user {
            client = client.with_user(user);
        }
        if let Some(password) = &args.clickhouse_password {
            client = client.with_password(password);
        }
        if let Some(database) = &args.clickhouse_database {
            client = client.with_database(database);
        }
        Ok(Self { client })
    }

    async fn bytes(&self, sql: &str) -> anyhow::Result<bytes::Bytes> {
        let query = async { self.client.query_raw(sql).fetch_bytes("RowBinary")?.collect().await };
        tokio::time::timeout(QUERY_TIMEOUT, query)
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {} s", QUERY_TIMEOUT.as_secs()))
            .and_then(|answer| answer.map_err(anyhow::Error::from))
            .with_context(|| format!("ClickHouse: {}", sql.chars().take(200).collect::<String>()))
    }

    /// Numbers of the only row of an answer of Int64 columns.
    async fn numbers<const N: usize>(&self, sql: &str) -> anyhow::Result<[i64; N]> {
        let bytes = self.bytes(sql).await?;
        anyhow::ensure!(
            bytes.len() == 8 * N,
            "ClickHouse answered {} bytes where {} were due: {sql}",
            bytes.len(),
            8 * N
        );
        let mut numbers = [0; N];
        for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
            *number = i64::from_le_bytes(bytes.try_into()?);
        }
        Ok(numbers)
    }

    /// ClickHouse's own clock, seconds since 1970.
    pub async fn now(&self) -> anyhow::Result<i64> {
        let [now] = self.numbers("SELECT toInt64(toUnixTimestamp(now()))").await?;
        Ok(now)
    }

    /// Whether a query works at all; its answer is thrown away.
    pub async fn try_query(&self, sql: &str) -> anyhow::Result<()> {
        self.bytes(sql).await.map(|_| ())
    }

    /// The lowest key at or above `from`, and the highest; `None` where there is none.
    pub async fn key_range(
        &self,
        definition: &Definition,
        source: SourceId,
        from: u32,
    ) -> anyhow::Result<Option<(u32, u32)>> {
        let SourceSpec::Metrics(spec) = definition.source(source)? else { return Ok(None) };
        let key = format!("`{}`", spec.key.replace('\\', "\\\\").replace('`', "\\`"));
        let [count, min, max] = self
            .numbers(&format!(
                "SELECT toInt64(count()), toInt64(min({key})), toInt64(max({key})) FROM {} WHERE {key} >= {from}",
                spec.table
            ))
            .await?;
        if count == 0 {
            return Ok(None);
        }
        let document = |key: i64| bitdex_proto::ops::document_key(key, &spec.name);
        Ok(Some((document(min)?, document(max)?)))
    }

    /// Current values of all keys from `first` to `last`.
    pub async fn range(
        &self,
        definition: &Definition,
        source: SourceId,
        first: u32,
        last: u32,
    ) -> anyhow::Result<Vec<Op>> {
        let bytes = self.bytes(&definition.metrics_sql(source, MetricsFilter::Range(first, last))?).await?;
        Ok(definition.metrics_ops(source, &bytes)?)
    }

    /// Current values of the keys of which a row was inserted at `since` or later; none where no column tells.
    pub async fn changed_since(
        &self,
        definition: &Definition,
        source: SourceId,
        since: i64,
    ) -> anyhow::Result<Vec<Op>> {
        match definition.source(source)? {
            SourceSpec::Metrics(spec) if spec.inserted_at.is_some() => {
                let bytes = self.bytes(&definition.metrics_sql(source, MetricsFilter::ChangedSince(since))?).await?;
                Ok(definition.metrics_ops(source, &bytes)?)
            }
            _ => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{Router, extract::RawQuery, http::StatusCode, routing::post};

    use super::*;

    const DEFINITION: &str = r"
index: images
document: { table: image, key: id }
metrics:
  events:
    table: events
    key: imageId
    inserted_at: insertedAt
    fields:
      reactions: { type: int, sort: true, default: 0, sql: sum(delta) }
";

    /// Answers as ClickHouse does, to the few queries of these tests.
    async fn answer(RawQuery(query): RawQuery, sql: String) -> (StatusCode, Vec<u8>) {
        assert!(query.unwrap_or_default().contains("default_format=RowBinary"));
        let numbers = |numbers: &[i64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        if sql.contains("now()") {
            (StatusCode::OK, numbers(&[1_767_225_600]))
        } else if sql.contains("count()") {
            (StatusCode::OK, if sql.contains(">= 9") { numbers(&[0, 0, 0]) } else { numbers(&[2, 3, 8]) })
        } else if sql.contains("insertedAt") {
            (StatusCode::INTERNAL_SERVER_ERROR, b"Code: 47. DB::Exception: Unknown identifier insertedAt".to_vec())
        } else {
            let row = |key: i64, value: i64| [&key.to_le_bytes()[..], &[0], &value.to_le_bytes()].concat();
            (StatusCode::OK, [row(3, 5), row(8, -1)].concat())
        }
    }

    #[tokio::test]
    async fn reads_what_clickhouse_answers_and_names_what_it_refuses() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, Router::new().route("/", post(answer))).await });
        let args = ClickHouseArgs {
            clickhouse_url: Some(url),
            clickhouse_user: None,
            clickhouse_password: None,
            clickhouse_database: None,
        };
        let clickhouse = ClickHouse::new(&args).unwrap();
        let definition = Definition::parse(DEFINITION).unwrap();
        assert_eq!(clickhouse.now().await.unwrap(), 1_767_225_600);
        assert_eq!(clickhouse.key_range(&definition, 1, 0).await.unwrap(), Some((3, 8)));
        assert_eq!(clickhouse.key_range(&definition, 1, 9).await.unwrap(), None);
        let ops = clickhouse.range(&definition, 1, 3, 8).await.unwrap();
        assert!(matches!(&ops[..], [Op::Upsert { key: 3, .. }, Op::Upsert { key: 8, row: Some(_), .. }]), "{ops:?}");
        let error = clickhouse.changed_since(&definition, 1, 0).await.unwrap_err();
        assert!(format!("{error:#}").contains("Unknown identifier insertedAt"), "{error:#}");
        let findings = crate::check::check_clickhouse(&definition, &clickhouse).await.unwrap();
        let found: Vec<_> = findings.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("line 5: error: metrics events: "), "{found:?}");
        server.abort();
    }
}
