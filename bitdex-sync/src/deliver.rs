//! Where batches go: a session with the index's writer. A batch is either durable there, or the sender learns that it
//! may not be, and starts again from the cursor that a new session opens with.

use bitdex_proto::{
    client::{Outcome, Session},
    ops::Op,
    schema::Schema,
    wire,
};
use bytes::Bytes;

/// One step of a source from a cursor to the next.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub previous_cursor: Bytes,
    pub new_cursor: Bytes,
    pub ops: Vec<Op>,
    /// Changes known to be still behind this batch.
    pub backlog: u64,
    pub caught_up: bool,
}

/// Takes batches in order. After an `Err`, whether the last batch was taken is unknown.
pub trait Sink: Send {
    fn deliver(&mut self, batch: Batch) -> impl Future<Output = Result<(), DeliverError>> + Send;
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeliverError {
    #[error("bitdex-query: {0}")]
    Session(#[from] bitdex_proto::Error),
    /// The writer has another cursor, or another reason to take nothing.
    #[error("bitdex-query refused the batch: {reason}")]
    Refused { reason: String, retry: bool },
}

/// A sink that delivers to the writer.
#[derive(Debug)]
pub struct SessionSink<'a> {
    pub session: &'a mut Session,
    pub schema: &'a Schema,
    /// For metrics: the source's name.
    pub source: &'static str,
}

impl Sink for SessionSink<'_> {
    async fn deliver(&mut self, batch: Batch) -> Result<(), DeliverError> {
        let count = batch.ops.len() as u64;
        let started = std::time::Instant::now();
        let ops = batch.ops.iter().map(|op| op.to_wire(self.schema)).collect();
        let commit = wire::Commit {
            previous_cursor: batch.previous_cursor,
            new_cursor: batch.new_cursor,
            caught_up: batch.caught_up,
            backlog: batch.backlog,
        };
        match self.session.deliver(ops, commit).await? {
            Outcome::Acked(_) => {
                metrics::counter!("bitdex_sync_ops_total", "source" => self.source).increment(count);
                metrics::counter!("bitdex_sync_batches_total", "source" => self.source).increment(1);
                metrics::gauge!("bitdex_sync_backlog", "source" => self.source).set(batch.backlog as f64);
                metrics::histogram!("bitdex_sync_deliver_seconds", "source" => self.source)
                    .record(started.elapsed().as_secs_f64());
                Ok(())
            }
            Outcome::Refused(refused) => Err(DeliverError::Refused { reason: refused.reason, retry: refused.retry }),
        }
    }
}
