//! The command line.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Exit status for a definition or setting that cannot be used (EX_USAGE of sysexits.h).
pub const EXIT_BAD_DEFINITION: u8 = 64;

/// Follows Postgres and ClickHouse, and streams their changes to bitdex-query.
///
/// One YAML file, the definition, says what the index holds; everything else is derived from it. In order:
///
///   bitdex-sync view    prints the SQL query that the index will equal
///   bitdex-sync check   compares the definition with the database and names every mistake
///   bitdex-sync setup   creates the ops tables and triggers (needs a role that owns the tables)
///   bitdex-sync run     loads the index if it is empty, then follows (needs only the runtime role)
///   bitdex-sync status  shows where it stands
///
/// Exit status: 0 done, 1 failed (or mistakes found), 64 bad definition or settings.
#[derive(Debug, Parser)]
#[command(version, verbatim_doc_comment, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub logging: Logging,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
pub struct Logging {
    /// Which log lines to write, as in `info`, `bitdex_sync=debug`.
    #[arg(long, env = "BITDEX_LOG", default_value = "info", global = true)]
    pub log: String,
    /// How log lines look, on standard error.
    #[arg(long, env = "BITDEX_LOG_FORMAT", value_name = "FORMAT", default_value = "text", global = true)]
    pub log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Validate the definition against the live database, and name every mistake with its line. Changes nothing.
    Check(CheckArgs),
    /// Create or reconcile the ops tables and triggers. Repeat it whenever the definition changes; it touches only what
    /// differs.
    Setup(SetupArgs),
    /// Load the index from Postgres (COPY, resumable), follow until it has caught up, and end.
    Dump(DumpArgs),
    /// Load the index if it is empty, then follow Postgres and ClickHouse until told to stop.
    Run(RunArgs),
    /// Show cursors, lag, backlog and errors; from a running daemon, or from Postgres and bitdex-query directly.
    Status(StatusArgs),
    /// Print the SQL query that the index equals.
    View(ViewArgs),
}

#[derive(Debug, Clone, Args)]
pub struct DefinitionArgs {
    /// The definition file.
    #[arg(short, long, env = "BITDEX_DEFINITION", value_name = "FILE")]
    pub definition: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct PostgresArgs {
    /// postgres://user:password@host:port/database; the rest as libpq reads it from PG* variables.
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: String,
}

#[derive(Debug, Clone, Args)]
pub struct ClickHouseArgs {
    /// http://host:8123; needed where the definition has metrics.
    #[arg(long, env = "CLICKHOUSE_URL", value_name = "URL", hide_env_values = true)]
    pub clickhouse_url: Option<String>,
    #[arg(long, env = "CLICKHOUSE_USER", value_name = "USER")]
    pub clickhouse_user: Option<String>,
    #[arg(long, env = "CLICKHOUSE_PASSWORD", value_name = "PASSWORD", hide_env_values = true)]
    pub clickhouse_password: Option<String>,
    #[arg(long, env = "CLICKHOUSE_DATABASE", value_name = "DATABASE")]
    pub clickhouse_database: Option<String>,
}

#[derive(Debug, Clone, Args)]
pub struct QueryArgs {
    /// gRPC addresses of bitdex-query; any that reaches a member of the group will do, for readers name the writer.
    #[arg(long, env = "BITDEX_QUERY", value_name = "HOST:PORT,…", value_delimiter = ',', required = true)]
    pub query: Vec<String>,
    /// Name of this index copy in `consumers`; one for each group of bitdex-query that is fed on its own.
    #[arg(long, env = "BITDEX_CONSUMER", default_value = "main", value_name = "NAME")]
    pub consumer: String,
}

#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Connections that read from Postgres during a load.
    #[arg(long, env = "BITDEX_LOAD_CONNECTIONS", default_value_t = 4, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub load_connections: u16,
    /// Rows that one part of a load holds, about; a part is read in one transaction and is what a resumed load repeats.
    #[arg(long, env = "BITDEX_LOAD_ROWS_PER_PART", default_value_t = 500_000, value_name = "ROWS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub load_rows_per_part: u64,
}

#[derive(Debug, Clone, Args)]
pub struct FollowArgs {
    /// Pause between polls that found nothing.
    #[arg(long, env = "BITDEX_POLL_INTERVAL_MS", default_value_t = 10, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub poll_interval_ms: u64,
    /// Pause between reads of the metrics' trailing window.
    #[arg(long, env = "BITDEX_METRICS_INTERVAL_MS", default_value_t = 1000, value_name = "MS",
          value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub metrics_interval_ms: u64,
    /// How far the metrics' window reaches back before what it covered: rows may become visible this late.
    #[arg(long, env = "BITDEX_METRICS_OVERLAP_S", default_value_t = 60, value_name = "S",
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub metrics_overlap_s: u64,
    /// Time between sweeps that read all metrics again.
    #[arg(long, env = "BITDEX_METRICS_SWEEP_S", default_value_t = 86_400, value_name = "S",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub metrics_sweep_s: u64,
}

impl FollowArgs {
    pub fn poll_interval(&self) -> Duration {
        Duration::from_millis(self.poll_interval_ms)
    }
}

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub definition: DefinitionArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub clickhouse: ClickHouseArgs,
}

#[derive(Debug, Clone, Args)]
pub struct SetupArgs {
    #[command(flatten)]
    pub definition: DefinitionArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    /// Grant what `run` and `dump` need to this role.
    #[arg(long, env = "BITDEX_RUNTIME_ROLE", value_name = "ROLE")]
    pub runtime_role: Option<String>,
    /// Grant what a service needs to write external fields to this role.
    #[arg(long, env = "BITDEX_WRITER_ROLE", value_name = "ROLE")]
    pub writer_role: Option<String>,
    /// Remove the triggers and the schema with everything in it instead.
    #[arg(long)]
    pub remove: bool,
    /// Give up on a table that stays locked after this long.
    #[arg(long, env = "BITDEX_LOCK_PATIENCE_S", default_value_t = 60, value_name = "S")]
    pub lock_patience_s: u64,
}

#[derive(Debug, Clone, Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub definition: DefinitionArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub query: QueryArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    /// Load again though the index has data, or an unfinished load; it does not serve until the new load is complete.
    #[arg(long)]
    pub anew: bool,
    /// End after the load; let `run` catch up.
    #[arg(long)]
    pub no_catch_up: bool,
}

#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub definition: DefinitionArgs,
    #[command(flatten)]
    pub postgres: PostgresArgs,
    #[command(flatten)]
    pub clickhouse: ClickHouseArgs,
    #[command(flatten)]
    pub query: QueryArgs,
    #[command(flatten)]
    pub load: LoadArgs,
    #[command(flatten)]
    pub follow: FollowArgs,
    /// Where /metrics, /healthz, /readyz and /status answer.
    #[arg(long, env = "BITDEX_SYNC_HTTP_LISTEN", default_value = "0.0.0.0:7602", value_name = "ADDRESS")]
    pub http_listen: SocketAddr,
    /// How long ops stay in the database after every consumer has them, in seconds.
    #[arg(long, env = "BITDEX_RETENTION_S", default_value_t = 86_400, value_name = "S")]
    pub retention_s: u64,
}

#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// Address of a running daemon's HTTP; without it Postgres and bitdex-query are asked.
    #[arg(long, env = "BITDEX_SYNC_URL", value_name = "http://HOST:PORT")]
    pub sync_url: Option<String>,
    #[arg(short, long, env = "BITDEX_DEFINITION", value_name = "FILE")]
    pub definition: Option<PathBuf>,
    #[arg(long, env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
    #[arg(long, env = "BITDEX_QUERY", value_name = "HOST:PORT,…", value_delimiter = ',')]
    pub query: Vec<String>,
}

#[derive(Debug, Clone, Args)]
pub struct ViewArgs {
    #[command(flatten)]
    pub definition: DefinitionArgs,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
