//! Ops: the changes that bring the index from one upstream cursor to the next, validated against the schema.
//!
//! Each op but [`Op::QueryOpSet`] assigns state absolutely, so applying it twice, or to a state that already contains
//! it, changes nothing.

mod dedup;

use std::sync::Arc;

pub use dedup::dedup;

use crate::{
    Error, Result,
    query::Filter,
    schema::{FieldId, Origin, Schema, SourceId, SourceKind},
    value::{FieldValue, Value},
    wire,
};

/// The columns of one row of a source, in the schema's order.
pub type Row = Arc<[Option<Value>]>;

#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The current row of a source; `None`: there is none.
    Upsert { source: SourceId, key: i64, row: Option<Row> },
    /// Whether a document has a value of a member source.
    Member { source: SourceId, document: u32, value: Value, present: bool },
    /// No row of the source is left.
    Truncate { source: SourceId },
    /// No row of the source is left whose key is from `first` to `last` and not among `keys`, which are ascending and
    /// within that range. Sources of rows by document key only. Rows of `keys` stay as they are.
    Retain { source: SourceId, first: u32, last: u32, keys: Arc<[u32]> },
    /// A change of an external field of one document.
    Field { document: u32, field: FieldId, change: Change },
    /// Changes of external fields of every document that matches when the op is applied, pending ones included.
    QueryOpSet { filter: Filter, changes: Vec<(FieldId, Change)> },
}

#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Set(FieldValue),
    /// Fields of many values only.
    Add(Value),
    /// Fields of many values only.
    Remove(Value),
    Delete,
}

/// Document keys are 0 to 2^32 − 1; anything else is refused by name.
pub fn document_key(key: i64, what: &str) -> Result<u32> {
    u32::try_from(key).map_err(|_| Error::invalid(format!("{what}: document key {key} is not in 0..=4294967295")))
}

impl Op {
    /// Checks a wire op against the schema: sources, columns, types and keys.
    pub fn from_wire(op: &wire::Op, schema: &Schema) -> Result<Self> {
        use wire::op::Kind;
        Ok(match op.kind.as_ref().ok_or_else(|| Error::invalid("an op without a kind"))? {
            Kind::Upsert(upsert) => Self::upsert_from_wire(upsert, schema)?,
            Kind::Member(member) => Self::member_from_wire(member, schema)?,
            Kind::Truncate(truncate) => {
                let source = source(truncate.source, schema)?;
                Self::Truncate { source }
            }
            Kind::Retain(retain) => Self::retain_from_wire(retain, schema)?,
            Kind::Field(op) => {
                let (field, change) = change_from_wire(&op.field, op.change.as_ref(), schema)?;
                Self::Field { document: document_key(op.document, &op.field)?, field, change }
            }
            Kind::QueryOpSet(op) => {
                let filter = op.filter.as_ref().ok_or_else(|| Error::invalid("a query_op_set without a filter"))?;
                let filter = Filter::try_from(filter)?;
                if filter.is_relative() {
                    return Err(Error::invalid("a query_op_set may not compare with the clock: send the time itself"));
                }
                if filter.has_names() {
                    // A definition may change what a name means; what a record of the log means may not change.
                    return Err(Error::invalid("a query_op_set may not use named filters: spell them out"));
                }
                filter.check(schema)?;
                let changes = op
                    .changes
                    .iter()
                    .map(|named| change_from_wire(&named.field, named.change.as_ref(), schema))
                    .collect::<Result<_>>()?;
                Self::QueryOpSet { filter, changes }
            }
        })
    }

    fn upsert_from_wire(upsert: &wire::Upsert, schema: &Schema) -> Result<Self> {
        let id = source(upsert.source, schema)?;
        let source = &schema.sources[id];
        if !matches!(source.kind, SourceKind::Lookup { .. }) {
            document_key(upsert.key, &source.name)?;
        }
        if matches!(source.kind, SourceKind::Members { .. }) {
            return Err(Error::invalid(format!("{} is a member source: it takes member ops", source.name)));
        }
        if upsert.tombstone {
            return Ok(Self::Upsert { source: id, key: upsert.key, row: None });
        }
        let columns = source.columns();
        if columns.len() != upsert.values.len() {
            return Err(Error::invalid(format!(
                "{} has {} columns, the row of key {} has {}",
                source.name,
                columns.len(),
                upsert.key,
                upsert.values.len()
            )));
        }
        let row = columns
            .iter()
            .zip(&upsert.values)
            .map(|(column, value)| Value::from_wire(value, column.ty, &column.name))
            .collect::<Result<Row>>()?;
        Ok(Self::Upsert { source: id, key: upsert.key, row: Some(row) })
    }

    fn member_from_wire(member: &wire::Member, schema: &Schema) -> Result<Self> {
        let id = source(member.source, schema)?;
        let source = &schema.sources[id];
        let SourceKind::Members { ty } = source.kind else {
            return Err(Error::invalid(format!("{} is not a member source: it takes upserts", source.name)));
        };
        let value = member.value.as_ref().map(|value| Value::from_wire(value, ty, &source.name)).transpose()?.flatten();
        Ok(Self::Member {
            source: id,
            document: document_key(member.document, &source.name)?,
            value: value.ok_or_else(|| Error::invalid(format!("{}: a member cannot be null", source.name)))?,
            present: member.present,
        })
    }

    fn retain_from_wire(retain: &wire::Retain, schema: &Schema) -> Result<Self> {
        let id = source(retain.source, schema)?;
        let wire::Retain { first, last, ref keys, .. } = *retain;
        let source = &schema.sources[id];
        if !matches!(source.kind, SourceKind::Document { .. } | SourceKind::Metrics { .. }) {
            return Err(Error::invalid(format!("{}: retain needs a source of rows by document key", source.name)));
        }
        let within = keys.first().is_none_or(|key| first <= *key) && keys.last().is_none_or(|key| *key <= last);
        if first > last || !within || !keys.is_sorted_by(|a, b| a < b) {
            return Err(Error::invalid(format!(
                "{}: retain from {first} to {last} needs a range, and keys within it, ascending",
                source.name
            )));
        }
        Ok(Self::Retain { source: id, first, last, keys: keys.as_slice().into() })
    }

    pub fn to_wire(&self, schema: &Schema) -> wire::Op {
        use wire::op::Kind;
        let kind = match self {
            Self::Upsert { source, key, row } => {
                let columns = schema.sources[*source].columns();
                let values = row.as_deref().unwrap_or_default();
                Kind::Upsert(wire::Upsert {
                    source: *source as u32,
                    key: *key,
                    values: columns
                        .iter()
                        .zip(values)
                        .map(|(column, value)| {
                            value.as_ref().map_or_else(wire::Value::default, |value| value.to_wire(column.ty))
                        })
                        .collect(),
                    tombstone: row.is_none(),
                })
            }
            Self::Member { source, document, value, present } => {
                let SourceKind::Members { ty } = schema.sources[*source].kind else {
                    unreachable!("a member op holds a member source");
                };
                Kind::Member(wire::Member {
                    source: *source as u32,
                    document: i64::from(*document),
                    value: Some(value.to_wire(ty)),
                    present: *present,
                })
            }
            Self::Truncate { source } => Kind::Truncate(wire::Truncate { source: *source as u32 }),
            Self::Retain { source, first, last, keys } => {
                Kind::Retain(wire::Retain { source: *source as u32, first: *first, last: *last, keys: keys.to_vec() })
            }
            Self::Field { document, field, change } => Kind::Field(wire::FieldOp {
                document: i64::from(*document),
                field: schema.fields[*field].name.clone(),
                change: Some(change_to_wire(*field, change, schema)),
            }),
            Self::QueryOpSet { filter, changes } => Kind::QueryOpSet(wire::QueryOpSet {
                filter: Some(filter.into()),
                changes: changes
                    .iter()
                    .map(|(field, change)| wire::NamedChange {
                        field: schema.fields[*field].name.clone(),
                        change: Some(change_to_wire(*field, change, schema)),
                    })
                    .collect(),
            }),
        };
        wire::Op { kind: Some(kind) }
    }
}

fn source(source: u32, schema: &Schema) -> Result<SourceId> {
    let id = source as usize;
    if id < schema.sources.len() {
        Ok(id)
    } else {
        Err(Error::invalid(format!("source {source} does not exist: the definition has {}", schema.sources.len())))
    }
}

fn change_from_wire(name: &str, change: Option<&wire::FieldChange>, schema: &Schema) -> Result<(FieldId, Change)> {
    use wire::field_change::Kind;
    let (id, field) = schema.field(name).ok_or_else(|| Error::invalid(format!("unknown field {name}")))?;
    if field.origin != Origin::External {
        return Err(Error::invalid(format!(
            "field {name} is fed by the database; only external fields can be written"
        )));
    }
    let one = |value: &wire::Value| {
        Value::from_wire(value, field.ty, name)?
            .ok_or_else(|| Error::invalid(format!("field {name}: a value of a set cannot be null")))
    };
    let many_only = |op: &str| {
        if field.many {
            Ok(())
        } else {
            Err(Error::invalid(format!("field {name} holds one value: {op} needs a field of many")))
        }
    };
    let change = match change.and_then(|change| change.kind.as_ref()) {
        None => return Err(Error::invalid(format!("field {name}: a change without a kind"))),
        Some(Kind::Set(value)) if field.many => {
            Change::Set(FieldValue::many(value.values.iter().map(one).collect::<Result<_>>()?))
        }
        Some(Kind::Set(value)) => match value.values.as_slice() {
            [] => Change::Set(FieldValue::Null),
            [value] => Change::Set(FieldValue::one(Value::from_wire(value, field.ty, name)?)),
            _ => return Err(Error::invalid(format!("field {name} holds one value, not {}", value.values.len()))),
        },
        Some(Kind::Add(value)) => {
            many_only("add")?;
            Change::Add(one(value)?)
        }
        Some(Kind::Remove(value)) => {
            many_only("remove")?;
            Change::Remove(one(value)?)
        }
        Some(Kind::Delete(_)) => Change::Delete,
    };
    Ok((id, change))
}

fn change_to_wire(field: FieldId, change: &Change, schema: &Schema) -> wire::FieldChange {
    use wire::field_change::Kind;
    let ty = schema.fields[field].ty;
    wire::FieldChange {
        kind: Some(match change {
            Change::Set(value) => Kind::Set(value.to_wire(ty)),
            Change::Add(value) => Kind::Add(value.to_wire(ty)),
            Change::Remove(value) => Kind::Remove(value.to_wire(ty)),
            Change::Delete => Kind::Delete(wire::Empty {}),
        }),
    }
}
