//! One active ingest session a source, the others wait: this is the election of whoever feeds the source.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The sessions of one writer.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    sources: Mutex<HashMap<String, Arc<Source>>>,
}

#[derive(Debug)]
struct Source {
    /// One permit; waiters get it in the order of their coming.
    turn: Arc<Semaphore>,
    /// Counts up whenever the session that is active is to end.
    superseded: watch::Sender<u64>,
}

impl Sessions {
    pub(super) async fn enter(&self, source: &str) -> SessionGuard {
        let source = self.source(source);
        loop {
            // The semaphore is never closed, so this ends with a permit.
            if let Ok(permit) = Arc::clone(&source.turn).acquire_owned().await {
                let superseded = source.superseded.subscribe();
                return SessionGuard { superseded, _permit: permit };
            }
        }
    }

    pub(super) fn supersede(&self, source: &str) {
        self.source(source).superseded.send_modify(|count| *count += 1);
    }

    /// Ends every active session.
    pub(super) fn supersede_all(&self) {
        for source in self.sources.lock().values() {
            source.superseded.send_modify(|count| *count += 1);
        }
    }

    fn source(&self, name: &str) -> Arc<Source> {
        let mut sources = self.sources.lock();
        let source = sources.entry(name.into()).or_insert_with(|| {
            Arc::new(Source { turn: Arc::new(Semaphore::new(1)), superseded: watch::Sender::new(0) })
        });
        Arc::clone(source)
    }
}

/// The right to feed a source, until dropped.
#[derive(Debug)]
#[must_use = "the session ends when the guard is dropped"]
pub struct SessionGuard {
    superseded: watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
}

impl SessionGuard {
    /// Whether the session must end: a load took its place, or this process writes no longer.
    pub fn is_superseded(&self) -> bool {
        // An error means that the writer is gone.
        self.superseded.has_changed().unwrap_or(true)
    }

    /// Waits until the session must end.
    pub async fn superseded(&mut self) {
        // An error means that the writer is gone, which ends the session as well.
        let _ = self.superseded.changed().await;
    }
}
