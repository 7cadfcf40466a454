//! Random searches over any index, with values that occur in it, compared with SQL page by page to the end.

use anyhow::{Context as _, Result, bail};
use bitdex_proto::{
    client::Client,
    definition::Definition,
    query::{Comparator, CountRequest, Filter, OpaqueBytes, SearchRequest, Sort},
    schema::{Field, Schema},
    value::{FieldType, Literal, Value},
};
use rand::{RngExt as _, SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::documents::Documents;
use crate::sql;

#[derive(Debug)]
pub struct RandomQueries<'a> {
    random: ChaCha8Rng,
    schema: &'a Schema,
    /// Values that occur, by field.
    pool: Vec<Vec<Value>>,
    now_us: i64,
}

impl<'a> RandomQueries<'a> {
    pub fn new(seed: u64, schema: &'a Schema, documents: &Documents, now_us: i64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(6);
        let rows: Vec<_> = documents.values().collect();
        let mut pool = vec![Vec::new(); schema.fields.len()];
        for _ in 0..400 {
            let Some(row) = rows.choose(&mut random) else { break };
            for (values, pool) in row.iter().zip(&mut pool) {
                pool.extend(values.values().choose(&mut random).cloned());
            }
        }
        Self { random, schema, pool, now_us }
    }

    fn literal(&mut self, id: usize) -> Literal {
        let random = &mut self.random;
        let field = &self.schema.fields[id];
        let value = self.pool[id].choose(random).cloned();
        // Sometimes beside a value that occurs.
        let shift = if random.random_bool(0.2) { random.random_range(-2..=2) } else { 0 };
        match (value, field.ty) {
            (_, FieldType::Timestamp) if random.random_bool(0.2) => {
                Literal::Now { offset_us: -random.random_range(0..=400_i64 * 86_400) * 1_000_000 }
            }
            (Some(Value::Int(us)), FieldType::Timestamp) => Literal::TimestampUs(us.saturating_add(shift)),
            (None, FieldType::Timestamp) => Literal::TimestampUs(self.now_us),
            (value, FieldType::Decimal(scale)) => {
                let unscaled = if let Some(Value::Int(unscaled)) = value { unscaled } else { 0 };
                Literal::Decimal { unscaled: unscaled.saturating_add(shift), scale: scale.into() }
            }
            (Some(Value::Int(int)), _) => Literal::Int(int.saturating_add(shift)),
            (Some(Value::Bool(bool)), _) => Literal::Bool(bool ^ (shift != 0)),
            (Some(Value::Float(float)), _) => Literal::Float(float.get() + shift as f64),
            (Some(Value::Text(text)), _) if shift > 0 => Literal::Text(format!("{text}x")),
            (Some(Value::Text(text)), _) => Literal::Text(text.to_string()),
            (None, FieldType::Int) => Literal::Int(shift),
            (None, FieldType::Bool) => Literal::Bool(shift > 0),
            (None, FieldType::Float) => Literal::Float(0.5),
            (None, FieldType::String) => Literal::Text(String::new()),
        }
    }

    fn leaf(&mut self) -> Filter {
        let filterable: Vec<usize> =
            (0..self.schema.fields.len()).filter(|id| self.schema.fields[*id].filter).collect();
        let Some(id) = filterable.choose(&mut self.random).copied() else { return Filter::And(Vec::new()) };
        let Field { name, many, .. } = &self.schema.fields[id];
        let field = name.clone();
        match self.random.random_range(0..10) {
            0 => Filter::IsNull { field },
            1..=3 => {
                let values = (0..self.random.random_range(0..=4)).map(|_| self.literal(id)).collect();
                let negated = self.random.random_bool(0.3);
                Filter::In { field, values, negated, all: *many && self.random.random_bool(0.3) }
            }
            _ => {
                let comparators = [
                    Comparator::Eq,
                    Comparator::Eq,
                    Comparator::Ne,
                    Comparator::Lt,
                    Comparator::Le,
                    Comparator::Gt,
                    Comparator::Ge,
                ];
                let comparator = comparators.choose(&mut self.random).copied().unwrap_or(Comparator::Eq);
                Filter::Compare { field, comparator, value: self.literal(id) }
            }
        }
    }

    fn filter(&mut self, depth: u32) -> Filter {
        if depth == 0 || self.random.random_bool(0.4) {
            return self.leaf();
        }
        match self.random.random_range(0..5) {
            0 => Filter::Not(Box::new(self.filter(depth - 1))),
            kind => {
                let filters = (0..self.random.random_range(0..=3)).map(|_| self.filter(depth - 1)).collect();
                if kind < 3 { Filter::And(filters) } else { Filter::Or(filters) }
            }
        }
    }

    fn sort(&mut self) -> Vec<Sort> {
        let sortable: Vec<&Field> = self.schema.fields.iter().filter(|field| field.sort).collect();
        let many = [0, 1, 1, 1, 2, 3].choose(&mut self.random).copied().unwrap_or(1);
        let chosen: Vec<_> = sortable.sample(&mut self.random, many).collect();
        chosen
            .into_iter()
            .map(|field| Sort { field: field.name.clone(), descending: self.random.random_bool(0.5) })
            .collect()
    }
}

impl Iterator for RandomQueries<'_> {
    type Item = SearchRequest;

    fn next(&mut self) -> Option<SearchRequest> {
        let mut request = SearchRequest::new(self.schema.index.clone());
        if self.random.random_bool(0.95) {
            request.filter = Some(self.filter(4));
        }
        request.sort = self.sort();
        request.limit = [1, 7, 50, 100, 500, 2_000, 10_000].choose(&mut self.random).copied()?;
        request.include_pending = self.random.random_bool(0.2);
        request.count = self.random.random_bool(0.5);
        let around = self.random.random_range(-400_i64 * 86_400..=10 * 86_400);
        // A clock of its own, so that both sides use the same one.
        request.now_us = Some(self.now_us + if self.random.random_bool(0.3) { around * 1_000_000 } else { 0 });
        Some(request)
    }
}

/// Pages of one result, at most.
const PAGES: usize = 40;

/// Asks a pod and Postgres (over a table that [`super::documents::materialise`] made), and compares all pages to the end.
/// Where the request's limit would make too many pages of the result, a larger one is taken.
pub async fn compare(
    request: &SearchRequest,
    client: &Client,
    connection: &mut PgConnection,
    table: &str,
    definition: &Definition,
) -> Result<u64> {
    let schema = definition.schema();
    let now_us = request.now_us.context("the request has no clock of its own")?;
    let mut conditions = Vec::new();
    if let Some(filter) = &request.filter {
        conditions.push(sql::condition(filter, schema, now_us)?);
    }
    if !request.include_pending {
        conditions.extend(sql::visible(schema, now_us));
    }
    let conditions =
        if conditions.is_empty() { "TRUE".to_owned() } else { format!("({})", conditions.join(") AND (")) };
    let key = sql::quote(&schema.fields[0].name);
    let sql =
        format!("SELECT {key}::int8 FROM {table} WHERE {conditions} ORDER BY {}", sql::order(&request.sort, schema)?);
    let about = || format!("request: {}\nSQL: {sql}", serde_json::to_string(request).unwrap_or_default());
    let rows = sqlx::query(AssertSqlSafe(sql.as_str())).fetch_all(&mut *connection).await.with_context(about)?;
    let wanted = rows.iter().map(|row| row.try_get::<i64, _>(0).map(|id| id as u32)).collect::<Result<Vec<_>, _>>()?;

    let mut found: Vec<u32> = Vec::new();
    let mut page_request = request.clone();
    page_request.limit = request.limit.max(u32::try_from(wanted.len().div_ceil(PAGES))?);
    let limit = page_request.limit as usize;
    for page in 0.. {
        let answer = client.search(page_request.clone()).await.with_context(about)?;
        found.extend(answer.hits.iter().map(|hit| hit.id));
        if request.count && answer.count != Some(wanted.len() as u64) {
            bail!("page {page}: counted {:?}, Postgres {}\n{}", answer.count, wanted.len(), about());
        }
        if answer.hits.len() > limit {
            bail!("page {page} has {} hits, the limit is {limit}\n{}", answer.hits.len(), about());
        }
        let last = answer.next_cursor.is_empty();
        if answer.hits.is_empty() && !last {
            bail!("page {page} is empty, and yet it says that more follow\n{}", about());
        }
        if !wanted.starts_with(&found) || (last && found.len() < wanted.len()) {
            let at = found.iter().zip(&wanted).take_while(|(found, wanted)| found == wanted).count();
            let near = |ids: &[u32]| ids.iter().skip(at.saturating_sub(3)).take(10).copied().collect::<Vec<_>>();
            bail!(
                "{} ids after page {page} of {limit}, where Postgres has {} in all; they part at place {at}: index \
                 {:?}, Postgres {:?}\n{}",
                found.len(),
                wanted.len(),
                near(&found),
                near(&wanted),
                about()
            );
        }
        if last {
            break;
        }
        page_request.cursor = Some(OpaqueBytes(answer.next_cursor));
    }
    let count = client.count(CountRequest::of_search(request)).await.with_context(about)?.count;
    if count != wanted.len() as u64 {
        bail!("count says {count}, Postgres {}\n{}", wanted.len(), about());
    }
    Ok(found.len() as u64)
}
