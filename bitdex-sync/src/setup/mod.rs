//! Puts an index's ops tables and triggers into the database, and keeps them as the definition says. Repeating it
//! touches only what differs. It takes away what the definition no longer has.

mod lock;
mod tables;
mod triggers;

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use bitdex_proto::definition::Definition;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

pub use self::{
    lock::Blocker,
    triggers::{Outdated, verify},
};
use crate::postgres::{Database, Purpose, quote_identifier, quote_literal, run};

/// What to set up.
#[derive(Debug)]
pub struct Setup<'a> {
    pub definition: &'a Definition,
    pub database: &'a Database,
    pub runtime_role: Option<&'a str>,
    pub writer_role: Option<&'a str>,
    /// How long to try to lock one table.
    pub patience: Duration,
}

/// What was done, one line each; empty where nothing differed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Done {
    pub lines: Vec<String>,
    /// Changes may have gone by unrecorded, or recorded otherwise than the definition wants them: every index that was
    /// loaded before needs a load, and following it is refused until then.
    pub drifted: bool,
}

impl Setup<'_> {
    pub async fn apply(&self, waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send)) -> anyhow::Result<Done> {
        let mut connection = self.database.connect(Purpose::Admin).await?;
        let mut done = Done::default();
        let schema = self.definition.pg_schema();
        let index = self.definition.index();
        let mut version = None;
        if schema_exists(&mut connection, &schema).await? {
            version = tables_version(&mut connection, &schema).await?;
        } else {
            done.lines.push(format!("created schema {schema}"));
        }
        if let Some(version) = version.filter(|version| *version > tables::TABLES_VERSION) {
            anyhow::bail!(
                "schema {schema} was set up by a newer bitdex-sync (version {version} of its tables, this one knows \
                 {}): use that release",
                tables::TABLES_VERSION
            );
        }
        // Even an index that is there already would be waited for, behind whoever writes ops, and others behind that.
        if version != Some(tables::TABLES_VERSION) {
            run(&mut connection, format!("BEGIN; {} COMMIT", tables::create(index)))
                .await
                .with_context(|| format!("schema {schema} cannot be created"))?;
        }
        let known = source_numbers(&mut connection, &schema).await?;
        self.number_sources(&mut connection, &schema).await?;
        let sources = triggers::Sources { numbers: source_numbers(&mut connection, &schema).await?, known };
        triggers::reconcile(self, &mut connection, &sources, waiting, &mut done).await?;
        if done.drifted {
            done.lines.push(format!(
                "indexes that were loaded before need a load now (`bitdex-sync dump --anew`), because {index}'s triggers \
                 were not all the time what its definition wants; following them is refused until then"
            ));
        }
        if let Some(role) = self.runtime_role {
            let mut grants = tables::grants(index, role);
            for used in self.definition.tables() {
                let usage = quote_identifier(&used.table.schema);
                let to = quote_identifier(role);
                grants.push_str(&format!(
                    "GRANT USAGE ON SCHEMA {usage} TO {to}; GRANT SELECT ON {} TO {to};\n",
                    used.table
                ));
            }
            run(&mut connection, grants).await.with_context(|| format!("rights cannot be granted to {role}"))?;
        }
        if let Some(role) = self.writer_role {
            run(&mut connection, tables::writer_grants(index, role))
                .await
                .with_context(|| format!("rights cannot be granted to {role}"))?;
        }
        Ok(done)
    }

    /// Gives each new Postgres source a number; none is ever used again.
    async fn number_sources(&self, connection: &mut PgConnection, schema: &str) -> anyhow::Result<()> {
        for (_, source) in self.definition.sources().filter(|(_, source)| source.table().is_some()) {
            run(
                connection,
                format!(
                    "INSERT INTO {schema}.sources (id, name) SELECT \
                     (SELECT coalesce(max(id), 0) + 1 FROM {schema}.sources)::int2, n \
                     FROM (VALUES ({})) v(n) WHERE NOT EXISTS (SELECT FROM {schema}.sources WHERE name = n)",
                    quote_literal(source.name())
                ),
            )
            .await?;
        }
        Ok(())
    }

    /// Takes everything away again: triggers table by table, then the schema.
    pub async fn remove(&self, waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send)) -> anyhow::Result<Done> {
        let mut connection = self.database.connect(Purpose::Admin).await?;
        let mut done = Done::default();
        let schema = self.definition.pg_schema();
        if !schema_exists(&mut connection, &schema).await? {
            return Ok(done);
        }
        triggers::remove_all(self, &mut connection, waiting, &mut done).await?;
        let drop = format!("DROP SCHEMA {schema} CASCADE");
        lock::with_patience(&mut connection, self.database, &drop, "removing the schema", self.patience, waiting)
            .await?;
        done.lines.push(format!("removed schema {schema}"));
        Ok(done)
    }
}

async fn schema_exists(connection: &mut PgConnection, schema: &str) -> sqlx::Result<bool> {
    sqlx::query("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1::text::name)")
        .bind(schema)
        .fetch_one(connection)
        .await?
        .try_get(0)
}

/// The number of each source that this index ever had, by name.
async fn source_numbers(connection: &mut PgConnection, schema: &str) -> sqlx::Result<BTreeMap<String, i16>> {
    sqlx::query(AssertSqlSafe(format!("SELECT name, id FROM {schema}.sources")))
        .fetch_all(connection)
        .await?
        .into_iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// `None` where the tables are not there yet.
async fn tables_version(connection: &mut PgConnection, schema: &str) -> anyhow::Result<Option<i32>> {
    let exists: bool = sqlx::query("SELECT pg_catalog.to_regclass($1) IS NOT NULL")
        .bind(format!("{schema}.meta"))
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?;
    if !exists {
        return Ok(None);
    }
    let row = sqlx::query(AssertSqlSafe(format!("SELECT value FROM {schema}.meta WHERE key = 'tables_version'")))
        .fetch_optional(connection)
        .await?;
    row.map(|row| Ok(row.try_get::<String, _>(0)?.parse()?)).transpose()
}
