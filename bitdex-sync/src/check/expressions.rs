//! Field SQL: Postgres itself says whether an expression is over one row and immutable, because that is what it demands
//! of a generated column. A copy of the table's columns is made for it, in a transaction that is rolled back.

use bitdex_proto::{
    definition::{SourceColumn, SourceSpec},
    value::FieldType,
};
use sqlx::{Connection as _, PgConnection, Row as _, postgres::types::Oid};

use super::{Findings, catalog::Relation, types};
use crate::postgres::{database_error, quote_identifier, run};

/// The type of an expression's value.
#[derive(Debug)]
struct ResultType {
    oid: u32,
    is_enum: bool,
    name: String,
    modifier: i32,
}

pub(super) async fn check(
    connection: &mut PgConnection,
    source: SourceSpec<'_>,
    found: &Relation,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    run(&mut transaction, format!("CREATE TEMPORARY TABLE bitdex_check (LIKE {}) ON COMMIT DROP", found.table)).await?;
    match source {
        SourceSpec::Document(source) | SourceSpec::Lookup(source) => {
            if let Some(condition) = &source.where_ {
                check_condition(&mut transaction, condition, source.line, findings).await?;
            }
            for column in &source.columns {
                check_column(&mut transaction, column, findings).await?;
            }
        }
        SourceSpec::Members(source) => {
            if let Some(condition) = &source.where_ {
                check_condition(&mut transaction, condition, source.line, findings).await?;
            }
            if found.column(&source.value).is_none() {
                findings.error(source.line, found.unknown_column(&source.value));
            } else {
                let column = SourceColumn {
                    name: source.name.clone(),
                    ty: source.ty,
                    sql: quote_identifier(&source.value),
                    line: source.line,
                };
                check_column(&mut transaction, &column, findings).await?;
            }
        }
        SourceSpec::Metrics(_) => {}
    }
    transaction.rollback().await?;
    Ok(())
}

async fn check_condition(
    connection: &mut PgConnection,
    sql: &str,
    line: usize,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    match result_type(connection, sql).await? {
        Err(reason) => findings.error(line, format!("where: {reason}")),
        Ok(result) if !types::fits(FieldType::Bool, result.oid, false) => {
            findings.error(line, format!("where: a condition is boolean, not {}", result.name));
        }
        Ok(_) => {}
    }
    Ok(())
}

async fn check_column(
    connection: &mut PgConnection,
    column: &SourceColumn,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let name = &column.name;
    let result = match result_type(connection, &column.sql).await? {
        Ok(result) => result,
        Err(reason) => {
            findings.error(column.line, format!("field {name}: {reason}"));
            return Ok(());
        }
    };
    if !types::fits(column.ty, result.oid, result.is_enum) {
        findings.error(
            column.line,
            format!(
                "field {name} is of type {}, but {} is {} in Postgres; give {}, by a cast in `sql` if need be",
                column.ty,
                column.sql,
                result.name,
                types::expected(column.ty)
            ),
        );
    } else if let FieldType::Decimal(scale) = column.ty
        && !types::is_integer(result.oid)
    {
        match types::numeric_scale(result.modifier) {
            Some(digits) if digits <= i32::from(scale) => {}
            Some(digits) => findings.error(
                column.line,
                format!("field {name} is decimal({scale}), but {} has {digits} digits after the point", result.name),
            ),
            None => findings.warn(
                column.line,
                format!(
                    "field {name}: Postgres does not limit the digits after the point of {}; a value with more than \
                     {scale} would stop the index until it is changed (round it in `sql`)",
                    column.sql
                ),
            ),
        }
    }
    Ok(())
}

/// The type of an expression, or what Postgres has against it. Leaves the transaction as it was.
async fn result_type(connection: &mut PgConnection, sql: &str) -> anyhow::Result<Result<ResultType, String>> {
    run(connection, "SAVEPOINT bitdex_expression").await?;
    let outcome = attempt(connection, sql).await;
    run(connection, "ROLLBACK TO SAVEPOINT bitdex_expression; RELEASE SAVEPOINT bitdex_expression").await?;
    match outcome {
        Ok(result) => Ok(Ok(result)),
        Err(error) => match database_error(&error) {
            // Class 42: the expression; 0A: a feature that generated columns do not have; 22: constant folding.
            Some(refusal) if ["42", "0A", "22", "54"].iter().any(|class| refusal.code().starts_with(class)) => {
                Ok(Err(explain(refusal.code(), refusal.message(), sql)))
            }
            _ => Err(error.into()),
        },
    }
}

async fn attempt(connection: &mut PgConnection, sql: &str) -> sqlx::Result<ResultType> {
    run(
        connection,
        format!("CREATE TEMPORARY TABLE bitdex_result ON COMMIT DROP AS SELECT ({sql}\n) AS v FROM pg_temp.bitdex_check WITH NO DATA"),
    )
    .await?;
    let row = sqlx::query(
        "SELECT CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END, t.typtype = 'e',
             pg_catalog.format_type(a.atttypid, a.atttypmod), a.atttypmod
         FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
         WHERE a.attrelid = 'pg_temp.bitdex_result'::pg_catalog.regclass AND a.attnum = 1",
    )
    // Its plan would outlive the table that it names.
    .persistent(false)
    .fetch_one(&mut *connection)
    .await?;
    let result = ResultType {
        oid: row.try_get::<Oid, _>(0)?.0,
        is_enum: row.try_get(1)?,
        name: row.try_get(2)?,
        modifier: row.try_get(3)?,
    };
    run(
        connection,
        format!(
            "ALTER TABLE pg_temp.bitdex_check ADD COLUMN bitdex_value {} GENERATED ALWAYS AS ({sql}\n) STORED",
            result.name
        ),
    )
    .await?;
    Ok(result)
}

fn explain(code: &str, message: &str, sql: &str) -> String {
    let message = message.trim_end_matches('.');
    match code {
        "42P17" if message.contains("immutable") => {
            format!(
                "{sql} is not immutable: its value must depend on the row alone, not on the clock, the time zone or settings"
            )
        }
        "0A000" => format!("{sql} reaches beyond its row: {message}"),
        _ => format!("{sql}: {message}"),
    }
}
