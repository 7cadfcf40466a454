//! The clients that the project ships: [`Client`] for queries, [`IngestClient`] for writes.
//!
//! A query is answered if any connection can answer it within the call's deadline: what is UNAVAILABLE on one
//! connection, or breaks with it, is tried on another, and each retry is counted. A write goes to the one writer,
//! wherever it is: readers name it.

mod ingest;
mod query;

use std::{error::Error as _, time::Duration};

use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

pub use ingest::{
    IngestClient, LoadEvent, LoadReceiver, LoadSender, LoadStream, Outcome, Session, SessionEvent, SessionReceiver,
    SessionSender,
};
pub use query::Client;

use crate::{Error, Result, error::WRITER_METADATA};

/// Time for one connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// A peer that does not answer pings for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// `host:port`, `http://host:port`, or `unix:PATH`.
fn endpoint(address: &str) -> Result<Endpoint> {
    if let Some(path) = address.strip_prefix("unix:") {
        let wrong = || Error::invalid(format!("{address:?} is no address: give unix:PATH, with an absolute path"));
        if !path.starts_with('/') {
            return Err(wrong());
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|_| wrong())?;
        return Ok(endpoint.connect_timeout(CONNECT_TIMEOUT));
    }
    let uri = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let wrong = || Error::invalid(format!("{address:?} is no address: give host:port"));
    let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong())?;
    if endpoint.uri().port().is_none() || endpoint.uri().scheme_str() != Some("http") {
        return Err(wrong());
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true))
}

/// A channel that connects when it is first used, and again whenever its connection is lost.
fn lazy(endpoint: &Endpoint) -> Channel {
    endpoint.connect_lazy()
}

/// Whether another connection may do better: the server said UNAVAILABLE, or the connection broke under the call.
fn is_unavailable(status: &Status) -> bool {
    // A status with a source was made on this side, out of a broken connection; one that the server sent has none.
    let broken = status.source().is_some();
    match status.code() {
        Code::Unavailable => true,
        Code::Unknown | Code::Internal | Code::Cancelled => broken,
        _ => false,
    }
}

impl From<Status> for Error {
    /// What a server answered, as the error that it meant.
    fn from(status: Status) -> Self {
        let message = status.message().to_owned();
        if is_unavailable(&status) {
            let writer = status.metadata().get(WRITER_METADATA).and_then(|writer| writer.to_str().ok());
            return Self::Unavailable { message, writer: writer.map(Into::into) };
        }
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid(message),
            Code::NotFound | Code::Unimplemented => Self::NotFound(message),
            Code::FailedPrecondition => Self::Precondition(message),
            Code::DeadlineExceeded | Code::Cancelled => Self::Deadline(message),
            Code::ResourceExhausted => Self::Exhausted(message),
            Code::DataLoss => Self::DataLoss(message),
            code => Self::Internal(format!("{code}: {message}")),
        }
    }
}
