//! What Postgres' catalog says of a table.

use bitdex_proto::definition::Table;
use sqlx::{PgConnection, Row as _, postgres::types::Oid};

use super::Findings;

/// A table that exists and can be captured.
#[derive(Debug)]
pub(super) struct Relation {
    pub oid: Oid,
    pub table: Table,
    pub columns: Vec<Column>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    pub number: i16,
    /// Of a domain: what it is over.
    pub base_type: u32,
    pub type_name: String,
}

impl Relation {
    pub(super) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    pub(super) fn unknown_column(&self, name: &str) -> String {
        let near = self.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
        match near {
            Some(column) => format!("table {} has no column {name}; there is \"{}\"", self.table, column.name),
            None => format!("table {} has no column {name}", self.table),
        }
    }
}

/// Reads a table's entry; `None` where it cannot be captured, which is then among the findings.
pub(super) async fn read(
    connection: &mut PgConnection,
    table: &Table,
    line: usize,
    findings: &mut Findings,
) -> sqlx::Result<Option<Relation>> {
    let row = sqlx::query(
        "SELECT c.oid, c.relkind::text, c.relpersistence::text, c.relispartition,
             EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid) AS parent,
             EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS child,
             EXISTS (SELECT FROM pg_catalog.pg_subscription_rel s WHERE s.srrelid = c.oid) AS subscribed,
             pg_catalog.has_table_privilege(c.oid, 'SELECT') AS readable,
             pg_catalog.row_security_active(c.oid) AS row_security
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname::text = $1 AND c.relname::text = $2",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else {
        findings.error(line, unknown_table(connection, table).await?);
        return Ok(None);
    };
    let oid: Oid = row.try_get("oid")?;
    let refused = match row.try_get::<String, _>("relkind")?.as_str() {
        "r" => None,
        "p" => Some("is partitioned, which is not supported yet"),
        "v" | "m" => Some("is a view: name the tables behind it"),
        "f" => Some("is a foreign table: its changes cannot be seen"),
        _ => Some("is no table"),
    };
    let refused = refused
        .or(match row.try_get::<String, _>("relpersistence")?.as_str() {
            "t" => Some("is temporary"),
            "u" => Some("is unlogged: a crash empties it without a trace"),
            _ => None,
        })
        .or(row.try_get::<bool, _>("relispartition")?.then_some("is a partition, which is not supported yet"))
        .or((row.try_get::<bool, _>("parent")? || row.try_get::<bool, _>("child")?)
            .then_some("takes part in inheritance, which is not supported yet"))
        .or(row.try_get::<bool, _>("subscribed")?.then_some("is fed by a subscription, which is not supported yet"))
        .or((!row.try_get::<bool, _>("readable")?).then_some("may not be read by this role: grant SELECT"))
        .or(row
            .try_get::<bool, _>("row_security")?
            .then_some("has row security that applies to this role: grant it BYPASSRLS"));
    if let Some(reason) = refused {
        findings.error(line, format!("table {table} {reason}"));
        return Ok(None);
    }
    let columns = sqlx::query(
        "SELECT a.attname::text, a.attnum, CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END,
             pg_catalog.format_type(a.atttypid, a.atttypmod)
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| {
        Ok(Column {
            name: row.try_get(0)?,
            number: row.try_get(1)?,
            base_type: row.try_get::<Oid, _>(2)?.0,
            type_name: row.try_get(3)?,
        })
    })
    .collect::<sqlx::Result<_>>()?;
    Ok(Some(Relation { oid, table: table.clone(), columns }))
}

async fn unknown_table(connection: &mut PgConnection, table: &Table) -> sqlx::Result<String> {
    let near = sqlx::query(
        "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p') AND pg_catalog.lower(c.relname::text) = pg_catalog.lower($1)
             AND n.nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 1",
    )
    .bind(&table.name)
    .fetch_optional(connection)
    .await?;
    Ok(match near {
        Some(row) => format!("there is no table {table}; there is {}", row.try_get::<String, _>(0)?),
        None => format!("there is no table {table}"),
    })
}
