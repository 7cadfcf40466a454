//! What each subcommand does, from the command line to the exit status.

use std::{
    io::{IsTerminal as _, Write as _},
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use bitdex_proto::{
    client::{Client, IngestClient},
    definition::Definition,
    snapshot::PgCursor,
    wire,
};
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::{
    check::{self, Severity},
    cli::{CheckArgs, Cli, Command, DumpArgs, EXIT_BAD_DEFINITION, LogFormat, Logging, SetupArgs},
    daemon::{self, ensure_set_up, health::Health},
    load::{POSTGRES_SOURCE, Progress},
    metrics::ClickHouse,
    postgres::{Database, Purpose},
    setup::Setup,
    status,
};

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = start_logging(&cli.logging) {
        return fail(&error, EXIT_BAD_DEFINITION);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into(), 1),
    };
    match runtime.block_on(dispatch(cli.command)) {
        Ok(code) => code,
        Err(error) if error.is::<BadDefinition>() => fail(&error, EXIT_BAD_DEFINITION),
        Err(error) => fail(&error, 1),
    }
}

fn fail(error: &anyhow::Error, code: u8) -> ExitCode {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::from(code)
}

fn say(line: impl std::fmt::Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("standard output")
}

fn start_logging(logging: &Logging) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&logging.log).context("--log")?;
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match logging.log_format {
        LogFormat::Json => subscriber.json().init(),
        LogFormat::Text => subscriber.init(),
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct BadDefinition(bitdex_proto::Error);

fn definition(path: &Path) -> anyhow::Result<Arc<Definition>> {
    Ok(Arc::new(Definition::load(path).map_err(BadDefinition)?))
}

async fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Check(args) => check(args).await,
        Command::Setup(args) => setup(args).await,
        Command::Dump(args) => dump(args).await,
        Command::Run(args) => {
            let definition = definition(&args.definition.definition)?;
            daemon::run(definition, args, stop_signal()?).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status(args) => {
            say(status::text(args).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::View(args) => {
            say(definition(&args.definition.definition)?.view_sql())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        token.cancel();
    });
    Ok(stop)
}

async fn check(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let definition = definition(&args.definition.definition)?;
    let mut connection = Database::new(&args.postgres.database_url)?.connect(Purpose::Admin).await?;
    let mut findings: Vec<_> = check::check_postgres(&definition, &mut connection).await?.iter().cloned().collect();
    if definition.schema().has_metrics() {
        if args.clickhouse.clickhouse_url.is_some() {
            let clickhouse = ClickHouse::new(&args.clickhouse)?;
            findings.extend(check::check_clickhouse(&definition, &clickhouse).await?.iter().cloned());
        } else {
            say("note: the metrics were not checked: give --clickhouse-url")?;
        }
    }
    for finding in &findings {
        say(finding)?;
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let schema = definition.schema();
    if errors > 0 {
        say(format!("{errors} errors, {warnings} warnings"))?;
        return Ok(ExitCode::from(1));
    }
    say(format!(
        "OK: index {}, {} fields from {} sources over {} tables, {warnings} warnings",
        schema.index,
        schema.fields.len(),
        schema.sources.len(),
        definition.tables().len()
    ))?;
    Ok(ExitCode::SUCCESS)
}

async fn setup(args: SetupArgs) -> anyhow::Result<ExitCode> {
    let definition = definition(&args.definition.definition)?;
    let database = Database::new(&args.postgres.database_url)?;
    let setup = Setup {
        definition: &definition,
        database: &database,
        runtime_role: args.runtime_role.as_deref(),
        writer_role: args.writer_role.as_deref(),
        patience: Duration::from_secs(args.lock_patience_s),
    };
    let mut waiting = |what: &str, blockers: &[crate::setup::Blocker]| {
        let blockers: Vec<_> = blockers.iter().map(|blocker| format!("{} ({})", blocker.pid, blocker.what)).collect();
        tracing::warn!(blocked_by = blockers.join("; "), "{what}: the lock cannot be had; trying again");
    };
    let done = if args.remove { setup.remove(&mut waiting).await? } else { setup.apply(&mut waiting).await? };
    for line in &done.lines {
        say(line)?;
    }
    if done.lines.is_empty() {
        say("nothing to do")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the index stands in Postgres, or a moment ago stood.
async fn postgres_cursor(query: &[String], index: &str) -> anyhow::Result<Option<PgCursor>> {
    let description = Client::connect(query.to_vec())?.describe(index).await.context("bitdex-query")?;
    let cursor =
        description.cursors.iter().find(|cursor| cursor.source == POSTGRES_SOURCE && !cursor.cursor.is_empty());
    Ok(cursor.map(|cursor| PgCursor::from_bytes(&cursor.cursor)).transpose()?)
}

async fn dump(args: DumpArgs) -> anyhow::Result<ExitCode> {
    let definition = definition(&args.definition.definition)?;
    let database = Database::new(&args.postgres.database_url)?;
    let client = Arc::new(IngestClient::new(args.query.query.clone())?);
    ensure_set_up(&mut database.connect(Purpose::Poll).await?, &definition).await?;
    let loader = daemon::loader(&definition, &database, &client, &args.query.consumer, &args.load);
    let open = wire::SessionOpen {
        index: definition.index().into(),
        definition_hash: definition.schema().hash.clone(),
        // A name of its own, so as not to wait for the daemon that follows.
        source: format!("{POSTGRES_SOURCE}-dump"),
    };
    let opened = client.session(open).await.context("bitdex-query")?.opened;
    if opened.loaded && !args.anew {
        say("the index is loaded already; --anew loads it again")?;
        return Ok(ExitCode::SUCCESS);
    }
    let before = match &opened.load {
        Some(load) => Some(PgCursor::from_bytes(&load.cursor)?),
        None if opened.loaded => postgres_cursor(&args.query.query, definition.index()).await?,
        None => None,
    };
    let unfinished = opened.load.filter(|_| !args.anew);
    let progress = Progress::new(true, None);
    let cursor = loader.load(unfinished, before, &progress).await?;
    say(format!("loaded {} rows; changes follow from {cursor}", progress.rows()))?;
    if !args.no_catch_up {
        let health = Health::default();
        let plan = Arc::new(crate::capture::Plan::new(Arc::clone(&definition), &args.query.consumer)?);
        let follower = daemon::Follower {
            definition: Arc::clone(&definition),
            database,
            client,
            plan,
            loader,
            poll_interval: Duration::from_millis(10),
            reporter: health.part("postgres"),
            stop: CancellationToken::new(),
        };
        say(if follower.catch_up().await? {
            "the index has caught up"
        } else {
            "another bitdex-sync follows the database, and will let the index catch up"
        })?;
    }
    Ok(ExitCode::SUCCESS)
}
