//! Programs over real databases and the real binaries: the demo, the benchmarks, the oracle test.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use e2e::{
    bench::{self, Bench},
    demo::{self, Demo},
    oracle,
    terminal::{count, say},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs BitDex between a real Postgres and a real ClickHouse.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Random transactions, kills and restarts; the index must equal the view at each quiet point.
    Oracle(Oracle),
    /// Sample data, the pair beside it, and changes that queries follow; stays up with lines to try.
    Demo(DemoArguments),
    /// The project's goals, measured beside Postgres and tantivy; writes tables, target/bench/summary.json, every latency
    /// and plots.
    Bench(BenchArguments),
}

#[derive(Debug, Args)]
struct BenchArguments {
    /// Images of the parts that need both databases, `load`, `visible` and `ingest`, and of `roll`.
    #[arg(long, env = "IMAGES", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    images: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Queries of the mix.
    #[arg(long, default_value_t = 1_000)]
    queries: usize,
    /// Only these parts.
    #[arg(long, env = "ONLY", value_delimiter = ',')]
    only: Vec<bench::Part>,
    /// Millions of documents at which the parts `search`, `throughput`, `store` and `engine` measure.
    #[arg(long, env = "SIZES", value_delimiter = ',', default_value = "1")]
    sizes: Vec<f64>,
    /// Minutes after which Postgres is asked no more, for each kind of query and round in the part `search`; how many
    /// queries it has answered by then is told.
    #[arg(long, env = "POSTGRES_MINUTES", default_value_t = 15.0)]
    postgres_minutes: f64,
    /// Minutes of paced ingestion in the part `store`.
    #[arg(long, env = "MINUTES", default_value_t = 0.5)]
    minutes: f64,
}

#[derive(Debug, Args)]
struct DemoArguments {
    #[arg(long, env = "IMAGES", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..))]
    images: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// End after everything was shown; exit status 0 only if all of it was right.
    #[arg(long, env = "ONCE", value_parser = clap::builder::FalseyValueParser::new(), default_value = "0",
          default_missing_value = "1", num_args = 0..=1)]
    once: bool,
}

#[derive(Debug, Args)]
struct Oracle {
    /// Seed of the run; a random one unless given.
    #[arg(long, env = "BITDEX_TEST_SEED")]
    seed: Option<u64>,
    /// Major version of Postgres.
    #[arg(long)]
    postgres: Option<u32>,
    /// Images at the start, instead of 20 000.
    #[arg(long)]
    images: Option<u32>,
    #[arg(long)]
    transactions: Option<u64>,
    #[arg(long)]
    connections: Option<u64>,
    /// Quiet points.
    #[arg(long)]
    rounds: Option<u64>,
    #[arg(long)]
    queries: Option<u64>,
    /// Whether one transaction changes more keys than one batch takes; true unless the number of images is given.
    #[arg(long)]
    backlog: Option<bool>,
}

impl Oracle {
    fn options(&self) -> oracle::Options {
        let full = oracle::Options::full(self.seed.unwrap_or_else(rand::random));
        oracle::Options {
            images: self.images.unwrap_or(full.images),
            postgres: self.postgres,
            transactions: self.transactions.unwrap_or(full.transactions),
            connections: self.connections.unwrap_or(full.connections),
            rounds: self.rounds.unwrap_or(full.rounds),
            queries: self.queries.unwrap_or(full.queries),
            backlog: self.backlog.unwrap_or(self.images.is_none()),
            ..full
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    match cli.command {
        Command::Demo(DemoArguments { images, seed, once }) => demo::run(Demo { images, seed, once }).await?,
        Command::Bench(BenchArguments { images, seed, queries, only, sizes, postgres_minutes, minutes }) => {
            bench::run(Bench { images, seed, queries, only, sizes, postgres_minutes, minutes }).await?;
        }
        Command::Oracle(arguments) => {
            let summary = oracle::run(arguments.options()).await?;
            say(format!(
                "Postgres {}: {} transactions committed, {} rolled back, {} kills, {} quiet points, {} documents and {} \
                 random queries equal",
                summary.postgres,
                count(summary.committed),
                count(summary.rolled_back),
                summary.kills,
                summary.quiet_points,
                count(summary.documents),
                count(summary.queries),
            ));
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(format!("error: {error:?}"));
            ExitCode::FAILURE
        }
    }
}
