//! Writes: finds the writer, opens sessions and loads on it.
//!
//! Nothing here retries a write: only the sender knows, from the cursor that a new session opens with, what is durable.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{endpoint, lazy};
use crate::{
    Error, Result,
    wire::{self, ingest_client::IngestClient as Stub, load_request, load_response, session_request, session_response},
};

/// Ops go out in frames of about this many bytes.
const FRAME_BYTES: usize = 1 << 20;
/// Frames between the sender and the connection.
const FRAMES_QUEUED: usize = 4;
/// Time for a server to answer a stream's opening; waiting for another session comes after that and has no limit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens sessions and loads on the writer, wherever it is.
pub struct IngestClient {
    endpoints: Vec<String>,
    /// Where the writer was last.
    writer: Mutex<Option<String>>,
}

impl fmt::Debug for IngestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IngestClient").field("endpoints", &self.endpoints).finish()
    }
}

impl IngestClient {
    /// A client of the servers at these addresses (`host:port`), any of which may be the writer, or name it.
    pub fn new(endpoints: Vec<String>) -> Result<Self> {
        if endpoints.is_empty() {
            return Err(Error::invalid("a client needs at least one address of bitdex-query"));
        }
        endpoints.iter().try_for_each(|address| endpoint(address).map(|_| ()))?;
        Ok(Self { endpoints, writer: Mutex::new(None) })
    }

    /// Opens a session; waits while another session of the same source is active. One round over the known addresses
    /// without pauses: `Unavailable` means that none of them is the writer now, so try again a little later.
    pub async fn session(&self, open: wire::SessionOpen) -> Result<Session> {
        let message = wire::SessionRequest { kind: Some(session_request::Kind::Open(open)) };
        let (sender, mut answers) = self.on_writer(|address| start_session(address, message.clone())).await?;
        match next(&mut answers, "session").await?.kind {
            Some(session_response::Kind::Opened(opened)) => Ok(Session {
                opened,
                sender: SessionSender { requests: sender },
                receiver: SessionReceiver { answers },
                early: VecDeque::new(),
            }),
            other => Err(unexpected("SessionOpened", &other)),
        }
    }

    /// Opens a bulk load, new or unfinished (see [`LoadStream::opened`] for what is done already). Finds the writer as
    /// [`IngestClient::session`] does.
    pub async fn load(&self, open: wire::LoadOpen) -> Result<LoadStream> {
        let message = wire::LoadRequest { kind: Some(load_request::Kind::Open(open)) };
        let (requests, mut answers) = self.on_writer(|address| start_load(address, message.clone())).await?;
        match next(&mut answers, "load").await?.kind {
            Some(load_response::Kind::Opened(opened)) => {
                Ok(LoadStream { opened, sender: LoadSender { requests }, receiver: LoadReceiver { answers } })
            }
            other => Err(unexpected("LoadOpened", &other)),
        }
    }

    /// Runs `start` on the writer: asks where it was last, then each address, following what readers answer.
    async fn on_writer<T, F>(&self, start: impl Fn(String) -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let mut candidates: VecDeque<String> = self.writer.lock().iter().chain(&self.endpoints).cloned().collect();
        let mut tried = Vec::new();
        let mut last = Error::unavailable("no server was asked");
        while let Some(address) = candidates.pop_front() {
            if tried.contains(&address) {
                continue;
            }
            match start(address.clone()).await {
                Ok(stream) => {
                    *self.writer.lock() = Some(address);
                    return Ok(stream);
                }
                Err(Error::Unavailable { message, writer }) => {
                    candidates.extend(writer.iter().cloned());
                    candidates.rotate_right(usize::from(writer.is_some()));
                    last = Error::Unavailable { message: format!("{address}: {message}"), writer };
                }
                Err(error) => return Err(error),
            }
            tried.push(address);
        }
        *self.writer.lock() = None;
        Err(last)
    }
}

fn stub(address: &str) -> Result<Stub<tonic::transport::Channel>> {
    Ok(Stub::new(lazy(&endpoint(address)?)))
}

type Started<Q, A> = (mpsc::Sender<Q>, Streaming<A>);

async fn start_session(
    address: String,
    open: wire::SessionRequest,
) -> Result<Started<wire::SessionRequest, wire::SessionResponse>> {
    let (sender, requests) = opened_channel(open);
    let mut stub = stub(&address)?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, stub.session(requests)).await;
    Ok((sender, answer.map_err(|_| silent())??.into_inner()))
}

async fn start_load(
    address: String,
    open: wire::LoadRequest,
) -> Result<Started<wire::LoadRequest, wire::LoadResponse>> {
    let (sender, requests) = opened_channel(open);
    let mut stub = stub(&address)?;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, stub.load(requests)).await;
    Ok((sender, answer.map_err(|_| silent())??.into_inner()))
}

fn opened_channel<Q: fmt::Debug>(open: Q) -> (mpsc::Sender<Q>, ReceiverStream<Q>) {
    let (sender, receiver) = mpsc::channel(FRAMES_QUEUED);
    // The queue is new and has room, so this cannot fail.
    let _ = sender.try_send(open);
    (sender, ReceiverStream::new(receiver))
}

fn silent() -> Error {
    Error::unavailable(format!("no answer to the opening of a stream within {} s", ANSWER_TIMEOUT.as_secs()))
}

fn ended(what: &str) -> Error {
    Error::unavailable(format!("the {what} has ended"))
}

fn unexpected(wanted: &str, answer: &impl fmt::Debug) -> Error {
    Error::Internal(format!("the server answered {answer:?} where {wanted} was due"))
}

async fn next<A>(answers: &mut Streaming<A>, what: &str) -> Result<A> {
    answers.message().await.map_err(|status: Status| Error::from(status))?.ok_or_else(|| ended(what))
}

/// What a server says during a session.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEvent {
    /// The oldest batch without an answer is durable.
    Ack(wire::Ack),
    /// The oldest batch without an answer, and those sent after it, were not taken.
    Refused(wire::Refused),
    /// Somebody waits for progress of this source.
    ProgressWanted,
}

/// What became of one batch.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    Acked(wire::Ack),
    Refused(wire::Refused),
}

/// The one active session of a source. Dropping it ends it.
pub struct Session {
    /// Where the writer stands: the batch to send next begins at its cursor.
    pub opened: wire::SessionOpened,
    sender: SessionSender,
    receiver: SessionReceiver,
    /// Came while an outcome was awaited.
    early: VecDeque<SessionEvent>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("opened", &self.opened).finish_non_exhaustive()
    }
}

impl Session {
    /// Sends ops of the batch that the next commit closes. Waits while the server's queue is full. A batch may hold at
    /// most 64 MiB.
    pub async fn send(&mut self, ops: Vec<wire::Op>) -> Result<()> {
        self.sender.send(ops).await
    }

    /// Closes the batch. Its Ack or Refused comes from [`Session::recv`]; several may be awaited, and come in order.
    pub async fn commit(&mut self, commit: wire::Commit) -> Result<()> {
        self.sender.commit(commit).await
    }

    /// The next thing that the server says. `Unavailable` where the session has ended: open another.
    pub async fn recv(&mut self) -> Result<SessionEvent> {
        match self.early.pop_front() {
            Some(event) => Ok(event),
            None => self.receiver.recv().await,
        }
    }

    /// Sends one batch and waits for its outcome; for senders with one batch under way at a time. A `ProgressWanted`
    /// that comes meanwhile is kept for [`Session::recv`].
    pub async fn deliver(&mut self, ops: Vec<wire::Op>, commit: wire::Commit) -> Result<Outcome> {
        let sent = async {
            self.sender.send(ops).await?;
            self.sender.commit(commit).await
        }
        .await;
        loop {
            match (self.receiver.recv().await, &sent) {
                (Ok(SessionEvent::Ack(ack)), _) => return Ok(Outcome::Acked(ack)),
                (Ok(SessionEvent::Refused(refused)), _) => return Ok(Outcome::Refused(refused)),
                (Ok(SessionEvent::ProgressWanted), _) => self.early.push_back(SessionEvent::ProgressWanted),
                // Why the stream ended says more than that a frame could not be sent.
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// The two directions, for a sender and a receiver that run side by side. The session ends when the sender and
    /// the receiver are dropped.
    pub fn split(self) -> (SessionSender, SessionReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a [`Session`].
#[derive(Debug)]
pub struct SessionSender {
    requests: mpsc::Sender<wire::SessionRequest>,
}

impl SessionSender {
    /// See [`Session::send`].
    pub async fn send(&mut self, ops: Vec<wire::Op>) -> Result<()> {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for op in ops {
            bytes += op.encoded_len();
            frame.push(op);
            if bytes >= FRAME_BYTES {
                self.put(session_request::Kind::Ops(wire::OpFrame { ops: std::mem::take(&mut frame) })).await?;
                bytes = 0;
            }
        }
        if frame.is_empty() {
            return Ok(());
        }
        self.put(session_request::Kind::Ops(wire::OpFrame { ops: frame })).await
    }

    /// See [`Session::commit`].
    pub async fn commit(&mut self, commit: wire::Commit) -> Result<()> {
        self.put(session_request::Kind::Commit(commit)).await
    }

    async fn put(&mut self, kind: session_request::Kind) -> Result<()> {
        self.requests.send(wire::SessionRequest { kind: Some(kind) }).await.map_err(|_| ended("session"))
    }
}

/// The receiving half of a [`Session`].
pub struct SessionReceiver {
    answers: Streaming<wire::SessionResponse>,
}

impl fmt::Debug for SessionReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionReceiver").finish_non_exhaustive()
    }
}

impl SessionReceiver {
    /// See [`Session::recv`].
    pub async fn recv(&mut self) -> Result<SessionEvent> {
        match next(&mut self.answers, "session").await?.kind {
            Some(session_response::Kind::Ack(ack)) => Ok(SessionEvent::Ack(ack)),
            Some(session_response::Kind::Refused(refused)) => Ok(SessionEvent::Refused(refused)),
            Some(session_response::Kind::ProgressWanted(_)) => Ok(SessionEvent::ProgressWanted),
            other => Err(unexpected("Ack or Refused", &other)),
        }
    }
}

/// What a server says during a load.
#[derive(Debug, Clone, PartialEq)]
pub enum LoadEvent {
    /// The part and all of its rows are durable.
    PartDone(wire::LoadPartDone),
    /// The load is complete; the source's cursor is the load's.
    Finished(wire::Ack),
}

/// A bulk load under way. Dropping it leaves the load unfinished, to be gone on with under the same id.
pub struct LoadStream {
    /// Parts of the load and which of them are durable already.
    pub opened: wire::LoadOpened,
    sender: LoadSender,
    receiver: LoadReceiver,
}

impl fmt::Debug for LoadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadStream").field("opened", &self.opened).finish_non_exhaustive()
    }
}

impl LoadStream {
    /// Sends whole rows of `COPY … (FORMAT binary)` of one part. Waits while the server's queue is full.
    pub async fn rows(&self, part: u32, copy_rows: Bytes) -> Result<()> {
        self.sender.rows(part, copy_rows).await
    }

    /// All rows of the part are sent; a [`LoadEvent::PartDone`] follows once they are durable.
    pub async fn part_done(&self, part: u32, rows: u64) -> Result<()> {
        self.sender.part_done(part, rows).await
    }

    /// All parts are sent; [`LoadEvent::Finished`] follows.
    pub async fn finish(&self) -> Result<()> {
        self.sender.finish().await
    }

    /// The next thing that the server says. `Unavailable` where the stream has ended: open the load again.
    pub async fn recv(&mut self) -> Result<LoadEvent> {
        self.receiver.recv().await
    }

    /// The two directions. Clones of the sender serve several readers of parts at once.
    pub fn split(self) -> (LoadSender, LoadReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of a [`LoadStream`]. Where it fails, the receiver says why.
#[derive(Debug, Clone)]
pub struct LoadSender {
    requests: mpsc::Sender<wire::LoadRequest>,
}

impl LoadSender {
    /// See [`LoadStream::rows`].
    pub async fn rows(&self, part: u32, copy_rows: Bytes) -> Result<()> {
        self.put(load_request::Kind::Rows(wire::LoadRows { part, copy_rows })).await
    }

    /// See [`LoadStream::part_done`].
    pub async fn part_done(&self, part: u32, rows: u64) -> Result<()> {
        self.put(load_request::Kind::PartDone(wire::LoadPartDone { part, rows })).await
    }

    /// See [`LoadStream::finish`].
    pub async fn finish(&self) -> Result<()> {
        self.put(load_request::Kind::Finish(wire::LoadFinish {})).await
    }

    async fn put(&self, kind: load_request::Kind) -> Result<()> {
        self.requests.send(wire::LoadRequest { kind: Some(kind) }).await.map_err(|_| ended("load's stream"))
    }
}

/// The receiving half of a [`LoadStream`].
pub struct LoadReceiver {
    answers: Streaming<wire::LoadResponse>,
}

impl fmt::Debug for LoadReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReceiver").finish_non_exhaustive()
    }
}

impl LoadReceiver {
    /// See [`LoadStream::recv`].
    pub async fn recv(&mut self) -> Result<LoadEvent> {
        match next(&mut self.answers, "load's stream").await?.kind {
            Some(load_response::Kind::PartDone(done)) => Ok(LoadEvent::PartDone(done)),
            Some(load_response::Kind::Finished(wire::LoadFinished { ack: Some(ack) })) => Ok(LoadEvent::Finished(ack)),
            other => Err(unexpected("PartDone or Finished", &other)),
        }
    }
}
