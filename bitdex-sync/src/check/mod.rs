//! Compares a definition with the live database, and names every mistake with its line. Changes nothing: what has to be
//! created to find out is created in a transaction that is rolled back.

mod catalog;
mod clickhouse;
mod expressions;
mod fan_out;
mod indexes;
mod types;

use std::fmt;

use anyhow::Context as _;
use bitdex_proto::definition::{Definition, SourceSpec};
use sqlx::{PgConnection, Row as _};

pub use self::clickhouse::check as check_clickhouse;

/// The oldest server that has what capture needs.
const OLDEST_SERVER: i32 = 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    /// It works, but slowly, or may stop on some data.
    Warning,
}

/// One thing that is wrong. Displays as `line 12: error: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Of the definition; `None` where the server itself is meant.
    pub line: Option<usize>,
    pub severity: Severity,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.message)
    }
}

/// Everything found, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Findings(Vec<Finding>);

impl Findings {
    fn error(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.0.push(Finding { line: line.into(), severity: Severity::Error, message: message.into() });
    }

    fn warn(&mut self, line: impl Into<Option<usize>>, message: impl Into<String>) {
        self.0.push(Finding { line: line.into(), severity: Severity::Warning, message: message.into() });
    }

    fn sort(&mut self) {
        self.0.sort_by_key(|finding| (finding.line, finding.severity));
        self.0.dedup();
    }

    pub fn iter(&self) -> impl Iterator<Item = &Finding> {
        self.0.iter()
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.0.iter().filter(|finding| finding.severity == severity).count()
    }

    pub fn has_errors(&self) -> bool {
        self.count(Severity::Error) > 0
    }
}

/// Checks all that concerns Postgres. An `Err` means that the check itself could not be made.
pub async fn check_postgres(definition: &Definition, connection: &mut PgConnection) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if !server(connection, &mut findings).await? {
        return Ok(findings);
    }
    for (_, source) in definition.sources() {
        let Some(table) = source.table() else { continue };
        let Some(found) = catalog::read(connection, table, source.line(), &mut findings)
            .await
            .with_context(|| format!("the catalog's entry of {table} cannot be read"))?
        else {
            continue;
        };
        key_column(source, &found, &mut findings);
        expressions::check(connection, source, &found, &mut findings)
            .await
            .with_context(|| format!("the expressions over {table} cannot be checked"))?;
        indexes::check(connection, source, &found, &mut findings).await?;
    }
    fan_out::check(definition, connection, &mut findings).await.context("the statistics of keys cannot be read")?;
    findings.sort();
    Ok(findings)
}

/// False where it makes no sense to look further.
async fn server(connection: &mut PgConnection, findings: &mut Findings) -> anyhow::Result<bool> {
    let row = sqlx::query(
        "SELECT pg_catalog.current_setting('server_version_num')::int4 / 10000, pg_catalog.pg_is_in_recovery(), \
         pg_catalog.current_setting('server_encoding')",
    )
    .fetch_one(connection)
    .await?;
    let (version, recovery, encoding): (i32, bool, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    if version < OLDEST_SERVER {
        findings.error(None, format!("the server is Postgres {version}; {OLDEST_SERVER} or later is needed"));
    }
    if recovery {
        findings.error(None, "the server is in recovery (a standby): changes can only be captured on the primary");
    }
    if encoding != "UTF8" {
        findings.error(None, format!("the database's encoding is {encoding}; only UTF8 is supported"));
    }
    Ok(!findings.has_errors())
}

fn key_column(source: SourceSpec<'_>, found: &catalog::Relation, findings: &mut Findings) {
    let (key, line) = match source {
        SourceSpec::Document(source) | SourceSpec::Lookup(source) => (&source.key, source.line),
        SourceSpec::Members(source) => (&source.key, source.line),
        SourceSpec::Metrics(_) => return,
    };
    match found.column(key) {
        None => findings.error(line, found.unknown_column(key)),
        Some(column) if !types::is_integer(column.base_type) => findings.error(
            line,
            format!(
                "key {key} of table {} is of type {}; keys must be smallint, integer or bigint",
                found.table, column.type_name
            ),
        ),
        Some(_) => {}
    }
}
