//! Whole documents from both sides: what the view and ClickHouse say, and what a pod says.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::Client,
    definition::Definition,
    query::{Consistency, Fields, GetRequest, SearchRequest},
    schema::{Field, Origin, Schema},
    value::{FieldType, FieldValue, Float, Value, format_decimal, format_timestamp, parse_decimal},
    wire,
};
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use crate::{clickhouse::ClickHouse, postgres::execute, sql::quote};

/// By id; the values in the schema's order.
pub type Documents = BTreeMap<u32, Vec<FieldValue>>;

/// Ids of one call.
const CHUNK: usize = 5_000;

/// Pins a session as the definition's SQL expects it.
pub async fn pin(connection: &mut PgConnection) -> Result<()> {
    let settings = "SET timezone = 'UTC'; SET search_path = ''; SET row_security = off; SET extra_float_digits = 1; \
                    SET standard_conforming_strings = on; SET jit = off";
    execute(connection, settings).await
}

/// The view's rows. Fields that do not come from Postgres hold what they are without a row: the default, or null.
pub async fn of_view(connection: &mut PgConnection, definition: &Definition) -> Result<Documents> {
    let schema = definition.schema();
    let sql = format!("SELECT to_jsonb(v)::text FROM ({}) v", definition.view_sql());
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await.context("the view does not run")?;
    let mut documents = Documents::new();
    for row in rows {
        let text: String = row.try_get_unchecked(0)?;
        let row: BTreeMap<String, Json> = serde_json::from_str(&text)?;
        let values = schema.fields.iter().map(|field| view_value(field, row.get(&field.name)));
        let values = values.collect::<Result<Vec<_>>>().with_context(|| text.clone())?;
        let id = row.get(&schema.fields[0].name).and_then(Json::as_u64).context("a row of the view without a key")?;
        if documents.insert(u32::try_from(id)?, values).is_some() {
            bail!("the view has two rows of document {id}");
        }
    }
    Ok(documents)
}

fn view_value(field: &Field, json: Option<&Json>) -> Result<FieldValue> {
    match (&field.origin, json) {
        (Origin::Metric { default, .. }, _) => Ok(FieldValue::one(default.clone())),
        (Origin::External, _) | (_, None | Some(Json::Null)) => Ok(FieldValue::Null),
        (_, Some(Json::Array(values))) => {
            values.iter().map(|value| read(field.ty, value)).collect::<Result<_>>().map(FieldValue::many)
        }
        (_, Some(value)) => read(field.ty, value).map(FieldValue::One),
    }
    .with_context(|| format!("field {}", field.name))
}

/// A value as `to_jsonb` writes it.
fn read(ty: FieldType, json: &Json) -> Result<Value> {
    let wrong = || format!("{json} is no {ty}");
    Ok(match (ty, json) {
        (FieldType::Int, json) => Value::Int(json.as_i64().with_context(wrong)?),
        (FieldType::Decimal(scale), json) => Value::Int(parse_decimal(&json.to_string(), scale).with_context(wrong)?),
        (FieldType::Float, Json::String(text)) => Value::Float(Float::new(text.parse()?)),
        (FieldType::Float, json) => Value::Float(Float::new(json.as_f64().with_context(wrong)?)),
        (FieldType::Bool, json) => Value::Bool(json.as_bool().with_context(wrong)?),
        (FieldType::Timestamp, json) => {
            let time = chrono::DateTime::parse_from_rfc3339(json.as_str().with_context(wrong)?);
            Value::Int(time.with_context(wrong)?.timestamp_micros())
        }
        (FieldType::String, json) => Value::Text(json.as_str().with_context(wrong)?.into()),
    })
}

/// Puts ClickHouse's current values into the documents.
pub async fn add_metrics(documents: &mut Documents, definition: &Definition, clickhouse: &ClickHouse) -> Result<()> {
    for (field, values) in metrics(definition, clickhouse).await? {
        for (id, value) in values {
            if let Some(document) = documents.get_mut(&id) {
                document[field] = FieldValue::One(value);
            }
        }
    }
    Ok(())
}

type MetricValues = Vec<(usize, Vec<(u32, Value)>)>;

async fn metrics(definition: &Definition, clickhouse: &ClickHouse) -> Result<MetricValues> {
    let schema = definition.schema();
    let mut all = Vec::new();
    for source in definition.metrics() {
        for column in &source.columns {
            let (field, _) = schema.field(&column.name).with_context(|| format!("no field {}", column.name))?;
            if column.ty != FieldType::Int {
                bail!("the harness reads metrics of type int alone, {} is {}", column.name, column.ty);
            }
            let condition = source.where_.as_deref().unwrap_or("1");
            let sql = format!(
                "SELECT `{}`, toString({}) FROM {} WHERE {condition} GROUP BY 1 FORMAT TabSeparated",
                source.key, column.sql, source.table
            );
            let text = clickhouse.query(&sql).await?;
            let values = text.lines().map(|line| {
                let (key, value) = line.split_once('\t').context("a row without two columns")?;
                Ok((key.parse()?, Value::Int(value.parse()?)))
            });
            all.push((field, values.collect::<Result<Vec<_>>>()?));
        }
    }
    Ok(all)
}

/// What one pod holds: every document, pending ones too, each with all fields. Any difference between its two ways to
/// list them is an error.
pub async fn of_pod(client: &Client, schema: &Schema, seen: &Consistency) -> Result<Documents> {
    let mut ids = Vec::new();
    let mut request = SearchRequest::new(schema.index.clone());
    request.include_pending = true;
    request.limit = CHUNK as u32;
    request.consistency = Some(seen.clone());
    loop {
        let page = client.search(request.clone()).await?;
        ids.extend(page.hits.iter().map(|hit| hit.id));
        if page.next_cursor.is_empty() {
            break;
        }
        request.cursor = Some(bitdex_proto::query::OpaqueBytes(page.next_cursor));
    }
    let mut documents = Documents::new();
    for chunk in ids.chunks(CHUNK) {
        let request = GetRequest {
            index: schema.index.clone(),
            ids: chunk.to_vec(),
            fields: Fields::All,
            include_pending: true,
            now_us: None,
            consistency: Some(seen.clone()),
        };
        let answer = client.get(request).await?;
        if answer.documents.len() != chunk.len() {
            bail!("asked for {} ids that a search gave, got {} documents", chunk.len(), answer.documents.len());
        }
        for hit in answer.documents {
            documents.insert(hit.id, of_wire(&hit, &answer.fields, schema)?);
        }
    }
    Ok(documents)
}

fn of_wire(hit: &wire::Hit, names: &[String], schema: &Schema) -> Result<Vec<FieldValue>> {
    let mut values = vec![FieldValue::Null; schema.fields.len()];
    if names.len() != schema.fields.len() || hit.values.len() != names.len() {
        bail!("document {} has {} values under {} names", hit.id, hit.values.len(), names.len());
    }
    for (name, value) in names.iter().zip(&hit.values) {
        let (id, field) = schema.field(name).with_context(|| format!("unknown field {name}"))?;
        let read = value.values.iter().map(|value| Value::from_wire(value, field.ty, name));
        let read: Vec<Value> = read.collect::<Result<Option<Vec<_>>, _>>()?.context("a null among values")?;
        values[id] = match (field.many, read.len()) {
            (_, 0) => FieldValue::Null,
            (false, 1) => FieldValue::one(read.into_iter().next()),
            (true, _) => {
                let set = FieldValue::many(read.clone());
                // Sorted and without duplicates already, or it is not equal.
                if set.values() != read { FieldValue::Many(read.into()) } else { set }
            }
            (false, many) => bail!("field {name} of document {} holds {many} values", hit.id),
        };
    }
    Ok(values)
}

/// One value that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub document: u32,
    pub field: String,
    /// In the view, or ClickHouse.
    pub wanted: String,
    /// In the index.
    pub found: String,
}

/// Compares the fields for which `concerned` is true; `concerned` of the key stands for presence.
pub fn differences(
    wanted: &Documents,
    found: &Documents,
    schema: &Schema,
    concerned: impl Fn(&Field) -> bool,
) -> Vec<Difference> {
    let mut all = Vec::new();
    let key = &schema.fields[0];
    let absent = "no document".to_owned();
    for (id, wanted) in wanted {
        match found.get(id) {
            None if concerned(key) => all.push(Difference {
                document: *id,
                field: key.name.clone(),
                wanted: "a document".into(),
                found: absent.clone(),
            }),
            None => {}
            Some(found) => {
                let fields = schema.fields.iter().zip(wanted.iter().zip(found));
                all.extend(fields.filter(|(field, (wanted, found))| concerned(field) && wanted != found).map(
                    |(field, (wanted, found))| Difference {
                        document: *id,
                        field: field.name.clone(),
                        wanted: show(wanted, field.ty),
                        found: show(found, field.ty),
                    },
                ));
            }
        }
    }
    if concerned(key) {
        all.extend(found.keys().filter(|id| !wanted.contains_key(id)).map(|id| Difference {
            document: *id,
            field: key.name.clone(),
            wanted: absent.clone(),
            found: "a document".into(),
        }));
    }
    all
}

fn show(value: &FieldValue, ty: FieldType) -> String {
    let one = |value: &Value| match (value, ty) {
        (Value::Int(us), FieldType::Timestamp) => format_timestamp(*us),
        (Value::Int(unscaled), FieldType::Decimal(scale)) => format_decimal(*unscaled, scale.into()),
        (Value::Int(int), _) => int.to_string(),
        (Value::Bool(bool), _) => bool.to_string(),
        (Value::Float(float), _) => float.get().to_string(),
        (Value::Text(text), _) => format!("{text:?}"),
    };
    match value {
        FieldValue::Null => "null".into(),
        FieldValue::One(value) => one(value),
        FieldValue::Many(values) => format!("{{{}}}", values.iter().map(one).collect::<Vec<_>>().join(", ")),
    }
}

/// A table `name` with what [`of_view`] reads and [`add_metrics`] adds, one column a field; external fields are null.
pub async fn materialise(
    connection: &mut PgConnection,
    definition: &Definition,
    clickhouse: &ClickHouse,
    name: &str,
) -> Result<()> {
    let schema = definition.schema();
    execute(connection, &format!("CREATE TABLE {name} AS {}", definition.view_sql())).await?;
    let key = quote(&schema.fields[0].name);
    for field in &schema.fields {
        let ty = match (field.ty, field.many) {
            (FieldType::Int, false) => "int8",
            (FieldType::String, true) => "text[]",
            (FieldType::String, false) => "text COLLATE \"C\"",
            (FieldType::Int, true) => "int8[]",
            (FieldType::Timestamp, false) => "timestamptz",
            (FieldType::Bool, false) => "bool",
            (FieldType::Float, false) => "float8",
            _ => "numeric",
        };
        match &field.origin {
            Origin::Metric { default, .. } => {
                let default = match default {
                    Some(Value::Int(int)) => format!(" DEFAULT {int}"),
                    _ => String::new(),
                };
                execute(connection, &format!("ALTER TABLE {name} ADD {} {ty}{default}", quote(&field.name))).await?;
            }
            Origin::External => {
                execute(connection, &format!("ALTER TABLE {name} ADD {} {ty}", quote(&field.name))).await?;
            }
            _ => {}
        }
    }
    execute(connection, &format!("ALTER TABLE {name} ADD PRIMARY KEY ({key})")).await?;
    for (field, values) in metrics(definition, clickhouse).await? {
        let column = quote(&schema.fields[field].name);
        for chunk in values.chunks(10_000) {
            let rows: Vec<String> = chunk
                .iter()
                .filter_map(|(id, value)| match value {
                    Value::Int(int) => Some(format!("({id}, {int})")),
                    _ => None,
                })
                .collect();
            let rows = rows.join(", ");
            let update =
                format!("UPDATE {name} SET {column} = m.v FROM (VALUES {rows}) m(k, v) WHERE {name}.{key} = m.k");
            execute(connection, &update).await?;
        }
    }
    Ok(())
}
