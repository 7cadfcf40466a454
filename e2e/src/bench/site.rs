//! One `bitdex-query` process over a store of the workload's rows, loaded as bitdex-sync loads it, at rest.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Context as _, Result};
use bitdex_proto::{
    client::{Client, IngestClient},
    schema::Schema,
};
use bitdex_query::node::{Node, NodeOptions};

use crate::{
    bench::store::{
        READY, at_rest,
        feed::{self, Feeder},
        rows, wait_for_writer,
    },
    folders,
    processes::{Binaries, Pod},
    stage::definition_file,
    terminal::{count, say, seconds},
    workload::{Workload, generate::Generator},
};

/// The process goes before its files.
pub(super) struct Site {
    pub(super) pod: Pod,
    /// Goes on where the rows end.
    pub(super) generator: Generator,
    folder: tempfile::TempDir,
}

impl Site {
    pub(super) async fn set(
        workload: Workload,
        schema: &Arc<Schema>,
        binaries: &Binaries,
        logs: &Path,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("beside-").tempdir_in(folders::reachable("data")?)?;
        let start = Instant::now();
        let made = folder.path().join("rows");
        std::fs::create_dir_all(&made)?;
        let rows = tokio::task::block_in_place(|| rows::make(workload, schema, &made))?;
        let data = folder.path().join("data");
        // At rest soon, without waiting for the usual tick.
        let options = ["--drain-seconds", "0", "--flush-seconds", "2"];
        let mut pod = Pod::new(0, binaries, &definition_file(), &data, logs, &options)?;
        pod.process.start()?;
        let client = IngestClient::new(vec![pod.grpc().into()])?;
        wait_for_writer(&client, schema).await?;
        feed::load(&client, schema, &rows).await?;
        Feeder::open(&client, schema, "postgres").await?.batch(Vec::new()).await?;
        let mut clickhouse = Feeder::open(&client, schema, "clickhouse").await?;
        clickhouse.batches(feed::metrics(schema, &rows.metrics)?).await?;
        drop(clickhouse);
        pod.process.ready(READY).await?;
        at_rest(&data).await?;
        say(format!("{} documents loaded, at rest: {}", count(rows.documents), seconds(start.elapsed())));
        Ok(Self { pod, generator: rows.generator, folder })
    }

    pub(super) fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    /// For what is measured beside.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn client(&self) -> Result<Client> {
        let client = Client::connect(vec![self.pod.grpc().into()])?;
        Ok(client.with_deadline(std::time::Duration::from_secs(30)))
    }

    pub(super) fn pid(&self) -> Result<u32> {
        self.pod.process.pid().context("the process does not run")
    }

    /// This process becomes one more reader of the files.
    pub(super) async fn follow(&self, schema: &Arc<Schema>) -> Result<Arc<Node>> {
        let mut options = NodeOptions::new(Arc::clone(schema), self.data());
        options.reader_only = true;
        let node = Node::open(options).await?;
        node.wait_for(None, 0, tokio::time::Instant::now() + READY).await?;
        Ok(node)
    }
}
