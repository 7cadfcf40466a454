//! Reconciles the triggers in the database with the definition's, by content: of what is wanted (its hash), and of what
//! is there (a fingerprint taken when it was made). What is there but differs from its fingerprint was changed by
//! somebody else, and changes may have gone by unseen. The same holds where a source had triggers of another definition,
//! or none, at a time when an index may have been following: the transaction that mends it leaves its id as the gap,
//! and no cursor from before it is followed from any more.

use std::collections::BTreeMap;

use anyhow::Context as _;
use bitdex_proto::definition::{Definition, TriggerSet};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::types::Oid};

use super::{Blocker, Done, Setup, lock::with_patience};
use crate::postgres::quote_literal;

/// A source whose triggers are not as the definition wants them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outdated {
    pub source: String,
    pub reason: &'static str,
}

/// The sources that have numbers.
pub(super) struct Sources {
    pub(super) numbers: BTreeMap<String, i16>,
    /// Those that had one before this setup.
    pub(super) known: BTreeMap<String, i16>,
}

/// SQL that makes the transaction which runs it the newest gap.
fn gap_sql(schema: &str) -> String {
    format!(
        "INSERT INTO {schema}.meta AS m (key, value) VALUES ('gap', pg_catalog.pg_current_xact_id()::text) \
         ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE m.value::xid8 < excluded.value::xid8"
    )
}

/// What the table `triggers` remembers of one source.
#[derive(Debug, Clone)]
struct Remembered {
    table: Oid,
    content_hash: String,
    live_hash: String,
}

/// SQL for the fingerprint of a source's triggers and functions as they are now; null where there are none.
fn live_hash_sql(schema: &str, table: &str, number: i16) -> String {
    let like = quote_literal(&format!("^{schema}_{number}_[a-z]+$"));
    format!(
        "SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat(t.tgname, t.tgenabled, \
             pg_catalog.pg_get_triggerdef(t.oid), p.proname, p.prosrc, p.prosecdef, p.proconfig::text), '|' \
             ORDER BY t.tgname)) \
         FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid \
         WHERE t.tgrelid = {table} AND NOT t.tgisinternal AND t.tgname ~ {like}"
    )
}

async fn table_oid(connection: &mut PgConnection, table: &str) -> anyhow::Result<Oid> {
    let row = sqlx::query("SELECT pg_catalog.to_regclass($1)::oid").bind(table).fetch_one(connection).await?;
    row.try_get::<Option<Oid>, _>(0)?.with_context(|| format!("there is no table {table}: run `bitdex-sync check`"))
}

async fn columns(connection: &mut PgConnection, table: Oid) -> sqlx::Result<Vec<String>> {
    let rows = sqlx::query(
        "SELECT attname::text FROM pg_catalog.pg_attribute WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped \
         ORDER BY attnum",
    )
    .bind(table)
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(|row| row.try_get(0)).collect()
}

async fn live_hash(
    connection: &mut PgConnection,
    schema: &str,
    table: Oid,
    number: i16,
) -> sqlx::Result<Option<String>> {
    let sql = live_hash_sql(schema, &table.0.to_string(), number);
    sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_one(connection).await?.try_get(0)
}

async fn remembered(connection: &mut PgConnection, schema: &str) -> sqlx::Result<BTreeMap<String, Remembered>> {
    let rows =
        sqlx::query(AssertSqlSafe(format!("SELECT source, table_oid, content_hash, live_hash FROM {schema}.triggers")))
            .fetch_all(connection)
            .await?;
    rows.into_iter()
        .map(|row| {
            let remembered =
                Remembered { table: row.try_get(1)?, content_hash: row.try_get(2)?, live_hash: row.try_get(3)? };
            Ok((row.try_get(0)?, remembered))
        })
        .collect()
}

pub(super) async fn reconcile(
    setup: &Setup<'_>,
    connection: &mut PgConnection,
    sources: &Sources,
    waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send),
    done: &mut Done,
) -> anyhow::Result<()> {
    let schema = setup.definition.pg_schema();
    let mut known = remembered(connection, &schema).await?;
    for (id, source) in setup.definition.sources() {
        let (Some(table), Some(number)) = (source.table(), sources.numbers.get(source.name())) else {
            continue;
        };
        let oid = table_oid(connection, &table.to_string()).await?;
        let wanted = setup.definition.trigger_sql(id, *number, &columns(connection, oid).await?)?;
        let live = live_hash(connection, &schema, oid, *number).await?;
        let old = known.remove(source.name());
        let what = format!("triggers of {} on {table}", source.name());
        let why = match &old {
            Some(old) if old.table != oid || live.as_deref() != Some(&old.live_hash) => {
                Some("were missing or changed: what they would have recorded is lost")
            }
            Some(old) if old.content_hash == wanted.hash => continue,
            Some(_) => Some("were of another definition: what this one would have recorded besides is lost"),
            None if sources.known.contains_key(source.name()) => {
                Some("were not there, though they may have been before: what they would have recorded is lost")
            }
            None => None,
        };
        if let Some(old) = old.as_ref().filter(|old| old.table != oid) {
            drop_triggers(setup, connection, old.table, *number, source.name(), waiting).await?;
        }
        let mut sql = install_sql(&schema, &wanted, source.name(), oid, *number);
        if let Some(why) = why {
            sql = format!("{sql}; {}", gap_sql(&schema));
            done.drifted = true;
            done.lines.push(format!("{what} {why}"));
        }
        with_patience(connection, setup.database, &sql, &what, setup.patience, waiting).await?;
        done.lines.push(format!("{} {what}", if old.is_some() { "replaced" } else { "created" }));
    }
    // What the definition no longer has.
    for (name, old) in known {
        if let Some(number) = sources.numbers.get(&name) {
            drop_triggers(setup, connection, old.table, *number, &name, waiting).await?;
            done.drifted = true;
            done.lines.push(format!("removed triggers of {name}, which the definition no longer has"));
        }
    }
    Ok(())
}

fn install_sql(schema: &str, wanted: &TriggerSet, source: &str, table: Oid, number: i16) -> String {
    let mut sql = String::new();
    for function in &wanted.functions {
        sql.push_str(&function.sql);
        sql.push_str(";\n");
    }
    for trigger in &wanted.triggers {
        sql.push_str(&format!("{};\n{};\n", trigger.sql, trigger.enable_sql));
    }
    let oid = table.0;
    sql.push_str(&format!(
        "DELETE FROM {schema}.triggers WHERE source = {name};
INSERT INTO {schema}.triggers (table_oid, source, content_hash, live_hash) VALUES ({oid}, {name}, {hash}, ({live}))",
        name = quote_literal(source),
        hash = quote_literal(&wanted.hash),
        live = live_hash_sql(schema, &oid.to_string(), number)
    ));
    sql
}

/// Drops a source's triggers by what the catalog has, and its functions.
async fn drop_triggers(
    setup: &Setup<'_>,
    connection: &mut PgConnection,
    table: Oid,
    number: i16,
    source: &str,
    waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send),
) -> anyhow::Result<()> {
    let schema = setup.definition.pg_schema();
    let rows = sqlx::query(
        "SELECT pg_catalog.format('DROP TRIGGER IF EXISTS %I ON %s', t.tgname, t.tgrelid::pg_catalog.regclass)
         FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname ~ $2 ORDER BY t.tgname",
    )
    .bind(table)
    .bind(format!("^{schema}_{number}_[a-z]+$"))
    .fetch_all(&mut *connection)
    .await?;
    let mut sql: Vec<String> = rows.into_iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
    sql.push(format!("DELETE FROM {schema}.triggers WHERE source = {}", quote_literal(source)));
    sql.push(gap_sql(&schema));
    let what = format!("removing the triggers of {source}");
    with_patience(connection, setup.database, &sql.join("; "), &what, setup.patience, waiting).await
}

pub(super) async fn remove_all(
    setup: &Setup<'_>,
    connection: &mut PgConnection,
    waiting: &mut (dyn FnMut(&str, &[Blocker]) + Send),
    done: &mut Done,
) -> anyhow::Result<()> {
    let schema = setup.definition.pg_schema();
    let rows = sqlx::query(AssertSqlSafe(format!(
        "SELECT t.source, t.table_oid, s.id FROM {schema}.triggers t JOIN {schema}.sources s ON s.name = t.source \
         ORDER BY s.id"
    )))
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let (source, table, number): (String, Oid, i16) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        drop_triggers(setup, connection, table, number, &source, waiting).await?;
        done.lines.push(format!("removed triggers of {source}"));
    }
    Ok(())
}

/// Whether every source's triggers are as the definition wants them; what is not, otherwise. Reads only.
pub async fn verify(connection: &mut PgConnection, definition: &Definition) -> anyhow::Result<Vec<Outdated>> {
    let schema = definition.pg_schema();
    if !super::schema_exists(connection, &schema).await? {
        return Ok(vec![Outdated { source: schema, reason: "the schema does not exist" }]);
    }
    let numbers = super::source_numbers(connection, &schema).await?;
    let known = remembered(connection, &schema).await?;
    let mut outdated = Vec::new();
    for (id, source) in definition.sources() {
        let Some(table) = source.table() else { continue };
        let reason = match (numbers.get(source.name()), known.get(source.name())) {
            (Some(number), Some(known)) => {
                let oid = table_oid(connection, &table.to_string()).await?;
                let columns = columns(connection, oid).await?;
                let wanted = definition.trigger_sql(id, *number, &columns)?;
                if known.table != oid {
                    Some("the table was replaced by another")
                } else if live_hash(connection, &schema, oid, *number).await?.as_ref() != Some(&known.live_hash) {
                    Some("its triggers are missing or were changed")
                } else if known.content_hash != wanted.hash {
                    Some("its triggers are of another definition")
                } else {
                    None
                }
            }
            _ => Some("it has no triggers"),
        };
        outdated.extend(reason.map(|reason| Outdated { source: source.name().into(), reason }));
    }
    Ok(outdated)
}
