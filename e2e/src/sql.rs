//! A search as SQL over a table that has one row a document and one column a field: what Postgres is asked for, to be
//! compared with (the oracle test) or measured beside (the benchmarks).
//!
//! Filters are two-valued and SQL is three-valued: a null result counts as false, which each negation makes explicit by
//! `IS NOT TRUE`.

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    query::{Comparator, Filter, Sort},
    schema::{Field, Schema},
    value::{FieldType, Literal, Value, format_decimal},
};

use crate::workload::rows::timestamp;

/// An identifier.
pub fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The condition that a filter means.
pub fn condition(filter: &Filter, schema: &Schema, now_us: i64) -> Result<String> {
    Ok(match filter {
        Filter::And(filters) => joined(filters, " AND ", "TRUE", schema, now_us)?,
        Filter::Or(filters) => joined(filters, " OR ", "FALSE", schema, now_us)?,
        Filter::Not(filter) => format!("({}) IS NOT TRUE", condition(filter, schema, now_us)?),
        Filter::Named { .. } => condition(&filter.expanded(schema)?, schema, now_us)?,
        Filter::IsNull { field } => format!("{} IS NULL", quote(&find(schema, field)?.name)),
        Filter::Compare { field, comparator, value } => {
            let field = find(schema, field)?;
            let (name, value) = (quote(&field.name), literal(field, value, now_us)?);
            match (comparator, field.many) {
                (Comparator::Eq, false) => format!("{name} = {value}"),
                (Comparator::Ne, false) => format!("({name} = {value}) IS NOT TRUE"),
                (Comparator::Eq, true) => format!("{name} @> {}", array(field, &[value])),
                (Comparator::Ne, true) => format!("({name} @> {}) IS NOT TRUE", array(field, &[value])),
                (_, false) => format!("{name} {} {value}", operator(*comparator)),
                (_, true) => {
                    format!("EXISTS (SELECT FROM unnest({name}) AS m(v) WHERE {})", compare(field, *comparator, &value))
                }
            }
        }
        Filter::In { field, values, negated, all } => {
            let field = find(schema, field)?;
            let name = quote(&field.name);
            let values = values.iter().map(|value| literal(field, value, now_us)).collect::<Result<Vec<_>>>()?;
            let test = match (field.many, all) {
                // All of nothing is true, also for a document without members.
                (true, true) if values.is_empty() => "TRUE".to_owned(),
                (true, true) => format!("{name} @> {}", array(field, &values)),
                (true, false) => format!("{name} && {}", array(field, &values)),
                (false, true) => bail!("field {} holds one value", field.name),
                (false, false) if values.is_empty() => "FALSE".to_owned(),
                (false, false) => format!("{name} IN ({})", values.join(", ")),
            };
            if *negated { format!("({test}) IS NOT TRUE") } else { test }
        }
    })
}

fn joined(filters: &[Filter], with: &str, empty: &str, schema: &Schema, now_us: i64) -> Result<String> {
    if filters.is_empty() {
        return Ok(empty.into());
    }
    let parts = filters.iter().map(|filter| Ok(format!("({})", condition(filter, schema, now_us)?)));
    Ok(parts.collect::<Result<Vec<_>>>()?.join(with))
}

fn find<'s>(schema: &'s Schema, name: &str) -> Result<&'s Field> {
    schema.field(name).map(|(_, field)| field).with_context(|| format!("unknown field {name}"))
}

fn operator(comparator: Comparator) -> &'static str {
    match comparator {
        Comparator::Eq => "=",
        Comparator::Ne => "<>",
        Comparator::Lt => "<",
        Comparator::Le => "<=",
        Comparator::Gt => ">",
        Comparator::Ge => ">=",
    }
}

fn compare(field: &Field, comparator: Comparator, value: &str) -> String {
    let collation = if field.ty == FieldType::String { " COLLATE \"C\"" } else { "" };
    format!("v{collation} {} {value}", operator(comparator))
}

/// Postgres' type for one value of a field.
pub fn type_name(ty: FieldType) -> &'static str {
    match ty {
        FieldType::Int => "int8",
        FieldType::Decimal(_) => "numeric",
        FieldType::Float => "float8",
        FieldType::Bool => "bool",
        FieldType::Timestamp => "timestamptz",
        FieldType::String => "text",
    }
}

fn array(field: &Field, values: &[String]) -> String {
    format!("ARRAY[{}]::{}[]", values.join(", "), type_name(field.ty))
}

fn literal(field: &Field, literal: &Literal, now_us: i64) -> Result<String> {
    let value = match literal {
        Literal::Now { offset_us } => Value::Int(now_us + offset_us),
        literal => literal.to_value(field.ty, &field.name)?,
    };
    Ok(match (value, field.ty) {
        (Value::Int(us), FieldType::Timestamp) => format!("{}::timestamptz", text(&timestamp(us))),
        (Value::Int(unscaled), FieldType::Decimal(scale)) => format_decimal(unscaled, scale.into()),
        (Value::Int(int), _) => int.to_string(),
        (Value::Bool(bool), _) => bool.to_string(),
        (Value::Float(float), _) => format!("{}::float8", text(&float.get().to_string())),
        (Value::Text(value), _) => text(&value),
    })
}

/// `ORDER BY` of a search: nulls last both ways, ties by id in the direction of the last key.
pub fn order(sort: &[Sort], schema: &Schema) -> Result<String> {
    let direction = |descending: bool| if descending { "DESC" } else { "ASC" };
    let mut keys = sort
        .iter()
        .map(|sort| {
            let field = find(schema, &sort.field)?;
            Ok(format!("{} {} NULLS LAST", quote(&field.name), direction(sort.descending)))
        })
        .collect::<Result<Vec<_>>>()?;
    let descending = sort.last().is_some_and(|sort| sort.descending);
    keys.push(format!("{} {}", quote(&schema.fields[0].name), direction(descending)));
    Ok(keys.join(", "))
}

/// What hides pending documents; `None` where the index has no such field.
pub fn visible(schema: &Schema, now_us: i64) -> Option<String> {
    let field = &schema.fields[schema.visible_at?];
    let name = quote(&field.name);
    Some(format!("({name} <= {}::timestamptz OR {name} IS NULL)", text(&timestamp(now_us))))
}

#[cfg(test)]
mod tests {
    use bitdex_proto::definition::Definition;

    use super::*;

    #[test]
    fn negations_are_complements() {
        let definition = Definition::parse(
            "index: t\ndocument: { table: t, key: id }\nfields:\n  a: { type: int, filter: true, sort: true }\n  \
             s: { type: string, filter: true }\nmembers:\n  m: { table: m, key: t, value: v, type: int, filter: true }\n",
        )
        .unwrap();
        let schema = definition.schema();
        let sql = |json: &str| condition(&serde_json::from_str(json).unwrap(), schema, 0).unwrap();
        assert_eq!(sql(r#"{"field": "a", "ne": 1}"#), "(\"a\" = 1) IS NOT TRUE");
        assert_eq!(sql(r#"{"not": {"field": "s", "eq": "it's"}}"#), "(\"s\" = 'it''s') IS NOT TRUE");
        assert_eq!(sql(r#"{"field": "m", "not_in": [1, 2]}"#), "(\"m\" && ARRAY[1, 2]::int8[]) IS NOT TRUE");
        assert_eq!(sql(r#"{"and": []}"#), "TRUE");
        let sort = [Sort { field: "a".into(), descending: true }];
        assert_eq!(order(&sort, schema).unwrap(), "\"a\" DESC NULLS LAST, \"id\" DESC");
    }
}
