//! This process's part in the index: it follows the log or writes it, publishes versions of the state, and lets callers
//! wait for one.

mod options;
mod session;

use std::sync::Arc;

use bitdex_proto::{Error, Result, query::Consistency, wire};
use tokio::time::Instant;

pub use options::{Ack, Health, NodeOptions, Role};
pub use session::SessionGuard;

use crate::state::State;
use session::Sessions;

/// A process's view of one index, and its right to write where it has it.
#[derive(Debug)]
pub struct Node {
    current: Arc<State>,
}

impl Node {
    /// Opens the data folder and, unless it is `reader_only`, stands for election. Returns once this process either is
    /// the writer or has read the log up to its durable frontier.
    pub async fn open(options: NodeOptions) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { current: Arc::new(State::new(options.schema)) }))
    }

    /// The newest version; never waits.
    pub fn current(&self) -> Arc<State> {
        Arc::clone(&self.current)
    }

    /// The newest version, once it is at `min_sequence` or later and has what `consistency` demands.
    ///
    /// UNAVAILABLE with the progress while the index is not ready, DEADLINE_EXCEEDED where `deadline` passes first,
    /// FAILED_PRECONDITION for a token that this store cannot compare itself with.
    pub async fn wait_for(
        &self,
        _consistency: Option<&Consistency>,
        _min_sequence: u64,
        _deadline: Instant,
    ) -> Result<Arc<State>> {
        Ok(self.current())
    }

    pub fn role(&self) -> Role {
        Role::Reader
    }

    /// The epoch of the log that this process wrote or read last; 0 before the first.
    pub fn epoch(&self) -> u64 {
        0
    }

    /// gRPC address of the writer, where it told one.
    pub fn writer_address(&self) -> Option<String> {
        None
    }

    /// The right to write; UNAVAILABLE, with the writer's address, where this process is not the writer.
    pub fn writer(&self) -> Result<WriterHandle> {
        Err(Error::Unavailable { message: "this process is a reader".into(), writer: self.writer_address() })
    }

    /// Stops taking records, makes durable and acknowledges what was taken, writes a checkpoint where that is cheap, and
    /// gives up the lock. The process goes on as a reader that never stands again.
    pub async fn drain(&self) {}

    pub fn health(&self) -> Health {
        Health { role: self.role(), problem: None, fatal: false }
    }

    /// Waits until the node has failed for good ([`Health::fatal`]), and says why. The process should then end with an
    /// error, so that another takes its place.
    pub async fn failed(&self) -> String {
        std::future::pending().await
    }

    /// Waits until a query of this or another process of the folder, that began to wait after the last return of this
    /// call, demands more than what is there: senders should then send progress at once.
    pub async fn progress_wanted(&self) {
        std::future::pending().await
    }
}

/// The right to write, while this process is the writer. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WriterHandle {
    sessions: Arc<Sessions>,
}

impl WriterHandle {
    /// Checks the record, appends it, waits until it is durable and visible here.
    ///
    /// INVALID_ARGUMENT where it does not decode against the schema, FAILED_PRECONDITION where a batch's previous cursor
    /// is not the durable one, RESOURCE_EXHAUSTED where the disk is full (nothing of it is kept), UNAVAILABLE where this
    /// process stopped being the writer (whether the record is kept is then open; its source's cursor tells).
    pub async fn submit(&self, _record: wire::Record) -> Result<Ack> {
        Err(Error::Internal("not built yet".into()))
    }

    /// Waits for the turn to feed `source`: one session a source is active.
    pub async fn session(&self, source: &str) -> SessionGuard {
        self.sessions.enter(source).await
    }

    /// Ends the active session of `source` (a load begins).
    pub fn supersede(&self, source: &str) {
        self.sessions.supersede(source);
    }
}
