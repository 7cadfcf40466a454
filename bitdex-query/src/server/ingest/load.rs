//! One stream of the bulk load: COPY's rows on to the log, part by part.
//!
//! A part is marked complete only once every row that was sent for it is durable, so a load that breaks off anywhere
//! goes on with the parts that are not marked.

use std::collections::{BTreeMap, BTreeSet};

use bitdex_proto::{
    Error, Result,
    wire::{self, load_request, load_response, record},
};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use metrics::counter;
use tokio::time::Duration;
use tonic::Streaming;

use super::{Answers, superseded};
use crate::{
    node::{Ack, SessionGuard, WriterHandle},
    server::service::Service,
    state::{LoadProgress, State},
};

/// Bytes of rows submitted and not durable yet, or the queue's bytes where those are fewer; past it the stream is not
/// read.
const MAX_IN_FLIGHT: usize = 32 << 20;
/// How often a session that is to make room is told so.
const SUPERSEDE_EVERY: Duration = Duration::from_millis(20);

/// A record under way.
enum Flight {
    Rows { part: u32, bytes: usize },
    PartDone(wire::LoadPartDone),
    End,
}

type Flights<'a> = FuturesUnordered<BoxFuture<'a, (Flight, Result<Ack>)>>;

pub(super) async fn run(
    service: &Service,
    writer: &WriterHandle,
    open: wire::LoadOpen,
    mut requests: Streaming<wire::LoadRequest>,
    answers: &Answers<wire::LoadResponse>,
) -> Result<()> {
    let node = service.node()?;
    let source = open.source.clone();
    let mut guard = tokio::select! {
        guard = take_over(writer, &source) => guard,
        () = answers.closed() => return Ok(()),
    };
    node.writer()?;
    let begun = begin(writer, &node.current(), open).await?;
    let progress = match begun {
        Some(progress) => progress,
        None => {
            let begun = node.current().load();
            begun.ok_or_else(|| Error::Internal("a load that was begun is not there".into()))?
        }
    };
    let mut load = Load::new(&progress);
    tracing::info!(load_id = progress.load_id, parts = progress.parts.len(), done = progress.done.len(), "load opened");
    answers.send(response(load_response::Kind::Opened(progress.into())))?;

    let schema = std::sync::Arc::clone(node.current().schema());
    let in_flight = MAX_IN_FLIGHT.min(writer.queue_bytes());
    let mut flights = Flights::new();
    loop {
        if load.ended() {
            let missing = load.missing();
            if missing > 0 {
                return Err(Error::Precondition(format!("{missing} parts of the load are not done: send them first")));
            }
            load.finishing = Finishing::Submitted;
            flights.push(submit(writer, Flight::End, record::Kind::LoadEnd(wire::LoadEnd {})));
        }
        tokio::select! {
            biased;
            () = guard.superseded() => return Err(superseded(node)),
            Some((flight, result)) = flights.next() => {
                let ack = result?;
                match flight {
                    Flight::Rows { part, bytes } => {
                        counter!("bitdex_load_bytes_total").increment(bytes as u64);
                        if let Some(done) = load.rows_landed(part, bytes) {
                            flights.push(submit(writer, Flight::PartDone(done), record::Kind::LoadPartDone(done)));
                        }
                    }
                    Flight::PartDone(done) => {
                        load.done.insert(done.part);
                        load.closing -= 1;
                        counter!("bitdex_load_rows_total").increment(done.rows);
                        answers.send(response(load_response::Kind::PartDone(done)))?;
                    }
                    Flight::End => {
                        let cursor = node.current().cursor(&source);
                        let ack = wire::Ack { cursor, sequence: ack.sequence, token: ack.token };
                        tracing::info!(sequence = ack.sequence, "load finished");
                        answers.send(response(load_response::Kind::Finished(wire::LoadFinished { ack: Some(ack) })))?;
                        drop::<SessionGuard>(guard);
                        return Ok(());
                    }
                }
            }
            message = requests.message(), if load.bytes < in_flight && load.finishing == Finishing::No => {
                match message?.map(|message| message.kind) {
                    Some(Some(load_request::Kind::Rows(rows))) => {
                        State::check_load_rows(&schema, &load.parts, &rows)?;
                        let flight = load.take_rows(&rows)?;
                        flights.push(submit(writer, flight, record::Kind::LoadRows(rows)));
                    }
                    Some(Some(load_request::Kind::PartDone(done))) => {
                        if let Some(done) = load.close_part(done)? {
                            flights.push(submit(writer, Flight::PartDone(done), record::Kind::LoadPartDone(done)));
                        }
                    }
                    Some(Some(load_request::Kind::Finish(_))) => load.finishing = Finishing::Asked,
                    Some(_) => return Err(Error::invalid("after `open`, a load takes `rows`, `part_done` and `finish`")),
                    None => return Ok(()),
                }
            }
        }
    }
}

/// Ends the source's active session, and whoever gets the turn before this load does.
async fn take_over(writer: &WriterHandle, source: &str) -> SessionGuard {
    let mut turn = std::pin::pin!(writer.session(source));
    let mut again = tokio::time::interval(SUPERSEDE_EVERY);
    loop {
        tokio::select! {
            biased;
            guard = &mut turn => return guard,
            _ = again.tick() => writer.supersede(source),
        }
    }
}

/// The unfinished load of this id; `None` where a new one was begun.
async fn begin(writer: &WriterHandle, state: &State, open: wire::LoadOpen) -> Result<Option<LoadProgress>> {
    if let Some(progress) = state.load().filter(|load| load.load_id == open.load_id) {
        return Ok(Some(progress));
    }
    let begin = wire::LoadBegin { load: Some(open), generation: state.next_generation() };
    writer.submit(wire::Record { kind: Some(record::Kind::LoadBegin(begin)) }).await?;
    Ok(None)
}

fn submit(writer: &WriterHandle, flight: Flight, kind: record::Kind) -> BoxFuture<'_, (Flight, Result<Ack>)> {
    Box::pin(async move { (flight, writer.submit(wire::Record { kind: Some(kind) }).await) })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finishing {
    No,
    Asked,
    Submitted,
}

/// What this stream has sent, and what of it is durable.
struct Load {
    parts: Vec<wire::LoadPart>,
    done: BTreeSet<u32>,
    /// Parts with rows under way: how many frames, and the part's end where it was announced already.
    open: BTreeMap<u32, Part>,
    /// Parts whose end is announced and not durable.
    closing: usize,
    bytes: usize,
    finishing: Finishing,
}

#[derive(Default)]
struct Part {
    frames: usize,
    end: Option<wire::LoadPartDone>,
}

impl Load {
    fn new(progress: &LoadProgress) -> Self {
        Self {
            parts: progress.parts.clone(),
            done: progress.done.iter().copied().collect(),
            open: BTreeMap::new(),
            closing: 0,
            bytes: 0,
            finishing: Finishing::No,
        }
    }

    fn take_rows(&mut self, rows: &wire::LoadRows) -> Result<Flight> {
        self.check_part(rows.part)?;
        let part = self.open.entry(rows.part).or_default();
        if part.end.is_some() {
            return Err(ended(rows.part));
        }
        part.frames += 1;
        let bytes = rows.copy_rows.len();
        self.bytes += bytes;
        Ok(Flight::Rows { part: rows.part, bytes })
    }

    /// The part's end, where it waited for these rows alone.
    fn rows_landed(&mut self, part: u32, bytes: usize) -> Option<wire::LoadPartDone> {
        self.bytes -= bytes;
        let open = self.open.get_mut(&part)?;
        open.frames -= 1;
        if open.frames > 0 { None } else { open.end }
    }

    /// The part's end, where nothing of it is under way.
    fn close_part(&mut self, done: wire::LoadPartDone) -> Result<Option<wire::LoadPartDone>> {
        self.check_part(done.part)?;
        let part = self.open.entry(done.part).or_default();
        if part.end.replace(done).is_some() {
            return Err(ended(done.part));
        }
        self.closing += 1;
        Ok((part.frames == 0).then_some(done))
    }

    fn check_part(&self, part: u32) -> Result<()> {
        if part as usize >= self.parts.len() {
            return Err(Error::invalid(format!("part {part} does not exist: the load has {}", self.parts.len())));
        }
        if self.done.contains(&part) { Err(ended(part)) } else { Ok(()) }
    }

    /// Whether the client has sent everything, and every part that it closed is durable.
    fn ended(&self) -> bool {
        self.finishing == Finishing::Asked && self.closing == 0
    }

    fn missing(&self) -> usize {
        self.parts.len() - self.done.len()
    }
}

fn ended(part: u32) -> Error {
    Error::invalid(format!("part {part} of the load is done: it takes no more"))
}

fn response(kind: load_response::Kind) -> wire::LoadResponse {
    wire::LoadResponse { kind: Some(kind) }
}

impl From<LoadProgress> for wire::LoadOpened {
    fn from(progress: LoadProgress) -> Self {
        Self {
            load_id: progress.load_id,
            cursor: progress.cursor,
            parts: progress.parts,
            done: progress.done,
            rows: progress.rows,
        }
    }
}
