//! `make bench`: the project's goals, measured in one run over the same rows and with the same queries, side by side with
//! Postgres and tantivy.
//!
//! Searches and counts are measured in a process that follows the same files as any reader, without a network
//! (`search_…`), and through gRPC and HTTP (`grpc_…`, `http_…`). Each answer that others give too is compared.

mod beside;
mod engine;
mod ingest;
mod load;
mod measure;
mod roll;
mod search;
mod site;
mod store;
mod usage;
mod visible;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;

pub use measure::{Latencies, Results, size};

use crate::{
    folders,
    postgres::Wanted,
    processes::Options,
    stage::Stage,
    terminal::{count, say, seconds, step},
    workload::Workload,
};

/// A part of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// How fast the index is loaded, beside COPY alone.
    Load,
    /// Searches, pages and counts beside Postgres and tantivy, at each size.
    Search,
    /// Searches a second over gRPC and HTTP, with the server's CPU for each, at each size.
    Throughput,
    /// From commit to visible.
    Visible,
    /// Durable ingestion of batches.
    Ingest,
    /// The store by itself, at any size, without a database.
    Store,
    /// A rolling deploy: every process is replaced in turn under searches and ingestion, without a database.
    Roll,
    /// Searches and counts by kind of query, over a store of any size that is kept; only where it is named.
    Engine,
}

#[derive(Debug, Clone)]
pub struct Bench {
    pub images: u32,
    pub seed: u64,
    pub queries: usize,
    /// Empty: all.
    pub only: Vec<Part>,
    /// Millions of documents of the parts [`Part::Search`], [`Part::Throughput`], [`Part::Store`] and [`Part::Engine`].
    pub sizes: Vec<f64>,
    /// Minutes after which a set of queries in Postgres ends.
    pub postgres_minutes: f64,
    /// Minutes of paced ingestion there.
    pub minutes: f64,
}

impl Bench {
    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

pub async fn run(bench: Bench) -> Result<()> {
    let mut results = Results::default();
    if bench.wants(Part::Store) {
        store::measure(&bench, &mut results).await?;
    }
    if bench.wants(Part::Roll) {
        roll::measure(&bench, &mut results).await?;
    }
    if bench.only.contains(&Part::Engine) {
        for millions in &bench.sizes {
            let images = (millions * 1e6).round() as u32;
            engine::run(&engine::Options { images, seed: bench.seed, queries: bench.queries, folder: None })?;
        }
    }
    if bench.wants(Part::Search) || bench.wants(Part::Throughput) {
        beside::measure(&bench, &mut results).await?;
    }
    if [Part::Load, Part::Visible, Part::Ingest].into_iter().any(|part| bench.wants(part)) {
        with_databases(&bench, &mut results).await?;
    }
    step("Measured");
    results.write(&folder()?)
}

/// What needs Postgres and ClickHouse.
async fn with_databases(bench: &Bench, results: &mut Results) -> Result<()> {
    let logs = folders::logs("bench")?;
    let now_us = chrono::Utc::now().timestamp_micros();
    let workload = Workload { images: bench.images, seed: bench.seed, now_us };
    let wanted = Wanted { shared_buffers: "2GB", ..Wanted::default() };
    // One connection: what the goal for a load is about.
    let options = Options {
        query: &["--drain-seconds", "0"],
        sync: &["--metrics-interval-ms", "1000", "--load-connections", "1"],
    };
    let mut stage = Stage::set(workload, &wanted, &logs, options).await?;
    say(format!("{} documents loaded in {}", count(bench.images.into()), seconds(stage.loading)));
    if let Err(error) = parts(bench, &mut stage, results).await {
        bail!("{error:?}\n{}", stage.pair.tails());
    }
    stage.clear().await
}

async fn parts(bench: &Bench, stage: &mut Stage, results: &mut Results) -> Result<()> {
    if bench.wants(Part::Load) {
        step("Load");
        load::measure(stage, results).await?;
    }
    usage::measure(stage, results).await?;
    if bench.wants(Part::Visible) {
        step("From commit to visible");
        visible::measure(stage, results).await?;
    }
    // Last: it leaves changes that the database does not have.
    if bench.wants(Part::Ingest) {
        step("Ingestion");
        ingest::measure(stage, results).await?;
    }
    Ok(())
}

/// `target/bench`.
fn folder() -> Result<PathBuf> {
    Ok(folders::target()?.with_file_name("bench"))
}
