//! What can go wrong with the files of a data folder.

use std::{io, path::PathBuf};

use bitdex_proto::Error as Wire;

use crate::engine::Stopped;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One pointer, so that what may fail answers in registers.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Cause>);

#[derive(Debug, thiserror::Error)]
pub enum Cause {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Nothing of what was to be written is kept.
    #[error("the disk of {} is full: free space or grow the volume, then send it again", path.display())]
    Full { path: PathBuf },
    /// Nothing of what was to be written is kept.
    #[error(
        "{} cannot be opened, because this process or the system has as many files and connections open as it may: raise \
         the limit (`ulimit -n`) or end connections, then send it again", path.display()
    )]
    Descriptors { path: PathBuf },
    #[error("{} is damaged at byte {offset}: {reason}", path.display())]
    Damaged { path: PathBuf, offset: u64, reason: String },
    #[error("{} has format {found}, this process reads {supported}: run the release that wrote it", path.display())]
    Format { path: PathBuf, found: u32, supported: String },
    /// The folder is not what this process was told to serve. Names the remedy.
    #[error("{0}")]
    Foreign(String),
    /// A record that was logged cannot be applied.
    #[error("record {sequence} of {} cannot be applied: {reason}", path.display())]
    Record { path: PathBuf, sequence: u64, reason: String },
    /// A write or fsync failed before; what the disk holds is not known.
    #[error("the log takes no more records, because of an earlier failure: {0}")]
    Poisoned(String),
    /// Nothing is wrong: a query was ended before its answer.
    #[error("{0}")]
    Stopped(Stopped),
}

impl Error {
    #[cold]
    fn of(cause: Cause) -> Self {
        Self(Box::new(cause))
    }

    pub fn cause(&self) -> &Cause {
        &self.0
    }

    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::of(Cause::Io { action, path, source })
    }

    /// For a write: what leaves everything as it was, such as a full disk, is told from all other failures.
    pub fn write(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| {
            let cause = match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Cause::Full { path },
                _ if is_of_descriptors(&source) => Cause::Descriptors { path },
                _ => Cause::Io { action: "write", path, source },
            };
            Self::of(cause)
        }
    }

    /// Whether everything is as it was before, so that the same may be tried again.
    pub fn is_refusal(&self) -> bool {
        matches!(self.cause(), Cause::Full { .. } | Cause::Descriptors { .. })
    }

    pub fn damaged(path: impl Into<PathBuf>, offset: u64, reason: impl Into<String>) -> Self {
        Self::of(Cause::Damaged { path: path.into(), offset, reason: reason.into() })
    }

    pub fn format(path: impl Into<PathBuf>, found: u32, supported: impl Into<String>) -> Self {
        Self::of(Cause::Format { path: path.into(), found, supported: supported.into() })
    }

    pub fn foreign(reason: impl Into<String>) -> Self {
        Self::of(Cause::Foreign(reason.into()))
    }

    pub fn record(path: impl Into<PathBuf>, sequence: u64, reason: impl ToString) -> Self {
        Self::of(Cause::Record { path: path.into(), sequence, reason: reason.to_string() })
    }

    pub fn poisoned(reason: impl Into<String>) -> Self {
        Self::of(Cause::Poisoned(reason.into()))
    }

    pub fn stopped(stopped: Stopped) -> Self {
        Self::of(Cause::Stopped(stopped))
    }
}

fn is_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| code == libc::EMFILE || code == libc::ENFILE)
}

impl From<Error> for Wire {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match *error.0 {
            Cause::Io { .. } => Self::Internal(message),
            Cause::Full { .. } | Cause::Descriptors { .. } => Self::Exhausted(message),
            Cause::Damaged { .. } | Cause::Record { .. } => Self::DataLoss(message),
            Cause::Format { .. } | Cause::Foreign(_) => Self::Precondition(message),
            Cause::Poisoned(_) => Self::unavailable(message),
            Cause::Stopped(Stopped::Blocks(_)) => Self::Exhausted(message),
            Cause::Stopped(Stopped::Deadline | Stopped::Cancelled) => Self::Deadline(message),
        }
    }
}
