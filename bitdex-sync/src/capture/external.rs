//! Rows of `external_ops`: changes of external fields that services write in their own transactions.
//!
//! A row with a document changes its fields: `{"set": {"pinnedRank": 5}, "add": {"labels": [3, 4]}}`. A row without one
//! changes every document that matches: `{"where": {"field": "userId", "eq": 7}, "set": {"pinnedRank": 5}}`. The verbs
//! are `set`, `delete`, `remove` and `add`, and apply in that order. A row that means nothing is refused by name; it
//! never stands in the way of others.

use bitdex_proto::{
    Error, Result,
    ops::{Change, Op, document_key},
    query::Filter,
    schema::{Field, FieldId, Origin, Schema},
    value::{FieldValue, Literal, Value},
};
use serde_json::{Map, Value as Json};

/// The ops of one row.
pub(super) fn parse(document: Option<i64>, op: &Json, schema: &Schema) -> Result<Vec<Op>> {
    let object = op.as_object().ok_or_else(|| Error::invalid(format!("an op is an object, not {op}")))?;
    let changes = changes(object, schema)?;
    match (document, object.get("where")) {
        (Some(_), Some(_)) => Err(Error::invalid("give a document or `where`, not both")),
        (None, None) => Err(Error::invalid("give a document, or `where` for all that match")),
        (Some(document), None) => {
            let document = document_key(document, "document")?;
            Ok(changes.into_iter().map(|(field, change)| Op::Field { document, field, change }).collect())
        }
        (None, Some(filter)) => {
            let filter: Filter =
                serde_json::from_value(filter.clone()).map_err(|error| Error::invalid(format!("where: {error}")))?;
            let op = Op::QueryOpSet { filter, changes };
            // The checks of whoever receives it, made here, where the row can still be named.
            Op::from_wire(&op.to_wire(schema), schema).map(|op| vec![op])
        }
    }
}

fn changes(object: &Map<String, Json>, schema: &Schema) -> Result<Vec<(FieldId, Change)>> {
    if let Some(unknown) =
        object.keys().find(|name| !["where", "set", "delete", "remove", "add"].contains(&name.as_str()))
    {
        return Err(Error::invalid(format!("unknown verb {unknown}: use set, delete, remove, add, where")));
    }
    let mut changes = Vec::new();
    for (name, value) in fields(object, "set")? {
        let (id, field) = external(name, schema)?;
        changes.push((id, Change::Set(field_value(field, value)?)));
    }
    match object.get("delete") {
        None => {}
        Some(Json::Array(names)) => {
            for name in names {
                let name = name.as_str().ok_or_else(|| Error::invalid("delete takes a list of field names"))?;
                changes.push((external(name, schema)?.0, Change::Delete));
            }
        }
        Some(_) => return Err(Error::invalid("delete takes a list of field names")),
    }
    for (verb, change) in [("remove", Change::Remove as fn(Value) -> Change), ("add", Change::Add)] {
        for (name, value) in fields(object, verb)? {
            let (id, field) = external(name, schema)?;
            if !field.many {
                return Err(Error::invalid(format!("field {name} holds one value: {verb} needs a field of many")));
            }
            for value in value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice) {
                changes.push((id, change(scalar(field, value)?)));
            }
        }
    }
    if changes.is_empty() { Err(Error::invalid("an op without a change")) } else { Ok(changes) }
}

fn fields<'a>(object: &'a Map<String, Json>, verb: &str) -> Result<impl Iterator<Item = (&'a String, &'a Json)>> {
    match object.get(verb) {
        None => Ok(None.into_iter().flatten()),
        Some(Json::Object(fields)) => Ok(Some(fields.iter()).into_iter().flatten()),
        Some(_) => Err(Error::invalid(format!("{verb} takes an object of fields and values"))),
    }
}

fn external<'s>(name: &str, schema: &'s Schema) -> Result<(FieldId, &'s Field)> {
    let (id, field) = schema.field(name).ok_or_else(|| Error::invalid(format!("unknown field {name}")))?;
    if field.origin == Origin::External {
        Ok((id, field))
    } else {
        Err(Error::invalid(format!("field {name} is fed by the database; only external fields can be written")))
    }
}

fn field_value(field: &Field, json: &Json) -> Result<FieldValue> {
    match (field.many, json) {
        (_, Json::Null) => Ok(FieldValue::Null),
        (true, Json::Array(values)) => {
            values.iter().map(|value| scalar(field, value)).collect::<Result<_>>().map(FieldValue::many)
        }
        (true, _) => Err(Error::invalid(format!("field {} holds many values: set takes a list", field.name))),
        (false, value) => scalar(field, value).map(FieldValue::One),
    }
}

fn scalar(field: &Field, json: &Json) -> Result<Value> {
    let name = format!("field {}", field.name);
    let literal = match json {
        Json::Bool(bool) => Literal::Bool(*bool),
        Json::String(text) => Literal::Text(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Literal::Int(int),
            (None, Some(float)) if number.is_f64() => Literal::Float(float),
            _ => return Err(Error::invalid(format!("{name}: {number} does not fit a 64-bit integer"))),
        },
        Json::Null | Json::Array(_) | Json::Object(_) => {
            return Err(Error::invalid(format!("{name} is of type {}, which {json} is not", field.ty)));
        }
    };
    literal.to_value(field.ty, &name)
}

#[cfg(test)]
mod tests {
    use bitdex_proto::{
        schema::{Source, SourceKind},
        value::FieldType,
    };
    use serde_json::json;

    use super::*;

    fn schema() -> Schema {
        let field =
            |name: &str, ty, many, origin| Field { name: name.into(), ty, many, filter: true, sort: !many, origin };
        Schema {
            index: "t".into(),
            hash: String::new(),
            sources: vec![Source { name: "document".into(), kind: SourceKind::Document { columns: Vec::new() } }],
            fields: vec![
                field("id", FieldType::Int, false, Origin::Key),
                field("rank", FieldType::Int, false, Origin::External),
                field("labels", FieldType::Int, true, Origin::External),
                field("price", FieldType::Decimal(2), false, Origin::External),
            ],
            visible_at: None,
            filters: Vec::new(),
        }
    }

    #[test]
    fn verbs_apply_in_a_fixed_order() {
        let ops = parse(Some(3), &json!({"add": {"labels": [4, 5]}, "set": {"rank": 5, "price": 1.25}}), &schema());
        let op = |field, change| Op::Field { document: 3, field, change };
        assert_eq!(
            ops.unwrap(),
            [
                op(3, Change::Set(FieldValue::One(Value::Int(125)))),
                op(1, Change::Set(FieldValue::One(Value::Int(5)))),
                op(2, Change::Add(Value::Int(4))),
                op(2, Change::Add(Value::Int(5))),
            ]
        );
    }

    #[test]
    fn a_row_without_a_document_is_a_query_op() {
        let ops = parse(None, &json!({"where": {"field": "id", "lt": 9}, "delete": ["rank"]}), &schema()).unwrap();
        assert!(matches!(&ops[..], [Op::QueryOpSet { changes, .. }] if changes == &[(1, Change::Delete)]));
    }

    #[test]
    fn what_means_nothing_is_refused_by_name() {
        for (document, op, expected) in [
            (Some(1), json!([]), "an op is an object"),
            (Some(1), json!({}), "without a change"),
            (Some(-1), json!({"set": {"rank": 1}}), "document key -1"),
            (None, json!({"set": {"rank": 1}}), "give a document"),
            (Some(1), json!({"set": {"id": 1}}), "field id is fed by the database"),
            (Some(1), json!({"set": {"nope": 1}}), "unknown field nope"),
            (Some(1), json!({"set": {"rank": "x"}}), "field rank is of type int"),
            (Some(1), json!({"set": {"rank": 99999999999999999999_u128.to_string()}}), "field rank"),
            (Some(1), json!({"add": {"rank": 1}}), "add needs a field of many"),
            (Some(1), json!({"increment": {"rank": 1}}), "unknown verb increment"),
            (None, json!({"where": {"field": "nope", "eq": 1}, "delete": ["rank"]}), "unknown field nope"),
            (None, json!({"where": {"field": "id", "eq": "x"}, "delete": ["rank"]}), "field id"),
        ] {
            let error = parse(document, &op, &schema()).unwrap_err().to_string();
            assert!(error.contains(expected), "{op}: {error}");
        }
    }
}
