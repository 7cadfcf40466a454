//! Fields that services write themselves: random ops on them, and what they must come to.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use bitdex_proto::{
    schema::Schema,
    value::{FieldValue, Value},
};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value as Json, json};
use sqlx::PgConnection;

use super::documents::Documents;
use crate::postgres;

/// `pinnedRank` and `labels` of each document, present or not: they are stored apart from its row.
#[derive(Debug, Default)]
struct Values {
    rank: Option<i64>,
    labels: BTreeSet<String>,
}

/// Sends one op after the other from one connection, and applies each to its own copy.
#[derive(Debug)]
pub struct External {
    random: ChaCha8Rng,
    ids: u32,
    values: BTreeMap<u32, Values>,
    schema: String,
}

impl External {
    pub fn new(seed: u64, ids: u32, pg_schema: &str) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1_000);
        Self { random, ids, values: BTreeMap::new(), schema: pg_schema.into() }
    }

    /// An op on one document, in a transaction of its own.
    pub async fn step(&mut self, connection: &mut PgConnection) -> Result<()> {
        let document = self.random.random_range(0..self.ids.min(300));
        let label = format!("label {}", self.random.random_range(0..5));
        let rank = self.random.random_range(-5..100_i64);
        let kind = self.random.random_range(0..6);
        let op = match kind {
            0 => json!({"delete": ["pinnedRank"]}),
            1 => json!({"delete": ["labels"]}),
            2 => json!({"set": {"pinnedRank": rank}}),
            3 => json!({"remove": {"labels": [label]}}),
            4 => json!({"set": {"labels": [label]}}),
            _ => json!({"add": {"labels": [label]}}),
        };
        self.insert(connection, &document.to_string(), &op).await?;
        let values = self.values.entry(document).or_default();
        match kind {
            0 => values.rank = None,
            1 => values.labels.clear(),
            2 => values.rank = Some(rank),
            3 => {
                values.labels.remove(&label);
            }
            4 => values.labels = BTreeSet::from([label]),
            _ => {
                values.labels.insert(label);
            }
        }
        Ok(())
    }

    /// An op on every document of one rating; call it where nothing else changes, so that the matches are known.
    pub async fn step_by_query(
        &mut self,
        connection: &mut PgConnection,
        documents: &Documents,
        schema: &Schema,
    ) -> Result<()> {
        let level = 1_i64 << self.random.random_range(0..6);
        let label = format!("query {}", self.random.random_range(0..5));
        let op = json!({
            "where": {"field": "nsfwLevel", "eq": level}, "set": {"pinnedRank": level}, "add": {"labels": [label]},
        });
        self.insert(connection, "NULL", &op).await?;
        let Some((field, _)) = schema.field("nsfwLevel") else { return Ok(()) };
        let wanted = FieldValue::One(Value::Int(level));
        for (id, _) in documents.iter().filter(|(_, values)| values[field] == wanted) {
            let values = self.values.entry(*id).or_default();
            values.rank = Some(level);
            values.labels.insert(label.clone());
        }
        Ok(())
    }

    async fn insert(&self, connection: &mut PgConnection, document: &str, op: &Json) -> Result<()> {
        let sql = format!("INSERT INTO {}.external_ops (document, op) VALUES ({document}, '{op}')", self.schema);
        postgres::execute(connection, &sql).await
    }

    /// Puts the values into the documents that they belong to.
    pub fn fill(&self, documents: &mut Documents, schema: &Schema) {
        let (Some((rank, _)), Some((labels, _))) = (schema.field("pinnedRank"), schema.field("labels")) else { return };
        for (id, values) in &self.values {
            if let Some(document) = documents.get_mut(id) {
                document[rank] = FieldValue::one(values.rank.map(Value::Int));
                let all = values.labels.iter().map(|label| Value::Text(label.as_str().into())).collect();
                document[labels] = FieldValue::many(all);
            }
        }
    }
}
