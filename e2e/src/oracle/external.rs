//! Fields that services write themselves: random ops on them, and what they must come to. Some are rolled back, some stay
//! uncommitted while others commit.

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

use super::{documents::Documents, history::History};
use crate::postgres::{self, Postgres};

/// Transactions that are open at a time, at most.
const OPEN: usize = 3;

/// `pinnedRank` and `labels` of each document, present or not: they are stored apart from its row.
#[derive(Debug, Default)]
struct Values {
    rank: Option<i64>,
    labels: BTreeSet<String>,
}

/// On one document.
#[derive(Debug)]
enum Change {
    DeleteRank,
    DeleteLabels,
    SetRank(i64),
    SetLabel(String),
    Add(String),
    Remove(String),
}

impl Change {
    fn op(&self) -> Json {
        match self {
            Self::DeleteRank => json!({"delete": ["pinnedRank"]}),
            Self::DeleteLabels => json!({"delete": ["labels"]}),
            Self::SetRank(rank) => json!({"set": {"pinnedRank": rank}}),
            Self::SetLabel(label) => json!({"set": {"labels": [label]}}),
            Self::Add(label) => json!({"add": {"labels": [label]}}),
            Self::Remove(label) => json!({"remove": {"labels": [label]}}),
        }
    }
}

impl Values {
    fn apply(&mut self, change: Change) {
        match change {
            Change::DeleteRank => self.rank = None,
            Change::DeleteLabels => self.labels.clear(),
            Change::SetRank(rank) => self.rank = Some(rank),
            Change::SetLabel(label) => self.labels = BTreeSet::from([label]),
            Change::Add(label) => {
                self.labels.insert(label);
            }
            Change::Remove(label) => {
                self.labels.remove(&label);
            }
        }
    }
}

/// A transaction that has not ended. Nothing else names its document meanwhile but ops by query, which then come before
/// it, because they commit and are waited for first.
#[derive(Debug)]
struct Open {
    connection: PgConnection,
    document: u32,
    changes: Vec<Change>,
    /// Steps until it commits.
    steps: u32,
}

/// Sends one op after the other, and applies each to its own copy as it commits.
#[derive(Debug)]
pub struct External {
    random: ChaCha8Rng,
    ids: u32,
    values: BTreeMap<u32, Values>,
    open: Vec<Open>,
    schema: String,
}

impl External {
    pub fn new(seed: u64, ids: u32, pg_schema: &str) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(1_000);
        Self { random, ids, values: BTreeMap::new(), open: Vec::new(), schema: pg_schema.into() }
    }

    /// One transaction with ops on one document: most commit, some are rolled back, some stay open for some steps.
    pub async fn step(&mut self, postgres: &Postgres, connection: &mut PgConnection, history: &History) -> Result<()> {
        self.commit_due(history).await?;
        match self.random.random_range(0..10) {
            0 => {
                let (document, changes) = self.draw();
                postgres::execute(connection, "BEGIN").await?;
                self.insert_all(connection, document, &changes, history, "rolled back").await?;
                postgres::execute(connection, "ROLLBACK").await
            }
            1 => self.leave_open(postgres, history).await,
            _ => {
                let (document, changes) = self.draw();
                postgres::execute(connection, "BEGIN").await?;
                self.insert_all(connection, document, &changes, history, "committed").await?;
                postgres::execute(connection, "COMMIT").await?;
                self.apply(document, changes);
                Ok(())
            }
        }
    }

    /// Begins a transaction that a later step commits, unless there are as many already as may be.
    pub async fn leave_open(&mut self, postgres: &Postgres, history: &History) -> Result<()> {
        if self.open.len() >= OPEN {
            return Ok(());
        }
        let (document, changes) = self.draw();
        let mut connection = postgres.connect().await?;
        postgres::execute(&mut connection, "BEGIN").await?;
        self.insert_all(&mut connection, document, &changes, history, "left open").await?;
        let steps = self.random.random_range(1..30);
        self.open.push(Open { connection, document, changes, steps });
        Ok(())
    }

    async fn commit_due(&mut self, history: &History) -> Result<()> {
        for open in &mut self.open {
            open.steps = open.steps.saturating_sub(1);
        }
        while let Some(due) = self.open.iter().position(|open| open.steps == 0) {
            let Open { mut connection, document, changes, .. } = self.open.swap_remove(due);
            postgres::execute(&mut connection, "COMMIT").await?;
            history.add("external", format!("document {document}: COMMIT of what was left open"));
            self.apply(document, changes);
        }
        Ok(())
    }

    /// Commits what is open.
    pub async fn finish(&mut self, history: &History) -> Result<()> {
        for open in &mut self.open {
            open.steps = 0;
        }
        self.commit_due(history).await
    }

    fn draw(&mut self) -> (u32, Vec<Change>) {
        let document = loop {
            let document = self.random.random_range(0..self.ids.min(300));
            if self.open.iter().all(|open| open.document != document) {
                break document;
            }
        };
        let many = if self.random.random_bool(0.3) { self.random.random_range(2..=4) } else { 1 };
        (document, (0..many).map(|_| self.change()).collect())
    }

    fn change(&mut self) -> Change {
        let label = format!("label {}", self.random.random_range(0..5));
        match self.random.random_range(0..6) {
            0 => Change::DeleteRank,
            1 => Change::DeleteLabels,
            2 => Change::SetRank(self.random.random_range(-5..100)),
            3 => Change::Remove(label),
            4 => Change::SetLabel(label),
            _ => Change::Add(label),
        }
    }

    fn apply(&mut self, document: u32, changes: Vec<Change>) {
        let values = self.values.entry(document).or_default();
        changes.into_iter().for_each(|change| values.apply(change));
    }

    async fn insert_all(
        &self,
        connection: &mut PgConnection,
        document: u32,
        changes: &[Change],
        history: &History,
        end: &str,
    ) -> Result<()> {
        for change in changes {
            let op = change.op();
            self.insert(connection, &document.to_string(), &op).await?;
            history.add("external", format!("document {document}: {op} -- {end}"));
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
