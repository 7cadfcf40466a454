//! `bitdex-sync run`: all parts side by side, until told to stop.

mod cleaning;
mod follow;
pub mod health;
mod http;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bitdex_proto::{client::IngestClient, definition::Definition};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::follow::{Follower, ensure_set_up};
use crate::{
    capture::{Cleanup, Consumer, Plan},
    cli::{LoadArgs, RunArgs},
    load::Loader,
    metrics::MetricsFollower,
    postgres::Database,
};

/// How long parts may take to stop.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A loader with these settings.
pub fn loader(
    definition: &Arc<Definition>,
    database: &Database,
    client: &Arc<IngestClient>,
    consumer: &str,
    args: &LoadArgs,
) -> Loader {
    Loader {
        definition: Arc::clone(definition),
        database: database.clone(),
        client: Arc::clone(client),
        consumer: Consumer::new(definition.index(), consumer),
        connections: usize::from(args.load_connections),
        rows_per_part: args.load_rows_per_part,
    }
}

/// Runs until `stop`.
pub async fn run(definition: Arc<Definition>, args: RunArgs, stop: CancellationToken) -> anyhow::Result<()> {
    let database = Database::new(&args.postgres.database_url)?;
    let client = Arc::new(IngestClient::new(args.query.query.clone())?);
    let plan = Arc::new(Plan::new(Arc::clone(&definition), &args.query.consumer)?);
    let metrics = PrometheusBuilder::new().install_recorder().context("metrics cannot be installed")?;
    let health = health::Health::default();
    let schema = definition.schema();

    let mut tasks = JoinSet::new();
    let follower = Follower {
        loader: loader(&definition, &database, &client, &args.query.consumer, &args.load),
        definition: Arc::clone(&definition),
        database: database.clone(),
        client: Arc::clone(&client),
        plan,
        poll_interval: args.follow.poll_interval(),
        reporter: health.part("postgres"),
        stop: stop.clone(),
    };
    tasks.spawn(follower.run());
    let cleanup = Cleanup::new(definition.index(), Duration::from_secs(args.retention_s));
    tasks.spawn(cleaning::run(database, cleanup, health.part("cleanup"), stop.clone()));
    if schema.has_metrics() {
        let url = args.clickhouse.clickhouse_url.as_ref();
        anyhow::ensure!(url.is_some(), "the definition has metrics: give --clickhouse-url");
        let follower = MetricsFollower::new(
            &definition,
            &args.clickhouse,
            &args.follow,
            client,
            health.part("clickhouse"),
            stop.clone(),
        )?;
        tasks.spawn(follower.run());
    }
    let (address, http) =
        http::serve(args.http_listen, definition.index(), &schema.hash, health, Some(metrics), stop.clone()).await?;
    tracing::info!(index = definition.index(), http = %address, "bitdex-sync runs");

    // A part ends by itself only by a fault of ours; the others then make no sense.
    tokio::select! {
        () = stop.cancelled() => {}
        ended = tasks.join_next() => {
            stop.cancel();
            if let Some(Err(error)) = ended {
                return Err(anyhow::Error::from(error).context("a part of the daemon failed"));
            }
        }
    }
    let stopping = async {
        while tasks.join_next().await.is_some() {}
        http.await
    };
    if tokio::time::timeout(STOP_GRACE, stopping).await.is_err() {
        tracing::warn!("some parts did not stop in time");
    }
    tracing::info!("stopped");
    Ok(())
}
