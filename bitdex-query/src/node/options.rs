//! What a node is told at start, and what it says of itself.

use std::{path::PathBuf, sync::Arc};

use bitdex_proto::schema::Schema;
use bytes::Bytes;

/// How a node is opened.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// The compiled definition; a folder of another definition is refused.
    pub schema: Arc<Schema>,
    /// The data folder, shared by every process that serves the index; made where it is missing.
    pub data: PathBuf,
    /// gRPC address under which others reach this process; readers name it once this is the writer.
    pub advertise: Option<String>,
    /// Never stand for election.
    pub reader_only: bool,
    /// Write a checkpoint once this many bytes of log have come since the last one.
    pub checkpoint_bytes: u64,
    /// Start a new segment of the log once the last one has this many bytes.
    pub segment_bytes: u64,
    /// Bytes of records that may wait to become durable; past it [`super::WriterHandle::submit`] waits.
    pub queue_bytes: usize,
}

impl NodeOptions {
    pub fn new(schema: Arc<Schema>, data: impl Into<PathBuf>) -> Self {
        Self {
            schema,
            data: data.into(),
            advertise: None,
            reader_only: false,
            checkpoint_bytes: 256 << 20,
            segment_bytes: 64 << 20,
            queue_bytes: 64 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Writer,
    Reader,
}

impl Role {
    /// As `Describe` and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }
}

/// Whether the node does its work. A node that is not ready yet ([`crate::state::State::readiness`]) may be healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub role: Role,
    /// Why the node does not do its work; `None` while it does.
    pub problem: Option<String>,
    /// The problem keeps this process from following the log, so that its answers grow old. Where it is false, queries
    /// are well.
    pub stale: bool,
    /// The problem does not go away in this process: end it with an error.
    pub fatal: bool,
}

/// The record is durable and visible in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    pub sequence: u64,
    /// A token that demands this record.
    pub token: Bytes,
}
