//! Everything the log says, as one persistent value: [`State::apply`] is a pure function of the state and a record, a
//! clone costs a few reference counts, and a clone never changes under whoever holds it.
//!
//! A state is a view over layers (see `docs/store.md`): mapped files, a frozen and an active layer in memory.

mod apply;
mod changes;
mod checkpoint;
pub(crate) mod compute;
mod decoded;
pub(crate) mod encode;
mod files;
mod filter_sets;
mod frequent_terms;
mod known_terms;
pub(crate) mod layer;
pub(crate) mod layout;
mod parallel;
mod recent;
mod rows;
mod settle;
mod sorted;
#[cfg(test)]
pub(crate) mod tests;
mod view;

use std::{fmt, sync::Arc};

use bitdex_proto::{schema::Schema, wire};
use bytes::Bytes;
use imbl::OrdMap;

pub use apply::Unsettled;
pub use checkpoint::{Flushed, write_checkpoint};
pub use decoded::Decoded;
pub use files::Files;
pub(crate) use layout::{Layout, Numbers};
pub(crate) use recent::Recent;
pub(crate) use rows::StateRows;
pub(crate) use view::{Bounds, CellBlock, CodeReader, ColumnView, Lead, LeadList, Operand, Ordered, Walk};

use layer::Layer;
use layout::Place;

/// The session source whose cursor a load sets, and without which nothing is served.
pub const POSTGRES: &str = "postgres";
/// The session source of metrics.
pub const CLICKHOUSE: &str = "clickhouse";
/// Changes behind a batch above which a Postgres transaction may show in part.
const CATCHING_UP: u64 = 100_000;

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
    /// What the load's end makes the state's generation.
    generation: u64,
    /// Sequence number of the record that began it. What was staged for another load carries another one.
    began: u64,
    progress: LoadProgress,
}

/// What a state is besides its layers; stands in a checkpoint's header.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Header {
    sequence: u64,
    store: Arc<str>,
    generation: u64,
    feeds: OrdMap<String, Feed>,
    loading: Option<Arc<Loading>>,
    loaded: bool,
    /// Present documents.
    documents: u64,
    /// Sum of the hashes of all rows.
    hash: u128,
}

/// A layer that changes no more, with the header as it stood then, and the files below.
#[derive(Debug)]
pub struct Frozen {
    pub(crate) header: Header,
    pub(crate) layer: Layer,
    pub(crate) below: Arc<Files>,
    pub(crate) layout: Arc<Layout>,
}

impl Frozen {
    /// Of the record that froze it.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// Whether a load was under way at that record.
    pub(crate) fn is_loading(&self) -> bool {
        self.header.loading.is_some()
    }

    /// Estimated bytes of heap.
    pub(crate) fn bytes(&self) -> u64 {
        self.layer.bytes()
    }
}

/// How much the active layer holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unflushed {
    pub rows: u64,
    /// Estimated bytes of heap.
    pub bytes: u64,
}

/// One version of the index.
#[derive(Clone)]
pub struct State {
    layout: Arc<Layout>,
    header: Header,
    files: Arc<Files>,
    frozen: Option<Arc<Frozen>>,
    active: Layer,
    /// For the coming `LoadEnd`.
    prepared: Option<Arc<Files>>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("store", &self.header.store)
            .field("generation", &self.header.generation)
            .field("sequence", &self.header.sequence)
            .field("documents", &self.documents())
            .finish_non_exhaustive()
    }
}

impl State {
    /// The state before the genesis record.
    pub fn new(schema: Arc<Schema>) -> Self {
        Self::over(Files::none(schema), Header::default())
    }

    /// The state of the files' checkpoint.
    pub fn open(files: Arc<Files>) -> crate::log::Result<Self> {
        let Some(checkpoint) = files.checkpoint() else { return Ok(Self::over(files, Header::default())) };
        let header = checkpoint.header().clone();
        let deferred = checkpoint.deferred(files.layout())?;
        let mut state = Self::over(files.clone(), header);
        state.active.defer(deferred);
        Ok(state)
    }

    fn over(files: Arc<Files>, header: Header) -> Self {
        let layout = files.layout().clone();
        let active = Layer::over(&files);
        Self { layout, header, files, frozen: None, active, prepared: None }
    }

    /// Looks through newer files of the same store from now on. Drops the frozen layer where their checkpoint has taken
    /// it in. Says the same as before. Files of the generation before a load that was swapped in are left alone: the next
    /// checkpoint goes on from the new one.
    pub fn adopt(&mut self, files: Arc<Files>) -> crate::log::Result<()> {
        if files.are_before(&self.files) {
            return Ok(());
        }
        let (sequence, held) = (files.sequence(), self.header.sequence);
        let at_least = self.files.sequence();
        if sequence > held || sequence < at_least {
            return Err(crate::log::Error::foreign(format!(
                "files of record {sequence} do not fit a state of record {held} over files of record {at_least}"
            )));
        }
        if self.frozen.as_ref().is_some_and(|frozen| frozen.sequence() <= sequence) {
            self.frozen = None;
        }
        self.files = files;
        Ok(())
    }

    pub(crate) fn files(&self) -> &Arc<Files> {
        &self.files
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What waits to be written to a checkpoint, since the last `Freeze`.
    pub fn frozen(&self) -> Option<&Arc<Frozen>> {
        self.frozen.as_ref()
    }

    pub fn unflushed(&self) -> Unflushed {
        Unflushed { rows: self.active.rows.len() as u64, bytes: self.active.bytes() }
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.layout.schema
    }

    /// Sequence number of the last record applied; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.header.sequence
    }

    /// Id of the store; empty before the genesis record.
    pub fn store(&self) -> &str {
        &self.header.store
    }

    /// Set by each load; 0 before the first.
    pub fn generation(&self) -> u64 {
        self.header.generation
    }

    /// Upstream cursor of a session source; empty where there is none.
    pub fn cursor(&self, source: &str) -> Bytes {
        self.header.feeds.get(source).map(|feed| feed.cursor.clone()).unwrap_or_default()
    }

    /// All cursors, by source name ascending.
    pub fn cursors(&self) -> Vec<(String, Bytes)> {
        self.header.feeds.iter().map(|(source, feed)| (source.clone(), feed.cursor.clone())).collect()
    }

    /// Whether the source has caught up once since the load.
    pub fn is_caught_up(&self, source: &str) -> bool {
        self.header.feeds.get(source).is_some_and(|feed| feed.caught_up)
    }

    /// The unfinished load, where there is one.
    pub fn load(&self) -> Option<LoadProgress> {
        self.header.loading.as_ref().map(|loading| loading.progress.clone())
    }

    pub(crate) fn is_loading(&self) -> bool {
        self.header.loading.is_some()
    }

    /// Bytes of a load's rows that stand in memory: in the active layer, and in the frozen one.
    pub(crate) fn staged_bytes(&self) -> (u64, u64) {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.layer.staged.bytes());
        (self.active.staged.bytes(), frozen)
    }

    /// The generation that the unfinished load will be, where there is one.
    pub(crate) fn loading_generation(&self) -> Option<u64> {
        self.header.loading.as_ref().map(|loading| loading.generation)
    }

    /// The generation for a load that begins now: no other load has it.
    pub fn next_generation(&self) -> u64 {
        self.header.generation.max(self.loading_generation().unwrap_or(0)) + 1
    }

    /// Whether a load is complete, and no other has begun since.
    pub fn is_loaded(&self) -> bool {
        self.header.loaded && self.header.loading.is_none()
    }

    /// Ready: loaded, caught up with Postgres once since then, and with ClickHouse where the definition has metrics.
    pub fn readiness(&self) -> Readiness {
        let first = self.header.loading.as_ref().filter(|_| !self.header.loaded);
        let progress = if let Some(loading) = first {
            let LoadProgress { parts, done, rows, .. } = &loading.progress;
            format!("loading: {} of {} parts, {rows} rows", done.len(), parts.len())
        } else if !self.header.loaded {
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
        self.header.feeds.get(POSTGRES).is_some_and(|feed| feed.backlog > CATCHING_UP)
    }

    /// Number of documents present, pending ones included.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Order-independent hash over all rows; equal on every process at one sequence number.
    pub fn hash(&self) -> u128 {
        self.header.hash
    }

    /// Whether the row of (place, key) is there, and its bytes; looks through all layers.
    pub(crate) fn row(&self, place: Place, key: i64) -> crate::log::Result<Option<&[u8]>> {
        match self.row_in_memory(place, key) {
            Some(row) => Ok(row),
            None => Ok(self.files.row(place, key)?.flatten()),
        }
    }

    /// What the layers in memory say of a row; `None`: nothing.
    fn row_in_memory(&self, place: Place, key: i64) -> Option<Option<&[u8]>> {
        match (self.active.rows.get(place, key), &self.frozen) {
            (None, Some(frozen)) => frozen.layer.rows.get(place, key),
            (row, _) => row,
        }
    }

    /// Calls `each` once with the key of each row of a place, from `first` to `last`, in no order.
    fn each_key(&self, place: Place, first: i64, last: i64, each: &mut dyn FnMut(i64)) -> crate::log::Result<()> {
        let mut below = self.files.rows(place, first, last)?;
        while let Some((key, _)) = below.next()? {
            if self.row_in_memory(place, key).is_none() {
                each(key);
            }
        }
        let frozen = self.frozen.as_ref().map(|frozen| &frozen.layer);
        for (key, row) in frozen.into_iter().flat_map(|layer| layer.rows.of(place, first, last)) {
            if row.is_some() && self.active.rows.get(place, key).is_none() {
                each(key);
            }
        }
        for (key, row) in self.active.rows.of(place, first, last) {
            if row.is_some() {
                each(key);
            }
        }
        Ok(())
    }
}
