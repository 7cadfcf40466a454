//! A real ClickHouse engine behind its HTTP interface: the server that `CLICKHOUSE_URL` names, else the engine of the
//! chdb wheel in a Python process, in a virtual environment of the harness's own. Each harness run has a fresh database.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    folders, http,
    reaper::{Guarded, Signal},
    terminal::say,
    wait,
};

/// The wheel and its version; it brings the engine of ClickHouse 26.9.
const WHEEL: &str = "chdb==4.4.0";
const START_LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct ClickHouse {
    // Dropped first: the data goes after the process.
    process: Option<Guarded>,
    url: String,
    database: String,
    http: reqwest::Client,
    log: PathBuf,
    data: Option<tempfile::TempDir>,
}

impl ClickHouse {
    pub async fn start(logs: &Path) -> Result<Self> {
        let http = http::client(Duration::from_secs(300))?;
        let database = format!("bitdex_e2e_{:08x}", rand::random::<u32>());
        let log = logs.join("clickhouse.log");
        let mut clickhouse = match std::env::var("CLICKHOUSE_URL") {
            Ok(url) if !url.is_empty() => {
                let url = url.trim_end_matches('/').to_owned();
                Self { process: None, url, database: "default".into(), http, log, data: None }
            }
            _ => Self::engine(http, log).await?,
        };
        clickhouse.execute(&format!("CREATE DATABASE {database}")).await?;
        clickhouse.database = database;
        Ok(clickhouse)
    }

    async fn engine(http: reqwest::Client, log: PathBuf) -> Result<Self> {
        let python = tokio::task::spawn_blocking(environment).await??;
        let data = tempfile::Builder::new().prefix("clickhouse-").tempdir_in(folders::reachable("data")?)?;
        let port = wait::free_port()?;
        let process = spawn(&python, port, data.path(), &log)?;
        let url = format!("http://127.0.0.1:{port}");
        let mut clickhouse =
            Self { process: Some(process), url, database: "default".into(), http, log, data: Some(data) };
        clickhouse.wait_until_ready().await?;
        Ok(clickhouse)
    }

    async fn wait_until_ready(&mut self) -> Result<()> {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.process.as_mut().map(Guarded::ended).transpose()?.flatten() {
                bail!("the ClickHouse engine ended ({status}):\n{}", folders::tail(&self.log, 20));
            }
            match self.query("SELECT 1").await {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > START_LIMIT => {
                    return Err(error.context(folders::tail(&self.log, 20)));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Without the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    pub fn database(&self) -> &str {
        &self.database
    }

    pub async fn query(&self, sql: &str) -> Result<String> {
        self.send(sql.to_owned().into_bytes()).await.with_context(|| sql.chars().take(200).collect::<String>())
    }

    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.query(sql).await.map(|_| ())
    }

    /// `table` with its columns, e.g. `t (a, b)`; `rows` as tab-separated lines.
    pub async fn insert(&self, table: &str, rows: &[u8]) -> Result<()> {
        let mut body = format!("INSERT INTO {table} FORMAT TabSeparated\n").into_bytes();
        body.extend_from_slice(rows);
        self.send(body).await.map(|_| ()).with_context(|| format!("insert into {table}"))
    }

    async fn send(&self, body: Vec<u8>) -> Result<String> {
        let request = self.http.post(format!("{}/?database={}", self.url, self.database)).body(body);
        let response = request.send().await.context("ClickHouse does not answer")?;
        let status = response.status();
        let text = response.text().await?;
        if !status.is_success() {
            bail!("ClickHouse answers {status}: {}", text.trim());
        }
        Ok(text)
    }

    /// Drops the database from a server that is not ours.
    pub async fn close(self) -> Result<()> {
        if self.data.is_none() {
            self.execute(&format!("DROP DATABASE {}", self.database)).await?;
        }
        Ok(())
    }
}

fn spawn(python: &Path, port: u16, data: &Path, log: &Path) -> Result<Guarded> {
    let log = File::options().append(true).create(true).open(log)?;
    let mut command = Command::new(python);
    command.arg(folders::workspace().join("e2e/python/clickhouse_front.py")).arg(port.to_string()).arg(data);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // KILL: the data is thrown away with it.
    Guarded::spawn("the ClickHouse engine", &mut command, Signal::KILL, Duration::from_secs(10))
}

/// Python of a virtual environment that has the wheel.
fn environment() -> Result<PathBuf> {
    let home = folders::target()?.join("python");
    let python = home.join("bin/python");
    // Written last, so that an interrupted installation is begun again.
    let mark = home.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == WHEEL) {
        return Ok(python);
    }
    let lock = File::create(folders::target()?.join("python.lock"))?;
    lock.lock().context("lock the Python environment")?;
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == WHEEL) {
        return Ok(python);
    }
    say(format!("Installing {WHEEL} for Python (once) …"));
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", WHEEL]))?;
    fs::write(&mark, WHEEL)?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn answers_and_refuses() {
        let logs = tempfile::tempdir().unwrap();
        let clickhouse = ClickHouse::start(logs.path()).await.unwrap();
        clickhouse.execute("CREATE TABLE t (a UInt32, b String) ENGINE = MergeTree ORDER BY a").await.unwrap();
        clickhouse.insert("t (a, b)", b"1\tx\n2\ty\n").await.unwrap();
        assert_eq!(clickhouse.query("SELECT a, b FROM t ORDER BY a").await.unwrap(), "1\tx\n2\ty\n");
        let error = format!("{:#}", clickhouse.query("SELECT nope FROM t").await.unwrap_err());
        assert!(error.contains("UNKNOWN_IDENTIFIER"), "{error}");
        let get = |parameters: &str| {
            let url = format!("{}/?database={}&{parameters}", clickhouse.url(), clickhouse.database());
            async { clickhouse.http.get(url).send().await.unwrap() }
        };
        let answer =
            get("query=SELECT+sum(a)+FROM+t+WHERE+a<{top:UInt32}&param_top=2&default_format=JSONEachRow").await;
        assert_eq!(answer.text().await.unwrap(), "{\"sum(a)\":1}\n");
        let answer = get("query=SELECT+count()+FROM+numbers(100)&max_rows_to_read=10").await;
        assert_eq!(answer.status(), 500);
        assert_eq!(answer.headers()["x-clickhouse-exception-code"], "158");
        // The setting held for that one query.
        assert_eq!(clickhouse.query("SELECT count() FROM numbers(100)").await.unwrap(), "100\n");
        clickhouse.close().await.unwrap();
    }
}
