//! `bitdex-query`: parse, build, run, drain.

use std::{
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use bitdex_proto::{Error, definition::Definition};
use bitdex_query::{
    cli::{Check, Cli, Command, Inspect, LogFormat, Serve},
    inspect::{self, Report, check::Checked},
    mapping::{
        bus::name_unreadable_files,
        slices::{ANSWERING, set_slice},
    },
    server::Server,
    store::{Folder, format, raise::raise},
};
use clap::Parser as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE`: trying again with the same configuration cannot succeed.
const BAD_CONFIGURATION: u8 = 64;
/// How often a check tells how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. Nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(BAD_CONFIGURATION) } else { ExitCode::SUCCESS };
        }
    };
    let result = match cli.command {
        Command::Serve(options) => run(&options),
        Command::Validate { definition } => validate(&definition),
        Command::Inspect(options) => return exit(inspect(&options)),
        Command::Check(options) => return exit(check(&options)),
        Command::RaiseFormat { data, patience_seconds } => raise_format(&data, Duration::from_secs(patience_seconds)),
    };
    exit(result.map(|()| true))
}

/// A thread that answers takes the core from those that change, as soon as there is something to answer. Where it is
/// refused, answers wait a little longer.
fn answer_soon() {
    let _ = set_slice(ANSWERING);
}

/// Connections and files of the store share the limit of open files: the soft one, often 1 024, is raised to the hard one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, ?limit, "the limit of open files stays as it is");
    }
}

/// `Ok(false)`: something is wrong, and was told.
fn exit(result: anyhow::Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Whoever reads has seen enough; but whether something is wrong was not told to the end.
            if !is_broken_pipe(&error) {
                // Standard error may be closed.
                let _ = writeln!(std::io::stderr(), "bitdex-query: {error:#}");
            }
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(options: &Serve) -> anyhow::Result<()> {
    start_logging(options.log_format, &options.log)?;
    raise_descriptor_limit();
    name_unreadable_files().context("SIGBUS cannot be handled")?;
    let definition = Definition::load(&options.definition)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .on_thread_start(answer_soon)
        .build()
        .context("the runtime cannot start")?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut server = Server::bind(definition.schema().clone(), options).await?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let reason = server.run_until(stop).await?;
        tracing::info!(reason, "draining");
        server.drain().await;
        Ok(())
    })
}

fn validate(path: &std::path::Path) -> anyhow::Result<()> {
    let definition = Definition::load(path)?;
    let schema = definition.schema();
    let mut out = std::io::stdout().lock();
    writeln!(out, "index {} (hash {})", schema.index, schema.hash)?;
    for field in &schema.fields {
        let many = if field.many { ", many" } else { "" };
        let filter = if field.filter { ", filter" } else { "" };
        let sort = if field.sort { ", sort" } else { "" };
        writeln!(out, "  {}: {}{many}{filter}{sort}", field.name, field.ty)?;
    }
    for filter in &schema.filters {
        writeln!(out, "  filter {}: {}", filter.name, filter.text)?;
    }
    Ok(())
}

/// Whether nothing is wrong.
fn inspect(options: &Inspect) -> anyhow::Result<bool> {
    let schema = options.definition.as_deref().map(Definition::load).transpose()?;
    let folder = Folder::open(&options.data, false).map_err(Error::from)?;
    let report = Report::read(&folder, schema.as_ref().map(Definition::schema)).map_err(Error::from)?;
    let mut out = std::io::stdout().lock();
    if options.json {
        serde_json::to_writer_pretty(&mut out, &report)?;
        writeln!(out)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(report.problems.is_empty())
}

/// Whether nothing is wrong.
fn check(options: &Check) -> anyhow::Result<bool> {
    let definition = Definition::load(&options.definition)?;
    let folder = Folder::open(&options.data, false).map_err(Error::from)?;
    let mut told = Instant::now();
    let mut progress = |what: &str| {
        if !options.quiet && told.elapsed() >= PROGRESS {
            told = Instant::now();
            // Standard error may be closed.
            let _ = writeln!(std::io::stderr(), "{what}");
        }
    };
    let checked = inspect::check::check(&folder, definition.schema(), &mut progress).map_err(Error::from)?;
    let mut out = std::io::stdout().lock();
    for (n, line) in checked.findings.lines().iter().enumerate() {
        if n > 0 && n == checked.damage {
            writeln!(out, "what follows may come of that damage:")?;
        }
        writeln!(out, "{line}")?;
    }
    let Checked { files, bytes, records, unsure, torn, documents, rows, compared, .. } = checked;
    let found = match checked.findings.count() {
        0 => "nothing is wrong".into(),
        1 => "1 finding".into(),
        count => format!("{count} findings"),
    };
    if !compared {
        writeln!(out, "what is indexed was not compared with the rows, because the version cannot be opened whole")?;
    }
    if unsure > 0 || torn > 0 {
        writeln!(
            out,
            "behind the last record that is known to be durable the log has {unsure} more, and {torn} bytes of none: a \
             writer's last moments, or what a lost FRONTIER no longer tells"
        )?;
    }
    let contents = match compared {
        true => format!(", {documents} documents, {rows} rows"),
        false => String::new(),
    };
    writeln!(out, "{found}: {files} files of {bytes} bytes, {records} records of the log{contents}")?;
    Ok(checked.findings.is_empty())
}

fn raise_format(data: &std::path::Path, patience: Duration) -> anyhow::Result<()> {
    let folder = Folder::open(data, false).map_err(Error::from)?;
    let before = raise(&folder, patience).map_err(Error::from)?;
    let mut out = std::io::stdout().lock();
    match format::NEWEST {
        now if before == now => writeln!(out, "the store has format {now} already")?,
        now => writeln!(out, "raised the store's format from {before} to {now}")?,
    }
    Ok(())
}

fn start_logging(format: LogFormat, filter: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|error| {
        anyhow!(Error::invalid(format!("--log: {error}; give a level, as in `info`, or levels by module")))
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<Error>() {
        Some(Error::Invalid(_) | Error::NotFound(_) | Error::Precondition(_)) => BAD_CONFIGURATION,
        _ => 1,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
