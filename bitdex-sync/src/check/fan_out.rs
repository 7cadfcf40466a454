//! How many documents one row of a lookup can move in an order.
//!
//! A field that is only filtered by moves in sets, however many documents show the row. A field with an order (sorted
//! by, a timestamp, a float or a decimal) is moved document by document, which at a large fan-out takes longer than
//! changes otherwise take to show.

use bitdex_proto::{
    definition::Definition,
    schema::{FieldId, Origin, Path, Schema},
    value::FieldType,
};
use sqlx::{PgConnection, Row as _};

use super::Findings;

/// Documents that are moved within 250 ms, about (`docs/benchmarks.md`).
const WITHIN_TIME: f64 = 250_000.0;

pub(super) async fn check(
    definition: &Definition,
    connection: &mut PgConnection,
    findings: &mut Findings,
) -> sqlx::Result<()> {
    let schema = definition.schema();
    for (id, field) in schema.fields.iter().enumerate().filter(|(id, _)| has_order(schema, *id)) {
        for (by, path) in lookups_of(schema, id) {
            let Some(documents) = fan_out(definition, connection, by, path).await? else { continue };
            if documents < WITHIN_TIME {
                continue;
            }
            let source = path.hops.last().map_or(path.first, |hop| hop.source);
            let name = &schema.sources[source].name;
            let line = definition.lookups().iter().find(|lookup| lookup.name == *name).map(|lookup| lookup.line);
            findings.warn(
                line,
                format!(
                    "field {} has an order and depends on lookup {name}, whose most used row is shown by about \
                     {documents:.0} documents: a change of that row moves each of them, and may take longer than \
                     250 ms to show",
                    field.name
                ),
            );
        }
    }
    Ok(())
}

fn has_order(schema: &Schema, id: FieldId) -> bool {
    let field = &schema.fields[id];
    let by_type = matches!(field.ty, FieldType::Timestamp | FieldType::Float | FieldType::Decimal(_));
    !field.many && (field.sort || schema.visible_at == Some(id) || (field.filter && by_type))
}

/// The lookups that decide a field's value: the document's column with the key, and the way from there.
fn lookups_of(schema: &Schema, id: FieldId) -> Vec<(usize, &Path)> {
    match &schema.fields[id].origin {
        Origin::Lookup { by, path, .. } => vec![(*by, path)],
        Origin::Derived { inputs, .. } => {
            let mut all: Vec<_> = inputs.iter().flat_map(|input| lookups_of(schema, *input)).collect();
            all.dedup();
            all
        }
        _ => Vec::new(),
    }
}

/// Documents behind the most used row at the end of the path, by the planner's statistics; `None` where those say
/// nothing (the table was never analysed, or a key is an expression).
async fn fan_out(
    definition: &Definition,
    connection: &mut PgConnection,
    by: usize,
    path: &Path,
) -> sqlx::Result<Option<f64>> {
    let mut hops = vec![(definition.document(), by)];
    let mut source = path.first;
    for hop in &path.hops {
        let name = &definition.schema().sources[source].name;
        let Some(lookup) = definition.lookups().iter().find(|lookup| lookup.name == *name) else { return Ok(None) };
        hops.push((lookup, hop.by));
        source = hop.source;
    }
    let mut documents = 1.0;
    for (rows, column) in hops {
        let Some(column) = rows.columns.get(column) else { return Ok(None) };
        let row = sqlx::query(
            "SELECT c.reltuples::float8 * (s.most_common_freqs)[1]::float8
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
                 JOIN pg_catalog.pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname
             WHERE n.nspname::text = $1 AND c.relname::text = $2 AND s.attname::text = $3
                 AND c.reltuples >= 0",
        )
        .bind(&rows.table.schema)
        .bind(&rows.table.name)
        .bind(unquoted(&column.sql))
        .fetch_optional(&mut *connection)
        .await?;
        let Some(most) = row.map(|row| row.try_get::<Option<f64>, _>(0)).transpose()?.flatten() else {
            return Ok(None);
        };
        documents *= most.max(1.0);
    }
    Ok(Some(documents))
}

/// The name of the column that an expression is, where it is one: no other column has it.
fn unquoted(sql: &str) -> String {
    let sql = sql.trim();
    match sql.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => sql.to_lowercase(),
    }
}
