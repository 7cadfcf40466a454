//! The gRPC front end of ingestion, served by the writer alone.
//!
//! A stream is answered by one task of its own. What that task returns as an error becomes the stream's status; nothing
//! that it took before is lost by that, since only acknowledged records count.

mod load;
mod session;

use std::sync::Arc;

use bitdex_proto::{
    Error, Result,
    wire::{self, ingest_server},
};
use tokio::{sync::mpsc, time::Duration};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{service::Service, telemetry::count_error};
use crate::node::{Node, WriterHandle};

/// Answers that a client may leave unread.
const MAX_UNREAD: usize = 4096;
/// Time for the first message of a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Writes {
    pub(super) service: Arc<Service>,
}

#[tonic::async_trait]
impl ingest_server::Ingest for Writes {
    type SessionStream = ReceiverStream<Result<wire::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let service = Arc::clone(&self.service);
        let mut requests = request.into_inner();
        let opened = async {
            let open = match first(&mut requests).await?.kind {
                Some(wire::session_request::Kind::Open(open)) => open,
                _ => return Err(Error::invalid("the first message of a session is `open`")),
            };
            let writer = admit(&service, &open.index, &open.definition_hash, &open.source)?;
            Ok((open, writer))
        };
        let (open, writer) = opened.await.inspect_err(count_error)?;
        let (answers, stream) = answers();
        tokio::spawn(async move {
            let source = open.source.clone();
            let end = session::run(&service, &writer, open, requests, &answers).await;
            finish("session", &source, end, &answers);
        });
        Ok(Response::new(stream))
    }

    type LoadStream = ReceiverStream<Result<wire::LoadResponse, Status>>;

    async fn load(&self, request: Request<Streaming<wire::LoadRequest>>) -> Result<Response<Self::LoadStream>, Status> {
        let service = Arc::clone(&self.service);
        let mut requests = request.into_inner();
        let opened = async {
            let open = match first(&mut requests).await?.kind {
                Some(wire::load_request::Kind::Open(open)) => open,
                _ => return Err(Error::invalid("the first message of a load is `open`")),
            };
            if open.load_id.is_empty() {
                return Err(Error::invalid("a load needs a load_id: choose a fresh one, and keep it to resume"));
            }
            if open.definition_hash.is_empty() {
                return Err(Error::invalid("a load needs the definition_hash of the definition that it reads by"));
            }
            let writer = admit(&service, &open.index, &open.definition_hash, &open.source)?;
            Ok((open, writer))
        };
        let (open, writer) = opened.await.inspect_err(count_error)?;
        let (answers, stream) = answers();
        tokio::spawn(async move {
            let source = open.source.clone();
            let end = load::run(&service, &writer, open, requests, &answers).await;
            finish("load", &source, end, &answers);
        });
        Ok(Response::new(stream))
    }
}

/// The stream's way out. Never waited for: a client that leaves thousands of answers unread has its stream ended.
struct Answers<T>(mpsc::Sender<Result<T, Status>>);

fn answers<T>() -> (Answers<T>, ReceiverStream<Result<T, Status>>) {
    let (sender, receiver) = mpsc::channel(MAX_UNREAD);
    (Answers(sender), ReceiverStream::new(receiver))
}

impl<T> Answers<T> {
    fn send(&self, answer: T) -> Result<()> {
        self.0.try_send(Ok(answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Error::Exhausted(format!("{MAX_UNREAD} answers wait unread: read them while sending"))
            }
            mpsc::error::TrySendError::Closed(_) => Error::unavailable("the client has gone"),
        })
    }

    /// Until the client has gone.
    async fn closed(&self) {
        self.0.closed().await;
    }
}

/// Tells the client, where it is still there, why its stream ends.
fn finish<T>(what: &str, source: &str, end: Result<()>, answers: &Answers<T>) {
    match end {
        Ok(()) => tracing::info!(source, "{what} ended by its client"),
        Err(error) => {
            tracing::info!(source, %error, "{what} ended");
            count_error(&error);
            // Nobody may be left to hear it.
            let _ = answers.0.try_send(Err(error.into()));
        }
    }
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T> {
    let first = tokio::time::timeout(OPEN_TIMEOUT, requests.message()).await;
    first
        .map_err(|_| Error::invalid("a stream begins with `open`, which did not come"))?
        .map_err(Error::from)?
        .ok_or_else(|| Error::invalid("a stream begins with `open`, and this one was empty"))
}

/// Whether a stream for this index, definition and source may be served here.
fn admit(service: &Service, index: &str, definition_hash: &str, source: &str) -> Result<WriterHandle> {
    service.check_index(index)?;
    if source.is_empty() {
        return Err(Error::invalid("a stream needs the name of its source"));
    }
    let ours = &service.schema().hash;
    if !definition_hash.is_empty() && definition_hash != ours {
        return Err(Error::Precondition(format!(
            "the sender's definition has hash {definition_hash}, this server's {ours}: start both with the same file"
        )));
    }
    service.node()?.writer()
}

/// Why a stream whose turn was taken away has ended.
fn superseded(node: &Node) -> Error {
    match node.writer() {
        Ok(_) => Error::unavailable("a load took over"),
        Err(error) => error,
    }
}
