//! A server process of our own, over a fresh data folder.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use sqlx::{Connection as _, PgConnection};

use super::account::{self, Account};
use crate::{
    folders,
    reaper::{Guarded, Signal},
    wait,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Server {
    // Dropped first: the data goes after the process.
    process: Guarded,
    binaries: PathBuf,
    shared_buffers: &'static str,
    account: Option<Account>,
    data: tempfile::TempDir,
    port: u16,
    log: PathBuf,
}

impl Server {
    pub(super) async fn start(binaries: &Path, shared_buffers: &'static str, logs: &Path) -> Result<Self> {
        let account = account::unprivileged()?;
        let data = tempfile::Builder::new().prefix("postgres-").tempdir_in(folders::reachable("data")?)?;
        account::give(data.path(), account)?;
        let log = logs.join("postgres.log");
        initialise(binaries, data.path(), account, &log)?;
        let port = wait::free_port()?;
        let process = spawn(binaries, data.path(), port, shared_buffers, account, &log)?;
        let mut server = Self { process, binaries: binaries.into(), shared_buffers, account, data, port, log };
        server.wait_until_ready().await?;
        Ok(server)
    }

    pub(super) fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable", self.port)
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        self.process.stop()
    }

    pub(super) async fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.process =
            spawn(&self.binaries, self.data.path(), self.port, self.shared_buffers, self.account, &self.log)?;
        self.wait_until_ready().await
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let url = self.url("postgres");
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.process.ended()? {
                bail!("Postgres ended ({status}); its log:\n{}", folders::tail(&self.log, 20));
            }
            match PgConnection::connect(&url).await {
                Ok(connection) => return connection.close().await.context("close a connection"),
                Err(error) if start.elapsed() > START_LIMIT => {
                    return Err(error).context("Postgres takes no connection");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

fn initialise(binaries: &Path, data: &Path, account: Option<Account>, log: &Path) -> Result<()> {
    let mut command = Command::new(binaries.join("initdb"));
    command.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-D"]);
    command.arg(data).current_dir("/").stdin(Stdio::null());
    account::run_as(&mut command, account);
    let output = command.output().with_context(|| format!("run {}", command.get_program().display()))?;
    fs::write(log, &output.stdout)?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

fn spawn(
    binaries: &Path,
    data: &Path,
    port: u16,
    shared_buffers: &str,
    account: Option<Account>,
    log: &Path,
) -> Result<Guarded> {
    let log = File::options().append(true).create(true).open(log)?;
    let mut command = Command::new(binaries.join("postgres"));
    command.arg("-D").arg(data).current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let settings = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("fsync", "on"),
        ("shared_buffers", shared_buffers),
        ("max_connections", "100"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "15min"),
        // Not UTC, so that a session that forgets to pin its time zone shows.
        ("timezone", "America/New_York"),
    ];
    for (name, value) in settings {
        command.args(["-c", &format!("{name}={value}")]);
    }
    command.args(["-p", &port.to_string()]);
    account::run_as(&mut command, account);
    // INT is Postgres' fast shutdown.
    Guarded::spawn("postgres", &mut command, Signal::INT, STOP_LIMIT)
}
