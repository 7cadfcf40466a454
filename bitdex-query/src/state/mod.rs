//! Everything the log says, as one persistent value: [`State::apply`] is a pure function of the state and a record, a
//! clone costs a few reference counts, and a clone never changes under whoever holds it.

use std::{io, sync::Arc};

use bitdex_proto::{Error, Result, schema::Schema, wire};
use bytes::Bytes;

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

/// Why a checkpoint could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("the checkpoint cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("the checkpoint has format {found}, this release reads {supported}: run the release that wrote it")]
    Format { found: u32, supported: u32 },
    #[error("the checkpoint is of definition {found}, this process serves {expected}")]
    Definition { found: String, expected: String },
    /// Names the block.
    #[error("the checkpoint is damaged: {0}")]
    Damaged(String),
}

/// One version of the index.
#[derive(Debug, Clone)]
pub struct State {
    schema: Arc<Schema>,
    sequence: u64,
}

impl State {
    /// The state before the genesis record.
    pub fn new(schema: Arc<Schema>) -> Self {
        Self { schema, sequence: 0 }
    }

    /// Applies the record with the given sequence number. An error means that the record is not valid for this state;
    /// the state must then be treated as lost. Never for a record that [`State::check`] passed and whose previous
    /// cursor is this state's.
    pub fn apply(&mut self, sequence: u64, record: &wire::Record) -> Result<()> {
        self.sequence = sequence;
        Self::check(&self.schema, record)
    }

    /// Whether everything in the record decodes against the schema.
    pub fn check(_schema: &Schema, _record: &wire::Record) -> Result<()> {
        Err(Error::Internal("not built yet".into()))
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Sequence number of the last record applied; 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Id of the store; empty before the genesis record.
    pub fn store(&self) -> &str {
        ""
    }

    pub fn generation(&self) -> u64 {
        0
    }

    /// Upstream cursor of a session source; empty where there is none.
    pub fn cursor(&self, _source: &str) -> Bytes {
        Bytes::new()
    }

    /// All cursors, by source name ascending.
    pub fn cursors(&self) -> Vec<(String, Bytes)> {
        Vec::new()
    }

    /// Whether the source has caught up once since the load.
    pub fn is_caught_up(&self, _source: &str) -> bool {
        false
    }

    pub fn load(&self) -> Option<LoadProgress> {
        None
    }

    pub fn is_loaded(&self) -> bool {
        false
    }

    pub fn readiness(&self) -> Readiness {
        Readiness { ready: false, progress: String::new() }
    }

    /// Whether the last batch from Postgres had more than 100 000 changes behind it.
    pub fn catching_up(&self) -> bool {
        false
    }

    /// Number of documents present, pending ones included.
    pub fn documents(&self) -> u64 {
        0
    }

    /// Order-independent hash over source rows and documents; equal on every process at one sequence number.
    pub fn hash(&self) -> u128 {
        0
    }

    /// Writes what [`State::read_checkpoint`] rebuilds this state from.
    pub fn write_checkpoint(&self, _out: &mut dyn io::Write) -> io::Result<()> {
        Ok(())
    }

    pub fn read_checkpoint(_schema: Arc<Schema>, _input: &mut dyn io::Read) -> Result<Self, CheckpointError> {
        Err(CheckpointError::Damaged("not built yet".into()))
    }
}
