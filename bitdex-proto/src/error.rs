//! The one error type of the wire and the domain, mapped once to gRPC status.

use tonic::{Code, Status};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can be wrong with a request, an op or a definition. Each message names the thing and, where there is one, the
/// remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request can never succeed as it is.
    #[error("{0}")]
    Invalid(String),
    /// The named thing does not exist here.
    #[error("{0}")]
    NotFound(String),
    /// The request does not fit the state of this store (a foreign cursor, another definition).
    #[error("{0}")]
    Precondition(String),
    /// Not now, or not here: retry on another connection. `writer` is the address to write to, where known.
    #[error("{message}")]
    Unavailable { message: String, writer: Option<String> },
    /// Something demanded did not happen in time.
    #[error("{0}")]
    Deadline(String),
    /// A limit that protects the server was reached.
    #[error("{0}")]
    Exhausted(String),
    /// Stored data is damaged.
    #[error("{0}")]
    DataLoss(String),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// Name of the response metadata in which a reader names the writer.
pub const WRITER_METADATA: &str = "bitdex-writer";

impl Error {
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::Unavailable { message: message.into(), writer: None }
    }

    pub fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::NotFound(_) => Code::NotFound,
            Self::Precondition(_) => Code::FailedPrecondition,
            Self::Unavailable { .. } => Code::Unavailable,
            Self::Deadline(_) => Code::DeadlineExceeded,
            Self::Exhausted(_) => Code::ResourceExhausted,
            Self::DataLoss(_) => Code::DataLoss,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(error.code(), error.to_string());
        if let Error::Unavailable { writer: Some(writer), .. } = &error
            && let Ok(value) = writer.parse()
        {
            status.metadata_mut().insert(WRITER_METADATA, value);
        }
        status
    }
}
