//! One poll: everything that became visible between the index's snapshot P and now (S), read in one REPEATABLE READ
//! transaction and delivered as the step P → S.
//!
//! - All tables are locked (ACCESS SHARE) before the snapshot is taken, because TRUNCATE and rewrites are not MVCC-safe:
//!   without the lock, a table emptied after S would be read as empty at S.
//! - Ops are found by transaction, not by their order: those of transactions at or above P's `xmax`, and those that were
//!   in progress in P. An open transaction delays only itself.
//! - Before a batch goes out, a fresh token is committed with `synchronous_commit` on, so that all it shows is on disk.
//! - More than one batch takes goes in pages, under the same transaction. Pages before the last keep the snapshot P in
//!   their cursor: whoever resumes delivers all of it again, which changes nothing, because ops assign state absolutely.
//! - External ops, of which that is not quite true, are all in the last batch, which moves the cursor over them. Only
//!   where they alone are more than one batch holds, those before the last are in pages, and may be delivered again.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Context as _;
use bitdex_proto::{definition::Definition, ops::Op, snapshot::PgCursor};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{
    consumer::{AdvanceError, Consumer, HistoryError, fresh_token},
    external,
    pages::{External, Pages, Weighed},
    read::{DataError, KEYS_PER_READ, Keys, SourceReader},
    window::{Changes, ExternalRow, TrackedSource, Window},
};
use crate::{
    deliver::{Batch, DeliverError, Sink},
    postgres::{Database, Purpose, is_data_exception, is_lock_timeout, is_serialization_failure, run},
};

/// Above this a batch's backlog makes answers say that they are catching up.
const BACKLOG_THAT_SHOWS: u64 = 100_000;

/// What all polls of one definition share.
#[derive(Debug)]
pub struct Plan {
    pub definition: Arc<Definition>,
    pub consumer: Consumer,
    readers: Vec<Option<SourceReader>>,
    window: Window,
    lock: String,
}

impl Plan {
    pub fn new(definition: Arc<Definition>, consumer: &str) -> anyhow::Result<Self> {
        let readers = definition
            .sources()
            .map(|(id, _)| SourceReader::new(&definition, id))
            .collect::<anyhow::Result<Vec<_>>>()?;
        Ok(Self {
            consumer: Consumer::new(definition.index(), consumer),
            window: Window::new(definition.index()),
            lock: definition.lock_sql(),
            readers,
            definition,
        })
    }
}

/// What a poll came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Polled {
    /// There was nothing, and no progress was asked for.
    Idle,
    /// The index stands here now.
    Moved { cursor: PgCursor, ops: u64 },
}

#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("another bitdex-sync wrote the consumer's row at the same time")]
    Busy,
    #[error("a table is locked by another transaction, as an ALTER TABLE does")]
    Locked,
    #[error("stopped at data that the index cannot take: {0}")]
    Data(#[from] DataError),
    #[error(transparent)]
    History(#[from] HistoryError),
    #[error(transparent)]
    Deliver(#[from] DeliverError),
    #[error("Postgres: {0:#}")]
    Postgres(anyhow::Error),
}

impl From<anyhow::Error> for PollError {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<DataError>() {
            Ok(error) => Self::Data(error),
            Err(error) => match error.downcast_ref::<sqlx::Error>() {
                Some(inner) if is_serialization_failure(inner) => Self::Busy,
                Some(inner) if is_lock_timeout(inner) => Self::Locked,
                _ => Self::Postgres(error),
            },
        }
    }
}

impl From<sqlx::Error> for PollError {
    fn from(error: sqlx::Error) -> Self {
        anyhow::Error::from(error).into()
    }
}

impl From<AdvanceError> for PollError {
    fn from(error: AdvanceError) -> Self {
        match error {
            AdvanceError::History(error) => Self::History(error),
            AdvanceError::Postgres(error) => error.into(),
            AdvanceError::Refused(error) => match error.downcast() {
                Ok(error) => Self::History(error),
                Err(error) => error.into(),
            },
        }
    }
}

/// What is wanted of one poll.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request {
    /// Move the cursor though nothing changed.
    pub progress: bool,
    /// Tell the index that it has caught up when this poll is through.
    pub caught_up: bool,
}

/// A connection that polls.
pub struct Poller {
    plan: Arc<Plan>,
    database: Database,
    connection: PgConnection,
    sources: BTreeMap<i16, TrackedSource>,
    /// Called now and then during a long poll.
    alive: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").field("sources", &self.sources).finish_non_exhaustive()
    }
}

impl Poller {
    pub async fn connect(database: &Database, plan: Arc<Plan>) -> anyhow::Result<Self> {
        let mut connection = database.connect(Purpose::Poll).await?;
        let sources = tracked_sources(&mut connection, &plan.definition).await?;
        Ok(Self { plan, database: database.clone(), connection, sources, alive: Box::new(|| {}) })
    }

    /// What to call now and then during a long poll.
    #[must_use]
    pub fn with_signs_of_life(mut self, alive: impl Fn() + Send + Sync + 'static) -> Self {
        self.alive = Box::new(alive);
        self
    }

    /// For checks between polls.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// Moves the index from `from` (its durable cursor) to now. After an error, what the index took is unknown to the
    /// poller only where the error is [`PollError::Deliver`].
    pub async fn poll(&mut self, from: &PgCursor, request: Request, sink: &mut impl Sink) -> Result<Polled, PollError> {
        if !request.progress && !self.plan.window.any(&mut self.connection, from).await? {
            return Ok(Polled::Idle);
        }
        let outcome = self.transaction(from, request, sink).await;
        if outcome.is_err() {
            // Where this fails the connection is gone, and the next use of it says so.
            let _ = run(&mut self.connection, "ROLLBACK").await;
        }
        outcome
    }

    async fn transaction(
        &mut self,
        from: &PgCursor,
        request: Request,
        sink: &mut impl Sink,
    ) -> Result<Polled, PollError> {
        let plan = Arc::clone(&self.plan);
        let database = self.database.clone();
        let connection = &mut self.connection;
        run(connection, format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {}", plan.lock)).await?;
        let row = sqlx::query("SELECT pg_catalog.pg_current_snapshot()::text").fetch_one(&mut *connection).await?;
        let snapshot = row.try_get::<String, _>(0)?.parse().map_err(anyhow::Error::from)?;
        let changes = plan.window.changes(connection, &from.snapshot, &self.sources).await?;
        let external = plan.window.external(connection, from.external_from()).await?;

        let mut delivery = Delivery {
            plan: &plan,
            database: &database,
            from,
            token: fresh_token(),
            token_written: false,
            previous: from.clone(),
            total: changes.len() as u64,
            delivered: 0,
            pages: Pages::default(),
            page: 0,
        };
        delivery.pages.extend(changes.truncated.iter().map(|source| Op::Truncate { source: *source }));
        self.read(&changes, &mut delivery, sink).await?;
        let external = self.external_ops(external).await?;
        external.into_iter().for_each(|ops| delivery.pages.push_together(ops));
        delivery.flush(sink).await?;

        if !delivery.token_written {
            plan.consumer.advance(&mut self.connection, from, &delivery.token).await?;
        }
        run(&mut self.connection, "COMMIT").await?;

        let cursor = PgCursor { snapshot, token: delivery.token, page: None, external: None };
        let ops = delivery.pages.into_last();
        let count = delivery.delivered + ops.len() as u64;
        sink.deliver(Batch {
            previous_cursor: delivery.previous.to_bytes(),
            new_cursor: cursor.to_bytes(),
            ops,
            backlog: 0,
            caught_up: request.caught_up,
        })
        .await?;
        Ok(Polled::Moved { cursor, ops: count })
    }

    async fn read(
        &mut self,
        changes: &Changes,
        delivery: &mut Delivery<'_>,
        sink: &mut impl Sink,
    ) -> Result<(), PollError> {
        let plan = Arc::clone(&self.plan);
        let reader = |source: &usize| plan.readers[*source].as_ref().context("an op of a source that is no table");
        let mut ops = Vec::new();
        for (source, keys) in &changes.rows {
            let reader = reader(source)?;
            for keys in keys.chunks(KEYS_PER_READ) {
                if let Err(error) = reader.rows(&mut self.connection, keys, &mut ops).await {
                    return Err(self.name_culprit(reader, Keys::Rows(keys), error).await);
                }
                delivery.pages.extend(ops.drain(..));
                delivery.flush(sink).await?;
                (self.alive)();
            }
        }
        for (source, pairs) in &changes.members {
            let reader = reader(source)?;
            for pairs in pairs.chunks(KEYS_PER_READ) {
                if let Err(error) = reader.members(&mut self.connection, pairs, &mut ops).await {
                    return Err(self.name_culprit(reader, Keys::Pairs(pairs), error).await);
                }
                delivery.pages.extend(ops.drain(..));
                delivery.flush(sink).await?;
                (self.alive)();
            }
        }
        Ok(())
    }

    /// An error of a whole read, made one that names the key, where it is the data that fails.
    async fn name_culprit(&mut self, reader: &SourceReader, keys: Keys<'_>, error: anyhow::Error) -> PollError {
        if !error.downcast_ref::<sqlx::Error>().is_some_and(is_data_exception) {
            return error.into();
        }
        let found = async {
            run(&mut self.connection, "ROLLBACK").await?;
            reader.culprit(&mut self.connection, keys).await
        };
        match found.await {
            Ok(Some(culprit)) => culprit.into(),
            Ok(None) => error.into(),
            Err(search) => error.context(format!("and the row could not be found: {search:#}")).into(),
        }
    }

    /// The ops of external rows; what is wrong with the others is written into them, where it stays.
    async fn external_ops(&mut self, rows: Vec<ExternalRow>) -> Result<Vec<Weighed>, PollError> {
        let schema = Arc::clone(self.plan.definition.schema());
        let mut external = External::new(Arc::clone(&schema));
        for row in rows {
            let parsed = serde_json::from_str(&row.op)
                .map_err(|error| bitdex_proto::Error::invalid(error.to_string()))
                .and_then(|json| external::parse(row.document, &json, &schema))
                .and_then(|ops| external.push(ops));
            if let Err(error) = parsed {
                metrics::counter!("bitdex_sync_external_errors_total").increment(1);
                tracing::warn!(id = row.id, %error, "an external op is refused; it stays in external_ops");
                sqlx::query(AssertSqlSafe(format!(
                    "UPDATE {}.external_ops SET error = $2 WHERE id = $1",
                    self.plan.definition.pg_schema()
                )))
                .bind(row.id)
                .bind(error.to_string())
                .execute(&mut self.connection)
                .await?;
            }
        }
        Ok(external.into_lots())
    }
}

/// The pages of one poll on their way.
struct Delivery<'a> {
    plan: &'a Plan,
    database: &'a Database,
    from: &'a PgCursor,
    token: String,
    token_written: bool,
    /// The cursor of the page before.
    previous: PgCursor,
    /// Keys of the whole poll.
    total: u64,
    delivered: u64,
    pages: Pages,
    page: u32,
}

impl Delivery<'_> {
    /// Delivers pages that are certainly not the last.
    async fn flush(&mut self, sink: &mut impl Sink) -> Result<(), PollError> {
        while let Some(ops) = self.pages.take_full() {
            if !self.token_written {
                // By a connection of its own: the snapshot must stay, and the token be on disk before anything goes out.
                let mut connection = self.database.connect(Purpose::Poll).await?;
                self.plan.consumer.advance(&mut connection, self.from, &self.token).await?;
                self.token_written = true;
            }
            self.page += 1;
            self.delivered += ops.len() as u64;
            let next = PgCursor { token: self.token.clone(), page: Some(self.page), ..self.from.clone() };
            sink.deliver(Batch {
                previous_cursor: self.previous.to_bytes(),
                new_cursor: next.to_bytes(),
                ops,
                // At least so many that answers say that they see transactions in part.
                backlog: self.total.saturating_sub(self.delivered).max(BACKLOG_THAT_SHOWS + 1),
                caught_up: false,
            })
            .await?;
            self.previous = next;
        }
        Ok(())
    }
}

async fn tracked_sources(
    connection: &mut PgConnection,
    definition: &Definition,
) -> anyhow::Result<BTreeMap<i16, TrackedSource>> {
    let rows = sqlx::query(AssertSqlSafe(format!("SELECT id, name FROM {}.sources", definition.pg_schema())))
        .fetch_all(connection)
        .await
        .context("the table `sources` cannot be read: run `bitdex-sync setup`")?;
    let mut sources = BTreeMap::new();
    for row in rows {
        let (number, name): (i16, String) = (row.try_get(0)?, row.try_get(1)?);
        if let Some((id, source)) = definition.schema().source(&name).filter(|(_, source)| source.is_postgres()) {
            let members = matches!(source.kind, bitdex_proto::schema::SourceKind::Members { .. });
            sources.insert(number, TrackedSource { id, members });
        }
    }
    Ok(sources)
}
