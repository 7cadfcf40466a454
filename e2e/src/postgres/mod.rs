//! A real Postgres: the server that `DATABASE_URL` names, one from binaries on this machine, or one whose binaries come
//! from Maven Central. A server that the harness starts is durable (fsync on), listens on the loopback address alone,
//! and ends with the harness.

mod account;
mod binaries;
mod server;

use std::{path::Path, str::FromStr as _, time::Duration};

use anyhow::{Context as _, Result, bail};
use sqlx::{
    AssertSqlSafe, Connection as _, Row as _,
    postgres::{PgConnectOptions, PgConnection, PgSslMode},
};

use server::Server;

/// Which server is wanted.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Of this major version; `None`: any from 14 on.
    pub major: Option<u32>,
    /// Only a server of our own, that may be stopped and killed.
    pub owned: bool,
    /// `shared_buffers` of a server of our own.
    pub shared_buffers: &'static str,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { major: None, owned: false, shared_buffers: "128MB" }
    }
}

/// A running server, and a fresh database on it.
#[derive(Debug)]
pub struct Postgres {
    options: PgConnectOptions,
    url: String,
    version: String,
    database: String,
    /// `None`: the server of `DATABASE_URL`, where the database is dropped by [`Postgres::close`].
    server: Option<Server>,
}

/// The oldest version that BitDex follows.
const OLDEST: u32 = 14;

impl Postgres {
    /// Brings one up; its log goes to `logs`.
    pub async fn start(wanted: &Wanted, logs: &Path) -> Result<Self> {
        if !wanted.owned
            && let Ok(url) = std::env::var("DATABASE_URL")
            && !url.is_empty()
        {
            let base = PgConnectOptions::from_str(&url).context("DATABASE_URL is no Postgres URL")?;
            let version = version(&base).await.context("DATABASE_URL")?;
            if wanted.major.is_none_or(|major| major == major_of(&version)) {
                return Self::with_database(base, &url, version, None).await;
            }
        }
        let binaries = binaries::find(wanted.major).await?;
        let server = Server::start(&binaries, wanted.shared_buffers, logs).await?;
        let url = server.url("postgres");
        let base = PgConnectOptions::from_str(&url)?.ssl_mode(PgSslMode::Disable);
        let version = version(&base).await?;
        Self::with_database(base, &url, version, Some(server)).await
    }

    async fn with_database(
        base: PgConnectOptions,
        base_url: &str,
        version: String,
        server: Option<Server>,
    ) -> Result<Self> {
        if major_of(&version) < OLDEST {
            bail!("Postgres {version} is too old: BitDex follows {OLDEST} and later");
        }
        let database = format!("bitdex_e2e_{:08x}", rand::random::<u32>());
        let mut admin = PgConnection::connect_with(&base).await?;
        execute(&mut admin, &format!("CREATE DATABASE {database}")).await?;
        admin.close().await?;
        let url = with_database(base_url, &database)?;
        Ok(Self { options: base.database(&database), url, version, database, server })
    }

    /// URL of the fresh database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// As `server_version` says it, e.g. `18.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn major(&self) -> u32 {
        major_of(&self.version)
    }

    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect_with(&self.options).await.with_context(|| format!("connect to {}", self.database))
    }

    /// Stops a server of our own (fast), and starts it again on the same port.
    pub async fn restart(&mut self) -> Result<()> {
        self.owned()?.restart().await
    }

    /// Stops a server of our own (fast).
    pub fn stop(&mut self) -> Result<()> {
        self.owned()?.stop()
    }

    fn owned(&mut self) -> Result<&mut Server> {
        self.server.as_mut().context("the server of DATABASE_URL is not ours to stop")
    }

    /// Drops the database from a server that is not ours; a server of our own goes with its data.
    pub async fn close(self) -> Result<()> {
        if self.server.is_none() {
            let mut admin = PgConnection::connect_with(&self.options.clone().database("postgres")).await?;
            execute(&mut admin, &format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database)).await?;
        }
        Ok(())
    }
}

/// Runs statements that answer nothing.
pub async fn execute(connection: &mut PgConnection, sql: &str) -> Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map(|_| ())
        .with_context(|| sql.chars().take(400).collect::<String>())
}

/// The first column of the one row that a query answers with, as text.
pub async fn scalar(connection: &mut PgConnection, sql: &str) -> Result<String> {
    let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(connection).await.with_context(|| sql.to_owned())?;
    row.try_get_unchecked::<String, _>(0).with_context(|| sql.to_owned())
}

async fn version(options: &PgConnectOptions) -> Result<String> {
    let limit = Duration::from_secs(10);
    let mut connection =
        tokio::time::timeout(limit, PgConnection::connect_with(options)).await.context("no connection in 10 s")??;
    scalar(&mut connection, "SHOW server_version").await
}

fn major_of(version: &str) -> u32 {
    version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

/// The URL with another database in its path.
fn with_database(url: &str, database: &str) -> Result<String> {
    let mut url = reqwest::Url::parse(url).context("DATABASE_URL is no URL")?;
    url.set_path(database);
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_and_urls() {
        assert_eq!(major_of("18.1 (Debian 18.1-1)"), 18);
        assert_eq!(major_of("14.20"), 14);
        assert_eq!(major_of("19beta1"), 19);
        assert_eq!(
            with_database("postgres://u:p@h:1/postgres?sslmode=disable", "x").unwrap(),
            "postgres://u:p@h:1/x?sslmode=disable"
        );
    }

    async fn starts(major: u32) {
        let logs = tempfile::tempdir().unwrap();
        let wanted = Wanted { major: Some(major), owned: true, ..Wanted::default() };
        let mut postgres = Postgres::start(&wanted, logs.path()).await.unwrap();
        assert_eq!(postgres.major(), major);
        let mut connection = postgres.connect().await.unwrap();
        assert_eq!(scalar(&mut connection, "SHOW fsync").await.unwrap(), "on");
        execute(&mut connection, "CREATE TABLE t AS SELECT 1 AS a").await.unwrap();
        drop(connection);
        postgres.restart().await.unwrap();
        let mut connection = postgres.connect().await.unwrap();
        assert_eq!(scalar(&mut connection, "SELECT a::text FROM t").await.unwrap(), "1");
    }

    #[tokio::test]
    async fn the_oldest_starts() {
        starts(14).await;
    }

    #[tokio::test]
    async fn the_newest_starts() {
        starts(18).await;
    }
}
