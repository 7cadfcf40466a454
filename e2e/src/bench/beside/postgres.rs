//! Postgres with the workload's rows in one flat table, one column a field, with the indexes that suit the mix best.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    query::SearchRequest,
    schema::{Field, Schema},
    value::{FieldType, FieldValue, Value},
};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, ValueRef as _, postgres::PgRow};

use super::{Key, flat::Flats};
use crate::{
    postgres::{Postgres, execute},
    sql,
    terminal::{self, say},
    workload::{load::copy, rows::timestamp},
};

const TABLE: &str = "flat";
/// Bytes of one COPY.
const COPY: usize = 16 << 20;
/// Microseconds from 1970 to 2000, where binary timestamps count from.
const EPOCH_US: i64 = 946_684_800_000_000;
/// What the workload's safety prefix means; Postgres proves it of a query that spells it out.
const SAFE: &str = "availability = 'Public' AND \"blockedFor\" IS NULL AND poi = false AND minor = false AND \
                    \"isPublished\" = true";
/// With what most filters look at besides, so that an index alone answers them.
const COVER: &str = "INCLUDE (\"nsfwLevel\", type, \"publishedAt\", \"hasMeta\")";
const SETTINGS: &str = "SET jit = off; SET work_mem = '256MB'; SET maintenance_work_mem = '1GB'; \
                        SET random_page_cost = 1.1; SET effective_cache_size = '16GB'; SET timezone = 'UTC'";

/// The table's indexes, beside its primary key.
pub(super) fn indexes() -> Vec<String> {
    let latest = "(\"sortAt\" DESC NULLS LAST, id DESC)";
    let best = |field: &str| format!("(\"{field}\" DESC NULLS LAST, id DESC)");
    let of_user = |field: &str| format!("(\"userId\", \"{field}\" DESC NULLS LAST, id DESC)");
    vec![
        latest.into(),
        best("reactionCount"),
        best("commentCount"),
        best("collectedCount"),
        of_user("sortAt"),
        of_user("reactionCount"),
        format!("{latest} {COVER} WHERE {SAFE}"),
        format!("{} {COVER} WHERE {SAFE}", best("reactionCount")),
        format!("{} {COVER} WHERE {SAFE}", of_user("sortAt")),
        "USING gin (\"tagIds\")".into(),
        "USING gin (\"modelVersionIds\")".into(),
        "USING gin (\"baseModels\")".into(),
        "USING gin (\"toolIds\")".into(),
    ]
}

/// A connection to the filled table.
pub(super) struct Table<'a> {
    connection: PgConnection,
    schema: &'a Schema,
}

impl<'a> Table<'a> {
    pub(super) async fn fill(postgres: &Postgres, flats: &Flats, schema: &'a Schema) -> Result<Self> {
        let start = Instant::now();
        let mut connection = postgres.connect().await?;
        execute(&mut connection, SETTINGS).await?;
        let columns: Vec<String> =
            schema.fields.iter().map(|field| format!("{} {}", sql::quote(&field.name), column(field))).collect();
        // Rows that can be made again need no log; it makes no query slower.
        execute(&mut connection, &format!("CREATE UNLOGGED TABLE {TABLE} ({})", columns.join(", "))).await?;
        let bar = terminal::bar("Copy into Postgres", flats.documents.len() as u64);
        let mut text = Vec::with_capacity(COPY + 4_096);
        for flat in &flats.documents {
            flats.write(flat, schema, &mut text)?;
            bar.inc(1);
            if text.len() >= COPY {
                copy(&mut connection, TABLE, std::mem::take(&mut text)).await?;
            }
        }
        copy(&mut connection, TABLE, text).await?;
        terminal::done(&bar, "rows");
        execute(&mut connection, &format!("ALTER TABLE {TABLE} ADD PRIMARY KEY (id)")).await?;
        for index in indexes() {
            execute(&mut connection, &format!("CREATE INDEX ON {TABLE} {index}")).await?;
        }
        execute(&mut connection, &format!("VACUUM (FREEZE, ANALYZE) {TABLE}")).await?;
        say(format!(
            "Postgres is filled, with {} indexes: {:.1} s",
            indexes().len() + 1,
            start.elapsed().as_secs_f64()
        ));
        Ok(Self { connection, schema })
    }

    fn condition(&self, request: &SearchRequest, after: Option<Key>, now_us: i64) -> Result<String> {
        let filter = request.filter.as_ref().context("a query without a filter")?;
        let mut conditions = vec![sql::condition(filter, self.schema, now_us)?];
        conditions.extend(sql::visible(self.schema, now_us));
        if let Some((value, id)) = after {
            let [sort] = request.sort.as_slice() else { bail!("one field to sort by") };
            let (_, field) = self.schema.field(&sort.field).context("an unknown field")?;
            let value = match field.ty {
                FieldType::Timestamp => format!("'{}'::timestamptz", timestamp(value)),
                _ => value.to_string(),
            };
            conditions.push(format!("({}, id) < ({value}, {id})", sql::quote(&field.name)));
        }
        Ok(conditions.join(" AND "))
    }

    fn search_sql(&self, columns: &str, request: &SearchRequest, after: Option<Key>, now_us: i64) -> Result<String> {
        let condition = self.condition(request, after, now_us)?;
        let order = sql::order(&request.sort, self.schema)?;
        Ok(format!("SELECT {columns} FROM {TABLE} WHERE {condition} ORDER BY {order} LIMIT {}", request.limit))
    }

    async fn rows(&mut self, sql: &str) -> Result<(Vec<PgRow>, Duration)> {
        let start = Instant::now();
        let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_all(&mut self.connection).await;
        let rows = rows.with_context(|| sql.to_owned())?;
        Ok((rows, start.elapsed()))
    }

    pub(super) async fn search(
        &mut self,
        request: &SearchRequest,
        after: Option<Key>,
        now_us: i64,
    ) -> Result<(Vec<u32>, Duration)> {
        let sql = self.search_sql("id", request, after, now_us)?;
        let (rows, elapsed) = self.rows(&sql).await?;
        let ids = rows.iter().map(|row| Ok(u32::try_from(row.try_get::<i64, _>(0)?)?)).collect::<Result<_>>()?;
        Ok((ids, elapsed))
    }

    /// Whole rows.
    pub(super) async fn page(
        &mut self,
        request: &SearchRequest,
        now_us: i64,
    ) -> Result<(Vec<Vec<FieldValue>>, Duration)> {
        let sql = self.search_sql("*", request, None, now_us)?;
        let (rows, elapsed) = self.rows(&sql).await?;
        let values = |row: &PgRow| {
            self.schema.fields.iter().enumerate().map(|(place, field)| value(row, place, field)).collect::<Result<_>>()
        };
        Ok((rows.iter().map(values).collect::<Result<_>>()?, elapsed))
    }

    pub(super) async fn count(&mut self, request: &SearchRequest, now_us: i64) -> Result<(u64, Duration)> {
        let sql = format!("SELECT count(*) FROM {TABLE} WHERE {}", self.condition(request, None, now_us)?);
        let (rows, elapsed) = self.rows(&sql).await?;
        let row = rows.first().context("a count without a row")?;
        Ok((u64::try_from(row.try_get::<i64, _>(0)?)?, elapsed))
    }
}

fn column(field: &Field) -> String {
    let ty = sql::type_name(field.ty);
    match (field.many, field.ty) {
        (true, _) => format!("{ty}[]"),
        (false, FieldType::String) => format!("{ty} COLLATE \"C\""),
        (false, _) => ty.into(),
    }
}

fn value(row: &PgRow, place: usize, field: &Field) -> Result<FieldValue> {
    if row.try_get_raw(place)?.is_null() {
        return Ok(FieldValue::Null);
    }
    let text = |text: String| Value::Text(text.into());
    Ok(match (field.ty, field.many) {
        (FieldType::Int, false) => FieldValue::One(Value::Int(row.try_get(place)?)),
        (FieldType::Int, true) => {
            FieldValue::many(row.try_get::<Vec<i64>, _>(place)?.into_iter().map(Value::Int).collect())
        }
        (FieldType::Bool, false) => FieldValue::One(Value::Bool(row.try_get(place)?)),
        (FieldType::Bool, true) => {
            FieldValue::many(row.try_get::<Vec<bool>, _>(place)?.into_iter().map(Value::Bool).collect())
        }
        (FieldType::String, false) => FieldValue::One(text(row.try_get(place)?)),
        (FieldType::String, true) => {
            FieldValue::many(row.try_get::<Vec<String>, _>(place)?.into_iter().map(text).collect())
        }
        (FieldType::Timestamp, false) => {
            let raw = row.try_get_raw(place)?;
            let bytes = raw.as_bytes().map_err(|error| anyhow::anyhow!("{}: {error}", field.name))?;
            let us = i64::from_be_bytes(bytes.try_into().context("a timestamp of 8 bytes")?);
            FieldValue::One(Value::Int(us + EPOCH_US))
        }
        _ => bail!("the workload has no field like {}", field.name),
    })
}
