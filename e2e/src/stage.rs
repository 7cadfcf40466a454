//! The whole cast on one stage, for the demo and the benchmarks: both databases filled with the workload, two pods, one
//! sync, loaded and caught up.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{client::Client, definition::Definition, schema::Schema};

use crate::{
    clickhouse::ClickHouse,
    folders, http,
    postgres::{Postgres, Wanted},
    processes::{self, Feed, Options, Pair, Pod},
    terminal::{self, say, step},
    workload::{
        Workload,
        load::{Loaded, load},
    },
};

/// A load is slow on a small machine, and grows with the images.
const LOAD_LIMIT: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub struct Stage {
    pub workload: Workload,
    pub definition: Definition,
    // Processes go before the databases that they talk to.
    pub pair: Pair,
    pub postgres: Postgres,
    pub clickhouse: ClickHouse,
    pub loaded: Loaded,
    /// From the start of sync until both pods served.
    pub loading: Duration,
    /// Of all pods.
    pub client: Client,
    pub logs: PathBuf,
}

/// The definition of the workload.
pub fn definition_file() -> PathBuf {
    folders::workspace().join("docs/examples/images.yaml")
}

impl Stage {
    /// Sets everything up, telling each step.
    pub async fn set(workload: Workload, wanted: &Wanted, logs: &Path, options: Options<'_>) -> Result<Self> {
        step("Databases");
        let binaries = processes::build().await?;
        let postgres = Postgres::start(wanted, logs).await?;
        let clickhouse = ClickHouse::start(logs).await?;
        say(format!("Postgres {} at {}", postgres.version(), postgres.url()));
        say(format!("ClickHouse {} at {}", clickhouse.query("SELECT version()").await?.trim(), clickhouse.url()));
        let loaded = load(workload, &postgres, &clickhouse).await?;

        step("BitDex");
        let definition_file = definition_file();
        let definition = Definition::load(&definition_file)?;
        let feed = Feed {
            definition: definition_file,
            database_url: postgres.url().into(),
            clickhouse_url: clickhouse.url().into(),
            clickhouse_database: clickhouse.database().into(),
        };
        let mut pair = Pair::new(&binaries, &feed, logs, 2, options)?;
        say(format!("bitdex-sync check   {}", pair.command("check").await?.trim()));
        pair.command("setup").await?;
        say("bitdex-sync setup   triggers and the ops table are in place");
        let start = Instant::now();
        pair.start_pods()?;
        pair.sync.start()?;
        let rows = loaded.rows.iter().skip(1).sum();
        let loading = wait_for_load(&mut pair, rows, start).await;
        let loading = match loading {
            Ok(loading) => loading,
            Err(error) => bail!("{error:?}\n{}", pair.tails()),
        };
        let client = Client::connect(pair.grpc())?.with_deadline(Duration::from_secs(10));
        let logs = logs.to_owned();
        Ok(Self { workload, definition, pair, postgres, clickhouse, loaded, loading, client, logs })
    }

    pub fn schema(&self) -> &Arc<Schema> {
        self.definition.schema()
    }

    pub fn index(&self) -> String {
        self.definition.index().to_owned()
    }

    /// Ends everything in order; an error where something ends badly.
    pub async fn clear(mut self) -> Result<()> {
        self.pair.terminate().await?;
        self.clickhouse.close().await?;
        self.postgres.close().await
    }
}

/// Shows rows as sync reads them, until both pods are ready.
async fn wait_for_load(pair: &mut Pair, rows: u64, start: Instant) -> Result<Duration> {
    let http = http::client(Duration::from_secs(5))?;
    let metrics = format!("http://{}/metrics", pair.sync.http());
    let bar = terminal::bar("Load the index from Postgres", rows);
    let mut last = 0;
    loop {
        pair.check()?;
        if let Ok(answer) = http.get(&metrics).send().await
            && let Some(read) = sample(&answer.text().await?, "bitdex_sync_load_rows_total")
        {
            if read != last {
                bar.set_position(read);
            }
            last = read;
        }
        let ready = futures::future::join_all(pair.pods.iter().map(|pod| is_ready(&http, pod.process.http()))).await;
        if ready.into_iter().all(|ready| ready) {
            break;
        }
        if start.elapsed() > LOAD_LIMIT {
            bail!("the index is not loaded after {LOAD_LIMIT:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let elapsed = start.elapsed();
    terminal::done(&bar, "rows");
    Ok(elapsed)
}

async fn is_ready(http: &reqwest::Client, address: &str) -> bool {
    http.get(format!("http://{address}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
}

/// A value out of a page of Prometheus metrics: the sum over its labels.
pub fn sample(page: &str, name: &str) -> Option<u64> {
    let values = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with([' ', '{']) {
            return None;
        }
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| values.iter().sum::<f64>() as u64)
}

/// The place of a running pod of this role ("writer" or "reader") among the pods.
pub async fn find_role(pods: &[Pod], index: &str, role: &str) -> Result<usize> {
    for (place, pod) in pods.iter().enumerate() {
        if !pod.process.is_running() {
            continue;
        }
        let client = Client::connect(vec![pod.grpc().into()])?;
        if client.describe(index).await.is_ok_and(|answer| answer.role == role) {
            return Ok(place);
        }
    }
    None.with_context(|| format!("no pod says that it is the {role}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn reads_metrics() {
        let page = "# TYPE a counter\na 3\nab 5\na{x=\"1\"} 4\n";
        assert_eq!(super::sample(page, "a"), Some(7));
        assert_eq!(super::sample(page, "b"), None);
    }
}
