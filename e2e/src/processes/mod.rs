//! The real binaries as child processes: built once, on free ports of the loopback address, over one data folder, with
//! a log file each; killed, stopped and restarted on the same ports.

mod build;

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

pub use build::{Binaries, build};

use crate::{
    folders, http,
    reaper::{Guarded, Signal},
    wait,
};

/// A drain takes well below this.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Lines of a log that an error shows.
const TAIL: usize = 25;

/// One process that is started again and again with the same command.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    http: String,
    running: Option<Guarded>,
}

impl Process {
    fn new(name: &str, program: &Path, logs: &Path, http: &str, arguments: Vec<String>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments,
            log: logs.join(format!("{name}.log")),
            http: http.into(),
            running: None,
        }
    }

    /// Its HTTP address, `127.0.0.1:port`.
    pub fn http(&self) -> &str {
        &self.http
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(Guarded::id)
    }

    pub fn start(&mut self) -> Result<()> {
        if self.running.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = File::options().append(true).create(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.running = Some(Guarded::spawn(&self.name, &mut command, Signal::TERM, STOP_LIMIT)?);
        Ok(())
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        match self.running.take() {
            Some(mut running) => running.kill(),
            None => Ok(()),
        }
    }

    /// SIGTERM, and waits for the end; an error where it does not end well.
    pub async fn terminate(&mut self) -> Result<()> {
        let Some(mut running) = self.running.take() else { return Ok(()) };
        running.signal(Signal::TERM)?;
        let status = running.wait(STOP_LIMIT).await.with_context(|| self.tail())?;
        if !status.success() {
            bail!("{} ended with {status} after SIGTERM\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// An error where it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} ended by itself ({status})\n{}", self.name, self.tail());
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.running.as_mut().map(Guarded::ended).transpose().map(Option::flatten)
    }

    /// Waits until `/readyz` says 200, or the process ends, which is an error.
    pub async fn ready(&mut self, limit: Duration) -> Result<()> {
        let http = http::client(Duration::from_secs(10))?;
        let url = format!("http://{}/readyz", self.http);
        let start = std::time::Instant::now();
        loop {
            self.check()?;
            let seen = match http.get(&url).send().await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => format!("{} {}", answer.status(), answer.text().await.unwrap_or_default()),
                Err(error) => error.to_string(),
            };
            if start.elapsed() > limit {
                bail!("{} is not ready after {limit:?}: {}\n{}", self.name, seen.trim(), self.tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The end of its log, with a headline.
    pub fn tail(&self) -> String {
        format!("--- {} ({}):\n{}", self.name, self.log.display(), folders::tail(&self.log, TAIL))
    }
}

/// A `bitdex-query` process.
#[derive(Debug)]
pub struct Pod {
    pub process: Process,
    grpc: String,
}

impl Pod {
    /// Not started yet; `options` go to `bitdex-query serve`.
    pub fn new(
        number: usize,
        binaries: &Binaries,
        definition: &Path,
        data: &Path,
        logs: &Path,
        options: &[&str],
    ) -> Result<Self> {
        let grpc = format!("127.0.0.1:{}", wait::free_port()?);
        let http = format!("127.0.0.1:{}", wait::free_port()?);
        let mut arguments = vec!["serve".to_owned()];
        for (name, value) in [
            ("--definition", definition.display().to_string()),
            ("--data", data.display().to_string()),
            ("--grpc-listen", grpc.clone()),
            ("--http-listen", http.clone()),
            ("--advertise", grpc.clone()),
        ] {
            arguments.extend([name.to_owned(), value]);
        }
        arguments.extend(options.iter().map(|option| (*option).to_owned()));
        let process = Process::new(&format!("query-{number}"), &binaries.query, logs, &http, arguments);
        Ok(Self { process, grpc })
    }

    /// gRPC address, `127.0.0.1:port`.
    pub fn grpc(&self) -> &str {
        &self.grpc
    }
}

/// What a pair is fed from.
#[derive(Debug, Clone)]
pub struct Feed {
    pub definition: PathBuf,
    pub database_url: String,
    pub clickhouse_url: String,
    pub clickhouse_database: String,
}

/// More arguments for the programs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    pub query: &'a [&'a str],
    pub sync: &'a [&'a str],
}

/// Runs the subcommands of `bitdex-sync` that end by themselves, with a pair's addresses.
#[derive(Debug, Clone)]
pub struct Commands {
    sync: PathBuf,
    feed: Feed,
    pods: Vec<String>,
    logs: PathBuf,
}

impl Commands {
    /// `bitdex-sync COMMAND` and more arguments, to its end; gives what it printed.
    pub async fn run(&self, command: &str, more: &[&str]) -> Result<String> {
        let log = self.logs.join(format!("sync-{command}.log"));
        let mut run = Command::new(&self.sync);
        run.args(sync_arguments(command, &self.feed, &self.pods)).args(more).stdin(Stdio::null());
        run.stdout(File::create(&log)?).stderr(File::options().append(true).open(&log)?);
        let name = format!("bitdex-sync {command}");
        let mut process = Guarded::spawn(&name, &mut run, Signal::TERM, STOP_LIMIT)?;
        let status = process.wait(Duration::from_secs(3_600)).await?;
        let printed = std::fs::read_to_string(&log).unwrap_or_default();
        if !status.success() {
            bail!("{name} ended with {status}:\n{}", folders::tail(&log, TAIL));
        }
        Ok(printed)
    }
}

/// Pods on one data folder, and one sync, not started yet.
#[derive(Debug)]
pub struct Pair {
    // Processes go before the data that they have open.
    pub pods: Vec<Pod>,
    pub sync: Process,
    commands: Commands,
    data: tempfile::TempDir,
}

impl Pair {
    /// The options are for `bitdex-query serve` and `bitdex-sync run`, beside those that say where everything is.
    pub fn new(binaries: &Binaries, feed: &Feed, logs: &Path, pods: usize, options: Options<'_>) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("index-").tempdir_in(folders::reachable("data")?)?;
        let pods = (0..pods)
            .map(|number| Pod::new(number, binaries, &feed.definition, data.path(), logs, options.query))
            .collect::<Result<Vec<_>>>()?;
        let http = format!("127.0.0.1:{}", wait::free_port()?);
        let addresses: Vec<String> = pods.iter().map(|pod| pod.grpc.clone()).collect();
        let mut arguments = sync_arguments("run", feed, &addresses);
        arguments.extend(["--http-listen", &http].iter().chain(options.sync).map(|argument| (*argument).to_owned()));
        let sync = Process::new("sync", &binaries.sync, logs, &http, arguments);
        let commands = Commands { sync: binaries.sync.clone(), feed: feed.clone(), pods: addresses, logs: logs.into() };
        Ok(Self { pods, sync, commands, data })
    }

    pub fn data(&self) -> &Path {
        self.data.path()
    }

    pub fn grpc(&self) -> Vec<String> {
        self.pods.iter().map(|pod| pod.grpc.clone()).collect()
    }

    pub fn start_pods(&mut self) -> Result<()> {
        self.pods.iter_mut().try_for_each(|pod| pod.process.start())
    }

    /// Runs `bitdex-sync COMMAND` to its end, and gives what it printed.
    pub async fn command(&self, command: &str) -> Result<String> {
        self.commands.run(command, &[]).await
    }

    /// To run commands beside the pair.
    pub fn commands(&self) -> Commands {
        self.commands.clone()
    }

    /// An error where a process that should run has ended.
    pub fn check(&mut self) -> Result<()> {
        self.pods.iter_mut().try_for_each(|pod| pod.process.check())?;
        self.sync.check()
    }

    /// Waits until every pod serves.
    pub async fn ready(&mut self, limit: Duration) -> Result<()> {
        for pod in &mut self.pods {
            pod.process.ready(limit).await?;
        }
        Ok(())
    }

    /// The ends of all logs, for a failure's report.
    pub fn tails(&self) -> String {
        let pods = self.pods.iter().map(|pod| pod.process.tail());
        pods.chain([self.sync.tail()]).collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM to all, sync first.
    pub async fn terminate(&mut self) -> Result<()> {
        self.sync.terminate().await?;
        for pod in &mut self.pods {
            pod.process.terminate().await?;
        }
        Ok(())
    }
}

fn sync_arguments(command: &str, feed: &Feed, pods: &[String]) -> Vec<String> {
    let mut arguments = vec![command.to_owned()];
    let mut add = |name: &str, value: &str| arguments.extend([name.to_owned(), value.to_owned()]);
    add("--definition", &feed.definition.display().to_string());
    add("--database-url", &feed.database_url);
    if matches!(command, "check" | "run") {
        add("--clickhouse-url", &feed.clickhouse_url);
        add("--clickhouse-database", &feed.clickhouse_database);
    }
    if matches!(command, "dump" | "run" | "status") {
        add("--query", &pods.join(","));
    }
    arguments
}
