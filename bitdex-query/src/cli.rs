//! The command line. Every option can come from the environment as well; an option given wins over it.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::store::{format, policy::Settings};

/// Fast filter, sort and page queries over an index that follows a Postgres database.
#[derive(Debug, Parser)]
#[command(
    name = "bitdex-query",
    version,
    after_help = "Exit status: 0 after a graceful end, 64 for a wrong command line, definition or data folder, 1 for \
                  any other failure."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve one index: queries over gRPC and HTTP, and writes while this process is the writer.
    ///
    /// Any number of processes on one machine serve the same data folder. One of them holds its lock and is the writer;
    /// the others follow its log, answer queries, and one takes over at once when the writer ends.
    #[command(after_help = "Example:\n  bitdex-query serve --definition images.yaml --data /var/lib/bitdex\n  \
                            curl -s localhost:7601/v1/describe")]
    Serve(Box<Serve>),
    /// Check a definition file, and print what the index would hold.
    Validate {
        /// The YAML file that says what the index holds.
        #[arg(long, env = "BITDEX_DEFINITION", value_name = "FILE")]
        definition: PathBuf,
    },
    /// Show what a data folder holds: versions, files, sizes by field, dead space, the log, the writer.
    ///
    /// Reads only headers and directories, so it takes milliseconds; changes nothing, and may run beside serving
    /// processes. Files marked dead are not needed any more; the next writer, or the running one, removes them.
    #[command(after_help = "Exit status: 0, 1 where a file is missing or damaged, 64 for a wrong definition or \
                            folder.\n\nExample:\n  bitdex-query inspect --data /var/lib/bitdex\n  \
                            bitdex-query inspect --data /var/lib/bitdex --json | jq .dead_bytes")]
    Inspect(Inspect),
    /// Verify a data folder: every checksum of every file, and that what is indexed is what the rows say.
    ///
    /// Reads everything, on every core; changes nothing, and may run beside serving processes: it checks the newest
    /// version. Each finding is one line that names the file and the place; how far it is, it tells on standard error.
    #[command(after_help = "Exit status: 0 where nothing is wrong, 1 with findings, 64 for a wrong definition or \
                            folder.\n\nExample:\n  bitdex-query check --data /var/lib/bitdex --definition images.yaml")]
    Check(Check),
    /// Let files be written in the newest format, once no process of an older release is left.
    ///
    /// A release reads its own format and the one before, and writes the format that the store has, so that pods can be
    /// replaced one after another, and back. Raise the format when the older release is not needed any more: it cannot
    /// read the store afterwards. Where the folder has a writer it is asked, otherwise the manifest is replaced here.
    #[command(
        after_help = "Example:\n  kubectl exec deploy/bitdex-query -- bitdex-query raise-format --data /var/lib/bitdex"
    )]
    RaiseFormat {
        /// Folder of the index.
        #[arg(long, env = "BITDEX_DATA", value_name = "FOLDER")]
        data: PathBuf,
        /// Seconds to wait for the writer.
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        patience_seconds: u64,
    },
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// Folder of the index.
    #[arg(long, env = "BITDEX_DATA", value_name = "FOLDER")]
    pub data: PathBuf,

    /// Name fields by the definition instead of by number.
    #[arg(long, env = "BITDEX_DEFINITION", value_name = "FILE")]
    pub definition: Option<PathBuf>,

    /// Print JSON, with the sections of each file.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Folder of the index.
    #[arg(long, env = "BITDEX_DATA", value_name = "FOLDER")]
    pub data: PathBuf,

    /// The YAML file that says what the index holds.
    #[arg(long, env = "BITDEX_DEFINITION", value_name = "FILE")]
    pub definition: PathBuf,

    /// Tell no progress on standard error.
    #[arg(long)]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Serve {
    /// The YAML file that says what the index holds; bitdex-sync must be given the same.
    #[arg(long, env = "BITDEX_DEFINITION", value_name = "FILE")]
    pub definition: PathBuf,

    /// Folder of the index, on a local file system; made where it is missing.
    #[arg(long, env = "BITDEX_DATA", value_name = "FOLDER")]
    pub data: PathBuf,

    /// Where to serve gRPC (queries, ingestion, health, reflection). Port 0: any free one, see the line `listening`.
    #[arg(long, env = "BITDEX_GRPC_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:7600")]
    pub grpc_listen: SocketAddr,

    /// Where to serve HTTP (queries in JSON, /metrics, /healthz, /readyz).
    #[arg(long, env = "BITDEX_HTTP_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:7601")]
    pub http_listen: SocketAddr,

    /// Serve gRPC on a Unix socket too, for clients on this machine (`unix:/run/bitdex.sock`). Who may use it, the
    /// folder's permissions say.
    #[arg(long, env = "BITDEX_GRPC_SOCKET", value_name = "PATH")]
    pub grpc_socket: Option<PathBuf>,

    /// Serve HTTP on a Unix socket too.
    #[arg(long, env = "BITDEX_HTTP_SOCKET", value_name = "PATH")]
    pub http_socket: Option<PathBuf>,

    /// host:port under which other processes reach this one's gRPC: readers name it to whoever wants to write.
    /// Without it: the address of --grpc-listen, as this machine's loopback where that is 0.0.0.0.
    #[arg(long, env = "BITDEX_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,

    /// Only ever read: never become the writer (a sidecar with a read-only volume).
    #[arg(long, env = "BITDEX_READER_ONLY")]
    pub reader_only: bool,

    /// Changes that may stand in memory before they are in files, in MiB; past it senders are slowed. Half of it is
    /// brought into files at once. Every process of the folder may need as much.
    #[arg(long, env = "BITDEX_UNFLUSHED_MB", value_name = "MIB", default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub unflushed_mb: u32,

    /// Bring changes into files at least this often, in seconds, where there are any; a restart replays what came since.
    #[arg(long, env = "BITDEX_FLUSH_SECONDS", value_name = "SECONDS", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub flush_seconds: u32,

    /// Memory for building the index of a load, in MiB.
    #[arg(long, env = "BITDEX_BUILD_MB", value_name = "MIB", default_value_t = 1024,
          value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub build_mb: u32,

    /// Threads that build the index of a load. Default: one for each core.
    #[arg(long, env = "BITDEX_BUILD_THREADS", value_name = "THREADS",
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub build_threads: Option<u16>,

    /// Changes that may wait to become durable, in MiB; past it senders are slowed.
    #[arg(long, env = "BITDEX_MAX_QUEUE_MB", value_name = "MIB", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub max_queue_mb: u32,

    /// The latest format of a store to read, and the one in which a new store is made. With the format before the newest
    /// this process acts as the release before: make a new store with it where you may have to go back to that release.
    #[arg(long, env = "BITDEX_NEWEST_FORMAT", value_name = "FORMAT", default_value_t = format::NEWEST,
          value_parser = clap::value_parser!(u32).range(i64::from(format::OLDEST)..=i64::from(format::NEWEST)))]
    pub newest_format: u32,

    /// Blocks of 65 536 documents in which one query may evaluate its filter; as many entries of an index that it passes
    /// count as one more. A query that needs more is refused. Default: any number.
    #[arg(long, env = "BITDEX_MAX_QUERY_BLOCKS", value_name = "BLOCKS", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_query_blocks: Option<u64>,

    /// After SIGTERM: seconds to go on answering while load balancers learn that this process is going.
    #[arg(long, env = "BITDEX_DRAIN_SECONDS", value_name = "SECONDS", default_value_t = 3)]
    pub drain_seconds: u64,

    /// How log lines look, on standard error.
    #[arg(long, env = "BITDEX_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or levels by module, as in `info,bitdex_query=debug`.
    #[arg(long, env = "BITDEX_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
}

impl Serve {
    pub fn flush(&self) -> Settings {
        Settings {
            memory: u64::from(self.unflushed_mb) << 20,
            age: Duration::from_secs(self.flush_seconds.into()),
            ..Settings::default()
        }
    }

    pub fn build_memory(&self) -> usize {
        (self.build_mb as usize) << 20
    }

    pub fn queue_bytes(&self) -> usize {
        (self.max_queue_mb as usize) << 20
    }

    pub fn lame_duck(&self) -> Duration {
        Duration::from_secs(self.drain_seconds)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}
