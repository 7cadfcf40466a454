//! What a node is told at start, and what it says of itself.

use std::{path::PathBuf, sync::Arc};

use bitdex_proto::schema::Schema;
use bytes::Bytes;

use crate::store::{format, policy};

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
    /// When changes are brought into files, and how many may stand in memory before.
    pub flush: policy::Settings,
    /// Rewrite a segment or a table once the checkpoint has this share of its rows.
    pub compact_fraction: f64,
    /// A load of more bytes of rows has its base built in the background; a smaller one is applied row by row.
    pub small_load: u64,
    /// Bytes of heap that the building of a load's base may take.
    pub build_memory: usize,
    /// Threads that build it.
    pub build_threads: usize,
    /// Start a new segment of the log once the last one has this many bytes.
    pub segment_bytes: u64,
    /// The latest format of a store that this process reads, and in which it makes a new one: below
    /// [`format::NEWEST`] it acts as the release before.
    pub newest_format: u32,
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
            flush: policy::Settings::default(),
            compact_fraction: 0.1,
            small_load: 32 << 20,
            build_memory: 1 << 30,
            build_threads: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            segment_bytes: 64 << 20,
            newest_format: format::NEWEST,
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
