//! Answers as JSON, written straight from the domain types.

use bitdex_proto::{
    query::OpaqueBytes,
    schema::{FieldId, Schema},
    value::{FieldType, FieldValue, Value, format_decimal, format_timestamp},
    wire,
};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap as _, SerializeSeq as _},
};

use crate::engine::{Explained, FacetValues};

/// Where an answer stood.
#[derive(Debug, Serialize)]
pub(super) struct Info {
    token: OpaqueBytes,
    sequence: u64,
    now_us: i64,
    catching_up: bool,
}

impl From<wire::AnswerInfo> for Info {
    fn from(info: wire::AnswerInfo) -> Self {
        Self {
            token: OpaqueBytes(info.token),
            sequence: info.sequence,
            now_us: info.now_us,
            catching_up: info.catching_up,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct SearchAnswer<'a> {
    pub(super) hits: Hits<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_cursor: Option<OpaqueBytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) count: Option<u64>,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) count_is_lower_bound: bool,
    #[serde(flatten)]
    pub(super) info: Info,
}

#[derive(Debug, Serialize)]
pub(super) struct GetAnswer<'a> {
    pub(super) documents: Hits<'a>,
    #[serde(flatten)]
    pub(super) info: Info,
}

#[derive(Debug, Serialize)]
pub(super) struct CountAnswer {
    pub(super) count: u64,
    #[serde(skip_serializing_if = "is_false")]
    pub(super) is_lower_bound: bool,
    #[serde(flatten)]
    pub(super) info: Info,
}

#[derive(Debug, Serialize)]
pub(super) struct FacetAnswer<'a> {
    pub(super) facets: FacetsOf<'a>,
    pub(super) count: u64,
    #[serde(flatten)]
    pub(super) info: Info,
}

#[derive(Debug, Serialize)]
pub(super) struct ExplainAnswer<'a> {
    #[serde(flatten)]
    pub(super) explained: &'a Explained,
    #[serde(flatten)]
    pub(super) info: Info,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The values of facets, in a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct FacetsOf<'a> {
    pub(super) schema: &'a Schema,
    pub(super) facets: &'a [FacetValues],
}

impl Serialize for FacetsOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Facet<'a> {
            field: &'a str,
            values: Vec<Counted<'a>>,
            nulls: u64,
        }
        #[derive(Serialize)]
        struct Counted<'a> {
            value: Scalar<'a>,
            count: u64,
        }
        serializer.collect_seq(self.facets.iter().map(|facet| {
            let field = &self.schema.fields[facet.field];
            let scalar = |value| Scalar { ty: field.ty, value };
            let values = facet.values.iter().map(|(value, count)| Counted { value: scalar(value), count: *count });
            Facet { field: &field.name, values: values.collect(), nulls: facet.nulls }
        }))
    }
}

/// Documents with the fields that were asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hits<'a> {
    pub(super) schema: &'a Schema,
    pub(super) ids: &'a [u32],
    pub(super) fields: &'a [FieldId],
    pub(super) rows: &'a [Vec<FieldValue>],
}

impl Serialize for Hits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.ids.len()))?;
        for (i, id) in self.ids.iter().enumerate() {
            let row = self.rows.get(i).map_or(&[][..], Vec::as_slice);
            list.serialize_element(&Hit { id: *id, row: Row { schema: self.schema, fields: self.fields, row } })?;
        }
        list.end()
    }
}

#[derive(Serialize)]
struct Hit<'a> {
    id: u32,
    #[serde(skip_serializing_if = "Row::is_empty")]
    #[serde(rename = "fields")]
    row: Row<'a>,
}

struct Row<'a> {
    schema: &'a Schema,
    fields: &'a [FieldId],
    row: &'a [FieldValue],
}

impl Row<'_> {
    fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.fields.len()))?;
        for (field, value) in self.fields.iter().zip(self.row) {
            let field = &self.schema.fields[*field];
            map.serialize_entry(&field.name, &Typed { ty: field.ty, value })?;
        }
        map.end()
    }
}

struct Typed<'a> {
    ty: FieldType,
    value: &'a FieldValue,
}

impl Serialize for Typed<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            FieldValue::Null => serializer.serialize_none(),
            FieldValue::One(value) => Scalar { ty: self.ty, value }.serialize(serializer),
            FieldValue::Many(values) => {
                serializer.collect_seq(values.iter().map(|value| Scalar { ty: self.ty, value }))
            }
        }
    }
}

struct Scalar<'a> {
    ty: FieldType,
    value: &'a Value,
}

impl Serialize for Scalar<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.value, self.ty) {
            (Value::Int(us), FieldType::Timestamp) => serializer.serialize_str(&format_timestamp(*us)),
            (Value::Int(unscaled), FieldType::Decimal(scale)) => {
                serializer.serialize_str(&format_decimal(*unscaled, u32::from(scale)))
            }
            (Value::Int(int), _) => serializer.serialize_i64(*int),
            (Value::Bool(bool), _) => serializer.serialize_bool(*bool),
            (Value::Text(text), _) => serializer.serialize_str(text),
            (Value::Float(float), _) => match float.get() {
                finite if finite.is_finite() => serializer.serialize_f64(finite),
                // JSON has no such numbers; these are Postgres' names for them.
                nan if nan.is_nan() => serializer.serialize_str("NaN"),
                f64::INFINITY => serializer.serialize_str("Infinity"),
                _ => serializer.serialize_str("-Infinity"),
            },
        }
    }
}

/// The answer of Describe.
#[derive(Debug, Serialize)]
pub(super) struct DescribeAnswer {
    index: String,
    definition_hash: String,
    fields: Vec<Field>,
    filters: Vec<NamedFilter>,
    store: String,
    generation: u64,
    epoch: u64,
    documents: u64,
    role: String,
    writer: String,
    ready: bool,
    progress: String,
    cursors: Vec<Cursor>,
    state_hash: String,
    #[serde(flatten)]
    info: Info,
}

#[derive(Debug, Serialize)]
struct Field {
    name: String,
    #[serde(rename = "type")]
    ty: String,
    many: bool,
    filter: bool,
    sort: bool,
    origin: String,
}

#[derive(Debug, Serialize)]
struct NamedFilter {
    name: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct Cursor {
    source: String,
    cursor: OpaqueBytes,
    /// The same for people, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl From<wire::DescribeResponse> for DescribeAnswer {
    fn from(wire: wire::DescribeResponse) -> Self {
        let field = |field: wire::FieldDescription| Field {
            name: field.name,
            ty: field.r#type,
            many: field.many,
            filter: field.filter,
            sort: field.sort,
            origin: field.origin,
        };
        let cursor = |source: wire::SourceCursor| Cursor {
            text: std::str::from_utf8(&source.cursor).ok().map(Into::into),
            source: source.source,
            cursor: OpaqueBytes(source.cursor),
        };
        Self {
            index: wire.index,
            definition_hash: wire.definition_hash,
            fields: wire.fields.into_iter().map(field).collect(),
            filters: wire
                .filters
                .into_iter()
                .map(|filter| NamedFilter { name: filter.name, text: filter.text })
                .collect(),
            store: wire.store,
            generation: wire.generation,
            epoch: wire.epoch,
            documents: wire.documents,
            role: wire.role,
            writer: wire.writer,
            ready: wire.ready,
            progress: wire.progress,
            cursors: wire.cursors.into_iter().map(cursor).collect(),
            state_hash: wire.state_hash,
            info: wire.info.unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bitdex_proto::{
        schema::{Field as SchemaField, Origin},
        value::Float,
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn values_keep_their_meaning() {
        let types = [
            ("id", FieldType::Int),
            ("price", FieldType::Decimal(2)),
            ("weight", FieldType::Float),
            ("at", FieldType::Timestamp),
            ("tags", FieldType::String),
            ("gone", FieldType::Bool),
        ];
        let fields = types.map(|(name, ty)| SchemaField {
            name: name.into(),
            ty,
            many: false,
            filter: false,
            sort: false,
            origin: Origin::External,
        });
        let schema = Schema {
            index: "t".into(),
            hash: String::new(),
            sources: Vec::new(),
            fields: fields.into(),
            visible_at: None,
            filters: Vec::new(),
        };
        let row = vec![
            FieldValue::One(Value::Int(i64::MAX)),
            FieldValue::One(Value::Int(1250)),
            FieldValue::One(Value::Float(Float::new(f64::NEG_INFINITY))),
            FieldValue::One(Value::Int(1)),
            FieldValue::many(vec![Value::Text("b".into()), Value::Text("a".into())]),
            FieldValue::Null,
        ];
        let hits = Hits { schema: &schema, ids: &[7], fields: &[0, 1, 2, 3, 4, 5], rows: &[row] };
        assert_eq!(
            serde_json::to_value(hits).unwrap(),
            json!([{"id": 7, "fields": {
                "id": i64::MAX, "price": "12.50", "weight": "-Infinity", "at": "1970-01-01T00:00:00.000001Z",
                "tags": ["a", "b"], "gone": null,
            }}])
        );
        let ids = Hits { fields: &[], rows: &[], ..hits };
        assert_eq!(serde_json::to_value(ids).unwrap(), json!([{"id": 7}]));
    }
}
