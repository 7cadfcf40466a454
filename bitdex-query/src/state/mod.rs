//! Everything the log says, as one persistent value: [`State::apply`] is a pure function of the state and a record, a
//! clone costs a few reference counts, and a clone never changes under whoever holds it.
//!
//! It holds source rows as they arrived and, computed from them, the present documents and an index of each field that
//! can be filtered or sorted by. While a load is under way only source rows are kept; its end computes the rest at
//! once.

mod apply;
mod checkpoint;
mod compute;
mod encode;
mod index;
mod layout;
mod postings;
mod rows;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, sync::Arc};

use bitdex_proto::{
    ops::Op,
    schema::{FieldId, KEY_FIELD, Schema},
    value::FieldValue,
    wire,
};
use bytes::Bytes;
use imbl::{OrdMap, Vector};
use roaring::RoaringBitmap;

pub use checkpoint::CheckpointError;
pub(crate) use index::{Bounds, FieldIndex};
pub(crate) use postings::Postings;

use layout::Layout;
use rows::Rows;

/// The session source whose cursor a load sets, and without which nothing is served.
pub const POSTGRES: &str = "postgres";
/// The session source of metrics.
pub const CLICKHOUSE: &str = "clickhouse";
/// Changes behind a batch above which a Postgres transaction may show in part.
const CATCHING_UP: u64 = 100_000;

/// The values of one document: one for each field of the schema (and a few more, of the state's own).
pub(crate) type Document = Arc<[FieldValue]>;

/// An unfinished load.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadProgress {
    pub load_id: String,
    /// Upstream cursor from which changes will follow.
    pub cursor: Bytes,
    pub parts: Vec<wire::LoadPart>,
    /// Indexes of the parts that are complete, ascending.
    pub done: Vec<u32>,
    /// Rows of the complete parts.
    pub rows: u64,
}

/// Whether queries may be answered, and if not, how far the way there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Readiness {
    pub ready: bool,
    pub progress: String,
}

/// Where a session source stands.
#[derive(Debug, Clone, Default, PartialEq)]
struct Feed {
    cursor: Bytes,
    caught_up: bool,
    backlog: u64,
}

#[derive(Debug, Clone, PartialEq)]
struct Loading {
    /// The session source whose cursor the load sets.
    source: String,
    progress: LoadProgress,
}

/// One version of the index.
#[derive(Clone)]
pub struct State {
    layout: Arc<Layout>,
    sequence: u64,
    store: Arc<str>,
    generation: u64,
    feeds: OrdMap<String, Feed>,
    loading: Option<Arc<Loading>>,
    loaded: bool,
    rows: Rows,
    /// Field ops that arrived during a load from its first query op on: that one has to see documents.
    deferred: Vector<Op>,
    documents: OrdMap<u32, Document>,
    present: Arc<RoaringBitmap>,
    /// By field of the layout; empty for those that have no index.
    indexes: Vec<FieldIndex>,
    documents_hash: u128,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("store", &self.store)
            .field("generation", &self.generation)
            .field("sequence", &self.sequence)
            .field("documents", &self.documents())
            .finish_non_exhaustive()
    }
}

impl State {
    /// The state before the genesis record.
    pub fn new(schema: Arc<Schema>) -> Self {
        let layout = Layout::new(schema);
        Self {
            sequence: 0,
            store: "".into(),
            generation: 0,
            feeds: OrdMap::new(),
            loading: None,
            loaded: false,
            rows: Rows::new(&layout),
            deferred: Vector::new(),
            documents: OrdMap::new(),
            present: Arc::default(),
            indexes: vec![FieldIndex::default(); layout.fields.len()],
            documents_hash: 0,
            layout: Arc::new(layout),
        }
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.layout.schema
    }

    /// Sequence number of the last record applied; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Id of the store; empty before the genesis record.
    pub fn store(&self) -> &str {
        &self.store
    }

    /// Set by each load; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Upstream cursor of a session source; empty where there is none.
    pub fn cursor(&self, source: &str) -> Bytes {
        self.feeds.get(source).map(|feed| feed.cursor.clone()).unwrap_or_default()
    }

    /// All cursors, by source name ascending.
    pub fn cursors(&self) -> Vec<(String, Bytes)> {
        self.feeds.iter().map(|(source, feed)| (source.clone(), feed.cursor.clone())).collect()
    }

    /// Whether the source has caught up once since the load.
    pub fn is_caught_up(&self, source: &str) -> bool {
        self.feeds.get(source).is_some_and(|feed| feed.caught_up)
    }

    /// The unfinished load, where there is one.
    pub fn load(&self) -> Option<LoadProgress> {
        self.loading.as_ref().map(|loading| loading.progress.clone())
    }

    /// Whether a load is complete, and no other has begun since.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Ready: loaded, caught up with Postgres once since then, and with ClickHouse where the definition has metrics.
    pub fn readiness(&self) -> Readiness {
        let progress = if let Some(loading) = &self.loading {
            let LoadProgress { parts, done, rows, .. } = &loading.progress;
            format!("loading: {} of {} parts, {rows} rows", done.len(), parts.len())
        } else if !self.loaded {
            "waiting for the first load".into()
        } else if !self.is_caught_up(POSTGRES) {
            "loaded; waiting to catch up with postgres".into()
        } else if self.schema().has_metrics() && !self.is_caught_up(CLICKHOUSE) {
            "loaded; waiting to catch up with clickhouse".into()
        } else {
            return Readiness { ready: true, progress: "ready".into() };
        };
        Readiness { ready: false, progress }
    }

    /// Whether the last batch from Postgres had more than 100 000 changes behind it.
    pub fn catching_up(&self) -> bool {
        self.feeds.get(POSTGRES).is_some_and(|feed| feed.backlog > CATCHING_UP)
    }

    /// Number of documents present, pending ones included.
    pub fn documents(&self) -> u64 {
        self.present.len()
    }

    /// Order-independent hash over source rows and documents; equal on every process at one sequence number.
    pub fn hash(&self) -> u128 {
        self.rows.hash().wrapping_add(self.documents_hash)
    }

    /// The values of a present document: at least one for each field of the schema.
    pub(crate) fn document(&self, id: u32) -> Option<&Document> {
        self.documents.get(&id)
    }

    pub(crate) fn present(&self) -> &RoaringBitmap {
        &self.present
    }

    /// The index of a field; `None` where it has none: the key, whose index is [`State::present`], and fields that can
    /// be neither filtered nor sorted by.
    pub(crate) fn index(&self, field: FieldId) -> Option<&FieldIndex> {
        (field != KEY_FIELD && self.layout.fields[field].indexed).then(|| &self.indexes[field])
    }
}
