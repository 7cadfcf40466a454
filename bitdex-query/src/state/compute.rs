//! The values of one document, from its row and whatever else is known of it.

use std::sync::Arc;

use bitdex_proto::{
    ops::Row,
    schema::{Function, Origin, Path},
    value::{FieldValue, Value},
};

use super::{Document, layout::Layout, rows::Rows};

/// One value for each field of the layout.
pub(crate) fn document(layout: &Layout, rows: &Rows, id: u32, row: &Row) -> Document {
    let key = i64::from(id);
    let mut values: Vec<FieldValue> = Vec::with_capacity(layout.fields.len());
    for (field, slot) in layout.fields.iter().enumerate() {
        let value = match &slot.origin {
            Origin::Key => FieldValue::One(Value::Int(key)),
            Origin::Document { column } => FieldValue::one(row[*column].clone()),
            Origin::Lookup { by, path, column } => {
                FieldValue::one(row[*by].as_ref().and_then(|key| follow(rows, path, *column, key)))
            }
            Origin::Members { source } => {
                rows.members[*source].get(&id).map_or(FieldValue::Null, |set| FieldValue::Many(set.clone()))
            }
            Origin::Through { members, path, column } => FieldValue::many(
                rows.members[*members]
                    .get(&id)
                    .map_or(&[][..], |set| set)
                    .iter()
                    .filter_map(|key| follow(rows, path, *column, key))
                    .collect(),
            ),
            Origin::Derived { function, inputs } => {
                let inputs = inputs.iter().filter_map(|input| values[*input].values().first());
                derive(*function, inputs)
            }
            Origin::Metric { source, column, default } => FieldValue::one(match rows.rows[*source].get(&key) {
                Some(row) => row[*column].clone(),
                None => default.clone(),
            }),
            Origin::External => rows.external[field].get(&id).cloned().unwrap_or(FieldValue::Null),
        };
        values.push(value);
    }
    Arc::from(values)
}

/// The column at the end of a path that begins at `key`.
fn follow(rows: &Rows, path: &Path, column: usize, key: &Value) -> Option<Value> {
    let row_of = |source: usize, key: &Value| match key {
        Value::Int(key) => rows.rows[source].get(key),
        _ => None,
    };
    let mut row = row_of(path.first, key)?;
    for hop in &path.hops {
        row = row_of(hop.source, row[hop.by].as_ref()?)?;
    }
    row[column].clone()
}

/// `inputs`: those that are not null, in the definition's order.
fn derive<'a>(function: Function, mut inputs: impl Iterator<Item = &'a Value>) -> FieldValue {
    match function {
        Function::Greatest => FieldValue::one(inputs.max().cloned()),
        Function::Least => FieldValue::one(inputs.min().cloned()),
        Function::Coalesce => FieldValue::one(inputs.next().cloned()),
        Function::Exists => FieldValue::One(Value::Bool(inputs.next().is_some())),
    }
}
