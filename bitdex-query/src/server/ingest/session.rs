//! One ingest session: ops gathered into batches, submitted in order, each answered in order.
//!
//! A batch is taken whole or refused whole, and every commit gets exactly one answer. A batch is submitted as soon as
//! it is committed, so several may wait for one fsync; a batch that follows a refused one does not begin where the
//! durable cursor is, and so is refused too.

use std::pin::pin;

use bitdex_proto::{
    Error, Result,
    wire::{self, record, session_request, session_response},
};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesOrdered};
use metrics::counter;
use prost::Message as _;
use tonic::Streaming;

use super::{Answers, superseded};
use crate::{
    node::{Ack, SessionGuard, WriterHandle},
    server::service::{POSTGRES, Service},
    state::State,
};

/// Bytes of the ops of one batch.
const MAX_BATCH: usize = 64 << 20;
/// Batches submitted and not answered yet; the queue's bytes are bounded by the writer.
const MAX_IN_FLIGHT: usize = 64;

/// What became of a batch, and what it was.
struct Landed {
    result: Result<Ack>,
    cursor: Bytes,
    ops: usize,
}

pub(super) async fn run(
    service: &Service,
    writer: &WriterHandle,
    open: wire::SessionOpen,
    mut requests: Streaming<wire::SessionRequest>,
    answers: &Answers<wire::SessionResponse>,
) -> Result<()> {
    let node = service.node()?;
    let source = open.source;
    let mut guard = tokio::select! {
        guard = writer.session(&source) => guard,
        message = requests.message() => match message? {
            Some(_) => return Err(Error::invalid("a session sends nothing before it was opened")),
            None => return Ok(()),
        },
        () = answers.closed() => return Ok(()),
    };
    // The turn may have come because this process writes no longer.
    node.writer()?;
    let state = node.current();
    let mut session = Session { accepted: state.cursor(&source), source, ops: Vec::new(), bytes: 0 };
    tracing::info!(source = session.source, epoch = node.epoch(), "session opened");
    answers.send(response(session_response::Kind::Opened(opened(&state, node.epoch(), &session.source))))?;
    drop(state);

    let mut in_flight = FuturesOrdered::<BoxFuture<'_, Landed>>::new();
    let mut wanted = pin!(node.progress_wanted());
    let end = loop {
        tokio::select! {
            biased;
            () = guard.superseded() => break Err(superseded(node)),
            Some(landed) = in_flight.next() => session.answer(landed, &node.current(), answers)?,
            () = &mut wanted, if session.source == POSTGRES => {
                wanted.set(node.progress_wanted());
                answers.send(response(session_response::Kind::ProgressWanted(wire::ProgressWanted {})))?;
            }
            message = requests.message(), if in_flight.len() < MAX_IN_FLIGHT => match message {
                Ok(Some(wire::SessionRequest { kind: Some(session_request::Kind::Ops(frame)) })) => {
                    if let Err(error) = session.gather(frame) {
                        break Err(error);
                    }
                }
                Ok(Some(wire::SessionRequest { kind: Some(session_request::Kind::Commit(commit)) })) => {
                    if session.source == POSTGRES && !node.current().is_loaded() {
                        break Err(needs_load());
                    }
                    in_flight.push_back(session.close(commit).land(writer));
                }
                Ok(Some(_)) => break Err(Error::invalid("after `open`, a session takes `ops` and `commit`")),
                Ok(None) => break Ok(()),
                Err(status) => break Err(status.into()),
            },
        }
    };
    // What was submitted becomes durable or not; the client hears it either way.
    while let Some(landed) = in_flight.next().await {
        session.answer(landed, &node.current(), answers)?;
    }
    drop::<SessionGuard>(guard);
    end
}

struct Session {
    source: String,
    /// Cursor of the last batch that was submitted, or the durable one.
    accepted: Bytes,
    ops: Vec<wire::Op>,
    bytes: usize,
}

/// A batch whose commit has come.
struct Closed {
    batch: wire::Batch,
    /// Why it cannot be taken.
    refusal: Option<Error>,
}

impl Closed {
    fn land(self, writer: &WriterHandle) -> BoxFuture<'_, Landed> {
        Box::pin(async move {
            let (cursor, ops) = (self.batch.new_cursor.clone(), self.batch.ops.len());
            let result = match self.refusal {
                Some(refusal) => Err(refusal),
                None => writer.submit(wire::Record { kind: Some(record::Kind::Batch(self.batch)) }).await,
            };
            Landed { result, cursor, ops }
        })
    }
}

fn needs_load() -> Error {
    Error::Precondition("the index needs a load before it can follow: run `bitdex-sync dump`".into())
}

impl Session {
    fn gather(&mut self, frame: wire::OpFrame) -> Result<()> {
        self.bytes += frame.encoded_len();
        if self.bytes > MAX_BATCH {
            return Err(Error::Exhausted(format!(
                "a batch of {} bytes of ops before its commit: commit at most {MAX_BATCH}",
                self.bytes
            )));
        }
        self.ops.extend(frame.ops);
        Ok(())
    }

    /// The gathered ops as a batch, to submit or to refuse.
    fn close(&mut self, commit: wire::Commit) -> Closed {
        let ops = std::mem::take(&mut self.ops);
        self.bytes = 0;
        let refusal = (commit.previous_cursor != self.accepted).then(|| {
            Error::Precondition(format!(
                "the batch begins at cursor {}, and the last one taken ends at {}",
                show(&commit.previous_cursor),
                show(&self.accepted)
            ))
        });
        if refusal.is_none() {
            self.accepted = commit.new_cursor.clone();
        }
        let batch = wire::Batch {
            source: self.source.clone(),
            previous_cursor: commit.previous_cursor,
            new_cursor: commit.new_cursor,
            ops,
            caught_up: commit.caught_up,
            backlog: commit.backlog,
        };
        Closed { batch, refusal }
    }

    /// Answers one batch. An error that no further batch of this session can get past ends the session.
    fn answer(&mut self, landed: Landed, state: &State, answers: &Answers<wire::SessionResponse>) -> Result<()> {
        let error = match landed.result {
            Ok(Ack { sequence, token }) => {
                counter!("bitdex_ingest_batches_total", "source" => self.source.clone()).increment(1);
                counter!("bitdex_ingest_ops_total", "source" => self.source.clone()).increment(landed.ops as u64);
                let ack = wire::Ack { cursor: landed.cursor, sequence, token };
                return answers.send(response(session_response::Kind::Ack(ack)));
            }
            Err(error) => error,
        };
        let retry = match &error {
            Error::Invalid(_) => false,
            Error::Precondition(_) | Error::Exhausted(_) => true,
            _ => return Err(error),
        };
        counter!("bitdex_ingest_refused_total", "source" => self.source.clone()).increment(1);
        tracing::warn!(source = self.source, %error, retry, "batch refused");
        let current_cursor = state.cursor(&self.source);
        self.accepted = current_cursor.clone();
        let refused = wire::Refused { current_cursor, reason: error.to_string(), retry };
        answers.send(response(session_response::Kind::Refused(refused)))
    }
}

fn response(kind: session_response::Kind) -> wire::SessionResponse {
    wire::SessionResponse { kind: Some(kind) }
}

fn opened(state: &State, epoch: u64, source: &str) -> wire::SessionOpened {
    wire::SessionOpened {
        store: state.store().into(),
        generation: state.generation(),
        epoch,
        definition_hash: state.schema().hash.clone(),
        cursor: state.cursor(source),
        loaded: state.is_loaded(),
        load: state.load().map(Into::into),
        caught_up: state.is_caught_up(source),
    }
}

/// A cursor for people: as text where it is text.
fn show(cursor: &[u8]) -> String {
    match std::str::from_utf8(cursor) {
        Ok("") => "(none)".into(),
        Ok(text) => text.into(),
        Err(_) => cursor.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
