//! The bulk read: COPY by ranges of the key, each range in a short transaction of its own, over several connections,
//! forwarded as Postgres sends it. What changes meanwhile is repaired afterwards by polling from the snapshot that was
//! taken before the first range.

mod parts;
mod progress;

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use bitdex_proto::{
    client::{IngestClient, LoadEvent, LoadSender, LoadStream},
    copy::Splitter,
    definition::Definition,
    schema::SourceId,
    snapshot::{PgCursor, PgSnapshot},
    wire,
};
use futures::TryStreamExt as _;
use rand::RngExt as _;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};
use tokio::{sync::Mutex, task::JoinSet};

use self::parts::{Extent, plan};
pub use self::progress::Progress;
use crate::{
    capture::Consumer,
    postgres::{Database, Purpose},
};

/// Bytes of whole rows that go out at once.
const CHUNK_BYTES: usize = 256 << 10;
/// Of a table without statistics, a low guess.
const BYTES_PER_ROW: i64 = 64;
/// Name of the session source whose cursor a load sets.
pub const POSTGRES_SOURCE: &str = "postgres";

/// What a load needs.
#[derive(Debug, Clone)]
pub struct Loader {
    pub definition: Arc<Definition>,
    pub database: Database,
    pub client: Arc<IngestClient>,
    pub consumer: Consumer,
    pub connections: usize,
    pub rows_per_part: u64,
}

/// Why a load stopped.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Another process is loading; wait for it.
    #[error("another bitdex-sync is loading this index")]
    Elsewhere,
    #[error("bitdex-query: {0}")]
    Query(#[from] bitdex_proto::Error),
    #[error("{0:#}")]
    Other(#[from] anyhow::Error),
}

impl From<sqlx::Error> for LoadError {
    fn from(error: sqlx::Error) -> Self {
        Self::Other(anyhow::Error::from(error).context("Postgres"))
    }
}

/// Held while loading, so that two processes do not load one index at a time. Ends with its connection.
#[derive(Debug)]
pub struct LoadLock {
    _connection: PgConnection,
}

impl Loader {
    /// The right to load; `None` while another process has it.
    pub async fn lock(&self) -> anyhow::Result<Option<LoadLock>> {
        let mut connection = self.database.connect(Purpose::Load).await?;
        let name = format!("bitdex load {} {}", self.definition.index(), self.consumer.name());
        let key = i64::from_be_bytes(blake3::hash(name.as_bytes()).as_bytes()[..8].try_into()?);
        let row =
            sqlx::query("SELECT pg_catalog.pg_try_advisory_lock($1)").bind(key).fetch_one(&mut connection).await?;
        Ok(row.try_get::<bool, _>(0)?.then_some(LoadLock { _connection: connection }))
    }

    /// Loads everything; afterwards the index follows from the cursor that is returned. Goes on with `unfinished`.
    /// `before` is where the index stood, if it was loaded: it keeps its external fields, and lacks only what was done to
    /// them since.
    pub async fn load(
        &self,
        unfinished: Option<wire::LoadOpened>,
        before: Option<PgCursor>,
        progress: &Progress,
    ) -> Result<PgCursor, LoadError> {
        let Some(_lock) = self.lock().await? else { return Err(LoadError::Elsewhere) };
        let before = match (&unfinished, before) {
            (Some(load), None) => Some(PgCursor::from_bytes(&load.cursor)?),
            (_, before) => before,
        };
        let open = match unfinished {
            Some(load) if self.can_go_on(&load).await? => {
                tracing::info!(
                    load = load.load_id,
                    done = load.done.len(),
                    parts = load.parts.len(),
                    "going on with a load"
                );
                self.open(load.load_id, load.cursor, load.parts)
            }
            _ => self.begin(before.as_ref()).await?,
        };
        let cursor = PgCursor::from_bytes(&open.cursor)?;
        let stream = self.client.load(open).await?;
        self.transfer(stream, progress).await?;
        Ok(cursor)
    }

    fn open(&self, load_id: String, cursor: bytes::Bytes, parts: Vec<wire::LoadPart>) -> wire::LoadOpen {
        wire::LoadOpen {
            index: self.definition.index().into(),
            definition_hash: self.definition.schema().hash.clone(),
            source: POSTGRES_SOURCE.into(),
            load_id,
            cursor,
            parts,
        }
    }

    /// Whether changes since the unfinished load's cursor can still be followed.
    async fn can_go_on(&self, load: &wire::LoadOpened) -> anyhow::Result<bool> {
        let cursor = PgCursor::from_bytes(&load.cursor)?;
        let mut connection = self.database.connect(Purpose::Poll).await?;
        match self.consumer.check(&mut connection, &cursor).await {
            Ok(()) => Ok(true),
            Err(error) if error.downcast_ref::<crate::capture::HistoryError>().is_some() => {
                tracing::warn!(%error, "the unfinished load cannot be gone on with; starting over");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn begin(&self, before: Option<&PgCursor>) -> anyhow::Result<wire::LoadOpen> {
        let mut connection = self.database.connect(Purpose::Poll).await?;
        let external = match before {
            Some(before) if self.consumer.knows(&mut connection, before).await? => before.external_from().clone(),
            // An empty index, or one of another history: everything that there is.
            _ => PgSnapshot::empty(),
        };
        let cursor = self.consumer.register(&mut connection, &external).await?;
        let mut extents = Vec::new();
        for (id, _) in self.definition.sources() {
            if let Some(extent) = extent(&mut connection, &self.definition, id).await? {
                extents.push(extent);
            }
        }
        connection.close().await?;
        let parts = plan(&extents, self.rows_per_part);
        let load_id = format!("{:032x}", rand::rng().random::<u128>());
        let rows: u64 = extents.iter().map(|extent| extent.rows).sum();
        tracing::info!(load = load_id, parts = parts.len(), rows_estimated = rows, cursor = %cursor, "a load begins");
        Ok(self.open(load_id, cursor.to_bytes(), parts))
    }

    /// Sends every part that is not durable yet, and the end.
    async fn transfer(&self, stream: LoadStream, progress: &Progress) -> Result<(), LoadError> {
        let opened = stream.opened.clone();
        let parts = Arc::new(opened.parts.clone());
        let mut open_parts: Vec<u32> =
            (0..parts.len() as u32).filter(|part| !opened.done.contains(part)).rev().collect();
        let left = open_parts.len();
        progress.begin(&self.definition, &opened);
        let (sender, mut receiver) = stream.split();
        let queue = Arc::new(Mutex::new(std::mem::take(&mut open_parts)));
        let mut workers = JoinSet::new();
        for _ in 0..self.connections.min(left) {
            let (loader, queue, parts) = (self.clone(), Arc::clone(&queue), Arc::clone(&parts));
            let (sender, progress) = (sender.clone(), progress.clone());
            workers.spawn(async move { loader.work(&queue, &parts, &sender, &progress).await });
        }
        let mut pending = left;
        let mut working = !workers.is_empty();
        while pending > 0 || working {
            tokio::select! {
                event = receiver.recv() => match event? {
                    LoadEvent::PartDone(done) => {
                        pending = pending.saturating_sub(1);
                        progress.durable(&done);
                    }
                    LoadEvent::Finished(_) => {
                        return Err(anyhow::anyhow!("the load was finished by another sender").into());
                    }
                },
                worker = workers.join_next(), if working => match worker {
                    Some(outcome) => {
                        if let Err(error) = outcome.context("a load worker stopped")? {
                            // Where the stream is what broke, the receiver knows why.
                            return Err(match (error, tokio::time::timeout(Duration::from_secs(1), receiver.recv()).await) {
                                (LoadError::Query(_), Ok(Err(reason))) => reason.into(),
                                (error, _) => error,
                            });
                        }
                    }
                    None => working = false,
                },
            }
        }
        progress.finishing();
        sender.finish().await?;
        loop {
            if let LoadEvent::Finished(_) = receiver.recv().await? {
                progress.finished();
                return Ok(());
            }
        }
    }

    async fn work(
        &self,
        queue: &Mutex<Vec<u32>>,
        parts: &[wire::LoadPart],
        sender: &LoadSender,
        progress: &Progress,
    ) -> Result<(), LoadError> {
        let mut connection = self.database.connect(Purpose::Load).await?;
        loop {
            let Some(index) = queue.lock().await.pop() else { return Ok(()) };
            let part = &parts[index as usize];
            let rows = self.copy(&mut connection, index, part, sender, progress).await?;
            sender.part_done(index, rows).await?;
        }
    }

    async fn copy(
        &self,
        connection: &mut PgConnection,
        index: u32,
        part: &wire::LoadPart,
        sender: &LoadSender,
        progress: &Progress,
    ) -> Result<u64, LoadError> {
        let source = part.source as usize;
        let what = || -> anyhow::Result<String> {
            let spec = self.definition.source(source)?;
            let table = spec.table().map(ToString::to_string).unwrap_or_default();
            Ok(format!("source {} (table {table}), keys {} to {}", spec.name(), part.lo, part.hi))
        };
        let sql = self.definition.copy_sql(source, part.lo, part.hi)?;
        let transfer = async {
            let mut stream = connection.copy_out_raw(&sql).await?;
            let mut splitter = Splitter::default();
            let mut counted = 0;
            while let Some(piece) = stream.try_next().await? {
                splitter.push(&piece);
                if splitter.pending() >= CHUNK_BYTES {
                    let chunk = splitter.take()?;
                    progress.read(splitter.rows() - counted, chunk.len());
                    counted = splitter.rows();
                    sender.rows(index, chunk).await?;
                }
            }
            let chunk = splitter.take()?;
            progress.read(splitter.rows() - counted, chunk.len());
            if !chunk.is_empty() {
                sender.rows(index, chunk).await?;
            }
            Ok(splitter.finish()?)
        };
        transfer.await.map_err(|error: CopyError| match error {
            CopyError::Query(error) => error.into(),
            CopyError::Postgres(error) => {
                anyhow::Error::from(error).context(what().unwrap_or_else(|error| error.to_string())).into()
            }
        })
    }
}

/// What broke a COPY: one end of it, or the other.
enum CopyError {
    Postgres(sqlx::Error),
    Query(bitdex_proto::Error),
}

impl From<sqlx::Error> for CopyError {
    fn from(error: sqlx::Error) -> Self {
        Self::Postgres(error)
    }
}

impl From<bitdex_proto::Error> for CopyError {
    fn from(error: bitdex_proto::Error) -> Self {
        Self::Query(error)
    }
}

/// `None` for a source that is not in Postgres.
async fn extent(
    connection: &mut PgConnection,
    definition: &Definition,
    id: SourceId,
) -> anyhow::Result<Option<Extent>> {
    let spec = definition.source(id)?;
    let Some(table) = spec.table() else { return Ok(None) };
    let size = async {
        let row = sqlx::query(AssertSqlSafe(definition.range_sql(id)?)).fetch_one(&mut *connection).await?;
        let (min, max, rows): (Option<i64>, Option<i64>, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        // A table that was never analyzed has no estimate, but has a size.
        let row = sqlx::query("SELECT pg_catalog.pg_relation_size($1::text::pg_catalog.regclass)")
            .bind(table.to_string())
            .fetch_one(&mut *connection)
            .await?;
        let rows = if rows > 0 { rows } else { row.try_get::<i64, _>(0)? / BYTES_PER_ROW };
        anyhow::Ok(Extent { source: id as u32, keys: min.zip(max), rows: rows.max(0).unsigned_abs() })
    };
    size.await.map(Some).with_context(|| format!("the size of {table} cannot be read"))
}
