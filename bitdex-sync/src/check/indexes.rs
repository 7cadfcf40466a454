//! Reads by key need an index; keys of rows must be unique.

use bitdex_proto::definition::SourceSpec;
use sqlx::{PgConnection, Row as _};

use super::{Findings, catalog::Relation};

pub(super) async fn check(
    connection: &mut PgConnection,
    source: SourceSpec<'_>,
    found: &Relation,
    findings: &mut Findings,
) -> sqlx::Result<()> {
    let (key, line, rows) = match source {
        SourceSpec::Document(source) | SourceSpec::Lookup(source) => (&source.key, source.line, true),
        SourceSpec::Members(source) => (&source.key, source.line, false),
        SourceSpec::Metrics(_) => return Ok(()),
    };
    let Some(column) = found.column(key) else { return Ok(()) };
    let row = sqlx::query(
        "SELECT pg_catalog.count(*) > 0,
             pg_catalog.count(*) FILTER (WHERE i.indisunique AND i.indnkeyatts = 1) > 0
         FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
             JOIN pg_catalog.pg_am a ON a.oid = c.relam
         WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND i.indkey[0] = $2 AND a.amname = 'btree'",
    )
    .bind(found.oid)
    .bind(column.number)
    .fetch_one(connection)
    .await?;
    let (indexed, unique): (bool, bool) = (row.try_get(0)?, row.try_get(1)?);
    if rows && !unique {
        findings.error(
            line,
            format!("key {key} of table {} is not unique: it needs a unique index on that column alone", found.table),
        );
    } else if !indexed {
        findings.warn(
            line,
            format!(
                "table {} has no index that starts with {key}: each change will read the whole table \
                 (CREATE INDEX CONCURRENTLY ON {} ({}))",
                found.table,
                found.table,
                crate::postgres::quote_identifier(key)
            ),
        );
    }
    Ok(())
}
